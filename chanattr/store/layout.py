"""What lies where in a run file: names, escaping, dtypes and fill values, and records to stored columns and back."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chanattr.arguments import is_storable
from chanattr.axes import array_axes, is_grouped, row_axis
from chanattr.codes import COLDNESS, GRID, RADIUS
from chanattr.errors import StoreError
from chanattr.records import NOT_RUN, ClassAttribution, ImageAttribution, SpatialAttribution
from chanattr.settings import Settings
from chanattr.store.provenance import now, versions

# The run attributes {layer: {label: {"targets": ..., "finished": ...}}} of sets of channels, and of masks on the picture.
ASKED = ("asked", "asked_spatial")
FORMAT, PART_FORMAT, FORMAT_VERSION = "chanattr-run", "chanattr-part", "1.0"
Answer = ImageAttribution | ClassAttribution | SpatialAttribution
ENTRY = "entry"  # of a mask: named "channel" in a file, or "group" where channels are grouped
FOLDERS: dict[type, str] = {ImageAttribution: "layers", ClassAttribution: "classes", SpatialAttribution: "spatial"}
DIMENSIONS = {"N": "image", "A": "area", "K": ENTRY, "C": "class", "h": "y", "w": "x", "R": "code_y", "S": "code_x"}
# What a code means; a reader that knows another refuses the group.
KERNEL: dict[str, Any] = {"kernel": "soft maximum of discs", "kernel_radius": RADIUS / GRID, "kernel_coldness": COLDNESS}
UNKNOWN_SHA256 = bytes(32)
HALF_MAX = float(np.finfo(np.float16).max)
TEXT = "str"

# Records speak of many (targets, scores), datasets of one (target, score); what is missing here keeps its name.
_NAMES = {"targets": "target", "predictions": "prediction", "masks": "mask_bits", "scores": "score", "smallest_mask": "smallest_bits",
          "joint_masks": "joint_bits", "joint_scores": "joint_score", "held_out_scores": "held_out_score", "names": "name",
          "codes": "code", "true_areas": "true_area", "view_scores": "view_score", "level_set_scores": "level_set_score"}
_BITS = {"masks", "smallest_mask", "joint_masks"}
_FLAGS = {"top1", "smallest_top1"}
# What is no float of four bytes, by type and the value of a row that was not run.
_TYPES: dict[str, tuple[str, Any]] = {
    "targets": ("<i4", -1), "predictions": ("<i4", -1), "smallest_area": ("<i4", NOT_RUN), "rows": ("<i4", 0), "images": ("<i4", 0),
    "energy": ("<f2", np.nan), "energy_by_area": ("<f2", np.nan), "codes": ("|u1", 0), "smallest_code": ("|u1", 0)}
_SHARES: dict[str, tuple[str, Any]] = {"smallest_area": ("<f4", float(NOT_RUN))}  # of a picture, where others count
# Of certified answers alone, by the value of a row without; in no file of other questions, which stay as they were before there were any.
_CERTIFICATES = {f.name: f.metadata["missing"] for f in dataclasses.fields(ImageAttribution) if "missing" in f.metadata}
# Shared by all rows, or kept for some rows only; the class numbers are the rows themselves.
_APART = {ImageAttribution: {"areas", "fill_values", "groups", "energy_by_area"},
          ClassAttribution: {"areas", "fill_values", "groups", "targets"}, SpatialAttribution: {"areas"}}


@dataclass(frozen=True)
class Column:
    """One dataset with a row for each image or class.

    Attributes:
        field: the record's attribute.
        name: the dataset's.
        dtype: as stored, little-endian; "str" for text.
        dims: names of the dimensions after the first.
        missing: the value of a row that was not run.
        packed: eight mask entries a byte, lowest bit first.
        flag: int8 that means bool.
    """

    field: str
    name: str
    dtype: str
    dims: tuple[str, ...]
    missing: Any = dataclasses.field(compare=False)  # often NaN, not equal to itself: from Python 3.13 on no column with it would be
    packed: bool = False
    flag: bool = False

    @property
    def held(self) -> Any:
        """The type of its values in memory, as stored: texts are objects."""
        return object if self.dtype == TEXT else self.dtype


@dataclass(frozen=True, kw_only=True)
class Head:
    """What all rows of one group share.

    Attributes:
        kind: of the record.
        layer, label: where the group lies.
        settings: the question.
        engine: provenance, in words.
        areas: i4 [A]; f4 for masks on the picture.
        fill_values: f4 [L]; masks on the picture have no channels.
        groups: group of every channel, i4 [L].
        grid: (h, w) of the layer, or of the picture that masks lie on; (0, 0) for classes.
        created, versions: when the first answers of the group were written, and by what (JSON); "" in files that do not say so.
    """

    kind: type
    layer: str
    label: str
    settings: Settings
    engine: str
    areas: np.ndarray
    fill_values: np.ndarray
    groups: np.ndarray
    grid: tuple[int, int] = (0, 0)
    created: str = ""
    versions: str = ""

    @property
    def path(self) -> str:
        """Of the group in a file: layers/features.10/exact."""
        return f"{FOLDERS[self.kind]}/{escape(self.layer)}/{escape(self.label)}"

    @property
    def sizes(self) -> dict[str, int]:
        """Length of every dimension but the rows'; `ENTRY` is that of a mask."""
        return {"area": len(self.areas), "channel": len(self.fill_values), ENTRY: self.entries, "byte": (self.entries + 7) // 8,
                "y": self.grid[0], "x": self.grid[1], "code_y": GRID, "code_x": GRID}

    @property
    def rows(self) -> str:
        """What the rows are: "image" or "class"."""
        return DIMENSIONS[row_axis(self.kind)]

    @property
    def own_attributes(self) -> dict[str, Any]:
        """Attributes that only groups of this kind have."""
        return KERNEL if self.kind is SpatialAttribution else {}

    @property
    def provenance(self) -> dict[str, str]:
        """Attributes that tell how the answers came about."""
        told = {"engine": self.engine, "created": self.created, "versions": self.versions}
        return {name: value for name, value in told.items() if value or name == "engine"}

    @property
    def entries(self) -> int:
        """Of a mask: channels, or groups of them."""
        return int(self.groups.max(initial=-1)) + 1

    @property
    def entry(self) -> str:
        """What an entry of a mask is: "channel" or "group"."""
        return "group" if is_grouped(self.groups) else "channel"

    @property
    def columns(self) -> tuple[Column, ...]:
        """The row columns of these answers."""
        return columns(self.kind, self.settings.certify)

    def dims(self, column: Column) -> tuple[str, ...]:
        """The names of a column's dimensions after the first, in a file."""
        return tuple(self.entry if name == ENTRY else name for name in column.dims)

    def shape(self, column: Column, rows: int) -> tuple[int, ...]:
        """Of a column with so many rows."""
        return (rows, *(self.sizes[dim] for dim in column.dims))


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageTable:
    """What a run file knows of its images, apart from any layer.

    Attributes:
        keys: one an image, in the order of first writing.
        sha256: of the picture files' bytes, u1 [N, 32]; zeros where unknown.
        label: class that the picture is said to show, i4 [N]; -1 unknown.
        target, prediction: as in `ImageAttribution`, i4 [N]; -1 unknown.
        probability: of the target, f4 [N]; NaN unknown.
        thumbnails: u1 [y, x, rgb] by key; kept for some images only.
    """

    keys: tuple[str, ...]
    sha256: np.ndarray
    label: np.ndarray
    target: np.ndarray
    prediction: np.ndarray
    probability: np.ndarray
    thumbnails: Mapping[str, np.ndarray] = field(default_factory=dict)


