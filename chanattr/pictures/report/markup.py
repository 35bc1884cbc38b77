"""HTML that is escaped unless it says that it is HTML: elements, scripts and JSON for scripts."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

from chanattr.pictures.figures.words import printable

_VOID = {"img", "meta", "br", "input"}
# What could end a script or open a comment in it; JSON and JavaScript read these as the same characters.
_IN_SCRIPT = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


class Markup(str):
    """Text that is HTML already; every other text is escaped where it is put in."""

    __slots__ = ()


def escape(content: object) -> str:
    """HTML of a content: markup as it is, anything else as text."""
    return content if isinstance(content, Markup) else html.escape(printable(content))


def join(contents: Iterable[object]) -> Markup:
    """Contents side by side; None is nothing."""
    return Markup("".join(escape(c) for c in contents if c is not None))


def element(tag: str, *contents: object, **attributes: object) -> Markup:
    """An element; `class_` and `data_x` stand for class and data-x, True for an attribute without a value, None and False for none.

    Examples:
        >>> element("a", "<b>", href="#x", class_="key", hidden=True)
        '<a href="#x" class="key" hidden>&lt;b&gt;</a>'
    """
    parts = [f"<{tag}"]
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(f" {name}")
        elif value is not None and value is not False:
            parts.append(f' {name}="{html.escape(printable(value))}"')
    opening = "".join(parts) + ">"
    return Markup(opening) if tag in _VOID else Markup(f"{opening}{join(contents)}</{tag}>")


def caption(title: str, below: str) -> Markup:
    """What a figure shows, and how to read it."""
    return element("figcaption", element("b", title), " ", element("span", below))


def number(text: str) -> Markup:
    """A cell of a table with a number."""
    return element("td", text, class_="number")


def table(heads: Iterable[tuple[str, str]], rows: Iterable[Markup], last: Markup | None = None) -> Markup:
    """A table: heads as pairs of a name and what it means, rows, and one set apart below them."""
    head = element("tr", *[element("th", name, scope="col", title=title) for name, title in heads])
    foot = None if last is None else element("tfoot", last)
    return element("table", element("thead", head), element("tbody", *rows), foot)


def scrolled(content: Markup, what: str, class_: str = "scroll", role: str = "region") -> Markup:
    """What scrolls where it is too wide or high; reachable without a mouse."""
    return element("div", content, class_=class_, tabindex="0", role=role, aria_label=what)


def script_json(value: Any, **attributes: object) -> Markup:
    """JSON in a script element that is data and never runs."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character, code in _IN_SCRIPT.items():
        text = text.replace(character, code)
    return element("script", Markup(text), type="application/json", **attributes)
