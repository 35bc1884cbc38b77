"""Every baseline against a slow re-implementation by hooks, loops and enumeration that shares no line with the package."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from chanattr.attribution.asking import make_asking, one_a_row
from chanattr.attribution.question import Asked, make_question
from chanattr.attribution.score import fill_of
from chanattr.evidence import baselines
from chanattr.evidence.baselines import BASELINES, Subject, in_float32
from chanattr.network.tail import bind

K, TARGETS = 6, (2, 0, 1)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, K, 3), nn.Tanh(), nn.Conv2d(K, 5, 3), nn.Softplus(), nn.Flatten(), nn.Linear(5 * 16, 4)).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def subject_of(network: nn.Module, images: Tensor, *, fill: Any = "zero", group: Any = "", keys: tuple[str, ...] = ("a", "b", "c"),
               targets: tuple[int, ...] = TARGETS, layer: str = "1") -> Subject:
    tail = bind(network, images[:2], [layer])[layer]
    stem = tail.stem(images)
    filled = fill_of(fill, stem.activation, tail.layer)
    question = make_question(Asked(group=group), network, tail.layer, filled)
    goal = torch.tensor(targets)
    return Subject(in_float32(make_asking(question, tail, stem, goal, filled, one_a_row(goal))), network, images, None, keys)


def at_layer(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Activation and the target logits' gradient there, in float64."""
    double = nn.Sequential(*network).double()
    activation = double[:2](images.double()).detach().requires_grad_()
    logits = double[2:](activation)
    slopes = torch.autograd.grad(sum(logits[n, t] for n, t in enumerate(TARGETS)), activation)[0]
    network.float()
    return activation.detach(), slopes


def rewards_of(network: nn.Module, image: Tensor, target: int) -> Callable[[tuple[int, ...]], float]:
    """The target logit with only some channels kept."""
    with torch.no_grad():
        activation = network[:2](image[None])

    def reward(kept: tuple[int, ...]) -> float:
        masked = torch.zeros_like(activation)
        masked[:, list(kept)] = activation[:, list(kept)]
        with torch.no_grad():
            return float(network[2:](masked)[0, target])

    return reward


def close(found: Tensor, wanted: Any, tolerance: float = 1e-5) -> None:
    assert np.allclose(found.numpy(), np.asarray(wanted), rtol=tolerance, atol=tolerance * np.abs(np.asarray(wanted)).max())


def test_activation_norm(network: nn.Module, images: Tensor) -> None:
    activation, _ = at_layer(network, images)
    wanted = [[math.sqrt(sum(float(v) ** 2 for v in channel.flatten())) for channel in image] for image in activation]
    close(baselines.activation_norm(subject_of(network, images)).values, wanted)


@pytest.mark.parametrize("fill", [0.0, 0.7])
def test_gradient_x_activation(network: nn.Module, images: Tensor, fill: float) -> None:
    activation, slopes = at_layer(network, images)
    worth = baselines.gradient_x_activation(subject_of(network, images, fill=fill))
    close(worth.values, ((activation - fill) * slopes).sum((2, 3)))
    assert worth.evaluations == 1


def test_integrated_gradients(network: nn.Module, images: Tensor) -> None:
    total = torch.zeros(3, K, dtype=torch.float64)
    double = nn.Sequential(*network).double()
    activation = double[:2](images.double()).detach()
    for step in range(16):
        leaf = (activation * ((step + 0.5) / 16)).requires_grad_()
        slopes = torch.autograd.grad(sum(double[2:](leaf)[n, t] for n, t in enumerate(TARGETS)), leaf)[0]
        total += (slopes * activation).sum((2, 3)) / 16
    network.float()
    worth = baselines.integrated_gradients(subject_of(network, images))
    close(worth.values, total)
    ends = [rewards_of(network, image, target) for image, target in zip(images, TARGETS, strict=True)]
    gained = [reward(tuple(range(K))) - reward(()) for reward in ends]
    assert np.allclose(worth.values.sum(1).numpy(), gained, rtol=2e-3)  # completeness, up to the midpoints' error


def test_grad_cam(network: nn.Module, images: Tensor) -> None:
    _, slopes = at_layer(network, images)
    close(baselines.grad_cam(subject_of(network, images)).values, slopes.mean((2, 3)))


