"""What the default search promises: exact areas, true rewards, counted evaluations, one answer, no row that sees another."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chanattr.search.exact import Enough, Found, exact, softened, visits
from chanattr.search.family import Channels
from chanattr.search.objective import Scored
from chanattr.search.worth import standardised
from chanattr.settings import ExactSearch
from tests import reference

CHANNELS = 14
QUICK = ExactSearch(relaxed_steps=6, binary_steps=8)


class Rows:
    """Row r scores by its own quadratic, bent; every call is written down."""

    def __init__(self, count: int = 3, seed: int = 0, channels: int = CHANNELS) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.linear = torch.randn(count, channels, generator=generator)
        self.pairs = torch.randn(count, channels, channels, generator=generator) / channels**0.5
        self.calls: list[tuple[Tensor, Tensor, bool]] = []

    def value(self, masks: Tensor, rows: Tensor) -> Tensor:
        return (self.linear[rows] * masks).sum(1) + torch.einsum("mk,mkl,ml->m", masks, self.pairs[rows], masks).tanh()

    def __call__(self, masks: Tensor, rows: Tensor, gradient: bool) -> Scored:
        self.calls.append((masks.clone(), rows.clone(), gradient))
        leaf = masks.detach().requires_grad_()
        reward = self.value(leaf, rows)
        return Scored(reward.detach(), torch.autograd.grad(reward.sum(), leaf)[0] if gradient else leaf.new_empty(0, masks.shape[1]))


class Uncounted(Channels):
    """Channels whose sets are never counted, so that the search itself is seen on a few of them."""

    def every(self, area: int, most: int) -> Tensor:
        return torch.zeros(0, self.size, dtype=torch.bool)


def find(score: Rows, areas: Sequence[int], rows: Sequence[int], settings: ExactSearch = QUICK, start: Tensor | None = None,
         steps: int | None = None, seed: int = 0) -> Found:
    return exact(score, Uncounted(CHANNELS), torch.tensor(areas), torch.tensor(rows), settings, start=start, steps=steps, seed=seed)


def every_pair() -> tuple[list[int], list[int]]:
    return list(range(1, CHANNELS + 1)) * 3, [row for row in range(3) for _ in range(CHANNELS)]


@pytest.mark.parametrize("seed", range(4))
def test_every_mask_has_exactly_its_area_and_the_reward_is_its_score(seed: int) -> None:
    score = Rows(seed=seed)
    areas, rows = every_pair()
    found = find(score, areas, rows)
    assert found.masks.dtype == torch.bool
    assert found.masks.sum(1).tolist() == areas
    torch.testing.assert_close(found.rewards, score.value(found.masks.float(), torch.tensor(rows)))


@pytest.mark.parametrize(("settings", "steps"), [(QUICK, 14), (ExactSearch(), 40), (ExactSearch(relaxed_steps=0), 25)])
def test_evaluations_are_the_gradients_taken(settings: ExactSearch, steps: int) -> None:
    score = Rows()
    found = find(score, [2, 5, 9], [0, 1, 2], settings)
    assert len(score.calls) == steps
    assert all(gradient for _, _, gradient in score.calls)
    assert found.evaluations.tolist() == [steps] * 3


def test_relaxed_masks_fall_from_everything_to_the_area_and_then_are_binary() -> None:
    score = Rows()
    areas = torch.tensor([2, 4, 13])
    find(score, areas.tolist(), [0, 1, 2], ExactSearch(relaxed_steps=8, binary_steps=6, anneal=0.5))
    seen = torch.stack([masks for masks, _, _ in score.calls])
    assert (seen[0] == 1).all()
    assert seen.min() >= 0
    assert seen.max() <= 1
    for step in range(1, 14):
        wanted = areas * (CHANNELS / areas) ** max(0.0, 1 - step / 4) if step < 8 else areas.float()
        torch.testing.assert_close(seen[step].sum(1), wanted, rtol=1e-4, atol=1e-4)
    assert ((seen[[8, 10, 12, 13]] == 0) | (seen[[8, 10, 12, 13]] == 1)).all()
    inside = (seen[[9, 11]] > 0) & (seen[[9, 11]] < 1)  # at every second step the border lies between
    assert inside.sum(2).tolist() == [[4, 8, 2], [4, 8, 2]]


def test_the_best_binary_mask_seen_is_kept() -> None:
    score = Rows()
    found = find(score, [3, 6, 11], [0, 1, 2])
    for pair in range(3):
        seen = [float(score.value(masks[pair:pair + 1], rows[pair:pair + 1])) for masks, rows, _ in score.calls[6:]
                if ((masks[pair] == 0) | (masks[pair] == 1)).all()]
        assert len(seen) == 5
        assert found.rewards[pair].item() == pytest.approx(max(seen))


def test_a_start_is_where_the_first_gradient_is_taken() -> None:
    score = Rows()
    start = torch.zeros(2, CHANNELS)
    start[0, :6], start[1, 3:9] = 1, 1
    found = find(score, [4, 4], [0, 2], start=start, steps=5)
    assert len(score.calls) == 5
    assert found.evaluations.tolist() == [5, 5]
    assert torch.equal(score.calls[0][0], start)
    assert all((masks.sum(1) == 4).all() for masks, _, _ in score.calls[1:])
    assert found.masks.sum(1).tolist() == [4, 4]
    torch.testing.assert_close(found.rewards, score.value(found.masks.float(), torch.tensor([0, 2])))


def test_a_start_of_a_larger_area_is_cut_where_its_gradient_is_least() -> None:
    """On a linear score one step suffices, whatever the channels' numbers."""
    score = Rows()
    score.pairs.zero_()
    start = torch.ones(1, CHANNELS)
    found = find(score, [5], [1], start=start, steps=2)
    assert found.masks[0].tolist() == reference.largest(score.linear[1].tolist(), 5).tolist()


