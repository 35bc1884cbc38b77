"""Pictures in a run: where they lie, found by what they are of, read back only as they were written, merged and copied."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from chanattr.errors import StoreError
from chanattr.store import check
from chanattr.store.layout import TEXT
from chanattr.store.netcdf import create_dataset, marker, scale
from chanattr.store.picture_layout import DIGEST, ID, KINDS, MAX_SIDE, Made, PictureHead, encoded, head_of, record_of, row_digest, sealed
from chanattr.store.source import Items, Source, block_rows, check_columns, check_item, read_array, read_rows, row_bytes

LARGE = 2**16  # bytes of a row from which it gets a chunk of its own, so that one picture can be read alone


@dataclass(eq=False)
class Pictures:
    """The pictures of one question: what they share, and by what each is of the source and place that it lies at."""

    head: PictureHead
    place: dict[bytes, tuple[Source, int]] = field(default_factory=dict)


Shelf = dict[str, Pictures]  # by the path of their group


def add_pictures(shelf: Shelf, source: Source, where: str, group: h5py.Group, items: Items) -> None:
    """Takes note of a source's pictures; of two that are the same the first stands.

    Raises:
        ValueError, LookupError: the group is not as it says.
    """
    head = read_picture_head(where, group)
    ids = check_picture_columns(head, items)
    known = shelf.setdefault(where[1:], Pictures(head))
    if (known.head.question, dict(known.head.sizes)) != (head.question, dict(head.sizes)):
        raise ValueError(f"{where} has the sizes {dict(head.sizes)}, but the same question had {dict(known.head.sizes)}")
    for place, one in enumerate(ids):
        known.place.setdefault(one.tobytes(), (source, place))


def read_picture_head(where: str, group: h5py.Group) -> PictureHead:
    """What the pictures of a group share.

    Raises:
        ValueError, LookupError: the group does not say so, or says that it is another.
    """
    about = check.attributes(group)
    word = where.split("/")[2]
    kind = next(kind for kind, name in KINDS.items() if name == word)
    sizes, question = (json.loads(str(about[name])) for name in ("sizes", "settings"))
    if not isinstance(question, dict) or not isinstance(question.get("settings"), dict):
        raise ValueError(f"{where} does not say what made its pictures")
    dims = {dim for column in PictureHead(kind=kind, layer="", question="", sizes={}).columns for dim in column.dims}
    if not isinstance(sizes, dict) or set(sizes) != dims or not all(type(n) is int and 0 < n < MAX_SIDE for n in sizes.values()):
        raise ValueError(f"{where} has the sizes {str(sizes)[:100]}")
    head = PictureHead(kind=kind, layer=str(about["layer"]), question=str(about["settings"]), sizes=sizes)
    if f"/{head.path}" != where or head.digest != about["digest"]:
        raise ValueError(f"{where} says that it is {head.path}, with the digest {str(about['digest'])[:12]}")
    return head


def check_picture_columns(head: PictureHead, items: Items) -> np.ndarray:
    """What the rows of a group are of, u1 [R, 32]; every column looked at.

    Raises:
        ValueError, LookupError: an array of another type or shape than its head says.
    """
    rows = len(items[ID])
    check_item(items[DIGEST], "|u1", (rows, 32))
    check_columns(head, items, head.columns, rows)
    return read_array(items, ID, "|u1", (rows, 32))


def read_stored(pictures: Pictures, ids: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Columns as stored of some pictures, by dataset name, in the order given; every row held against its digest.

    Raises:
        StoreError: one is not as it was written.
        KeyError: one is not there.
    """
    head = pictures.head
    found: dict[str, np.ndarray] = {column.name: np.zeros(head.shape(column, len(ids)), column.held)
                                    for column in head.columns} | {name: np.zeros((len(ids), 32), np.uint8) for name in (ID, DIGEST)}
    by_source: dict[Source, list[tuple[int, int]]] = {}
    for number, one in enumerate(ids):
        source, place = pictures.place[one]
        by_source.setdefault(source, []).append((place, number))
    for source, pairs in by_source.items():
        with source.open() as root:
            places, numbers = np.array(sorted(pairs), np.int64).T
            for name, values in _rows(root[head.path], head, places, source.size):
                found[name][numbers] = values
            for number in numbers.tolist():
                if found[ID][number].tobytes() != ids[number] or row_digest(head, found, number) != found[DIGEST][number].tobytes():
                    raise ValueError(f"a picture of /{head.path} has changed since it was written")
    return found


