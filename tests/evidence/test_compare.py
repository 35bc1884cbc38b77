"""Agreement of two explanations: overlap and rank correlation against slow references, and against what random sets have."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

import chanattr as ca
from chanattr.evidence.compare import above_chance, average_ranks, chance_of, compare, entered, jaccard, mean_known, spearman
from tests.models import Plain, images, seeded


def found(seed: int = 0, **options: object) -> ca.ImageAttribution:
    return ca.per_image(seeded(Plain, seed), images(3), "mix", **{"areas": (1, 2, 4), "targets": [1, 1, 1]} | options)  # type: ignore[arg-type]


def slow_ranks(values: list[float]) -> list[float]:
    """The mean place of each value among the sorted, counted from 1."""
    return [1 + sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2 for value in values]


def test_overlap_is_that_of_the_members() -> None:
    one, other = found(0), found(1)
    told = compare(one, other)
    assert told.areas.tolist() == [1, 2, 4]
    for row, area in itertools.product(range(3), range(3)):
        mine, theirs = set(np.flatnonzero(one.masks[row, area])), set(np.flatnonzero(other.masks[row, area]))
        assert told.jaccard[row, area] == pytest.approx(len(mine & theirs) / len(mine | theirs))
    for row in range(3):
        mine, theirs = set(one.channels(row)), set(other.channels(row))
        assert told.smallest_jaccard[row] == pytest.approx(len(mine & theirs) / len(mine | theirs))


def test_chance_is_the_mean_over_all_pairs_of_sets() -> None:
    for size, fewer, more in [(5, 2, 3), (6, 1, 1), (6, 0, 2), (4, 4, 4), (5, 0, 0), (6, 4, 5)]:
        pairs = [len(set(a) & set(b)) / len(set(a) | set(b)) if a or b else 1.0
                 for a in itertools.combinations(range(size), fewer) for b in itertools.combinations(range(size), more)]
        assert chance_of(np.array(fewer), np.array(more), size) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_an_explanation_agrees_with_itself() -> None:
    one = found()
    told = compare(one, one)
    assert (told.jaccard == 1).all()
    assert (told.smallest_jaccard == 1).all()
    np.testing.assert_allclose(told.rank, 1)
    np.testing.assert_allclose(above_chance(told.jaccard, told.chance), 1)


def test_rank_correlation_is_pearson_of_mean_ranks() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 4, (5, 12)), rng.integers(0, 6, (5, 12))
    for row in range(5):
        first, second = slow_ranks(one[row].tolist()), slow_ranks(other[row].tolist())
        np.testing.assert_allclose(average_ranks(one[row:row + 1])[0], first)
        assert spearman(one, other)[row] == pytest.approx(np.corrcoef(first, second)[0, 1])


def test_orders_that_know_nothing_of_each_other_are_not_correlated_by_channel_number() -> None:
    rng = np.random.default_rng(1)
    masks = np.zeros((2, 400, 2, 16), bool)
    for which, row, (place, area) in itertools.product(range(2), range(400), enumerate((2, 5))):
        masks[which, row, place, rng.permutation(16)[:area]] = True
    ranks = spearman(entered(masks[0]), entered(masks[1]))
    assert abs(ranks.mean()) < 4 * ranks.std() / 20
    overlap = jaccard(masks[0], masks[1]).mean(0)
    np.testing.assert_allclose(overlap, chance_of(np.array([2, 5]), np.array([2, 5]), 16), atol=0.03)


def test_no_order_and_no_smallest_set_are_nan() -> None:
    one = found()
    none = dataclasses.replace(one, smallest_area=np.array([-1, 2, 0], np.int32),
                               smallest_mask=np.array([[False] * 6, [True, True] + [False] * 4, [False] * 6]))
    told = compare(none, none)
    assert np.isnan(told.smallest_jaccard).tolist() == [True, False, False]
    assert told.smallest_jaccard[2] == 1  # two empty sets are the same
    assert np.isnan(spearman(np.zeros((1, 4)), np.arange(4.0)[None])).all()


def test_areas_that_both_have_are_compared() -> None:
    assert compare(found(), found(areas=(2, 3))).areas.tolist() == [2]
    only = found(areas="smallest")
    told = compare(only, only)
    assert told.jaccard.shape == (3, 0)
    np.testing.assert_allclose(told.rank, 1)


def test_means_of_what_is_known() -> None:
    values = np.array([[1.0, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(mean_known(values, 1), [1.0, np.nan])
    assert float(mean_known(values)) == 1


def test_above_chance_is_unknown_where_everything_is_selected() -> None:
    np.testing.assert_allclose(above_chance(np.array([0.25, 1.0, 1.0]), np.array([0.25, 0.25, 1.0])), [0, 1, np.nan])


def test_other_images_layers_and_groups_are_refused() -> None:
    one = found()
    with pytest.raises(ca.InputError, match=r"3 and 2 images that differ from row 2.*expected the same keys.*select rows"):
        compare(one, one[:2])
    with pytest.raises(ca.InputError, match=r"layers 'mix' and 'conv'.*expected one layer"):
        compare(one, dataclasses.replace(one, layer="conv"))
    with pytest.raises(ca.InputError, match=r"6 and 3 groups of channels.*expected one grouping"):
        compare(one, found(areas=(1, 2), group=2))
