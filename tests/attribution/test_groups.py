"""Groups of channels from the question to the file, and models with several inputs and other outputs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.axes import equal
from tests.models import images

GIVEN = np.array([3, 1, 0, 2, 1, 3, 0, 2, 2, 1])
WORTH = np.array([0.5, -2.0, 0.5, 1.0, 3.0, 0.25, 0.5, -0.5, 2.0, 0.5])  # by group: 1.0, 1.5, 2.5, 0.75; by channel 4 is the best
QUICK = ca.ExactSearch(relaxed_steps=4, binary_steps=4)


class Linear(nn.Module):
    """The logit of class c is (c + 1) times the sum of the channels' worth that are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Conv2d(3, 10, 1), nn.Linear(10, 2, bias=False)
        with torch.no_grad():
            self.mix.weight.zero_()
            self.mix.bias.fill_(1.0)  # type: ignore[union-attr]
            self.head.weight.copy_(torch.tensor(WORTH)[None] * torch.tensor([[1.0], [2.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(x).mean((2, 3)))


def by_group(groups: np.ndarray = GIVEN) -> np.ndarray:
    return np.bincount(groups, WORTH)


@pytest.mark.parametrize("game", ["preserve", "delete", "dual"])
@pytest.mark.parametrize("engine", ["tail", "injection"])
def test_the_best_groups_are_found(game: str, engine: str) -> None:
    found = ca.per_image(Linear(), images(2), "mix", group=GIVEN, targets=[0, 1], game=game, engine=engine, areas=(1, 2, 3, 4))
    order = np.argsort(-by_group())
    for row in range(2):
        for place, area in enumerate(found.areas):
            assert set(np.flatnonzero(found.masks[row, place])) == set(order[:area])
            mask = found.channel_mask(row, int(area))
            assert mask.tolist() == np.isin(GIVEN, order[:area]).tolist()
            kept = (row + 1) * WORTH[mask].sum()
            dropped = (row + 1) * WORTH[~mask].sum()
            expected = {"preserve": kept, "delete": dropped, "dual": kept - dropped}[game]
            assert found.scores[row, place] == pytest.approx(expected, abs=1e-5)
    assert (found.settings.group, found.groups.tolist()) == ("given", GIVEN.tolist())
    assert found.masks.sum(-1).tolist() == [[1, 2, 3, 4]] * 2


def test_a_found_set_can_be_used() -> None:
    model, x = Linear(), images(2)
    found = ca.per_image(model, x, "mix", group=5, targets=[0, 0], areas=(1, 2))
    assert found.groups.tolist() == [0] * 5 + [1] * 5
    with torch.no_grad(), ca.inject(model, found.layer, found.channel_mask(0, 1)):
        assert model(x)[0, 0].item() == pytest.approx(found.scores[0, 0], rel=1e-5)
    with torch.no_grad(), ca.inject(model, found.layer, found.channel_mask(1)):
        assert model(x)[1, 0].item() == pytest.approx(found.smallest_score[1], rel=1e-5)
    with pytest.raises(ca.InputError, match=r"no sets of area 7 here; expected one of \[1, 2\], or None for a\*"):
        found.channel_mask(0, 7)
    lost = dataclasses.replace(found, smallest_area=np.array([-1, -2], "i4"))
    with pytest.raises(ca.InputError, match=r"row 0 has no a\* .*; expected one that reaches its level; name an area"):
        lost.channel_mask(0)


def test_single_channels_are_groups_of_their_own() -> None:
    plain = ca.per_image(Linear(), images(2), "mix", areas=(2, 10), search=QUICK)
    alone = ca.per_image(Linear(), images(2), "mix", areas=(2, 10), search=QUICK, group=1)
    assert plain.groups.tolist() == alone.groups.tolist() == list(range(10))
    assert np.array_equal(plain.masks, alone.masks)
    assert plain.channel_mask(0, 2).tolist() == plain.masks[0, 0].tolist()
    assert (plain.settings.group, alone.settings.group) == ("", "given")


def test_areas_count_groups() -> None:
    with pytest.raises(ca.InputError, match="area 5 for a layer of 4 groups; expected a whole number of groups from 1 to 4"):
        ca.per_image(Linear(), images(2), "mix", group=GIVEN, areas=(5,))
    assert ca.per_image(Linear(), images(1), "mix", group=GIVEN).areas.tolist() == [1, 2, 3, 4]
    only = ca.per_image(Linear(), images(2), "mix", group=GIVEN, areas="smallest", level=0.4, targets=[0, 0])
    assert only.smallest_area.tolist() == [1, 1]
    assert only.smallest_mask.tolist() == [[False, False, True, False]] * 2


@pytest.mark.parametrize("fill", ["mean", "spatial_mean", list(range(10))])
def test_a_fill_is_of_channels(fill: Any) -> None:
    found = ca.per_image(Linear(), images(2), "mix", group=GIVEN, areas=(1,), fill=fill, search=QUICK)
    assert found.fill_values.shape == (10,)
    assert found.energy.shape == (2, 8, 8)
    kept = np.isin(GIVEN, np.flatnonzero(found.masks[0, 0]))
    np.testing.assert_allclose(found.energy_by_area[0, 0], np.sqrt(kept.mean()), rtol=1e-3)


def test_classes_by_groups() -> None:
    found = ca.per_class(Linear(), images(4), "mix", targets=[0, 0, 1, 1], group=GIVEN, areas=(1, 2))
    assert found.joint_masks.shape == (2, 2, 4)
    assert found.mean_mask.shape == (2, 4)
    assert found.channels(0, 1).tolist() == [2]
    assert found.channel_mask(0, 1).tolist() == (GIVEN == 2).tolist()
    assert found.channel_mask(1, 2, "mean").tolist() == np.isin(GIVEN, found.channels(1, 2, "mean")).tolist()



def loader() -> list[Any]:
    x = images(4)
    return [(x[:2], torch.tensor([0, 1]), ["a", "b"]), (x[2:], torch.tensor([0, 1]), ["c", "d"])]


def test_a_run_file_holds_groups(tmp_path: Path) -> None:
    path, asked = tmp_path / "run.h5", {"areas": (1, 2, 4), "search": QUICK, "progress": False, "targets": "label"}
    with ca.open_run(path, "a") as run:
        ca.attribute(run, Linear(), loader(), layers=["mix"], group=GIVEN, **asked)
        part = run.per_image("mix")
        with pytest.raises(ca.StoreError, match=r"with group='given', but group='' is asked"):
            ca.attribute(run, Linear(), loader(), layers=["mix"], **asked)
        with pytest.raises(ca.StoreError, match=r"with groups_sha256="):
            ca.attribute(run, Linear(), loader(), layers=["mix"], group=GIVEN[::-1].copy(), **asked)
        again = ca.attribute(run, Linear(), loader(), layers=["mix"], group=torch.tensor(GIVEN), **asked)
        assert (again.images, again.skipped) == (0, 4)
        ca.attribute(run, Linear(), loader(), layers=["mix"], label="single", **asked)
    with ca.open_run(path) as run:
        assert run.check() == run.content_sha256()
        whole = run.per_image("mix")
        assert equal(whole, part)
        assert whole.groups.tolist() == run.per_class("mix").groups.tolist() == GIVEN.tolist()
        assert (whole.masks.shape, whole.fill_values.shape) == ((4, 3, 4), (10,))
        assert run.per_image("mix", "single").groups.tolist() == list(range(10))
        direct = ca.per_image(Linear(), images(4), "mix", group=GIVEN, areas=(1, 2, 4), search=QUICK, targets=[0, 1, 0, 1])
        assert np.array_equal(whole.masks, direct.masks)


def test_labelled_axes_of_a_grouped_record(tmp_path: Path) -> None:
    xarray: Any = pytest.importorskip("xarray")
    found = ca.per_image(Linear(), images(2), "mix", group=GIVEN, areas=(1, 2), search=QUICK)
    data = found.to_xarray()
    assert (data["masks"].dims, data["groups"].dims, data["fill_values"].dims) == (("image", "area", "group"), ("channel",), ("channel",))
    assert data["channel"].values.tolist() == list(range(10))
    with ca.open_run(tmp_path / "run.h5", "a") as run:
        run.write(found)
        run.write(ca.per_class(Linear(), images(2), "mix", targets=[0, 1], group=GIVEN, areas=(1, 2), search=QUICK))
    with xarray.open_datatree(tmp_path / "run.h5", engine="h5netcdf") as tree:
        assert tree["layers/mix/exact"]["groups"].dims == ("channel",)
        assert tree["classes/mix/exact"]["mean_mask"].dims == ("class", "group")
        assert tree["layers/mix/exact"]["groups"].values.tolist() == GIVEN.tolist()


def test_a_page_and_figures_count_groups(tmp_path: Path) -> None:
    with ca.open_run(tmp_path / "run.h5", "a") as run:
        ca.attribute(run, Linear(), loader(), layers=["mix"], group=GIVEN, areas=(1, 2, 4), search=QUICK, progress=False)
        found = run.per_image("mix")
    with ca.open_run(tmp_path / "run.h5") as run:
        ca.report(run, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "of 4 groups" in page
    assert ca.figures.area_curve(found, 0).layout.xaxis.title.text == "area: groups selected"


class Two(nn.Module):
    """Takes images and a scale for each, by place or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Linear()

    def forward(self, pixels: Tensor, scale: Tensor, flag: bool = True) -> Tensor:
        return self.inner(pixels) * scale[:, None] if flag else pixels.sum()


def several(form: str, x: Tensor) -> Any:
    scale = torch.arange(1.0, len(x) + 1)
    return {"tuple": (x, scale), "mapping": {"scale": scale, "pixels": x, "flag": True}}[form]


@pytest.mark.parametrize("form", ["tuple", "mapping"])
@pytest.mark.parametrize("engine", ["tail", "injection"])
def test_a_model_of_several_inputs(form: str, engine: str) -> None:
    x = images(19)  # more than a shard
    found = ca.per_image(Two(), several(form, x), "inner.mix", areas=(2, 4), targets=[0] * 19, search=QUICK, engine=engine)
    best = np.argsort(-WORTH)
    assert [set(np.flatnonzero(mask)) for mask in found.masks[:, 0]] == [set(best[:2])] * 19
    np.testing.assert_allclose(found.scores[:, 0], np.arange(1, 20) * WORTH[best[:2]].sum(), rtol=1e-5)
    classes = ca.per_class(Two(), several(form, x), "inner.mix", targets=[0] * 10 + [1] * 9, areas=(2, 4), search=QUICK, engine=engine)
    assert classes.channels(1, 2).tolist() == sorted(best[:2])


def test_inputs_that_do_not_fit_are_refused() -> None:
    x = images(3)
    with pytest.raises(ca.InputError, match=r"tensors of 3 and of 2 rows .*; expected one row an image in each"):
        ca.per_image(Two(), (x, torch.ones(2)), "inner.mix")
    with pytest.raises(ca.InputError, match=r"images are tuple; expected a floating tensor .* or a tuple or mapping"):
        ca.per_image(Two(), ((255 * x).byte(), torch.ones(3)), "inner.mix")
    with pytest.raises(ca.ModelError, match=r"failed on images tuple\(0: torch.float32 \[N, 3, 8, 8\]\)"):
        ca.per_image(Two(), (x,), "inner.mix")
