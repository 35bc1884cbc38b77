"""The sanity check: attributions that ignore the network are flagged, ours is not, and the user's model stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.evidence.compare import above_chance, chance_of, jaccard
from chanattr.evidence.randomised import Sanity
from chanattr.evidence.sanity import cascade_order, label_randomisation, randomisation, reinitialise
from chanattr.network.weights import model_sha256
from chanattr.settings import ExactSearch
from tests.models import Plain, Tokens, Twice, images, seeded

AREAS = (2, 4, 8, 16)
CHANNELS = 32


def wide() -> Plain:
    """A network whose batch norm is not the one that it begins with."""
    model = seeded(lambda: Plain(CHANNELS, 10))
    drawn = torch.rand(2, CHANNELS, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        model.norm.weight.copy_(0.5 + drawn[0])
        model.norm.running_mean.copy_(drawn[1])
    return model


def first_of(order: Tensor) -> Tensor:
    """The sets that a ranking [N, K] gives."""
    place = order.argsort(1)
    return torch.stack([place < area for area in AREAS], 1)


def fixed_channels(_model: nn.Module, x: Tensor, _layer: str, _targets: Tensor) -> Tensor:
    return first_of(torch.arange(CHANNELS).expand(len(x), CHANNELS))


def by_the_input(_model: nn.Module, x: Tensor, _layer: str, _targets: Tensor) -> Tensor:
    """Channels drawn by the image's own numbers: another order for every image, the same for every network."""
    return first_of((x.flatten(1)[:, :CHANNELS] * 1e3).sin().argsort(1))


def by_activation(model: nn.Module, x: Tensor, layer: str, _targets: Tensor) -> Tensor:
    """The largest activations: what follows the layer is ignored."""
    with ca.capture(model, [layer]) as seen, torch.no_grad():
        model(x)
    return first_of(seen[layer].abs().sum((2, 3)).argsort(1, descending=True))


def by_gradient(model: nn.Module, x: Tensor, layer: str, targets: Tensor) -> Tensor:
    mask = torch.ones(len(x), CHANNELS, requires_grad=True)
    with ca.inject(model, layer, mask):
        slope, = torch.autograd.grad(model(x).gather(1, targets[:, None]).sum(), mask)
    return first_of(slope.argsort(1, descending=True))


class Drawn:
    """Other sets at every call."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, _model: nn.Module, x: Tensor, _layer: str, _targets: Tensor) -> Tensor:
        return first_of(torch.rand(len(x), CHANNELS, generator=self.generator).argsort(1))


def sanity(attribute: Any = None, layer: str = "norm", **options: Any) -> Sanity:
    return randomisation(wide(), images(4), layer, attribute=attribute, **({} if attribute else {"areas": AREAS}) | options)


def test_ours_passes() -> None:
    told = sanity()
    assert told.verdict == "passes"
    assert told.passes
    assert told.random == ("", "head", "mix", "norm", "conv")
    assert told.depth.tolist() == [0, 1, 2, 3, 4]
    assert told.after.tolist() == [True, True, True, False, False]
    assert told.similarity[0] == 1
    assert told.similarity[-1] < 0.3
    np.testing.assert_allclose(told.rank[0], 1)
    assert told.jaccard.shape == told.chance.shape == (5, 4, 4)


@pytest.mark.parametrize("attribute", [fixed_channels, by_the_input])
def test_an_attribution_that_ignores_the_network_is_flagged(attribute: Any) -> None:
    told = sanity(attribute)
    assert not told.passes
    assert told.verdict == "broken: ignores the network; with every module random its sets have a similarity of 1.00"
    np.testing.assert_allclose(told.similarity, 1)
    np.testing.assert_allclose(told.rank, 1)


def test_an_attribution_that_ignores_what_follows_is_flagged_though_it_ends_by_chance() -> None:
    told = sanity(by_activation)
    assert told.verdict.startswith("broken: ignores what follows the layer; with all of that random its sets have a similarity of 1.00")
    assert told.similarity[-1] < 0.5


def test_an_attribution_that_looks_at_the_network_passes() -> None:
    assert sanity(by_gradient).passes


def test_sets_that_do_not_repeat_tell_nothing() -> None:
    told = sanity(Drawn())
    assert told.verdict.startswith("broken: asked twice of the same network")
    assert not told.passes


def test_at_the_input_everything_follows() -> None:
    told = randomisation(wide(), images(4), "conv:input", areas=(1, 2))
    assert told.after.tolist() == [True] * 5
    assert told.chance[0, 0].tolist() == [pytest.approx(1 / 3), pytest.approx((1 + 2 / 3 * 0) * 1 / 3 + 2 / 3 * 1 / 3)]


class Region(nn.Module):
    """Sees a picture in sixteen parts; its two classes are the first and the last of them."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(16, 2, bias=False)
        with torch.no_grad():
            self.see.weight.fill_(0.1)
            self.see.bias.zero_()
            self.head.weight.zero_()
            self.head.weight[0, 0] = self.head.weight[1, 15] = 1

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(self.see(x).mean(1), 4).flatten(1))


