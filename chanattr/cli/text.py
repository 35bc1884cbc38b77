"""Tables and summaries as plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from chanattr.records import ClassAttribution, ImageAttribution
from chanattr.tables import count, some_of

TERMINAL = 80  # columns: what most terminals have
PICTURES = {"channels": "of channels", "examples": "with dataset examples", "inversions": "inversions"}
TOP = 5  # channels shown of a class


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their longest cell, closer together where they would not fit; numbers to the right, words to the left."""
    cells = [list(map(str, row)) for row in rows]
    widths = [max([len(title), *(len(row[i]) for row in cells)]) for i, title in enumerate(head)]
    numeric = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(head))]
    gap = "  " if sum(widths) + 2 * len(widths) - 2 <= TERMINAL else " "

    def line(row: Sequence[str]) -> str:
        return gap.join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)).rstrip()

    return "\n".join([line(list(head)), gap.join("-" * w for w in widths), *map(line, cells)])


def layer_table(layers: Sequence[Any]) -> str:
    """The layers of a model."""
    rows = [(layer.name or "(whole model)", layer.type, layer.calls, "x".join(map(str, layer.shape)),
             layer.channel_axis if layer.channel_axis >= 0 else "-", layer.channels or "-") for layer in layers]
    return table(("layer", "type", "calls", "shape", "axis", "K"), rows) + (f"\n{count(len(rows), 'layer')} (K: channels); "
                                                                          "--explain LAYER says what a mask means there")


def named(number: int, names: Sequence[str]) -> str:
    """A class in words."""
    return names[number] if 0 <= number < len(names) else f"class {number}"


def figure(value: float | np.floating[Any] | None, digits: int) -> str:
    """A number with so many digits; "-" for none."""
    return "-" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def paragraphs(words: Iterable[str]) -> str:
    """Each in the width of a terminal, its lines but the first indented."""
    return "\n".join(textwrap.fill(one, TERMINAL, subsequent_indent="  ") for one in words)


def legend() -> str:
    """What the columns of `class_table` are."""
    words = ("a*: the fewest channels found that keep what the level asks, in the middle (median) of the class's images that reach it. "
             "joint a*: the same for one set that all of them share. top channels: those that most of the images' a* sets hold. "
             "images: '1 of 4' where a* and top channels are of one, for the others have none or were asked about another class. "
             "right answers kept: of the images that the network names rightly, those that it still does with a* channels alone.")
    return textwrap.fill(words, TERMINAL)


def class_table(found: ImageAttribution, classes: ClassAttribution, labels: np.ndarray) -> str:
    """Each class: images, a* (median), the channels most of its a* sets hold, and what a* channels alone keep."""
    rows = []
    for row, target in enumerate(classes.targets.tolist()):
        mine = labels == target
        right = mine & (found.predictions == target)
        area = found.smallest_area[mine & (found.targets == target) & (found.smallest_area >= 0)]
        kept = int((found.smallest_top1 & right & (found.targets == target)).sum())
        joint = int(classes.smallest_area[row])
        images = some_of(int(classes.images[row]), int(classes.rows[row]))
        rows.append((classes.names[row] or target, images, f"{np.median(area):g}" if len(area) else "-", joint if joint >= 0 else "-",
                     top_channels(classes, row), f"{kept} of {int(right.sum())}"))
    return table(("class", "images", "a*", "joint a*", "top channels", "right answers kept"), rows)


def joint_table(classes: ClassAttribution) -> str:
    """The same of classes whose images have no answers of their own in the file."""
    rows = [(classes.names[row] or target, some_of(int(classes.images[row]), int(classes.rows[row])),
             int(classes.smallest_area[row]) if classes.smallest_area[row] >= 0 else "-", top_channels(classes, row))
            for row, target in enumerate(classes.targets.tolist())]
    return table(("class", "images", "joint a*", "top channels"), rows)


def top_channels(classes: ClassAttribution, row: int) -> str:
    """The channels that most a* sets of a class's images hold; "-" where no set holds any."""
    order = np.argsort(-classes.mean_mask[row], kind="stable")[:TOP]
    return " ".join(str(channel) for channel in order if classes.mean_mask[row, channel] > 0) or "-"


def run_text(run: Any) -> str:
    """What is in a run file, in words and a table a layer."""
    summary = run.summary()
    about = run.attributes
    state = "" if summary["complete"] else "; not complete: the command that wrote it goes on when started again"
    what = "masks on the picture" if run.spatial_layers and not run.layers else count(len(run.layers), "layer")
    lines = [f"{summary.get('path', 'run')}: {about.get('model', '?')}, {count(len(run.keys), 'image')}, {what}{state}"]
    tables = False
    labels = run.images().label
    for layer in run.layers:
        for label in run.labels(layer):
            classes = run.per_class(layer, label) if run.has_classes(layer, label) else None
            tables = tables or classes is not None
            if classes is not None and not summary["layers"][layer][label]["images"]:
                lines += ["", _class_line(layer, label, classes), joint_table(classes)]
                continue
            found = run.per_image(layer, label)
            lines += ["", _layer_line(layer, label, found)]
            if classes is not None:
                lines.append(class_table(found, classes, labels))
    for layer, kinds in summary["pictures"].items():
        lines += ["", f"{layer}: pictures kept: " + ", ".join(f"{number} {PICTURES[kind]}" for kind, number in sorted(kinds.items()))]
    return "\n".join([*lines, "", legend()] if tables else lines)


def _layer_line(layer: str, label: str, found: ImageAttribution) -> str:
    reached = found.smallest_area[found.smallest_area >= 0]
    median = f"median a* {np.median(reached):g} of {found.masks.shape[2]} {found.settings.unit}" if len(reached) else "no a*"
    asked = found.settings
    if asked.certify:
        median += f", {int((found.irreducible == 1).sum())} of {len(reached)} a* sets irreducible"
    return f"{layer} ({label}): {count(len(found), 'image')}, {median}; {_asked(found)}"


def _class_line(layer: str, label: str, classes: ClassAttribution) -> str:
    return (f"{layer} ({label}): {count(len(classes.targets), 'class', 'classes')} of {classes.joint_masks.shape[2]} "
            f"{classes.settings.unit}, no images of their own; {_asked(classes)}")


def _asked(found: ImageAttribution | ClassAttribution) -> str:
    asked = found.settings
    return f"reward {asked.reward}, game {asked.game}, fill {asked.fill}, level {asked.level}, search {asked.search.name}, {found.engine}"


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).replace("-", "", 1).isdigit() or cell == "-"
