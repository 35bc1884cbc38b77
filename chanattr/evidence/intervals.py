"""Figures with their 95 % intervals: one bootstrap over images or over classes and their images, and Wilson's of a share; numpy only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 2000  # of every bootstrap
ENDS = (0.025, 0.975)  # of its distribution: where the interval begins and ends
BLOCK = 2_000_000  # rows drawn at once, at most
SURE = 1.959963984540054  # of a normal distribution, 95 % lie within so many deviations

Figure = Any  # a number, or an array of them
Resamples = Callable[[], Iterator[np.ndarray]]


class Interval(NamedTuple):
    """A figure with its 95 % interval, numbers or arrays of one shape; NaN where there is nothing to average."""

    value: Figure
    low: Figure
    high: Figure


def resamples(count: int, seed: int) -> Iterator[np.ndarray]:
    """Rows drawn with replacement, i8 [R, N], in blocks of a bounded size that are 2,000 resamples together."""
    generator, left = np.random.default_rng(seed), RESAMPLES
    while left and count:
        size = min(left, max(1, BLOCK // count))
        yield generator.integers(0, count, (size, count))
        left -= size


def mean_of(values: np.ndarray, drawn: Resamples) -> Interval:
    """Mean over images, those that are NaN left out, with its interval.

    Args:
        values: [N].
        drawn: gives the resamples.
    """
    known = np.isfinite(values)
    return _ratio(np.where(known, values, 0), known.astype(float), drawn)


def share_of(above: np.ndarray, best: np.ndarray, drawn: Resamples) -> Interval:
    """Ratio of sums over images and areas, with its interval; NaN where the best is nothing.

    Not a mean of ratios at each area: where few channels score no better than none, such a ratio is of noise.

    Args:
        above, best: [N, A].
        drawn: gives the resamples.
    """
    return _ratio(above.sum(1), best.sum(1), drawn)


def share_by_class(hits: np.ndarray, targets: np.ndarray, drawn: Resamples) -> Interval:
    """Mean over classes of their share of hits: images are drawn again, and resamples leave out classes that are not drawn.

    Args:
        hits: bool [N].
        targets: the class of each image, [N].
        drawn: gives the resamples.
    """
    if not len(hits):
        return Interval(math.nan, math.nan, math.nan)
    names, place = np.unique(targets, return_inverse=True)

    def means(rows: np.ndarray) -> np.ndarray:
        slots = (np.arange(len(rows))[:, None] * len(names) + place[rows]).ravel()
        tried = np.bincount(slots, minlength=len(rows) * len(names)).reshape(len(rows), -1)
        right = np.bincount(slots, hits[rows].ravel(), minlength=len(rows) * len(names)).reshape(len(rows), -1)
        return np.asarray((right / np.maximum(tried, 1)).sum(1) / (tried > 0).sum(1))

    low, high = _ends(np.concatenate([means(rows) for rows in drawn()]))
    return Interval(float(means(np.arange(len(hits))[None])[0]), float(low), float(high))


def mean_by_class(values: np.ndarray, classes: Sequence[int] | np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean over classes of their images' means, and its 95 % bootstrap interval: classes are drawn again, and images within each.

    With one class only its images are drawn again. The sets stay as they are: that another half of the images would have given other sets
    is not in the interval, except as classes differ.

    Args:
        values: [N, ...], NaN where there is none; a class without numbers is left out of the mean.
        classes: of each image, from 0, [N].
        resamples: of the bootstrap.
        seed: of the draws.
    """
    place = np.asarray(classes)
    flat = values.reshape(len(values), -1).astype(np.float64)
    known = np.isfinite(flat)
    generator = np.random.default_rng(seed)
    rows = np.unique(place)
    drawn = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=resamples)  # how often each class is
    totals, parts = np.zeros((2, 1 + resamples, flat.shape[1]))
    for row, times in zip(rows, drawn.T, strict=True):
        mine = place == row
        weights = _weights(times, int(mine.sum()), generator)
        weight = weights @ known[mine]
        mean = weights @ np.where(known[mine], flat[mine], 0) / np.where(weight > 0, weight, 1)
        often = np.concatenate([[1], times])[:, None]
        totals += np.where(weight > 0, often * mean, 0)
        parts += np.where(weight > 0, often, 0)
    means = np.where(parts > 0, totals / np.where(parts > 0, parts, 1), np.nan)
    without = np.isnan(means[1:]).all(0)
    low, high = np.where(without, np.nan, _ends(np.where(without, 0, means[1:])))
    shape = values.shape[1:]
    return Interval(means[0].reshape(shape), low.reshape(shape), high.reshape(shape))


def wilson(hits: int, trials: int) -> Interval:
    """A share with Wilson's 95 % score interval, which also holds near 0 and 1; NaN without trials.

    Source: Wilson 1927.

    Examples:
        >>> [round(value, 3) for value in wilson(9, 10)]
        [0.9, 0.596, 0.982]
    """
    if not trials:
        return Interval(math.nan, math.nan, math.nan)
    share, square = hits / trials, SURE**2
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = SURE / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def _ratio(own: np.ndarray, whole: np.ndarray, drawn: Resamples) -> Interval:
    """Ratio of two sums over images; NaN where the second is not above 0."""
    if not whole.sum() > 0:
        return Interval(np.nan, np.nan, np.nan)
    found = np.concatenate([np.stack([own[rows].sum(1), whole[rows].sum(1)]) for rows in drawn()], axis=1)
    found = found[:, found[1] > 0]
    low, high = _ends(found[0] / found[1])
    return Interval(float(own.sum() / whole.sum()), float(low), float(high))


def _ends(means: np.ndarray) -> np.ndarray:
    """Where the interval of figures [R, ...] of R resamples begins and ends, [2, ...]; those that are NaN left out."""
    return np.asarray(np.nanquantile(means, ENDS, axis=0))


def _weights(times: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """How often each image of a class counts: once, then as drawn where the class itself is drawn `times`, [1 + resamples, size]."""
    return np.concatenate([np.ones((1, size)), generator.multinomial(times * size, np.full(size, 1 / size))])
