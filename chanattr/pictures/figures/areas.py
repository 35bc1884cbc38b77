"""How many channels images need: a* of all images, and class by class."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from chanattr.arguments import listed
from chanattr.errors import InputError
from chanattr.pictures.figures import theme, words
from chanattr.records import NOT_REACHED, NOT_RUN, ImageAttribution
from chanattr.tables import count

CLASSES_DRAWN = 30


class ClassAreas(NamedTuple):
    """a* of a class's images, sorted."""

    target: int
    name: str
    areas: np.ndarray
    median: float


class SmallestAreas(NamedTuple):
    """What `smallest_areas` draws: whole-number bins `[edges[i], edges[i + 1])`, and classes by falling median."""

    edges: np.ndarray
    counts: np.ndarray
    median: float
    not_reached: int
    empty: int
    classes: tuple[ClassAreas, ...]
    channels: int


def area_bins(channels: int, count: int = 18) -> np.ndarray:
    """Edges of bins from 1 to `channels`, about even by ratio, each at least one channel wide.

    Examples:
        >>> area_bins(16, 4)
        array([ 1,  2,  4,  8, 17])
    """
    edges = np.unique(np.rint(np.geomspace(1, channels + 1, count + 1)).astype(int))
    return edges if len(edges) > 1 else np.array([1, 2])


def smallest_areas_data(found: ImageAttribution, names: Sequence[str] | None = None,
                        labels: Sequence[int] | np.ndarray | None = None) -> SmallestAreas:
    """Counts of a* in bins, and a* class by class where labels are given.

    Args:
        found: what `per_image` gave.
        names: class names by class number.
        labels: class of each image [N], -1 for none; None for no classes.

    Raises:
        InputError: not one label an image.

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.images()
        >>> data = ca.figures.smallest_areas_data(found)
        >>> data.edges.tolist(), data.counts.tolist(), data.median
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], [0, 1, 1, 1, 0, 0, 0, 0], 3.0)
    """
    words.check_record("found", found, ImageAttribution)
    if labels is not None:
        labels = listed("labels", labels, "class numbers", "leave it out for no classes", least=0)
        if len(labels) != len(found) or not all(isinstance(label, Integral) for label in labels):
            raise InputError(f"{len(labels)} labels for {len(found)} images, {labels[:5]}; expected one whole number an image, -1 for none")
    smallest, channels = found.smallest_area, found.masks.shape[2]
    edges = area_bins(channels)
    counts = np.histogram(smallest[smallest > 0], edges)[0]
    reached = smallest[smallest >= 0]
    classes = () if labels is None else _by_class(smallest, np.asarray(labels), names)
    return SmallestAreas(edges, counts, float(np.median(reached)) if len(reached) else float("nan"),
                         int((smallest == NOT_REACHED).sum()), int((smallest == 0).sum()), classes, channels)


def _by_class(smallest: np.ndarray, labels: np.ndarray, names: Sequence[str] | None) -> tuple[ClassAreas, ...]:
    found = []
    for target in np.unique(labels[labels >= 0]):
        areas = np.sort(smallest[(labels == target) & (smallest >= 0)])
        if len(areas):
            found.append(ClassAreas(int(target), words.class_name(int(target), names), areas, float(np.median(areas))))
    return tuple(sorted(found, key=lambda c: (-c.median, c.target)))


