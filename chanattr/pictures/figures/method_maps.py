"""Heat maps of several methods on the same pictures, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from chanattr.arguments import check_kind
from chanattr.errors import InputError
from chanattr.pictures.figures import raster, words
from chanattr.pictures.figures.panels import GAP, panels, place_picture


class MethodMaps(NamedTuple):
    """What `method_maps` draws: one glowing picture u1 [R, M, H, W, 3] an image and method, the picture itself first."""

    methods: tuple[str, ...]
    pictures: np.ndarray


def method_maps_data(pictures: Sequence[np.ndarray], maps: Mapping[str, np.ndarray]) -> MethodMaps:
    """Pictures with each method's heat map glowing over them.

    Args:
        pictures: images as the network saw them, u1 [H, W, 3] each, of one size.
        maps: by method, [R, h, w].

    Raises:
        InputError: no map of every picture, or not pictures of one size.

    Examples:
        >>> import chanattr as ca
        >>> heat = ca.figures.samples.masks().heat((32, 32))[:1]
        >>> data = ca.figures.method_maps_data([ca.figures.samples.picture()], {"masks": heat})
        >>> data.methods, data.pictures.shape
        (('picture', 'masks'), (1, 2, 32, 32, 3))
    """
    checked = raster.check_pictures(pictures)
    check_kind("maps", maps, Mapping, "give {method: maps [R, h, w]}")
    if not checked or any(picture.shape != checked[0].shape for picture in checked):
        raise InputError(f"{len(checked)} pictures of shapes {sorted({p.shape for p in checked})}; expected one or more of one size; "
                         "resize them")
    for name, heat in maps.items():
        if np.ndim(heat) != 3 or len(heat) != len(checked):
            raise InputError(f"heat maps {name!r} have shape {np.shape(heat)} for {len(checked)} pictures; expected [{len(checked)}, h, w]")
    rows = [[picture, *(raster.glow(picture, raster.unit(heat[row] - heat[row].min())) for heat in maps.values())]
            for row, picture in enumerate(checked)]
    return MethodMaps(("picture", *maps), np.array(rows))


def method_maps(pictures: Sequence[np.ndarray], maps: Mapping[str, np.ndarray]) -> go.Figure:
    """Heat maps of several methods on the same pictures (figure 2 of the paper), each by its own range.

    Args:
        pictures: images as the network saw them, u1 [H, W, 3] each, of one size.
        maps: by method, [R, h, w].

    Raises:
        InputError: no map of every picture, or not pictures of one size.

    Examples:
        >>> import chanattr as ca
        >>> heat = ca.figures.samples.masks().heat((32, 32))[:1]
        >>> ca.figures.method_maps([ca.figures.samples.picture()], {"masks": heat}).layout.title.text
        '<b>Where methods look</b>'
    """
    data = method_maps_data(pictures, maps)
    figure, tall = go.Figure(), data.pictures.shape[2] / data.pictures.shape[3]
    for row, line in enumerate(data.pictures):
        last = row == len(data.pictures) - 1
        for column, (picture, name) in enumerate(zip(line, data.methods, strict=True)):
            place_picture(figure, picture, column * (1 + GAP), row * (tall + GAP), tall, words.fit(name, 18) if last else "",
                          hover=words.safe(name))
    return panels(figure, len(data.methods), len(data.pictures), tall, "Where methods look", "each map by its own range")
