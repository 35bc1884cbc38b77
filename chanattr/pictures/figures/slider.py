"""What a slider over areas goes through: the steps with their scores and maps, and the part of the picture that the network saw."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from chanattr.records import ImageAttribution

Part = tuple[float, float, float, float]  # left, top, right, bottom, as shares of a picture
DIGITS = 5  # of scores
_SQUASH = re.compile(r"resize (\d+)x\1,? .*?crop (\d+)")
_KEEP = (re.compile(r"resize (?P<resize>\d+)\b(?!x).*?crop (?P<crop>\d+)"),
         re.compile(r"crop_size=\[(?P<crop>\d+)\] resize_size=\[(?P<resize>\d+)\]"))


def steps_of(found: ImageAttribution, row: int) -> list[dict[str, Any]]:
    """What the slider goes through: the areas searched, and a* among them; scores as numbers or None, and the energy map of each."""
    by_area = np.isfinite(found.energy_by_area[row]).all(axis=(1, 2)) if len(found.areas) else np.zeros(0, bool)
    steps = [{"area": area, "score": figure(found.scores[row, place]), "kept": bool(found.top1[row, place]), "star": False,
              "energy": found.energy_by_area[row, place] if by_area[place] else None} for place, area in enumerate(found.areas.tolist())]
    smallest = int(found.smallest_area[row])
    if smallest > 0:
        star = {"area": smallest, "score": figure(found.smallest_score[row]), "kept": bool(found.smallest_top1[row]), "star": True,
                "energy": found.energy[row] if np.isfinite(found.energy[row]).all() else None}
        steps = [step for step in steps if step["area"] != smallest] + [star]
    if found.energy[row].size == 1:
        steps = [step | {"energy": None} for step in steps]
    return sorted(steps, key=lambda step: step["area"])


def figure(value: Any) -> float | None:
    """A number of `DIGITS` digits; None where there is none."""
    return float(f"{float(value):.{DIGITS}g}") if np.isfinite(value) else None


def seen_part(preprocessing: str, height: int, width: int) -> Part | None:
    """The part of a picture that a network sees, from the words for its preprocessing; None where they do not tell.

    Examples:
        >>> seen_part("resize 256x256, centre crop 128, RGB", 100, 200)
        (0.25, 0.25, 0.75, 0.75)
        >>> seen_part("resize 256 bicubic, centre crop 256", 100, 200)
        (0.25, 0.0, 0.75, 1.0)
    """
    if match := _SQUASH.search(preprocessing):
        across = down = int(match[2]) / int(match[1])
    elif match := next((found for kind in _KEEP if (found := kind.search(preprocessing))), None):
        share = int(match["crop"]) / int(match["resize"])
        across, down = share * min(1, height / width), share * min(1, width / height)
    else:
        return None
    return ((1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2)
