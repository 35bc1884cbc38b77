"""The merged file as others read it: plain h5py, xarray, and in blocks whatever its size."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from chanattr.axes import array_axes, equal
from chanattr.errors import StoreError
from chanattr.records import ImageAttribution
from chanattr.settings import Settings
from chanattr.store import check, index, open_run
from chanattr.store.join import join_runs
from chanattr.store.layout import ENERGY, columns, encode, escape, head_of
from chanattr.store.source import block_rows
from tests.store.make import AREAS, CHANNELS, GRID, classes, images, settings, table, write_all

xarray = pytest.importorskip("xarray")
pytest.importorskip("h5netcdf")

CERTIFICATES = {"irreducible", "pruned", "swap_gain", "swap_share", "optimal", "certify_evaluations"}
BEFORE = "e1f50f718331a56f7dfdfb95490b7e2093447980a952f7dc0c1dd4d5f2790194"  # content digest by the code that knew no certificates


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("file") / "run.h5"
    with open_run(made, "a") as run:
        run.set_attributes(model="tiny", model_sha256="ab" * 32, class_names=["a", "b"])
        run.write(images(), images=table(images()))
        run.write(images(2, 5, layer="blocks/0"))
        run.write(images(areas=()), label="smallest only")
        run.write(classes())
    return made


def test_xarray_opens_it_labelled(path: Path) -> None:
    record = images()
    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        here = tree["layers/features.10/exact"]
        for row, key in enumerate(record.keys):
            for column, area in enumerate(AREAS):
                assert here["score"].sel(image=key, area=area) == record.scores[row, column]
        assert here["top1"].dtype == bool
        assert np.array_equal(here["top1"], record.top1)
        assert here["smallest_area"].dtype == np.int32
        assert here["energy"].dims == ("image", "y", "x")
        assert here["fill_values"].dims == ("channel",)
        other = tree["layers/blocks%2F0/exact"]
        assert other["smallest_area"].values.tolist()[:2] == [-2, -2]
        assert np.isnan(other["score"].sel(image=record.keys[0])).all()
        assert tree["classes/features.10/exact"]["joint_score"].sel({"class": 2, "area": 9}) == classes().joint_scores[2, 2]
        assert tree["layers/features.10/smallest only"].sizes["area"] == 0


def test_plain_h5py_reads_it(path: Path) -> None:
    record = images()
    with h5py.File(path) as root:
        assert root.attrs["format"] == "chanattr-run"
        assert json.loads(root.attrs["settings"])["class_names"] == ["a", "b"]
        assert tuple(root["image"].asstr()) == record.keys
        group = root["layers/features.10/exact"]
        assert Settings.from_json(group.attrs["settings"]) == record.settings
        bits = group["mask_bits"]
        assert bits.attrs["encoding"] == "packbits-little"
        masks = np.unpackbits(bits[...], axis=-1, count=bits.attrs["channels"], bitorder="little").astype(bool)
        assert np.array_equal(masks, record.masks)
        assert group["energy_row"][...].tolist() == [0, 1]
        assert np.array_equal(group["energy_by_area"][...], record.energy_by_area[:2])
        assert group["top1"].attrs["dtype"] == "bool"
        height, width = root["images/height"][1], root["images/width"][1]
        assert np.array_equal(root["images/thumbnail"][1, :height, :width], table(record).thumbnails[record.keys[1]])


def test_everything_but_texts_and_markers_is_checksummed(path: Path) -> None:
    bare = []
    with h5py.File(path) as root:
        root.visititems(lambda name, item: bare.append(name) if isinstance(item, h5py.Dataset) and item.size and not item.fletcher32
                        and h5py.check_string_dtype(item.dtype) is None and not _marker(item) else None)
    assert bare == []


def _marker(item: h5py.Dataset) -> bool:
    return b"not a netCDF variable" in item.attrs.get("NAME", b"")


def test_it_opens_beside_other_readers_in_the_same_process(path: Path) -> None:
    with h5py.File(path), xarray.open_datatree(path, engine="h5netcdf"), open_run(path) as run:
        assert run.check()


def test_blocks_join_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chanattr.store.source.BLOCK", 4)
    with open_run(tmp_path / "run.h5", "a") as run:
        for start in (0, 3, 10, 17):
            run.write(images(start, start + 3, kept=18))
        run.write(images(3, 18, layer="b"))
        digest = run.content_sha256()
    monkeypatch.undo()
    with open_run(tmp_path / "run.h5") as run:
        numbers = [int(key[-8:-4]) for key in run.keys]
        done = [n for n in range(len(numbers)) if run.keys[n] in run.finished("features.10")]
        assert equal(run.per_image("features.10", rows=done), images(0, 20, kept=18)[[numbers[n] for n in done]])
        assert run.check() == digest


def test_blocks_are_small_where_rows_are_large() -> None:
    large = images(0, 1, channels=4096, areas=tuple(range(1, 4097)))
    head = head_of(large, "exact")
    rows = block_rows(columns(ImageAttribution), head)
    assert rows < 64
    assert rows * sum(np.prod(head.shape(column, 1)) for column in columns(ImageAttribution) if column.packed) <= 64 * 2**20


@pytest.mark.parametrize("kind", [type(images(0, 1)), type(classes())])
def test_every_field_of_a_record_has_a_place(kind: type) -> None:
    apart = {"areas", "fill_values", "groups"} | ({"energy_by_area"} if kind is ImageAttribution else {"targets"})
    stored = {column.field for column in columns(kind, certified=True)} - {"names"}
    assert stored | apart == set(array_axes(kind))
    assert len({column.name for column in columns(kind, certified=True)}) == len(stored) + (kind is not ImageAttribution)
    plain = {column.field for column in columns(kind)}
    assert stored - plain == (CERTIFICATES if kind is ImageAttribution else set())


def test_certificates_are_in_files_of_certified_answers_alone(tmp_path: Path) -> None:
    plain, certified = images(), images(layer="b", settings=settings("b", certify=True), irreducible=np.array([-1, 1, 1, 1, -1, 1], "i1"),
                                        swap_gain=np.array([np.nan, 0, 0.5, 0, np.nan, 0], "f4"), pruned=np.arange(6, dtype="i4"))
    with open_run(tmp_path / "run.h5", "a") as run:
        run.write(plain)
        run.write(certified[:4])
        assert equal(run.per_image("b", rows=slice(0, 4)), certified[:4])
    with h5py.File(tmp_path / "run.h5") as root:
        assert not CERTIFICATES & set(root["layers/features.10/exact"])
        assert set(root["layers/b/exact"]) >= CERTIFICATES
        assert root["layers/b/exact/irreducible"][4:].tolist() == [-1, -1]  # rows that were not run
    with open_run(tmp_path / "run.h5", "a") as run:
        run.write(certified)
        assert run.per_image("features.10").irreducible.tolist() == [-1] * 6
        assert equal(run.per_image("b"), certified)
        with pytest.raises(StoreError, match=r"this one has another pruned; expected rows that never change"):
            run.write(dataclasses.replace(certified, pruned=np.ones(6, "i4")))


def test_files_without_certificates_are_what_they_were(tmp_path: Path) -> None:
    with open_run(tmp_path / "run.h5", "a") as run:
        run.write(images())
        run.write(classes())
        assert run.content_sha256() == BEFORE


@pytest.mark.parametrize("limit", [(check, "MAX_OBJECTS", 90), (index, "LISTED", 60)], ids=["objects", "listed"])
def test_a_question_too_many_is_refused_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                             limit: tuple[Any, str, int]) -> None:
    """A file of more objects than a reader takes, or than `/image` can list, could never be merged."""
    monkeypatch.setattr(*limit)
    with open_run(tmp_path / "run.h5", "a") as run:
        run.write(images())
        run.write(images(3, 8))
        with pytest.raises(StoreError, match=r"one question too many: the file has 1 already.*; write it to another file"):
            run.write(images(), label="second")
    with open_run(tmp_path / "run.h5") as run:
        assert len(run.keys) == 8
    with open_run(tmp_path / "second.h5", "a") as second:
        second.write(images(), label="second")
    with pytest.raises(StoreError, match=r"one question too many"):
        join_runs([tmp_path / "run.h5", tmp_path / "second.h5"], tmp_path / "joined.h5")


def test_columns_are_encoded_to_their_dtype() -> None:
    record = images()
    for column in columns(ImageAttribution):
        stored = encode(column, getattr(record, column.field))
        assert stored.dtype.str == column.dtype
        assert stored.shape == head_of(record, "exact").shape(column, 6)


def test_escaped_names_are_different_and_plain() -> None:
    names = ["", ".", "..", "/", "%", "%2F", "a/b", "a%2Fb", "features.10", "x@2", "%2E"]
    escaped = [escape(name) for name in names]
    assert len(set(escaped)) == len(names)
    assert not any("/" in name or name in ("", ".", "..") for name in escaped)
    assert escape("features.10") == "features.10"


def test_the_store_imports_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    write_all(tmp_path / "run.h5", count=2)
    code = ("import sys, chanattr.store; run = chanattr.store.open_run(sys.argv[1]); run.per_image('a/b'); "
            "sys.exit(bool({'torch', 'xarray', 'plotly'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "run.h5")], check=False).returncode == 0


def test_sizes() -> None:
    assert head_of(images(), "exact").sizes == {"area": 3, "channel": CHANNELS, "entry": CHANNELS, "byte": 3, "y": GRID[0], "x": GRID[1],
                                               "code_y": 32, "code_x": 32}


def test_columns_made_twice_are_equal() -> None:
    """Also those whose missing value is NaN, which Python from 3.13 on compares with itself."""
    assert columns.__wrapped__(ImageAttribution) == columns(ImageAttribution)
    assert math.isnan(ENERGY.missing)
