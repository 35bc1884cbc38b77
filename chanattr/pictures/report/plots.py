"""Figures as places in the page: their JSON lies beside them and is drawn when it comes into view."""

from __future__ import annotations

import json
from typing import Any

from chanattr.pictures.figures import theme
from chanattr.pictures.report.markup import Markup, element, script_json


def shared() -> dict[str, Any]:
    """What all figures of a page have in common, said once: plotly's template and options."""
    return {"template": theme.template().to_plotly_json(), "config": theme.CONFIG}


def plot(figure: Any, alt: str, *, narrowest: int = 0) -> Markup:
    """A figure on its card.

    Args:
        figure: a plotly figure from `chanattr.pictures.figures`.
        alt: what it shows, in words, for those who cannot see it.
        narrowest: pixels below which its card scrolls instead of shrinking.
    """
    drawing = json.loads(figure.to_json())
    drawing["layout"].pop("template", None)
    height = drawing["layout"].get("height", 400)
    style = f"height:{height}px" + (f";min-width:{narrowest}px" if narrowest else "")
    place = element("div", class_="plot", role="img", aria_label=alt, style=style)
    # A card that scrolls must be reachable without a mouse.
    return element("figure", place, script_json(drawing), class_="card", tabindex="0" if narrowest else None)