def _rows(group: h5py.Group, head: PictureHead, places: np.ndarray, room: int) -> Iterator[tuple[str, np.ndarray]]:
    """Every column at some places, increasing.

    Raises:
        ValueError: more text than the file has bytes: many rows that point to the same large one.
    """
    for column in head.columns:
        item = group[column.name]
        if column.dtype != TEXT:
            yield column.name, read_rows(item, places)
            continue
        texts = []
        for place in places.tolist():
            texts.append(str(read_rows(item, np.array([place]))[0]))
            room -= len(texts[-1])
            if room < 0:
                raise ValueError(f"{item.name} has more text than the file has bytes")
        yield column.name, np.array(texts, object)
    for name in (ID, DIGEST):
        yield name, read_rows(group[name], places)


def read_record(pictures: Pictures, ids: Sequence[bytes], keys: Sequence[str]) -> Made:
    """Some pictures as a record; `keys` are the run's.

    Raises:
        StoreError: one is not as it was written.
    """
    data = read_stored(pictures, ids)
    try:
        return record_of(pictures.head, data, keys)
    except (ValueError, LookupError, TypeError) as error:
        source, _ = pictures.place[ids[0]]
        raise StoreError(f"{source.path} has pictures that cannot be read ({check.brief(error)}); expected them as chanattr writes them; "
                         "make them again in another file") from error


def merge_pictures(root: h5py.File, pictures: Pictures) -> None:
    """A group of the merged file: chunks with checksums, dimensions named; a picture at a time, so that memory does not grow."""
    head, ids = pictures.head, list(pictures.place)
    group = root.create_group(head.path)
    group.attrs.update(head.attributes)
    scale(group, "row", np.arange(len(ids), dtype="<i4"))
    for name, length in {**head.sizes, "hash": 32}.items():
        marker(group, name, length)
    made = {name: create_dataset(group, name, (len(ids), 32), "|u1", ("row", "hash")) for name in (ID, DIGEST)}
    for column in head.columns:
        made[column.name] = create_dataset(group, column.name, head.shape(column, len(ids)), column.dtype, ("row", *column.dims),
                                           most=1 if row_bytes(column, head) >= LARGE else 64)
    step = block_rows(head.columns, head)
    for start in range(0, len(ids), step):
        for name, values in read_stored(pictures, ids[start:start + step]).items():
            made[name][start:start + step] = values


def whole_rows(where: str, group: h5py.Group, items: Items, faults: list[str]) -> Iterator[tuple[PictureHead, dict[str, np.ndarray]]]:
    """The rows of a group that are as they were written, one at a time; what is wrong with others goes to `faults`."""
    with check.noting(faults, f"{where} cannot be used"):
        head = read_picture_head(where, group)
        for row in range(len(check_picture_columns(head, items))):
            with check.noting(faults, f"{where} row {row} cannot be used"):
                data = dict(_rows(group, head, np.array([row]), group.file.id.get_filesize()))
                if row_digest(head, data, 0) != data[DIGEST][0].tobytes():
                    raise ValueError("it does not have the digest that it states")
                yield head, data


def verify_pictures(shelf: Shelf) -> None:
    """Reads every picture.

    Raises:
        StoreError: one is not as it was written.
    """
    for pictures in shelf.values():
        for one in pictures.place:
            read_stored(pictures, [one])


def of_layer(shelf: Shelf, kind: type, layer: str) -> list[Pictures]:
    """All pictures of a kind at a layer, by question."""
    return [shelf[where] for where in sorted(shelf) if shelf[where].head.kind is kind and shelf[where].head.layer == layer]


