"""Dataset examples: planted ones, the field of plain stacks by arithmetic, falls by injection, and crops."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import chanattr as ca
from chanattr.errors import InputError
from chanattr.images import demo_folder
from chanattr.network.layers import describe
from chanattr.pictures.examples import crops, seen_by, worth_of
from chanattr.pictures.pixels import Pixels
from chanattr.pictures.reach import reaching
from tests import models

PIXELS = Pixels((0.0,) * 3, (1.0,) * 3, (16, 16))
Field = tuple[int, int, int, int]


def analytic(steps: list[tuple[int, int, int, int]], row: int, column: int, size: int) -> Field:
    """The box of what a position sees through layers of (kernel, stride, padding, dilation), place by place; padding sees nothing."""
    sizes = [size]
    for kernel, stride, padding, dilation in steps:
        sizes.append((sizes[-1] + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)
    seen = []
    for place in (row, column):
        places = {place}
        for (kernel, stride, padding, dilation), limit in zip(reversed(steps), reversed(sizes[:-1]), strict=True):
            places = {stride * v - padding + dilation * k for v in places for k in range(kernel)}
            places = {v for v in places if 0 <= v < limit}
        seen.append((min(places), max(places) + 1))
    return seen[0][0], seen[1][0], seen[0][1], seen[1][1]


STACKS = {
    "one": [(3, 1, 0, 1)], "strides": [(3, 2, 1, 1), (5, 2, 2, 1)], "dilated": [(3, 1, 2, 2), (3, 2, 0, 3)],
    "deep": [(3, 1, 1, 1)] * 6, "even": [(4, 2, 1, 1), (2, 2, 0, 1), (3, 1, 1, 1)],
}


@pytest.mark.parametrize("act", [nn.Identity, nn.Tanh])
@pytest.mark.parametrize("name", STACKS)
def test_the_box_is_the_field_of_a_plain_stack(name: str, act: type[nn.Module]) -> None:
    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for number, (kernel, stride, padding, dilation) in enumerate(STACKS[name]):
            layers += [nn.Conv2d(3 if number == 0 else 4, 4, kernel, stride, padding, dilation), act()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    model, images = models.seeded(build), models.images(1, 40)
    layer = str(2 * len(STACKS[name]) - 1)
    place = describe(model, images, layer)
    high, wide = place.grid
    with reaching(model, layer) as read:
        for row, column in {(0, 0), (high // 2, wide // 2), (high - 1, 1), (high // 3, wide - 1)}:
            box = seen_by(read, images, place, 2, np.array([row * wide + column]))
            assert tuple(box[0].tolist()) == analytic(STACKS[name], row, column, 40)


SQUEEZENET = {  # kernel, stride, padding, dilation up to each layer of the shipped network
    "features.7": [(7, 2, 0, 1), (3, 2, 0, 1)] + [(3, 1, 1, 1)] * 3 + [(3, 2, 0, 1), (3, 1, 1, 1)],
    "features.10": [(7, 2, 0, 1), (3, 2, 0, 1)] + [(3, 1, 1, 1)] * 3 + [(3, 2, 0, 1)] + [(3, 1, 1, 1)] * 4,
    "features.12": [(7, 2, 0, 1), (3, 2, 0, 1)] + [(3, 1, 1, 1)] * 3 + [(3, 2, 0, 1)] + [(3, 1, 1, 1)] * 4 + [(3, 2, 0, 1), (3, 1, 1, 1)],
}


@pytest.fixture(scope="module")
def shipped() -> tuple[ca.Pixels, torch.nn.Module, torch.Tensor, list[str]]:
    loaded = ca.load_model("embedded")
    loader = ca.image_loader(demo_folder(), loaded.preprocess, class_names=loaded.class_names, limit_per_class=1)
    batch = next(iter(loader))
    return ca.pixels_of(loaded.preprocess), loaded.module, batch.images, list(batch.keys)


@pytest.mark.parametrize("layer", SQUEEZENET)
def test_boxes_lie_within_the_field_of_the_shipped_network(layer: str, shipped) -> None:
    pixels, model, images, keys = shipped
    found = ca.examples(model, images, layer, channels=range(0, 256, 64), pixels=pixels, count=3, keys=keys)
    assert (found.rows >= 0).sum() > 8
    check_boxes(found, SQUEEZENET[layer])


def check_boxes(found: ca.Examples, steps: list[tuple[int, int, int, int]]) -> None:
    """Every box is there, and within the field."""
    for row, example in zip(*np.nonzero(found.rows >= 0), strict=True):
        top, left, bottom, right = found.boxes[row, example]
        field = analytic(steps, *found.position[row, example].tolist(), 227)
        assert field[0] <= top < bottom <= field[2]
        assert field[1] <= left < right <= field[3]


def test_what_needs_nothing_is_no_example_and_boxes_of_the_rest_lie_within_the_field(shipped) -> None:
    pixels, model, images, keys = shipped
    layer, images, keys = "features.7", images[:3], keys[:3]
    with ca.frozen(model), torch.no_grad(), ca.capture(model, [layer]) as kept:
        model(images)
    silent = (kept[layer].amax((2, 3)) == 0).numpy()
    quick = ca.ExactSearch(relaxed_steps=1, binary_steps=2)
    found = ca.per_image(model, images, layer, areas=[200], refine=False, level=0.5, search=quick, keys=keys)
    assert (found.smallest_area == 200).all()
    found = dataclasses.replace(found, smallest_mask=found.smallest_mask | silent)  # which changes no score
    channels = [*np.flatnonzero(silent.any(0)).tolist(), 0, 64, 128, 192]
    assert len(channels) > 4
    needed = ca.examples(model, images, layer, channels=channels, pixels=pixels, kind="needed", found=found, count=3)
    assert 0 < (needed.rows >= 0).sum() < found.smallest_mask[:, channels].sum()
    assert (needed.value[needed.rows >= 0] > 0).all()
    for row, example in zip(*np.nonzero(needed.rows >= 0), strict=True):
        assert not silent[needed.rows[row, example], channels[row]]
    check_boxes(needed, SQUEEZENET[layer])


def test_what_is_silent_or_loses_nothing_is_no_example() -> None:
    peak, fall = np.array([[0.0, 2.0, 2.0, -1.0, 2.0]]), np.array([[3.0, 0.0, -1.0, 0.5, np.nan]])
    nan = np.nan
    np.testing.assert_array_equal(worth_of(peak, fall), [[nan, nan, nan, 0.5, nan]])  # the first: a fill that silence is better than
    np.testing.assert_array_equal(worth_of(peak, None), [[nan, 2, 2, nan, 2]])


@pytest.mark.parametrize(("end", "field"), [(100.0, 3), (4.5, 0)])
def test_the_box_of_an_activation_without_a_slope(end: float, field: int) -> None:
    """One that is at its end shows what the other channels see there; where all are, nothing."""
    class Ended(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.head = nn.Conv2d(3, 2, 3, padding=1), nn.Identity(), nn.Linear(2, 2)
            self.conv.weight.data, self.conv.bias.data = torch.ones(2, 3, 3, 3), torch.zeros(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.act(torch.minimum(self.conv(x), torch.tensor([4.5, end])[:, None, None])).mean((2, 3)))

    images = torch.zeros(1, 3, 16, 16)
    images[:, :, 4:7, 6:9] = 1.0
    found = ca.examples(models.seeded(Ended), images, "act", channels=[0], pixels=PIXELS, count=1, side=8)
    assert found.value[0, 0] == 4.5
    top, left, bottom, right = found.boxes[0, 0].tolist()
    assert (bottom - top, right - left) == (field, field)
    if field:
        assert [top + 1, left + 1] == found.position[0, 0].tolist()
    assert bool((found.crops[0, 0] == 255).all()) == (field == 0)


class Spots(nn.Module):
    """A channel a colour, after a pixel-wise convolution and a pooling by 4."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.act, self.pool, self.head = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.MaxPool2d(4), nn.Linear(3, 3)
        self.see.weight.data = torch.eye(3)[..., None, None].clone()
        self.see.bias.data = torch.full((3,), -0.1)
        self.head.weight.data, self.head.bias.data = torch.eye(3), torch.zeros(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.act(self.see(x))).amax((2, 3)))


