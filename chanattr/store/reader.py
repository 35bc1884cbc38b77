"""Records out of an index: only the rows and chunks that are asked for are read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from chanattr import tables
from chanattr.arguments import check_kind
from chanattr.errors import StoreError
from chanattr.records import ClassAttribution, ImageAttribution, SpatialAttribution
from chanattr.store.digest import content_sha256
from chanattr.store.index import Answers, Index, Name
from chanattr.store.layout import ASKED, FORMAT_VERSION, Column, ImageTable, asked_of, columns, decode
from chanattr.store.picture_rows import counted, verify_pictures

Keys = int | np.integer | slice | str | Sequence[int] | Sequence[str] | np.ndarray | None
_TABLE = ("target", "prediction", "probability")
_WORDS = {ImageAttribution: "answers for images", ClassAttribution: "answers for classes", SpatialAttribution: "masks on the picture"}
BY_IMAGE = (ImageAttribution, SpatialAttribution)  # of channels, and on the picture


def rows_of(index: Index, rows: Any) -> np.ndarray:
    """Row numbers from a number, slice, mask, numbers or keys, i8 [R]; None is all.

    Raises:
        StoreError: a key that the run does not have, or a row out of range.
    """
    if rows is None:
        return np.arange(len(index.keys))
    if isinstance(rows, str):
        rows = [rows]
    if isinstance(rows, np.ndarray) and rows.dtype.kind in "UO":
        rows = np.atleast_1d(rows).tolist()
    if isinstance(rows, Iterable) and not isinstance(rows, np.ndarray) and all(isinstance(row, str) for row in rows):
        return np.array([_row(index, str(key)) for key in rows], np.int64)
    try:
        found = np.atleast_1d(np.arange(len(index.keys))[rows])
        if found.ndim > 1:
            raise IndexError("they are no row of numbers")
        return found
    except (IndexError, TypeError) as error:
        raise StoreError(f"rows={rows!r} of {len(index.keys)} images ({error}); expected row numbers from 0 to {len(index.keys) - 1}, "
                         "a slice, or keys; run.keys lists them") from error


def _row(index: Index, key: str) -> int:
    if key not in index.row:
        near = difflib.get_close_matches(key, index.keys, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise StoreError(f"no image {key!r} in this run of {len(index.keys)}{hint}; expected a key of run.keys; attribute the image first")
    return index.row[key]


def answers_of(index: Index, kind: type, layer: str, label: str) -> Answers:
    """The answers of one kind at a layer and label.

    Raises:
        StoreError: there are none.
    """
    check_kind("layer", layer, str, "name a layer of the run")
    check_kind("label", label, str, "leave it out for 'exact'")
    found = index.answers[kind].get((layer, label))
    if found is not None and found.pieces:
        return found
    held = sorted({f"{name} ({lab})" for name, lab in index.answers[kind]})
    near = difflib.get_close_matches(layer, [name for name, _ in index.answers[kind]], 1)
    hint = f"; did you mean {near[0]!r}?" if near and near[0] != layer else ""
    raise StoreError(f"no {_WORDS[kind]} at layer {layer!r} under the label {label!r}{hint}; expected one of what this run "
                     f"holds: {', '.join(held) or 'none'}; attribute that layer first")


def row_field(index: Index, kind: type, layer: str, label: str, name: str, rows: Keys) -> Any:
    """One array of a record of images for some rows, without reading the others.

    Raises:
        StoreError: no such answers, rows or field.
    """
    answers, chosen = answers_of(index, kind, layer, label), rows_of(index, rows)
    if name == "energy_by_area" and kind is ImageAttribution:
        return answers.energies(chosen)
    fields = {column.field: column for column in answers.head.columns}
    if name not in fields:
        also, whole = (" or energy_by_area", "per_image") if kind is ImageAttribution else ("", "spatial")
        raise StoreError(f"field {name!r}; expected one of {', '.join(sorted(fields))}{also}; run.{whole} has the others")
    return _decoded(answers, [fields[name]], chosen)[name]


def _decoded(answers: Answers, wanted: Sequence[Column], rows: np.ndarray) -> dict[str, Any]:
    stored = answers.gather(wanted, rows)
    entries = answers.head.entries
    return {column.field: decode(column, stored.pop(column.name), entries) for column in wanted}


def image_record(index: Index, layer: str, label: str, rows: Keys) -> ImageAttribution:
    """The answers for some images, as a record."""
    answers, chosen = answers_of(index, ImageAttribution, layer, label), rows_of(index, rows)
    head = answers.head
    return ImageAttribution(layer=layer, settings=head.settings, engine=head.engine, keys=tuple(index.keys[row] for row in chosen),
                            areas=head.areas, fill_values=head.fill_values, groups=head.groups,
                            energy_by_area=answers.energies(chosen), **_decoded(answers, head.columns, chosen))


def spatial_record(index: Index, layer: str, label: str, rows: Keys) -> SpatialAttribution:
    """The masks on the picture of some images, as a record."""
    answers, chosen = answers_of(index, SpatialAttribution, layer, label), rows_of(index, rows)
    head = answers.head
    return SpatialAttribution(layer=layer, settings=head.settings, engine=head.engine, size=head.grid, areas=head.areas,
                              keys=tuple(index.keys[row] for row in chosen), **_decoded(answers, head.columns, chosen))


def class_record(index: Index, layer: str, label: str) -> ClassAttribution:
    """The answers for all classes, as a record, by class number."""
    answers = answers_of(index, ClassAttribution, layer, label)
    head, targets = answers.head, answers.rows()
    return ClassAttribution(layer=layer, settings=head.settings, engine=head.engine, targets=targets.astype("<i4"), areas=head.areas,
                            fill_values=head.fill_values, groups=head.groups, **_decoded(answers, head.columns, targets))


def image_table(index: Index) -> ImageTable:
    """The images; target, prediction and probability are those of the first layer and label, by name, that ran an image.

    Channels go before masks on the picture.
    """
    count = len(index.keys)
    wanted = {column.name: column for column in columns(ImageAttribution) if column.name in _TABLE}
    found: dict[str, Any] = {name: np.full(count, column.missing, column.dtype) for name, column in wanted.items()}
    unknown = np.ones(count, bool)
    for answers in (index.answers[kind][name] for kind in BY_IMAGE for name in sorted(index.answers[kind])):
        rows = answers.rows()
        rows = rows[unknown[rows]]
        if len(rows):
            for field, values in answers.gather(list(wanted.values()), rows).items():
                found[field][rows] = values
            unknown[rows] = False
    sha256 = np.frombuffer(b"".join(index.sha256), np.uint8).reshape(count, 32).copy()
    return ImageTable(keys=tuple(index.keys), sha256=sha256, label=np.array(index.label, "<i4"), **found)


def summary_of(index: Index, path: str) -> dict[str, Any]:
    """What a run holds, in JSON types."""
    layers: dict[str, dict[str, Any]] = {}
    spatial: dict[str, dict[str, Any]] = {}
    for layer, label in index.order:
        kinds = (ImageAttribution, ClassAttribution, SpatialAttribution)
        images, classes, masks = (index.answers[kind].get((layer, label)) for kind in kinds)
        if masks:
            spatial.setdefault(layer, {})[label] = _common(masks) | {"size": list(masks.head.grid), "images": len(masks.done)}
        if held := images or classes:
            layers.setdefault(layer, {})[label] = _about(held, images, classes)
    return {"path": path, "format_version": FORMAT_VERSION, "complete": is_complete(index), "images": len(index.keys),
            "attributes": dict(index.attributes), "layers": layers, "spatial": spatial, "pictures": counted(index.pictures)}


def names_of(index: Index, spatial: bool) -> list[Name]:
    """Layers and labels that have sets of channels, for images or classes, or masks on the picture, in the order of first writing."""
    kinds = (SpatialAttribution,) if spatial else (ImageAttribution, ClassAttribution)
    return [name for name in index.order if any(name in index.answers[kind] for kind in kinds)]


def _common(answers: Answers) -> dict[str, Any]:
    head = answers.head
    return {"areas": head.areas.tolist(), "settings": head.settings.as_dict(), **head.provenance}


def _about(held: Answers, images: Answers | None, classes: Answers | None) -> dict[str, Any]:
    """Of sets of channels; `held` is the first of the two that there is."""
    about = _common(held) | {"channels": len(held.head.fill_values), "images": len(images.done) if images else 0,
                             "classes": len(classes.done) if classes else 0}
    if held.head.entry == "group":
        about["groups"] = held.head.entries
    if classes:
        about |= {"class_areas": classes.head.areas.tolist(), "class_settings": classes.head.settings.as_dict()}
    return about


def html_of(told: dict[str, Any]) -> str:
    """A run in a notebook: what `summary_of` says of it, a row for each layer and label."""
    rows = [(layer, label, said["images"], said.get("classes", 0), said.get("channels", "masks on it"))
            for part in ("layers", "spatial") for layer, labels in told[part].items() for label, said in labels.items()]
    facts = (told["path"], f"{told['images']:,} images", f"model {told['attributes'].get('model') or 'unknown'}",
             "complete" if told["complete"] else "not complete")
    return tables.table("Run", facts, ("layer", "label", "images", "classes", "channels"), rows)


def is_complete(index: Index) -> bool:
    """Whether there are answers, every image has one at every layer and label, and no run that wrote some was stopped before its end."""
    images = [answers for kind in BY_IMAGE for answers in index.answers[kind].values()]
    every = bool(index.keys) and bool(images) and all(len(answers.done) == len(index.keys) for answers in images)
    said = [one for name in ASKED for labels in asked_of(index.attributes, name).values() for one in labels.values()]
    return every and not any(one.get("finished") is False for one in said)


def verify(whole: Index, alone: Index) -> str:
    """Reads everything and compares it with what was written; gives the run's content digest.

    Args:
        whole: the run; its parts are checked against their names as they are read.
        alone: the merged file without parts.

    Raises:
        StoreError: something has changed.
    """
    if alone.file is not None:
        if content_sha256(alone) != alone.content_sha256:
            raise _changed(alone.file.path, "its content does not have the digest that it states")
        table = image_table(alone)
        with alone.file.open() as root:
            for name in _TABLE:
                if not np.array_equal(root[name][...], getattr(table, name), equal_nan=name == "probability"):
                    raise _changed(alone.file.path, f"/{name} differs from the layers'")
    for key in whole.thumbnails:
        whole.thumbnail(key)
    verify_pictures(whole.pictures)
    return content_sha256(whole)


def _changed(path: Any, why: str) -> StoreError:
    return StoreError(f"{path} has changed since it was written ({why}); expected the file as chanattr wrote it; take it from a backup, or "
                      "make it again")