@functools.cache
def columns(kind: type, certified: bool = False) -> tuple[Column, ...]:
    """The row columns of a record type, sorted by dataset name; what is kept apart is not among them.

    Args:
        kind: of the record.
        certified: with the certificates of images' a* sets.
    """
    apart = _APART[kind] | (set() if certified else set(_CERTIFICATES))
    fields = {name: axes for name, axes in array_axes(kind).items() if axes[0] == row_axis(kind) and name not in apart}
    made = [_column(kind, name, axes) for name, axes in fields.items()]
    if kind is ClassAttribution:
        made.append(Column("names", "name", TEXT, (), ""))
    return tuple(sorted(made, key=lambda column: column.name))


def _column(kind: type, name: str, axes: tuple[str, ...]) -> Column:
    dims = tuple(DIMENSIONS[axis] for axis in axes[1:])
    stored = _NAMES.get(name, name)
    if name in _BITS:
        return Column(name, stored, "|u1", (*dims[:-1], "byte"), 0, packed=True)
    if name in _CERTIFICATES:
        return Column(name, stored, _CERTIFICATES[name].dtype.str, dims, _CERTIFICATES[name])
    if name in _FLAGS:
        return Column(name, stored, "|i1", dims, 0, flag=True)
    types = _TYPES | _SHARES if kind is SpatialAttribution else _TYPES
    return Column(name, stored, types.get(name, ("<f4",))[0], dims, types.get(name, ("", np.nan))[1])


