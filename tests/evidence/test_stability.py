"""Stability of sets under what should not matter, and sets that are good on several views: planted answers, definitions, bad input."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import chanattr as ca
from chanattr.evidence.compare import above_chance, compare
from chanattr.evidence.stability import VIEWS, Robust, crop, flip, noise, robust, stability
from chanattr.images.views import jpeg_view
from chanattr.network.weights import model_sha256
from tests.models import Plain, images, seeded


def test_each_change_is_the_answer_asked_with_it() -> None:
    model, x = seeded(Plain), images(3)
    told = stability(model, x, "mix", seeds=(5,), views=("flip",), fills=("zero", 0.2), areas=(1, 3), targets=[1, 1, 1])
    assert told.changes == ("seed 5", "view flip", "fill 0.2")
    options: dict[str, Any] = {"areas": (1, 3), "targets": [1, 1, 1]}
    plain = ca.per_image(model, x, "mix", **options)
    others = [ca.per_image(model, x, "mix", seed=5, **options), ca.per_image(model, x.flip(-1), "mix", **options),
              ca.per_image(model, x, "mix", fill=0.2, **options)]
    for number, other in enumerate(others):
        expected = compare(plain, other)
        np.testing.assert_array_equal(told.comparisons[number].jaccard, expected.jaccard)
        np.testing.assert_array_equal(told.changed_area[number], other.smallest_area)
        assert told.similarity[number] == pytest.approx(above_chance(expected.jaccard, expected.chance).mean())
    np.testing.assert_array_equal(told.smallest_area, plain.smallest_area)


def test_targets_stay_those_of_the_unchanged_images() -> None:
    """A network that names images by which half is brighter: flipped, it would be asked about another class."""

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            half = x.shape[-1] // 2
            return torch.stack([x[..., :half].mean((1, 2, 3)), x[..., half:].mean((1, 2, 3))], 1)

    x = torch.rand(2, 4, 4, 4)
    x[..., :2] += 3
    told = stability(Halves(), x, "body", seeds=(), views=("flip",), fills=("zero",), areas=(2,), score=None)
    assert told.changes == ("view flip",)
    assert told.comparisons[0].jaccard.shape == (2, 1)
    same = ca.per_image(Halves(), x.flip(-1), "body", targets=[0, 0], areas=(2,))
    np.testing.assert_array_equal(told.changed_area[0], same.smallest_area)


def test_views_are_what_they_say() -> None:
    x = images(2)
    torch.testing.assert_close(flip(x)[0, 0, 3], x[0, 0, 3].flip(0))
    assert crop(x).shape == x.shape
    flat = torch.full((1, 3, 20, 20), 2.0)
    torch.testing.assert_close(crop(flat), flat)
    ramp = torch.linspace(0, 1, 100).expand(1, 1, 100, 100)
    cut = crop(ramp)
    assert float(cut.min()) == pytest.approx(0.05, abs=0.01)
    assert float(cut.max()) == pytest.approx(0.95, abs=0.01)
    added = (noise(images(2, 64)) - images(2, 64)).flatten(1).std(1) / images(2, 64).flatten(1).std(1)
    np.testing.assert_allclose(added, 0.05, rtol=0.05)
    torch.testing.assert_close(noise(x)[1:], noise(x[1:]))  # no image's noise hangs on what is beside it


def test_jpeg_is_pillows() -> None:
    x = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    normal = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    again = jpeg_view(60, mean, std)(normal)
    file = io.BytesIO()
    Image.fromarray((x[1] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(file, "JPEG", quality=60)
    pixels = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255
    torch.testing.assert_close(again[1] * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1), pixels, atol=1e-5, rtol=0)
    with pytest.raises(ca.InputError, match="quality=0; expected a whole number from 1 to 95"):
        jpeg_view(0, mean, std)
    with pytest.raises(ca.InputError, match=r"expected three numbers each, std above 0"):
        jpeg_view(50, mean, (1, 0, 1))
    with pytest.raises(ca.InputError, match=r"images of shape \(2, 1, 4, 4\); expected \[N, 3, H, W\]"):
        jpeg_view(50, mean, std)(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ca.InputError, match=r"makes pixels from .*; expected 0 to 1; give those of the model"):
        jpeg_view(50, mean, std)(255 * x)


class Sided(nn.Module):
    """Channels are pictures themselves: the score is the mean of what is kept, so that the best set of a view is known."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        u = self.body(x).mean((2, 3))
        return torch.stack([u.sum(1), torch.zeros(len(u))], 1)


def swapped(x: Tensor) -> Tensor:
    """Channels 0 and 1 lose what they are worth, and 4 and 5 gain it."""
    return x[:, [4, 5, 2, 3, 0, 1, 6, 7]]


def planted_views() -> Robust:
    """Alone, 0 and 1 (worth 3) are best; on the view they are worth -3, and 2 and 3 (worth 2) are best over both."""
    x = torch.tensor([3.0, 3, 2, 2, -3, -3, 0, 0]).view(1, 8, 1, 1).repeat(2, 1, 3, 3)
    return robust(Sided(), x, "body", views={"swapped": swapped}, unseen={"half": lambda x: 0.5 * swapped(x)}, areas=(2,), targets=[0, 0])


