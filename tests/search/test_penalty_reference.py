"""The package's paper search against the plain equation 8, step by step in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chanattr.search.family import Channels
from chanattr.search.objective import Scored
from chanattr.search.penalty import penalty
from chanattr.settings import PenaltySearch
from tests import reference

CHANNELS = 12
AREAS = (1, 4, 9, 12)


class Curved:
    """A smooth reward with pairs that work together and a saturation: tanh(w m) + m Q m, written twice."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.weight = rng.normal(size=(3, CHANNELS))
        pairs = rng.normal(size=(CHANNELS, CHANNELS)) * 0.2
        self.pairs = pairs + pairs.T

    def plain(self, mask: np.ndarray) -> tuple[float, np.ndarray]:
        """The reward and its gradient by hand."""
        bent = np.tanh(self.weight @ mask)
        gradient = self.weight.T @ (1 - bent**2) + 2 * self.pairs @ mask
        return float(bent.sum() + mask @ self.pairs @ mask), gradient

    def score(self, masks: torch.Tensor, rows: torch.Tensor, gradient: bool) -> Scored:
        """The same as the package asks for it, by autograd."""
        with torch.enable_grad():
            leaf = masks.detach().requires_grad_()
            bent = (leaf @ torch.from_numpy(self.weight).T).tanh().sum(1)
            reward = bent + (leaf @ torch.from_numpy(self.pairs) * leaf).sum(1)
            slope = torch.autograd.grad(reward.sum(), leaf)[0] if gradient else leaf.new_empty(0, CHANNELS)
        return Scored(reward.detach(), slope)


@pytest.mark.parametrize("settings", [
    pytest.param({}, id="the protocol: mean, start .5, momentum .9"),
    pytest.param({"reduction": "sum", "momentum": 0.0, "penalty": 40.0}, id="sum as in equation 4, plain gradient"),
    # all ones tie at the start: which channels count as zeros is up to the stable sort
    pytest.param({"start": 1.0, "dampening": 0.9}, id="TorchRay's start and dampening"),
    pytest.param({"steps": 60, "ramp": 0, "penalty": 30.0, "growth": 1.02}, id="growing"),
    # (a larger penalty at this rate is unstable and would blow rounding up)
    pytest.param({"steps": 40, "ramp": 7, "learning_rate": 0.05, "start": 0.0, "penalty": 60.0}, id="another schedule"),
])
@pytest.mark.parametrize("seed", [0, 1])
def test_penalty_is_equation_8_step_by_step(settings, seed):
    problem = Curved(seed)
    seen: list[np.ndarray] = []
    steps: list[int] = []

    def watch(step: int, masks: torch.Tensor) -> None:
        steps.append(step)
        seen.append(masks.clone().numpy())

    found = penalty(problem.score, Channels(CHANNELS), torch.tensor(AREAS), torch.zeros(len(AREAS), dtype=torch.long),
                    PenaltySearch(**settings), watch=watch, dtype=torch.float64)
    assert steps == list(range(1, len(seen) + 1))
    for pair, area in enumerate(AREAS):
        expected = reference.penalty_search(problem.plain, CHANNELS, area, **settings)
        assert len(seen) == len(expected.steps)
        for step, (mine, theirs) in enumerate(zip(seen, expected.steps, strict=True)):
            np.testing.assert_allclose(mine[pair], theirs, atol=1e-9, rtol=0, err_msg=f"area {area}, step {step}")
        assert found.masks[pair].tolist() == expected.mask.tolist()
        assert found.rewards[pair].item() == pytest.approx(problem.plain(expected.mask.astype(float))[0], abs=1e-9)


def test_every_mask_has_exactly_its_area():
    problem = Curved(2)
    areas = torch.arange(1, CHANNELS + 1)
    found = penalty(problem.score, Channels(CHANNELS), areas, torch.zeros_like(areas), PenaltySearch(steps=20),
                    dtype=torch.float64)
    assert found.masks.sum(1).tolist() == areas.tolist()
    assert found.evaluations.tolist() == pytest.approx([20 + 1 / 3] * CHANNELS)
