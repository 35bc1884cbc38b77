"""Exports hold what the run holds, read by others' libraries; nothing is left of one that failed."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chanattr.errors import InputError, StoreError
from chanattr.store import open_run
from chanattr.store.export import export_run
from tests.store.make import AREAS, classes, images, settings, table
from tests.store.test_spatial import spatial

LAYER = "features.10"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers (one of them for some images), certificates, classes, and masks on the picture; a part beside the file."""
    made = tmp_path_factory.mktemp("export") / "run.h5"
    with open_run(made, "a") as run:
        run.set_attributes(model="tiny", model_sha256="ab" * 32)
        run.write(images(0, 4), images=table(images(0, 4)))
        run.write(images(1, 3, layer="b/c", settings=settings("b/c", certify=True)))
        run.write(classes())
        run.write(spatial(0, 3))
    run = open_run(made, "a")
    run.write(images(4, 6))
    run._release()
    return made


def export(path: Path, output: Path, form: str) -> list[Path]:
    with open_run(path) as run:
        return export_run(run, output, form)


def check_tree(tree: Any) -> None:
    """An xarray tree against the records."""
    record = images()
    here = tree[f"layers/{LAYER}/exact"]
    assert list(here["image"].values) == list(record.keys)
    for name, values in (("mask", record.masks), ("score", record.scores), ("top1", record.top1), ("smallest_area", record.smallest_area),
                         ("smallest_mask", record.smallest_mask), ("energy", record.energy)):
        assert np.array_equal(here[name].values, values, equal_nan=values.dtype.kind == "f"), name
    assert here["mask"].dims == ("image", "area", "channel")
    assert here["mask"].dtype == bool
    assert here["score"].sel(image=record.keys[5], area=9) == record.scores[5, 2]
    assert np.array_equal(here["energy_by_area"].values, record.energy_by_area[:2])
    partly = tree["layers/b%2Fc/exact"]
    assert partly["smallest_area"].values.tolist()[3:] == [-2] * 3
    assert np.array_equal(partly["mask"].values[1:3], images(1, 3, layer="b/c").masks)
    joint = tree[f"classes/{LAYER}/exact"]
    assert np.array_equal(joint["joint_mask"].values, classes().joint_masks)
    assert joint["name"].values.tolist() == list(classes().names)
    codes = tree["spatial/:input/exact"]["code"].values[:3]
    assert np.allclose(codes * 255, spatial(0, 3).codes, atol=1e-3)


