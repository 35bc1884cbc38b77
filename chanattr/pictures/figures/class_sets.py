"""Sets of classes against one another: how far they overlap, with a dendrogram, and what each does to the others' images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from chanattr.errors import InputError
from chanattr.evidence.class_records import Specificity
from chanattr.evidence.sets import Overlap, cluster
from chanattr.pictures.figures import theme, words

LABELLED = 60  # classes whose names still have room
TREE = 64  # pixels that the dendrogram is high
DIVERGING = ((0.0, "#0b3d66"), (0.25, "#6fa8d6"), (0.5, "#ffffff"), (0.75, "#ee9a62"), (1.0, "#6b2503"))


class OverlapMatrix(NamedTuple):
    """What `overlap_matrix` draws: classes in the dendrogram's order, their Jaccard matrix and chance, and the tree's lines."""

    names: tuple[str, ...]
    jaccard: np.ndarray
    expected: np.ndarray
    lines: np.ndarray
    """Brackets, one a merge, as four corners (x, distance), f8 [C - 1, 4, 2]."""
    rows: np.ndarray
    """Which rows of the overlap the classes are, i8 [C]."""


class SpecificityMatrix(NamedTuple):
    """What `specificity_matrix` draws: a figure of B's images (columns) under A's sets (rows), and of the whole network."""

    names: tuple[str, ...]
    values: np.ndarray
    original: np.ndarray
    what: str


def overlap_matrix_data(likeness: Overlap) -> OverlapMatrix:
    """The overlaps in the order of average linkage, as numbers; rows without a set are left out.

    Args:
        likeness: what `overlap` gave; C sets.

    Raises:
        InputError: no row has a set.

    Examples:
        >>> import chanattr as ca
        >>> classes = ca.figures.samples.classes()
        >>> data = ca.figures.overlap_matrix_data(ca.overlap(classes, 4))
        >>> data.names, data.jaccard.round(2).tolist()[0]
        (('fox', 'cat', 'dog'), [1.0, 0.33, 0.6])
    """
    words.check_record("likeness", likeness, Overlap)
    kept = np.flatnonzero(likeness.sizes >= 0)
    if not len(kept):
        raise InputError("an overlap in which no class has a set; expected one or more; ask overlap with a count that was searched")
    square = np.ix_(kept, kept)
    part = likeness._replace(names=tuple(likeness.names[row] for row in kept), sizes=likeness.sizes[kept], shared=likeness.shared[square],
                             jaccard=likeness.jaccard[square], expected=likeness.expected[square])
    found = cluster(part)
    order = np.ix_(found.order, found.order)
    return OverlapMatrix(tuple(part.names[row] for row in found.order), part.jaccard[order], part.expected[order],
                         _brackets(found.merges, found.order), kept[found.order])


def overlap_matrix(likeness: Overlap) -> go.Figure:
    """A heat map of the Jaccard indices, classes in the order of the dendrogram above it.

    Args:
        likeness: what `overlap` gave; names of more than 60 sets are left out.

    Raises:
        InputError: no row has a set.

    Examples:
        >>> import chanattr as ca
        >>> classes = ca.figures.samples.classes()
        >>> ca.figures.overlap_matrix(ca.overlap(classes, 4)).layout.title.subtitle.text
        'Jaccard index of sets among 8 · by chance 0.36, here 0.51'
    """
    data = overlap_matrix_data(likeness)
    count = len(data.names)
    top = 1 - TREE / (TREE + _cells(count))
    figure = go.Figure(_heat(data.jaccard, 1, theme.SEQUENTIAL, "", [0, 0.5, 1], top))
    figure.data[0].update(customdata=np.dstack([data.expected, *np.meshgrid(*[[words.safe(name) for name in data.names]] * 2)]),
                          hovertemplate="%{customdata[2]} and %{customdata[1]}<br>Jaccard %{z:.2f}, %{customdata[0]:.2f} by chance"
                                        "<extra></extra>")
    gap = np.full((len(data.lines), 1, 2), np.nan)
    path = np.concatenate([data.lines, gap], 1).reshape(-1, 2)
    figure.add_scatter(x=path[:, 0], y=path[:, 1], mode="lines", yaxis="y2", line={"color": theme.SLATE, "width": 1.2}, hoverinfo="skip",
                       showlegend=False)
    off = ~np.eye(count, dtype=bool)
    chance = f" · by chance {data.expected[off].mean():.2f}, here {data.jaccard[off].mean():.2f}" if count > 1 else ""
    theme.dress(figure, "How far the classes need the same channels", f"Jaccard index of sets among {likeness.channels:,}{chance}",
                height=210 + TREE + _cells(count))
    _label(figure, data.names, "")
    figure.update_layout(yaxis={"domain": [0, top]}, yaxis2={
        "domain": [top + (1 - top) / 12, 1], "range": [0, 1.04 * max(1e-9, data.lines[..., 1].max(initial=1e-9))], "visible": False,
        "fixedrange": True})
    return figure


def specificity_matrix_data(found: Specificity, figure: str = "accuracy") -> SpecificityMatrix:
    """A figure of a specificity, as numbers: its "accuracy" or its "logits".

    Args:
        found: what `specificity` gave of C classes.
        figure: "accuracy" (top-1, a share) or "logits" (means).

    Raises:
        InputError: no such figure.

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.specificity()
        >>> data = ca.figures.specificity_matrix_data(found)
        >>> data.what, data.names, data.values.shape
        ('top-1 accuracy', ('cat', 'dog', 'fox'), (3, 3))
    """
    words.check_record("found", found, Specificity)
    if figure == "accuracy":
        return SpecificityMatrix(found.names, found.accuracy, found.original_accuracy, "top-1 accuracy")
    if figure == "logits":
        return SpecificityMatrix(found.names, found.logits, found.original_logits, "mean logit")
    raise InputError(f"figure={figure!r}; expected 'accuracy' or 'logits'; leave it out for 'accuracy'")


def specificity_matrix(found: Specificity, figure: str = "accuracy") -> go.Figure:
    """A heat map: whose channels are kept (or dropped) down, whose images across, and the whole network as the last row.

    Args:
        found: what `specificity` gave of C classes.
        figure: "accuracy" (top-1, a share) or "logits" (means).

    Raises:
        InputError: no such figure.

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.specificity()
        >>> ca.figures.specificity_matrix(found, "logits").layout.title.text
        "<b>What one class's channels do to the others, when kept</b>"
    """
    data = specificity_matrix_data(found, figure)
    values = np.concatenate([data.values, data.original[None]])
    whose = (*data.names, "whole network")
    accuracy = figure == "accuracy"
    most = 1.0 if accuracy else float(np.nanmax(np.abs(values), initial=1e-9))
    shape, unit = (".0%", "") if accuracy else (".2f", "logit")
    drawn = go.Figure(_heat(values, most, theme.SEQUENTIAL if accuracy else DIVERGING, ".0%" if accuracy else "", None, 1))
    across, down = np.meshgrid([words.safe(name) for name in data.names], [words.safe(name) for name in whose])
    drawn.data[0].update(customdata=np.dstack([down, across]), zmin=0 if accuracy else -most,
                         hovertemplate="channels: %{customdata[0]}<br>images: %{customdata[1]}<br>%{z:" + shape + "} " + unit
                                       + "<extra></extra>")
    kept = "kept" if found.game == "preserve" else "dropped"
    size = f"{found.count:,} channels" if found.count >= 0 else "a*"
    theme.dress(drawn, f"What one class's channels do to the others, when {kept}",
                f"{data.what} · sets of {size} · layer {words.fit(found.layer, 24)}", height=250 + _cells(len(whose)))
    _label(drawn, data.names, "images of", whose, f"channels {kept}")
    drawn.update_layout(plot_bgcolor=theme.RULE)  # what is not known is neither 0 nor 1
    drawn.add_hline(y=len(data.names) - 0.5, line={"color": theme.INK, "width": 1})
    return drawn


def _brackets(merges: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The corners of every merge's bracket: up from its left cluster, across, and down to its right one."""
    count = len(order)
    middle, height = np.zeros(count + len(merges)), np.zeros(count + len(merges))
    middle[order] = np.arange(count)
    lines = np.zeros((len(merges), 4, 2))
    for step, (left, right, distance, _) in enumerate(merges):
        one, other = int(left), int(right)
        lines[step] = [(middle[one], height[one]), (middle[one], distance), (middle[other], distance), (middle[other], height[other])]
        middle[count + step], height[count + step] = (middle[one] + middle[other]) / 2, distance
    return lines


