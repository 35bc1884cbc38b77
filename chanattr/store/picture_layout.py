"""What lies where of pictures in a run file: kinds, columns, the question that made them, and records to rows and back."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chanattr.errors import StoreError
from chanattr.picture_records import ChannelImages, Examples, Inversion
from chanattr.picture_settings import PictureSettings
from chanattr.store import check
from chanattr.store.layout import TEXT, Column, check_text, encode, escape

FOLDER = "pictures"
Made = Inversion | ChannelImages | Examples
KINDS: dict[type, str] = {Inversion: "inversions", ChannelImages: "channels", Examples: "examples"}
ADDRESS = 16  # hex digits of a question's digest that name its group
MAX_SIDE = 2**16  # of any dimension but the rows'
ID, DIGEST = "id", "row_sha256"  # datasets u1 [row, hash]: what a row is of, and the digest of all its values
_HASH = 32

_PICTURE = ("y", "x", "colour")
# field, dataset, type and dimensions after the row; a field that is a tuple of texts a row is kept as a JSON list.
_COLUMNS: dict[type, tuple[tuple[str, str, str, tuple[str, ...]], ...]] = {
    Inversion: (("keys", "key", TEXT, ()), ("masks", "mask", "<f4", ("channel",)), ("pictures", "picture", "|u1", _PICTURE),
                ("originals", "original", "|u1", _PICTURE), ("value", "value", "<f4", ()), ("cosine", "cosine", "<f4", ()),
                ("kept_cosine", "kept_cosine", "<f4", ()), ("targets", "target", "<i4", ()), ("predictions", "prediction", "<i4", ()),
                ("probability", "probability", "<f4", ())),
    ChannelImages: (("names", "name", TEXT, ()), ("weights", "weight", "<f4", ("channel",)),
                    ("pictures", "picture", "|u1", ("take", *_PICTURE)), ("value", "value", "<f4", ("take",)),
                    ("predictions", "prediction", "<i4", ("take",)), ("probability", "probability", "<f4", ("take",))),
    Examples: (("channels", "channel", "<i4", ()), ("names", "name", TEXT, ()), ("keys", "keys", TEXT, ()),
               ("value", "value", "<f4", ("example",)), ("position", "position", "<i4", ("example", "down_across")),
               ("boxes", "box", "<i4", ("example", "edge")), ("crops", "crop", "|u1", ("example", *_PICTURE)))}


@functools.cache
def columns(kind: type) -> tuple[Column, ...]:
    """The columns of a kind of pictures, sorted by dataset name."""
    made = [Column(field, name, dtype, dims, "" if dtype == TEXT else 0) for field, name, dtype, dims in _COLUMNS[kind]]
    return tuple(sorted(made, key=lambda column: column.name))


@dataclass(frozen=True, kw_only=True)
class PictureHead:
    """What all pictures of one group share.

    Attributes:
        kind: of the record.
        layer: dotted name.
        question: all that changes the pictures and what is said of them, as sorted JSON: ``settings`` and what else made them.
        sizes: length of every dimension but the rows'.
    """

    kind: type
    layer: str
    question: str
    sizes: Mapping[str, int]

    @property
    def digest(self) -> str:
        """sha256 of the question, in hex."""
        return hashlib.sha256(self.question.encode()).hexdigest()

    @property
    def path(self) -> str:
        """Of the group in a file."""
        return f"{FOLDER}/{KINDS[self.kind]}/{escape(self.layer)}/{self.digest[:ADDRESS]}"

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of these pictures."""
        return columns(self.kind)

    @property
    def attributes(self) -> dict[str, Any]:
        """Of the group in a file."""
        return {"layer": self.layer, "settings": self.question, "digest": self.digest,
                "sizes": json.dumps(dict(self.sizes), sort_keys=True)}

    def shape(self, column: Column, rows: int) -> tuple[int, ...]:
        """Of a column with so many rows."""
        return (rows, *(self.sizes[dim] for dim in column.dims))


def is_pictures(where: str) -> bool:
    """Whether a group of a file is one of pictures, of a kind that is known."""
    return where.count("/") == 4 and where.split("/")[1] == FOLDER and where.split("/")[2] in KINDS.values()


def question_of(settings: PictureSettings | Mapping[str, Any], made_with: Mapping[str, Any]) -> str:
    """The question as it is kept: sorted, compact JSON.

    Raises:
        StoreError: something that JSON cannot hold.
    """
    how = json.loads(settings.to_json()) if isinstance(settings, PictureSettings) else dict(settings)
    try:
        return json.dumps({**made_with, "settings": how}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"what made the pictures cannot be stored ({error}); expected text, numbers, lists and dicts; convert it "
                         "first") from error


def example_settings(kind: str, count: int, side: int) -> dict[str, Any]:
    """Of `Examples`, which have no settings of their own: the kind, examples a channel, and the side of their crops in pixels."""
    return {"kind": kind, "count": count, "side": side}


