"""Questions, scores and a* in words, safe to put into plotly text."""

from __future__ import annotations

import html
from collections.abc import Sequence, Sized
from numbers import Integral

from chanattr.errors import InputError
from chanattr.records import NOT_REACHED, NOT_RUN, ImageAttribution, SpatialAttribution
from chanattr.settings import Settings
from chanattr.tables import short

REWARDS = {"logit": "logit", "contrastive": "logit less the best other logit", "log_probability": "log-probability"}
GAMES = {"preserve": "only the selected channels kept", "delete": "the selected channels dropped",
         "dual": "selected kept, less selected dropped"}


def printable(text: object) -> str:
    """Text with control characters, surrogates and direction overrides replaced, which could disguise a name or break a page."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(text))


def safe(text: object) -> str:
    """Text that plotly shows as it is, not as markup. In HTML: between tags only."""
    return html.escape(printable(text), quote=False)


def fit(text: str, most: int) -> str:
    """Safe text of at most `most` characters, the middle left out."""
    return safe(short(text, most))


def class_name(target: int, names: Sequence[str] | None) -> str:
    """The name of a class, or "class 7" where none is known; not escaped."""
    name = names[target] if names is not None and 0 <= target < len(names) else ""
    return name or f"class {target}"


def target(found: ImageAttribution | SpatialAttribution, row: int, names: Sequence[str] | None, most: int = 24) -> str:
    """The class that a row was asked about, for a line below a figure's title."""
    return f"target {fit(class_name(int(found.targets[row]), names), most)}"


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


def smallest(area: float, share: bool = False) -> str:
    """a* in words: a count, or a share of a picture."""
    special: dict[float, str] = {NOT_REACHED: "a* not reached", NOT_RUN: "not run", 0: "a* = 0: nothing is needed"}
    return special.get(area, f"a* = {area:.1%}" if share else f"a* = {int(area):,}")


def check_row(images: Sized, row: int, what: str = "result") -> int:
    """The row as an int of this record.

    Raises:
        InputError: no such row.
    """
    if not isinstance(row, Integral) or isinstance(row, bool) or not -len(images) <= row < len(images):
        raise InputError(f"row {row!r} of a {what} of {len(images)} images; expected a row from 0 to {len(images) - 1}; its keys tell "
                         "which image is where")
    return int(row) % len(images)