def smallest_areas(found: ImageAttribution, names: Sequence[str] | None = None,
                   labels: Sequence[int] | np.ndarray | None = None) -> go.Figure:
    """A histogram of a* and, with labels, a* of every image class by class.

    Args:
        found: what `per_image` gave.
        names: class names by class number.
        labels: class of each image, -1 for none; the 30 classes with the most images are drawn.

    Raises:
        InputError: not one label an image.

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.images()
        >>> ca.figures.smallest_areas(found, names=["cat", "dog", "fox"], labels=[0, 1, 2]).layout.title.text
        '<b>How many channels an image needs</b>'
    """
    data = smallest_areas_data(found, names, labels)
    drawn = sorted(sorted(data.classes, key=lambda c: -len(c.areas))[:CLASSES_DRAWN], key=lambda c: (-c.median, c.target))
    figure = go.Figure()
    _histogram(figure, data, found.settings.unit)
    run = int((found.smallest_area != NOT_RUN).sum())
    below = f"a* of {run:,} images · layer {words.fit(found.layer, 32)}"
    theme.dress(figure, f"How many {found.settings.unit} an image needs", below, height=360 + (30 + 26 * len(drawn) if drawn else 0))
    figure.update_xaxes(**theme.area_axis(data.channels))
    figure.update_xaxes(title={"text": f"a*: {found.settings.unit}"})
    figure.update_yaxes(title={"text": "images"}, rangemode="tozero")
    figure.update_layout(margin={"b": 64, "t": 84}, showlegend=False, bargap=0)
    if drawn:
        _class_rows(figure, drawn, len(data.classes))
    apart = [f"{n:,} {text}" for n, text in ((data.not_reached, "not reached"), (data.empty, "need none (a* = 0)")) if n]
    if apart:
        theme.note(figure, " · ".join(apart), x=1, xref="paper", xanchor="right", y=1, yref="paper", yanchor="bottom")
    return figure


def _histogram(figure: go.Figure, data: SmallestAreas, unit: str) -> None:
    """Bars on a logarithmic axis; a whole-number bin reaches half a channel to both sides."""
    low, high = data.edges[:-1] - 0.5, data.edges[1:] - 0.5
    text = [count(int(a), unit[:-1]) if b == a + 1 else f"{a:,} to {b - 1:,} {unit}"
            for a, b in zip(data.edges[:-1], data.edges[1:], strict=True)]
    figure.add_bar(x=low, width=high - low, offset=0, y=data.counts, text=text, textposition="none",
                   marker={"color": theme.BAR, "line": {"color": "#ffffff", "width": 1}},
                   hovertemplate="%{text}<br>%{y} images<extra></extra>")
    if data.median > 0:
        figure.add_vline(x=data.median, line={"color": theme.ACCENT, "width": 1.6})
        right = np.log(data.median) > 0.6 * np.log(max(data.channels, 2))
        theme.note(figure, f"<b>median {data.median:g}</b>", x=float(np.log10(data.median)), xref="x",
                   xanchor="right" if right else "left",
                   xshift=-5 if right else 5, y=1, yref="y domain", yanchor="bottom", font={"color": theme.ACCENT})


def _class_rows(figure: go.Figure, drawn: Sequence[ClassAreas], of: int) -> None:
    """One line a class below the histogram: its images as dots, its median as a bar."""
    top = 26 * len(drawn) / (26 * len(drawn) + 230)
    rows = np.arange(len(drawn))
    figure.add_scatter(x=np.concatenate([np.maximum(c.areas, 0.85) for c in drawn]),
                       y=np.concatenate([np.full(len(c.areas), r) for r, c in zip(rows, drawn, strict=True)]),
                       customdata=np.concatenate([c.areas for c in drawn]), yaxis="y2", mode="markers",
                       text=[words.fit(c.name, 28) for c in drawn for _ in c.areas],
                       marker={"size": 8, "color": theme.SLATE, "opacity": 0.4},
                       hovertemplate="%{text}<br>a* = %{customdata}<extra></extra>")
    figure.add_scatter(x=[max(c.median, 0.85) for c in drawn], y=rows, yaxis="y2", mode="markers",
                       text=[words.fit(c.name, 28) for c in drawn], customdata=[c.median for c in drawn],
                       marker={"symbol": "line-ns", "size": 16, "line": {"width": 3, "color": theme.ACCENT}},
                       hovertemplate="%{text}<br>median a* = %{customdata:g}<extra></extra>")
    figure.update_layout(yaxis={"domain": [min(top + 0.1, 0.9), 1]}, xaxis={"anchor": "y2"}, yaxis2={
        "domain": [0, top], "range": [-0.6, len(drawn) - 0.4], "tickvals": rows, "anchor": "x", "ticks": "",
        "ticktext": [words.fit(c.name, 22) for c in drawn], "gridcolor": theme.RULE, "zeroline": False,
        "linecolor": theme.BAR, "showline": True, "automargin": True})
    if of > len(drawn):
        theme.note(figure, f"{len(drawn)} classes with the most images, of {of}", x=0, xref="paper", xanchor="left", y=top,
                   yref="paper", yanchor="bottom")
