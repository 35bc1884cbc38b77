"""Checks of what callers give, without torch: numbers, names, lists, texts, paths and kinds."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sized
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from chanattr.errors import InputError

LONGEST_NAME = 255  # of a file, on all usual systems


class Range(NamedTuple):
    """The finite numbers that a field takes, both ends included but for the one named by `without`; `whole` ones only, or any; of what."""

    low: float
    high: float = math.inf
    whole: bool = False
    without: str = ""
    unit: str = ""

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.without == "low" else f"from {self.low:g}"
        high = "" if self.high == math.inf else f", below {self.high:g}" if self.without == "high" else f" to {self.high:g}"
        unit = f" of {self.unit}" if self.unit else ""
        return f"a {'whole ' if self.whole else ''}number{unit} {low}{high}"


COUNT, STEPS, RATE, SHARE = Range(0, whole=True), Range(1, whole=True), Range(0, without="low"), Range(0, 1)
SEEDS = Range(0, 2**63 - 1, whole=True)  # what generators of random numbers take


def check_number(shown: str, value: Any, allowed: Range, remedy: str = "leave it out for the default") -> int | float:
    """A number of a range, as an int where the range is of whole numbers, else as a float.

    Raises:
        InputError: something else; the message begins with `shown`.
    """
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # a whole number beyond all floats
        number = math.inf
    inside = allowed.low <= number <= allowed.high and math.isfinite(number) and not (allowed.whole and number != int(number))
    if not inside or number == {"low": allowed.low, "high": allowed.high}.get(allowed.without):
        raise InputError(f"{shown}; expected {allowed}; {remedy}")
    return int(value) if allowed.whole else number


def check_name(name: str, value: object, names: Collection[str], also: str = "", remedy: str = "") -> None:
    """Refuses what is none of some names.

    Args:
        name: of the argument.
        value: what came.
        names: that it may have, the default first.
        also: what else it may be, in words.
        remedy: what to do; "" is to leave it out.

    Raises:
        InputError: so.
    """
    if not isinstance(value, str) or value not in names:
        usual = next(iter(names))
        raise InputError(f"{name}={value!r}; expected one of {', '.join(names)}{also}; {remedy or f'leave it out for {usual!r}'}")


def check_batch_size(batch_size: int | None, usual: int) -> int:
    """Rows run at once: as many as asked; None is the usual.

    Raises:
        InputError: not a whole number of 1 or more.
    """
    return usual if batch_size is None else int(check_number(f"batch_size={batch_size!r}", batch_size, STEPS))


def listed(name: str, given: Any, what: str, remedy: str, least: int = 1) -> list[Any]:
    """What was given in a list, numbers of numpy and torch as Python's own.

    Raises:
        InputError: no list, or one shorter than `least`.
    """
    try:
        found = None if isinstance(given, (str, bytes)) else [one.item() if getattr(one, "ndim", 1) == 0 else one for one in given]
    except (TypeError, RuntimeError):  # torch's, for a tensor that is a single number
        found = None
    if found is None or len(found) < least:
        raise InputError(f"{name}={repr(given)[:100]}; expected a list of {what}; {remedy}")
    return found


def check_kind(name: str, value: object, kinds: type | tuple[type, ...], remedy: str) -> None:
    """Refuses what is of no such type.

    Raises:
        InputError: so.
    """
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise InputError(f"{name} is {type(value).__name__}; expected {wanted}; {remedy}")


def check_function(name: str, value: object, what: str, remedy: str) -> None:
    """Refuses what cannot be called.

    Raises:
        InputError: so.
    """
    if not callable(value):
        raise InputError(f"{name} is {type(value).__name__}; expected a function of {what}; {remedy}")


def path_of(name: str, value: object) -> Path:
    """A path that a caller gives.

    Raises:
        InputError: no text and no path, or one that no file has.
    """
    parts = Path(os.fsdecode(value)).parts if isinstance(value, (str, os.PathLike)) else ("\0",)
    if any("\0" in part or len(part) > LONGEST_NAME for part in parts):
        raise InputError(f"{name}={repr(value)[:100]}; expected a path; give it as text or as a pathlib.Path")
    return Path(*parts)


def is_storable(text: str) -> bool:
    """Whether a name can be kept in a file: HDF5 cuts off at NUL, and holds no undecodable characters."""
    return "\0" not in text and text == text.encode(errors="ignore").decode()


def check_storable(shown: str, text: object, remedy: str) -> None:
    """Refuses what is no text that a run file holds.

    Raises:
        InputError: so; the message begins with `shown`.
    """
    if not isinstance(text, str) or not is_storable(text):
        raise InputError(f"{shown}={text!r}; expected a text without NUL and undecodable characters, for a run file must hold it; {remedy}")


def check_class_names(argument: str, names: object) -> None:
    """Refuses names of classes that are no texts, or none that a run file holds.

    Args:
        argument: for messages.
        names: one a class, by number.

    Raises:
        InputError: so; names the first.
    """
    if isinstance(names, (str, bytes, Mapping)) or not isinstance(names, Iterable) or not isinstance(names, Sized):
        raise InputError(f"{argument}={repr(names)[:100]}; expected a list of texts, one a class by its number; leave it out where "
                         "they are unknown")
    for number, name in enumerate(names):
        check_storable(f"{argument}[{number}]", name, "write it as text, '' where it is unknown")
