"""Certificates against brute force: planted formulas of 12 channels, every set of which is scored by plain loops."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from chanattr.search import certify as subject
from chanattr.search.certify import Verdict, certify, count_out, exchange, irreducible, prune
from chanattr.search.family import Channels
from chanattr.search.groups import Groups
from tests import planted
from tests.planted import Planted

SIZE = 12
SEEDS = (1, 14, 27)  # of networks with 12 channels
FAMILY = Channels(SIZE)


class Formulas:
    """Rows whose score is a planted formula, each with a level; tells what it was asked."""

    def __init__(self, formulas: Sequence[Planted], levels: Sequence[float]) -> None:
        self.formulas, self.levels = formulas, levels
        self.asked: list[tuple[int, tuple[int, ...]]] = []

    def worth(self, row: int, mask: np.ndarray) -> float:
        return float(planted.score(self.formulas[row], mask[None].astype(float))[0])

    def reaches(self, row: int, mask: np.ndarray) -> bool:
        return self.worth(row, mask) >= self.levels[row]

    def __call__(self, masks: Tensor, rows: Tensor) -> Verdict:
        pairs = list(zip(rows.tolist(), masks.numpy(), strict=True))
        self.asked += [(row, tuple(np.flatnonzero(mask))) for row, mask in pairs]
        worth = torch.tensor([self.worth(row, mask) for row, mask in pairs], dtype=torch.float64)
        return Verdict(worth, torch.tensor([self.reaches(row, mask) for row, mask in pairs], dtype=torch.bool))


def problem(share: float = 0.6) -> tuple[Formulas, Tensor]:
    """Rows of every kind, with sets of 3 to 9 channels that reach a share of their own score."""
    rng = np.random.default_rng(0)
    formulas, masks = [], []
    for kind, seed in itertools.product(planted.KINDS.values(), SEEDS):
        formula = kind(seed)
        assert len(formula.mask) == SIZE
        sets = [rng.permutation(SIZE) < area for area in rng.integers(3, 10, 20)]
        formulas.append(formula)
        masks.append(max(sets, key=lambda mask, formula=formula: float(planted.score(formula, mask[None].astype(float))[0])))
    levels = [share * float(planted.score(f, m[None].astype(float))[0]) for f, m in zip(formulas, masks, strict=True)]
    return Formulas(formulas, levels), torch.tensor(np.array(masks))


def without(mask: np.ndarray, *members: int) -> np.ndarray:
    return mask & ~np.isin(np.arange(len(mask)), members)


def plain_pruned(judge: Formulas, row: int, mask: np.ndarray) -> np.ndarray:
    """One member after the other dropped, each time the one without which the score is best."""
    while True:
        left = [without(mask, member) for member in np.flatnonzero(mask)]
        left = [other for other in left if judge.reaches(row, other)]
        if not left:
            return mask
        mask = max(left, key=lambda other: judge.worth(row, other))


def plain_gain(judge: Formulas, row: int, mask: np.ndarray) -> float:
    gains = [0.0]
    for member, other in itertools.product(np.flatnonzero(mask), np.flatnonzero(~mask)):
        changed = without(mask, member)
        changed[other] = True
        if judge.reaches(row, changed):
            gains.append(judge.worth(row, changed) - judge.worth(row, mask))
    return max(gains)


def plain_optimum(judge: Formulas, row: int) -> tuple[int, float]:
    """The fewest channels that reach, and the best score of so many."""
    for size in range(1, SIZE + 1):
        sets = [np.isin(np.arange(SIZE), members) for members in itertools.combinations(range(SIZE), size)]
        scores = [judge.worth(row, mask) for mask in sets if judge.reaches(row, mask)]
        if scores:
            return size, max(scores)
    raise AssertionError("no set reaches")


def spent(judge: Formulas, count: int) -> list[int]:
    return np.bincount([row for row, _ in judge.asked], minlength=count).tolist()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_irreducible_is_every_member_tried(share: float) -> None:
    judge, masks = problem(share)
    found = irreducible(masks, judge).tolist()
    assert found == [not any(judge.reaches(row, without(mask, member)) for member in np.flatnonzero(mask))
                     for row, mask in enumerate(masks.numpy())]
    assert irreducible(prune(masks, judge).masks, judge).all()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_pruned_as_by_a_plain_loop(share: float) -> None:
    judge, masks = problem(share)
    found = prune(masks, judge)
    assert found.judged.tolist() == spent(judge, len(masks))
    for row, mask in enumerate(masks.numpy()):
        assert np.array_equal(found.masks[row].numpy(), plain_pruned(judge, row, mask)), row
    assert (masks & ~found.masks).any()
    assert not (found.masks & ~masks).any()


def test_a_set_that_loses_a_copy_keeps_the_better_one() -> None:
    formula = Planted(linear=np.zeros(4), groups=(planted.Group("maximum", np.arange(3), np.array([0.9, 1.0, 0.95]), 2.0),),
                      activation=np.ones(4), mask=np.array([False, True, False, False]))
    judge = Formulas([formula], [1.7])
    assert prune(torch.tensor([[True, True, True, True]]), judge).masks.tolist() == [[False, True, False, False]]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_all_exchanges_tried(share: float) -> None:
    judge, masks = problem(share)
    found = exchange(masks, judge)
    assert found.judged.tolist() == spent(judge, len(masks))
    assert found.share.tolist() == [1.0] * len(masks)
    assert found.gain.tolist() == pytest.approx([plain_gain(judge, row, mask) for row, mask in enumerate(masks.numpy())], abs=1e-12)
    assert (found.gain > 0).any()
    assert exchange(torch.tensor(np.array([f.mask for f in judge.formulas])), judge).gain.tolist() == pytest.approx([0.0] * len(masks))


def test_a_sample_of_exchanges_is_drawn_by_the_seed_alone() -> None:
    judge, masks = problem()
    whole, some = exchange(masks, judge), exchange(masks, judge, most=10, seed=3)
    total = (masks.sum(1) * (~masks).sum(1)).tolist()
    assert some.share.tolist() == pytest.approx([10 / n for n in total])
    assert some.judged.tolist() == [11] * len(masks)
    assert (some.gain <= whole.gain).all()
    for row in range(len(masks)):
        alone = Formulas(judge.formulas[row:row + 1], judge.levels[row:row + 1])
        assert exchange(masks[row:row + 1], alone, most=10, seed=3).gain.item() == some.gain[row].item()
        assert len(set(alone.asked)) == 11  # the set itself, and ten different others
        other = Formulas(judge.formulas[row:row + 1], judge.levels[row:row + 1])
        exchange(masks[row:row + 1], other, most=10, seed=4)
        assert set(other.asked) != set(alone.asked)


@pytest.mark.parametrize("share", [0.6, 0.95])
def test_the_smallest_there_is_by_counting_out(share: float) -> None:
    judge, masks = problem(share)
    found = count_out(masks, torch.ones(len(masks), dtype=torch.bool), FAMILY, judge)
    assert found.judged.tolist() == spent(judge, len(masks))
    assert found.proved.tolist() == [2] * len(masks)
    for row, mask in enumerate(found.masks.numpy()):
        size, best = plain_optimum(judge, row)
        assert (mask.sum(), judge.worth(row, mask)) == (size, pytest.approx(best))
        assert judge.reaches(row, mask)


def test_what_is_too_many_is_not_proved() -> None:
    judge, masks = problem(0.95)
    smallest = count_out(masks, torch.ones(len(masks), dtype=torch.bool), FAMILY, judge).masks
    size = smallest.sum(1)
    assert {2, 3} < set(size.tolist())
    for most, counted in ((11, 0), (12, 1), (12 + 65, 1), (12 + 66, 2)):
        found = count_out(smallest, torch.ones(len(masks), dtype=torch.bool), FAMILY, judge, most)
        assert torch.equal(found.masks, smallest)
        assert found.proved.tolist() == torch.where(size <= counted, 2, torch.where(size == counted + 1, 1, -1)).tolist()


def test_a_single_member_is_the_fewest_and_none_the_best_uncounted() -> None:
    judge, masks = problem()
    masks[:3] = torch.tensor([[False] * SIZE, [True] + [False] * (SIZE - 1), [True] * 2 + [False] * (SIZE - 2)])
    assert count_out(masks, torch.ones(len(masks), dtype=torch.bool), FAMILY, judge, 0).proved[:3].tolist() == [2, 1, -1]


def test_scores_below_zero_are_counted_out_too() -> None:
    judge = Formulas([Planted(linear=np.array([-3.0, -2.0, -5.0, -9.0]), groups=(), activation=np.ones(4), mask=np.zeros(4, bool))], [-4.0])
    found = count_out(torch.tensor([[True, False, False, False]]), torch.tensor([True]), Channels(4), judge)
    assert (found.masks.tolist(), found.proved.tolist()) == ([[False, True, False, False]], [2])


@pytest.mark.parametrize(("more", "taken"), [(0.5e-5, False), (2e-5, True)])
def test_a_set_as_large_is_taken_only_for_more_than_rounding(more: float, taken: bool) -> None:
    """Below a score of 1, as of scores of 1."""
    judge = Formulas([Planted(linear=np.array([0.1, 0.1 + more, 0.0]), groups=(), activation=np.ones(3), mask=np.zeros(3, bool))], [0.05])
    found = count_out(torch.tensor([[True, False, False]]), torch.tensor([True]), Channels(3), judge)
    assert (found.masks.tolist(), found.proved.tolist()) == ([[not taken, taken, False]], [2])


def test_every_exchange_with_the_one_other_is_tried() -> None:
    judge, masks = problem()
    masks[:] = True
    masks[torch.arange(len(masks)), torch.arange(len(masks)) % SIZE] = False
    found = exchange(masks, judge)
    assert found.judged.tolist() == [SIZE] * len(masks)
    assert found.gain.tolist() == pytest.approx([plain_gain(judge, row, mask) for row, mask in enumerate(masks.numpy())], abs=1e-12)


def test_rows_without_a_set_have_no_certificate() -> None:
    judge, masks = problem()
    masks[:3] = False
    areas = masks.sum(1)
    areas[1:3] = torch.tensor([-1, -2])
    # the empty set reaches; no a*, though by now the empty set would do; not run; what was found does not reach here
    judge.levels = [-100.0, -100.0, 1e9, 1e9, *judge.levels[4:]]
    found = certify(areas, masks, FAMILY, judge)
    assert found.area[:4].tolist() == [0, -1, -2, int(areas[3])]
    assert torch.equal(found.mask[3], torch.zeros(SIZE, dtype=torch.bool)) is False
    assert found.irreducible[:4].tolist() == [1, -1, -1, -1]
    assert found.optimal[:4].tolist() == [2, -1, -1, -1]
    assert found.pruned[:4].tolist() == [0, 0, 0, 0]
    assert found.swap_gain[:1].tolist() == [0]
    assert found.swap_gain[1:4].isnan().all()
    assert found.swap_share[:1].tolist() == [1]
    assert found.swap_share[1:4].isnan().all()
    assert (found.irreducible[4:] == 1).all()


@pytest.mark.parametrize("sets", [0, 100, 4096])
def test_a_certificate_as_a_whole(sets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, masks = problem()
    found = certify(masks.sum(1), masks, FAMILY, judge, sets=sets)
    assert found.judged.tolist() == spent(judge, len(masks))
    assert torch.equal(found.area, found.mask.sum(1))
    assert torch.equal(found.pruned, masks.sum(1) - found.area)
    for row, mask in enumerate(found.mask.numpy()):
        assert judge.reaches(row, mask)
        assert not any(judge.reaches(row, without(mask, member)) for member in np.flatnonzero(mask))
        assert found.swap_gain[row].item() == pytest.approx(plain_gain(judge, row, mask))
        smallest, best = plain_optimum(judge, row)
        assert found.optimal[row] < 1 or mask.sum() == smallest
        assert found.optimal[row] < 2 or judge.worth(row, mask) == pytest.approx(best)
    size = found.area
    if sets == 0:  # nothing was counted out, and a set of one member is the smallest there is
        assert found.optimal.tolist() == torch.where(size == 1, 1, -1).tolist()
    elif sets == 4096:
        assert (found.optimal == 2).all()
    monkeypatch.setattr(subject, "ENTRIES", 7 * SIZE)
    again = certify(masks.sum(1), masks, FAMILY, judge, sets=sets)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def test_groups_are_counted_out_whole() -> None:
    family = Groups.consecutive(3, SIZE)
    judge = Formulas([Planted(linear=np.array([1.0, 2.0, 4.0, 8.0]), groups=(), activation=np.ones(4), mask=np.zeros(4, bool))] * 2,
                     [7.0, 9.0])
    found = certify(torch.tensor([4, 4]), torch.ones(2, 4, dtype=torch.bool), family, judge)
    assert found.mask.tolist() == [[False, False, False, True], [False, False, True, True]]  # 9 is had by 1 + 8 too, for less
    assert (found.pruned.tolist(), found.optimal.tolist(), found.swap_gain.tolist()) == ([3, 2], [2, 2], [0, 0])