def test_a_cut_keeps_members_of_the_start_alone() -> None:
    """Also where the worthiest channels are no members, and every member's slope is the least."""
    score = Rows()
    score.pairs.zero_()
    order = score.linear[1].argsort()
    start = torch.zeros(1, CHANNELS)
    start[0, order[:6]] = 1
    find(score, [4], [1], start=start, steps=2)
    assert set(score.calls[1][0][0].nonzero()[:, 0].tolist()) == set(order[2:6].tolist())


class Fickle(Rows):
    """Its slopes are drawn anew at each call, so that every exchange that is allowed is made."""

    def __call__(self, masks: Tensor, rows: Tensor, gradient: bool) -> Scored:
        scored = super().__call__(masks, rows, gradient)
        drawn = torch.randn(masks.shape, generator=torch.Generator().manual_seed(len(self.calls)))
        return Scored(scored.reward, drawn - 9 * masks)  # whatever is in the mask wants out


def test_exchanges_are_a_share_of_the_room_that_falls_to_one() -> None:
    score, steps = Fickle(), 9
    settings = ExactSearch(relaxed_steps=2, binary_steps=steps, exchange=0.5, memory=0.0, exploration=0.0, border=0)
    find(score, [7, 3, 12], [0, 1, 2], settings)
    masks = torch.stack([masks for masks, _, _ in score.calls[2:]])
    moved = (masks.diff(dim=0) > 0).sum(2)
    for step in range(steps - 1):
        share = 0.5 * (1 - (step + 1) / steps)
        assert moved[step].tolist() == [max(1, round(share * room)) for room in (7, 3, 2)]


def test_a_start_enters_the_schedule_where_its_steps_are_left() -> None:
    score, steps = Fickle(), 6
    settings = ExactSearch(relaxed_steps=2, binary_steps=9, exchange=0.8, memory=0.0, exploration=0.0, border=0)
    find(score, [7, 3, 12], [0, 1, 2], settings, start=torch.ones(3, CHANNELS), steps=steps)
    masks = torch.stack([masks for masks, _, _ in score.calls[1:]])
    moved = (masks.diff(dim=0) > 0).sum(2)
    for step in range(steps - 2):
        share = 0.8 * 5 / 9 * (1 - (step + 1) / 5)
        assert moved[step].tolist() == [max(1, round(share * room)) for room in (7, 3, 2)]


