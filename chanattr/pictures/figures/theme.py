"""One look for every figure: fonts, colours, margins, and the axis of areas."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go

from chanattr.pictures.figures import words

INK = "#1f2a37"
SLATE = "#41566f"
MUTED = "#66707d"
RULE = "#e3e7ec"
BAR = "#b4c0cd"
ACCENT = "#c4500f"
"""The one accent: a* and the sets found at it, nowhere else."""
HELD_OUT = "#0072b2"
FONT = "'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
GLOW = ((0.0, (60, 20, 90)), (0.35, (190, 45, 75)), (0.7, (250, 140, 20)), (1.0, (255, 240, 120)))
"""Stops of the energy colours; lightness rises all the way, so they read the same without colour."""
SEQUENTIAL = ((0.0, "#ffffff"), (0.25, "#fbe3d3"), (0.55, "#ee9a62"), (0.8, "#c4500f"), (1.0, "#6b2503"))
CONFIG = {"displaylogo": False, "displayModeBar": False, "responsive": True}
"""What to give plotly when a figure is shown: `figure.show(config=CONFIG)`."""

_AXIS = {"gridcolor": RULE, "linecolor": BAR, "zeroline": False, "ticks": "outside", "ticklen": 4, "tickcolor": BAR,
         "showline": True, "title": {"font": {"size": 13, "color": MUTED}, "standoff": 8}, "automargin": True}


def template() -> go.layout.Template:
    """The shared template; figures carry it in `layout.template`."""
    return go.layout.Template(layout={
        "font": {"family": FONT, "size": 12, "color": INK},
        "title": {"x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 14}, "y": 1, "yanchor": "bottom",
                  "yref": "container", "font": {"size": 15, "color": INK}},
        "paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff", "colorway": [SLATE, HELD_OUT, MUTED],
        "margin": {"l": 64, "r": 28, "t": 84, "b": 84}, "xaxis": _AXIS, "yaxis": _AXIS,
        "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": BAR, "align": "left",
                       "font": {"family": FONT, "size": 12, "color": INK}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom",
                   "font": {"size": 12, "color": INK}, "bgcolor": "rgba(255,255,255,0)"},
    })


def dress(figure: go.Figure, title: str, subtitle: str, *, height: int = 400) -> go.Figure:
    """The figure with the shared look, a bold title and a grey line below it (both already plotly text)."""
    # Two lines, or an anchor at the top, would push the title out of the figure whenever plotly draws it anew.
    below = {"text": subtitle, "font": {"size": 12, "color": MUTED}}
    figure.update_layout(template=template(), title={"text": f"<b>{title}</b>", "subtitle": below, "y": 1 - 28 / height}, height=height)
    return figure


def area_axis(largest: int, unit: str = "channels") -> dict[str, object]:
    """A logarithmic axis of areas in some unit from 1 to `largest`, with few and round ticks."""
    ticks = [v * 10**e for e in range(7) for v in (1, 3) if v * 10**e <= largest]
    if largest > ticks[-1]:  # K has its tick, and room for it
        ticks = [*(t for t in ticks if t * 2.2 < largest), largest]
    return {"type": "log", "tickangle": 0, "range": [math.log10(0.82), math.log10(max(largest, 2) * 1.22)], "tickvals": ticks,
            "ticktext": [f"{t:,}" for t in ticks], "title": {"text": f"area: {unit} selected"}}


def note(figure: go.Figure, text: str, **place: object) -> None:
    """A small text in the figure, no arrow."""
    figure.add_annotation(**{"text": text, "showarrow": False, "font": {"size": 12, "color": MUTED}, **place})


def levels(figure: go.Figure, original: float, empty: float, scores: np.ndarray) -> None:
    """Dashed lines for every channel kept and for none, named in the right margin, apart where the axis brings them together."""
    drawn = np.append(scores[np.isfinite(scores)], [v for v in (original, empty) if np.isfinite(v)])
    span = float(np.ptp(drawn)) if len(drawn) else 0.0
    for value, other, name, dash in ((original, empty, "original", "dash"), (empty, original, "empty", "dot")):
        if not np.isfinite(value):
            continue
        figure.add_hline(y=value, line={"color": MUTED, "width": 1.2, "dash": dash}, layer="below")
        side = "bottom" if value >= other else "top"
        close = np.isfinite(other) and abs(value - other) < max(0.18 * span, 1e-3 * max(1.0, abs(value)))
        note(figure, f"{name}<br>{words.number(value)}", x=1, xref="paper", xanchor="left", xshift=6, y=value,
                   yanchor=side if close else "middle", align="left")
