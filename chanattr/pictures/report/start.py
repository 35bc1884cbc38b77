"""How the page begins: the answer in three figures, and what evidence the run file has for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chanattr.pictures.figures import words
from chanattr.pictures.report.answer import Section, answer
from chanattr.pictures.report.layer import compared_area
from chanattr.pictures.report.markup import Markup, caption, element, number, scrolled, table
from chanattr.records import NOT_RUN, ImageAttribution
from chanattr.tables import short

if TYPE_CHECKING:
    from chanattr.store import Run

WIDE, LEFT, LINE, TOP = 420, 128, 34, 8  # of a figure: pixels in all, for names, a line, above
SAMPLE = 2000  # images whose scores are averaged
SHARES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Depth(NamedTuple):
    """a* of a section as shares of K: the smallest, the quartiles and the largest; NaN where no image reaches."""

    low: float
    first: float
    median: float
    third: float
    high: float


def depth_of(section: Section) -> Depth:
    """How small the a* sets of a section are."""
    found = section.found
    reached = np.zeros(0) if found is None else found.smallest_area[found.smallest_area >= 0] / section.channels
    return Depth(*(np.quantile(reached, (0, 0.25, 0.5, 0.75, 1)).tolist() if len(reached) else [float("nan")] * 5))


Answers = Sequence[tuple[Section, ImageAttribution]]


def figures(run: Run, found: Sequence[Section], labels: np.ndarray) -> Markup | None:
    """The answer in three figures; None where no images were searched."""
    shown = [(section, section.found) for section in found if section.found is not None]
    if not shown:
        return None
    return element("div", _depth(shown), _right(shown, labels), _curves(run, shown), class_="three")


def _depth(shown: Answers) -> Markup:
    """a* by depth."""
    least = min((depth.low for section, _ in shown if (depth := depth_of(section)).low > 0), default=0.01)
    start = next((share for share in reversed(SHARES) if share <= min(least, 0.5)), SHARES[0])  # an axis has two ends

    def place(share: float) -> float:
        return LEFT + (WIDE - LEFT - 30) * math.log(max(share, start) / start) / math.log(1 / start)

    lines, said = [], []
    for line, (section, _) in enumerate(shown):
        depth, y = depth_of(section), TOP + LINE * (line + 0.5)
        if np.isfinite(depth.median):
            lines += [element("line", x1=_n(place(depth.low)), x2=_n(place(depth.high)), y1=y, y2=y, class_="thin"),
                      element("line", x1=_n(place(depth.first)), x2=_n(place(depth.third)), y1=y, y2=y, class_="thick"),
                      element("circle", cx=_n(place(depth.median)), cy=y, r=6, class_="dot"),
                      element("text", _percent(depth.median), x=_n(place(depth.median)), y=y - 9, class_="value")]
        said.append(f"{section.title} {_percent(depth.median) if np.isfinite(depth.median) else 'none'}")
    ticks = [(place(share), _percent(share)) for share in SHARES if start <= share and share in (start, 0.01, 0.1, 1.0)]
    return _figure("How few channels: a* by depth", "share of the layer's channels; dot: median image, thick: middle half, thin: all",
                   shown, lines, ticks, f"a* as a share of each layer's channels, median image: {', '.join(said)}")


def _right(shown: Answers, labels: np.ndarray) -> Markup:
    """Right answers that a* sets keep."""
    lines, said, labelled = [], [], True
    for line, (section, found) in enumerate(shown):
        given, y = answer(found, labels), TOP + LINE * (line + 0.5)
        labelled = labelled and given.labelled
        count = given.right - given.kept if found.settings.game == "delete" else given.kept
        share, room = count / given.right if given.right else 0.0, WIDE - LEFT - 30
        lines += [element("rect", x=LEFT, y=y - 8, width=room, height=16, class_="track"),
                  element("rect", x=LEFT, y=y - 8, width=_n(room * share), height=16, class_="bar"),
                  element("text", f"{count:,} of {given.right:,}", x=LEFT + 6, y=y + 4.5, class_="inside")]
        said.append(f"{section.title} {count} of {given.right}")
    games = {found.settings.game for _, found in shown}
    what = ("are gone without the a* channels" if games == {"delete"} else "stay with the a* channels alone" if "delete" not in games else
            "stay (or, in the game delete, are gone)")
    whose = "right answers" if labelled else "answers"
    return _figure(f"Whether it is enough: {whose} that {what}", "of those of the whole network", shown, lines,
                   [(LEFT, "0"), (WIDE - 30, "all")], f"{whose.capitalize()} that {what}: {', '.join(said)}")


def _curves(run: Run, shown: Answers) -> Markup:
    """The median image's score against the area, at each layer."""
    bottom, drawn = TOP + LINE * max(len(shown), 4), [_median_curve(run, section, found) for section, found in shown]
    top = max((value for points in drawn for _, value in points), default=0.0)
    high = max(1.1, 1.05 * top)
    start = min((share for points in drawn for share, _ in points), default=0.01)

    def x(share: float) -> float:
        return 44 + (WIDE - 74) * math.log(share / start) / math.log(1 / start) if start < 1 else 44

    def y(value: float) -> float:
        return bottom - (bottom - TOP) * min(max(value, 0), high) / high

    lines: list[Markup] = [element("line", x1=44, x2=WIDE - 30, y1=_n(y(1)), y2=_n(y(1)), class_="level"),
                           element("text", "1", x=38, y=_n(y(1) + 4), class_="value end"),
                           element("text", "0", x=38, y=_n(y(0) + 4), class_="value end")]
    if top > 1.5:  # above the 1 by more than a line of words
        lines.append(element("text", words.number(top), x=38, y=_n(y(top) + 4), class_="value end"))
    for line, points in enumerate(drawn):
        if points:
            path = "M" + "L".join(f"{x(share):.1f} {y(value):.1f}" for share, value in points)
            dot = "stroke-linecap:round;stroke-width:8px" if len(points) == 1 else None
            lines.append(element("path", d=path + ("h0.01" if dot else ""), class_=f"curve-{line % 4}", style=dot))
    ticks = [(x(share), _percent(share)) for share in SHARES if start <= share and share in (0.01, 0.1, 1.0)]
    legend = [element("span", element("i", class_=f"key curve-{line % 4}"), section.title) for line, (section, _) in enumerate(shown)]
    return _figure("How the score comes back", "of the median image, 0: no channel, 1: all of them; against the share of channels", [],
                   lines, ticks, "Median score against the share of channels selected, a line a layer", bottom,
                   element("p", *legend, class_="legend"))