def middle(_model: nn.Module, x: Tensor, _layer: str, _targets: Tensor) -> np.ndarray:
    """The square in the middle of every picture, whatever the network."""
    mask = np.zeros((len(x), 1, *x.shape[2:]), bool)
    mask[..., 18:30, 18:30] = True
    return mask.reshape(len(x), 1, -1)


def test_masks_on_the_picture_follow_the_network_and_the_class() -> None:
    x = 1 + torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    search = ExactSearch(relaxed_steps=20)
    told = randomisation(Region(), x, ":input", targets=[0, 1], areas=(0.08,), search=search, seed=1)
    assert told.passes, told.verdict
    assert told.random == ("", "head", "see")
    assert told.after.tolist() == [True, True, True]  # at the input all of it follows
    assert told.chance[0, 0, 0] == pytest.approx(0.08 / 1.92, rel=0.01)
    assert label_randomisation(Region(), x, ":input", targets=[0, 1], areas=(0.08,), search=search).passes
    ignorant = randomisation(Region(), x, ":input", attribute=middle, targets=[0, 1])
    assert ignorant.verdict == "broken: ignores the network; with every module random its sets have a similarity of 1.00"


def test_figures_are_those_of_the_copy_made_random() -> None:
    model, x = wide(), images(4)
    with torch.no_grad():
        goal = model(x).argmax(1)
    told = sanity(by_gradient, seed=3)
    network = copy.deepcopy(model)
    reinitialise(network.head, 3000)
    reinitialise(network.mix, 3001)
    first, now = (by_gradient(one, x, "norm", goal).numpy() for one in (model, network))
    np.testing.assert_allclose(told.jaccard[2], jaccard(first, now))
    mean = above_chance(jaccard(first, now), chance_of(np.array(AREAS), np.array(AREAS), CHANNELS)).mean()
    assert told.similarity[2] == pytest.approx(mean)


def test_the_users_model_stays_as_found() -> None:
    model = wide().train()
    before, weights = model_sha256(model), [id(p) for p in model.parameters()]
    randomisation(model, images(4), "mix", areas=(4,), steps=1)
    label_randomisation(model, images(4), "mix", areas=(4,))
    assert model_sha256(model) == before
    assert [id(p) for p in model.parameters()] == weights
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_global_random_numbers_are_not_moved() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    sanity(fixed_channels)
    assert torch.equal(torch.rand(1), expected)


def test_seeds_draw_other_networks_and_the_same_one_the_same() -> None:
    one, same, other = (sanity(by_gradient, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.jaccard, same.jaccard)
    assert (one.jaccard[1:] != other.jaccard[1:]).any()


def test_fewer_depths_keep_the_last_and_the_layers_border() -> None:
    told = sanity(steps=1)
    assert told.depth.tolist() == [0, 2, 4]
    assert told.random == ("", "mix", "conv")
    assert sanity(fixed_channels, steps=100).depth.tolist() == [0, 1, 2, 3, 4]


def test_order_is_that_of_the_calls_from_the_output() -> None:
    assert cascade_order(wide(), images(2)) == ("head", "mix", "norm", "conv")
    twice = cascade_order(seeded(Twice), images(2))
    assert twice[:3] == ("head", "second", "first")
    assert twice[-1] == "never"
    tokens = cascade_order(seeded(Tokens), images(2))
    assert tokens[:3] == ("head", "norm", "block.mix")
    assert set(tokens[3:]) == {"", "embed"}  # the token belongs to the model itself


def test_weights_without_a_reset_are_permuted() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.arange(50.0))

    module = Own()
    reinitialise(module, 0)
    assert not torch.equal(module.weight, torch.arange(50.0))
    assert torch.equal(module.weight.detach().sort().values, torch.arange(50.0))
    linear = seeded(lambda: nn.Linear(4, 4))
    before = linear.weight.detach().clone()
    reinitialise(linear, 0)
    assert not torch.equal(linear.weight.sort().values, before.sort().values)


