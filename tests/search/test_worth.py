"""What channels are worth, by slopes seen: against plain sums, and what a walk keeps and forgets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from chanattr.search import worth
from chanattr.search.worth import Past, Seen

MEMORY = 0.75
WALK = [([1, 1, 0, 0, 0], [4.0, 3, 2, 1, 0]), ([1, 0, 1, 0, 0], [0.0, 5, -1, 2, 2]), ([0, 0.5, 0.5, 1, 0], [1.0, 1, 3, -2, 2])]
SET = [1, 0, 1, 0, 0]
LIKENESS = [math.exp(-apart / (0.7 * 2**0.5)) for apart in (1, 0, 1.5)]  # of the walk's masks to the set, of two members


def pair(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float32)


def past(walk: list[tuple[list[float], list[float]]], sums: Seen | None = None, memory: float = MEMORY, most: int = 9) -> Past:
    made = Past(sums or Seen.nothing(torch.zeros(1, 5)), memory, most)
    for mask, slopes in walk:
        made.add(pair(mask), pair(slopes))
    return made


def asked(walk: Past, members: list[int]) -> list[float]:
    return walk.worth(torch.tensor([members], dtype=torch.bool))[0].tolist()


def weighed(weights: list[float]) -> list[float]:
    """The worth of five channels from so much of each mask of the walk."""
    found = []
    for channel in range(5):
        mean, trust = 0.0, 0.0
        for inside in (True, False):
            sides = [mask[channel] if inside else 1 - mask[channel] for mask, _ in WALK]
            times = sum(weight * side for weight, side in zip(weights, sides, strict=True))
            slopes = sum(weight * side * slope[channel] for weight, side, (_, slope) in zip(weights, sides, WALK, strict=True))
            mean += slopes / (times + 0.5)
            trust += times / (times + 0.5)
        found.append(mean / trust)
    return found


def test_a_mask_counts_by_its_age_and_by_its_likeness() -> None:
    together = [MEMORY**age + alike for age, alike in zip((2, 1, 0), LIKENESS, strict=True)]
    assert asked(past(WALK), SET) == pytest.approx(weighed(together), rel=1e-5)


def test_likenesses_together_count_as_much_as_ages_can() -> None:
    """With a short memory less than they would."""
    ages = [0.2**age for age in (2, 1, 0)]
    assert sum(LIKENESS) > 1.25
    together = [age + 1.25 / sum(LIKENESS) * alike for age, alike in zip(ages, LIKENESS, strict=True)]
    assert asked(past(WALK, memory=0.2), SET) == pytest.approx(weighed(together), rel=1e-5)


def test_before_the_first_mask_the_sums_alone_tell() -> None:
    sums = Seen.nothing(torch.zeros(1, 5)).add(pair(WALK[0][0]), pair(WALK[0][1]), MEMORY)
    assert asked(past([], sums), SET) == sums.worth()[0].tolist() == pytest.approx([4, 3, 2, 1, 0])
    assert asked(past([]), SET) == [0] * 5


def test_slopes_that_are_not_finite_say_nothing() -> None:
    broken = [WALK[0], (WALK[1][0], [0, torch.nan, 0, 0, 0]), (WALK[1][0], [0, 0, torch.inf, 0, 0])]
    assert asked(past(broken), SET) == pytest.approx(weighed([MEMORY**2 + LIKENESS[0], 0, 0]))


def test_of_a_long_walk_the_last_masks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums, which need no room, remember them all."""
    assert worth.LONGEST == 640
    monkeypatch.setattr(worth, "LONGEST", 2)
    likeness = [0, *LIKENESS[1:]]
    together = [MEMORY**age + alike for age, alike in zip((2, 1, 0), likeness, strict=True)]
    assert asked(past(WALK), SET) == pytest.approx(weighed(together), rel=1e-5)


def test_a_pair_that_is_kept_goes_on_as_if_nothing_had_happened() -> None:
    both = Past(Seen.nothing(torch.zeros(2, 5)), MEMORY, 9)
    for mask, slopes in WALK[:2]:
        both.add(torch.cat([pair(slopes), pair(mask)]).clamp(0, 1), torch.cat([pair(mask), pair(slopes)]))
    both.keep(torch.tensor([False, True]))
    both.add(pair(WALK[2][0]), pair(WALK[2][1]))
    assert asked(both, SET) == asked(past(WALK), SET)


def test_the_callers_half_precision_does_not_reach_it() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        within = asked(past(WALK), SET)
    assert within == asked(past(WALK), SET)
