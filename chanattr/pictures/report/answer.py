"""What a run was asked and what it answered, layer by layer: counts, and sentences made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import numpy as np

from chanattr.axes import array_axes
from chanattr.pictures.figures import words
from chanattr.records import NOT_REACHED, NOT_RUN, ClassAttribution, ImageAttribution, entries_of
from chanattr.settings import Settings
from chanattr.tables import count

if TYPE_CHECKING:
    from chanattr.store import Run

_WHOLE = ("targets", "predictions", "smallest_area", "smallest_top1")


class Section(NamedTuple):
    """Answers under one layer and label; `found` has every image but no masks and scores, so that large runs fit."""

    layer: str
    label: str
    first: bool
    found: ImageAttribution | None
    classes: ClassAttribution | None

    @property
    def record(self) -> ImageAttribution | ClassAttribution:
        """Where settings and engine are."""
        record = self.found if self.found is not None else self.classes
        if record is None:
            raise ValueError("a section has answers for images or for classes")
        return record

    @property
    def channels(self) -> int:
        """K: channels of the layer, or groups of them."""
        return entries_of(self.record)

    @property
    def amount(self) -> str:
        """K with its unit, in words."""
        return f"{self.channels:,} {self.record.settings.unit}"

    @property
    def title(self) -> str:
        """The layer, and the label where it is not the layer's first."""
        return self.layer if self.first else f"{self.layer} ({self.label})"

    @property
    def link(self) -> str:
        """The end of every deep link into this section."""
        return encode(self.layer) if self.first else f"{encode(self.layer)}/{encode(self.label)}"


class Answer(NamedTuple):
    """Counts of one section: `right` of the images that ran are named rightly by the whole network, `kept` of them by a* channels too.

    Without labels `right` counts the images whose target is the network's own answer, and `labelled` is False.
    """

    run: int
    median: float
    not_reached: int
    empty: int
    right: int
    kept: int
    labelled: bool


def encode(text: str) -> str:
    """Text in a link as JavaScript's encodeURIComponent writes it.

    Examples:
        >>> encode("a/b ü")
        'a%2Fb%20%C3%BC'
    """
    return quote(text.encode("utf-8", "replace"), safe="!'()*")


def sections(run: Run) -> list[Section]:
    """All answers of a run, by layer and label in the order of first writing."""
    found = []
    for layer in run.layers:
        for number, label in enumerate(run.labels(layer)):
            classes = run.per_class(layer, label) if run.has_classes(layer, label) else None
            images = whole(run, layer, label) if run.finished(layer, label) else None
            found.append(Section(layer, label, number == 0, images, classes))
    return found


def whole(run: Run, layer: str, label: str) -> ImageAttribution:
    """Every image of a section, with the fields that statistics need; masks, scores and energies are zeros that take no memory."""
    none = run.per_image(layer, label, rows=slice(0, 0))
    fields: dict[str, Any] = {}
    for name, letters in array_axes(ImageAttribution).items():
        value = getattr(none, name)
        if letters[0] == "N":
            fields[name] = np.broadcast_to(value.dtype.type(0), (len(run.keys), *value.shape[1:]))
    return dataclasses.replace(none, keys=tuple(run.keys), **fields | {name: run.field(layer, name, label) for name in _WHOLE})


def answer(found: ImageAttribution, labels: np.ndarray) -> Answer:
    """The counts of a section; labels are i4 [N], -1 where unknown."""
    ran = found.smallest_area != NOT_RUN
    reached = found.smallest_area[found.smallest_area >= 0]
    labelled = bool((labels[ran] >= 0).any())
    right = right_answers(found, labels) if labelled else ran & (found.predictions == found.targets)
    return Answer(int(ran.sum()), float(np.median(reached)) if len(reached) else float("nan"),
                  int((found.smallest_area == NOT_REACHED).sum()), int((found.smallest_area == 0).sum()), int(right.sum()),
                  int((right & found.smallest_top1).sum()), labelled)


def right_answers(found: ImageAttribution, labels: np.ndarray) -> np.ndarray:
    """Images that ran, whose label is asked about and named by the whole network: bool [N]."""
    right: np.ndarray = (found.smallest_area != NOT_RUN) & (labels >= 0) & (found.predictions == labels) & (found.targets == labels)
    return right