def counted(shelf: Shelf) -> dict[str, dict[str, int]]:
    """How many pictures there are, by layer and kind."""
    found: dict[str, dict[str, int]] = {}
    for pictures in shelf.values():
        kinds = found.setdefault(pictures.head.layer, {})
        word = KINDS[pictures.head.kind]
        kinds[word] = kinds.get(word, 0) + len(pictures.place)
    return found


def records(shelf: Shelf, kind: type, layer: str, wanted: tuple[str, Sequence[Any] | None], keys: Sequence[str]) -> tuple[Any, ...]:
    """The pictures of a kind at a layer, a record a question; those that have none of what is wanted are left out.

    Args:
        shelf: of the run.
        kind: of the record.
        layer: dotted name.
        wanted: a column, and its values that are wanted; None is all.
        keys: the run's.

    Raises:
        StoreError: one is not as it was written.
    """
    chosen = [(pictures, _chosen(pictures, *wanted)) for pictures in of_layer(shelf, kind, layer)]
    return tuple(read_record(pictures, ids, keys) for pictures, ids in chosen if ids)


def _chosen(pictures: Pictures, name: str, values: Sequence[Any] | None) -> list[bytes]:
    """What those pictures are of whose column has one of the values."""
    if values is None:
        return list(pictures.place)
    asked = set(values)
    chosen = []
    by_source: dict[Source, list[tuple[bytes, int]]] = {}
    for one, (source, place) in pictures.place.items():
        by_source.setdefault(source, []).append((one, place))
    for source, rows in by_source.items():
        with source.open() as root:
            item = root[pictures.head.path][name]
            text = h5py.check_string_dtype(item.dtype) is not None
            stored = check.read_text(item, source.size) if text else read_rows(item, np.arange(len(item))).tolist()
            chosen += [one for one, place in rows if stored[place] in asked]
    return chosen


def picture_piece(shelf: Shelf, record: Made, made_with: Mapping[str, Any]) -> tuple[PictureHead, dict[str, np.ndarray]] | None:
    """What a part takes of a record: the pictures that are not there yet; None where all are.

    Raises:
        StoreError: the same question with pictures of another size, or more in a row than can be read again.
    """
    head = head_of(record, made_with)
    data = encoded(record, head)
    if (most := max(row_bytes(column, head) for column in head.columns)) > check.MAX_CHUNK:
        raise StoreError(f"{most:,} bytes of pictures in a row at {head.layer!r}; expected at most {check.MAX_CHUNK:,}, as readers take "
                         "them; make fewer of the same channels at once, or smaller ones")
    known = shelf.get(head.path)
    if known is not None and dict(known.head.sizes) != dict(head.sizes):
        raise StoreError(f"pictures of the sizes {dict(head.sizes)} at {head.layer!r}; expected {dict(known.head.sizes)}, as those made "
                         "alike before; give pixels of one size")
    seen: set[bytes] = set() if known is None else set(known.place)
    new = []
    for row, one in enumerate(data[ID]):
        if one.tobytes() not in seen:
            seen.add(one.tobytes())
            new.append(row)
    return (head, sealed(head, {name: values[new] for name, values in data.items()})) if new else None


def made_before(shelf: Shelf, kind: type, layer: str, question: str, ids: Sequence[bytes], keys: Sequence[str]) -> tuple[Any, set[bytes]]:
    """Of pictures that are wanted those that are there, as a record (None without any), and what they are of.

    Args:
        shelf: of the run.
        kind: of the record.
        layer: dotted name.
        question: what makes them.
        ids: what they are of.
        keys: the run's.

    Raises:
        StoreError: one is not as it was written.
    """
    pictures = next((one for one in of_layer(shelf, kind, layer) if one.head.question == question), None)
    there = [] if pictures is None else [one for one in dict.fromkeys(ids) if one in pictures.place]
    return (read_record(pictures, there, keys) if pictures and there else None), set(there)
