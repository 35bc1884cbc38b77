"""Questions, scores and a* in words, safe to put into plotly text."""

from __future__ import annotations

import html
from collections.abc import Sequence

from chanattr.errors import InputError
from chanattr.records import NOT_REACHED, NOT_RUN, ImageAttribution
from chanattr.settings import Settings

REWARDS = {"logit": "logit", "contrastive": "logit less the best other logit", "log_probability": "log-probability"}
GAMES = {"preserve": "only the selected channels kept", "delete": "the selected channels dropped",
         "dual": "selected kept, less selected dropped"}


def safe(text: object) -> str:
    """Text that plotly shows as it is, not as markup; control characters replaced. In HTML: between tags only."""
    return html.escape("".join(c if c.isprintable() else "\ufffd" for c in str(text)), quote=False)


def short(text: str, most: int = 44) -> str:
    """Text of at most `most` characters, the middle left out."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[-(most - 1 - head):]}"


def class_name(target: int, names: Sequence[str] | None) -> str:
    """The name of a class, or "class 7" where none is known; not escaped."""
    name = names[target] if names is not None and 0 <= target < len(names) else ""
    return name or f"class {target}"


def number(value: float) -> str:
    """A score for reading: three or four figures, a true minus sign."""
    return f"{value:.2f}".replace("-", "−") if abs(value) < 1000 else f"{value:.3g}".replace("-", "−")


def score_axis(settings: Settings) -> str:
    """The axis title of scores."""
    return f"score: {safe(REWARDS.get(settings.reward, settings.reward))}"


def level(settings: Settings) -> str:
    """What a set must reach, in words."""
    if settings.level == "top1":
        return "the target is no longer the top class" if settings.game == "delete" else "the target is still the top class"
    if settings.level == "original":
        return "the original score"
    return f"{float(settings.level):g} of the way from the empty to the original score"


def smallest(area: int) -> str:
    """a* in words."""
    special = {NOT_REACHED: "a* not reached", NOT_RUN: "not run", 0: "a* = 0: nothing is needed"}
    return special.get(int(area), f"a* = {int(area):,}")


def check_row(found: ImageAttribution, row: int) -> int:
    """The row as an int of this record.

    Raises:
        InputError: no such row.
    """
    if not -len(found) <= row < len(found):
        raise InputError(f"row {row} of a result of {len(found)} images; expected a row from 0 to {len(found) - 1}")
    return int(row) % len(found)
