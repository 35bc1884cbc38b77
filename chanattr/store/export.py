"""A run for other programs: netCDF or zarr with plain masks, or flat tables as CSV or parquet; block by block, whatever its size."""

from __future__ import annotations

import csv
import functools
import importlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chanattr.errors import InputError, StoreError
from chanattr.store.index import Answers, Index
from chanattr.store.layout import ENERGY, FOLDERS, TEXT, Column, Head, decode
from chanattr.store.netcdf import create_dataset, hdf5, marker, scale
from chanattr.store.parts import Place, is_of_run, list_parts
from chanattr.store.run import Run

FORMATS = ("netcdf", "zarr", "csv", "parquet")
NEEDS = {"zarr": "zarr", "parquet": "pyarrow"}  # libraries by format; the extras have the formats' names


@dataclass(frozen=True)
class _Variable:
    """One array of an export, values in blocks along its first axis."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: Any  # a numpy dtype, or str
    attributes: Mapping[str, Any]
    blocks: Callable[[], Iterator[tuple[int, np.ndarray]]]


@dataclass(frozen=True)
class _Group:
    """A group of an export: coordinates, sizes of dimensions without one, and arrays."""

    path: str
    attributes: Mapping[str, Any]
    coordinates: Mapping[str, np.ndarray]
    sizes: Mapping[str, int]
    variables: Sequence[_Variable]


def export_run(run: Run, output: Path, form: str) -> list[Path]:
    """Writes a run in another form; gives the files (or the folder) that it lies in.

    netCDF and zarr have the run file's groups, names and dimensions, with masks as one byte an entry. CSV and parquet are folders of flat
    tables: ``images``, and for each kind of answers one table with a row an image (or class) and one with a row for each of its areas,
    sets as the numbers of their channels. Thumbnails and pictures that were made are left out everywhere, and arrays with more axes
    (energies, codes, mean masks) in tables.

    Raises:
        InputError: no such form, or its library is not installed.
        StoreError: the output is there already or cannot be written, or the run is damaged.
    """
    if form not in FORMATS:
        raise InputError(f"--format {form}; expected one of {', '.join(FORMATS)}; choose one")
    if form in NEEDS:
        try:
            importlib.import_module(NEEDS[form])
        except ImportError as error:
            raise InputError(f"--format {form} needs {NEEDS[form]}, which is not installed; expected the extra '{form}'; pip install "
                             f"'chanattr[{form}]', or take netcdf or csv") from error
    if is_of_run(output, run.path) or list_parts(Place(output).parts):
        raise StoreError(f"{output} belongs to a run; expected a place for the export alone; name another")
    if os.path.lexists(output):
        raise StoreError(f"{output} is there already; expected a place for the export; name another, or move that one away")
    try:
        with tempfile.TemporaryDirectory(prefix=".chanattr-export-", dir=output.parent, ignore_cleanup_errors=True) as folder:
            temporary = Path(folder, "export")
            {"netcdf": _netcdf, "zarr": _zarr, "csv": _csv, "parquet": _parquet}[form](run.index_for_copies, temporary)
            os.replace(temporary, output)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{output} cannot be written ({error.strerror or error}); expected room and permission to write there; make room, "
                         "or name another place") from error
    return sorted(output.iterdir()) if output.is_dir() and form != "zarr" else [output]


# Arrays


def _groups(index: Index) -> Iterator[_Group]:
    """The root with the images, then every layer, label and kind."""
    yield _Group("", {"Conventions": "CF-1.11", "source": "chanattr", "settings": json.dumps(index.attributes, sort_keys=True)},
                 {"image": np.array(index.keys, object)}, {"hash": 32},
                 [_whole("sha256", ("image", "hash"), np.frombuffer(b"".join(index.sha256), np.uint8).reshape(-1, 32)),
                  _whole("label", ("image",), np.array(index.label, "<i4"))])
    for name in index.order:
        for kind in FOLDERS:
            if name in index.answers[kind]:
                yield _group(index, index.answers[kind][name])


def _group(index: Index, answers: Answers) -> _Group:
    head = answers.head
    images = head.rows == "image"
    rows = np.arange(len(index.keys)) if images else answers.rows()
    coordinates: dict[str, np.ndarray] = {"area": head.areas}
    if len(head.fill_values):
        coordinates["channel"] = np.arange(len(head.fill_values), dtype="<i4")
        coordinates[head.entry] = np.arange(head.entries, dtype="<i4")
    if not images:
        coordinates["class"] = rows.astype("<i4")
    variables = [_variable(answers, column, rows, head.rows) for column in head.columns]
    kept = answers.energy_rows()
    if len(kept):
        coordinates["energy_row"] = kept.astype("<i4")
        variables.append(_variable(answers, ENERGY, kept, "energy_row"))
    if len(head.fill_values):
        variables.append(_whole("fill_values", ("channel",), head.fill_values))
    if head.entry == "group":
        variables.append(_whole("groups", ("channel",), head.groups))
    sizes = {dim: head.sizes[dim] for column in head.columns for dim in column.dims if dim in ("y", "x", "code_y", "code_x")}
    return _Group(head.path, {"layer": head.layer, "label": head.label, "settings": head.settings.to_json(), **head.provenance,
                              **head.own_attributes}, coordinates, sizes, variables)


def _variable(answers: Answers, column: Column, rows: np.ndarray, axis: str) -> _Variable:
    head = answers.head
    dims = tuple(head.entry if dim == "byte" else dim for dim in head.dims(column))
    shape = (len(rows), *(head.entries if dim == "byte" else head.sizes[dim] for dim in column.dims))
    name = {"mask_bits": "mask"}.get(column.name, column.name.replace("_bits", "_mask"))
    dtype = str if column.dtype == TEXT else np.dtype("i1") if column.packed or column.flag else np.dtype(column.dtype)
    about: dict[str, Any] = {"dtype": "bool"} if column.packed or column.flag else {}
    if column.name.endswith("code"):
        about["scale_factor"] = 1 / 255

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        for block, found in answers.blocks([column], rows):
            stored = found[column.name]
            values = decode(column, stored, head.entries) if column.packed or column.flag else stored
            yield block.start, np.asarray(values).astype(object if dtype is str else dtype)

    return _Variable(name, (axis, *dims), shape, dtype, about, blocks)


def _whole(name: str, dims: tuple[str, ...], values: np.ndarray) -> _Variable:
    return _Variable(name, dims, values.shape, str if values.dtype == object else values.dtype, {}, lambda: iter([(0, values)]))


def _netcdf(index: Index, output: Path) -> None:
    with hdf5(output, "w") as (root, disk):
        for group in _groups(index):
            disk.check()
            here = root.require_group(group.path) if group.path else root
            here.attrs.update(group.attributes)
            for name, values in group.coordinates.items():
                scale(here, name, values)
            for name, length in group.sizes.items():
                marker(here, name, length)
            for one in group.variables:
                made = create_dataset(here, one.name, one.shape, TEXT if one.dtype is str else one.dtype, one.dims)
                made.attrs.update(one.attributes)
                for start, values in one.blocks():
                    if values.size:
                        made[start:start + len(values)] = values


def _zarr(index: Index, output: Path) -> None:
    import zarr

    root = zarr.create_group(store=str(output), zarr_format=3)
    for group in _groups(index):
        here = root.require_group(_zarr_path(group.path)) if group.path else root
        here.update_attributes(dict(group.attributes))
        coordinates = [_whole(name, (name,), values) for name, values in group.coordinates.items()]
        for one in (*coordinates, *group.variables):
            rest = int(np.prod(one.shape[1:])) or 1
            rows = max(1, min(one.shape[0], 2**20 // rest))
            made = here.create_array(one.name, shape=one.shape, dtype=one.dtype, chunks=(rows, *(max(1, n) for n in one.shape[1:])),
                                     dimension_names=one.dims, attributes=dict(one.attributes))
            for start, values in one.blocks():
                if values.size:
                    made[start:start + len(values)] = values.astype(str) if one.dtype is str else values


def _zarr_path(path: str) -> str:
    """A group's path without the names that zarr keeps for itself, escaped as those of the run file."""
    return "/".join(re.sub(r"^(zarr\.json$|__|\.z)", lambda match: f"%{ord(match[0][0]):02X}{match[0][1:]}", name)
                    for name in path.split("/"))


