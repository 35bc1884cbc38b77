"""Masks on the picture on an image's page: the picture seen through each, by a slider over areas, and a table of their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chanattr.codes import masks_of
from chanattr.pictures.figures import raster, words
from chanattr.pictures.figures.slider import Part
from chanattr.pictures.report.markup import Markup, caption, element, join, number, table
from chanattr.records import NOT_REACHED, NOT_RUN, SpatialAttribution
from chanattr.settings import Settings

if TYPE_CHECKING:
    from chanattr.store import Run

SIDE = 64  # samples of a mask on the page: two a cell of its code


class AreaLine(NamedTuple):
    """One mask of an image: what its area is called, and its figures."""

    name: str
    area: float
    score: float
    hard: float
    kept: bool
    code: np.ndarray


def held(run: Run, keys: Sequence[str]) -> list[tuple[str, SpatialAttribution]]:
    """All masks that a run holds of some images, and their labels."""
    return [(label, run.spatial(list(keys), layer, label)) for layer in run.spatial_layers for label in run.labels(layer, spatial=True)]


def lines_of(found: SpatialAttribution, row: int) -> list[AreaLine]:
    """The masks of a row by their measured areas, a* among them where there is one."""
    lines = [AreaLine(f"{100 * area:.3g} %", float(found.true_areas[row, place]), float(found.scores[row, place]),
                  float(found.level_set_scores[row, place]), bool(found.top1[row, place]), found.codes[row, place])
             for place, area in enumerate(found.areas.tolist())]
    if found.smallest_area[row] > 0:
        lines.append(AreaLine("a*", float(found.smallest_area[row]), float(found.smallest_score[row]), float("nan"),
                          bool(found.smallest_top1[row]), found.smallest_code[row]))
    return sorted(lines, key=lambda line: line.area)


def mask_cards(masks: Sequence[tuple[str, SpatialAttribution]], row: int, part: Part | None, names: Sequence[str]) -> Markup | None:
    """A card for every layer and label under which an image has masks; None without any.

    Args:
        masks: of the page's images, and their labels.
        row: which of them.
        part: of its picture that the network saw, as shares; None where nothing tells.
        names: of the classes.
    """
    made = [_card(label, found, row, part, names) for label, found in masks if found.smallest_area[row] != NOT_RUN]
    return join(made) if made else None


def _card(label: str, found: SpatialAttribution, row: int, part: Part | None, names: Sequence[str]) -> Markup:
    lines = lines_of(found, row)
    where = "in the picture" if found.layer == ":input" else f"on the grid of {found.layer}"
    title = f"Where it must be seen, {where}{'' if label == 'exact' else f' ({label})'}"
    strip = np.rint(255 * masks_of(np.stack([line.code for line in lines]), (SIDE, SIDE))).astype(np.uint8).reshape(-1, SIDE)
    start = next((n for n, line in enumerate(lines) if line.name == "a*"), len(lines) - 1)
    look = element("canvas", width=360, height=max(60, round(360 * found.size[0] / found.size[1])), role="img",
                   aria_label=f"{found.keys[row]} through the mask of the chosen area")
    slider = element("label", element("span", "area"), element("input", type="range", min=0, max=len(lines) - 1, value=start, step=1))
    around = "" if part else " Which part of the picture the network saw cannot be told here: the mask lies over all of it."
    side = element("div", slider, _table(found, row, lines), element("p", _verdict(found, row, names) + around, class_="note"))
    hidden = element("img", src=raster.data_uri(strip, quality=75), alt="", hidden=True)
    head = caption(title, f"where it is dark: {_dark(found)}")
    return element("figure", head, element("div", look, side, class_="look"), hidden, class_="card masks",
                   data_part=",".join(f"{edge:.4f}" for edge in part or (0, 0, 1, 1)))


def under(settings: Settings) -> str:
    """What lies under masks, in words."""
    named = {"blur": "the picture blurred", "fade": "the picture faded to zero", "mean": "its mean colour", "noise": "noise of its colours",
             "values": "one colour", "images": "another picture"}
    return named.get(settings.perturbation, settings.perturbation)


def _dark(found: SpatialAttribution) -> str:
    return f"the picture as it is; bright: {under(found.settings)}" if found.settings.game == "delete" else under(found.settings)


def _table(found: SpatialAttribution, row: int, lines: Sequence[AreaLine]) -> Markup:
    heads = (("area", "as asked; a*: the smallest found that reaches the level"), ("measured", "mean of the mask"),
             ("score", "of the picture through the mask"), ("hard mask", "score with the mask's highest pixels alone, of the same area"),
             ("class kept", "whether the network still names the class"))
    whole = bool(found.predictions[row] == found.targets[row])
    return table(heads, [_row(line.name, f"{100 * line.area:.1f} %", line.score, line.hard, line.kept) for line in lines],
                 _row("all", "100 %", float(found.original[row]), float("nan"), whole))


def _row(name: str, area: str, score: float, hard: float, kept: bool) -> Markup:
    return element("tr", element("th", name, scope="row"), number(area), number(words.number(score)),
                   number(words.number(hard) if np.isfinite(hard) else "–"), element("td", "● yes" if kept else "○ no"))


def _verdict(found: SpatialAttribution, row: int, names: Sequence[str]) -> str:
    area, target = float(found.smallest_area[row]), words.class_name(int(found.targets[row]), names)
    if area == NOT_REACHED:
        return f"No mask that was tried reaches the level for {target}."
    what = "the picture" if found.layer == ":input" else "the grid"
    if found.settings.game == "delete":
        return f"a*: perturbing {100 * area:.1f} % of {what} is enough for {target} to fall to the level."
    if not area:
        return f"The picture perturbed everywhere reaches the level for {target}."
    return f"a*: {100 * area:.1f} % of {what} is enough for {target}."
