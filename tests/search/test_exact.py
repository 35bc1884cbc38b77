"""What the default search promises: exact areas, true rewards, counted evaluations, one answer, no row that sees another."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chanattr.search.exact import Enough, Found, exact, softened
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
    settings = Channels(CHANNELS).resolve(ExactSearch(relaxed_steps=12, binary_steps=16))
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
    assert torch.equal(found.masks[1:], whole.masks[1:])  # the others go on as if nothing had happened, step by step
    undisturbed = Rows()
    search_until(undisturbed, [4, 4, 4], [0, 1, 2], enough_at(undisturbed, [torch.inf] * 3)[0])
    for (masks, rows, _), (others, their_rows, _) in zip(score.calls, undisturbed.calls, strict=True):
        assert torch.equal(masks[rows == 1], others[their_rows == 1])
        assert not (rows == 2).any() or torch.equal(masks[rows == 2], others[their_rows == 2])
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