def test_netcdf(path: Path, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    assert export(path, tmp_path / "run.nc", "netcdf") == [tmp_path / "run.nc"]
    with xarray.open_datatree(tmp_path / "run.nc", engine="h5netcdf") as tree:
        check_tree(tree)


def test_zarr(path: Path, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    assert export(path, tmp_path / "run.zarr", "zarr") == [tmp_path / "run.zarr"]
    with xarray.open_datatree(tmp_path / "run.zarr", engine="zarr", consolidated=False) as tree:
        check_tree(tree)


def check_tables(tables: dict[str, list[dict[str, Any]]], numbers: Any) -> None:
    """Flat tables against the records."""
    assert set(tables) == {"images", "layers", "layers_areas", "classes", "classes_areas", "spatial", "spatial_areas"}
    record = images()
    assert [row["key"] for row in tables["images"]] == list(record.keys)
    mine = [row for row in tables["layers"] if row["layer"] == LAYER]
    assert [numbers(row["smallest_channels"]) for row in mine] == [np.flatnonzero(mask).tolist() for mask in record.smallest_mask]
    assert np.array_equal([np.float32(row["original"]) for row in mine], record.original)
    assert [int(row["smallest_area"]) for row in mine] == record.smallest_area.tolist()
    assert all(row["pruned"] in (None, "") for row in mine)  # of certified answers alone
    other = [row for row in tables["layers"] if row["layer"] == "b/c"]
    assert [row["key"] for row in other] == list(record.keys[1:3])
    assert [int(row["pruned"]) for row in other] == [0, 0]
    sets = [row for row in tables["layers_areas"] if row["layer"] == LAYER]
    assert [(row["key"], int(row["area"])) for row in sets] == [(key, area) for key in record.keys for area in AREAS]
    assert [numbers(row["channels"]) for row in sets] == [np.flatnonzero(mask).tolist() for mask in record.masks.reshape(18, -1)]
    assert np.array_equal([np.float32(row["score"]) for row in sets], record.scores.reshape(-1))
    assert [row["name"] for row in tables["classes"]] == list(classes().names)
    assert [int(row["class"]) for row in tables["classes_areas"]] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert np.allclose([np.float32(row["area"]) for row in tables["spatial_areas"]][:2], [0.05, 0.2])


def test_csv(path: Path, tmp_path: Path) -> None:
    tables = {}
    for file in export(path, tmp_path / "tables", "csv"):
        with open(file, newline="", encoding="utf8") as lines:
            tables[file.stem] = list(csv.DictReader(lines))
    check_tables(tables, lambda text: [int(word) for word in text.split()])
    row = next(row for row in tables["layers"] if row["smallest_area"] == "-1")
    assert row["smallest_score"] == ""


def test_parquet(path: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    tables = {file.stem: parquet.read_table(file).to_pylist() for file in export(path, tmp_path / "tables", "parquet")}
    check_tables(tables, list)
    assert tables["layers"][0]["smallest_top1"] is bool(images().smallest_top1[0])


def test_blocks_join_to_the_whole(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(path, tmp_path / "one", "csv")
    monkeypatch.setattr("chanattr.store.source.BLOCK", 2)
    export(path, tmp_path / "two", "csv")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_what_cannot_be_exported(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--format json; expected one of netcdf, zarr, csv, parquet"):
        export(path, tmp_path / "x", "json")
    (tmp_path / "there").write_text("mine")
    with pytest.raises(StoreError, match=r"there is there already; expected a place"):
        export(path, tmp_path / "there", "csv")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs pyarrow, which is not installed; expected the extra 'parquet'; pip install"):
        export(path, tmp_path / "x", "parquet")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for form in ("csv", "netcdf"):
        with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\)"):
            export(path, tmp_path / "x", form)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["there"]


@pytest.mark.parametrize("form", ["netcdf", "csv"])
def test_nothing_of_the_users_is_taken_for_ours(path: Path, tmp_path: Path, form: str) -> None:
    """A folder or file of another name, however alike it is."""
    for name in ("book.writing", ".book.writing", "book.parts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    export(path, tmp_path / "book", form)
    assert all((tmp_path / name / "mine.txt").read_text() == "mine" for name in ("book.writing", ".book.writing", "book.parts"))
    assert sorted(one.name for one in tmp_path.iterdir()) == [".book.writing", "book", "book.parts", "book.writing"]
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(StoreError, match="is there already"):
        export(path, tmp_path / "link", form)


@pytest.mark.parametrize("place", ["run.h5", "alias.h5", "run.h5.lock", "run.h5.merging", "run.h5.parts", "run.h5.parts/book", "other.h5"])
def test_an_export_never_takes_the_place_of_a_run(tmp_path: Path, place: str) -> None:
    """Neither of its own, which may lie in parts alone, nor of another."""
    (tmp_path / "alias.h5").symlink_to("run.h5")
    for name in ("run.h5", "other.h5"):
        run = open_run(tmp_path / name, "a")
        run.write(images(0, 4))
        run._release()
    assert not (tmp_path / "run.h5").exists()
    with pytest.raises(StoreError, match="belongs to a run; expected a place for the export alone; name another"):
        export(tmp_path / "run.h5", tmp_path / place, "netcdf")
    for name in ("run.h5", "other.h5"):
        with open_run(tmp_path / name) as run:
            assert len(run.keys) == 4
            run.check()


@pytest.mark.parametrize("layer", ["zarr.json", "__own", ".zgroup", "zarr.jsonx"])
def test_names_that_zarr_keeps_for_itself(tmp_path: Path, layer: str) -> None:
    zarr = pytest.importorskip("zarr")
    with open_run(tmp_path / "run.h5", "a") as run:
        run.write(record := images(0, 2, layer=layer, settings=settings(layer)))
    export(tmp_path / "run.h5", tmp_path / "run.zarr", "zarr")
    [group] = [group for _, group in zarr.open_group(str(tmp_path / "run.zarr"), mode="r")["layers"].groups()]
    assert group["exact"].attrs["layer"] == layer
    assert np.array_equal(group["exact"]["score"][...], record.scores, equal_nan=True)