def _heat(values: np.ndarray, most: float, colours: tuple[tuple[float, str], ...], shape: str, ticks: list[float] | None,
          length: float) -> go.Heatmap:
    gap = 1 if len(values) <= LABELLED else 0
    return go.Heatmap(z=values, x=np.arange(values.shape[1]), y=np.arange(len(values)), zmin=0, zmax=most, xgap=gap, ygap=gap,
                      colorscale=[list(stop) for stop in colours],
                      colorbar={"thickness": 8, "outlinewidth": 0, "len": length, "y": 0, "yanchor": "bottom", "x": 1.01, "xpad": 4,
                                "tickvals": ticks, "tickformat": shape})


def _cells(rows: int) -> int:
    """Pixels for so many rows."""
    return max(22 * rows, 88) if rows <= LABELLED else 460


def _label(figure: go.Figure, across: tuple[str, ...], title: str, down: tuple[str, ...] | None = None, whose: str = "") -> None:
    """Names on both axes, as far as there is room."""
    down = down or across
    for update, names, text in ((figure.update_xaxes, across, title), (figure.update_yaxes, down, whose)):
        shown = names if len(names) <= LABELLED else ()
        update(tickvals=np.arange(len(shown)), ticktext=[words.fit(name, 24) for name in shown], showgrid=False, ticks="",
               showline=False, title={"text": text})
    figure.update_xaxes(tickangle=-90 if len(across) > 4 else 0, range=[-0.5, len(across) - 0.5])
    figure.update_yaxes(range=[len(down) - 0.5, -0.5])
