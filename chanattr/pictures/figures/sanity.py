"""Overlap of sets with those of the trained network against how much of it is random, with the chance level."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from chanattr.evidence.randomised import Sanity
from chanattr.pictures.figures import theme, words


class SanityCurve(NamedTuple):
    """What `sanity` draws, a point a depth: mean overlap over images and areas, that of random sets, rank correlation, what is random."""

    depth: np.ndarray
    jaccard: np.ndarray
    chance: np.ndarray
    rank: np.ndarray
    border: int
    """The last depth at which only what follows the layer is random."""


def sanity_data(told: Sanity) -> SanityCurve:
    """Means over images and areas, as numbers; a rank correlation that no image has is NaN.

    Args:
        told: what `randomisation` or `label_randomisation` gave.

    Examples:
        >>> import chanattr as ca
        >>> told = ca.figures.samples.sanity()
        >>> data = ca.figures.sanity_data(told)
        >>> data.depth.tolist(), data.jaccard.round(2).tolist(), data.border
        ([0, 1, 2], [1.0, 0.4, 0.35], 1)
    """
    words.check_record("told", told, Sanity)
    known = ~np.isnan(told.rank)
    rank = np.where(known.any(1), np.where(known, told.rank, 0).sum(1) / np.maximum(known.sum(1), 1), np.nan)
    return SanityCurve(told.depth, told.jaccard.mean((1, 2)), told.chance.mean((1, 2)), rank, int(told.depth[told.after][-1]))


def sanity(told: Sanity) -> go.Figure:
    """Overlap and rank correlation against the number of random modules, from the output down, with the level of random sets.

    Args:
        told: what `randomisation` or `label_randomisation` gave.

    Examples:
        >>> import chanattr as ca
        >>> told = ca.figures.samples.sanity()
        >>> ca.figures.sanity(told).layout.title.text
        '<b>Sanity: passes</b>'
    """
    data = sanity_data(told)
    hover = "%{y:.2f} with %{x} random<br>%{text}<extra></extra>"
    last = [f"down to {words.safe(name)}" if name else "the trained network" for name in told.random]
    figure = go.Figure()
    for values, name, colour, dash in ((data.jaccard, "overlap (Jaccard)", theme.SLATE, "solid"),
                                       (data.rank, "rank correlation of the order", theme.HELD_OUT, "solid"),
                                       (data.chance, "overlap of random sets", theme.MUTED, "dash")):
        figure.add_scatter(x=data.depth, y=values, name=name, mode="lines+markers" if dash == "solid" else "lines", text=last,
                           hovertemplate=hover, line={"color": colour, "dash": dash, "width": 2}, marker={"size": 7, "color": colour})
    if data.border < data.depth[-1]:
        figure.add_vline(x=data.border, line={"color": theme.BAR, "width": 1, "dash": "dot"})
        theme.note(figure, "all that follows the layer", x=data.border, y=1.02, yref="paper", yanchor="bottom", xanchor="center")
    theme.dress(figure, f"Sanity: {words.fit(told.verdict, 84)}", f"layer {words.fit(told.layer, 40)}")
    figure.update_xaxes(title={"text": "random modules, from the output down"}, dtick=1 if data.depth[-1] <= 15 else None)
    lowest = float(np.nan_to_num(data.rank).min())
    figure.update_yaxes(title={"text": "similarity with the trained network's sets"}, range=[min(0.0, lowest) - 0.05, 1.05])
    return figure
