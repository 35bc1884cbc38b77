"""Set algebra on records: which channels classes (or images) share, how much of that is chance, and which classes lie together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from chanattr import tables
from chanattr.arguments import COUNT, STEPS, Range, check_kind, check_name, check_number, listed
from chanattr.errors import InputError
from chanattr.records import ClassAttribution, ImageAttribution, entries_of

SOURCES = ("joint", "mean")


class ChannelSets(NamedTuple):
    """One set a row: of C classes, or of C images.

    Attributes:
        masks: bool [C, K]; all False where `defined` is False.
        defined: whether the row has such a set, bool [C].
        names: of the rows, in words.
    """

    masks: np.ndarray
    defined: np.ndarray
    names: tuple[str, ...]


class Overlap(NamedTuple):
    """How far the sets of C classes (or images) are the same channels.

    Attributes:
        names: of the rows, in words.
        sizes: channels of each set, i8 [C]; -1 where the row has none.
        shared: channels that both have, i8 [C, C].
        jaccard: shared channels over the channels that either has, f8 [C, C]; 1 for two empty sets, NaN where a row has no set.
        expected: the mean of `jaccard` over random sets of the same two sizes, f8 [C, C]; 1 on the diagonal, where the two are one set.
        channels: K, which random sets are drawn from.
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    shared: np.ndarray
    jaccard: np.ndarray
    expected: np.ndarray
    channels: int

    def __repr__(self) -> str:
        return tables.outline(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: a row a set, with the other that is most like it."""
        others = np.where(np.eye(len(self.names), dtype=bool) | np.isnan(self.jaccard), -1, self.jaccard)
        shown = [(self.names[c], size if size >= 0 else "none",
                  *((self.names[n], self.shared[c, n], self.jaccard[c, n], self.expected[c, n]) if others[c, n] >= 0 else ()))
                 for c, (size, n) in enumerate(zip(self.sizes, others.argmax(1), strict=True))]
        heads = ("set", "channels", "most like", "shared", "overlap", "by chance")
        return tables.table("Overlap", (tables.count(len(self.names), "set"), f"of {self.channels:,} channels"), heads, shown)


class Clusters(NamedTuple):
    """Classes joined step by step, the nearest first.

    Attributes:
        merges: f8 [C - 1, 4], as scipy's ``linkage``: the two clusters joined (C + s is what step s made; the smaller number first), their
            distance, and the number of classes in what they make.
        order: the classes from left to right under a dendrogram without crossings, i8 [C].
    """

    merges: np.ndarray
    order: np.ndarray


def sets_of(record: ClassAttribution | ImageAttribution, count: int | None = None, source: str = "joint") -> ChannelSets:
    """The sets of all rows of a record as masks.

    Args:
        record: of classes or of images.
        count: channels a set (groups, where there are); None is each row's a*. One of `areas` for "joint" and for images.
        source: for classes "joint", or "mean" (the `count` channels that most a* sets of the images hold; ties by number).

    Raises:
        InputError: no record, no such source, no sets of this area, or "mean" without a count or for images.
    """
    check_kind("record", record, (ClassAttribution, ImageAttribution), "pass what per_class or per_image gave")
    names = _names(record)
    check_name("source", source, SOURCES)
    if source == "mean":
        return ChannelSets(*_by_mean(record, count), names)
    if count is None:
        return ChannelSets(record.smallest_mask, record.smallest_area >= 0, names)
    where = np.flatnonzero(record.areas == check_number(f"count={count!r}", count, STEPS, "leave it out for a*"))
    if not len(where):
        raise InputError(f"no sets of {count!r} channels here; expected one of {record.areas.tolist()}, or None for a*; ask again with "
                         "this area, or for classes use source='mean'")
    masks = record.joint_masks if isinstance(record, ClassAttribution) else record.masks
    return ChannelSets(masks[:, int(where[0])], np.ones(len(record), bool), names)


def overlap(record: ClassAttribution | ImageAttribution, count: int | None = None, *, source: str = "joint") -> Overlap:
    """The Jaccard index of every two classes' (or images') sets, and what chance alone would give.

    Chance is two sets of these sizes drawn from all K channels independently: the number that they share is hypergeometric, and the index's
    mean over it is summed exactly. Channels that every class needs lift the index above it as much as a real likeness of two classes.

    Args:
        record, count, source: as of `sets_of`.

    Raises:
        InputError: as `sets_of`.

    Examples:
        >>> import chanattr as ca
        >>> likeness = ca.overlap(ca.figures.samples.classes(), 4)
        >>> likeness.shared.tolist(), likeness.jaccard.round(2).tolist()[0]
        ([[4, 3, 2], [3, 4, 3], [2, 3, 4]], [1.0, 0.6, 0.33])
    """
    masks, defined, names = sets_of(record, count, source)
    held = masks.astype(np.float32)
    shared = np.rint(held @ held.T).astype(np.int64)
    sizes = masks.sum(1)
    either = sizes[:, None] + sizes[None] - shared
    jaccard = np.where(either > 0, shared / np.maximum(either, 1), 1.0)
    expected = _expected(sizes, masks.shape[1])
    np.fill_diagonal(expected, 1.0)
    missing = ~(defined[:, None] & defined[None])
    jaccard[missing] = expected[missing] = np.nan
    return Overlap(names, np.where(defined, sizes, -1), shared, jaccard, expected, masks.shape[1])


def expected_jaccard(one: int, other: int, channels: int) -> float:
    """The mean Jaccard index of two random sets of `one` and of `other` among `channels`, exactly (a hypergeometric sum).

    Examples:
        >>> expected_jaccard(1, 1, 4)
        0.25
    """
    return float(_expected(np.array([one, other]), channels)[0, 1])


def shared(record: ClassAttribution | ImageAttribution, targets: Sequence[int], count: int | None = None, *,
           source: str = "joint") -> np.ndarray:
    """The channels that the sets of all of some classes hold, increasing, i8.

    Args:
        record, count, source: as of `sets_of`.
        targets: class numbers, one or more; rows, where the record is of images.

    Raises:
        InputError: as `sets_of`; or a class that is not in the record, or has no such set.

    Examples:
        >>> import chanattr as ca
        >>> classes = ca.figures.samples.classes()
        >>> ca.shared(classes, [0, 1], 4).tolist()
        [1, 2, 3]
    """
    targets = listed("targets", targets, "one class or more", "name those whose common channels are wanted")
    masks, defined, names = sets_of(record, count, source)
    rows = [_row(record, target, defined, names) for target in targets]
    return np.flatnonzero(masks[rows].all(0))


def unique(record: ClassAttribution | ImageAttribution, target: int, count: int | None = None, *, source: str = "joint") -> np.ndarray:
    """The channels of a class's set that no other class's set in the record holds, increasing, i8.

    Args:
        record, count, source: as of `sets_of`.
        target: class number; a row, where the record is of images.

    Raises:
        InputError: as `sets_of`; or a class that is not in the record, or has no such set.

    Examples:
        >>> import chanattr as ca
        >>> classes = ca.figures.samples.classes()
        >>> ca.unique(classes, 2, 4).tolist()
        [5]
    """
    masks, defined, names = sets_of(record, count, source)
    row = _row(record, target, defined, names)
    return np.flatnonzero(masks[row] & ~np.delete(masks, row, axis=0).any(0))


def cluster(likeness: Overlap) -> Clusters:
    """Classes joined by average linkage on the distance 1 - Jaccard: the two nearest clusters at each step, ties to the lower numbers.

    The distance of two clusters is the mean over their pairs of classes. C squared numbers are held; 1,000 classes take seconds.

    Args:
        likeness: what `overlap` gave of C classes (or images).

    Raises:
        InputError: no likeness, or a class has no set, so no distance.

    Examples:
        >>> import chanattr as ca
        >>> classes = ca.figures.samples.classes()
        >>> joined = ca.cluster(ca.overlap(classes, 4))
        >>> joined.order.tolist(), joined.merges.round(2).tolist()[0]
        ([2, 0, 1], [0.0, 1.0, 0.4, 2.0])
    """
    check_kind("likeness", likeness, Overlap, "pass what ca.overlap gives")
    if (missing := np.flatnonzero(likeness.sizes < 0)).size:
        named = ", ".join(repr(likeness.names[row]) for row in missing[:3])
        raise InputError(f"{len(missing)} of {len(likeness.sizes)} rows have no set, first {named}; expected a set a row, for distances "
                         "are between sets; choose the rows that have one, record[rows], before overlap")
    count = len(likeness.sizes)
    distance = 1 - likeness.jaccard
    np.fill_diagonal(distance, np.inf)
    number, size = np.arange(count), np.ones(count)
    merges = np.zeros((max(0, count - 1), 4))
    for step in range(count - 1):
        one, other = divmod(int(distance.argmin()), count)  # among equals the first, so `one` is the lower
        left, right = sorted((int(number[one]), int(number[other])))
        merges[step] = left, right, distance[one, other], size[one] + size[other]
        joined = (size[one] * distance[one] + size[other] * distance[other]) / (size[one] + size[other])
        distance[one], distance[:, one] = joined, joined
        distance[one, one] = distance[other] = distance[:, other] = np.inf
        number[one], size[one] = count + step, size[one] + size[other]
    return Clusters(merges, _leaves(merges, count))


def _leaves(merges: np.ndarray, count: int) -> np.ndarray:
    """The classes from left to right: of every merge first all of its left cluster, then all of its right."""
    held = [[row] for row in range(count)]
    for left, right in merges[:, :2].astype(int):
        held.append(held[left] + held[right])
    return np.array(held[-1] if held else [], dtype=np.int64)


def _expected(sizes: np.ndarray, channels: int) -> np.ndarray:
    """Mean Jaccard index of random sets of every two of some sizes, f8 [C, C]."""
    known, place = np.unique(sizes, return_inverse=True)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, channels + 1)))])
    table = np.triu([_expected_with(int(size), known, channels, logs) for size in known])
    table += np.triu(table, 1).T  # or rounding would tell one order from the other
    return table[place[:, None], place[None]]


def _expected_with(one: int, others: np.ndarray, channels: int, logs: np.ndarray) -> np.ndarray:
    """The mean of i / (one + other - i) over the hypergeometric number i that the two share, for each of `others`."""
    if one == 0:
        return np.where(others == 0, 1.0, 0.0)
    other, i = others[:, None], np.arange(one + 1)[None]
    inside = (i <= other) & (other - i <= channels - one)

    def choose(n: int | np.ndarray, k: np.ndarray) -> np.ndarray:
        ways: np.ndarray = logs[n] - logs[np.clip(k, 0, n)] - logs[n - np.clip(k, 0, n)]
        return ways

    chance = np.where(inside, np.exp(choose(one, i) + choose(channels - one, other - i) - choose(channels, other)), 0.0)
    mean: np.ndarray = (chance * i / (one + other - np.minimum(i, other))).sum(1) / chance.sum(1)
    return mean


def _by_mean(record: ClassAttribution | ImageAttribution, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(record, ClassAttribution):
        raise InputError("source='mean' of a record of images; expected one of classes, whose means it holds; leave source out")
    channels = entries_of(record)
    many = int(check_number(f"count={count!r} with source='mean'", count, Range(1, channels, whole=True), "ask for so many"))
    order = np.argsort(-record.mean_mask, axis=1, kind="stable")[:, :many]
    masks = np.zeros(record.mean_mask.shape, bool)
    np.put_along_axis(masks, order, True, axis=1)
    defined = record.images > 0
    return masks & defined[:, None], defined


def _names(record: ClassAttribution | ImageAttribution) -> tuple[str, ...]:
    if isinstance(record, ImageAttribution):
        return record.keys
    return tuple(name or f"class {target}" for name, target in zip(record.names, record.targets.tolist(), strict=True))


def _row(record: ClassAttribution | ImageAttribution, target: int, defined: np.ndarray, names: Sequence[str]) -> int:
    """The row of a class (or the row itself), where it has a set."""
    rows = record.targets if isinstance(record, ClassAttribution) else np.arange(len(record))
    where = np.flatnonzero(rows == check_number(f"target {target!r}", target, COUNT, "name a class by its number, an image by its row"))
    if not len(where):
        kind = "class" if isinstance(record, ClassAttribution) else "row"
        held = f"{rows[:20].tolist()}{' and more' if len(rows) > 20 else ''}"
        raise InputError(f"{kind} {target!r} is not in this record; expected one of {held}; name one of these")
    row = int(where[0])
    if not defined[row]:
        raise InputError(f"{names[row]!r} has no such set (no set, or no image, reached its level); expected one that has; choose another, "
                         "or a count that was searched")
    return row
