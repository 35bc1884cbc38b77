"""What a record shows of itself: fields in a line; in a notebook a small HTML table, escaped, bounded, without colours of its own."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

ROWS, TEXT = 8, 60  # shown at most; characters of a text
CELL = "padding:2px 10px 2px 0;text-align:left;vertical-align:top;border:0;background:none;color:inherit"
LINE = "border-bottom:1px solid rgba(128,128,128,0.4)"
SPECIAL = {-1: "not reached", -2: "not run"}


def table(title: str, facts: Sequence[object], heads: Sequence[str], rows: Sequence[Sequence[object]], of: int | None = None) -> str:
    """A table in HTML that is read on light and dark pages alike: all its colours are those around it.

    Args:
        title: what it is, such as the name of a record's type.
        facts: said in one line below it.
        heads: of the columns.
        rows: of cells: texts, whole numbers, numbers (three figures; a dash for NaN) and truths; 8 are shown, and how many more there are.
        of: rows that there are, where only some are given.

    Example:
        >>> "&lt;b&gt;" in table("Record", ["<b>"], ["key"], [["a.jpg"]])
        True
    """
    head = "".join(f'<th style="{CELL};{LINE};font-weight:600">{text(name)}</th>' for name in heads)
    body = "".join("<tr>" + "".join(f'<td style="{CELL}">{text(cell)}</td>' for cell in row) + "</tr>" for row in rows[:ROWS])
    left = (len(rows) if of is None else of) - min(len(rows), ROWS)
    more = f'<div style="opacity:0.7">and {left:,} more</div>' if left else ""
    said = " · ".join(text(fact) for fact in facts)
    return (f'<div style="font-size:13px;line-height:1.4;overflow-x:auto"><div><b>{text(title)}</b> '
            f'<span style="opacity:0.75">{said}</span></div>'
            '<table style="border-collapse:collapse;background:none;color:inherit;font-size:inherit;margin:4px 0">'
            f"<thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>{more}</div>")


def columns(record: object, facts: Sequence[object], named: Mapping[str, Any]) -> str:
    """The table of a record from its columns.

    Args:
        record: whose type is the title.
        facts: as for `table`.
        named: columns by their heads: sequences or arrays of one length.

    Example:
        >>> "<td" in columns("", ["2 images"], {"image": ["a.jpg", "b.jpg"], "score": [0.5, 0.25]})
        True
    """
    rows = list(zip(*(column[:ROWS] for column in named.values()), strict=True))
    return table(type(record).__name__, facts, tuple(named), rows, len(next(iter(named.values()))))


def of_images(record: Any, facts: Sequence[object], *, share: bool = False) -> str:
    """The table of a record of images: a row an image, with its a*, which may be a share of the picture."""
    return columns(record, facts, {
        "image": record.keys, "target": record.targets, "predicted": record.predictions, "probability": record.probability,
        "a*": [area(smallest, share) for smallest in record.smallest_area[:ROWS]], "score at a*": record.smallest_score,
        "original": record.original, "still named": record.smallest_top1})


def facts(record: Any, rows: str) -> tuple[str, ...]:
    """What a record of channel sets, which has these `rows`, is about."""
    asked, areas = record.settings, record.areas
    searched = f"{count(len(areas), 'area')} from {areas[0]:,} to {areas[-1]:,}" if len(areas) else "a* alone"
    return rows, f"layer {record.layer}", f"{record.smallest_mask.shape[1]:,} {asked.unit}", searched, asked.game, asked.reward


def outline(record: Any) -> str:
    """A record as Python shows it: every field, arrays by their type and shape, what is long cut.

    Example:
        >>> import numpy as np
        >>> outline(np.zeros((2, 3), "f4")), outline(("a.jpg",) * 9), outline("layer3")
        ('float32[2, 3]', '9 x str', "'layer3'")
    """
    if hasattr(record, "shape") and hasattr(record, "dtype"):
        return f"{record.dtype}{list(record.shape)}".removeprefix("torch.")
    if dataclasses.is_dataclass(record) or hasattr(record, "_fields"):
        names = [f.name for f in dataclasses.fields(record)] if dataclasses.is_dataclass(record) else record._fields
        values = [(name, getattr(record, name)) for name in names]
        inner = (f"{name}={type(value).__name__}(...)" if dataclasses.is_dataclass(value) else f"{name}={outline(value)}"
                 for name, value in values)
        return f"{type(record).__name__}({', '.join(inner)})"
    if isinstance(record, (tuple, list)) and (len(record) > 4 or any(hasattr(one, "shape") for one in record)):
        return f"{len(record):,} x {type(record[0]).__name__}"
    return short(repr(record))


def text(value: object, most: int = TEXT) -> str:
    """A cell as HTML that shows it as it is: cut, control characters replaced, escaped for text and for attributes."""
    return html.escape(short("".join(c if c.isprintable() else "\ufffd" for c in plain(value)), most), quote=True)


def plain(value: object) -> str:
    """A cell in words.

    Example:
        >>> plain(True), plain(1234), plain(0.12345), plain(float("nan"))
        ('yes', '1,234', '0.123', '–')
    """
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if isinstance(value, Real):
        return f"{float(value):.3g}" if math.isfinite(float(value)) else "–"
    return str(value)


def short(words: str, most: int = TEXT) -> str:
    """Text of at most so many characters, the middle left out."""
    if len(words) <= most:
        return words
    head = (most - 1) // 2
    return f"{words[:head]}…{words[-(most - 1 - head):]}"


def area(value: Any, share: bool = False) -> str:
    """a* in words: a count, or a share of a picture; what there is in place of one.

    Example:
        >>> area(12), area(0.0512, share=True), area(-1)
        ('12', '5.1%', 'not reached')
    """
    return SPECIAL.get(int(value), "–") if value < 0 else f"{value:.1%}" if share else f"{int(value):,}"


def interval(value: Any, low: Any, high: Any) -> str:
    """A figure with its interval."""
    return plain(value) if not math.isfinite(value) else f"{plain(value)} ({plain(low)} to {plain(high)})"


def some_of(some: int, of: int) -> str:
    """How many of a number; the number alone where it is all of them.

    Example:
        >>> some_of(1, 4), some_of(4, 4)
        ('1 of 4', '4')
    """
    return f"{of:,}" if some == of else f"{some:,} of {of:,}"


def count(number: int, one: str, many: str = "") -> str:
    """So many of something.

    Example:
        >>> count(1, "image"), count(3, "class", "classes")
        ('1 image', '3 classes')
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
