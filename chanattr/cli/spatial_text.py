"""Masks on the picture as plain text: a table of areas and scores an image, in shares of the picture."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np

from chanattr.cli.text import TERMINAL, figure, named, table
from chanattr.codes import SINGLE_DISC
from chanattr.records import NOT_REACHED, NOT_RUN, SpatialAttribution
from chanattr.settings import ExactSearch
from chanattr.store import Run
from chanattr.tables import count

SHOWN = 20  # images in a table; the others are in the file
NAME, CLASS = 20, 14  # letters of an image's name and of a class


def spatial_text(run: Run, layer: str, label: str, keys: Sequence[str] | None = None) -> str:
    """The answers of one layer and label: what was asked in a line, a table of the first images, and what its columns are.

    Args:
        run: open.
        layer, label: where the answers lie.
        keys: of the images; None is all of the run.
    """
    done = run.finished(layer, label, spatial=True)
    mine = [key for key in (run.keys if keys is None else keys) if key in done]
    found = run.spatial(mine[:SHOWN], layer, label)
    names = [str(name) for name in run.attributes.get("class_names") or []]
    smallest = run.field(layer, "smallest_area", label, rows=mine, spatial=True)
    lines = [_asked(found, label, smallest)]
    if mine:
        lines += ["", table(("image", "class", "area", "measured %", "score", "hard mask", "kept"), _rows(found, names))]
    if len(mine) > SHOWN:
        lines.append(f"and {count(len(mine) - SHOWN, 'more image')}, in the file")
    return "\n".join([*lines, "", *_notes(found)])


def percent(share: float) -> str:
    """A share in words.

    Examples:
        >>> percent(0.025)
        '2.5 %'
    """
    return f"{100 * share:.4g} %"


def _asked(found: SpatialAttribution, label: str, smallest: np.ndarray) -> str:
    asked = found.settings
    reached = smallest[smallest >= 0]
    median = f"median a* {100 * np.median(reached):.1f} %" if len(reached) else "no a*"
    under = {"values": "a colour", "images": "a picture"}.get(asked.perturbation, asked.perturbation)
    where = "the picture" if found.layer == ":input" else f"the grid of {found.layer}"
    steps = asked.search.relaxed_steps if isinstance(asked.search, ExactSearch) else asked.search.steps
    return textwrap.fill(
        f"Masks on {where} ({label}): {count(len(smallest), 'image')} of {found.size[0]}x{found.size[1]}, {median}; reward {asked.reward}, "
        f"game {asked.game}, under masks {under}, level {asked.level}, search {asked.search.name} ({steps} steps), {found.engine}",
        TERMINAL)


def _rows(found: SpatialAttribution, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Of each image: a row an area, one for a*, and one for the whole picture."""
    for row, key in enumerate(found.keys):
        if found.smallest_area[row] == NOT_RUN:
            continue
        end = key if len(key) <= NAME else f"…{key[1 - NAME:]}"  # which tells it from its neighbours
        first = end, textwrap.shorten(named(int(found.targets[row]), names), CLASS, placeholder="…")
        for line in _lines(found, row):
            yield (*first, *line)
            first = "", ""


def _lines(found: SpatialAttribution, row: int) -> Iterator[tuple[str, ...]]:
    """Of one image: area, its measure, score, the score of the hard mask, and whether the class is kept."""
    for place, area in enumerate(found.areas):
        yield (percent(float(area)), f"{100 * found.true_areas[row, place]:.2f}", figure(found.scores[row, place], 2),
               figure(found.level_set_scores[row, place], 2), _yes(found.top1[row, place]))
    smallest = float(found.smallest_area[row])
    if smallest == NOT_REACHED:
        yield "a*", "-", "-", "-", "not reached"
    else:
        yield "a*", f"{100 * smallest:.2f}", figure(found.smallest_score[row], 2), "-", _yes(found.smallest_top1[row])
    yield "all", "100.00", figure(found.original[row], 2), "-", _yes(found.predictions[row] == found.targets[row])


def _notes(found: SpatialAttribution) -> list[str]:
    """What the columns are, and which areas are smaller than any hard mask of the family."""
    delete = found.settings.game == "delete"
    words = (f"area: the share of the picture that was asked for; measured: the mean of the mask. score: of the picture "
             f"{'perturbed under' if delete else 'seen through'} the mask; hard mask: with its highest pixels alone, of the same area. "
             f"a*: the smallest area found that {'loses' if delete else 'keeps'} what the level asks. kept: whether the network still "
             "names the class.")
    small = [place for place, area in enumerate(found.areas) if area < SINGLE_DISC]
    notes = [textwrap.fill(words, TERMINAL)]
    if small and len(found):
        highest, told = np.nanmax(found.peak[:, small], initial=0), ", ".join(percent(float(found.areas[place])) for place in small)
        notes.append(textwrap.fill(f"{told}: less than one disc of these masks ({percent(SINGLE_DISC)}) away from the border; here "
                                   f"such masks reach {highest:.2f} of 1 at most, so that even inside the picture stays veiled.", TERMINAL))
    return notes


def _yes(kept: bool | np.bool_) -> str:
    return "yes" if kept else "no"
