"""Figures as places in the page: their JSON lies beside them and is drawn when it comes into view."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from chanattr.pictures.figures import theme
from chanattr.pictures.report.markup import Markup, caption, element, script_json

TITLE = 50  # pixels that plotly's own title takes
CLEAR = "rgba(0,0,0,0)"
NIGHT = {theme.INK: "#e5e9ee", theme.SLATE: "#a9bdd4", theme.MUTED: "#9fabb8", theme.RULE: "#323b46", theme.BAR: "#4b647f",
         theme.ACCENT: "#f08a4b", theme.HELD_OUT: "#5fb2ea", "#ffffff": "#1b2128", "rgba(255,255,255,0.85)": "rgba(27,33,40,0.85)",
         "#fbe3d3": "#4a3022", "#ee9a62": "#a85a2a", "#6b2503": "#ffdcc4"}
"""What each colour of the figures is on a dark page; lightness of heat maps rises there where it falls on white."""


class Plot(NamedTuple):
    """A figure to be put on the page.

    Attributes:
        figure: a plotly figure from `chanattr.pictures.figures`.
        title: what it shows; in HTML, so that it wraps.
        below: how to read it, in a few words.
        alt: what it shows, in words, for those who cannot see it.
        narrowest: pixels below which its card scrolls instead of shrinking; 0 shrinks.
    """

    figure: Any
    title: str
    below: str
    alt: str
    narrowest: int = 0


def shared() -> dict[str, Any]:
    """What all figures of a page have in common, said once: plotly's template and options, and its colours in the dark."""
    template = theme.template()
    template.layout.update(paper_bgcolor=CLEAR, plot_bgcolor=CLEAR)  # the card is seen through
    return {"template": template.to_plotly_json(), "config": theme.CONFIG, "night": NIGHT}


def card(plot: Plot, height: int = 0) -> Markup:
    """A figure on its card, `height` pixels high with plotly's own title, or as high as it was made."""
    drawing = json.loads(plot.figure.to_json())
    layout = drawing["layout"]
    for said_elsewhere in ("template", "title"):
        layout.pop(said_elsewhere, None)
    margin = layout.setdefault("margin", {})
    margin["t"] = margin.get("t", theme.template().layout.margin.t) - TITLE
    layout["height"] = max(height, plot.figure.layout.height) - TITLE
    style = f"height:{layout['height']}px" + (f";min-width:{plot.narrowest}px" if plot.narrowest else "")
    place = element("div", class_="plot", role="img", aria_label=plot.alt, style=style)
    # A card that scrolls must be reachable without a mouse.
    return element("figure", caption(plot.title, plot.below), place, script_json(drawing), class_="card",
                   tabindex="0" if plot.narrowest else None)


def pair(*plots: Plot) -> Markup:
    """Figures side by side, all as high as the highest."""
    height = max((plot.figure.layout.height for plot in plots), default=0)
    return element("div", *[card(plot, height) for plot in plots], class_="pair")
