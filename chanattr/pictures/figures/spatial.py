"""Masks on the picture: growing areas, score against area, and both games."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from chanattr.arguments import listed
from chanattr.errors import InputError
from chanattr.pictures.figures import raster, theme, words
from chanattr.pictures.figures.curves import level_score
from chanattr.pictures.figures.panels import GAP, box, frame, panels, place_picture
from chanattr.records import SpatialAttribution

MOST = 1.25  # share of the original score at which a bar is full, as in the paper


class MaskStrip(NamedTuple):
    """What `mask_strip` draws: one picture u1 [P, H, W, 3] an area; `boxed` is the panel of a*, -1 for none."""

    areas: np.ndarray
    scores: np.ndarray
    pictures: np.ndarray
    boxed: int


class MaskCurve(NamedTuple):
    """What `mask_curve` draws: measured areas in shares of the picture, and scores with the mask and with its level set."""

    areas: np.ndarray
    scores: np.ndarray
    level_set_scores: np.ndarray
    top1: np.ndarray
    original: float
    empty: float
    level: float
    smallest_area: float
    smallest_score: float


class MaskGrowth(NamedTuple):
    """What `mask_growth` draws: a row an image, a panel an area; `boxed` is the panel that reaches a* first, -1 for none."""

    names: tuple[str, ...]
    areas: np.ndarray
    shares: np.ndarray
    """Of the way from the empty to the original score, f4 [R, A]."""
    pictures: np.ndarray
    boxed: np.ndarray


class MaskGames(NamedTuple):
    """What `mask_games` draws of one image: scores with only the mask kept, and with the mask dropped."""

    kept: MaskCurve
    dropped: MaskCurve


def mask_strip_data(found: SpatialAttribution, row: int, picture: np.ndarray) -> MaskStrip:
    """The picture under its masks of growing area, a* among them by its measured area.

    Args:
        found: what `spatial` gave.
        row: which of its images.
        picture: the image as the network saw it, u1 [H, W, 3].

    Raises:
        InputError: no such row, or not a picture.

    Examples:
        >>> import chanattr as ca
        >>> found, picture = ca.figures.samples.masks(), ca.figures.samples.picture()
        >>> data = ca.figures.mask_strip_data(found, 0, picture)
        >>> data.pictures.shape, data.boxed
        ((3, 32, 32, 3), 1)
    """
    row = words.check_row(found, row, SpatialAttribution)
    picture = raster.check_picture(picture)
    size = (picture.shape[0], picture.shape[1])
    areas, scores, masks = found.true_areas[row], found.scores[row], found[row].masks(size)[0]
    smallest = float(found.smallest_area[row])
    if smallest > 0:
        others = areas != smallest  # where a* is one of the areas it is drawn once
        areas, scores = np.append(areas[others], smallest), np.append(scores[others], found.smallest_score[row])
        masks = np.concatenate([masks[others], found[row].smallest_masks(size)])
    order = np.argsort(areas, kind="stable")
    boxed = int(np.flatnonzero(order == len(areas) - 1)[0]) if smallest > 0 else -1
    return MaskStrip(areas[order], scores[order], np.stack([raster.dim(picture, mask) for mask in masks[order]]), boxed)


def mask_strip(found: SpatialAttribution, row: int, picture: np.ndarray, *, names: Sequence[str] | None = None) -> go.Figure:
    """The picture under masks of growing area, a* boxed (figures 1 and 6 of the paper).

    Args:
        found: what `spatial` gave.
        row: which of its images.
        picture: the image as the network saw it, u1 [H, W, 3].
        names: class names by class number.

    Raises:
        InputError: no such row, or not a picture.

    Examples:
        >>> import chanattr as ca
        >>> found, picture = ca.figures.samples.masks(), ca.figures.samples.picture()
        >>> ca.figures.mask_strip(found, 0, picture).layout.title.subtitle.text
        'target class 0 · original score 10.00'
    """
    data = mask_strip_data(found, row, picture)
    figure, tall = go.Figure(), data.pictures.shape[1] / data.pictures.shape[2]
    for panel, (area, score) in enumerate(zip(data.areas, data.scores, strict=True)):
        boxed = panel == data.boxed
        left = panel * (1 + GAP)
        title = f"<b>a* = {area:.1%}</b>" if boxed else f"{area:.1%}"
        place_picture(figure, data.pictures[panel], left, 0.0, tall, f"{title}<br>score {words.number(float(score))}",
                      colour=theme.ACCENT if boxed else theme.INK, hover=f"area {area:.1%} of the picture<br>score {score:.3f}")
        if boxed:
            box(figure, left, 0.0, tall)
    below = f"{_target(found, row, names)} · original score {words.number(float(found.original[row]))}"
    return panels(figure, len(data.areas), 1, tall, words.fit(found.keys[row], 40), below)


def mask_curve_data(found: SpatialAttribution, row: int) -> MaskCurve:
    """Scores and a* of one image, as numbers.

    Args:
        found: what `spatial` gave.
        row: which of its images.

    Raises:
        InputError: no such row.

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.masks()
        >>> data = ca.figures.mask_curve_data(found, 0)
        >>> data.scores.round().tolist(), data.original
        ([5.0, 10.0, 10.0], 10.0)
    """
    row = words.check_row(found, row, SpatialAttribution)
    original, empty = float(found.original[row]), float(found.empty[row])
    return MaskCurve(found.true_areas[row], found.scores[row], found.level_set_scores[row], found.top1[row], original, empty,
                     level_score(found.settings, original, empty), float(found.smallest_area[row]), float(found.smallest_score[row]))


def mask_curve(found: SpatialAttribution, row: int, *, names: Sequence[str] | None = None) -> go.Figure:
    """Score against the share of the picture that is seen, with a* (figure 3 of the paper); dotted with hard masks of the same areas.

    Filled markers: the network still names the target; open markers: it no longer does.

    Args:
        found: what `spatial` gave.
        row: which of its images.
        names: class names by class number.

    Raises:
        InputError: no such row.

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.masks()
        >>> [line.name for line in ca.figures.mask_curve(found, 0).data]
        ['level set', 'mask', 'a*']
    """
    data, figure = mask_curve_data(found, row), go.Figure()
    figure.add_scatter(x=data.areas, y=data.level_set_scores, mode="lines+markers", name="level set",
                       line={"color": theme.HELD_OUT, "dash": "dot"}, marker={"symbol": "diamond-open"},
                       hovertemplate="area %{x:.1%}<br>score %{y:.3f}<extra>level set</extra>")
    _curve(figure, data, "mask", theme.SLATE, "circle")
    theme.levels(figure, data.original, data.empty, np.append(data.scores, data.level_set_scores))
    if data.smallest_area > 0:
        figure.add_vline(x=data.smallest_area, line={"color": theme.ACCENT, "width": 1.2}, layer="below")
        figure.add_scatter(x=[data.smallest_area], y=[data.smallest_score], mode="markers", name="a*",
                           hovertemplate="a* = %{x:.1%}<br>score %{y:.3f}<extra></extra>",
                           marker={"size": 12, "color": theme.ACCENT})
    theme.note(figure, f"<b>{words.smallest(data.smallest_area, share=True)}</b>", x=max(data.smallest_area, 0), xanchor="left", y=1,
               yref="paper", yanchor="bottom", font={"color": theme.ACCENT, "size": 13})
    return _dressed(figure, found, row, names, "share of the picture that is seen")


def mask_growth_data(found: SpatialAttribution, rows: Sequence[int], pictures: Sequence[np.ndarray], *,
                     names: Sequence[str] | None = None) -> MaskGrowth:
    """Several images under their masks of the areas asked for, with the share of the score that each keeps.

    Args:
        found: what `spatial` gave.
        rows: which of its images.
        pictures: the images as the network saw them, u1 [H, W, 3] each, of one size.
        names: class names by class number.

    Raises:
        InputError: no such rows, or not a picture of one size for each.

    Examples:
        >>> import chanattr as ca
        >>> found, picture = ca.figures.samples.masks(), ca.figures.samples.picture()
        >>> data = ca.figures.mask_growth_data(found, [0], [picture])
        >>> data.names, data.pictures.shape
        (('class 0',), (1, 3, 32, 32, 3))
    """
    chosen = [words.check_row(found, row, SpatialAttribution) for row in listed("rows", rows, "rows", "write [row] for one")]
    checked = raster.check_pictures(pictures)
    if len(chosen) != len(checked) or len({picture.shape for picture in checked}) != 1:
        raise InputError(f"{len(checked)} pictures of shapes {sorted({p.shape for p in checked})} for {len(chosen)} rows; expected one or "
                         "more of one size, one a row; resize them")
    part = found[chosen]
    span = np.where(part.original == part.empty, np.nan, part.original - part.empty)
    masks = part.masks((checked[0].shape[0], checked[0].shape[1]))
    reach = [np.flatnonzero((areas >= star - 1e-6) & (star > 0)) for areas, star in zip(part.true_areas, part.smallest_area, strict=True)]
    return MaskGrowth(tuple(words.class_name(int(target), names) for target in part.targets), part.areas,
                      (part.scores - part.empty[:, None]) / span[:, None],
                      np.stack([[raster.dim(picture, mask) for mask in own] for picture, own in zip(checked, masks, strict=True)]),
                      np.array([int(places[0]) if len(places) else -1 for places in reach]))


def mask_growth(found: SpatialAttribution, rows: Sequence[int], pictures: Sequence[np.ndarray], *,
                names: Sequence[str] | None = None) -> go.Figure:
    """A row an image under masks of growing area; a bar below each says how much of the score it keeps (figure 6 of the paper).

    Bars are full at 1.25 of the original score, as the paper's are; the first mask that reaches a* is boxed.

    Args:
        found: what `spatial` gave.
        rows: which of its images.
        pictures: the images as the network saw them, u1 [H, W, 3] each, of one size.
        names: class names by class number.

    Raises:
        InputError: no such rows, or not a picture of one size for each.

    Examples:
        >>> import chanattr as ca
        >>> found, picture = ca.figures.samples.masks(), ca.figures.samples.picture()
        >>> figure = ca.figures.mask_growth(found, [0], [picture])
        >>> figure.layout.title.text, len(figure.layout.images)
        ('<b>Masks of growing area</b>', 3)
    """
    data = mask_growth_data(found, rows, pictures, names=names)
    figure, tall, below = go.Figure(), data.pictures.shape[2] / data.pictures.shape[3], 0.3
    for row, line in enumerate(data.pictures):
        top = row * (tall + below)
        for column, picture in enumerate(line):
            left, share = column * (1 + GAP), float(data.shares[row, column])
            hover = f"{data.areas[column]:.1%} of the picture<br>{share:.3f} of the score"
            place_picture(figure, picture, left, top, tall, hover=hover)
            boxed = column == data.boxed[row]
            if boxed:
                box(figure, left, top, tall)
            _bar(figure, left, top + tall + 0.05, share, theme.ACCENT if boxed else theme.SLATE)
        theme.note(figure, words.fit(data.names[row], 24), x=-0.04, xanchor="right", y=top + tall / 2, textangle=-90)
    for column, area in enumerate(data.areas):
        theme.note(figure, f"{area:.3g}" if area < 0.001 else f"{area:.1%}", x=column * (1 + GAP) + 0.5, y=-0.02, yanchor="bottom",
                   font={"size": 12, "color": theme.INK})
    wide, high = len(data.areas) * (1 + GAP), len(data.pictures) * (tall + below)
    theme.dress(figure, "Masks of growing area", "bars: share of the original score (the line is all of it) · boxed: the first mask that "
                "reaches it", height=90 + int((high + 0.2) * 860 / (wide + 0.2)))
    return frame(figure, (-0.22, wide - 0.03), (high, -0.2))


def _bar(figure: go.Figure, left: float, top: float, share: float, colour: str) -> None:
    """A bar of a score's share, on a faint one that is full at `MOST`, with a line at the original score."""
    value = float(np.clip(np.nan_to_num(share), 0, MOST)) / MOST
    for right, fill in ((1.0, theme.RULE), (value, colour)):
        figure.add_shape(type="rect", x0=left, x1=left + right, y0=top, y1=top + 0.09, line={"width": 0}, fillcolor=fill)
    figure.add_shape(type="line", x0=left + 1 / MOST, x1=left + 1 / MOST, y0=top - 0.02, y1=top + 0.11,
                     line={"color": theme.INK, "width": 1.2})


