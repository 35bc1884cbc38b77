"""Models whose output is no logits (through `score=`), and models that are wrapped, compiled or in half precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from tests.models import Plain, images, seeded

torchvision: Any = pytest.importorskip("torchvision")
QUICK = ca.ExactSearch(relaxed_steps=2, binary_steps=3)
QUESTION: dict[str, Any] = {"areas": (2, 5), "search": QUICK, "refine": False}


def class_maps(output: dict[str, Tensor]) -> Tensor:
    """The mean of each class's map: logits of a segmentation model."""
    return output["out"].mean((2, 3))


def detected(output: list[dict[str, Tensor]]) -> Tensor:
    """The sum of each class's scores over the boxes of an image: logits of a detection model of 4 classes."""
    return torch.stack([boxes["scores"].new_zeros(4).index_put((boxes["labels"],), boxes["scores"], accumulate=True) for boxes in output])


def check_scores(found: ca.ImageAttribution, model: nn.Module, x: Tensor, score: Any) -> None:
    """The stored scores are those of the model itself with the sets put in."""
    with torch.no_grad(), ca.frozen(model):
        for row in range(len(x)):
            with ca.inject(model, found.layer, found.channel_mask(row, int(found.areas[0]))):
                seen = score(model(x[row:row + 1]))[0, found.targets[row]].item()
            assert found.scores[row, 0] == pytest.approx(seen, rel=1e-3, abs=1e-5)


def test_segmentation() -> None:
    make = torchvision.models.segmentation.lraspp_mobilenet_v3_large
    model, x = seeded(lambda: make(weights=None, weights_backbone=None, num_classes=5)), images(2, 64)
    found = ca.per_image(model, x, "backbone.4", score=class_maps, **QUESTION)
    assert found.settings.score.endswith(":class_maps")
    check_scores(found, model, x, class_maps)
    with pytest.raises(ca.ModelError, match=r"gave a tensor of shape \(2, 5, 64, 64\); expected logits .*; pass score="):
        ca.per_image(model, x, "backbone.4", **QUESTION)


def test_detection() -> None:
    make = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    model = seeded(lambda: make(weights=None, weights_backbone=None, num_classes=4, box_score_thresh=0.0, min_size=64, max_size=64))
    x = images(2, 64)
    found = ca.per_image(model, x, "backbone.body.6", score=detected, **QUESTION)  # a tensor goes for a list of images of one size
    assert not found.engine.startswith("tail")
    assert np.isfinite(found.scores).all()
    check_scores(found, model, x, detected)


def test_parallel_and_compiled_models_are_searched_as_the_plain_one() -> None:
    model, x = seeded(Plain), images(5)
    plain = ca.per_image(model, x, "mix", **QUESTION)
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        found = ca.per_image(wrapped, x, "mix", **QUESTION)
        assert found.layer == "mix"
        assert len(found) == 5
        assert np.array_equal(found.masks, plain.masks)
        np.testing.assert_allclose(found.scores, plain.scores, rtol=1e-5)


class Loses(nn.Module):
    """Gives one row less than it was given, as what is spread over devices may."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = seeded(Plain)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[:len(x) // 2 * 2]


def test_a_model_that_loses_images_is_refused() -> None:
    with pytest.raises(ca.ModelError, match=r"gave logits .*; expected one row an image"):
        ca.per_image(Loses(), images(3), "inner.mix", **QUESTION)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model, x = seeded(Plain), images(3)
    whole = ca.per_image(model, x, "mix", **QUESTION)
    half = ca.per_image(seeded(Plain).to(dtype), x.to(dtype), "mix", targets=whole.targets.tolist(), **QUESTION)
    assert half.masks.sum(-1).tolist() == [[2, 5]] * 3
    np.testing.assert_allclose(half.scores, whole.scores, atol=0.05)
