"""Reported numbers are float32 by the definition, whatever the caller's autocast; and no image's hang on its neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.network.exactly import _without_tf32 as without_tf32
from chanattr.network.exactly import float32_exactly
from chanattr.network.tail import bind
from tests.models import Plain, images, seeded

ENGINES = ["tail", "replay", "injection"]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_callers_autocast_changes_no_score(engine: str) -> None:
    model, given = seeded(Plain), images(3)
    asked = {"areas": (2, 4), "engine": engine, "refine": False, "precision": "float32"}
    plain = ca.per_image(model, given, "mix", **asked)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ca.per_image(model, given, "mix", **asked)
    assert np.array_equal(inside.original, plain.original)
    assert np.array_equal(inside.scores[inside.masks.sum(-1) == 0], plain.scores[plain.masks.sum(-1) == 0])
    same = (inside.masks == plain.masks).all(-1)
    assert same.any()
    np.testing.assert_allclose(inside.scores[same], plain.scores[same], rtol=1e-6)


def test_autocast_is_back_afterwards() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with float32_exactly():
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.skipif(not torch.backends.cudnn.is_available(), reason="this torch has no cuDNN, whose switches these are")
def test_tf32_is_off_inside_and_as_it_was_outside() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high")
    try:
        with without_tf32():
            assert not torch.backends.cudnn.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark) == before


class OfTheBatch(nn.Module):
    """A batch norm without statistics of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, track_running_stats=False), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.mix(x)).relu().mean((2, 3)))


class Turned(nn.Module):
    """The images in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x.flatten(1)[:, :4]).flip(0)


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
@pytest.mark.parametrize("kind", [OfTheBatch, Turned])
def test_a_model_that_mixes_its_images_is_refused(kind: type[nn.Module], engine: str) -> None:
    with pytest.raises(ca.ModelError, match=r"other logits when another image runs beside it .*; expected each image by itself"):
        bind(seeded(kind), torch.rand(2, 3, 8, 8), ["mix"], engine=engine)