# Tables


@dataclass(frozen=True)
class _Table:
    """A flat table: its name, its columns with their kinds ("text", "int", "float", "flag", "numbers"), and rows a block at a time."""

    name: str
    columns: Mapping[str, str]
    blocks: Callable[[], Iterator[dict[str, list[Any]]]]


def _tables(index: Index) -> Iterator[_Table]:
    """The images, and for each kind of answers a table of its rows and one of their areas."""
    def images() -> Iterator[dict[str, list[Any]]]:
        yield {"key": list(index.keys), "sha256": [digest.hex() for digest in index.sha256], "label": list(index.label)}

    yield _Table("images", {"key": "text", "sha256": "text", "label": "int"}, images)
    for kind, folder in FOLDERS.items():
        every = [index.answers[kind][name] for name in index.order if name in index.answers[kind]]
        for suffix, by_area in (("", False), ("_areas", True)):
            shown: dict[str, str] = {}
            for answers in every:
                shown |= {column.name: _kind(column) for column in _flat(answers.head, by_area)}
            if every:
                head = every[0].head
                keyed = {"layer": "text", "label": "text", **({"key": "text"} if head.rows == "image" else {"class": "int"})}
                if by_area:
                    keyed["area"] = "float" if head.areas.dtype.kind == "f" else "int"
                names = keyed | {_plain_name(name): what for name, what in shown.items()}
                yield _Table(f"{folder}{suffix}", names, functools.partial(_blocks, index, every, by_area, names))


