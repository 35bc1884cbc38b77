"""All parts and the file before them into one new netCDF-4 file, block by block, there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from chanattr.errors import StoreError
from chanattr.records import NOT_RUN
from chanattr.store import check
from chanattr.store.digest import content_sha256
from chanattr.store.index import Answers, Index, load
from chanattr.store.layout import ENERGY, ENTRY, FOLDERS, FORMAT, FORMAT_VERSION, Column, ImageTable
from chanattr.store.netcdf import Disk, create_dataset, fill, hdf5, marker, scale
from chanattr.store.parts import Place, cannot_write, framed, put_head, sync
from chanattr.store.picture_rows import merge_pictures
from chanattr.store.provenance import LIBRARIES
from chanattr.store.reader import is_complete
from chanattr.store.source import BLOCK


def merge(place: Place, index: Index, table: ImageTable) -> None:
    """Writes the run file anew; the old one and the parts stay as they are until it is complete and durable.

    Closes the index.

    Raises:
        StoreError: the disk is full, or a source is damaged.
    """
    try:
        _write(place.merging, index, table)
        _seal(place.merging)
        sync(place.merging)
        index.close()  # some systems cannot replace a file that is open
        os.replace(place.merging, place.file)
        sync(place.file.parent)
    except (OSError, RuntimeError) as error:  # h5py raises both
        with contextlib.suppress(OSError):
            place.merging.unlink(missing_ok=True)
        if isinstance(error, StoreError):
            raise
        raise cannot_write(place.file, error) from error


def _write(path: Path, index: Index, table: ImageTable) -> None:
    with hdf5(path, "w") as (root, disk):
        root.attrs.update(_about(index))
        _put_images(root, index, table)
        for name in index.order:
            for kind in FOLDERS:
                if name in index.answers[kind]:
                    disk.check()
                    _put_answers(root, index.answers[kind][name], len(index.keys), disk)
        for where in sorted(index.pictures):
            disk.check()
            merge_pictures(root, index.pictures[where])


def _about(index: Index) -> dict[str, Any]:
    return {"Conventions": "CF-1.11", "format": FORMAT, "format_version": FORMAT_VERSION, "run_id": index.run_id,
            "settings": json.dumps(index.attributes, sort_keys=True), "model": str(index.attributes.get("model", "")),
            "model_sha256": str(index.attributes.get("model_sha256", "")), "versions": json.dumps(LIBRARIES, sort_keys=True),
            "complete": int(is_complete(index)), "parts_merged": index.last, "order": json.dumps([list(name) for name in index.order])}


def _seal(path: Path) -> None:
    """Reads the new file as a reader will, and writes the digests of its content and header into it."""
    with contextlib.closing(load(path, [], sealed=False)) as index:
        content = content_sha256(index)
    with hdf5(path, "r+") as (root, _):
        found = check.walk(root)
        root.attrs["content_sha256"] = content
        if layout := check.layout_sha256(found):
            root.attrs["layout_sha256"] = layout
        root.attrs["header_sha256"] = check.header_sha256(found, index.keys)


def _put_images(root: h5py.File, index: Index, table: ImageTable) -> None:
    count = len(table.keys)
    keys = root.create_dataset("image", (count,), h5py.string_dtype(), chunks=(8192,), maxshape=(None,))
    if count:
        keys[...] = np.array(table.keys, dtype=object)
    keys.make_scale("image")
    marker(root, "hash", 32)
    fill(root, "sha256", table.sha256, ("image", "hash"))
    marker(root, "beginning", check.KEY_BYTES)
    fill(root, "key_sha256", check.key_digests(table.keys), ("image", "beginning"))
    for name in ("label", "target", "prediction", "probability"):
        fill(root, name, getattr(table, name), ("image",))
    if index.thumbnails:
        _put_thumbnails(root.create_group("images"), index)


def _put_thumbnails(group: h5py.Group, index: Index) -> None:
    """Each in the upper left corner of an array large enough for all, one chunk a picture."""
    keys = sorted(index.thumbnails, key=lambda key: index.row[key])
    sizes = np.array([index.thumbnail(key).shape[:2] for key in keys], "<i4")
    scale(group, "row", np.array([index.row[key] for key in keys], "<i4"))
    for name, length in (("y", sizes[:, 0].max()), ("x", sizes[:, 1].max()), ("rgb", 3)):
        marker(group, name, int(length))
    for name, values in (("height", sizes[:, 0]), ("width", sizes[:, 1])):
        fill(group, name, values, ("row",))
    shape = (len(keys), *sizes.max(0).tolist(), 3)
    pictures = create_dataset(group, "thumbnail", shape, "|u1", ("row", "y", "x", "rgb"), most=1)
    for place, key in enumerate(keys):
        pictures[place] = framed(index.thumbnail(key), sizes.max(0))


def _put_answers(root: h5py.File, answers: Answers, images: int, disk: Disk) -> None:
    """One group: scales first, then every column in blocks of rows, so that memory does not grow with the run."""
    head = answers.head
    group = put_head(root, head)
    scale(group, "area", head.areas)
    if len(head.fill_values):
        for name, count in {"channel": len(head.fill_values), head.entry: head.entries}.items():
            scale(group, name, np.arange(count, dtype="<i4"))
        fill(group, "fill_values", head.fill_values, ("channel",))
    if head.entry == "group":
        fill(group, "groups", head.groups, ("channel",))
    for name in sorted({dim for column in head.columns for dim in column.dims} - {"area", "channel", ENTRY}):
        marker(group, name, head.sizes[name])
    rows = np.arange(images) if head.rows == "image" else answers.rows()
    if head.rows == "class":
        scale(group, "class", rows.astype("<i4"))
    _put_columns(group, answers, head.columns, rows, head.rows, disk)
    if len(kept := answers.energy_rows()):
        scale(group, "energy_row", kept.astype("<i4"))
        _put_columns(group, answers, (ENERGY,), kept, "energy_row", disk)


def _put_columns(group: h5py.Group, answers: Answers, wanted: Sequence[Column], rows: np.ndarray, axis: str, disk: Disk) -> None:
    head = answers.head
    made = {}
    for column in wanted:
        most = 64 if column.packed or len(column.dims) > 1 else BLOCK
        made[column.name] = create_dataset(group, column.name, head.shape(column, len(rows)), column.dtype, (axis, *head.dims(column)),
                                           most=most)
        made[column.name].attrs.update(_meaning(column, head.entries))
    for block, found in answers.blocks(wanted, rows):
        disk.check()
        for name, values in found.items():
            if values.size:
                made[name][block] = values


def _meaning(column: Column, entries: int) -> Mapping[str, Any]:
    """Attributes that tell other readers what the numbers are."""
    if column.packed:
        return {"encoding": "packbits-little", "channels": entries}
    if column.flag:
        return {"dtype": "bool"}
    if column.name.endswith("code"):
        return {"scale_factor": np.float32(1 / 255)}
    if column.field == "smallest_area":
        return {"flag": f"-1 level not reached, 0 the empty set reaches, {NOT_RUN} not run"}
    return {}