def test_planted_robust_sets_and_what_they_cost_and_gain() -> None:
    told = planted_views()
    assert [np.flatnonzero(mask).tolist() for mask in told.plain_masks[:, 0]] == [[0, 1]] * 2
    assert [np.flatnonzero(mask).tolist() for mask in told.masks[:, 0]] == [[2, 3]] * 2
    np.testing.assert_allclose(told.scores, 4)
    np.testing.assert_allclose(told.plain_scores, 6)
    np.testing.assert_allclose(told.cost, 2)
    np.testing.assert_allclose(told.unseen_scores, 2)
    np.testing.assert_allclose(told.plain_unseen_scores, -3)
    np.testing.assert_allclose(told.gain, 5)
    np.testing.assert_allclose(told.original, 4)
    np.testing.assert_allclose(told.empty, 0)
    assert (told.views, told.unseen) == (("swapped",), ("half",))


def test_robust_scores_are_those_of_the_definition() -> None:
    model, x = seeded(Plain), images(7)
    told = robust(model, x, "mix", areas=(2, 3), targets=[1] * 7, fill="mean", views=("flip", "noise"), unseen=("crop",))
    plain = ca.per_image(model, x, "mix", areas=(2, 3), targets=[1] * 7, fill="mean")
    np.testing.assert_array_equal(told.plain_masks, plain.masks)
    np.testing.assert_allclose(told.plain_scores, plain.scores, atol=1e-5)
    np.testing.assert_allclose(told.original, plain.original, atol=1e-5)
    for row in (0, 6):
        for given, scores in ((x, told.scores), (crop(x), told.unseen_scores)):
            with ca.inject(model, "mix", told.masks[row, 1], fill=plain.fill_values), torch.no_grad():
                assert scores[row, 1] == pytest.approx(float(model(given[row:row + 1])[0, 1]), abs=1e-5)
    seen = [x, flip(x), noise(x)]
    for row in range(7):  # on what it was searched on it is never worse than the image's own set
        both = []
        for mask in (told.masks[row, 0], told.plain_masks[row, 0]):
            with ca.inject(model, "mix", mask, fill=plain.fill_values), torch.no_grad():
                both.append(np.mean([float(model(view[row:row + 1])[0, 1]) for view in seen]))
        assert both[0] >= both[1] - 1e-5


def test_the_model_and_the_images_stay_as_found() -> None:
    model, x = seeded(Plain).train(), images(2)
    before, pixels = model_sha256(model), x.clone()
    stability(model, x, "mix", areas=(2,), seeds=(1,))
    robust(model, x, "mix", areas=(2,))
    assert model_sha256(model) == before
    assert model.training
    assert torch.equal(x, pixels)


def test_views_of_ones_own_beside_those_that_ship() -> None:
    views = {**VIEWS, "jpeg": jpeg_view(75, (0, 0, 0), (1, 1, 1))}
    told = stability(seeded(Plain), images(2), "mix", areas=(2,), seeds=(), fills=("zero",), views=views)
    assert told.changes == ("view flip", "view crop", "view noise", "view jpeg")


@pytest.mark.parametrize(("options", "message"), [
    ({"views": ("turn",)}, "view 'turn' is not known; expected one of flip, crop, noise"),
    ({"views": ("jpeg",)}, r"view 'jpeg' is not known.*jpeg_view\(75, mean, std\)"),
    ({"views": "flip"}, "views='flip'; expected names"),
    ({"views": {"cut": lambda x: x[:, :, 1:]}}, "view 'cut' gave .*expected finite images of the same form"),
    ({"views": {"fewer": lambda x: x[:1]}}, "view 'fewer' gave"),
    ({"views": {"nan": lambda x: x * torch.nan}}, "view 'nan' gave"),
    ({"views": {"none": lambda x: None}}, "view 'none' gave NoneType"),
    ({"fills": ()}, r"fills=\(\); expected a list of one or more"),
    ({"targets": [0]}, r"targets have shape \(1,\)"),
    ({"fills": ("zero", "half")}, "fill='half'; expected"),
    ({"areas": (9,)}, "area 9 for a layer of 6 channels"),
])
def test_wrong_arguments_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ca.InputError, match=message):
        stability(seeded(Plain), images(2), "mix", **{"areas": (2,), "seeds": (), "views": ()} | options)


def test_robust_tells_what_is_wrong() -> None:
    model, x = seeded(Plain), images(2)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"views": ()}, "expected one or more each"), ({"views": ("flip",), "unseen": ("flip",)}, "none in both"),
        ({"targets": [0, 9]}, "target 9 for a model with 4 classes")]
    for options, message in wrong:
        with pytest.raises(ca.InputError, match=message):
            robust(model, x, "mix", areas=(2,), **options)
    with pytest.raises(ca.InputError, match="areas='smallest'; expected counts of channels"):
        robust(model, x, "mix", areas="smallest")
    x[1] = torch.nan
    with pytest.raises(ca.InputError, match="view 'flip' gave"):
        robust(model, x, "mix", areas=(2,))