def _plain_name(name: str) -> str:
    """Of a set as channel numbers."""
    return {"mask_bits": "channels"}.get(name, name.replace("_bits", "_channels"))


def _flat(head: Head, by_area: bool) -> list[Column]:
    wanted = ("area",) if by_area else ()
    return [column for column in head.columns if tuple(dim for dim in column.dims if dim != "byte") == wanted]


def _kind(column: Column) -> str:
    if column.packed:
        return "numbers"
    if column.dtype == TEXT:
        return "text"
    return "flag" if column.flag else "float" if "f" in column.dtype else "int"


def _blocks(index: Index, every: Sequence[Answers], by_area: bool, names: Mapping[str, str]) -> Iterator[dict[str, list[Any]]]:
    """Rows that were run, with every column; those that only other answers have are empty."""
    for answers in every:
        head, rows = answers.head, answers.rows()
        wanted = _flat(head, by_area)
        times = len(head.areas) if by_area else 1
        for places, found in answers.blocks(wanted, rows):
            block = rows[places]
            keyed = [index.keys[row] for row in block] if head.rows == "image" else block.tolist()
            lines = len(block) * times
            made: dict[str, list[Any]] = {"layer": [head.layer] * lines, "label": [head.label] * lines,
                                          "key" if head.rows == "image" else "class": [name for name in keyed for _ in range(times)]}
            if by_area:
                made["area"] = head.areas.tolist() * len(block)
            for column in wanted:
                values = decode(column, found[column.name], head.entries)
                name = _plain_name(column.name)
                if column.packed:
                    made[name] = [np.flatnonzero(mask).tolist() for mask in values.reshape(-1, head.entries)]
                else:
                    made[name] = list(values) if column.dtype == TEXT else np.asarray(values).reshape(-1).tolist()
            yield {name: made.get(name, [None] * lines) for name in names}


def _csv(index: Index, output: Path) -> None:
    output.mkdir()
    for table in _tables(index):
        with open(output / f"{table.name}.csv", "w", newline="", encoding="utf8") as file:
            lines = csv.writer(file)
            lines.writerow(table.columns)
            for block in table.blocks():
                lines.writerows(zip(*([_cell(value, kind) for value in block[name]] for name, kind in table.columns.items()), strict=True))


def _cell(value: Any, kind: str) -> str:
    """A value as text: floats as float32 needs them, NaN and nothing empty, numbers apart by spaces, flags 0 and 1."""
    if value is None or value != value:
        return ""
    if kind == "float":
        return f"{value:.9g}"
    if kind == "flag":
        return str(int(value))
    return " ".join(map(str, value)) if kind == "numbers" else str(value)


def _parquet(index: Index, output: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    kinds = {"text": arrow.string(), "int": arrow.int64(), "float": arrow.float32(), "flag": arrow.bool_(),
             "numbers": arrow.list_(arrow.int32())}
    output.mkdir()
    for table in _tables(index):
        schema = arrow.schema([(name, kinds[kind]) for name, kind in table.columns.items()])
        with parquet.ParquetWriter(str(output / f"{table.name}.parquet"), schema) as file:
            for block in table.blocks():
                file.write_table(arrow.table(block, schema=schema))
