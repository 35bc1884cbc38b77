"""Records into an index: what is new is told from what is there, and what contradicts it is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chanattr.errors import StoreError
from chanattr.records import NOT_RUN, ClassAttribution, ImageAttribution, SpatialAttribution
from chanattr.store.index import Index, check_bytes, check_label, check_room, check_same, filled_in
from chanattr.store.layout import ENERGY, UNKNOWN_SHA256, Column, Head, ImageTable, check_text, encode, head_of
from chanattr.store.parts import ImageRows, build_part

ByImage = ImageAttribution | SpatialAttribution
Known = dict[str, tuple[bytes, int]]  # sha256 and label by key


def check_keys(keys: Sequence[str]) -> None:
    """Refuses keys that cannot be stored or come twice.

    Raises:
        StoreError: one is no text, or there twice.
    """
    seen = set()
    for key in keys:
        check_text("key", key)
        if key in seen:
            raise StoreError(f"key {key!r} comes twice; expected every image to have its own; rename one of them")
        seen.add(key)


def register(index: Index, known: Known, keys: Sequence[str], sha256: np.ndarray, labels: np.ndarray) -> list[str]:
    """Takes note of images; gives the keys of the run whose row of the image table changes by it.

    Raises:
        StoreError: keys that cannot be stored, or a known key with other bytes or another label.
    """
    check_keys(keys)
    digests, numbers = np.asarray(sha256, np.uint8), np.asarray(labels)
    if digests.shape != (len(keys), 32) or numbers.shape != (len(keys),):
        raise StoreError(f"{len(keys)} keys came with sha256 {digests.shape} and labels {numbers.shape}; expected {(len(keys), 32)} and "
                         f"{(len(keys),)}; give one digest and one label a key (zeros and -1 where unknown)")
    found = {key: (bytes(digest), int(number)) for key, digest, number in zip(keys, digests, numbers, strict=True)}
    for key, (digest, number) in found.items():
        stored, label = _known(index, known, key)
        check_bytes(key, stored, digest)
        check_label(key, label, number)
    changed = []
    for key, new in found.items():
        before = _known(index, known, key)
        if key not in index.row:
            known[key] = filled_in(before, new)
            continue
        index.add_image(key, *new)
        if _known(index, known, key) != before:
            changed.append(key)
    return changed


def _known(index: Index, known: Known, key: str) -> tuple[bytes, int]:
    """sha256 and label of an image, from what the run holds or what was registered."""
    row = index.row.get(key)
    return known.get(key, (UNKNOWN_SHA256, -1)) if row is None else (index.sha256[row], index.label[row])


def image_rows(index: Index, known: Known, keys: Sequence[str], thumbnails: Mapping[str, np.ndarray]) -> ImageRows:
    """Rows of the image table for a part, with those of the thumbnails that there are."""
    about = [_known(index, known, key) for key in keys]
    return ImageRows(keys=keys, sha256=np.frombuffer(b"".join(digest for digest, _ in about), np.uint8).reshape(len(keys), 32),
                     label=np.array([number for _, number in about], "<i4"),
                     thumbnails={row: thumbnails[key] for row, key in enumerate(keys) if key in thumbnails})


def _picture(key: str, picture: Any) -> np.ndarray:
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise StoreError(f"the thumbnail of {key!r} is {array.dtype} {array.shape}; expected uint8 (y, x, 3); convert it to RGB")
    return array


def image_part(index: Index, known: Known, record: ByImage, label: str,
               thumbnails: dict[str, np.ndarray]) -> bytes | None:
    """The part of a record of images; None when the run holds all of it.

    Raises:
        StoreError: another question, or other answers for rows that are there.
    """
    head = head_of(record, label)
    check_keys(record.keys)
    _check_head(index, head)
    ran = _new_rows(index, head, record)
    fresh = [row for row, key in enumerate(record.keys) if ran[row] or key not in index.row]
    if not fresh:
        return None
    part = record[np.array(fresh)]
    keys = [record.keys[row] for row in fresh]
    data = {column: encode(column, getattr(part, column.field)) for column in head.columns}
    for column in data:
        data[column][~ran[fresh]] = column.missing
    pictures = {key: _picture(key, thumbnails[key]) for key in keys if key in thumbnails and key not in index.thumbnails}
    return build_part(index.run_id, images=image_rows(index, known, keys, pictures), head=head if ran.any() else None, data=data,
                       energy=_energy(part, ran[fresh]))


def _energy(record: ByImage, ran: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows that keep the energy at every area, and that energy."""
    if not isinstance(record, ImageAttribution):
        return None
    kept = np.flatnonzero(ran & ~np.isnan(record.energy_by_area).all((1, 2, 3)))
    if not len(kept):
        return None
    return kept.astype("<i4"), encode(ENERGY, record.energy_by_area[kept])


