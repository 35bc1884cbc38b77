"""Cards of channels: pictures made for each, the images that drive it, and those that need it (figure 10 of the paper)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from chanattr.errors import InputError
from chanattr.picture_records import NONE, ChannelImages, Examples
from chanattr.pictures.figures import raster, theme, words
from chanattr.pictures.figures.panels import frame, place_picture

CARDS = 12
STEP, GAP, BELOW, HEAD = 1.05, 0.18, 0.24, 0.3  # of a picture's width: to the next, between parts, for the words below, for the heads
HEADS = {"made": "made", "driven": "images that drive it", "needed": "images that need it"}


class Part(NamedTuple):
    """One part of every card: pictures u1 [R, E, S, S, 3], words below each, and which are there [R, E]."""

    head: str
    pictures: np.ndarray
    below: tuple[tuple[str, ...], ...]
    there: np.ndarray


class ChannelCards(NamedTuple):
    """What `channel_cards` draws: a row a channel, its parts from left to right."""

    layer: str
    names: tuple[str, ...]
    parts: tuple[Part, ...]


def channel_cards_data(made: ChannelImages, *examples: Examples) -> ChannelCards:
    """Pictures of channels and their examples, as cards.

    Args:
        made: what `visualise` gave.
        examples: of the same channels in the same order, "driven", "needed" or both.

    Raises:
        InputError: examples of another layer or other rows.

    Examples:
        >>> import chanattr as ca
        >>> data = ca.figures.channel_cards_data(ca.figures.samples.channel_images(), ca.figures.samples.examples("driven"))
        >>> data.names[0], [part.head for part in data.parts]
        ('channel 0', ['made', 'images that drive it'])
    """
    words.check_record("made", made, ChannelImages)
    for one in examples:
        words.check_record("examples", one, Examples)
        if (one.layer, one.names) != (made.layer, made.names):
            raise InputError(f"examples are of {one.names[:3]} at {one.layer!r}, pictures of {made.names[:3]} at {made.layer!r}; expected "
                             "the same channels in the same order; ask both for the same ones")
    below = tuple(tuple(f"{value:.3g}" for value in row) for row in made.value)
    parts = [Part(HEADS["made"], raster.rgb(made.pictures), below, np.ones(made.value.shape, bool))]
    for one in examples:
        said = tuple(tuple(_example(one, row, place) for place in range(one.rows.shape[1])) for row in range(len(one)))
        parts.append(Part(HEADS[one.kind], raster.rgb(one.crops), said, one.rows != NONE))
    return ChannelCards(made.layer, made.names, tuple(parts))


def channel_cards(made: ChannelImages, *examples: Examples, title: str = "") -> go.Figure:
    """A card a channel: its pictures with the activation they reach, and its examples with theirs or with what is lost without it.

    Args:
        made: what `visualise` gave; 12 rows are drawn.
        examples: of the same channels in the same order, "driven", "needed" or both.
        title: "" says the layer.

    Raises:
        InputError: examples of another layer or other rows.

    Examples:
        >>> import chanattr as ca
        >>> figure = ca.figures.channel_cards(ca.figures.samples.channel_images())
        >>> figure.layout.title.text, len(figure.layout.images)
        ('<b>What channels look for</b>', 6)
    """
    data = channel_cards_data(made, *examples)
    rows, figure, left, wide = min(len(data.names), CARDS), go.Figure(), 0.0, 0.0
    for part in data.parts:
        theme.note(figure, f"<b>{part.head}</b>", x=left, xanchor="left", y=HEAD - 0.16, yanchor="bottom", font={"size": 12})
        for row, place in zip(*np.nonzero(part.there[:rows]), strict=True):
            picture, top = part.pictures[row, place], HEAD + row * (1 + BELOW + HEAD / 2)
            place_picture(figure, picture, left + place * STEP, top, min(1.0, picture.shape[0] / picture.shape[1]), part.below[row][place],
                          colour=theme.MUTED, size=10, shift=-1, quality=80)
        left += part.there.shape[1] * STEP + GAP
        wide = left - GAP
    for row in range(rows):
        theme.note(figure, words.fit(data.names[row], 40), x=0, xanchor="left", y=HEAD + row * (1 + BELOW + HEAD / 2) - 0.02,
                   yanchor="bottom", font={"size": 12, "color": theme.ACCENT})
    high = HEAD + rows * (1 + BELOW + HEAD / 2)
    theme.dress(figure, words.safe(title or "What channels look for"), f"layer {words.fit(data.layer, 40)}",
                height=90 + int(high * min(160, 980 / wide)))
    return frame(figure, (-0.02, wide + 0.02), (high, -0.02))


def _example(one: Examples, row: int, place: int) -> str:
    """The activation, or the loss, in words; "" where there is no example."""
    if one.rows[row, place] == NONE:
        return ""
    value = one.value[row, place]
    return f"{value:.3g}" if one.kind == "driven" else words.number(-float(value)) if value > 0 else f"+{-float(value):.2f}"
