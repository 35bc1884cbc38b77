"""What the default search promises: exact areas, true rewards, counted evaluations, one answer, no row that sees another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chanattr.search.exact import Found, exact
from chanattr.search.family import Channels
from chanattr.search.objective import Scored
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


def find(score: Rows, areas: Sequence[int], rows: Sequence[int], settings: ExactSearch = QUICK, start: Tensor | None = None,
         steps: int | None = None) -> Found:
    return exact(score, Channels(CHANNELS), torch.tensor(areas), torch.tensor(rows), settings, start=start, steps=steps)


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


@pytest.mark.parametrize(("settings", "steps"), [(QUICK, 14), (ExactSearch(), 40), (ExactSearch(relaxed_steps=0), 30)])
def test_evaluations_are_the_gradients_taken(settings: ExactSearch, steps: int) -> None:
    score = Rows()
    found = find(score, [2, 5, 9], [0, 1, 2], settings)
    assert len(score.calls) == steps
    assert all(gradient for _, _, gradient in score.calls)
    assert found.evaluations.tolist() == [steps] * 3


def test_relaxed_masks_fall_from_everything_to_the_area_and_then_are_binary() -> None:
    score = Rows()
    areas = torch.tensor([1, 4, 13])
    find(score, areas.tolist(), [0, 1, 2], ExactSearch(relaxed_steps=8, binary_steps=5, anneal=0.5))
    seen = torch.stack([masks for masks, _, _ in score.calls])
    assert (seen[0] == 1).all()
    assert seen.min() >= 0
    assert seen.max() <= 1
    for step in range(1, 13):
        wanted = areas * (CHANNELS / areas) ** max(0.0, 1 - step / 4) if step < 8 else areas.float()
        torch.testing.assert_close(seen[step].sum(1), wanted, rtol=1e-4, atol=1e-4)
    assert ((seen[8:] == 0) | (seen[8:] == 1)).all()


def test_the_best_binary_mask_seen_is_kept() -> None:
    score = Rows()
    found = find(score, [3, 6, 11], [0, 1, 2])
    for pair in range(3):
        seen = [float(score.value(masks[pair:pair + 1], rows[pair:pair + 1])) for masks, rows, _ in score.calls[6:]]
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
    areas, rows = every_pair()
    settings = Channels(CHANNELS).resolve(QUICK)
    changes: dict[str, Any] = {"relaxed_steps": 3, "binary_steps": 2, "anneal": 1.0, "relaxed_rate": 0.05, "binary_rate": 1.0,
                               "momentum": 0.0}
    for name, value in changes.items():
        score.calls.clear()
        find(score, areas, rows, settings)
        before = [masks for masks, _, _ in score.calls]
        score.calls.clear()
        find(score, areas, rows, dataclasses.replace(settings, **{name: value}))
        after = [masks for masks, _, _ in score.calls]
        assert len(before) != len(after) or any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), name


def test_it_steps_as_written() -> None:
    """The whole path again in plain numpy, one pair."""
    score = Rows()
    area, row, settings = 4, 1, ExactSearch(relaxed_steps=5, binary_steps=4, anneal=0.6, relaxed_rate=0.3, binary_rate=0.1, momentum=0.9)
    find(score, [area], [row], settings)
    values, speed = np.ones(CHANNELS), np.zeros(CHANNELS)
    for step, (masks, rows, _) in enumerate(list(score.calls)):
        binary = step >= 5
        point = reference.largest(values.tolist(), area).astype(float) if binary else values
        np.testing.assert_allclose(masks[0], point, atol=2e-5, err_msg=f"step {step}")
        slope = score(torch.tensor(point, dtype=torch.float32)[None], rows, True).gradient[0].double().numpy()
        if step == 5:
            speed = np.zeros(CHANNELS)
        speed = 0.9 * speed + slope / slope.std()
        share, rate = ((step - 5) / 4, 0.1) if binary else (step / 5, 0.3)
        now = area if binary else area * (CHANNELS / area) ** (1 - min(1.0, (step + 1) / 3))
        values = reference.project_capped_simplex(values + rate * (1 - share) * speed, now)