def test_conductance(network: nn.Module, images: Tensor) -> None:
    steps = [at_layer(network, images * (step / 16)) for step in range(17)]
    wanted = sum(((after[0] - before[0]) * before[1]).sum((2, 3)) for before, after in itertools.pairwise(steps))
    close(baselines.conductance(subject_of(network, images)).values, wanted)


def test_ablation(network: nn.Module, images: Tensor) -> None:
    every = tuple(range(K))
    wanted = []
    for image, target in zip(images, TARGETS, strict=True):
        reward = rewards_of(network, image, target)
        wanted.append([reward(every) - reward(tuple(c for c in every if c != channel)) for channel in every])
    close(baselines.ablation(subject_of(network, images)).values, wanted, 1e-4)  # a difference of nearly equal float32 numbers


def shapley_values(reward: Callable[[tuple[int, ...]], float], weight: Callable[[int], float]) -> list[float]:
    """A semivalue by enumeration of all sets; `weight` of a set's size without the channel."""
    found = []
    for channel in range(K):
        others = [c for c in range(K) if c != channel]
        found.append(sum(weight(size) * (reward((*kept, channel)) - reward(kept))
                         for size in range(K) for kept in itertools.combinations(others, size)))
    return found


@pytest.mark.parametrize(("name", "weight"), [
    ("shapley", lambda size: math.factorial(size) * math.factorial(K - 1 - size) / math.factorial(K)),
    ("banzhaf", lambda size: 0.5 ** (K - 1))])
def test_sampled_values_near_enumerated(network: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch, name: str,
                                        weight: Callable[[int], float]) -> None:
    monkeypatch.setattr(baselines, "PERMUTATIONS", 400)
    monkeypatch.setattr(baselines, "SUBSETS", 8000)
    wanted = np.array([shapley_values(rewards_of(network, image, target), weight) for image, target in zip(images, TARGETS, strict=True)])
    values = BASELINES[name](subject_of(network, images)).values.numpy()
    assert np.abs(values - wanted).max() < 0.05 * np.abs(wanted).max()
    if name == "shapley":  # efficiency holds for every order, whatever was drawn
        ends = [rewards_of(network, image, target) for image, target in zip(images, TARGETS, strict=True)]
        assert np.allclose(values.sum(1), [reward(tuple(range(K))) - reward(()) for reward in ends], atol=1e-4)


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_an_image_has_its_values_whatever_runs_beside_it(network: nn.Module, images: Tensor, name: str) -> None:
    together = BASELINES[name](subject_of(network, images)).values
    alone = BASELINES[name](subject_of(network, images[[2, 1]], keys=("c", "b"), targets=(1, 0))).values
    close(alone, together[[2, 1]].numpy(), 1e-4)


@pytest.mark.parametrize("name", sorted(set(BASELINES) - {"random", "shapley", "banzhaf", "activation_norm", "ablation"}))
def test_a_group_is_worth_the_sum_of_its_channels(network: nn.Module, images: Tensor, name: str) -> None:
    single = BASELINES[name](subject_of(network, images)).values
    grouped = BASELINES[name](subject_of(network, images, group=[1, 0, 1, 0, 2, 2])).values
    close(grouped, torch.stack([single[:, [1, 3]].sum(1), single[:, [0, 2]].sum(1), single[:, [4, 5]].sum(1)], 1).numpy())


def test_the_model_is_left_as_it_was(network: nn.Module, images: Tensor) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for baseline in BASELINES.values():
        baseline(subject_of(network, images))
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("method", ["grad_cam", "conductance", "gradient_x_activation"])
def test_a_layer_whose_output_is_changed_in_place_is_no_obstacle(method: str, images: Tensor) -> None:
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, K, 3), nn.ReLU(), nn.Flatten(), nn.Linear(K * 36, 4)]
    apart = nn.Sequential(*layers).eval()
    in_place = nn.Sequential(layers[0], nn.ReLU(inplace=True), *layers[2:]).eval()
    ours, theirs = (BASELINES[method](subject_of(model, images, layer="0")).values for model in (in_place, apart))
    assert torch.allclose(ours, theirs, atol=1e-5)
