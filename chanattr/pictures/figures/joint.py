"""One image by two answers, side by side: what must be seen of it, and where the channels of each layer's a* are active."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from chanattr.evidence.joint import JointView
from chanattr.pictures.figures import raster, words
from chanattr.pictures.figures.panels import GAP, panels, place_picture


class MaskAndChannels(NamedTuple):
    """What `mask_and_channels` draws: the picture under its mask, then each layer's energy with the mask's edge, u1 [1 + L, H, W, 3]."""

    layers: tuple[str, ...]
    pictures: np.ndarray
    area: float
    overlap: np.ndarray
    correlation: np.ndarray
    share: np.ndarray


def mask_and_channels_data(view: JointView, row: int, picture: np.ndarray) -> MaskAndChannels:
    """The pictures and the figures of agreement of one image.

    Args:
        view: what `joint_view` gave.
        row: which of its images.
        picture: the image as the network saw it, u1 [H, W, 3].

    Raises:
        InputError: no such row, or not a picture.

    Examples:
        >>> import chanattr as ca
        >>> samples = ca.figures.samples
        >>> view = ca.joint_view(samples.masks(), [samples.images()])
        >>> data = ca.figures.mask_and_channels_data(view, 0, samples.picture())
        >>> data.layers, data.pictures.shape
        (('features.10',), (2, 32, 32, 3))
    """
    row = words.check_row(view, row, JointView, "view")
    picture = raster.check_picture(picture)
    size = (picture.shape[0], picture.shape[1])
    finest = max(range(len(view.layers)), key=lambda place: view.masks[place][row].size)
    mask = raster.resize(view.masks[finest][row], *size)
    highest = np.zeros(mask.size, dtype=bool)
    highest[np.argsort(-mask.ravel(), kind="stable")[:round(float(view.areas[row]) * mask.size)]] = True
    edge = highest.reshape(size)
    pictures = [raster.dim(picture, mask), *(raster.glow(picture, raster.unit(energy[row])) for energy in view.energies)]
    return MaskAndChannels(view.layers, np.stack([raster.outlined(one, edge) for one in pictures]), float(view.areas[row]),
                           view.overlap[:, row], view.correlation[:, row], view.share[:, row])


def mask_and_channels(view: JointView, row: int, picture: np.ndarray) -> go.Figure:
    """What must be seen of an image beside where its channels are active, layer by layer; the line is the edge of the mask.

    The edge holds as much of the picture as the mask does: its highest positions.

    Args:
        view: what `joint_view` gave.
        row: which of its images.
        picture: the image as the network saw it, u1 [H, W, 3].

    Raises:
        InputError: no such row, or not a picture.

    Examples:
        >>> import chanattr as ca
        >>> samples = ca.figures.samples
        >>> view = ca.joint_view(samples.masks(), [samples.images()])
        >>> ca.figures.mask_and_channels(view, 0, samples.picture()).layout.title.text
        '<b>a.jpg</b>'
    """
    data = mask_and_channels_data(view, row, picture)
    figure, tall = go.Figure(), data.pictures.shape[1] / data.pictures.shape[2]
    titles = ["mask on the picture", *(words.fit(layer, 22) for layer in data.layers)]
    below = [f"{data.area:.1%} of it"]
    for share, overlap, r in zip(data.share, data.overlap, data.correlation, strict=True):
        energy = f"{share:.0%} of the energy in it" if np.isfinite(share) else "no energy"
        below.append(f"{energy}<br>overlap {overlap:.2f}" + (f" · r {r:.2f}" if np.isfinite(r) else ""))
    for place, (title, text) in enumerate(zip(titles, below, strict=True)):
        place_picture(figure, data.pictures[place], place * (1 + GAP), 0.0, tall, f"<b>{title}</b><br>{text}", hover=f"{title}<br>{text}")
    return panels(figure, len(titles), 1, tall, words.fit(view.keys[row], 40),
                  f"where the channels of a* are active; by chance {data.area:.0%} of the energy lies in the mask")
