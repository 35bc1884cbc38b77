"""An error of somebody else's code in one line: its type, what it says first, nothing that fills a screen."""

from __future__ import annotations

import pytest

import chanattr as ca
from chanattr.errors import first_line


@pytest.mark.parametrize(("error", "line"), [
    (RuntimeError("\n\n  what happened\nand where\n"), "RuntimeError: what happened"),
    (KeyError(), "KeyError"),
    (ValueError(" \n\t"), "ValueError"),
    (ca.InputError("area 9; expected 1 to 8"), "InputError: area 9; expected 1 to 8")])
def test_the_first_line_that_says_something(error: Exception, line: str) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize("said", ["word " * 1000, "https://host/" + "x" * 1000])
def test_a_long_one_is_cut(said: str) -> None:
    assert first_line(RuntimeError(said)) == f"RuntimeError: {said[:196]} ..."
