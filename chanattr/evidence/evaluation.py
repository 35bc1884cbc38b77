"""The record of methods held against one another on the same images, and its table with intervals; numpy only."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from chanattr import tables
from chanattr.errors import InputError
from chanattr.evidence.intervals import Interval, Resamples, mean_of, resamples, share_of
from chanattr.settings import Settings

CLEARLY = 1e-3  # of a score: by what another has to be higher to count


class MethodLine(NamedTuple):
    """One method in figures, each over the images of an evaluation.

    Attributes:
        method: its name.
        share: of the best of all methods for the same image and area, both as what they gain on selecting nothing; ratio of sums over
            images and areas.
        score: mean over images and areas.
        behind: what the first method gains beyond this one, image by image (in *delete* a lower score is the gain).
        ahead: share of all images and areas where this method scores higher than the first by over 1e-3 of its score.
        smallest: mean a*, over the images where every method has one.
        more: a* of this method less the first's, image by image.
        deletion: mean deletion area, over the images where every method has one.
        evaluations: an image, for the sets of all areas.
        seconds: an image.
        images: how many `smallest` is over, and `deletion`.
    """

    method: str
    share: Interval
    score: Interval
    behind: Interval
    ahead: float
    smallest: Interval
    more: Interval
    deletion: Interval
    evaluations: float
    seconds: float
    images: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """An evaluation as it is stored and shown: a line a method.

    Attributes:
        layer: dotted name.
        question: the settings, as JSON types.
        unit: what areas count, in words.
        images: how many.
        areas: of the sets.
        entries: K.
        lines: the searched answer first.
    """

    layer: str
    question: dict[str, Any]
    unit: str
    images: int
    areas: tuple[int, ...]
    entries: int
    lines: tuple[MethodLine, ...]

    def _repr_html_(self) -> str:
        """What a notebook shows: a row a method, with 95 % intervals over images."""
        shares = ["share of the best score"] if self.areas else []
        heads = ("method", *shares, f"a* ({self.unit})", "lost without", "evaluations")
        rows = [(line.method.replace("_", " "), *(tables.interval(*line.share) for _ in shares), tables.interval(*line.smallest),
                 tables.interval(*line.deletion), line.evaluations) for line in self.lines]
        areas = tables.count(len(self.areas), "area") if self.areas else "a* alone"
        return tables.table("Evaluation", (tables.count(self.images, "image"), f"layer {self.layer}", areas, "95 % intervals"), heads, rows)

    def as_dict(self) -> dict[str, Any]:
        """JSON types; null where there is no figure."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, whole: Any) -> Summary:
        """What `as_dict` gave.

        Raises:
            InputError: something else.
        """
        try:
            lines = tuple(MethodLine(**{name: _figure_from(value) for name, value in line.items()}) for line in whole["lines"])
            return cls(**{**whole, "areas": tuple(whole["areas"]), "lines": lines})
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise InputError(f"an evaluation that cannot be read ({error}); expected what chanattr evaluate wrote; evaluate the run "
                             "again") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Sets of several methods, scored with the same masks, areas, reward and fill. Axes: M methods, N images, A areas.

    Attributes:
        layer: dotted name.
        settings: the question that the first method answers.
        methods: names; the first is the searched answer, the others are rankings, whose sets are their first k.
        keys: one an image.
        areas: i4 [A].
        scores: by the game's meaning, f4 [M, N, A].
        top1: whether the masked network still names the target, bool [M, N, A].
        smallest_area: a*, i4 [M, N]; -1 not reached, 0 the empty set reaches.
        deletion_area: the fewest channels found whose removal loses the target as top class, i4 [M, N]; -1 none.
        evaluations: for the sets, f4 [M, N].
        seconds: for the sets, an image, f4 [M, N].
        original, empty: f4 [N].
        entries: K, of a mask.

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.evaluation()  # as `evaluate` gives it
        >>> [(line.method, line.share.value, line.smallest.value) for line in found.table()]
        [('exact', 1.0, 3.0), ('random', 0.5, 6.0)]
    """

    layer: str
    settings: Settings
    methods: tuple[str, ...]
    keys: tuple[str, ...]
    areas: np.ndarray
    scores: np.ndarray
    top1: np.ndarray
    smallest_area: np.ndarray
    deletion_area: np.ndarray
    evaluations: np.ndarray
    seconds: np.ndarray
    original: np.ndarray
    empty: np.ndarray
    entries: int

    __repr__ = tables.outline

    def __len__(self) -> int:
        return len(self.keys)

    def _repr_html_(self) -> str:
        """What a notebook shows: its summary."""
        return self.summary()._repr_html_()

    def table(self, seed: int = 0) -> tuple[MethodLine, ...]:
        """One line a method, with bootstrap intervals over images (percentiles of 2,000 resamples).

        Args:
            seed: of the resamples, which are the same for every figure.
        """
        drawn = functools.partial(resamples, len(self), seed)
        worse = self.original if self.settings.game == "delete" else self.empty  # with nothing selected
        gains = (-1 if self.settings.game == "delete" else 1) * (self.scores - worse[:, None])
        return tuple(self._line(number, gains, drawn) for number in range(len(self.methods)))

    def summary(self, seed: int = 0) -> Summary:
        """The table with what it is about."""
        return Summary(layer=self.layer, question=self.settings.as_dict(), unit=self.settings.unit, images=len(self),
                       areas=tuple(self.areas.tolist()), entries=self.entries, lines=self.table(seed))

    def _line(self, number: int, gains: np.ndarray, drawn: Resamples) -> MethodLine:
        own, behind = self.scores[number], gains[0] - gains[number]
        sizes, losses = _everywhere(self.smallest_area), _everywhere(self.deletion_area)
        return MethodLine(
            method=self.methods[number], share=share_of(gains[number], gains.max(0), drawn), score=mean_of(_over_areas(own), drawn),
            behind=mean_of(_over_areas(behind), drawn),
            ahead=float((-behind > CLEARLY * np.abs(self.scores[0]).clip(1)).mean()) if behind.size else float("nan"),
            smallest=mean_of(np.where(sizes, self.smallest_area[number], np.nan), drawn),
            more=mean_of(np.where(sizes, self.smallest_area[number] - self.smallest_area[0], np.nan), drawn),
            deletion=mean_of(np.where(losses, self.deletion_area[number], np.nan), drawn),
            evaluations=float(self.evaluations[number].mean()), seconds=float(self.seconds[number].mean()),
            images=(int(sizes.sum()), int(losses.sum())))


def join(parts: Sequence[Evaluation]) -> Evaluation:
    """One evaluation from those of several batches, images in the order given.

    Raises:
        InputError: nothing to join, or other methods, areas or questions.
    """
    if not parts:
        raise InputError("no evaluations to join; expected at least one; evaluate some images first")
    first = parts[0]
    for other in parts[1:]:
        if other.settings != first.settings or other.methods != first.methods or not np.array_equal(other.areas, first.areas):
            raise InputError(f"evaluations of {first.methods} and {other.methods} at {first.layer!r} and {other.layer!r} do not go "
                             "together; expected the same methods, areas and question; join those apart")
    rows = {name: np.concatenate([getattr(part, name) for part in parts], axis=1)
            for name in ("scores", "top1", "smallest_area", "deletion_area", "evaluations", "seconds")}
    ends = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("original", "empty")}
    named: dict[str, Any] = rows | ends
    return dataclasses.replace(first, keys=tuple(key for part in parts for key in part.keys), **named)


def _plain(value: Any) -> Any:
    if isinstance(value, (Interval, MethodLine)):
        return {name: _plain(part) for name, part in value._asdict().items()}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _figure_from(value: Any) -> Any:
    if isinstance(value, dict):
        return Interval(**{name: _figure_from(number) for name, number in value.items()})
    if isinstance(value, list):
        return tuple(int(number) for number in value)
    return float("nan") if value is None else value


def _over_areas(values: np.ndarray) -> np.ndarray:
    """[N, A] to [N]; NaN without areas."""
    return values.mean(1) if values.shape[1] else np.full(len(values), np.nan)


def _everywhere(areas: np.ndarray) -> np.ndarray:
    """Images where every method has an area."""
    return np.asarray((areas >= 0).all(0))