def test_a_border_falls_from_in_to_out_and_keeps_the_area() -> None:
    masks = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0]], dtype=torch.bool)
    worth = torch.tensor([[4.0, 1.0, 3.0, 2.0, 0.0, 9.0, 8.0, 0.0]])
    assert softened(masks, worth, torch.tensor([2.0])).tolist() == [[1, 0.625, 1, 0.875, 0, 0.375, 0.125, 0]]
    torch.testing.assert_close(softened(masks, worth, torch.tensor([4.0])).sum(1), torch.tensor([4.0]))
    assert softened(masks, worth, torch.tensor([0.5])).tolist() == masks.float().tolist()  # the half of one channel is none


def test_without_steps_given_a_start_takes_the_binary_steps() -> None:
    score = Rows()
    assert find(score, [5], [1], start=torch.ones(1, CHANNELS)).evaluations.tolist() == [QUICK.binary_steps]


def test_the_same_search_gives_the_same_bits() -> None:
    areas, rows = every_pair()
    one, other = find(Rows(), areas, rows), find(Rows(), areas, rows)
    assert torch.equal(one.masks, other.masks)
    assert torch.equal(one.rewards, other.rewards)


@pytest.mark.parametrize("seed", range(3))
def test_pairs_in_another_order_give_their_own_answers(seed: int) -> None:
    areas, rows = every_pair()
    order = np.random.default_rng(seed).permutation(len(areas))
    plain = find(Rows(), areas, rows)
    moved = find(Rows(), [areas[i] for i in order], [rows[i] for i in order])
    assert torch.equal(moved.masks, plain.masks[order])
    torch.testing.assert_close(moved.rewards, plain.rewards[order])


def test_a_pair_alone_is_as_among_others() -> None:
    areas, rows = every_pair()
    plain = find(Rows(), areas, rows)
    for pair in (0, 17, 30):
        assert torch.equal(find(Rows(), areas[pair:pair + 1], rows[pair:pair + 1]).masks[0], plain.masks[pair])


@pytest.mark.parametrize("seed", range(3))
def test_on_a_linear_score_every_area_is_the_top_k(seed: int) -> None:
    score = Rows(seed=seed)
    score.pairs.zero_()
    areas, rows = every_pair()
    for mask, area, row in zip(find(score, areas, rows, ExactSearch()).masks, areas, rows, strict=True):
        assert mask.tolist() == reference.largest(score.linear[row].tolist(), area).tolist()


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_the_scale_of_the_score_changes_nothing(scale: float) -> None:
    score = Rows()
    score.pairs.zero_()
    plain = find(score, [2, 7, 12], [0, 1, 2])
    score.linear *= scale
    assert torch.equal(find(score, [2, 7, 12], [0, 1, 2]).masks, plain.masks)


def test_where_no_gradient_leads_the_answer_is_still_a_set() -> None:
    """All gradients zero: nothing to divide by, no NaN; the tie of all goes to the lower numbers."""
    score = Rows()
    score.pairs.zero_()
    score.linear.zero_()
    found = find(score, [1, 5, CHANNELS], [0, 1, 2])
    assert found.masks.int().tolist() == [[1] * area + [0] * (CHANNELS - area) for area in (1, 5, CHANNELS)]
    assert found.rewards.tolist() == [0, 0, 0]
    assert all(masks.isfinite().all() for masks, _, _ in score.calls)


def test_a_flat_row_leaves_the_others_as_they_are() -> None:
    plain = find(Rows(), [4, 4, 4], [0, 1, 2])
    score = Rows()
    score.linear[1], score.pairs[1] = 0, 0
    found = find(score, [4, 4, 4], [0, 1, 2])
    assert torch.equal(found.masks[[0, 2]], plain.masks[[0, 2]])
    assert found.masks.sum(1).tolist() == [4, 4, 4]


