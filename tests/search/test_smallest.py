"""a* against a plain loop: on the grid, the bracket, and bisected in it, on scores that rise and scores that do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from chanattr.search.exact import Found
from chanattr.search.family import Channels
from chanattr.search.objective import Scored
from chanattr.search.smallest import Smallest, bracket, on_grid, refine
from chanattr.settings import ExactSearch, area_grid
from tests import reference

Make = Callable[[np.random.Generator, int], np.ndarray]
CHANNELS = 40
STEPS = 10


class ByArea:
    """A score that depends on the area alone: row r reaches at the areas of ``reaching[r]``; the order of channels is their number."""

    def __init__(self, reaching: np.ndarray) -> None:
        self.reaching = torch.tensor(reaching)  # bool [N, K + 1]
        self.calls: list[tuple[Tensor, Tensor]] = []
        self.judged: list[Tensor] = []

    def __call__(self, masks: Tensor, rows: Tensor, gradient: bool) -> Scored:
        self.calls.append((masks.clone(), rows.clone()))
        slope = -torch.arange(masks.shape[1], dtype=masks.dtype).expand_as(masks)
        return Scored((slope * masks).sum(1), slope)

    def judge(self, masks: Tensor, rows: Tensor) -> Tensor:
        self.judged.append(masks.sum(1))
        return self.reaching[rows, masks.sum(1)]

    def on_grid(self, areas: Tensor) -> Smallest:
        masks = torch.arange(CHANNELS)[None, None] < areas[None, :, None]
        count = len(self.reaching)
        return on_grid(areas, masks.expand(count, -1, -1), self.reaching[:, areas], self.reaching[:, 0])

    def refine(self, areas: Tensor) -> Smallest:
        return refine(self.on_grid(areas), areas, self, Channels(CHANNELS), ExactSearch(refine_steps=STEPS), self.judge)


def plain_refined(reaching: np.ndarray, areas: list[int]) -> tuple[int, int]:
    """a* and the halvings it takes: between the smallest reaching grid area (or K, where it reaches) and the largest below it (or 0)."""
    if reaching[0]:
        return 0, 0
    high = next((area for area in areas if reaching[area]), CHANNELS if reaching[CHANNELS] else -1)
    low = max([0, *(area for area in areas if area < high)])
    halvings = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaching[middle] else (middle, high)
        halvings += 1
    return high, halvings


def rising(rng: np.random.Generator, count: int) -> np.ndarray:
    """Reaches from one area on, some from 0, some at K alone."""
    return np.arange(CHANNELS + 1) >= rng.integers(0, CHANNELS + 1, (count, 1))


def wild(rng: np.random.Generator, count: int) -> np.ndarray:
    """Reaches here and there: in few areas, in many, at K or not."""
    reaching = rng.uniform(size=(count, CHANNELS + 1)) < rng.uniform(0, 0.6, (count, 1))
    reaching[:, 0] &= rng.uniform(size=count) < 0.2
    return reaching


GRIDS = [list(area_grid(CHANNELS)), [1, 2, 3], [7], [CHANNELS], [1, 20, CHANNELS], list(range(1, CHANNELS + 1)), []]


@pytest.mark.parametrize("make", [rising, wild])
@pytest.mark.parametrize("grid", GRIDS[:-1], ids=str)
def test_the_smallest_on_the_grid(make: Make, grid: list[int]) -> None:
    reaching = make(np.random.default_rng(len(grid)), 30)
    score = ByArea(reaching)
    found = score.on_grid(torch.tensor(grid, dtype=torch.long))
    for row in range(30):
        figures = [float(reaching[row, area]) for area in grid]
        assert found.area[row] == reference.smallest_area(grid, figures, level=1.0, empty=float(reaching[row, 0]))
        assert found.mask[row].sum() == max(0, int(found.area[row]))
    assert found.evaluations.tolist() == [0] * 30
    assert not score.calls


def test_the_mask_on_the_grid_is_that_of_its_area() -> None:
    masks = torch.rand(3, 4, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    reached = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    found = on_grid(torch.tensor([1, 3, 5, 9]), masks, reached, torch.tensor([False, False, False]))
    assert found.area.tolist() == [5, 3, -1]
    assert torch.equal(found.mask, torch.stack([masks[0, 2], masks[1, 1], torch.zeros(9, dtype=torch.bool)]))
    empty = on_grid(torch.tensor([1, 3, 5, 9]), masks, reached, torch.tensor([True, False, True]))
    assert empty.area.tolist() == [0, 3, 0]
    assert not empty.mask[[0, 2]].any()


@pytest.mark.parametrize("make", [rising, wild])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_refined_as_by_a_plain_loop(make: Make, grid: list[int]) -> None:
    reaching = make(np.random.default_rng(10 + len(grid)), 60)
    score = ByArea(reaching)
    areas = torch.tensor(grid, dtype=torch.long)
    if grid:
        found = score.refine(areas)
    else:  # nothing is known but the empty set
        start = torch.where(score.reaching[:, 0], 0, -1)
        none = Smallest(start, torch.zeros(60, CHANNELS, dtype=torch.bool), torch.zeros(60))
        found = refine(none, areas, score, Channels(CHANNELS), ExactSearch(refine_steps=STEPS), score.judge)
    for row in range(60):
        area, halvings = plain_refined(reaching[row], grid)
        assert found.area[row] == area, f"row {row}"
        assert found.mask[row].sum() == max(0, area)
        assert found.evaluations[row] == STEPS * halvings


@pytest.mark.parametrize("make", [rising, wild])
def test_what_is_refined_reaches_and_lies_in_the_bracket(make: Make) -> None:
    grid = list(area_grid(CHANNELS))
    score = ByArea(make(np.random.default_rng(3), 60))
    coarse, fine = score.on_grid(torch.tensor(grid)), score.refine(torch.tensor(grid))
    some = fine.area > 0
    assert score.judge(fine.mask, torch.arange(60))[some].all()
    for before, after in zip(coarse.area.tolist(), fine.area.tolist(), strict=True):
        assert after <= before or before == -1
        assert after > max([0, *(area for area in grid if area < before)]) or after <= 0


def test_on_rising_scores_refinement_finds_the_definition() -> None:
    reaching = rising(np.random.default_rng(4), 60)
    found = ByArea(reaching).refine(torch.tensor([1, 9, 33]))
    assert found.area.tolist() == reaching.argmax(1).tolist()


def test_minus_one_where_not_even_everything_reaches() -> None:
    reaching = np.zeros((2, CHANNELS + 1), bool)
    reaching[1, 5] = True  # not on the grid, and K does not reach: nobody looks there
    found = ByArea(reaching).refine(torch.tensor([1, 9, 33]))
    assert found.area.tolist() == [-1, -1]
    assert not found.mask.any()
    assert found.evaluations.tolist() == [0, 0]


def test_only_everything_reaches() -> None:
    reaching = np.zeros((1, CHANNELS + 1), bool)
    reaching[0, CHANNELS] = True
    found = ByArea(reaching).refine(torch.tensor([1, 9, 33]))
    assert found.area.tolist() == [CHANNELS]
    assert found.mask.all()


def test_a_step_takes_at_most_ten_evaluations_and_starts_from_the_set_above() -> None:
    reaching = np.arange(CHANNELS + 1)[None] >= 13
    score = ByArea(reaching)
    found = ByArea.refine(score, torch.tensor([8, 24]))
    family = Channels(CHANNELS)
    assert family.resolve(ExactSearch()).refine_steps <= 10
    assert len(score.calls) == STEPS * 4 == found.evaluations[0]  # 16, 12, 14, 13
    starts = [int(score.calls[STEPS * step][0].sum()) for step in range(4)]
    middles = [int(score.calls[STEPS * step + 1][0].sum()) for step in range(4)]
    assert starts == [24, 16, 16, 14]
    assert middles == [16, 12, 14, 13]


def test_rows_that_need_no_halving_are_left_alone() -> None:
    reaching = np.stack([np.arange(CHANNELS + 1) >= at for at in (0, 1, 9, 30)])
    score = ByArea(reaching)
    found = score.refine(torch.tensor([1, 8, 9, 20, 40]))
    assert found.area.tolist() == [0, 1, 9, 30]
    assert {row for _, rows in score.calls for row in rows.tolist()} == {3}
    assert found.evaluations.tolist()[:3] == [0, 0, 0]


def test_given_evaluations_are_kept() -> None:
    score = ByArea(np.arange(CHANNELS + 1)[None] >= 13)
    coarse = score.on_grid(torch.tensor([12, 14]))._replace(evaluations=torch.tensor([7.0]))
    found = refine(coarse, torch.tensor([12, 14]), score, Channels(CHANNELS), ExactSearch(refine_steps=3), score.judge)
    assert (found.area.tolist(), found.evaluations.tolist()) == ([13], [10])
    assert coarse.area.tolist() == [14]


class Searched:
    """A search that gives the first channels of each area, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []  # row, area, members of the start (0: none)

    def __call__(self, areas: Tensor, rows: Tensor, start: Tensor | None) -> Found:
        members = [0] * len(rows) if start is None else start.sum(1).int().tolist()
        self.asked += list(zip(rows.tolist(), areas.tolist(), members, strict=True))
        masks = torch.arange(CHANNELS)[None] < areas[:, None]
        return Found(masks, torch.zeros(len(areas)), torch.full(areas.shape, 7.0))