def _check_head(index: Index, head: Head) -> None:
    """Refuses answers of another model or to another question."""
    check_text("layer", head.layer)
    check_text("label", head.label)
    if not head.label:
        raise StoreError("label ''; expected a name under which the answers lie in the file; leave it out for 'exact'")
    check_model(index, head.settings.model_sha256)
    stored = index.answers[head.kind].get((head.layer, head.label))
    if stored is not None:
        check_same(stored.head, head)
    check_room(index, head)


def attributes_with(index: Index, values: Mapping[str, Any]) -> str:
    """The run's attributes with some set anew, as JSON.

    Raises:
        StoreError: a value that JSON cannot hold, or another model than that of the answers in the file.
    """
    if "model_sha256" in values:
        check_model(index, str(values["model_sha256"]))
    try:
        return json.dumps({**index.attributes, **values}, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"the attributes {', '.join(values)} cannot be stored ({error}); expected text, numbers, lists and dicts; "
                         "convert them first") from error


def check_model(index: Index, sha256: str) -> None:
    """Refuses another model than the one that the run's answers are of.

    Raises:
        StoreError: both digests are known and differ.
    """
    stated = str(index.attributes.get("model_sha256") or "")
    held = [answers.head.settings.model_sha256 for kind in index.answers.values() for answers in kind.values()]
    for other in ([stated] if held else []) + held:
        if sha256 and other and other != sha256:
            raise StoreError(f"other model in the same file: it holds answers of {index.attributes.get('model') or 'a model'} with weights "
                             f"{other[:12]}, these are of weights {sha256[:12]}; expected one model a file; write to another file")


def check_table(record: ByImage, images: ImageTable) -> None:
    """Refuses a table of other images than the record's.

    Raises:
        StoreError: the keys differ.
    """
    if images.keys != record.keys:
        raise StoreError(f"images has {len(images.keys)} keys, the record {len(record.keys)}, and they differ; expected the same keys in "
                         "the same order; make the table from the record's keys")


def _new_rows(index: Index, head: Head, record: ByImage) -> np.ndarray:
    """Which rows hold answers that the run does not; rows that were not run (-2) hold none.

    Raises:
        StoreError: the run holds other answers for one of them.
    """
    ran: np.ndarray = np.asarray(record.smallest_area) != NOT_RUN
    stored = index.answers[head.kind].get((head.layer, head.label))
    if stored is None:
        return ran
    both = [row for row, key in enumerate(record.keys) if ran[row] and index.row.get(key) in stored.done]
    if both:
        here = np.array([index.row[record.keys[row]] for row in both])
        given = record[np.array(both)]
        held = stored.gather(head.columns, here)
        apart = (ENERGY,) if head.kind is ImageAttribution else ()
        held |= {column.name: stored.energies(here) for column in apart}
        for column in (*head.columns, *apart):
            _check_equal(column, held[column.name], encode(column, getattr(given, column.field)), given.keys, head)
    ran[both] = False
    return ran


def _check_equal(column: Column, held: np.ndarray, given: np.ndarray, keys: Sequence[str], head: Head) -> None:
    for row, key in enumerate(keys):
        if not np.array_equal(held[row], given[row], equal_nan=held.dtype.kind == "f"):
            raise StoreError(f"image {key!r} has an answer at layer {head.layer!r} under the label {head.label!r}, and this one has "
                             f"another {column.field}; expected rows that never change; write it under another label: label=...")


def class_part(index: Index, record: ClassAttribution, label: str) -> bytes | None:
    """The part of a record of classes, whose rows replace earlier ones of the same classes; None when it has none.

    Raises:
        StoreError: another question, or a class twice.
    """
    head = head_of(record, label)
    _check_head(index, head)
    targets = np.asarray(record.targets)
    if len(np.unique(targets)) < len(targets):
        raise StoreError(f"classes {targets.tolist()} of the record come twice; expected each once; join them before writing")
    for name in record.names:
        check_text("class name", name)
    if not len(targets):
        return None
    data = {column: encode(column, getattr(record, column.field)) for column in head.columns}
    return build_part(index.run_id, head=head, rows=targets.tolist(), data=data)
