"""The run-time check of annotations that `conftest` switches on."""

from __future__ import annotations

import sys
import typing
from typing import Any

from beartype import BeartypeConf, beartype

_KNOWN: dict[Any, Any] = {}


def checked(function: Any) -> Any:
    """`beartype`, made once for all closures of one signature.

    What comes here is a function that jaxtyping made of a signature alone, anew each time that a ``def`` inside another function runs:
    tests spent up to two fifths of their time on making the same checks again. Defaults are a closure's own: those with some are made anew.
    """
    if function.__defaults__ or function.__kwdefaults__:
        return _made(function)
    code = function.__code__
    kinds = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    key = (function.__module__, function.__qualname__, code.co_varnames, kinds, tuple(function.__annotations__.items()))
    if key not in _KNOWN:
        _KNOWN[key] = _made(function)
    return _KNOWN[key]


def _made(function: Any) -> Any:
    """The module's protocols are made checkable first: beartype refuses to decorate what names a plain one."""
    for value in list(vars(sys.modules[function.__module__]).values()):
        if isinstance(value, type) and getattr(value, "_is_protocol", False) and value is not typing.Protocol:
            typing.runtime_checkable(value)
    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)  # an int is a float, as for every type checker
