"""Methods held against one another: their share of the best score and their a*, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from chanattr.arguments import listed
from chanattr.errors import InputError
from chanattr.evidence.evaluation import Evaluation, Summary
from chanattr.evidence.intervals import Interval
from chanattr.pictures.figures import theme, words


class Methods(NamedTuple):
    """What `methods` draws: names from the worst share to the best, and an interval each."""

    names: tuple[str, ...]
    shares: tuple[Interval, ...]
    smallest: tuple[Interval, ...]
    first: str
    entries: int


def methods_data(found: Evaluation | Summary) -> Methods:
    """The methods of an evaluation in the order of their share (of their a* where no areas were searched).

    Args:
        found: what `evaluate` gave, or its `summary()`.

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.evaluation()
        >>> data = ca.figures.methods_data(found)
        >>> data.names, [share.value for share in data.shares]
        (('random', 'exact'), [0.5, 1.0])
    """
    told = _summary(found)
    by_share = any(np.isfinite(line.share.value) for line in told.lines)
    lines = sorted(told.lines, key=lambda line: line.share.value if by_share else -line.smallest.value)
    return Methods(names=tuple(line.method for line in lines), shares=tuple(line.share for line in lines),
                   smallest=tuple(line.smallest for line in lines), first=told.lines[0].method, entries=told.entries)


def methods(found: Evaluation | Summary) -> go.Figure:
    """Two columns of points with 95 % intervals, a row a method: share of the best score, and a*; the search has the accent.

    Args:
        found: what `evaluate` gave, or its `summary()`.

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.evaluation()
        >>> ca.figures.methods(found).layout.title.subtitle.text
        '3 images, 4 areas; bars are 95 % intervals over images'
    """
    told = _summary(found)
    data = methods_data(told)
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.06)
    names = [name.replace("_", " ") for name in data.names]
    colours = [theme.ACCENT if name == data.first else theme.SLATE for name in data.names]
    for column, (intervals, digits) in enumerate(((data.shares, 3), (data.smallest, 1)), 1):
        figure.add_trace(_points(intervals, names, colours, digits), 1, column)
    figure.update_yaxes(showgrid=False, ticks="")
    figure.update_xaxes(title={"text": "share of the best score"}, row=1, col=1,
                        range=[np.nanmin([0.0, *(one.low for one in data.shares)]), 1.04])
    figure.update_xaxes(**{**theme.area_axis(told.entries, told.unit), "title": {"text": f"a*: {told.unit} needed"}}, row=1, col=2)
    areas = f"{len(told.areas)} areas" if told.areas else "a* alone"
    theme.dress(figure, f"Methods at {told.layer}", f"{told.images} images, {areas}; bars are 95 % intervals over images",
                height=170 + 30 * len(names))
    return figure.update_layout(showlegend=False, margin={"l": 150, "b": 64})


class Depth(NamedTuple):
    """What `depth` draws: layers in the order given, and what share of its entries a layer needs, by the first method."""

    layers: tuple[str, ...]
    needed: tuple[Interval, ...]
    lost: tuple[Interval, ...]
    entries: tuple[int, ...]


def depth_data(found: Sequence[Evaluation | Summary]) -> Depth:
    """a* and the deletion area of the first method over K, layer by layer.

    Args:
        found: what `evaluate` gave, or its `summary()`, one a layer.

    Raises:
        InputError: no layers.

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.evaluation()
        >>> data = ca.figures.depth_data([found])
        >>> data.layers, data.needed[0].value
        (('features.10',), 0.375)
    """
    told = [_summary(one) for one in listed("found", found, "evaluations, one a layer", "write [evaluation] for one", least=0)]
    if not told:
        raise InputError("no evaluations to draw by depth; expected one a layer; evaluate a run first")

    def over(interval: Interval, entries: int) -> Interval:
        return Interval(*(value / entries for value in interval))

    return Depth(layers=tuple(one.layer for one in told), needed=tuple(over(one.lines[0].smallest, one.entries) for one in told),
                 lost=tuple(over(one.lines[0].deletion, one.entries) for one in told), entries=tuple(one.entries for one in told))


def depth(found: Sequence[Evaluation | Summary]) -> go.Figure:
    """The share of a layer's channels that are enough, and the share whose removal loses the class, with 95 % intervals, by layer.

    Args:
        found: what `evaluate` gave, or its `summary()`, one a layer.

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.evaluation()
        >>> ca.figures.depth([found]).layout.title.text
        '<b>How much of each layer is needed</b>'
    """
    data = depth_data(found)
    labels = [f"{layer}<br>K = {entries}" for layer, entries in zip(data.layers, data.entries, strict=True)]
    figure = go.Figure()
    series = (("enough: a* / K", data.needed, theme.ACCENT), ("lost without: deletion area / K", data.lost, theme.SLATE))
    for shift, (name, intervals, colour) in enumerate(series):
        known = [(label, one) for label, one in zip(labels, intervals, strict=True) if np.isfinite(one.value)]
        figure.add_scatter(x=[label for label, _ in known], y=[one.value for _, one in known], name=name, mode="lines+markers",
                           marker={"size": 9, "color": colour, "symbol": ("circle", "diamond")[shift]},
                           line={"color": colour, "width": 1.5}, error_y=_bars([one for _, one in known], colour),
                           hovertemplate="%{x}: %{y:.3f}<extra></extra>")
    top = max([one.high for _, intervals, _ in series for one in intervals if np.isfinite(one.high)], default=1.0)
    figure.update_yaxes(title={"text": "share of the layer"}, range=[0, 1.12 * top])
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=labels)
    return theme.dress(figure, "How much of each layer is needed", "means over images; bars are 95 % intervals", height=420)


def _summary(found: Evaluation | Summary) -> Summary:
    words.check_record("found", found, Evaluation, Summary)
    return found.summary() if isinstance(found, Evaluation) else found


def _points(intervals: tuple[Interval, ...], names: list[str], colours: list[str], digits: int) -> go.Scatter:
    text = [f"{one.value:.{digits}f} ({one.low:.{digits}f} to {one.high:.{digits}f})" for one in intervals]
    return go.Scatter(x=[one.value for one in intervals], y=names, mode="markers", marker={"size": 9, "color": colours},
                      error_x=_bars(intervals, theme.MUTED), text=text, hovertemplate="%{y}: %{text}<extra></extra>")


def _bars(intervals: Sequence[Interval], colour: str) -> dict[str, object]:
    """Intervals as plotly's error bars."""
    return {"type": "data", "symmetric": False, "thickness": 1.5, "width": 4, "color": colour,
            "array": [one.high - one.value for one in intervals], "arrayminus": [one.value - one.low for one in intervals]}
