"""A dry run tells what a real run then does: the way, the evaluations, the rows; and it fits a terminal."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import chanattr as ca
from chanattr.attribution.explain import Between, explain
from chanattr.attribution.explained import size, text
from chanattr.network.explain import Bypass
from tests.models import Branching, Losing, Plain, Residual, Tokens, images, seeded


@pytest.mark.parametrize(("build", "layer", "options"), [
    (Plain, "conv", {}), (Plain, "conv", {"areas": (2, 5)}), (Residual, "branch", {"refine": False}),
    (Residual, "branch", {"search": ca.PenaltySearch(steps=3)}), (Tokens, "block", {"search": ca.ExactSearch(binary_steps=2)})])
def test_evaluations_are_those_that_a_run_then_counts(build: type[nn.Module], layer: str, options: dict[str, object]) -> None:
    model, x = seeded(build), images(6)
    told = explain(model, x[:2], layer, **options)  # type: ignore[arg-type]
    found = ca.per_image(model, x, layer, **options)  # type: ignore[arg-type]
    assert told.evaluations == pytest.approx(found.evaluations.mean())
    assert told.engine == found.engine
    assert told.areas == found.settings.areas
    for count in found.refine_evaluations.tolist():
        assert told.refine.least - 1e-4 <= count <= told.refine.most + 1e-4
    alone = ca.per_image(model, x, layer, **options | {"areas": "smallest"})  # type: ignore[arg-type]
    for row in range(6):
        if alone.smallest_area[row] > 0:
            count = alone.evaluations[row] + alone.refine_evaluations[row]
            assert told.smallest.least - 1e-4 <= count <= told.smallest.most * 4 / 3 + 1e-4  # looks come on top


def test_the_estimate_is_measured_cost_times_evaluations() -> None:
    told = explain(seeded(Plain), images(1), "conv", images=10)
    assert told.rows == (3, 3)
    each = told.stem_seconds + (told.evaluations + told.refine.most) * told.seconds
    assert told.estimate().most == pytest.approx(told.ready_seconds + 10 * each)
    alone = told.stem_seconds + told.smallest.most * told.seconds
    assert told.estimate(smallest=True).most == pytest.approx(told.ready_seconds + 10 * alone)
    assert told.share == told.seconds / told.whole_seconds > 0
    assert "estimate for 10 images" in str(told)


def test_what_a_replayed_model_keeps_is_named_by_module() -> None:
    told = explain(seeded(Residual), images(2), "branch", engine="replay")
    assert [(one.source, one.shape) for one in told.bypasses] == [("first", (6, 8, 8))]


def test_a_model_that_cannot_be_exported_says_why_it_runs_whole() -> None:
    told = explain(seeded(Branching), images(2), "body")
    assert told.engine != "tail (export)"
    assert told.reason
    assert f"{told.engine}, because: " in " ".join(str(told).split())


def test_lost_images_are_refused() -> None:
    with pytest.raises(ca.ModelError, match=r"gave logits \(2, 4\) for images of shape \(3, .*expected one row an image"):
        explain(seeded(Losing), images(2), "mix", engine="injection")


def test_an_estimate_for_no_images_is_refused() -> None:
    with pytest.raises(ca.InputError, match="images=0; expected a whole number from 1"):
        explain(seeded(Plain), images(2), "mix", images=0)


def test_a_wrong_layer_is_told_with_a_suggestion() -> None:
    with pytest.raises(ca.LayerError, match="did you mean 'branch'"):
        explain(seeded(Residual), images(2), "brunch")


def test_the_text_fits_a_terminal_and_names_what_passes() -> None:
    told = explain(seeded(Residual), images(2), "branch")
    shown = str(told)
    assert "relu in the model itself  6x8x8  1.5 KiB" in shown
    assert "an estimate" in shown or "estimate for" in shown
    long = Bypass(source=f"{'features.denseblock3.' * 6}end", operation="cat", whole=False, shape=(1024, 14, 14), bytes=802816)
    lines = text(dataclasses.replace(told, bypasses=(long, long), refine=Between(3, 70), images=10**6)).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("cat in features" in line and "end  1024x14x14  784 KiB" in line for line in lines) == 2


def test_the_model_is_left_as_it_was_found() -> None:
    model = seeded(Plain).train()
    explain(model, images(2), "conv")
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("count", "words"), [(0, "0 B"), (1023, "1.02e+03 B"), (1536, "1.5 KiB"), (3 << 20, "3 MiB"), (5 << 30, "5 GiB")])
def test_bytes_are_said_in_words(count: int, words: str) -> None:
    assert size(count) == words
    assert torch.zeros(1).element_size() == 4
