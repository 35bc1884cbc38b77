"""The joint view: a mask on the picture against channel energies, on grids where the answer is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import chanattr as ca
from chanattr.codes import masks_of
from chanattr.pictures.figures import mask_and_channels, mask_and_channels_data
from chanattr.records import NOT_RUN, ImageAttribution
from chanattr.search.family import CHANNEL_EXACT
from tests.pictures.test_spatial_figures import made
from tests.usual import usual


def channels_of(energy: np.ndarray, keys: tuple[str, ...] = ("a.jpg",), model: str = "") -> ImageAttribution:
    """A record of two channels with this energy map for every image."""
    count, (height, width) = len(keys), energy.shape
    one, none = np.ones(count, np.float32), np.zeros((count, 0), np.float32)
    return ImageAttribution(
        layer="mix", settings=usual(layer="mix", areas=(), search=CHANNEL_EXACT, model_sha256=model), engine="", keys=keys,
        targets=np.zeros(count, np.int32), predictions=np.zeros(count, np.int32), probability=one, areas=np.zeros(0, np.int32),
        masks=np.zeros((count, 0, 2), bool), scores=none, original=one, empty=0 * one, top1=none.astype(bool),
        smallest_area=np.ones(count, np.int32), smallest_mask=np.ones((count, 2), bool), smallest_score=one,
        smallest_top1=np.ones(count, bool), energy=np.broadcast_to(energy, (count, height, width)).astype(np.float32),
        energy_by_area=np.zeros((count, 0, height, width), np.float32), fill_values=np.zeros(2, np.float32), evaluations=one,
        refine_evaluations=one)


def test_energy_that_is_the_mask_agrees_wholly() -> None:
    codes = made()
    mask = masks_of(codes.smallest_code[0], (16, 16))
    view = ca.joint_view(codes, [channels_of(mask)])
    assert view.correlation[0, 0] == pytest.approx(1, abs=1e-5)
    assert view.overlap[0, 0] == 1
    assert view.inside[0, 0] == pytest.approx(mask.max(), abs=1e-5)
    assert view.share[0, 0] == pytest.approx((mask**3).sum() / (mask**2).sum(), rel=1e-4)
    assert view.areas[0] == pytest.approx(codes.true_areas[0, 0], abs=1e-5)


def test_tokens_are_compared_where_they_lie() -> None:
    codes = made()
    mask = masks_of(codes.smallest_code[0], (16, 16))
    view = ca.joint_view(codes, [channels_of(np.concatenate([[9.0], mask.ravel()])[None]), channels_of(mask)])  # a class token first
    assert view.masks[0].shape == view.energies[0].shape == (1, 16, 16)
    for values in (view.correlation, view.overlap, view.inside, view.share):
        assert values[0, 0] == values[1, 0]


def test_energy_elsewhere_does_not() -> None:
    energy = np.zeros((16, 16))
    energy[0, 0] = 1
    view = ca.joint_view(made(), [channels_of(energy), channels_of(np.ones((4, 4)))], area=0.05)
    assert view.overlap[0, 0] < 0.2
    assert view.inside[0, 0] < 0.01
    assert view.share[0, 0] < 0.01
    assert view.correlation[0, 0] < 0.05
    assert np.isnan(view.correlation[1, 0])  # constant energy
    assert view.share[1, 0] == pytest.approx(view.masks[1][0].mean(), abs=1e-5)  # what chance gives
    assert len(view.table().splitlines()) == 3


def test_images_that_one_of_them_never_ran_on_are_left_out() -> None:
    codes = made()
    both = dataclasses.replace(codes, **{field: np.repeat(getattr(codes, field), 3, 0) for field in (
        "targets", "predictions", "probability", "codes", "true_areas", "scores", "view_scores", "level_set_scores", "greyness", "peak",
        "top1", "original", "empty", "smallest_code", "smallest_score", "smallest_top1", "evaluations", "refine_evaluations")},
        keys=("a.jpg", "b.jpg", "c.jpg"), smallest_area=np.array([NOT_RUN, 0.05, 0.05], np.float32))
    channels = channels_of(np.ones((4, 4)), both.keys)
    part = dataclasses.replace(channels, smallest_area=np.array([1, 1, NOT_RUN], np.int32))
    assert ca.joint_view(both, [channels]).keys == ("b.jpg", "c.jpg")
    assert ca.joint_view(both, [channels, part]).keys == ("b.jpg",)
    with pytest.raises(ca.InputError, match="no image is in all of 2 answers"):
        ca.joint_view(both[[0]], [channels])


def test_areas_and_missing_a_stars() -> None:
    codes = made()
    assert ca.joint_view(codes, [channels_of(np.ones((4, 4)))], area=0.3).areas[0] == pytest.approx(codes.true_areas[0, 2], abs=1e-5)
    assert ca.joint_view(made(-1.0), [channels_of(np.ones((4, 4)))]).areas[0] == pytest.approx(codes.true_areas[0, 2], abs=1e-5)


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ca.InputError, match="no image is in all of 2 answers"):
        ca.joint_view(made(), [channels_of(np.ones((4, 4)), ("other",))])
    with pytest.raises(ca.InputError, match="answers at one layer or more"):
        ca.joint_view(made(), [])
    with pytest.raises(ca.InputError, match="several models"):
        ca.joint_view(made(), [channels_of(np.ones((4, 4)), model="ff")])
    with pytest.raises(ca.InputError, match=r"area=0\.07; expected one of"):
        ca.joint_view(made(), [channels_of(np.ones((4, 4)))], area=0.07)
    both = dataclasses.replace(channels_of(np.ones((4, 4)), ("z", "a.jpg")))
    assert ca.joint_view(made(), [both]).keys == ("a.jpg",)


def test_both_answers_are_drawn_side_by_side() -> None:
    picture, energy = np.full((64, 64, 3), 90, np.uint8), np.zeros((8, 8))
    energy[0, 0] = 1
    view = ca.joint_view(made(), [channels_of(energy), channels_of(np.ones((16, 16)))], area=0.05)
    silent = ca.joint_view(made(), [channels_of(np.zeros((8, 8)))])
    assert not any("nan" in note.text for note in mask_and_channels(silent, 0, picture).layout.annotations)
    data = mask_and_channels_data(view, 0, picture)
    assert data.layers == ("mix", "mix")
    assert data.pictures.shape == (3, 64, 64, 3)
    mask, corner, everywhere = data.pictures.astype(int)
    white = (mask == 255).all(2)
    assert np.array_equal(white, (everywhere == 255).all(2))  # one edge in all of them
    assert white.any()
    assert corner[0, 0, 0] > corner[0, 0, 2]  # glows where the energy is, and nowhere else
    assert np.ptp(corner[40, 40]) == 0
    middle = np.argwhere(white).mean(0).round().astype(int)
    assert mask[tuple(middle)].min() > mask[-1, -1].max()  # the region that the edge surrounds is what the mask keeps
    told = " ".join(note.text for note in mask_and_channels(view, 0, picture).layout.annotations)
    assert f"{view.areas[0]:.1%} of it" in told
    assert f"{view.share[0, 0]:.0%} of the energy in it" in told
    assert "nan" not in told


@pytest.mark.parametrize("row", [1, -2])
def test_a_row_that_is_not_there_is_not_drawn(row: int) -> None:
    view = ca.joint_view(made(), [channels_of(np.ones((4, 4)))])
    with pytest.raises(ca.InputError, match=f"row {row} of a view of 1 images; expected a row from 0 to 0"):
        mask_and_channels(view, row, np.zeros((8, 8, 3), np.uint8))
