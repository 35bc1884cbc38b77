"""How far two explanations agree: overlap of their sets and rank correlation of their orders, against random sets of the same sizes."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from chanattr import tables
from chanattr.errors import InputError
from chanattr.evidence.sets import expected_jaccard
from chanattr.records import ImageAttribution, entries_of


class Comparison(NamedTuple):
    """How far two explanations of the same N images at one layer agree.

    Attributes:
        layer: of both.
        keys: of the images.
        areas: that both searched, i4 [A].
        jaccard: members in common over members of either, of the sets of each area, f8 [N, A].
        chance: what random sets of these sizes have on average, f8 [A].
        smallest_jaccard: the same of the a* sets, f8 [N]; NaN where one of the two has none.
        smallest_chance: f8 [N]; NaN likewise.
        rank: Spearman's correlation of the orders in which channels come in, f8 [N]; 0 by chance, NaN where one has no order.
    """

    layer: str
    keys: tuple[str, ...]
    areas: np.ndarray
    jaccard: np.ndarray
    chance: np.ndarray
    smallest_jaccard: np.ndarray
    smallest_chance: np.ndarray
    rank: np.ndarray

    def __repr__(self) -> str:
        return tables.outline(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: a* and the areas, a row each, with means over images."""
        rank = f"rank correlation {tables.plain(float(mean_known(self.rank)))}"
        return tables.columns(self, (tables.count(len(self.keys), "image"), f"layer {self.layer}", rank), {
            "area": ["a*", *self.areas], "overlap": [float(mean_known(self.smallest_jaccard)), *mean_known(self.jaccard, 0)],
            "by chance": [float(mean_known(self.smallest_chance)), *self.chance]})


def compare(one: ImageAttribution, other: ImageAttribution) -> Comparison:
    """How far two explanations of the same images agree, and how far random sets of the same sizes would.

    They may differ in anything else: seed, search, reward, fill, targets, the network's weights.

    Args:
        one, other: with the same keys in the same order, at the same layer.

    Raises:
        InputError: they are of other images, of another layer, or of other groups of channels.

    Examples:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 5))
        >>> found = ca.per_image(model, torch.rand(2, 3, 8, 8), "1", areas=(2, 4))
        >>> ca.compare(found, found).jaccard.tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    _check(one, other)
    areas, mine, theirs = np.intersect1d(one.areas, other.areas, return_indices=True)
    entries = entries_of(one)
    without = (one.smallest_area < 0) | (other.smallest_area < 0)
    smallest = jaccard(one.smallest_mask, other.smallest_mask)
    chance = chance_of(one.smallest_mask.sum(-1), other.smallest_mask.sum(-1), entries)
    return Comparison(
        layer=one.layer, keys=one.keys, areas=areas.astype(np.int32), jaccard=jaccard(one.masks[:, mine], other.masks[:, theirs]),
        chance=chance_of(areas, areas, entries), smallest_jaccard=np.where(without, np.nan, smallest),
        smallest_chance=np.where(without, np.nan, chance), rank=spearman(_order(one), _order(other)))


def jaccard(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Members in common over members of either, of boolean sets [..., K]: f8 [...]; 1 where both are empty."""
    common, either = (one & other).sum(-1), (one | other).sum(-1)
    return np.where(either == 0, 1.0, common / np.maximum(either, 1))


def chance_of(one: np.ndarray, other: np.ndarray, entries: int) -> np.ndarray:
    """The mean Jaccard index of two random sets of these sizes out of `entries` channels, f8, of the shape of the sizes.

    Examples:
        >>> chance_of(np.array([1, 4]), np.array([1, 4]), 4).tolist()
        [0.25, 1.0]
    """
    return np.asarray(np.vectorize(_chance, otypes=[float])(one, other, entries))


_chance = functools.lru_cache(maxsize=4096)(expected_jaccard)


def above_chance(found: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Overlap on a scale where 0 is chance and 1 is the same set; NaN where chance is 1 (everything, or nothing, is selected)."""
    found, chance = np.broadcast_arrays(np.asarray(found, float), np.asarray(chance, float))
    room = 1 - chance
    return np.where(room > 0, (found - chance) / np.where(room > 0, room, 1), np.nan)


def mean_known(values: np.ndarray, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    """The mean of what is finite along some axes; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis) / np.maximum(count, 1), np.nan)


def entered(masks: np.ndarray) -> np.ndarray:
    """When each channel comes in: the number of the first of increasing areas whose set has it, i8 [N, K] of masks [N, A, K].

    Channels that no set has share the last place, and channels that come in together share theirs: by number, as a ranking has to settle
    it, two orders that know nothing of each other would agree.
    """
    first: np.ndarray = np.where(masks.any(1), masks.argmax(1), masks.shape[1])
    return first


def spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row of two arrays [N, K], f8 [N]; equal values share their mean rank.

    NaN where all values of a row are equal, for then there is no order.
    """
    return correlation(average_ranks(one), average_ranks(other))


def correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row of two arrays [N, D], f8 [N]; NaN where either is constant."""
    first, second = (values - values.mean(1, keepdims=True) for values in (one, other))
    scale = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    return np.where(scale > 0, (first * second).sum(1) / np.where(scale > 0, scale, 1), np.nan)


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 of each row of values [N, K], f8; equal values share the mean of their ranks."""
    ranks = np.empty(values.shape)
    for row, mine in enumerate(values):
        _, place, count = np.unique(mine, return_inverse=True, return_counts=True)
        ranks[row] = (np.cumsum(count) - (count - 1) / 2)[place.reshape(-1)]
    return ranks


def _order(record: ImageAttribution) -> np.ndarray:
    """When each channel of each row comes in; where no areas were searched, with a* or not at all."""
    return entered(record.masks if len(record.areas) else record.smallest_mask[:, None])


def _check(one: ImageAttribution, other: ImageAttribution) -> None:
    """Refuses records that are not of the same images and channels.

    Raises:
        InputError: so.
    """
    for record in (one, other):
        if not isinstance(record, ImageAttribution):
            raise InputError(f"compare got {type(record).__name__}; expected two ImageAttribution; pass what per_image of a model or of a "
                             "run file gives")
    if one.layer != other.layer:
        raise InputError(f"explanations of layers {one.layer!r} and {other.layer!r}; expected one layer, for channels of different layers "
                         "have nothing in common; ask both at the same layer")
    if one.keys != other.keys:
        where = next((row for row, pair in enumerate(zip(one.keys, other.keys, strict=False)) if pair[0] != pair[1]),
                     min(len(one), len(other)))
        raise InputError(f"explanations of {len(one)} and {len(other)} images that differ from row {where} on; expected the same keys in "
                         "the same order; select rows, or pass the same keys= to per_image")
    if not np.array_equal(one.groups, other.groups):
        raise InputError(f"explanations with {entries_of(one)} and {entries_of(other)} groups of channels that are not the same; expected "
                         "one grouping; ask both with the same group=")
