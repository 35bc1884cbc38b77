"""The run-time check of annotations that `conftest` switches on."""

from __future__ import annotations

import sys
import typing
from typing import Any

from beartype import BeartypeConf, beartype


def checked(function: Any) -> Any:
    """`beartype`, with the module's protocols made checkable first: it refuses to decorate what names a plain one."""
    for value in list(vars(sys.modules[function.__module__]).values()):
        if isinstance(value, type) and getattr(value, "_is_protocol", False) and value is not typing.Protocol:
            typing.runtime_checkable(value)
    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)  # an int is a float, as for every type checker
