"""Figures of masks on the picture: what they draw, in numbers, and words that are safe."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import chanattr as ca
from chanattr.codes import masks_of
from chanattr.pictures.figures import (
    mask_curve,
    mask_curve_data,
    mask_games,
    mask_games_data,
    mask_growth,
    mask_growth_data,
    mask_strip,
    mask_strip_data,
    method_maps,
    method_maps_data,
)
from chanattr.records import SpatialAttribution
from chanattr.search.pictures import PICTURE_EXACT
from tests.usual import usual


def made(smallest: float = 0.07, key: str = "a.jpg") -> SpatialAttribution:
    """One image, three areas: discs in the middle, made by hand."""
    codes = np.zeros((1, 3, 32, 32), np.uint8)
    for place, radius in enumerate((1, 4, 8)):
        codes[0, place, 16 - radius:16 + radius, 16 - radius:16 + radius] = 255
    areas = masks_of(codes, (64, 64)).mean((2, 3))
    shape = (1, 3)
    settings = usual(layer=":input", areas=(0.05, 0.1, 0.3), search=PICTURE_EXACT, perturbation="blur", levels=8, blur=0.09, flip=True)
    small = codes[:, 0] if smallest > 0 else codes[:, 0] * 0
    return SpatialAttribution(
        layer=":input", settings=settings, engine="tail (export)", size=(64, 64), keys=(key,), targets=np.array([3], np.int32),
        predictions=np.array([3], np.int32), probability=np.array([0.9], np.float32), areas=np.array([0.05, 0.1, 0.3], np.float32),
        codes=codes, true_areas=areas, scores=np.array([[1, 4, 9]], np.float32), view_scores=np.array([[1, 4, 8]], np.float32),
        level_set_scores=np.array([[2, 3, 7]], np.float32), greyness=np.full(shape, 0.5, np.float32), peak=np.ones(shape, np.float32),
        top1=np.array([[False, True, True]]), original=np.array([8], np.float32), empty=np.array([0], np.float32),
        smallest_area=np.array([smallest], np.float32), smallest_code=small,
        smallest_score=np.array([8.1 if smallest > 0 else np.nan], np.float32), smallest_top1=np.array([smallest > 0]),
        evaluations=np.array([240], np.float32), refine_evaluations=np.array([50], np.float32))


PICTURE = np.full((64, 64, 3), 200, np.uint8)


def test_a_strip_has_a_panel_an_area_in_order_and_a_star_boxed() -> None:
    data = mask_strip_data(made(0.2), 0, PICTURE)
    assert (np.diff(data.areas) > 0).all()
    assert data.areas[data.boxed] == np.float32(0.2)
    assert data.pictures.shape == (4, 64, 64, 3)
    middle, corner = data.pictures[:, 32, 32], data.pictures[:, 0, 0]
    assert (middle > 190).all()  # seen
    assert (corner < 45).all()  # veiled
    boxes = [shape for shape in mask_strip(made(0.2), 0, PICTURE).layout.shapes if shape.type == "rect"]
    assert len(boxes) == 1


def test_a_star_that_is_one_of_the_areas_is_drawn_once() -> None:
    found = made(0.2)
    found = dataclasses.replace(found, smallest_area=found.true_areas[:, 1].copy())
    data = mask_strip_data(found, 0, PICTURE)
    assert len(data.areas) == 3
    assert data.boxed == 1


@pytest.mark.parametrize("smallest", [-1.0, 0.0, -2.0])
def test_without_a_star_nothing_is_boxed(smallest: float) -> None:
    data = mask_strip_data(made(smallest), 0, PICTURE)
    assert data.boxed == -1
    assert len(data.areas) == 3
    words = {-1.0: "a* not reached", 0.0: "a* = 0: nothing is needed", -2.0: "not run"}
    assert any(words[smallest] in note.text for note in mask_curve(made(smallest), 0).layout.annotations)


def test_a_curve_draws_scores_and_level_sets_over_measured_areas() -> None:
    found = made()
    data = mask_curve_data(found, 0)
    assert data.level == 8
    level_sets, masks = mask_curve(found, 0).data[:2]
    assert list(masks.y) == [1, 4, 9]
    assert list(level_sets.y) == [2, 3, 7]
    assert list(masks.x) == pytest.approx(found.true_areas[0].tolist())
    assert masks.marker.color[0] == "#ffffff"  # no longer named
    assert masks.marker.color[1] != "#ffffff"


def test_methods_lie_side_by_side_and_glow_where_they_look() -> None:
    heat = np.zeros((2, 8, 8))
    heat[0, 2, 2] = heat[1, 6, 6] = 1
    data = method_maps_data([PICTURE, PICTURE], {"one": heat, "two": heat[::-1]})
    assert data.methods == ("picture", "one", "two")
    assert data.pictures.shape == (2, 3, 64, 64, 3)
    assert np.array_equal(data.pictures[0, 1], data.pictures[1, 2])
    red = data.pictures[0, 1].astype(int)
    assert red[20, 20, 0] - red[20, 20, 2] > 60 > abs(red[60, 60, 0] - red[60, 60, 2])
    assert len(method_maps([PICTURE, PICTURE], {"one": heat}).layout.images) == 4


def test_growth_has_a_bar_for_each_share_of_the_score_and_boxes_what_reaches() -> None:
    found = made(0.2)
    data = mask_growth_data(found, [0, 0], [PICTURE, PICTURE], names=["", "", "", "cat"])
    assert data.names == ("cat", "cat")
    assert data.shares[1].tolist() == [1 / 8, 0.5, 9 / 8]
    assert data.boxed.tolist() == [int(np.flatnonzero(found.true_areas[0] >= np.float32(0.2))[0])] * 2
    shapes = mask_growth(found, [0, 0], [PICTURE, PICTURE], names=["", "", "", "<b>"]).layout.shapes
    bars = [shape.x1 - shape.x0 for shape in shapes if shape.type == "rect" and shape.fillcolor and shape.x1 - shape.x0 < 1]
    assert bars == pytest.approx([0.1, 0.4, 0.9] * 2)
    assert mask_growth_data(made(-1.0), [0], [PICTURE]).boxed.tolist() == [-1]


def test_games_are_of_one_image() -> None:
    kept = made(0.2)
    settings = dataclasses.replace(kept.settings, game="delete")
    dropped = dataclasses.replace(kept, settings=settings, scores=8 - kept.scores)
    data = mask_games_data(kept, dropped, 0)
    assert data.kept.scores.tolist() == [1, 4, 9]
    assert data.dropped.scores.tolist() == [7, 4, -1]
    lines = mask_games(kept, dropped, 0, names=["", "", "", "<b>bold</b>"])
    assert [trace.name for trace in lines.data if trace.name] == ["only the mask seen", "all but the mask seen"]
    assert "<b>bold" not in lines.layout.title.subtitle.text
    assert any("enough: a* = 20.0% · lost without: a* = 20.0%" in note.text for note in lines.layout.annotations)


@pytest.mark.parametrize("changes", [{"keys": ("b.jpg",)}, {"targets": np.array([2], np.int32)}, {}])
def test_games_of_two_images_or_of_one_game_are_refused(changes: dict[str, object]) -> None:
    kept = made(0.2)
    game = "delete" if changes else "preserve"
    other = dataclasses.replace(kept, settings=dataclasses.replace(kept.settings, game=game), **changes)
    with pytest.raises(ca.InputError, match="expected one image and target in the games 'preserve' and 'delete'"):
        mask_games(kept, other, 0)


def test_names_are_shown_as_they_are() -> None:
    figure = mask_strip(made(0.2, "<img src=x onerror=alert(1)>.jpg"), 0, PICTURE, names=["", "", "", "<b>bold</b>"])
    assert "<img" not in figure.layout.title.text
    assert "<b>bold" not in figure.layout.title.subtitle.text


def test_wrong_rows_and_maps_are_refused() -> None:
    with pytest.raises(ca.InputError, match="row 1 of a result of 1 images"):
        mask_strip_data(made(), 1, PICTURE)
    with pytest.raises(ca.InputError, match="expected uint8"):
        mask_strip_data(made(), 0, PICTURE / 255)
    with pytest.raises(ca.InputError, match="heat maps 'x' have shape"):
        method_maps_data([PICTURE], {"x": np.zeros((2, 8, 8))})
    with pytest.raises(ca.InputError, match="expected one or more of one size"):
        method_maps_data([PICTURE, PICTURE[:32]], {})
    with pytest.raises(ca.InputError, match=r"2 pictures of shapes .* for 1 rows"):
        mask_growth_data(made(), [0], [PICTURE, PICTURE])
