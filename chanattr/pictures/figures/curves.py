"""Score against area: of one image, and of a class's joint sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from chanattr.axes import class_row
from chanattr.pictures.figures import theme, words
from chanattr.records import ClassAttribution, ImageAttribution
from chanattr.settings import Settings


class AreaCurve(NamedTuple):
    """What `area_curve` draws; `areas`, `scores` and `top1` are of the searched areas, a* apart from them."""

    areas: np.ndarray
    scores: np.ndarray
    top1: np.ndarray
    original: float
    empty: float
    level: float
    smallest_area: int
    smallest_score: float
    smallest_top1: bool
    channels: int


class ClassCurves(NamedTuple):
    """What `class_curves` draws; held-out values are NaN where a class has too few images."""

    areas: np.ndarray
    scores: np.ndarray
    top1: np.ndarray
    held_out_scores: np.ndarray
    held_out_top1: np.ndarray
    original: float
    empty: float
    smallest_area: int
    smallest_score: float
    channels: int
    images: int


def level_score(settings: Settings, original: float, empty: float) -> float:
    """The score that a* must reach; NaN for "top1", which is not a score."""
    if settings.level == "top1":
        return float("nan")
    share = 1.0 if settings.level == "original" else float(settings.level)
    return empty + share * (original - empty)


def area_curve_data(found: ImageAttribution, row: int) -> AreaCurve:
    """Scores and a* of one image, as numbers.

    Args:
        found: what `per_image` gave.
        row: which of its images.

    Raises:
        InputError: no such row.

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.images()
        >>> data = ca.figures.area_curve_data(found, 0)
        >>> data.areas.tolist(), data.scores.round().tolist(), data.smallest_area
        ([1, 2, 4, 8], [5.0, 10.0, 10.0, 10.0], 2)
    """
    row = words.check_row(found, row, ImageAttribution)
    original, empty = float(found.original[row]), float(found.empty[row])
    return AreaCurve(found.areas, found.scores[row], found.top1[row], original, empty,
                     level_score(found.settings, original, empty), int(found.smallest_area[row]),
                     float(found.smallest_score[row]), bool(found.smallest_top1[row]), found.masks.shape[2])


def area_curve(found: ImageAttribution, row: int, *, names: Sequence[str] | None = None) -> go.Figure:
    """Score against area of one image, with a* (figures 3 and 8 of the paper).

    Filled markers: the masked network still names the target; open markers: it no longer does.

    Args:
        found: what `per_image` gave.
        row: which of its images.
        names: class names by class number.

    Raises:
        InputError: no such row.

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.images()
        >>> figure = ca.figures.area_curve(found, 0, names=["cat", "dog", "fox"])
        >>> figure.layout.title.text, figure.data[-1].name
        ('<b>a.jpg</b>', 'a*')
    """
    data = area_curve_data(found, row)
    figure = go.Figure()
    _line(figure, data.areas, data.scores, (data.smallest_area, data.smallest_score), theme.SLATE)
    for kept, label in ((True, "target is top class"), (False, "target is not")):
        chosen = data.top1 == kept
        hover = f"area %{{x}} {found.settings.unit}<br>score %{{y:.3f}}<br>{label}<extra></extra>"
        figure.add_scatter(x=data.areas[chosen], y=data.scores[chosen], mode="markers", name=label, hovertemplate=hover,
                           marker={"size": 8, "color": theme.SLATE if kept else "#ffffff",
                                   "line": {"width": 1.6, "color": theme.SLATE}})
    theme.levels(figure, data.original, data.empty, data.scores)
    _smallest(figure, data.smallest_area, data.smallest_score, data.channels, found.settings.unit,
              filled=data.smallest_top1)
    below = f"{words.target(found, row, names)} · layer {words.fit(found.layer, 24)}"
    return _axes(theme.dress(figure, words.fit(found.keys[row], 40), below), found.settings, data.channels)


def class_curves_data(classes: ClassAttribution, target: int) -> ClassCurves:
    """Scores of a class's joint sets, as numbers.

    Args:
        classes: what `per_class` gave.
        target: class number.

    Raises:
        InputError: no such class.

    Examples:
        >>> import chanattr as ca
        >>> classes = ca.figures.samples.classes()
        >>> data = ca.figures.class_curves_data(classes, 1)
        >>> data.smallest_area, data.images, data.held_out_scores.round().tolist()
        (3, 5, [3.0, 6.0, 9.0, 9.0])
    """
    words.check_record("classes", classes, ClassAttribution)
    row = class_row(classes, target)
    return ClassCurves(classes.areas, classes.joint_scores[row], classes.joint_top1[row], classes.held_out_scores[row],
                       classes.held_out_top1[row], float(classes.original[row]), float(classes.empty[row]),
                       int(classes.smallest_area[row]), float(classes.smallest_score[row]), classes.mean_mask.shape[1],
                       int(classes.rows[row]))


def class_curves(classes: ClassAttribution, target: int) -> go.Figure:
    """Mean score of a class's joint sets against area, on the images searched and on images held out.

    Args:
        classes: what `per_class` gave.
        target: class number.

    Raises:
        InputError: no such class.

    Examples:
        >>> import chanattr as ca
        >>> classes = ca.figures.samples.classes()
        >>> ca.figures.class_curves(classes, 1).layout.title.text
        '<b>Joint sets: dog</b>'
    """
    data, unit = class_curves_data(classes, target), classes.settings.unit
    figure = go.Figure()
    _line(figure, data.areas, data.scores, (data.smallest_area, data.smallest_score), theme.SLATE)
    _share_markers(figure, data.areas, data.scores, data.top1, label="searched images", colour=theme.SLATE, symbol="circle",
                   unit=unit)
    if np.isfinite(data.held_out_scores).any():
        _line(figure, data.areas, data.held_out_scores, (0, 0.0), theme.HELD_OUT, dash="dot")
        _share_markers(figure, data.areas, data.held_out_scores, data.held_out_top1, label="held-out images",
                       colour=theme.HELD_OUT, symbol="diamond-open", unit=unit)
    theme.levels(figure, data.original, data.empty, np.append(data.scores, data.held_out_scores))
    _smallest(figure, data.smallest_area, data.smallest_score, data.channels, unit, filled=True)
    name = words.fit(classes.names[class_row(classes, target)] or f"class {target}", 28)
    below = f"{data.images} images · layer {words.fit(classes.layer, 32)}"
    return _axes(theme.dress(figure, f"Joint sets: {name}", below), classes.settings, data.channels)


def _axes(figure: go.Figure, settings: Settings, channels: int) -> go.Figure:
    figure.update_xaxes(**theme.area_axis(channels, settings.unit))
    figure.update_yaxes(title={"text": words.score_axis(settings)})
    return figure.update_layout(margin={"r": 74, "t": 84})


def _line(figure: go.Figure, areas: np.ndarray, scores: np.ndarray, extra: tuple[int, float], colour: str,
          dash: str = "solid") -> None:
    """A line through the searched areas and, where a* lies between them, through it."""
    if extra[0] > 0 and extra[0] not in areas:
        areas, scores = np.append(areas, extra[0]), np.append(scores, extra[1])
    order = np.argsort(areas, kind="stable")
    figure.add_scatter(x=areas[order], y=scores[order], mode="lines", hoverinfo="skip", showlegend=False,
                       line={"color": colour, "width": 1.8, "dash": dash})


def _share_markers(figure: go.Figure, areas: np.ndarray, scores: np.ndarray, top1: np.ndarray, *, label: str, colour: str,
                   symbol: str, unit: str) -> None:
    hover = f"area %{{x}} {unit}<br>mean score %{{y:.3f}}<br>named rightly %{{customdata:.0%}}<extra>{label}</extra>"
    figure.add_scatter(x=areas, y=scores, customdata=top1, mode="markers", name=label, hovertemplate=hover,
                       marker={"size": 8, "color": colour, "symbol": symbol})


def _smallest(figure: go.Figure, area: int, score: float, channels: int, unit: str, *, filled: bool) -> None:
    """a* as an accented line, ring and label; in words where it has no place on the axis."""
    text = f"<b>{words.smallest(area)}</b>"
    if area <= 0:
        theme.note(figure, text, x=1, xref="paper", xanchor="right", y=1, yref="paper", yanchor="bottom",
                   font={"color": theme.ACCENT})
        return
    figure.add_vline(x=area, line={"color": theme.ACCENT, "width": 1.2}, layer="below")
    share = np.log(area) / np.log(max(channels, 2))
    anchor = "left" if share < 0.15 else "right" if share > 0.85 else "center"
    theme.note(figure, text, x=float(np.log10(area)), xref="x", xanchor=anchor, y=1, yref="paper", yanchor="bottom",
               font={"color": theme.ACCENT, "size": 13})
    figure.add_scatter(x=[area], y=[score], mode="markers", name="a*",
                       hovertemplate=f"{words.smallest(area)} of {channels:,} {unit}<br>score %{{y:.3f}}<extra></extra>",
                       marker={"size": 12, "color": theme.ACCENT if filled else "#ffffff",
                               "line": {"width": 2, "color": theme.ACCENT}})