def _median_curve(run: Run, section: Section, found: ImageAttribution) -> list[tuple[float, float]]:
    """Share of channels, and the median image's share of the way from no channel to all."""
    rows = np.flatnonzero(found.smallest_area != NOT_RUN)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(int)] if len(rows) else rows
    scores, original, empty = (run.field(section.layer, name, section.label, rows=rows) for name in ("scores", "original", "empty"))
    span = (original - empty)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(np.abs(span) > 1e-6, (scores - empty[:, None]) / span, np.nan)
    known = set(np.flatnonzero(np.isfinite(share).any(axis=0)).tolist())
    return [(area / section.channels, float(np.nanmedian(share[:, place]))) for place, area in enumerate(found.areas.tolist())
            if place in known]


def _figure(title: str, below: str, shown: Answers, lines: Iterable[Markup], ticks: Sequence[tuple[float, str]],
            alt: str, bottom: float = 0, after: Markup | None = None) -> Markup:
    bottom = bottom or TOP + LINE * len(shown)
    names = [element("a", element("text", short(section.title, 17), x=LEFT - 10, y=TOP + LINE * (line + 0.5) + 4, class_="name"),
                     href=f"#layer/{section.link}") for line, (section, _) in enumerate(shown)]
    axis = [element("text", text, x=_n(at), y=bottom + 18, class_="tick") for at, text in ticks]
    drawing = element("svg", *lines, *names, *axis, viewBox=f"0 0 {WIDE} {bottom + 26}", role="group", aria_label=alt)
    return element("figure", caption(title, below), drawing, after, class_="card start")


def _n(value: float) -> str:
    return f"{value:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.{1 if share < 0.0095 or 0.0105 < share < 0.0195 else 0}f} %"


def evidence(run: Run, found: Sequence[Section]) -> Markup:
    """What the run file says for and against its answers; what was not measured is said too."""
    methods = [_methods(run, section) for section in found]
    parts = [part for section, held in zip(found, methods, strict=True) for part in (_certified(run, section), _held_out(section), held)]
    parts.append(_uncertified(found))
    if not any(methods):
        parts.append(element("li", "Other methods were not held against these answers here: ", element("code", "chanattr evaluate"),
                             " does it, and its table then stands in this place."))
    return element("section", element("h2", "The evidence"), element("ul", *parts, class_="evidence"), id="evidence")


def _certified(run: Run, section: Section) -> Markup | None:
    found = section.found
    if found is None or not found.settings.certify:
        return None
    tried = run.field(section.layer, "irreducible", section.label)[found.smallest_area > 0]
    return element("li", element("code", section.title), f" {int((tried == 1).sum()):,} of {len(tried):,} a* sets are irreducible: "
                   "without any one of their members they no longer reach the level.")


def _uncertified(found: Sequence[Section]) -> Markup | None:
    titles = [section.title for section in found if section.found is not None and not section.found.settings.certify]
    if not titles:
        return None
    return element("li", "a* sets were not certified at ", element("code", ", ".join(titles)), ": smaller ones may exist.")


def _held_out(section: Section) -> Markup | None:
    classes = section.classes
    if classes is None or (area := compared_area(classes)) is None:  # as in the table of classes
        return None
    known = np.isfinite(classes.held_out_scores).all(1)
    if not known.any():
        return None
    place = classes.areas.tolist().index(area)
    searched, held = (float(np.mean(scores[known, place])) for scores in (classes.joint_scores, classes.held_out_scores))
    return element("li", element("code", section.title), f" joint sets of {area:,} {classes.settings.unit} score "
                   f"{words.number(searched)} on the images they were searched on, {words.number(held)} on images held out (mean over "
                   f"{int(known.sum())} classes).")


def _methods(run: Run, section: Section) -> Markup | None:
    """The table that `chanattr evaluate` left, if its words are as they should be."""
    held: Any = run.attributes.get("evaluations")
    try:
        lines = held[section.layer][section.label]["lines"]
        rows = [(str(line["method"]), _value(line["share"]), _value(line["smallest"])) for line in lines]
    except (KeyError, TypeError, IndexError, AttributeError):
        return None
    heads = (("method", "the search of this file first"), ("share", "of what the best method gains on selecting nothing"),
             ("a*", "fewest channels that reach the level, mean"))
    body = [element("tr", element("th", method, scope="row"), number(share), number(smallest)) for method, share, smallest in rows]
    return element("li", element("code", section.title), " held against other methods:",
                   scrolled(table(heads, body), f"Methods at {section.title}"))


def _value(interval: Any) -> str:
    value = interval["value"] if isinstance(interval, dict) else interval[0]
    return "–" if value is None else f"{float(value):.3g}"