def test_every_field_of_the_settings_matters() -> None:
    score = Rows()
    areas, rows = [9, 5, 2] * 3, [0, 0, 0, 1, 1, 1, 2, 2, 2]
    settings = Channels(CHANNELS).resolve(QUICK)
    changes: dict[str, Any] = {"relaxed_steps": 3, "binary_steps": 2, "anneal": 1.0, "relaxed_rate": 0.05, "momentum": 0.0, "memory": 0.1,
                               "exchange": 0.9, "exploration": 3.0, "sweeps": 1}
    for name, value in changes.items():
        score.calls.clear()
        find(score, areas, rows, settings)
        before = [masks for masks, _, _ in score.calls]
        score.calls.clear()
        find(score, areas, rows, dataclasses.replace(settings, **{name: value}))
        after = [masks for masks, _, _ in score.calls]
        assert len(before) != len(after) or any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), name


def test_the_seed_is_that_of_the_noise() -> None:
    areas, rows = every_pair()
    loud, quiet = dataclasses.replace(QUICK, exploration=3.0), dataclasses.replace(QUICK, exploration=0.0)
    assert not torch.equal(find(Rows(), areas, rows, loud).rewards, find(Rows(), areas, rows, loud, seed=1).rewards)
    assert torch.equal(find(Rows(), areas, rows, quiet).masks, find(Rows(), areas, rows, quiet, seed=1).masks)


def test_slopes_that_are_all_alike_lead_nowhere() -> None:
    """Equal slopes move no mask of a fixed area; divided by their deviation, which is rounding, they would."""
    slopes = torch.full((2, CHANNELS), 0.1)
    slopes[1, 3] += 1
    found = standardised(slopes)
    assert found[0].tolist() == [0] * CHANNELS
    assert found[1].mean().item() == pytest.approx(0, abs=1e-6)
    assert found[1].square().mean().item() == pytest.approx(1, rel=1e-5)


def test_a_penalty_on_a_few_is_seen_where_the_slopes_start_alike() -> None:
    """The first slopes are equal and not zero: once a division by their deviation, which is none, ended in NaN and the lowest numbers."""
    def score(masks: Tensor, rows: Tensor, gradient: bool) -> Scored:
        leaf = masks.detach().requires_grad_()
        reward = leaf.sum(1) - 5 * (1 - leaf[:, 6:]).sum(1).relu()
        return Scored(reward.detach(), torch.autograd.grad(reward.sum(), leaf)[0] if gradient else leaf.new_empty(0, 8))
    found = exact(score, Uncounted(8), torch.tensor([2]), torch.tensor([0]), ExactSearch())
    assert found.masks[0].nonzero()[:, 0].tolist() == [6, 7]
    assert found.rewards.tolist() == [2]


@pytest.mark.parametrize("area", [1, 2, 13, 14])
def test_where_all_sets_can_be_counted_the_best_is_found(area: int) -> None:
    score = Rows()
    found = exact(score, Channels(CHANNELS), torch.tensor([area, area]), torch.tensor([2, 0]), ExactSearch())
    assert not any(gradient for _, _, gradient in score.calls)
    for place, row in enumerate((2, 0)):
        best = reference.brute_force(lambda mask, row=row: float(score.value(torch.tensor(mask)[None].float(), torch.tensor([row]))),
                                     CHANNELS, area)
        assert found.rewards[place].item() == pytest.approx(best.reward, rel=1e-5)
    assert found.evaluations.tolist() == pytest.approx([math.comb(CHANNELS, area) / 3] * 2)


@pytest.mark.parametrize("areas", [(1,), (9, 4, 1)])
def test_of_the_sets_of_one_member_the_worthiest_are_tried_by_forwards(areas: tuple[int, ...]) -> None:
    """Here all 14 are: the best single member is found whatever the slopes at larger sets say."""
    score = Rows()
    found = find(score, areas * 3, [row for row in range(3) for _ in areas])
    singles = torch.eye(CHANNELS)
    for row in range(3):
        place = row * len(areas) + len(areas) - 1
        alone = score.value(singles, torch.full((CHANNELS,), row))
        assert found.masks[place].nonzero()[:, 0].tolist() == [int(alone.argmax())]
        assert found.rewards[place].item() == pytest.approx(alone.max().item())
    last = found.evaluations[len(areas) - 1].item()
    assert last == pytest.approx(14 / 3 + (6 if areas == (1,) else 0))  # alone, the ascent goes before
    assert sum(len(rows) for _, rows, gradient in score.calls if not gradient) == 3 * CHANNELS