# Energy at every area, kept for some images only and therefore under rows of its own.
ENERGY = _column(ImageAttribution, "energy_by_area", ("N", "A", "h", "w"))


def area_type(kind: type) -> str:
    """Of areas: shares of a picture, or counts."""
    return "<f4" if kind is SpatialAttribution else "<i4"


def escape(name: str) -> str:
    """A name as HDF5 and xarray can hold it: "/" and "%" as in addresses, and no name that means "here" or "above".

    Examples:
        >>> escape("blocks/0"), escape("."), escape("layer4.1@2")
        ('blocks%2F0', '%2E', 'layer4.1@2')
    """
    if name in ("", ".", ".."):
        return name.replace(".", "%2E") or "%"
    return re.sub("[%/]", lambda match: f"%{ord(match[0]):02X}", name)


def check_text(what: str, text: str) -> None:
    """Refuses what HDF5 would cut off or cannot hold.

    Raises:
        StoreError: a NUL, or characters that are no text (a file name in an unknown encoding).
    """
    if not is_storable(text):
        raise StoreError(f"{what} {text!r} cannot be stored; expected text without NUL and without undecodable characters; rename it")


def encode(column: Column, values: Any) -> np.ndarray:
    """A record's array as it is stored; every NaN becomes the same NaN, so that equal numbers are equal bytes."""
    if column.dtype == TEXT:
        return np.array(list(values), dtype=object)
    array = np.asarray(values)
    if column.packed:
        return np.packbits(array.astype(bool), axis=-1, bitorder="little")
    if column.dtype == "<f2":
        array = np.clip(array, -HALF_MAX, HALF_MAX)
    array = array.astype(column.dtype)
    if array.dtype.kind == "f":
        array[np.isnan(array)] = np.nan
    return np.ascontiguousarray(array)


def decode(column: Column, stored: np.ndarray, entries: int) -> Any:
    """A stored array as the record holds it; half precision comes back as f4."""
    if column.dtype == TEXT:
        return tuple(str(text) for text in stored)
    if column.packed:
        return np.unpackbits(stored, axis=-1, count=entries, bitorder="little").view(bool)
    if column.flag:
        return stored.astype(bool)
    return stored.astype("<f4") if column.dtype == "<f2" else stored


def head_of(record: Answer, label: str) -> Head:
    """The shared part of a record."""
    grid = record.energy.shape[1:] if isinstance(record, ImageAttribution) else getattr(record, "size", (0, 0))
    fill = Column("fill_values", "fill_values", "<f4", ("channel",), np.nan)
    channels: dict[str, Any] = {name: getattr(record, name, np.zeros(0)) for name in ("fill_values", "groups")}
    return Head(kind=type(record), layer=record.layer, label=label, settings=record.settings, engine=record.engine,
                areas=np.asarray(record.areas).astype(area_type(type(record))), fill_values=encode(fill, channels["fill_values"]),
                groups=np.asarray(channels["groups"]).astype("<i4"), grid=(int(grid[0]), int(grid[1])), created=now(), versions=versions())


def asked_of(attributes: Mapping[str, Any], name: str) -> dict[str, dict[str, dict[str, Any]]]:
    """What a run was asked, by layer and label: one of `ASKED`; a file may hold anything there, and what is no such thing is left out.

    Args:
        attributes: of the run; nothing in them is changed.
        name: of the attribute.
    """
    layers = attributes.get(name)
    return {layer: {label: dict(said) for label, said in labels.items() if isinstance(said, dict)}
            for layer, labels in (layers.items() if isinstance(layers, dict) else ()) if isinstance(labels, dict)}


def check_format(about: Mapping[str, Any], path: Path, *, part: bool = False) -> None:
    """Refuses what is no run, or one of a format that this version does not read.

    Raises:
        StoreError: so.
    """
    expected = PART_FORMAT if part else FORMAT
    if about.get("format") != expected:
        raise StoreError(f"{path} is an HDF5 file, but not a run of chanattr (format {about.get('format')!r}); expected "
                         f"{expected!r}; pass a file that 'chanattr attribute' wrote")
    version = str(about.get("format_version"))
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        older = version_of(version) < version_of(FORMAT_VERSION)
        raise StoreError(f"{path} has format version {version}; expected {FORMAT_VERSION} or another of the same first number; "
                         + ("make it again: no released version wrote such files" if older else "install a newer chanattr"))


def version_of(text: str) -> tuple[int, ...]:
    """A format version as numbers; words that are none count as 0."""
    return tuple(int(word) if word.isdecimal() and len(word) < 9 else 0 for word in text.split("."))