def sentence(section: Section, labels: np.ndarray) -> str:
    """The answer of a section in plain words."""
    if section.found is None:
        return f"Only classes were searched here: {len(section.classes or ())} of them, {section.amount}."
    asked, given = section.found.settings, answer(section.found, labels)
    if not np.isfinite(given.median):
        return f"No set of {asked.unit} was found that reaches the level, for any of {given.run:,} images."
    share = given.median / section.channels
    amount = f"{given.median:,g} of {section.amount} ({share:.{0 if share >= 0.1 else 1}%})"
    if asked.game == "delete":
        text = f"The median image loses its answer when {amount} are dropped"
    else:
        text = f"The median image needs {amount} {_purpose(asked)}"
    return f"{text}. {_kept(given, asked)}{_apart(given)}"


def spread(section: Section) -> str:
    """How a* differs between the images of a section, in plain words."""
    smallest = np.zeros(0, int) if section.found is None else section.found.smallest_area
    reached = smallest[smallest >= 0]
    if len(reached) < 4:
        return f"{len(reached)} images with an a*, of {int((smallest != NOT_RUN).sum())}."
    least, lower, upper, most = np.percentile(reached, [0, 25, 75, 100])
    unit = section.record.settings.unit
    if least == most:
        return f"a* is {count(int(least), unit[:-1])} for all {len(reached):,} images."
    return (f"a* goes from {least:,.0f} to {most:,.0f} {unit} over {len(reached):,} images; for the middle half of them from "
            f"{lower:,.3g} to {upper:,.3g}.")


def _purpose(asked: Settings) -> str:
    if asked.level == "top1":
        return "for its target to stay the top class"
    if asked.level == "original":
        return "to score as high as with all of them"
    return f"to get {float(asked.level):.0%} of the way from the score with no channel to the score with all"


def _kept(given: Answer, asked: Settings) -> str:
    """What a* channels alone keep of the network's answers."""
    answers = "right answers" if given.labelled else "answers"
    if not given.right:
        return "The whole network is right about none of them." if given.labelled else "None was asked about the network's own answer."
    if asked.game == "delete":
        return f"Without them {given.right - given.kept:,} of the network's {given.right:,} {answers} are gone."
    return f"Those channels alone keep {given.kept:,} of the network's {given.right:,} {answers}."


def _apart(given: Answer) -> str:
    parts = []
    if given.not_reached:
        parts.append(f"{given.not_reached:,} of {given.run:,} images never reach the level")
    if given.empty:
        parts.append(f"{given.empty:,} reach{'es' if given.empty == 1 else ''} it with no channel at all")
    return f" {'; '.join(parts)}." if parts else ""


def asked(section: Section, names: Sequence[str]) -> list[tuple[str, str]]:
    """The question as pairs of a word and its value, less the layer and the model."""
    record, settings = section.record, section.record.settings
    pairs = [("score", f"{words.REWARDS.get(settings.reward, settings.reward)} of the target{_targets(section.found, names)}"),
             ("game", f"{settings.game}: {words.GAMES.get(settings.game, '')}"),
             ("a dropped channel becomes", _fill(settings)),
             ("a* must reach", f"{words.level(settings)}{'; a* refined to the exact count' if settings.refine else ''}"),
             *([("a mask selects", f"whole {settings.unit}: {section.channels:,} of {len(record.groups):,} channels together")]
               if settings.group else []),
             ("areas searched", ", ".join(f"{a:,}" for a in settings.areas) or "none: only a* was asked"),
             ("search", f"{settings.search.name} ({_search(settings)}), seed {settings.seed}"),
             ("pictures", settings.preprocessing or "tensors, as they were given"),
             ("engine", record.engine)]
    if section.classes is not None:
        folds = section.classes.settings.folds
        pairs.insert(5, ("areas of joint sets", ", ".join(f"{a:,}" for a in section.classes.areas.tolist()) or "only a*"))
        pairs.insert(6, ("held out", f"{folds} folds" if folds > 1 else "nothing"))
    return pairs


def _targets(found: ImageAttribution | None, names: Sequence[str]) -> str:
    if found is None:
        return ""
    ran = found.smallest_area != NOT_RUN
    targets = np.unique(found.targets[ran])
    if len(targets) == 1:
        return f" {words.class_name(int(targets[0]), names)}"
    own = int((found.targets == found.predictions)[ran].sum())
    return f" (the network's own answer for {own:,} of {int(ran.sum()):,} images)"


def _fill(settings: Settings) -> str:
    known = {"mean": "its mean over the images", "spatial_mean": "its mean over the positions of the same image",
             "values": f"given values (digest {settings.fill_sha256[:12]})"}
    return known.get(settings.fill, settings.fill)


def _search(settings: Settings) -> str:
    fields = dataclasses.asdict(settings.search)
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in fields.items() if name != "name" and value is not None)
