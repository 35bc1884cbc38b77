"""Names in a run file, which may be a stranger's: what would run code is run only where the user named it himself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chanattr.attribution.question import callable_name
from chanattr.cli.words import load
from chanattr.errors import InputError
from chanattr.network.zoo import LoadedModel, load_function
from chanattr.store import Run

_KNOWN = re.compile(r"(timm:)?[A-Za-z0-9_.-]+")  # a vendor's own list: weights, and no code but the vendor's


def model_name(stored: object, given: str | None, file: Path) -> str:
    """The model that the user named, else the one that a run file names, where that runs no code of others.

    A file of Python is code. So may be what a hub keeps under a name (``hf:``, or ``timm:`` with a hub's name): it is not loaded
    because a file says so.

    Raises:
        InputError: none is named, or the file's runs code of others.
    """
    if given:
        return given
    if not stored or not isinstance(stored, str):
        raise InputError(f"{file} does not say which model it is of; expected one; name it with --model")
    if not _KNOWN.fullmatch(stored):
        raise InputError(f"{file} is of the model {stored!r}, which is code of others to run; expected a model that needs none, or "
                         "that you name it yourself; if you trust it, pass --model with that name")
    return stored


def model_of(run: Run, options: Mapping[str, Any]) -> LoadedModel:
    """The model of a run, by `model_name`, with the weights and on the device that were asked for."""
    return load({**options, "model": model_name(run.attributes.get("model"), options["model"], run.path)})


def own_rewards(stored: Iterable[str], given: Sequence[str], file: Path) -> dict[str, Callable[..., Any]]:
    """Functions by the names that a run file has for them, each named by the user too, as ``path/to/file.py:function``.

    Args:
        stored: rewards of the file's questions; those without ":" are known by name.
        given: what the user named; nothing else is run.
        file: in errors.

    Raises:
        InputError: a stored function that the user did not name, or one that he named and no question has.
    """
    wanted = list(dict.fromkeys(word for word in stored if ":" in word))
    found: dict[str, Callable[..., Any]] = {}
    for words in given:
        function = load_function(words)
        name = callable_name(function)  # as `attribute` stores it: by its module, not by its path
        if name not in wanted:
            raise InputError(f"--reward {words}, but the answers of {file} have {', '.join(wanted) or 'no function as their reward'}; "
                             "expected the function that they were asked with; give that one, or leave it out")
        found[name] = function
    for word in wanted:
        if word not in found:
            raise InputError(f"{file} has answers whose reward is the function {word!r}, which is code to run; expected that you name it "
                             "yourself; if you trust it, pass --reward path/to/file.py:function")
    return found
