"""Inversions side by side: the image, and what its whole and its masked activations look like (figure 9 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from chanattr.arguments import listed
from chanattr.errors import InputError
from chanattr.picture_records import Inversion
from chanattr.pictures.figures import raster, theme, words
from chanattr.pictures.figures.panels import frame, place_picture
from chanattr.records import ImageAttribution

ROWS = 8
STEP, BELOW, HEAD = 1.06, 0.3, 0.3  # of a picture's width: to the next column, for the words below it, for the heads


class InversionPanels(NamedTuple):
    """What `inversions` draws: for each image and each record a picture, with its cosine and what the network names it."""

    titles: tuple[str, ...]
    keys: tuple[str, ...]
    originals: np.ndarray
    pictures: np.ndarray
    """u1 [N, M, H, W, 3]."""
    cosine: np.ndarray
    kept_cosine: np.ndarray
    named: tuple[tuple[str, ...], ...]
    right: np.ndarray
    """Whether that is the target, bool [N, M]."""
    seen: np.ndarray | None = None
    """Where the a* set is active, over the image, u1 [N, H, W, 3]; None where it is not asked for."""


def inversions_data(made: Sequence[Inversion], titles: Sequence[str] | None = None, *, names: Sequence[str] | None = None,
                    found: ImageAttribution | None = None) -> InversionPanels:
    """Inversions of the same images, as panels.

    Args:
        made: records with the same keys, such as of whole and of masked activations, or of several layers.
        titles: one a record; None says the layer and how many channels the masks keep.
        names: class names by class number.
        found: answers for these images, whose energy is laid over them.

    Raises:
        InputError: no records, or not of the same images, or not one title each.

    Examples:
        >>> import chanattr as ca
        >>> data = ca.figures.inversions_data([ca.figures.samples.inversion()])
        >>> data.titles, data.pictures.shape
        (('features.10: 2 to 4 of 8',), (3, 1, 32, 32, 3))
    """
    made = listed("made", made, "inversions", "write [inversion] for one", least=0)
    for one in made:
        words.check_record("made", one, Inversion)
    if not made or any(one.keys != made[0].keys or one.pictures.shape != made[0].pictures.shape for one in made):
        raise InputError(f"{len(made)} inversions with keys {[one.keys[:2] for one in made][:3]}; expected one or more records of the same "
                         "images; draw others apart")
    heads = tuple(map(_title, made) if titles is None else listed("titles", titles, "texts", "leave it out for the layers", least=0))
    if len(heads) != len(made) or not all(isinstance(head, str) for head in heads):
        raise InputError(f"{len(heads)} titles for {len(made)} inversions; expected a text each; leave titles out for the layers")
    if found is not None:
        words.check_record("found", found, ImageAttribution)
        if not set(made[0].keys) <= set(found.keys):
            raise InputError(f"answers for {found.keys[:2]} with inversions of {made[0].keys[:2]}; expected answers for all of these "
                             "images; choose their rows")
    originals = raster.rgb(made[0].originals)
    seen = None if found is None else np.stack([raster.glow(picture, raster.unit(found.energy[found.keys.index(key)]))
                                                for key, picture in zip(made[0].keys, originals, strict=True)])
    named = tuple(tuple(words.class_name(int(one.predictions[row]), names) for one in made) for row in range(len(made[0])))
    return InversionPanels(heads, made[0].keys, originals, np.stack([raster.rgb(one.pictures) for one in made], 1),
                           np.stack([one.cosine for one in made], 1),
                           np.stack([one.kept_cosine for one in made], 1), named, np.stack([one.named for one in made], 1),
                           seen)


def inversions(made: Sequence[Inversion], titles: Sequence[str] | None = None, *, names: Sequence[str] | None = None,
               found: ImageAttribution | None = None) -> go.Figure:
    """A row an image, a column a record; below each picture its cosine to the activation looked for, and the class that it is named.

    Args:
        made: records with the same keys, such as of whole and of masked activations, or of several layers; 8 images are drawn.
        titles: one a record; None says the layer and how many channels the masks keep.
        names: class names by class number.
        found: answers for these images; a second column then shows where each a* set is active.

    Raises:
        InputError: no records, or not of the same images, or not one title each.

    Examples:
        >>> import chanattr as ca
        >>> figure = ca.figures.inversions([ca.figures.samples.inversion()], ["of a*"])
        >>> figure.layout.title.subtitle.text
        'right class named · of a*: 3 of 3'
    """
    data = inversions_data(made, titles, names=names, found=found)
    before = ["image"] if data.seen is None else ["image", "where a* is active"]
    rows, columns = min(len(data.keys), ROWS), len(before) + len(data.titles)
    tall = data.originals.shape[1] / data.originals.shape[2]
    figure = go.Figure()
    for column, title in enumerate((*before, *data.titles)):
        theme.note(figure, f"<b>{words.fit(title, 30)}</b>", x=column * STEP + 0.5, y=HEAD - 0.06, yanchor="bottom")
    for row in range(rows):
        top = HEAD + row * (tall + BELOW)
        _panel(figure, data.originals[row], 0.0, top, tall, words.fit(data.keys[row], 26), theme.MUTED)
        if found is not None and data.seen is not None:
            star = words.smallest(int(found.smallest_area[found.keys.index(data.keys[row])]))
            _panel(figure, data.seen[row], STEP, top, tall, star, theme.ACCENT)
        for column in range(len(data.titles)):
            whole, kept = data.cosine[row, column], data.kept_cosine[row, column]
            within = "" if np.isclose(whole, kept, atol=1e-4) else f", in the set {kept:.2f}"
            below = f"cosine {whole:.2f}{within}<br>{words.fit(data.named[row][column], 24)}"
            _panel(figure, data.pictures[row, column], (column + len(before)) * STEP, top, tall, below,
                   theme.INK if data.right[row, column] else theme.MUTED)
    right = " · ".join(f"{words.fit(title, 32)}: {int(good.sum())} of {len(good)}"
                      for title, good in zip(data.titles, data.right.T, strict=True))
    high = HEAD + rows * (tall + BELOW)
    theme.dress(figure, "What activations look like", f"right class named · {right}", height=90 + int(high * min(230, 960 / columns)))
    return frame(figure, (-0.02, columns * STEP - 0.04), (high, -0.02))


def _panel(figure: go.Figure, picture: np.ndarray, left: float, top: float, tall: float, below: str, colour: str) -> None:
    place_picture(figure, picture, left, top, tall, below, colour=colour, size=11, shift=-2, quality=80)


def _title(one: Inversion) -> str:
    """The layer, and how many channels its masks keep."""
    channels, low, high = one.masks.shape[1], int(one.areas.min()), int(one.areas.max())
    if low == channels:
        return f"{one.layer}: whole"
    return f"{one.layer}: {low if low == high else f'{low} to {high}'} of {channels}"
