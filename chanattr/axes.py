"""What all records share: named axes that agree, rows selected and joined, equality, labelled datasets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from chanattr.arguments import COUNT, check_number
from chanattr.errors import InputError

if TYPE_CHECKING:
    import xarray

Rows = int | slice | Sequence[int] | np.ndarray
Record = TypeVar("Record")


def axes(letters: str, dtype: str = "", missing: float | None = None) -> Any:
    """A field whose array has these axes; where the first is N or C, it is the one that rows select.

    With a `dtype` it may be left out; where there is something `missing`, all of it then is.
    """
    about: dict[str, Any] = {"axes": tuple(letters.split())} | ({} if missing is None else {"missing": np.array(missing, dtype)[()]})
    return dataclasses.field(default_factory=lambda: np.zeros(0, dtype), metadata=about) if dtype else dataclasses.field(metadata=about)


def array_axes(kind: type) -> dict[str, tuple[str, ...]]:
    """Axis letters of every array field of a record type, by field name."""
    return {f.name: f.metadata["axes"] for f in dataclasses.fields(kind) if "axes" in f.metadata}


def row_axis(kind: type) -> str:
    """The letter that rows of this record run along: N, or C where rows have names in place of keys."""
    return "N" if row_texts(kind) == "keys" else "C"


def row_texts(kind: type) -> str:
    """The field that has a text for every row."""
    return "keys" if any(f.name == "keys" for f in dataclasses.fields(kind)) else "names"


def check_axes(record: Any) -> dict[str, int]:
    """Refuses arrays of a record whose axes disagree; gives the size of every axis.

    Raises:
        InputError: so.
    """
    known = {row_axis(type(record)): len(getattr(record, row_texts(type(record))))}
    for name, letters in array_axes(type(record)).items():
        shape = np.shape(getattr(record, name))
        if len(shape) != len(letters):
            raise InputError(f"{type(record).__name__}.{name} has shape {shape}; expected axes {' '.join(letters)}")
        for axis, size in zip(letters, shape, strict=True):
            if known.setdefault(axis, size) != size:
                raise InputError(f"{type(record).__name__}.{name} has {size} along {axis}; expected {known[axis]}")
    return known


def is_grouped(groups: np.ndarray) -> bool:
    """Whether some channels share a group, or are numbered otherwise than by themselves."""
    return not np.array_equal(groups, np.arange(len(groups)))


def class_row(record: Any, target: int) -> int:
    """The row of a class in a record of classes.

    Raises:
        InputError: the record does not hold it.
    """
    where = np.flatnonzero(record.targets == check_number(f"class {target!r}", target, COUNT, "name it by its number"))
    if not len(where):
        raise InputError(f"class {target} is not in this result; expected one of {record.targets.tolist()}; name one of these")
    return int(where[0])


def select(record: Record, rows: Rows) -> Record:
    """The same record for some rows; an int gives one row, still a record.

    Args:
        record: of `ImageAttribution`, `ClassAttribution` or `SpatialAttribution`.
        rows: a number, a slice, numbers, or a mask.

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.images()
        >>> found[1].keys, found[found.smallest_area > 2].keys
        (('b.jpg',), ('b.jpg', 'c.jpg'))
    """
    whole: Any = record
    index = np.atleast_1d(np.arange(len(whole))[rows])
    letter, text = row_axis(type(whole)), row_texts(type(whole))
    chosen: dict[str, Any] = {name: getattr(whole, name)[index]
                              for name, letters in array_axes(type(whole)).items() if letters[0] == letter}
    chosen[text] = tuple(getattr(whole, text)[i] for i in index)
    selected: Record = dataclasses.replace(whole, **chosen)
    return selected


def concatenate(records: Sequence[Record]) -> Record:
    """One record from several of the same question, rows in the order given.

    Args:
        records: one or more, all of one of the types that `select` takes.

    Raises:
        InputError: nothing to join, or the records answer different questions.

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.images()
        >>> concatenate([found[2], found[:2]]).keys
        ('c.jpg', 'a.jpg', 'b.jpg')
    """
    if not records:
        raise InputError("concatenate got no records; expected at least one")
    wholes: Sequence[Any] = records
    first = wholes[0]
    for other in wholes[1:]:
        for name, mine, theirs in first.settings.differences(other.settings):
            raise InputError(f"records differ in {name}: {mine!r} and {theirs!r}; only answers to one question can be joined")
    letter, text = row_axis(type(first)), row_texts(type(first))
    joined: dict[str, Any] = {name: np.concatenate([getattr(r, name) for r in wholes])
                              for name, letters in array_axes(type(first)).items() if letters[0] == letter}
    joined[text] = tuple(value for r in wholes for value in getattr(r, text))
    whole: Record = dataclasses.replace(first, **joined)
    return whole


def equal(one: Any, other: Any) -> bool:
    """Whether two records hold the same question and the same numbers (NaN equals NaN; engine left out)."""
    if type(one) is not type(other) or one.settings != other.settings or len(one) != len(other):
        return False
    text = row_texts(type(one))
    if getattr(one, text) != getattr(other, text):
        return False
    return all(np.array_equal(getattr(one, n), getattr(other, n), equal_nan=getattr(one, n).dtype.kind == "f")
               for n in array_axes(type(one)))


def labelled(record: Any, names: Mapping[str, str], coordinates: Mapping[str, np.ndarray]) -> xarray.Dataset:
    """A record as a Dataset, its question in the attributes.

    Args:
        record: of any kind.
        names: of the dimensions, by axis letter.
        coordinates: values along dimensions, by axis letter; a field of the record that is one of them is not given twice.
    """
    import xarray

    kept = {"areas"} | ({"targets"} if "C" in coordinates else set())
    data = {name: (tuple(names[a] for a in letters), getattr(record, name)) for name, letters in array_axes(type(record)).items()
            if name not in kept}
    attributes = {"layer": record.layer, "settings": record.settings.to_json(), "engine": record.engine}
    return xarray.Dataset(data, {names[letter]: values for letter, values in coordinates.items()}, attributes)


def labelled_sets(record: Any, names: dict[str, str], rows: dict[str, np.ndarray]) -> xarray.Dataset:
    """A record of channel sets as a Dataset."""
    names = names | ({"K": "group", "L": "channel"} if is_grouped(record.groups) else {"K": "channel", "L": "channel"})
    entries, channels = np.arange(record.smallest_mask.shape[1]), np.arange(len(record.fill_values))
    return labelled(record, names, rows | {"A": record.areas, "K": entries, "L": channels})


def settle(record: Any) -> None:
    """Fills in what a record of channel sets leaves out, every channel a group of its own, no certificates.

    Raises:
        InputError: arrays or groups that disagree.
    """
    if not np.size(record.groups):
        object.__setattr__(record, "groups", np.arange(len(record.fill_values), dtype=np.int32))
    for field in dataclasses.fields(record):
        if "missing" in field.metadata and not np.size(getattr(record, field.name)):
            object.__setattr__(record, field.name, np.full(len(record), field.metadata["missing"]))
    sizes = check_axes(record)
    if not np.array_equal(np.unique(record.groups), np.arange(sizes["K"])):
        raise InputError(f"{type(record).__name__}.groups has {len(np.unique(record.groups))} groups of {sizes['L']} along L; expected "
                         f"{sizes['K']}, numbered from 0, as the masks have entries")
