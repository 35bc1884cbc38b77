"""One image at one layer: its numbers and energies, small enough for hundreds on a page, and the place where the script shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chanattr.codes import laid_out
from chanattr.pictures.figures import raster, words
from chanattr.pictures.figures.slider import Part, figure, steps_of
from chanattr.pictures.report.markup import Markup, caption, element, script_json
from chanattr.records import ImageAttribution

FINEST = 14  # cells of a side of an energy map on the page, at most
LEVELS = 16  # of energy: what an eye tells apart through the picture


def view(found: ImageAttribution, row: int, where: str, part: Part | None, pictured: bool) -> Markup:
    """The card with the picture, its slider and the score curve.

    Args:
        found: answers for the page's images.
        row: which of them; it ran.
        where: image and layer in words.
        part: of the picture that the network saw, as shares; None where nothing tells.
        pictured: whether there is a thumbnail.
    """
    steps = steps_of(found, row)
    data = _data(found, row, steps, part)
    grid = found.energy[row].size > 1
    canvas = element("canvas", width=320, height=320, role="img",
                     aria_label=f"Where the chosen channels are active, over {where}") if grid else None
    slider = element("label", element("span", "area"), element(
        "input", type="range", min=0, max=max(0, len(steps) - 1),
        value=data["star"] if data["star"] >= 0 else max(0, len(steps) - 1), step=1,
        aria_label=f"Area: {found.settings.unit} selected", disabled=not steps))
    notes = _notes(found, row, part, pictured, steps)
    curve = element("div", class_="curve", role="img", aria_label=f"Score against area of {where}. {_curve_words(found, row)}")
    side = element("div", slider, element("p", class_="now", aria_live="polite"), curve,
                   element("p", notes, class_="note") if notes else None)
    glow = "glow: where the selected channels are active; " if grid else ""
    head = caption("Sets of growing area", f"{glow}● the target is the top class")
    return element("figure", head, element("div", canvas, side, class_="look"), script_json(data), class_="card view")


def _data(found: ImageAttribution, row: int, steps: Sequence[dict[str, Any]], part: Part | None) -> dict[str, Any]:
    """The same for the script: lists a step, and the maps one below another in one grey picture."""
    energies = [step["energy"] for step in steps if step["energy"] is not None]  # none of a layer without a grid
    data: dict[str, Any] = {"area": [step["area"] for step in steps], "score": [step["score"] for step in steps],
                            "kept": "".join("01"[step["kept"]] for step in steps),
                            "star": next((n for n, step in enumerate(steps) if step["star"]), -1),
                            "original": figure(found.original[row]), "empty": figure(found.empty[row]),
                            "channels": found.masks.shape[2], "part": [round(edge, 4) for edge in part or (0, 0, 1, 1)]}
    if energies:
        maps = [shrunk(raster.unit(energy)) for energy in energies]
        data["size"] = maps[0].shape
        strip = np.rint(np.concatenate(maps) * (LEVELS - 1)) * (255 / (LEVELS - 1))
        data["strip"] = raster.data_uri(np.rint(strip).astype(np.uint8), kind="PNG")
    data["has"] = "".join("01"[step["energy"] is not None] for step in steps)
    return data


def shrunk(energy: np.ndarray) -> np.ndarray:
    """An energy map of at most `FINEST` cells a side: the mean over what falls together."""
    for axis in (0, 1):
        size = energy.shape[axis]
        if size > FINEST:
            starts = np.linspace(0, size, FINEST, endpoint=False).astype(int)
            counts = np.diff([*starts, size]).reshape([-1, 1] if axis == 0 else [1, -1])
            energy = np.add.reduceat(energy, starts, axis=axis) / counts
    return energy


def _curve_words(found: ImageAttribution, row: int) -> str:
    smallest, score = words.smallest(int(found.smallest_area[row])), float(found.smallest_score[row])
    reached = f" with score {words.number(score)}" if np.isfinite(score) else ""
    return (f"{smallest}{reached}; {words.number(float(found.original[row]))} with every channel, "
            f"{words.number(float(found.empty[row]))} with none.")


def _notes(found: ImageAttribution, row: int, part: Part | None, pictured: bool, steps: Sequence[dict[str, Any]]) -> str:
    notes, grid = [], found.energy[row].size > 1
    if not len(found.areas):
        notes.append("Only a* was searched." if steps else "Only a* was searched, and it selects nothing.")
    elif grid and not np.isfinite(found.energy_by_area[row]).all():
        notes.append("The file keeps no energy by area of this image: the map is that of a*.")
    if not grid:
        notes.append("A channel of this layer is one number for the whole image: it is active nowhere in particular, so there is no map.")
    elif found.energy.shape[1] == 1:
        square = laid_out(found.energy[row]).shape[0] > 1
        notes.append(f"The {found.energy.shape[2]:,} positions of this layer lie in one row: " + (
            "they are taken for tokens, and drawn row by row in a square." if square else "if they are tokens, the map tells nothing."))
    elif part is None and pictured:
        notes.append("Which part of the picture the network saw cannot be told here: the map lies over all of it.")
    return " ".join(notes)