def spots() -> torch.Tensor:
    """Black pictures with a pixel of some colour each: (picture, colour, row, column) at strength 1, 0.5 and 0.25."""
    images = torch.zeros(4, 3, 16, 16)
    images[0, 0, 5, 9], images[1, 0, 12, 2], images[1, 1, 3, 3], images[3, 1, 15, 15] = 0.5, 1.0, 0.25, 0.75
    return images


def test_planted_examples_are_found_where_they_are() -> None:
    found = ca.examples(models.seeded(Spots), spots(), "pool", channels=[0, 1, 2], pixels=PIXELS, count=3, side=8, keys=list("abcd"))
    assert found.rows.tolist() == [[1, 0, -1], [3, 1, -1], [-1, -1, -1]]
    np.testing.assert_allclose(found.value[:2, :2], [[0.9, 0.4], [0.65, 0.15]], atol=1e-6)
    assert np.isnan(found.value[found.rows < 0]).all()
    assert found.position[0].tolist() == [[3, 0], [1, 2], [-1, -1]]
    assert found.boxes[0].tolist() == [[12, 2, 13, 3], [5, 9, 6, 10], [-1] * 4]  # of a pooled maximum, the pixel that won
    np.testing.assert_array_equal(found.crops[0, 0], np.full((8, 8, 3), [255, 0, 0]))
    assert (found.crops[2] == 255).all()
    assert found.names == ("channel 0", "channel 1", "channel 2")