def test_no_more_single_members_are_tried_than_there_are_evaluations_for() -> None:
    score = Rows(channels=60)
    found = exact(score, Uncounted(60), torch.tensor([20, 1]), torch.tensor([0, 0]), QUICK)
    assert found.evaluations.tolist() == [14, 14]
    assert sum(len(rows) for _, rows, gradient in score.calls if not gradient) == 3 * 14


def test_counted_and_searched_pairs_come_back_in_their_places() -> None:
    areas = torch.tensor([7, 1, 6, 14])
    found = exact(Rows(), Channels(CHANNELS), areas, torch.tensor([0, 1, 2, 0]), QUICK)
    assert found.masks.sum(1).tolist() == areas.tolist()
    assert found.evaluations.tolist() == pytest.approx([14, 14 / 3, 14, 1 / 3])


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
    slopes, times = np.zeros((2, CHANNELS)), np.zeros((2, CHANNELS))
    members, between, noise, count, rewards = values, False, speed, 0, []
    for step, (masks, rows, _) in enumerate(calls):
        if step == 5:
            values = reference.largest(values.tolist(), area).astype(float)
        np.testing.assert_allclose(masks[0], values, atol=2e-5, err_msg=f"step {step}")
        slope = plain_standardised(score(torch.tensor(values, dtype=torch.float32)[None], rows, True).gradient[0].double().numpy())
        for side, weight in enumerate((values, 1 - values)):
            slopes[side], times[side] = 0.8 * slopes[side] + weight * slope, 0.8 * times[side] + weight
        worth = plain_worth(slopes, times)
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


@pytest.mark.parametrize("border", [0, 1.7])
@pytest.mark.parametrize("middle", [3, 2])
def test_a_walk_over_the_areas_of_a_row_steps_as_written(middle: int, border: float) -> None:
    """Two sweeps over three areas again in plain numpy: down, and back up from what is best so far; pairs are counted out on the way."""
    score = Rows()
    row = 2
    settings = ExactSearch(relaxed_steps=4, binary_steps=8, anneal=0.5, relaxed_rate=0.3, momentum=0.7, memory=0.8, exchange=0.5,
                           exploration=0.4, sweeps=2, border=border)
    found = find(score, [5, middle, 9], [row] * 3, settings, seed=3)
    calls = iter(list(score.calls))
    generator = torch.Generator().manual_seed(3)
    values, speed, seen = np.ones(CHANNELS), np.zeros(CHANNELS), np.zeros((2, 2, CHANNELS))
    members, between, noise, count = values, False, speed, 0
    best: dict[int, tuple[float, np.ndarray]] = {}
    last = 0
    turn = [(3, 12, 1, 0)] if middle == 3 else [(2, 6, 1, 2), (2, 6, 1 / 2, 0)]
    for number, (area, steps, left, counted) in enumerate([(9, 6, 1, 0), (5, 6, 1, 0), *turn, (5, 6, 1 / 2, 0), (9, 6, 1 / 2, 0)]):
        relaxed = 2 if number == 0 else 0
        if number:
            values = plain_resized(best[last][1], plain_worth(*seen), area)
        if counted:
            worthiest = sorted(range(CHANNELS), key=lambda k: -plain_worth(*seen)[k])[:6]  # 6 evaluations are 18 forwards, 15 pairs
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
            for side, weight in enumerate((values, 1 - values)):
                seen[:, side] = 0.8 * seen[:, side] + np.stack([weight * slope, weight])
            worth = plain_worth(*seen)
            if step < relaxed:
                speed = 0.7 * speed + plain_standardised(worth)
                now = area * (CHANNELS / area) ** (1 - min(1.0, (step + 1) / 1))
                values = reference.project_capped_simplex(values + 0.3 * (1 - step / 2) * speed, now)
                continue
            if between:
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
                worth = plain_standardised(worth) + noise
                values = plain_softened(members, worth, min(border * count, room)) if between else plain_exchange(members, worth, count)
        last = area
    assert next(calls, None) is None
    for place, area in enumerate((5, middle, 9)):
        assert found.rewards[place].item() == best[area][0]
        assert found.masks[place].tolist() == best[area][1].astype(bool).tolist()
    assert found.evaluations.tolist() == [12, 12 if middle == 3 else 6 + 15 / 3, 12]


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


