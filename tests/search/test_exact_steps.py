"""The default search steps as it is written, in plain loops: one area by itself, and a walk over the areas of a row."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from chanattr.search.exact import Enough, Found, exact, visits
from chanattr.search.family import Channels
from chanattr.search.objective import Scored
from chanattr.settings import ExactSearch
from tests import reference
from tests.search.test_exact import CHANNELS, QUICK, Rows, Uncounted, find


@pytest.mark.parametrize("binary", [6, 7])
@pytest.mark.parametrize("border", [0, 1.7, 20])
def test_it_steps_as_written(border: float, binary: int) -> None:
    """The whole path again in plain numpy, one pair."""
    score = Rows()
    area, row = 4, 1
    settings = ExactSearch(relaxed_steps=5, binary_steps=binary, anneal=0.6, relaxed_rate=0.3, momentum=0.7, memory=0.8, exchange=0.5,
                           exploration=0.4, border=border)
    found = find(score, [area], [row], settings, seed=3)
    calls = list(score.calls)
    generator = torch.Generator().manual_seed(3)
    values, speed = np.ones(CHANNELS), np.zeros(CHANNELS)
    seen, past = np.zeros((2, 2, CHANNELS)), Walked([], [])
    members, between, noise, count, rewards = values, False, speed, 0, []
    for step, (masks, rows, _) in enumerate(calls):
        if step == 5:
            values = reference.largest(values.tolist(), area).astype(float)
        np.testing.assert_allclose(masks[0], values, atol=2e-5, err_msg=f"step {step}")
        slope = plain_standardised(score(torch.tensor(values, dtype=torch.float32)[None], rows, True).gradient[0].double().numpy())
        seen = 0.8 * seen + plain_sides(values, slope)
        worth = plain_worth(seen)
        if step >= 5:
            past.masks.append(values)
            past.slopes.append(slope)
            worth = plain_worth(seen + plain_alike(past, members if between else values))
        if step < 5:
            speed = 0.7 * speed + plain_standardised(worth)
            now = area * (CHANNELS / area) ** (1 - min(1.0, (step + 1) / 3))
            values = reference.project_capped_simplex(values + 0.3 * (1 - step / 5) * speed, now)
        elif between:
            between, values = False, plain_exchange(members, plain_standardised(worth) + noise, count)
        elif step < 4 + binary:
            rewards.append(float(score.value(masks, rows)))
            members, share = values, 1 - (step - 4) / binary
            noise = 0.4 * share * torch.randn(CHANNELS, generator=generator).double().numpy()
            count = max(1, round(0.5 * share * area))
            between = border > 0 and step < 2 + binary
            worth = plain_standardised(worth) + noise
            values = plain_softened(members, worth, min(border * count, area)) if between else plain_exchange(members, worth, count)
    assert len(calls) == 5 + binary
    rewards.append(float(score.value(*calls[-1][:2])))
    assert len(rewards) == (binary - 2 if border else binary)
    assert found.rewards[0].item() == pytest.approx(max(rewards))


@pytest.mark.parametrize("memory", [0.8, 0.3])
def test_from_a_start_it_steps_as_written(memory: float) -> None:
    """The whole path again in plain numpy: the slope at the start cuts it, and is remembered as those of the walk are."""
    score, area, row, steps = Rows(), 4, 1, 9
    start = np.isin(np.arange(CHANNELS), (0, 2, 3, 5, 8, 9, 13)).astype(float)
    settings = ExactSearch(relaxed_steps=5, binary_steps=20, memory=memory, exchange=0.9, exploration=0.4, border=1.7)
    find(score, [area], [row], settings, start=torch.tensor(start, dtype=torch.float32)[None], steps=steps, seed=3)
    calls, generator = list(score.calls), torch.Generator().manual_seed(3)
    values, seen, past = start, np.zeros((2, 2, CHANNELS)), Walked([], [])
    members, between, noise, count = values, False, np.zeros(CHANNELS), 0
    for step, (masks, rows, _) in enumerate(calls):
        np.testing.assert_allclose(masks[0], values, atol=2e-5, err_msg=f"step {step}")
        slope = plain_standardised(score(torch.tensor(values, dtype=torch.float32)[None], rows, True).gradient[0].double().numpy())
        seen = memory * seen + plain_sides(values, slope)
        past.masks.append(values)
        past.slopes.append(slope)
        if step == 0:
            values = plain_resized(start, slope, area)
            continue
        worth = plain_worth(seen + plain_alike(past, members if between else values, 1 / (1 - memory)))
        if between:
            between, values = False, plain_exchange(members, plain_standardised(worth) + noise, count)
            continue
        members, share = values, (steps - 1) / 20 * (1 - step / (steps - 1))
        noise = 0.4 * share * torch.randn(CHANNELS, generator=generator).double().numpy()
        count = max(1, round(0.9 * share * area))
        between = step + 3 <= steps - 1
        worth = plain_standardised(worth) + noise
        values = plain_softened(members, worth, min(1.7 * count, area)) if between else plain_exchange(members, worth, count)
    assert len(calls) == steps


@pytest.mark.parametrize("border", [0, 1.7])
@pytest.mark.parametrize("middle", [3, 2])
def test_a_walk_over_the_areas_of_a_row_steps_as_written(middle: int, border: float) -> None:
    """Two sweeps over three areas again in plain numpy: down, and back up from what is best so far; pairs are counted out on the way."""
    score = Rows()
    row = 2
    settings = ExactSearch(relaxed_steps=7, binary_steps=13, anneal=0.5, relaxed_rate=0.3, momentum=0.7, memory=0.8, exchange=0.5,
                           exploration=0.4, sweeps=2, border=border)
    found = find(score, [5, middle, 9], [row] * 3, settings, seed=3)
    calls = iter(list(score.calls))
    generator = torch.Generator().manual_seed(3)
    values, speed, seen, past = np.ones(CHANNELS), np.zeros(CHANNELS), np.zeros((2, 2, CHANNELS)), Walked([], [])
    members, between, noise, count = values, False, speed, 0
    best: dict[int, tuple[float, np.ndarray]] = {}
    last = 0
    turn = [(3, 20, 1, 0)] if middle == 3 else [(2, 10, 1, 2), (2, 10, 1 / 2, 0)]
    for number, (area, steps, left, counted) in enumerate([(9, 6, 1, 0), (5, 6, 1, 0), *turn, (5, 14, 1 / 2, 0), (9, 14, 1 / 2, 0)]):
        relaxed = 2 if number == 0 else 0
        if number:
            values = plain_resized(best[last][1], plain_worth(seen + plain_alike(past, best[last][1])), area)
        if counted:
            worth = plain_worth(seen + plain_alike(past, values))
            worthiest = sorted(range(CHANNELS), key=lambda k: -worth[k])[:8]  # 10 evaluations are 30 forwards, 28 pairs
            pairs = [np.isin(np.arange(CHANNELS), pair).astype(float) for pair in itertools.combinations(worthiest, 2)]
            masks, _, gradient = next(calls)
            assert not gradient
            assert masks.tolist() == [pair.tolist() for pair in pairs]
            rewards = score.value(masks, torch.full((len(pairs),), row)).tolist()
            best[area], last = (max(rewards), pairs[int(np.argmax(rewards))]), area
            continue
        for step in range(steps):
            if number == 0 and step == relaxed:
                values = reference.largest(values.tolist(), area).astype(float)
            masks, rows, _ = next(calls)
            np.testing.assert_allclose(masks[0], values, atol=2e-5, err_msg=f"visit {number}, step {step}")
            scored = score(torch.tensor(values, dtype=torch.float32)[None], rows, True)
            slope = plain_standardised(scored.gradient[0].double().numpy())
            seen = 0.8 * seen + plain_sides(values, slope)
            if step < relaxed:
                worth = plain_worth(seen)
                speed = 0.7 * speed + plain_standardised(worth)
                now = area * (CHANNELS / area) ** (1 - min(1.0, (step + 1) / 1))
                values = reference.project_capped_simplex(values + 0.3 * (1 - step / 2) * speed, now)
                continue
            past.masks.append(values)
            past.slopes.append(slope)
            if between:
                worth = plain_worth(seen + plain_alike(past, members))
                between, values = False, plain_exchange(members, plain_standardised(worth) + noise, count)
                continue
            if area not in best or scored.reward.item() > best[area][0]:
                best[area] = scored.reward.item(), values
            if step == 0 and left < 1:
                values = best[area][1]
            if step < steps - 1:
                members, share = values, left * (1 - (step - relaxed + 1) / (steps - relaxed))
                noise = 0.4 * share * torch.randn(CHANNELS, generator=generator).double().numpy()
                room = min(area, CHANNELS - area)
                count = max(1, round((0.25 if number else 0.5) * share * room))
                between = border > 0 and step < steps - 3
                worth = plain_standardised(plain_worth(seen + plain_alike(past, members))) + noise
                values = plain_softened(members, worth, min(border * count, room)) if between else plain_exchange(members, worth, count)
        last = area
    assert next(calls, None) is None
    for place, area in enumerate((5, middle, 9)):
        assert found.rewards[place].item() == best[area][0]
        assert found.masks[place].tolist() == best[area][1].astype(bool).tolist()
    assert found.evaluations.tolist() == pytest.approx([20, 20 if middle == 3 else 10 + 28 / 3, 20])


def test_rows_of_other_areas_walk_by_themselves() -> None:
    """What is asked of another row, and of how many areas, changes no answer; what is asked of the same row may."""
    asked, owners = [9, 5, 2, 7, 4, 3, 9, 8, 2], [0, 0, 0, 1, 2, 2, 3, 3, 3]
    every = find(Rows(4), asked, owners)
    for chosen in ([0, 1, 2], [3], [4, 5], [6, 7, 8]):
        areas, rows = [asked[i] for i in chosen], [owners[i] for i in chosen]
        alone = find(Rows(4), areas, rows)
        for have, want in zip(alone, every, strict=True):
            assert torch.equal(have, want[chosen])


def test_without_sweeps_every_area_is_by_itself() -> None:
    apart = dataclasses.replace(QUICK, sweeps=0)
    together = find(Rows(), [9, 5, 2], [0, 0, 0], apart)
    for place, area in enumerate((9, 5, 2)):
        for have, want in zip(find(Rows(), [area], [0], apart), together, strict=True):
            assert torch.equal(have[0], want[place])
        assert torch.equal(find(Rows(), [area], [0]).masks[0], together.masks[place])  # a walk over one area is the same


@pytest.mark.parametrize("sweeps", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("areas", [(9,), (9, 2), (90, 40, 20), (64, 63, 40, 9, 9, 8)])
def test_every_area_is_visited_for_its_evaluations(sweeps: int, areas: tuple[int, ...]) -> None:
    settings = dataclasses.replace(Channels(CHANNELS).resolve(ExactSearch()), sweeps=sweeps)
    way = visits(areas, settings)
    wanted = [40] + [min(40, max(2 * max(1, sweeps), round(40 * math.log(a / b, 1.3)))) for a, b in itertools.pairwise(areas)]
    for place, budget in enumerate(wanted):
        assert sum(steps for at, steps, *_ in way if at == place) == budget
    stays = sweeps // 2 if areas == (9, 2) else 0  # where it turns at pairs, these are counted out first
    assert sum(at == after for (at, *_), (after, *_) in itertools.pairwise(way)) == stays
    assert all(abs(at - after) <= 1 for (at, *_), (after, *_) in itertools.pairwise(way))
    assert len(way) == 1 + max(1, sweeps) * (len(areas) - 1) + stays
    few = dataclasses.replace(settings, relaxed_steps=1, binary_steps=1)
    assert [steps for _, steps, *_ in visits(areas, few)] == [2] * len(areas)  # too few to be gone over more than once


def test_the_first_sweep_has_less() -> None:
    """But for the areas whose sets are counted out."""
    settings = Channels(CHANNELS).resolve(ExactSearch())
    assert [(at, steps) for at, steps, *_ in visits((64, 2), settings)] == [(0, 12), (1, 20), (1, 20), (0, 28)]
    three = dataclasses.replace(settings, sweeps=3)
    assert [(at, steps) for at, steps, *_ in visits((64, 16), three)] == [(0, 8), (1, 8 + 16), (0, 16 + 16), (1, 16)]


def test_close_areas_cost_by_how_far_a_walk_goes_not_by_its_stops() -> None:
    settings = Channels(512).resolve(ExactSearch())
    spent = {len(areas): sum(steps for _, steps, *_ in visits(areas, settings))
             for areas in (range(200, 9, -38), range(200, 9, -10), range(200, 9, -5), range(200, 9, -1))}
    assert list(spent) == [6, 20, 39, 191]
    assert spent[20] < 2.5 * spent[6]
    assert spent[39] < 1.3 * spent[20]
    assert spent[191] < 2 * spent[39]


@pytest.mark.parametrize("sweeps", [0, 2])
@pytest.mark.parametrize("enough", [False, True])
def test_pairs_that_are_searched_apart_do_not_see_one_another(sweeps: int, enough: bool) -> None:
    """Area 1 among others too, of more channels than it has evaluations for."""
    def ask(areas: Sequence[int], rows: Sequence[int]) -> Found:
        never = Enough(torch.full((len(rows),), torch.inf), lambda masks, rows: torch.zeros(len(masks), dtype=torch.bool))
        settings = dataclasses.replace(QUICK, sweeps=sweeps)
        return exact(Rows(count=4, channels=60), Uncounted(60), torch.tensor(areas), torch.tensor(rows), settings,
                     enough=never if enough else None)
    areas, rows = [1, 5, 1, 20], [0, 1, 2, 3]
    together = ask(areas, rows)
    for place in range(4):
        for have, want in zip(ask(areas[place:place + 1], rows[place:place + 1]), together, strict=True):
            assert torch.equal(have[0], want[place])


def test_slopes_that_are_not_finite_spoil_no_other_area() -> None:
    class Broken(Rows):
        def __call__(self, masks: Tensor, rows: Tensor, gradient: bool) -> Scored:
            scored = super().__call__(masks, rows, gradient)
            return scored._replace(gradient=torch.where((masks.sum(1) == 5)[:, None], torch.nan, scored.gradient)) if gradient else scored
    whole, broken = find(Rows(), [9, 2], [0, 0]), find(Broken(), [9, 5, 2], [0, 0, 0])
    assert broken.masks.sum(1).tolist() == [9, 5, 2]
    assert torch.equal(broken.masks[[0, 2]], whole.masks)


def plain_resized(members: np.ndarray, worth: np.ndarray, area: int) -> np.ndarray:
    """The worthiest members, then the worthiest others."""
    order = sorted(range(CHANNELS), key=lambda k: (members[k] == 0, -worth[k]))
    return np.isin(np.arange(CHANNELS), order[:area]).astype(float)


def plain_standardised(slope: np.ndarray) -> np.ndarray:
    return (slope - slope.mean()) / slope.std()


class Walked(NamedTuple):
    """The masks of a walk that are not relaxed, and their slopes, standardised."""

    masks: list[np.ndarray]
    slopes: list[np.ndarray]


def plain_sides(mask: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """What one mask tells [2, 2, K]: slopes and times, in and out."""
    return np.array([[mask * slope, (1 - mask) * slope], [mask, 1 - mask]])


def plain_alike(past: Walked, members: np.ndarray, most: float = 5) -> np.ndarray:
    """What is added to the sums of slopes and of times, in and out: each mask as it is like the set, all of them as much as `most`."""
    weights = [math.exp(-np.abs(mask - members).sum() / 2 / (0.7 * math.sqrt(members.sum()))) for mask in past.masks]
    alike = np.zeros((2, 2, CHANNELS))
    for weight, mask, slope in zip(weights, past.masks, past.slopes, strict=True):
        alike += weight * min(1, most / sum(weights)) * plain_sides(mask, slope)
    return alike


def plain_worth(seen: np.ndarray) -> np.ndarray:
    (slopes, times), worth = seen, np.zeros(CHANNELS)
    for k in range(CHANNELS):
        trust = [times[side, k] / (times[side, k] + 0.5) for side in (0, 1)]
        means = [slopes[side, k] / times[side, k] if times[side, k] else 0.0 for side in (0, 1)]
        worth[k] = (trust[0] * means[0] + trust[1] * means[1]) / sum(trust)
    return worth


def plain_softened(members: np.ndarray, worth: np.ndarray, width: float) -> np.ndarray:
    found = members.copy()
    for rank, channel in enumerate(sorted(np.flatnonzero(members == 1), key=lambda k: worth[k])):
        found[channel] = 0.5 + 0.5 * min(1, (rank + 0.5) / width)
    for rank, channel in enumerate(sorted(np.flatnonzero(members == 0), key=lambda k: -worth[k])):
        found[channel] = 0.5 - 0.5 * min(1, (rank + 0.5) / width)
    return found


def plain_exchange(mask: np.ndarray, worth: np.ndarray, count: int) -> np.ndarray:
    """One exchange after another: the least worthy of the old members against the worthiest of the old others."""
    mask = mask.copy()
    members = sorted(np.flatnonzero(mask == 1), key=lambda k: worth[k])
    others = sorted(np.flatnonzero(mask == 0), key=lambda k: -worth[k])
    for leaving, coming in list(zip(members, others, strict=False))[:count]:
        if worth[coming] > worth[leaving]:
            mask[leaving], mask[coming] = 0, 1
    return mask
