"""Pictures on a figure without axes: each in its place with words below it, and room for all of them."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from chanattr.pictures.figures import raster, theme

GAP, LINE = 0.06, 0.34  # between panels, and for two lines of text below them, in widths of a panel


def place_picture(figure: go.Figure, picture: np.ndarray, left: float, top: float, tall: float, below: str = "", *,
                  colour: str = theme.INK, size: int = 12, shift: int = -3, quality: int = 74, hover: str = "") -> None:
    """A picture [H, W, 3] of width 1 and height `tall`, its corner at (left, top).

    Args:
        below: words under it, `shift` pixels up from its lower side.
        colour, size: of these.
        quality: of the JPEG.
        hover: words under the pointer.
    """
    figure.add_layout_image(source=raster.data_uri(picture, quality=quality), x=left, y=top, sizex=1, sizey=tall, xref="x", yref="y",
                            sizing="stretch", layer="below")
    if hover:
        figure.add_scatter(x=[left + 0.5], y=[top + tall / 2], mode="markers", marker={"size": 60, "opacity": 0},
                           hovertemplate=f"{hover}<extra></extra>")
    if below:
        theme.note(figure, below, x=left + 0.5, y=top + tall, yanchor="top", yshift=shift, font={"size": size, "color": colour})


def box(figure: go.Figure, left: float, top: float, tall: float) -> None:
    """The accent around the picture of a*."""
    figure.add_shape(type="rect", x0=left, x1=left + 1, y0=top, y1=top + tall, line={"color": theme.ACCENT, "width": 4})


def frame(figure: go.Figure, across: tuple[float, float], down: tuple[float, float]) -> go.Figure:
    """Axes that only place pictures: from left to right, and from the bottom up to the top."""
    if not figure.data:  # without a trace plotly has no axes
        figure.add_scatter(x=across, y=down, mode="markers", marker={"opacity": 0}, hoverinfo="skip")
    figure.update_xaxes(visible=False, range=across, constrain="domain", fixedrange=True)
    figure.update_yaxes(visible=False, range=down, scaleanchor="x", constrain="domain", constraintoward="top", fixedrange=True)
    return figure.update_layout(margin={"l": 14, "r": 14, "t": 74, "b": 10}, showlegend=False)


def panels(figure: go.Figure, columns: int, lines: int, tall: float, title: str, below: str) -> go.Figure:
    """Room for a grid of panels with text below its last line."""
    high, wide = lines * (tall + GAP) + LINE, columns * (1 + GAP)
    theme.dress(figure, title, below, height=90 + int(high * 690 / wide))
    return frame(figure, (-0.03, wide - 0.03), (high, -0.03))