def plain_worth(slopes: np.ndarray, times: np.ndarray) -> np.ndarray:
    worth = np.zeros(CHANNELS)
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


def enough_at(score: Rows, level: Sequence[float], near: float | None = None) -> tuple[Enough, list[Tensor]]:
    """Enough at or above a level of each row; and the masks that were looked at."""
    levels, looked = torch.tensor(level), []

    def reaches(masks: Tensor, rows: Tensor) -> Tensor:
        looked.append(masks)
        return score.value(masks.float(), rows) >= levels[rows]

    return Enough(levels if near is None else torch.full_like(levels, near), reaches), looked


def search_until(score: Rows, areas: Sequence[int], rows: Sequence[int], enough: Enough) -> Found:
    until = enough._replace(level=enough.level[rows])
    return exact(score, Uncounted(CHANNELS), torch.tensor(areas), torch.tensor(rows), QUICK, enough=until)


@pytest.mark.parametrize("near", [None, -torch.inf])
def test_a_pair_that_has_enough_is_not_searched_on(near: float | None) -> None:
    whole = find(Rows(), [4, 4, 4], [0, 1, 2])
    score = Rows()
    levels = [float(whole.rewards[0]) - 1.5, float(whole.rewards[1]) + 1, float(whole.rewards[2])]
    enough, looked = enough_at(score, levels, near)
    found = search_until(score, [4, 4, 4], [0, 1, 2], enough)
    assert found.rewards[0] >= levels[0]
    assert found.rewards[2] == whole.rewards[2]
    assert torch.equal(found.masks[1:], whole.masks[1:])  # the others go on as if nothing had happened
    gradients = [(len(rows), rows.tolist()) for _, rows, _ in score.calls]
    assert found.evaluations[0] < whole.evaluations[0]
    assert found.evaluations[1] >= whole.evaluations[1]  # with the looks
    assert sum(0 in rows for _, rows in gradients) == int(found.evaluations[0])
    looks = sum(map(len, looked))
    assert found.evaluations.sum().item() == pytest.approx(sum(count for count, _ in gradients) + looks / 3, rel=1e-5)


def test_only_rewards_near_the_level_are_looked_at() -> None:
    score = Rows()
    enough, looked = enough_at(score, [1e6, 1e6, 1e6])
    found = search_until(score, [4, 4, 4], [0, 1, 2], enough)
    assert not looked
    assert found.evaluations.tolist() == [14, 14, 14]


def test_what_the_definition_does_not_confirm_is_searched_on() -> None:
    """A search in half precision may take a set for good enough that is not."""
    score, whole = Rows(), find(Rows(), [4], [1])
    nothing = Enough(torch.full((3,), -torch.inf), lambda masks, rows: torch.zeros(len(masks), dtype=torch.bool))
    found = search_until(score, [4], [1], nothing)
    assert torch.equal(found.masks, whole.masks)
    assert len(score.calls) == 14


def test_of_several_starts_the_best_is_kept_and_all_are_paid_for() -> None:
    score, family, areas, rows = Rows(channels=80), Uncounted(80), torch.tensor([9, 15, 30]), torch.arange(3)
    settings = ExactSearch(relaxed_steps=1, binary_steps=6, exploration=1.0, exchange=0.3)
    apart = [exact(score, family, areas, rows, settings, seed=seed) for seed in (4, 5, 6)]
    both = exact(score, family, areas, rows, dataclasses.replace(settings, starts=3), seed=4)
    rewards = torch.stack([one.rewards for one in apart])
    assert rewards.std(0).max() > 0  # the starts differ
    assert torch.equal(both.rewards, rewards.amax(0))
    assert torch.allclose(score.value(both.masks.float(), rows), both.rewards, atol=1e-6)
    assert torch.equal(both.evaluations, sum(one.evaluations for one in apart))