def test_crops_keep_their_shape() -> None:
    picture = {0: np.zeros((16, 16, 3), np.uint8)}
    made = crops(picture, np.array([[0]], np.int32), np.array([[[2, 4, 6, 12]]], np.int32), 8, 3)
    dark = (made[0, 0] == 0).all(-1)
    assert dark.any(1).tolist() == [False, False, True, True, True, True, False, False]
    assert dark.any(0).all()


@pytest.mark.parametrize("game", ["preserve", "delete"])
def test_needed_is_the_fall_of_the_score_by_injection(game: str) -> None:
    model, images = models.seeded(models.Plain), models.images(5)
    found = ca.per_image(model, images, "norm", areas=[1, 2, 3, 4, 5, 6], game=game, level=0.6)
    assert (found.smallest_area > 0).sum() >= 2
    needed = ca.examples(model, images, "norm", channels=range(6), pixels=PIXELS, kind="needed", found=found, count=5)
    sign = -1 if game == "delete" else 1
    expected = np.full((5, 6), np.nan)
    with torch.no_grad():
        for row, channel in zip(*np.nonzero(found.smallest_mask), strict=True):
            mask = found.smallest_mask[row].copy()
            mask[channel] = False
            with ca.frozen(model), ca.inject(model, "norm", ~mask if game == "delete" else mask):
                logit = float(model(images[row:row + 1])[0, found.targets[row]])
            expected[row, channel] = sign * (found.smallest_score[row] - logit)
    for channel in range(6):
        rows = [row for row in np.argsort(-expected[:, channel], kind="stable") if expected[row, channel] > 0]
        assert needed.rows[channel].tolist() == (rows + [-1] * 5)[:5]
        np.testing.assert_allclose(needed.value[channel, :len(rows)], expected[rows, channel], atol=1e-5)


def test_tokens_have_one_row_of_positions() -> None:
    found = ca.examples(models.seeded(models.Tokens), models.images(2), "block", channels=[1], pixels=PIXELS, count=2)
    assert (found.position[..., 0] <= 0).all()
    assert found.boxes[0, 0].tolist() == [0, 0, 8, 8]  # attention, here a mean, sees all


@pytest.mark.parametrize(("change", "message"), [
    ({"kind": "loved"}, "kind='loved' with found none; expected 'driven' without, or 'needed' with"),
    ({"kind": "needed"}, "kind='needed' with found none"), ({"channels": [9]}, r"wanted=\[9\] at 'mix'; expected channel numbers"),
    ({"count": 0}, "count=0; expected a whole number from 1"), ({"side": 0}, "side=0; expected a whole number from 1"),
])
def test_what_cannot_be_used_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ca.examples(models.seeded(models.Plain), models.images(2), "mix", **{"channels": [0], "pixels": PIXELS, **change})


def test_answers_of_other_images_are_refused() -> None:
    model, images = models.seeded(models.Plain), models.images(3)
    found = ca.per_image(model, images, "mix", areas=[6])
    with pytest.raises(InputError, match="found is 3 rows for 2 images"):
        ca.examples(model, images[:2], "mix", channels=[0], pixels=PIXELS, kind="needed", found=found, keys=["a", "b"])
