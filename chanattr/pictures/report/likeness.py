"""Which classes need the same channels: a matrix of overlaps and a dendrogram, every line of which leads to its class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chanattr.evidence.sets import overlap
from chanattr.pictures.figures.class_sets import OverlapMatrix, overlap_matrix_data
from chanattr.pictures.report.answer import Section
from chanattr.pictures.report.markup import Markup, caption, element, join, scrolled
from chanattr.tables import short

CELL, TREE, LETTER = 20, 120, 7  # of the drawing: side of a cell, width of the tree, and of a letter
MOST = 40  # classes


def likeness(section: Section, area: int | None, linked: set[int]) -> Markup | None:
    """The drawing of a section's classes; None with fewer than two that have a set.

    Args:
        section: with classes.
        area: at which joint sets are compared; None is each class's a*.
        linked: classes that have a place of their own on the page.
    """
    classes = section.classes
    if classes is None:
        return None
    chosen = np.flatnonzero(np.ones(len(classes), bool) if area is not None else classes.smallest_area >= 0)
    chosen = np.sort(chosen[np.argsort(-classes.rows[chosen], kind="stable")[:MOST]])
    if len(chosen) < 2:
        return None
    part = classes[chosen]
    data = overlap_matrix_data(overlap(part, area))
    what = f"joint sets of {area:,} {section.record.settings.unit}" if area is not None else "joint a* sets"
    left_out = f" The {len(chosen)} classes with the most images, of {len(classes):,}." if len(chosen) < len(classes) else ""
    most = float(data.jaccard[~np.eye(len(data.rows), dtype=bool)].max())
    below = (f"Jaccard index of their {what}: the stronger the colour, the more is shared (at most {most:.0%}); tree by average linkage; "
             f"choose a class to see it.{left_out}")
    drawing = _drawing(data, max(most, 1e-9), part.targets[data.rows].tolist(), section, linked)
    scroll = scrolled(drawing, f"Likeness of classes at {section.title}", "scroll-x", "group")
    return element("figure", caption("Which classes need the same", below), scroll, class_="card likeness")


def _drawing(data: OverlapMatrix, most: float, targets: Sequence[int], section: Section, linked: set[int]) -> Markup:
    count = len(targets)
    room = LETTER * max(len(short(name, 26)) for name in data.names) + 14
    wide, high = TREE + room + count * CELL + 8, count * CELL + 8
    rows = [_row(data, place, most, target, section, linked, room) for place, target in enumerate(targets)]
    return element("svg", element("path", d=_tree(data.lines), class_="tree"), *rows, viewBox=f"0 0 {wide} {high}", width=wide,
                   height=high, role="group", aria_label=f"Overlap of {count} classes at {section.title}; the most alike share {most:.0%}")


def _row(data: OverlapMatrix, place: int, most: float, target: int, section: Section, linked: set[int], room: int) -> Markup:
    top, name, values = 4 + place * CELL, data.names[place], data.jaccard[place].tolist()
    share, other = max((value, other) for other, value in enumerate(values) if other != place)
    said = f"{name}: most like {data.names[other]}, {share:.0%} shared"
    cells = [element("rect", x=TREE + room + column * CELL, y=top, class_="own") if column == place else
             element("rect", x=TREE + room + column * CELL, y=top, fill_opacity=f"{max(0.04, min(1.0, value / most)):.2f}")
             for column, value in enumerate(values)]
    label = element("text", short(name, 26), x=TREE + room - 8, y=top + CELL * 0.7)
    line = join([element("title", said), element("rect", x=TREE, y=top, class_="hit", style=f"width:{room}px"), label, *cells])
    if target not in linked:
        return element("g", line)
    return element("a", line, href=f"#class/{target}/{section.link}", aria_label=said, data_leaf=target)


def _tree(lines: np.ndarray) -> str:
    """Brackets from the names to the left, by distance."""
    down, across = 4 + (lines[..., 0] + 0.5) * CELL, (TREE - 6) * (1 - 0.94 * lines[..., 1] / (lines[..., 1].max() or 1))
    return "".join(f"M{x[0]:.1f} {y[0]:.1f}H{x[1]:.1f}V{y[3]:.1f}H{x[3]:.1f}" for x, y in zip(across, down, strict=True))