def _curve(figure: go.Figure, curve: MaskCurve, name: str, colour: str, symbol: str) -> None:
    """A line through the scores; markers are filled where the target is the top class."""
    figure.add_scatter(x=curve.areas, y=curve.scores, mode="lines+markers", name=name, line={"color": colour},
                       marker={"size": 8, "symbol": symbol, "color": [colour if top else "#ffffff" for top in curve.top1],
                               "line": {"width": 1.6, "color": colour}},
                       hovertemplate=f"area %{{x:.1%}}<br>score %{{y:.3f}}<extra>{name}</extra>")


def _dressed(figure: go.Figure, found: SpatialAttribution, row: int, names: Sequence[str] | None, across: str) -> go.Figure:
    """Score against shares of the picture with title and axes."""
    theme.dress(figure, words.fit(found.keys[row], 40), _target(found, row, names))
    figure.update_xaxes(title={"text": across}, tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(title={"text": words.score_axis(found.settings)})
    return figure.update_layout(margin={"r": 74})


def mask_games_data(kept: SpatialAttribution, dropped: SpatialAttribution, row: int) -> MaskGames:
    """Scores of one image in both games, as numbers.

    Args:
        kept: what `spatial` gave in the game *preserve*.
        dropped: what it gave in the game *delete*, for the same image.
        row: of `kept`.

    Raises:
        InputError: no such row, or the two are not of one image and target, asked in the games *preserve* and *delete*.

    Examples:
        >>> import chanattr as ca
        >>> kept, dropped = ca.figures.samples.masks("preserve"), ca.figures.samples.masks("delete")
        >>> data = ca.figures.mask_games_data(kept, dropped, 0)
        >>> data.kept.scores.round().tolist(), data.dropped.scores.round().tolist()
        ([5.0, 10.0, 10.0], [5.0, 0.0, -0.0])
    """
    row = words.check_row(kept, row, SpatialAttribution, "kept")
    words.check_record("dropped", dropped, SpatialAttribution)
    same = [place for place, key in enumerate(dropped.keys) if key == kept.keys[row] and dropped.targets[place] == kept.targets[row]]
    games = (kept.settings.game, dropped.settings.game)
    if not same or games != ("preserve", "delete"):
        raise InputError(f"row {row} ({kept.keys[row]!r}) of the game {games[0]!r}, and {len(same)} rows of it in the game {games[1]!r}; "
                         "expected one image and target in the games 'preserve' and 'delete'; ask `spatial` twice")
    return MaskGames(mask_curve_data(kept, row), mask_curve_data(dropped, same[0]))


def mask_games(kept: SpatialAttribution, dropped: SpatialAttribution, row: int, *, names: Sequence[str] | None = None) -> go.Figure:
    """Score against area with only the mask seen, and with all but the mask seen (figure 3 of the paper).

    Args:
        kept: what `spatial` gave in the game *preserve*.
        dropped: what it gave in the game *delete*, for the same image.
        row: of `kept`.
        names: class names by class number.

    Raises:
        InputError: no such row, or the two are not of one image and target in these games.

    Examples:
        >>> import chanattr as ca
        >>> kept, dropped = ca.figures.samples.masks("preserve"), ca.figures.samples.masks("delete")
        >>> [line.name for line in ca.figures.mask_games(kept, dropped, 0).data][:2]
        ['only the mask seen', 'all but the mask seen']
    """
    data, figure = mask_games_data(kept, dropped, row), go.Figure()
    for curve, name, colour, symbol in ((data.kept, "only the mask seen", theme.SLATE, "circle"),
                                        (data.dropped, "all but the mask seen", theme.HELD_OUT, "diamond")):
        _curve(figure, curve, name, colour, symbol)
    theme.levels(figure, data.kept.original, data.kept.empty, np.append(data.kept.scores, data.dropped.scores))
    told = []
    for curve, name in ((data.kept, "enough"), (data.dropped, "lost without")):
        if curve.smallest_area > 0:
            figure.add_scatter(x=[curve.smallest_area], y=[curve.smallest_score], mode="markers", showlegend=False,
                               hovertemplate=f"{name}: a* = %{{x:.1%}}<br>score %{{y:.3f}}<extra></extra>",
                               marker={"size": 13, "color": "rgba(0,0,0,0)", "line": {"width": 2.4, "color": theme.ACCENT}})
            told.append(f"{name}: a* = {curve.smallest_area:.1%}")
    theme.note(figure, f"<b>{' · '.join(told) or 'a* not reached'}</b>", x=1, xref="paper", xanchor="right", y=1, yref="paper",
               yanchor="bottom", font={"color": theme.ACCENT, "size": 13})
    return _dressed(figure, kept, row, names, "share of the picture under the mask")


def _target(found: SpatialAttribution, row: int, names: Sequence[str] | None) -> str:
    where = "" if found.layer == ":input" else f" · layer {words.fit(found.layer, 24)}"
    return words.target(found, row, names) + where
