"""Numbers behind the figures, and what stands in them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import fake_run
import numpy as np
import pytest

from chanattr.errors import InputError
from chanattr.evidence.evaluation import Evaluation
from chanattr.pictures import figures
from chanattr.pictures.figures import areas, energy, raster, theme, words
from chanattr.settings import ExactSearch
from tests.usual import usual

FOUND = fake_run.image_record()
CLASSES = fake_run.class_record(FOUND)
PICTURE = fake_run.thumbnail(7)


def texts(figure: object) -> str:
    return json.dumps(figure.to_plotly_json()["layout"], default=str, ensure_ascii=False)  # type: ignore[attr-defined]


def test_importing_chanattr_draws_nothing() -> None:
    code = "import sys, chanattr; assert 'plotly' not in sys.modules; import chanattr.pictures.figures; " \
           "import chanattr.pictures.report; assert not {'torch', 'h5py'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_area_curve_numbers() -> None:
    data = figures.area_curve_data(FOUND, 5)
    assert data.scores.tolist() == FOUND.scores[5].tolist()
    assert data.level == data.original == FOUND.original[5]
    assert (data.smallest_area, data.channels) == (FOUND.smallest_area[5], 256)


@pytest.mark.parametrize(("level", "expected"), [(0.5, 6.0), ("original", 10.0), ("top1", float("nan"))])
def test_level_is_between_empty_and_original(level: str | float, expected: float) -> None:
    settings = dataclasses.replace(FOUND.settings, level=level)
    found = dataclasses.replace(FOUND, settings=settings, original=np.full(24, 10, "f4"), empty=np.full(24, 2, "f4"))
    assert figures.area_curve_data(found, 0).level == pytest.approx(expected, nan_ok=True)


def test_area_curve_tells_kept_from_lost() -> None:
    line, kept, lost, star = figures.area_curve(FOUND, 5, names=fake_run.NAMES).data
    assert len(kept.x) == FOUND.top1[5].sum()
    assert len(lost.x) == (~FOUND.top1[5]).sum()
    assert kept.marker.color != lost.marker.color == "#ffffff"
    assert star.marker.line.color == theme.ACCENT
    assert list(star.x) == [FOUND.smallest_area[5]]
    assert len(line.x) == len(np.union1d(FOUND.areas, FOUND.smallest_area[5]))


def test_figures_count_in_the_unit_of_the_question() -> None:
    of_heads = {"settings": dataclasses.replace(FOUND.settings, group="heads")}
    found, classes = dataclasses.replace(FOUND, **of_heads), dataclasses.replace(CLASSES, **of_heads)
    drawn = (figures.area_curve(found, 5), figures.class_curves(classes, int(classes.targets[0])), figures.smallest_areas(found))
    for figure in drawn:
        assert "heads" in (words := json.dumps(figure.to_plotly_json(), default=str))
        assert "channel" not in words


@pytest.mark.parametrize(("tokens", "shape"), [(2, (1, 2)), (5, (2, 2)), (16, (4, 4)), (197, (14, 14)), (201, (1, 201))])
def test_tokens_lie_in_a_square_over_the_picture_where_they_can(tokens: int, shape: tuple[int, int]) -> None:
    energy = np.arange(24 * tokens, dtype="f4").reshape(24, 1, tokens)
    found = dataclasses.replace(FOUND, energy=energy, energy_by_area=np.repeat(energy[:, None], len(FOUND.areas), 1))
    data = figures.energy_map_data(found, 1, PICTURE)
    assert data.energy.shape == figures.area_strip_data(found, 1, PICTURE).strengths.shape[1:] == shape
    np.testing.assert_array_equal(data.energy.ravel(), energy[1, 0, -int(np.prod(shape)):])


def test_levels_of_masks_are_named_apart_where_they_lie_close() -> None:
    for close, anchors in ((True, {"top", "bottom"}), (False, {"middle"})):
        figure = theme.go.Figure()
        theme.levels(figure, 1.0, 0.95 if close else 0.0, np.array([0.2, 1.2]))
        assert {note.yanchor for note in figure.layout.annotations} == anchors


@pytest.mark.parametrize(("row", "text"), [(2, "a* not reached"), (3, "a* = 0: nothing is needed"), (4, "not run")])
def test_area_curve_without_a_place_for_the_smallest(row: int, text: str) -> None:
    figure = figures.area_curve(FOUND, row)
    assert len(figure.data) == 3
    assert text in texts(figure)


def test_title_says_layer_key_and_class_and_escapes() -> None:
    text = texts(figures.area_curve(FOUND, 0, names=fake_run.NAMES))
    assert "layer3" in text
    assert "tench" in text
    assert "&lt;/script&gt;" in text
    assert "<script" not in text


def test_no_areas_at_all_still_draws() -> None:
    empty = {"areas": FOUND.areas[:0], "masks": FOUND.masks[:, :0], "scores": FOUND.scores[:, :0], "top1": FOUND.top1[:, :0],
             "energy_by_area": FOUND.energy_by_area[:, :0]}
    found = dataclasses.replace(FOUND, **empty)
    assert list(figures.area_curve(found, 5).data[-1].x) == [FOUND.smallest_area[5]]
    with pytest.raises(InputError, match="keeps no energy by area"):
        figures.area_strip(found, 5, PICTURE)


def test_resize_is_bilinear_and_keeps_a_plane() -> None:
    plane = np.add.outer(np.arange(4.0), np.arange(6.0))
    big = raster.resize(plane, 8, 12)
    assert big[1:-1, 1:-1] == pytest.approx(np.add.outer(np.arange(8) / 2 - 0.25, np.arange(12) / 2 - 0.25)[1:-1, 1:-1])
    assert raster.resize(plane, 4, 6) == pytest.approx(plane)


def test_glow_grows_lighter_and_more_solid_with_energy() -> None:
    colours = raster.glow_rgba(np.linspace(0, 1, 9)).astype(float)
    light = colours[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(light) > 0).all()
    assert (np.diff(colours[:, 3]) >= 0).all()
    assert colours[0, 3] == 0


def test_energy_map_is_bright_where_energy_is() -> None:
    data = figures.energy_map_data(FOUND, 7, PICTURE)
    warm = data.picture[..., 0].astype(int) - data.picture[..., 2]
    strong = raster.resize(raster.unit(FOUND.energy[7]), *PICTURE.shape[:2]) > 0.7
    assert warm[strong].mean() > 100
    assert abs(warm[~strong].mean()) < 40
    figure = figures.energy_map(FOUND, 7, PICTURE)
    assert [trace.type for trace in figure.data] == ["image", "heatmap", "scatter"]


def test_energy_that_is_nan_or_zero_shows_the_picture_alone() -> None:
    assert raster.unit(np.full((2, 2), np.nan)).tolist() == [[0, 0], [0, 0]]
    grey = raster.glow(PICTURE, np.zeros((2, 2)))
    assert (np.ptp(grey.astype(int), axis=2) == 0).all()


@pytest.mark.parametrize(("smallest", "expected"), [
    (16, [1, 4, 16, 64]), (5, [1, 5, 16, 64]), (-1, [1, 4, 16, 64]), (64, [1, 4, 16, 64]), (1, [1, 4, 16, 64])])
def test_chosen_areas_hold_the_smallest(smallest: int, expected: list[int]) -> None:
    assert energy.choose_areas(np.array([1, 2, 4, 8, 16, 32, 64]), smallest, 4).tolist() == expected


def test_area_strip_boxes_the_smallest_and_uses_its_own_energy() -> None:
    data = figures.area_strip_data(FOUND, 7, PICTURE)
    assert len(data.areas) <= 8
    assert data.areas[data.boxed] == FOUND.smallest_area[7]
    assert data.strengths[data.boxed] == pytest.approx(raster.unit(FOUND.energy[7]))
    figure = figures.area_strip(FOUND, 7, PICTURE)
    assert len(figure.layout.images) == len(data.areas) == len(figure.layout.annotations)
    assert len(figure.layout.shapes) == 1


def test_area_strip_without_energy_or_picture() -> None:
    with pytest.raises(InputError, match=r"row 1 .* keeps no energy by area"):
        figures.area_strip(FOUND, 1, PICTURE)
    with pytest.raises(InputError, match=r"expected uint8 \[H, W, 3\]"):
        figures.area_strip(FOUND, 7, PICTURE / 255)


@pytest.mark.parametrize("row", [24, -25])
def test_no_such_row(row: int) -> None:
    with pytest.raises(InputError, match="result of 24 images"):
        figures.area_curve(FOUND, row)


def test_class_channels_are_the_most_included() -> None:
    data = figures.class_channels_data(CLASSES, 1, 5)
    assert data.channels.tolist() == CLASSES.channels(1, 5, source="mean").tolist()
    assert data.joint.tolist() == CLASSES.smallest_mask[1, data.channels].tolist()
    joint, other = figures.class_channels(CLASSES, 1, 5).data
    assert len(joint.y) + len(other.y) == 5
    assert joint.marker.color == theme.ACCENT


def test_class_figures_refuse_what_is_not_there() -> None:
    with pytest.raises(InputError, match="class 99 is not in this result"):
        figures.class_channels(CLASSES, 99)
    with pytest.raises(InputError, match="count=0"):
        figures.class_matrix(CLASSES, 0)


def test_class_matrix_orders_channels_by_their_class() -> None:
    data = figures.class_matrix_data(CLASSES, 10)
    assert data.rates.shape == (6, 10)
    assert data.rates == pytest.approx(CLASSES.mean_mask[:, data.channels])
    assert (np.diff(data.rates.argmax(0)) >= 0).all()


def test_class_curves_leave_out_what_was_not_held_out() -> None:
    names = [trace.name for trace in figures.class_curves(CLASSES, 1).data]
    assert "held-out images" in names
    assert "held-out images" not in [trace.name for trace in figures.class_curves(CLASSES, 5).data]
    assert figures.class_curves_data(CLASSES, 1).held_out_scores == pytest.approx(CLASSES.held_out_scores[1])


@pytest.mark.parametrize("channels", [1, 2, 16, 528, 2048])
def test_bins_hold_every_area_once(channels: int) -> None:
    edges = areas.area_bins(channels)
    assert np.histogram(np.arange(1, channels + 1), edges)[0].sum() == channels
    assert (edges[0], edges[-1]) == (1, channels + 1)


def test_smallest_areas_counts_each_image_once() -> None:
    data = figures.smallest_areas_data(FOUND, fake_run.NAMES, FOUND.targets)
    assert data.counts.sum() + data.not_reached + data.empty == 23
    assert sum(len(c.areas) for c in data.classes) == 22
    medians = [c.median for c in data.classes]
    assert medians == sorted(medians, reverse=True)
    assert figures.smallest_areas(FOUND, fake_run.NAMES, FOUND.targets).layout.yaxis2.ticktext is not None
    with pytest.raises(InputError, match="2 labels for 24 images"):
        figures.smallest_areas(FOUND, None, [1, 2])


def test_words() -> None:
    assert words.fit("a" * 50, 9) == "aaaa…aaaa"
    assert words.safe("<b>\x00&") == "&lt;b&gt;�&amp;"
    assert words.class_name(7, ["one"]) == "class 7"
    assert words.number(-1.234) == "−1.23"


def test_methods_go_from_the_worst_share_to_the_best() -> None:
    settings = usual(layer="mix", areas=(2, 4), search=ExactSearch())
    scores = np.array([[[8.0, 9.0], [6.0, 8.0]], [[1.0, 2.0], [2.0, 2.0]], [[4.0, 5.0], [4.0, 6.0]]])
    areas = np.array([[2, 3], [9, 8], [4, -1]])
    told = Evaluation(layer="mix", settings=settings, methods=("exact", "random", "grad_cam"), keys=("a", "b"), areas=np.array([2, 4]),
                      scores=scores, top1=scores > 3, smallest_area=areas, deletion_area=areas, evaluations=np.ones((3, 2)),
                      seconds=np.ones((3, 2)), original=np.full(2, 9.0), empty=np.zeros(2), entries=16)
    data = figures.methods_data(told)
    assert [line.ahead for line in told.table()] == [0, 0, 0]
    assert data.names == ("random", "grad_cam", "exact")
    assert data.shares[2].value == 1
    assert data.shares[0].value == pytest.approx(7 / 31)
    assert data.smallest[1].value == 4  # over the one image where every method has an a*
    drawn = figures.methods(told)
    assert [list(trace.y) for trace in drawn.data] == [["random", "grad cam", "exact"]] * 2
    assert drawn.data[0].marker.color[2] == theme.ACCENT
    assert "2 images, 2 areas" in drawn.layout.title.subtitle.text
    by_layer = figures.depth_data([told, told])
    assert by_layer.needed[0].value == told.table()[0].smallest.value / 16
    assert len(figures.depth([told, told]).data) == 2
    with pytest.raises(InputError, match="no evaluations to draw by depth"):
        figures.depth([])
