"""Where the selected channels are active: the energy of masked activations over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from chanattr.codes import laid_out
from chanattr.errors import InputError
from chanattr.pictures.figures import raster, theme, words
from chanattr.pictures.figures.panels import box, frame, place_picture
from chanattr.records import ImageAttribution

PANELS = 8


class EnergyMap(NamedTuple):
    """What `energy_map` draws: the composed picture u1 [H, W, 3] and the energy [h, w] behind it."""

    picture: np.ndarray
    energy: np.ndarray
    smallest_area: int


class AreaStrip(NamedTuple):
    """What `area_strip` draws: one picture u1 [P, H, W, 3] a panel; `boxed` is the panel of a*, -1 for none."""

    areas: np.ndarray
    scores: np.ndarray
    strengths: np.ndarray
    pictures: np.ndarray
    boxed: int


def energy_map_data(found: ImageAttribution, row: int, picture: np.ndarray) -> EnergyMap:
    """The energy of the a*-masked activation over the picture, as pixels.

    Args:
        found: what `per_image` gave.
        row: which of its images.
        picture: the image as the network saw it, u1 [H, W, 3].

    Raises:
        InputError: no such row, or not a picture u1 [H, W, 3].

    Examples:
        >>> import chanattr as ca
        >>> found, picture = ca.figures.samples.images(), ca.figures.samples.picture()
        >>> data = ca.figures.energy_map_data(found, 0, picture)
        >>> data.picture.shape, data.energy.shape, data.smallest_area
        ((32, 32, 3), (4, 4), 2)
    """
    row = words.check_row(found, row, ImageAttribution)
    energy = laid_out(found.energy[row])
    return EnergyMap(raster.glow(picture, raster.unit(energy)), energy, int(found.smallest_area[row]))


def energy_map(found: ImageAttribution, row: int, picture: np.ndarray, *, names: Sequence[str] | None = None) -> go.Figure:
    """Where the a* set is active, glowing over the picture in grey (figure 8 of the paper).

    Args:
        found: what `per_image` gave.
        row: which of its images.
        picture: the image as the network saw it, u1 [H, W, 3].
        names: class names by class number.

    Raises:
        InputError: no such row, or not a picture u1 [H, W, 3].

    Examples:
        >>> import chanattr as ca
        >>> found, picture = ca.figures.samples.images(), ca.figures.samples.picture()
        >>> ca.figures.energy_map(found, 0, picture).layout.title.subtitle.text
        'target class 0 · a* = 2 · layer features.10'
    """
    data = energy_map_data(found, row, picture)
    (height, width), (down, across) = data.picture.shape[:2], data.energy.shape
    figure = go.Figure(go.Image(source=raster.data_uri(data.picture, quality=82), hoverinfo="skip"))
    figure.add_heatmap(z=data.energy, x=(np.arange(across) + 0.5) * width / across - 0.5,
                       y=(np.arange(down) + 0.5) * height / down - 0.5, opacity=0, showscale=False,
                       customdata=np.indices((down, across)).transpose(1, 2, 0),
                       hovertemplate="grid row %{customdata[0]}, column %{customdata[1]}<br>energy %{z:.4g}<extra></extra>")
    _colour_bar(figure, float(np.nan_to_num(data.energy).max(initial=0)))
    below = f"{words.target(found, row, names, 20)} · {words.smallest(data.smallest_area)} · layer {words.fit(found.layer, 22)}"
    theme.dress(figure, words.fit(found.keys[row], 40), below, height=460)
    figure.update_xaxes(visible=False, range=[-0.5, width - 0.5], constrain="domain")
    figure.update_yaxes(visible=False, range=[height - 0.5, -0.5], scaleanchor="x", constrain="domain")
    figure.update_layout(margin={"l": 14, "r": 14, "t": 74, "b": 16})
    return figure


def _colour_bar(figure: go.Figure, top: float) -> None:
    """The scale of the glow, on a marker that is not drawn."""
    scale = [[place, "rgb({},{},{})".format(*colour)] for place, colour in theme.GLOW]
    figure.add_scatter(x=[None], y=[None], mode="markers", showlegend=False, hoverinfo="skip",
                       marker={"color": [0], "cmin": 0, "cmax": top or 1, "colorscale": scale, "showscale": True,
                               "colorbar": {"title": {"text": "energy"}, "thickness": 12, "len": 0.9, "outlinewidth": 0}})


def choose_areas(areas: np.ndarray, smallest: int, count: int = PANELS) -> np.ndarray:
    """At most `count` of the areas, evenly spaced by place, a* among them where it is one of or between them.

    Examples:
        >>> choose_areas(np.array([1, 2, 4, 8, 16, 32, 64]), 5, 4)
        array([ 1,  5, 16, 64])
    """
    every = np.union1d(areas, [smallest]) if smallest > 0 else np.asarray(areas)
    if len(every) <= count:
        return every
    places = np.rint(np.linspace(0, len(every) - 1, count)).astype(int)
    if smallest > 0:
        star = int(np.searchsorted(every, smallest))
        if 0 < star < len(every) - 1:
            places[1 + np.abs(places[1:-1] - star).argmin()] = star
    chosen: np.ndarray = every[np.unique(places)]
    return chosen


def area_strip_data(found: ImageAttribution, row: int, picture: np.ndarray) -> AreaStrip:
    """One picture an area, dark where the masked activation has little energy (each by its own largest).

    Args:
        found: what `per_image` gave.
        row: which of its images; it must keep its energy by area.
        picture: the image as the network saw it, u1 [H, W, 3].

    Raises:
        InputError: no such row, not a picture, or a row that keeps no energy by area.

    Examples:
        >>> import chanattr as ca
        >>> found, picture = ca.figures.samples.images(), ca.figures.samples.picture()
        >>> data = ca.figures.area_strip_data(found, 0, picture)
        >>> data.areas.tolist(), data.pictures.shape, data.boxed
        ([1, 2, 4, 8], (4, 32, 32, 3), 1)
    """
    row = words.check_row(found, row, ImageAttribution)
    smallest = int(found.smallest_area[row])
    if not len(found.areas) or not np.isfinite(found.energy_by_area[row]).all():
        raise InputError(f"row {row} ({found.keys[row]!r}) keeps no energy by area; expected a row that does; "
                         "choose another row, or draw energy_map")
    chosen = choose_areas(found.areas, smallest)
    places = [int(np.searchsorted(found.areas, a)) for a in chosen]
    star = [a == smallest for a in chosen]
    energy = [found.energy[row] if s else found.energy_by_area[row, p] for s, p in zip(star, places, strict=True)]
    scores = [found.smallest_score[row] if s else found.scores[row, p] for s, p in zip(star, places, strict=True)]
    strengths = np.stack([raster.unit(e) for e in energy])
    pictures = np.stack([raster.dim(picture, s) for s in strengths])
    return AreaStrip(chosen, np.array(scores), strengths, pictures, star.index(True) if any(star) else -1)


def area_strip(found: ImageAttribution, row: int, picture: np.ndarray, *, names: Sequence[str] | None = None) -> go.Figure:
    """The picture as sets of growing area see it, a* boxed (figure 6 of the paper).

    Args:
        found: what `per_image` gave.
        row: which of its images; it must keep its energy by area.
        picture: the image as the network saw it, u1 [H, W, 3].
        names: class names by class number.

    Raises:
        InputError: no such row, not a picture, or a row that keeps no energy by area.

    Examples:
        >>> import chanattr as ca
        >>> found, picture = ca.figures.samples.images(), ca.figures.samples.picture()
        >>> figure = ca.figures.area_strip(found, 0, picture)
        >>> figure.layout.title.text, len(figure.layout.images)
        ('<b>a.jpg</b>', 4)
    """
    data = area_strip_data(found, row, picture)
    count = len(data.areas)
    columns = count if count <= 6 else (count + 1) // 2
    lines = -(-count // columns)
    tall = data.pictures.shape[1] / data.pictures.shape[2]
    figure = go.Figure()
    for panel, (area, score) in enumerate(zip(data.areas.tolist(), data.scores.tolist(), strict=True)):
        left, top, boxed = (panel % columns) * 1.08, (panel // columns) * (tall + 0.36), panel == data.boxed
        title = f"<b>a* = {area:,}</b>" if boxed else f"{area:,}"
        hover = f"area {area:,} {found.settings.unit}<br>score {score:.3f}<br>brightness: energy, by this panel's largest"
        place_picture(figure, data.pictures[panel], left, top, tall, f"{title}<br>score {words.number(score)}", quality=70, hover=hover,
                      colour=theme.ACCENT if boxed else theme.INK)
        if boxed:
            box(figure, left, top, tall)
    below = f"{words.target(found, row, names, 20)} · layer {words.fit(found.layer, 24)}"
    theme.dress(figure, words.fit(found.keys[row], 40), below,
                height=90 + int(lines * (tall + 0.36) * 690 / columns))
    return frame(figure, (-0.04, columns * 1.08 - 0.04), (lines * (tall + 0.36), -0.04))
