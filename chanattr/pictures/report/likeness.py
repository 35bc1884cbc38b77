"""Which classes need the same channels: a matrix of overlaps and a dendrogram, every line of which leads to its class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chanattr.evidence.sets import Clusters, Overlap, cluster, overlap
from chanattr.pictures.report.answer import Section
from chanattr.pictures.report.markup import Markup, element, join, scrolled
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
    found = overlap(part, area)
    joined = cluster(found)
    what = f"joint sets of {area:,} {section.record.settings.unit}" if area is not None else "joint a* sets"
    left_out = f" The {len(chosen)} classes with the most images, of {len(classes):,}." if len(chosen) < len(classes) else ""
    caption = element("figcaption", element("b", "Which classes need the same"), " ",
                      element("span", f"Jaccard index of their {what}; joined by average linkage; choose a class to see it.{left_out}"))
    drawing = _drawing(found, joined, part.targets.tolist(), [name or f"class {target}" for name, target in
                                                              zip(part.names, part.targets.tolist(), strict=True)], section, linked)
    scroll = scrolled(drawing, f"Likeness of classes at {section.title}", "scroll-x", "group")
    return element("figure", caption, scroll, class_="card likeness")


def _drawing(found: Overlap, joined: Clusters, targets: Sequence[int], names: Sequence[str], section: Section,
             linked: set[int]) -> Markup:
    count, order = len(targets), joined.order.tolist()
    most = float(found.jaccard[~np.eye(count, dtype=bool)].max())
    room = LETTER * max(len(short(name, 26)) for name in names) + 14
    wide, high = TREE + room + count * CELL + 8, count * CELL + 8
    rows = [_row(found.jaccard[row][order], max(most, 1e-9), place, targets[row], names[row], order, names, section,
                 linked, room) for place, row in enumerate(order)]
    paths = element("path", d=_tree(joined, order), class_="tree")
    return element("svg", paths, *rows, viewBox=f"0 0 {wide} {high}", width=wide, height=high, role="group",
                   aria_label=f"Overlap of {count} classes at {section.title}; the most alike share {most:.0%}")


def _row(values: np.ndarray, most: float, place: int, target: int, name: str, order: Sequence[int], names: Sequence[str],
         section: Section, linked: set[int], room: int) -> Markup:
    top = 4 + place * CELL
    best = max(((value, other) for other, value in enumerate(values.tolist()) if other != place), default=(0.0, place))
    said = f"{name}: most like {names[order[best[1]]]}, {best[0]:.0%} shared"
    cells = [element("rect", x=TREE + room + column * CELL, y=top, class_="own") if column == place else
             element("rect", x=TREE + room + column * CELL, y=top, fill_opacity=f"{max(0.04, min(1.0, value / most)):.2f}")
             for column, value in enumerate(values.tolist())]
    label = element("text", short(name, 26), x=TREE + room - 8, y=top + CELL * 0.7)
    line = join([element("title", said), element("rect", x=TREE, y=top, class_="hit", style=f"width:{room}px"), label, *cells])
    if target not in linked:
        return element("g", line)
    return element("a", line, href=f"#class/{target}/{section.link}", aria_label=said, data_leaf=target)


def _tree(joined: Clusters, order: Sequence[int]) -> str:
    """Brackets from the names to the left, by distance."""
    count = len(order)
    height = {row: 4 + (place + 0.5) * CELL for place, row in enumerate(order)}
    depth = dict.fromkeys(range(count), float(TREE - 6))
    most = float(joined.merges[:, 2].max(initial=0)) or 1.0
    parts = []
    for step, (left, right, distance, _) in enumerate(joined.merges.tolist()):
        at = (TREE - 6) * (1 - 0.94 * distance / most)
        one, other = int(left), int(right)
        parts.append(f"M{depth[one]:.1f} {height[one]:.1f}H{at:.1f}V{height[other]:.1f}H{depth[other]:.1f}")
        height[count + step], depth[count + step] = (height[one] + height[other]) / 2, at
    return "".join(parts)
