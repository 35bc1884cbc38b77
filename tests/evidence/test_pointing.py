"""The pointing game against a slow re-implementation on pixel grids, energy by closed forms, and which rows are played."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import chanattr as ca
from chanattr.evidence.heat import inside, smoothed
from chanattr.evidence.intervals import wilson
from chanattr.evidence.pointing import Pointing, pointing_game, pointing_table
from chanattr.images.boxes import ImageBoxes


def boxed(*boxes: tuple[float, float, float, float], classes: Any = 0, difficult: Any = False,
          size: tuple[int, int] = (40, 30)) -> ImageBoxes:
    count = len(boxes)
    return ImageBoxes(boxes=np.array(boxes, np.float32).reshape(-1, 4), classes=np.broadcast_to(classes, count).astype(np.int32),
                      difficult=np.broadcast_to(difficult, count).astype(bool), size=size)


def peak(x: int, y: int, height: int = 30, width: int = 40) -> np.ndarray:
    heat = np.zeros((height, width))
    heat[y, x] = 1
    return heat


def play(heat: np.ndarray, told: ImageBoxes, **options: Any) -> Pointing:
    return pointing_game(heat[None], ["a"], [0], annotations={"a": told}, **{"smooth": 0.0} | options)


# A slow re-implementation of TorchRay's rule: loops over the pixels of the picture, integer boxes, a map of the picture's size.


def slow_smoothed(heat: np.ndarray, sigma: float, edge: bool) -> np.ndarray:
    reach = math.ceil(4 * sigma)
    weights = [math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)]
    weights = [weight / sum(weights) for weight in weights]
    height, width = heat.shape

    def at(values: np.ndarray, y: int, x: int) -> float:
        if edge:
            return float(values[min(max(y, 0), height - 1), min(max(x, 0), width - 1)])
        return float(values[y, x]) if 0 <= y < height and 0 <= x < width else 0.0

    down = np.array([[sum(weights[d + reach] * at(heat, y + d, x) for d in range(-reach, reach + 1)) for x in range(width)]
                     for y in range(height)])
    return np.array([[sum(weights[d + reach] * at(down, y, x + d) for d in range(-reach, reach + 1)) for x in range(width)]
                     for y in range(height)])


def slow_hit(heat: np.ndarray, boxes: list[tuple[int, int, int, int]], tolerance: float) -> bool:
    height, width = heat.shape
    mask = [[any(left <= x < right and top <= y < bottom for left, top, right, bottom in boxes) for x in range(width)]
            for y in range(height)]
    best, point = -math.inf, (0, 0)
    for y in range(height):
        for x in range(width):
            if heat[y, x] > best:
                best, point = heat[y, x], (y, x)
    return any(mask[y][x] and (y - point[0]) ** 2 + (x - point[1]) ** 2 < tolerance**2 for y in range(height) for x in range(width))


@pytest.mark.parametrize("seed", range(20))
def test_hits_are_those_of_the_pixel_grid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = 18, 23
    heat = rng.normal(size=(height, width))
    corners = [(int(rng.integers(0, 20)), int(rng.integers(0, 15))) for _ in range(1 + seed % 2)]
    boxes = [(x, y, min(width, x + int(rng.integers(1, 8))), min(height, y + int(rng.integers(1, 8)))) for x, y in corners]
    for tolerance in (1, 3, 5, 15):
        for sigma, padding in ((0, "zero"), (0.09, "zero"), (0.09, "edge")):
            found = play(heat, boxed(*boxes, size=(width, height)), tolerance=tolerance, smooth=sigma, padding=padding)
            seen = slow_smoothed(heat, sigma * height, padding == "edge") if sigma else heat
            assert bool(found.hit[0]) == slow_hit(seen, boxes, tolerance)


@pytest.mark.parametrize("padding", ["zero", "edge"])
def test_smoothing_is_a_sum_over_neighbours(padding: str) -> None:
    heat = np.random.default_rng(0).normal(size=(9, 13))
    np.testing.assert_allclose(smoothed(heat, 1.7, padding), slow_smoothed(heat, 1.7, padding == "edge"), atol=1e-12)
    assert smoothed(np.ones((9, 13)), 1.7, "edge") == pytest.approx(1)
    np.testing.assert_array_equal(smoothed(heat, 0), heat)


def test_the_tolerance_itself_is_a_miss() -> None:
    told = boxed((20, 10, 30, 20))  # pixels 20 to 29 and 10 to 19
    for x, distance, hit in ((20, 0, 1), (19, 1, 1), (6, 14, 1), (5, 15, 0), (4, 16, 0)):
        found = play(peak(x, 15), told)
        assert (found.distance[0], found.hit[0], found.inside[0]) == (distance, hit, distance == 0)
    assert play(peak(11, 1), told).distance[0] == pytest.approx(math.hypot(9, 9))
    assert play(peak(32, 22), told).distance[0] == pytest.approx(math.hypot(3, 3))


def test_points_are_in_pixels_of_the_file() -> None:
    told = boxed((200, 100, 300, 200), size=(400, 300))
    found = play(peak(10, 20), told, regions=np.array([[40, 30, 360, 270]]))  # 8 pixels of the file for one of the map
    np.testing.assert_allclose(found.points, [[40 + 10.5 * 8, 30 + 20.5 * 8]])
    assert found.distance[0] == pytest.approx(200.5 - (40 + 10.5 * 8))
    whole = play(peak(10, 20), told)  # 10 pixels of the file for one
    np.testing.assert_allclose(whole.points, [[105, 205]])


def test_masks_are_summed_over_areas() -> None:
    told = boxed((20, 10, 30, 20))
    masks = np.stack([0.6 * peak(2, 2), 0.5 * peak(25, 15), 0.5 * peak(25, 15)])
    found = pointing_game(masks[None], ["a"], [0], annotations={"a": told}, smooth=0)
    assert found.points.tolist() == [[25.5, 15.5]]
    assert found.energy[0] == pytest.approx(1 / 1.6)


def test_a_map_that_says_nothing_misses() -> None:
    found = play(np.full((30, 40), 3.0), boxed((0, 0, 40, 30)))
    assert (found.hit[0], found.inside[0]) == (0, False)
    assert np.isnan(found.points).all()
    assert found.energy[0] == 1
    assert np.isnan(play(np.zeros((30, 40)), boxed((0, 0, 40, 30))).energy[0])


def test_energy_is_the_share_of_what_is_positive_in_the_boxes() -> None:
    heat = np.full((30, 40), 2.0)
    found = play(heat, boxed((0, 0, 20, 15), (10, 5, 40, 30)))
    union = 20 * 15 + 30 * 25 - 10 * 10
    assert found.energy[0] == pytest.approx(union / 1200)
    assert found.share[0] == pytest.approx(union / 1200)
    heat[:, 20:] = -5
    assert play(heat, boxed((10, 0, 40, 30))).energy[0] == pytest.approx(0.5)
    fine = boxed((1.25, 2.5, 3.5, 7.0))  # parts of pixels
    assert play(np.ones((30, 40)), fine).energy[0] == pytest.approx(2.25 * 4.5 / 1200)
    coarse = play(np.ones((3, 4)), fine)  # ten pixels of the file in one of the map
    assert coarse.energy[0] == pytest.approx(2.25 * 4.5 / 1200)


def test_cover_of_pixels_by_counting_fine_dots() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        left, right = np.sort(rng.uniform(-2, 9, 2))
        top, bottom = np.sort(rng.uniform(-2, 7, 2))
        cover = inside(np.array([[left, top, right, bottom]]), 5, 7)
        dots = (np.arange(700) + 0.5) / 100
        inner = ((dots >= top) & (dots < bottom))[:500, None] & ((dots >= left) & (dots < right))[None]
        np.testing.assert_allclose(cover, inner.reshape(5, 100, 7, 100).mean((1, 3)), atol=0.021)


def test_rows_that_are_not_played_say_why() -> None:
    told = {"other": boxed((0, 0, 9, 9), classes=3), "hard": boxed((0, 0, 9, 9), (1, 1, 5, 5), difficult=True),
            "partly": boxed((0, 0, 9, 9), (1, 1, 5, 5), difficult=[True, False]), "cut": boxed((0, 0, 9, 9)), "in": boxed((0, 0, 9, 9))}
    keys = ["none", "other", "hard", "partly", "cut", "in"]
    regions = np.array([[0, 0, 40, 30]] * 4 + [[10, 10, 40, 30]] + [[0, 0, 40, 30]])
    found = pointing_game(np.stack([peak(5, 5)] * 6), keys, [0] * 6, annotations=told, regions=regions, smooth=0)
    assert found.hit.tolist() == [-1, -2, -3, 1, -4, 1]
    assert found.left_out() == {"not annotated": 1, "no box of the class": 1, "all its boxes marked difficult": 1, "cropped away": 1}
    assert found.figures().images == 2
    assert "not played: 1 not annotated, 1 no box of the class" in found.table()
    assert np.isnan(found.energy).tolist() == [True, True, True, False, True, False]


def test_the_difficult_subset_is_small_objects_beside_others() -> None:
    told = {"small beside another": boxed((0, 0, 19, 15), (30, 20, 40, 30), classes=[0, 4]),
            "large beside another": boxed((0, 0, 21, 15), (30, 20, 40, 30), classes=[0, 4]),
            "two that are large together": boxed((0, 0, 19, 15), (21, 0, 25, 15), (30, 20, 40, 30), classes=[0, 0, 4]),
            "small beside an unknown one": boxed((0, 0, 19, 15), (30, 20, 40, 30), classes=[0, -1]),
            "small alone": boxed((0, 0, 19, 15), (20, 0, 21, 15))}
    found = pointing_game(np.stack([peak(5, 5)] * 5), list(told), [0] * 5, annotations=told, smooth=0)
    assert found.difficult.tolist() == [True, False, False, True, False]
    assert found.figures("difficult").images == 2
    assert "heat, difficult" in found.table()
    with pytest.raises(ca.InputError, match="subset='hard'; expected one of all, difficult"):
        found.figures("hard")


def test_accuracy_overall_and_by_class() -> None:
    told = {"a": boxed((0, 0, 10, 10), classes=0), "b": boxed((0, 0, 10, 10), classes=1)}
    keys, targets = ["a", "a", "a", "b"], [0, 0, 0, 1]
    heat = np.stack([peak(5, 5), peak(5, 5), peak(39, 29), peak(39, 29)])
    found = pointing_game(heat, keys, targets, annotations=told, smooth=0).figures()
    assert found.overall.value == 0.5
    assert found.by_class.value == pytest.approx((2 / 3 + 0) / 2)
    assert found.by_class.low <= found.by_class.value <= found.by_class.high
    assert found.chance.value == pytest.approx(100 / 1200)


def test_intervals_hold_what_they_promise() -> None:
    assert np.isnan(wilson(0, 0)).all()
    assert wilson(0, 10).low == 0
    assert wilson(0, 10).high == pytest.approx(3.8414588 / (10 + 3.8414588))  # a closed form at no hits
    assert wilson(10, 10).low == pytest.approx(1 - wilson(0, 10).high)
    intervals = [wilson(hits, 40) for hits in range(41)]
    held = [sum(math.comb(40, hits) * p**hits * (1 - p) ** (40 - hits) for hits, one in enumerate(intervals) if one.low <= p <= one.high)
            for p in np.linspace(0.01, 0.99, 197)]
    assert 0.945 < np.mean(held) < 0.96  # its coverage over all shares, by counting out
    assert min(held) > 0.83


def test_bootstrap_over_classes_is_near_the_normal_interval() -> None:
    rng = np.random.default_rng(0)
    count = 400
    told = {str(row): boxed((0, 0, 10, 10), classes=row % 2) for row in range(count)}
    right = rng.random(count) < np.where(np.arange(count) % 2, 0.9, 0.5)
    heat = np.stack([peak(5, 5) if hit else peak(39, 29) for hit in right])
    line = pointing_game(heat, list(told), np.arange(count) % 2, annotations=told, smooth=0).figures()
    shares = [right[0::2].mean(), right[1::2].mean()]
    half = 1.96 * math.sqrt(sum(share * (1 - share) / 200 for share in shares)) / 2
    assert line.by_class.value == pytest.approx(np.mean(shares))
    assert line.by_class.high - line.by_class.low == pytest.approx(2 * half, rel=0.1)


def test_a_table_holds_methods_against_one_another() -> None:
    told = {"a": boxed((0, 0, 10, 10))}
    table = pointing_table({"good": play(peak(5, 5), told["a"]), "bad": play(peak(39, 29), told["a"])})
    lines = table.splitlines()
    assert lines[0].split() == ["method", "images", "overall", "by", "class", "inside", "energy", "chance"]
    assert lines[1].split()[:3] == ["good", "1", "100.0"]
    assert lines[2].split()[:3] == ["bad", "1", "0.0"]
    assert "nearer than 15 pixels" in lines[-1]
    with pytest.raises(ca.InputError, match="no method for a table"):
        pointing_table({})


@pytest.mark.parametrize(("change", "message"), [
    ({"heat": np.zeros((1, 5))}, r"heat has shape \(1, 5\); expected maps \[N, H, W\]"),
    ({"heat": np.full((1, 3, 3), np.nan)}, "the heat map of row 0 is not finite"),
    ({"heat": np.array([["a"]])}, "heat is ndarray"),
    ({"keys": ["a", "b"]}, "1 heat maps with 2 keys and targets of shape"),
    ({"targets": np.array([0.5])}, "expected one key and one class number a map"),
    ({"keys": ["q"]}, r"none of 1 keys \(first 'q'\) is annotated; expected keys such as 'a'; use for_keys"),
    ({"tolerance": 0}, "tolerance=0; expected a number above 0"),
    ({"smooth": -1.0}, "smooth=-1.0; expected a number from 0"),
    ({"padding": "wrap"}, "padding='wrap'; expected one of zero, edge"),
    ({"regions": np.zeros((1, 3))}, r"regions have shape \(1, 3\); expected \[1, 4\]"),
    ({"regions": np.full((1, 4), np.nan)}, "the region of 'a' is .*; expected left below right"),
    ({"annotations": {"a": boxed((0, 0, 1, 1), size=(0, 0))}}, "the annotations of 'a' tell no size"),
])
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"heat": np.zeros((1, 3, 3)), "keys": ["a"], "targets": [0], "annotations": {"a": boxed((0, 0, 1, 1))}} | change
    with pytest.raises(ca.InputError, match=message):
        pointing_game(given.pop("heat"), given.pop("keys"), given.pop("targets"), annotations=given.pop("annotations"), **given)
