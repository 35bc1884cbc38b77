"""docs/store-format.md against a file as it is written: its code runs, and its tables name every dataset and attribute."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from chanattr.settings import Settings
from chanattr.store import open_run
from chanattr.store.check import LIBRARY
from tests.store.make import classes, images, settings, table
from tests.store.test_pictures import write as write_pictures
from tests.store.test_spatial import spatial

DOC = (Path(__file__).parent.parent.parent / "docs" / "store-format.md").read_text(encoding="utf8")
TYPES = {"u1": "|u1", "i1": "|i1", "i4": "<i4", "f2": "<f2", "f4": "<f4"}
LETTERS = {"N": "image", "A": "area", "K": "channel", "C": "class", "B": "byte", "E": "energy_row", "R": "code_y", "S": "code_x"}
MARKER = b"This is a netCDF dimension but not a netCDF variable"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("doc") / "run.h5"
    with open_run(made, "a") as run:
        run.set_attributes(model="tiny", model_sha256="ab" * 32)
        run.write(images(), images=table(images()))
        run.write(images(2, 5, layer="blocks/0"))
        run.write(images(areas=()), label="smallest only")
        run.write(classes())
    return made


def tables(heading: str) -> list[dict[str, tuple[str, str]]]:
    """Of each table with this heading: type and axes (or meaning) by name."""
    found = []
    for block in re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", DOC, re.M):
        rows = [re.split(r" *\| *", line)[1:4] for line in block.splitlines()]
        found.append({name: (kind, axes) for names, kind, axes in rows for name in re.findall(r"`(\w+)`", names)})
    return found


def axes_of(item: h5py.Dataset) -> list[str]:
    """Names of the dimensions of a dataset; of a scale, its own."""
    return [Path(item.dims[axis][0].name).name if len(item.dims[axis]) else Path(item.name).name for axis in range(item.ndim)]


def check_group(group: h5py.Group, described: dict[str, tuple[str, str]], scales: set[str]) -> None:
    items = {name: item for name, item in group.items() if isinstance(item, h5py.Dataset)}
    own = {name for name, item in items.items() if MARKER not in item.attrs.get("NAME", b"")}
    assert own - scales == set(described)
    for name, (kind, axes) in described.items():
        dtype = items[name].dtype
        assert h5py.check_string_dtype(dtype) is not None if kind == "text" else dtype.str == TYPES[kind], name
        assert axes_of(items[name]) == [LETTERS.get(axis, axis) for axis in axes.split()], name


def test_its_code_reads_a_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    [code] = re.findall(r"```python\n(.*?)```", DOC, re.S)
    assert len(code.strip().splitlines()) <= 12
    names: dict[str, dict[tuple[str, str], tuple[dict[str, object], np.ndarray, np.ndarray, np.ndarray]]] = {}
    exec(code, names)
    assert set(names["found"]) == {("features.10", "exact"), ("features.10", "smallest only"), ("blocks/0", "exact")}
    for (layer, label), (question, keys, scores, masks) in names["found"].items():
        record = images(areas=()) if label != "exact" else images(*((2, 5) if layer == "blocks/0" else (0, 6)), layer=layer)
        assert Settings.from_json(record.settings.to_json()).as_dict() == question
        assert tuple(keys) == record.keys
        np.testing.assert_array_equal(scores, record.scores)
        np.testing.assert_array_equal(masks, record.masks)


def test_its_tables_name_every_dataset(path: Path) -> None:
    root_table, thumbnails, answers, _, kinds, _ = tables("dataset")
    with h5py.File(path) as root:
        check_group(root, root_table, set())
        check_group(root["images"], thumbnails, set())
        check_group(root["layers/features.10/exact"], answers, {"area", "channel", "fill_values"})
        check_group(root["classes/features.10/exact"], kinds, {"area", "channel", "fill_values"})
        other = root["layers/blocks%2F0/exact"]
        assert other["smallest_area"][:2].tolist() == [-2, -2]
        assert (other["area"].dtype.str, other["channel"].dtype.str, other["fill_values"].dtype.str) == ("<i4", "<i4", "<f4")


def test_its_tables_name_every_dataset_of_certified_answers(tmp_path: Path) -> None:
    with open_run(tmp_path / "run.h5", "a") as run:
        run.write(images(settings=settings(certify=True)))
    answers, certificates = tables("dataset")[2:4]
    with h5py.File(tmp_path / "run.h5") as root:
        check_group(root["layers/features.10/exact"], answers | certificates, {"area", "channel", "fill_values"})


def test_its_tables_name_every_dataset_of_masks_on_the_picture(tmp_path: Path) -> None:
    with open_run(tmp_path / "run.h5", "a") as run:
        run.write(spatial())
    with h5py.File(tmp_path / "run.h5") as root:
        group = root["spatial/:input/exact"]
        check_group(group, tables("dataset")[5], {"area"})
        assert set(group.attrs) - LIBRARY == set(tables("attribute")[1]) | set(tables("attribute of masks")[0])
        assert "`scale_factor` = 1/255" in DOC
        assert group["code"].attrs["scale_factor"] == np.float32(1 / 255)


def test_its_tables_name_every_dataset_of_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path / "run.h5")
    [every] = tables("dataset of every kind")
    with h5py.File(tmp_path / "run.h5") as root:
        for kind in ("inversions", "channels", "examples"):
            for group in root["pictures"][kind]["a%2Fb"].values():
                [described] = tables(f"dataset of {kind}")
                check_group(group, described | every, set())
                assert set(group.attrs) - LIBRARY == set(tables("attribute of pictures")[0])


def test_its_tables_name_every_attribute(path: Path) -> None:
    root_table, group_table = tables("attribute")
    with h5py.File(path) as root:
        assert set(root.attrs) - LIBRARY == set(root_table)
        for where in ("layers/features.10/exact", "classes/features.10/exact"):
            assert set(root[where].attrs) - LIBRARY == set(group_table)


def test_parts_are_as_it_says(tmp_path: Path) -> None:
    answers, _, kinds, masks = tables("dataset")[2:]
    run = open_run(tmp_path / "run.h5", "a")
    run.write(images(), images=table(images()))
    run.write(classes())
    run.write(spatial(layer="features.10"))
    parts = sorted((tmp_path / "run.h5.parts").iterdir())
    assert [re.fullmatch(r"\d{6}-[0-9a-f]{64}\.h5", part.name) is not None for part in parts] == [True, True, True]
    for part, group, described in zip(parts, ("layers", "classes", "spatial"), (answers, kinds, masks), strict=True):
        with h5py.File(part) as root:
            assert set(root.attrs) == {"format", "format_version", "run_id"}
            assert root.attrs["format"] == "chanattr-part"
            held = root[group]["features.10/exact"]
            assert set(held) == {*described, "area"} | ({"fill_values"} if group != "spatial" else set())
            assert all(held[name].chunks is None for name in held)
    with h5py.File(parts[0]) as root:
        assert set(root) == {"image", "sha256", "label", "images", "layers"}
    run.close()