def head_of(record: Made, made_with: Mapping[str, Any]) -> PictureHead:
    """The shared part of a record."""
    how = (example_settings(record.kind, record.rows.shape[1], record.crops.shape[2]) if isinstance(record, Examples) else record.settings)
    return PictureHead(kind=type(record), layer=record.layer, question=question_of(how, made_with), sizes=_sizes(record))


def _sizes(record: Made) -> dict[str, int]:
    """Length of every dimension but the rows', as the record's arrays have it."""
    kind: type = type(record)
    shapes = {column.dims: np.shape(getattr(record, column.field))[1:] for column in columns(kind)}
    return {dim: size for dims, shape in shapes.items() for dim, size in zip(dims, shape, strict=False)}


# What a row is of: two that are the same are made once.


def inversion_id(key: str, mask: np.ndarray, target: int) -> bytes:
    """Of an inversion: the image, the mask f4 [K], and the class that must be named."""
    return _digest(key.encode(), np.ascontiguousarray(mask, "<f4").tobytes(), str(int(target)).encode())


def channel_id(name: str, weights: np.ndarray) -> bytes:
    """Of pictures of channels: their name, and the weights f4 [K]."""
    return _digest(name.encode(), np.ascontiguousarray(weights, "<f4").tobytes())


def example_id(channel: int) -> bytes:
    """Of a channel's examples."""
    return _digest(str(int(channel)).encode())


def ids_of(record: Made) -> list[bytes]:
    """Of every row of a record."""
    if isinstance(record, Inversion):
        return [inversion_id(*row) for row in zip(record.keys, record.masks, record.targets.tolist(), strict=True)]
    if isinstance(record, ChannelImages):
        return [channel_id(*row) for row in zip(record.names, record.weights, strict=True)]
    return [example_id(channel) for channel in record.channels.tolist()]


def _digest(*pieces: bytes) -> bytes:
    digest = hashlib.sha256()
    check.say(digest, *pieces)
    return digest.digest()


# Records to arrays as they are stored, and back


def encoded(record: Made, head: PictureHead) -> dict[str, np.ndarray]:
    """Every column of a record as it is stored, by dataset name, with `ID` and `DIGEST`.

    Raises:
        StoreError: a key or name that cannot be stored.
    """
    data = {}
    for column in head.columns:
        values = _example_keys(record) if isinstance(record, Examples) and column.field == "keys" else getattr(record, column.field)
        if column.dtype == TEXT:
            for text in values:
                check_text(column.name, text)
        data[column.name] = encode(column, values)
        if data[column.name].shape != head.shape(column, len(record)):
            raise StoreError(f"{column.field} of the pictures at {record.layer!r} has the shape {data[column.name].shape}; expected "
                             f"{head.shape(column, len(record))}; pass a record as chanattr made it")
    data[ID] = np.frombuffer(b"".join(ids_of(record)), np.uint8).reshape(-1, _HASH)
    return data


def sealed(head: PictureHead, data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns with the digest of every row."""
    rows = [row_digest(head, data, row) for row in range(len(data[ID]))]
    return {**data, DIGEST: np.frombuffer(b"".join(rows), np.uint8).reshape(-1, _HASH)}


def row_digest(head: PictureHead, data: Mapping[str, np.ndarray], row: int) -> bytes:
    """sha256 of all that is stored of a row, and of the question and sizes that it was made with."""
    pieces = [head.question.encode(), json.dumps(dict(head.sizes), sort_keys=True).encode(), data[ID][row].tobytes()]
    for column in head.columns:
        value = data[column.name][row]
        pieces.append(str(value).encode() if column.dtype == TEXT else np.ascontiguousarray(value).tobytes())
    return _digest(*pieces)


def record_of(head: PictureHead, data: Mapping[str, np.ndarray], keys: Sequence[str]) -> Made:
    """A record of stored columns; examples point into `keys`, those of the run.

    Raises:
        ValueError, LookupError, TypeError: what is stored is no such record.
    """
    fields: dict[str, Any] = {column.field: tuple(map(str, data[column.name])) if column.dtype == TEXT else data[column.name]
                              for column in head.columns}
    settings = json.loads(head.question)["settings"]
    if head.kind is not Examples:
        return head.kind(layer=head.layer, settings=PictureSettings(**settings), **fields)  # type: ignore[no-any-return]
    row_of = {key: row for row, key in enumerate(keys)}
    rows = np.full(fields["value"].shape, -1, np.int32)
    for row, text in enumerate(fields["keys"]):
        mine = json.loads(text)
        if not isinstance(mine, list) or len(mine) > rows.shape[1]:
            raise ValueError(f"the keys of examples are {text[:80]!r}")
        rows[row, :len(mine)] = [row_of.get(str(key), -1) for key in mine]
    return Examples(layer=head.layer, kind=str(settings["kind"]), **{**fields, "keys": tuple(keys), "rows": rows})


def _example_keys(record: Examples) -> list[str]:
    """Of every channel the keys of its examples, best first, as a JSON list."""
    return [json.dumps([record.keys[row] for row in rows if row >= 0], ensure_ascii=False) for rows in record.rows.tolist()]
