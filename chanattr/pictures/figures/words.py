"""Questions, scores and a* in words, safe to put into plotly text."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from chanattr.arguments import check_kind
from chanattr.errors import InputError
from chanattr.records import NOT_REACHED, NOT_RUN, ImageAttribution, SpatialAttribution
from chanattr.settings import Settings
from chanattr.tables import short

REWARDS = {"logit": "logit", "contrastive": "logit less the best other logit", "log_probability": "log-probability"}
GAMES = {"preserve": "only the selected channels kept", "delete": "the selected channels dropped",
         "dual": "selected kept, less selected dropped"}
MAKERS = {"ImageAttribution": "per_image or a run's per_image", "ClassAttribution": "per_class or a run's per_class",
          "SpatialAttribution": "spatial or a run's spatial", "JointView": "joint_view", "Overlap": "overlap", "Specificity": "specificity",
          "Evaluation": "evaluate or evaluate_run", "Sanity": "randomisation or label_randomisation",
          "Inversion": "invert or a run's inversions", "ChannelImages": "visualise or a run's channel_pictures",
          "Examples": "examples or a run's examples"}


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
    """The name of a class, or "class 7" where none is known; not escaped.

    Raises:
        InputError: names that are no list of texts.
    """
    listed = names is None or (hasattr(names, "__getitem__") and not isinstance(names, (str, bytes, Mapping)))
    name = names[target] if names is not None and listed and 0 <= target < len(names) else ""
    if not listed or not isinstance(name or "", str):
        raise InputError(f"names={repr(names)[:100]}; expected a list of texts, one a class by its number; leave names out where they are "
                         "unknown")
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


def check_record(name: str, record: object, *kinds: type) -> None:
    """Refuses what is none of the records that a figure draws.

    Args:
        name: of the argument.
        record: what came.
        kinds: of record, the first a key of `MAKERS`.

    Raises:
        InputError: so; says what gives one.
    """
    check_kind(name, record, kinds, f"give what {MAKERS[kinds[0].__name__]} gives")


def check_row(record: Any, row: int, kind: type, name: str = "found") -> int:
    """The row as an int of a record, with keys of its images.

    Raises:
        InputError: not a record of this kind, or no such row.
    """
    check_record(name, record, kind)
    images = len(record.keys)
    if not isinstance(row, Integral) or isinstance(row, bool) or not -images <= row < images:
        raise InputError(f"row {row!r} of a {'view' if name == 'view' else 'result'} of {images} images; expected a row from 0 to "
                         f"{images - 1}; its keys tell which image is where")
    return int(row) % images