def bracketed(reaching: np.ndarray, grid: list[int]) -> tuple[Smallest, Searched]:
    search, score = Searched(), ByArea(reaching)
    full = torch.ones(len(reaching), CHANNELS, dtype=torch.bool)
    return bracket(torch.tensor(grid), score.reaching[:, 0], full, search, score.judge), search


@pytest.mark.parametrize("make", [rising, wild])
@pytest.mark.parametrize("grid", [g for g in GRIDS if CHANNELS in g], ids=str)
def test_the_bracket_is_bisected_as_by_a_plain_loop(make: Make, grid: list[int]) -> None:
    reaching = make(np.random.default_rng(20 + len(grid)), 60)
    found, search = bracketed(reaching, grid)
    for row in range(60):
        low, high, steps = -1, (0 if reaching[row, 0] else len(grid) - 1), 0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reaching[row, grid[middle]] else (middle, high)
            steps += 1
        best = 0 if reaching[row, 0] else grid[high] if reaching[row, grid[high]] else -1
        assert found.area[row] == best, f"row {row}"
        assert found.mask[row].sum() == max(0, best)
        assert found.evaluations[row] == 7 * steps == 7 * sum(asked[0] == row for asked in search.asked)


def test_a_bracket_starts_from_the_smallest_set_that_reaches() -> None:
    found, search = bracketed(np.arange(CHANNELS + 1)[None] >= 9, list(range(1, CHANNELS + 1)))
    assert found.area.tolist() == [9]
    assert search.asked == [(0, 20, 0), (0, 10, 20), (0, 5, 10), (0, 7, 10), (0, 8, 10), (0, 9, 10)]


def test_on_rising_scores_the_bracket_is_the_smallest_of_the_grid() -> None:
    reaching, grid = rising(np.random.default_rng(5), 60), list(area_grid(CHANNELS))
    whole = ByArea(reaching).on_grid(torch.tensor(grid))
    assert torch.equal(bracketed(reaching, grid)[0].area, whole.area)


def test_refinement_stops_a_step_whose_set_reaches() -> None:
    class Counted(ByArea):
        def __call__(self, masks: Tensor, rows: Tensor, gradient: bool) -> Scored:
            scored = super().__call__(masks, rows, gradient)
            return scored._replace(reward=masks.sum(1))  # the area: its level is 13

    score = Counted(np.arange(CHANNELS + 1)[None] >= 13)
    areas = torch.tensor([8, 24])
    found = refine(score.on_grid(areas), areas, score, Channels(CHANNELS), ExactSearch(refine_steps=STEPS), score.judge,
                   level=torch.tensor([13.0]))
    assert found.area.tolist() == [13]
    # 16, 14 and 13 reach at the first set (a start, a set, a look); 12 is looked at never, being below the level by more than rounding
    assert found.evaluations.item() == pytest.approx(3 * (2 + 1 / 3) + STEPS)