def test_labels_that_are_ignored_are_flagged_and_ours_pass() -> None:
    model, x, targets = wide(), images(6), [0, 1, 2, 0, 1, 2]
    ours = label_randomisation(model, x, "norm", areas=AREAS, targets=targets)
    assert ours.passes
    assert ours.similarity[0] == 1 > ours.similarity[1]
    told = label_randomisation(model, x, "norm", attribute=by_activation, targets=targets)
    assert told.verdict == "broken: ignores the class; asked about other classes its sets have a similarity of 1.00"


@pytest.mark.parametrize("targets", [[0, 1, 2, 0, 1, 2], [3] * 6, [0, 0, 0, 0, 0, 9]])
def test_every_image_is_asked_about_another_class(targets: list[int]) -> None:
    asked: list[Tensor] = []

    def note(model: nn.Module, x: Tensor, layer: str, goal: Tensor) -> Tensor:
        asked.append(goal)
        return by_activation(model, x, layer, goal)

    label_randomisation(wide(), images(6), "norm", attribute=note, targets=targets)
    assert asked[0].tolist() == asked[1].tolist() == targets
    assert all(mine != other and 0 <= other < 10 for mine, other in zip(targets, asked[2].tolist(), strict=True))


def test_targets_are_what_the_trained_network_predicts() -> None:
    asked: list[Tensor] = []

    def note(model: nn.Module, x: Tensor, layer: str, goal: Tensor) -> Tensor:
        asked.append(goal)
        return by_gradient(model, x, layer, goal)

    sanity(note)
    expected = wide()(images(4)).argmax(1)
    assert all(torch.equal(goal, expected) for goal in asked)


@pytest.mark.parametrize(("given", "message"), [
    (np.zeros((4, 32), bool), r"bool of shape \(4, 32\); expected masks of zeros and ones \[4, A, K\]"),
    (np.full((4, 1, 32), 0.5), "float64 of shape"),
    (np.full((4, 1, 32), np.nan), "float64 of shape"),
    (np.ones((3, 1, 32)), r"expected masks of zeros and ones \[4, A, K\]"),
    (np.ones((4, 1, 32)), "sets of 32 of 32 channels only; expected some that are neither"),
])
def test_wrong_masks_are_told(given: np.ndarray, message: str) -> None:
    with pytest.raises(ca.InputError, match=message):
        sanity(lambda *_: given)


def test_wrong_arguments_are_told() -> None:
    for options, message in ({"steps": 0}, "steps=0; expected a whole number from 1"), ({"limit": 2.0}, "limit=2.0; expected"), (
            {"seed": -1}, "seed=-1; expected"), ({"targets": [0]}, r"targets have shape \(1,\)"):
        with pytest.raises(ca.InputError, match=message):
            sanity(fixed_channels, **options)
    with pytest.raises(ca.LayerError, match="no layer 'nowhere'"):
        sanity(fixed_channels, layer="nowhere")
    with pytest.raises(ca.ModelError, match="has no weights"):
        randomisation(nn.Sequential(nn.Flatten()), images(2), "0", attribute=fixed_channels)
    single = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    with pytest.raises(ca.InputError, match="1 class; expected two or more"):
        label_randomisation(single, images(2), "0", attribute=fixed_channels)


def test_a_model_that_cannot_be_copied_is_told() -> None:
    model = wide()
    model.history = torch.ones(2, requires_grad=True) * 2
    with pytest.raises(ca.ModelError, match=r"Plain cannot be copied .*expected a model that copy.deepcopy takes"):
        randomisation(model, images(2), "mix", areas=(4,))


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    sanity(fixed_channels, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
