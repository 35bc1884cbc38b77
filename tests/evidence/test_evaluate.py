"""Answers held against baselines: the same figures by hand, ours at least as good, planted answers, bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.evidence.baselines import Subject, Worth
from chanattr.evidence.evaluation import Evaluation, join
from chanattr.evidence.intervals import mean_of, share_of


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 4)).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def logits_with(network: nn.Module, image: Tensor, kept: np.ndarray) -> Tensor:
    with torch.no_grad():
        activation = network[:2](image[None])
        return network[2:](activation * torch.from_numpy(kept).float()[None, :, None, None])[0]


def backwards(subject: Subject) -> Worth:
    """Ranks the highest channel first: sets and figures can be written down."""
    return Worth(torch.arange(10.0).repeat(len(subject.keys), 1), 0.0)


def test_figures_of_a_ranking_by_hand(network: nn.Module, images: Tensor) -> None:
    found = ca.per_image(network, images, "1", areas=(2, 5, 10))
    told = ca.evaluate(network, images, found, methods={"backwards": backwards})
    assert told.methods == ("exact", "backwards")
    for row, (image, target) in enumerate(zip(images, found.targets, strict=True)):
        sets = {k: np.arange(10) >= 10 - k for k in range(11)}
        wanted = [float(logits_with(network, image, sets[k])[target]) for k in (2, 5, 10)]
        assert np.allclose(told.scores[1, row], wanted, rtol=1e-4, atol=1e-5)
        kept = [int(logits_with(network, image, sets[k]).argmax()) == target for k in (2, 5, 10)]
        assert told.top1[1, row].tolist() == kept
        smallest, lost = int(told.smallest_area[1, row]), int(told.deletion_area[1, row])
        level = found.original[row] - 1e-5 * max(1, abs(found.original[row]))
        assert smallest == 0 or float(logits_with(network, image, sets[smallest])[target]) >= level - 1e-5
        named = [int(logits_with(network, image, ~sets[k]).argmax()) == target for k in range(11)]
        assert all(named) if lost == -1 else not named[lost]
    assert np.allclose(told.scores[0], found.scores, rtol=1e-5, atol=1e-6)
    assert np.array_equal(told.smallest_area[0], found.smallest_area)


def test_the_search_is_nowhere_below_the_baselines(network: nn.Module, images: Tensor) -> None:
    found = ca.per_image(network, images, "1")
    told = ca.evaluate(network, images, found)
    assert (told.scores[0] >= told.scores.max(0) - 1e-4).all()
    lines = told.table()
    assert lines[0].share.value == pytest.approx(1, abs=1e-4)
    assert all(line.behind.value >= -1e-4 and line.share.low <= line.share.value <= line.share.high for line in lines)
    assert all(line.ahead == 0 for line in lines)
    by_name = {line.method: line for line in lines}
    assert by_name["random"].share.value < by_name["gradient_x_activation"].share.value


def test_at_a_linear_head_gradient_x_activation_is_the_answer() -> None:
    torch.manual_seed(2)
    network = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)).eval()
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    found = ca.per_image(network, images, "1")
    told = ca.evaluate(network, images, found, methods=["gradient_x_activation", "integrated_gradients", "ablation"])
    for other in told.scores[1:]:
        assert np.allclose(told.scores[0], other, rtol=1e-5, atol=1e-6)
    assert np.array_equal(told.smallest_area[0], told.smallest_area[1])


@pytest.mark.parametrize("game", ["delete", "dual"])
@pytest.mark.parametrize("group", ["", 2])
def test_other_games_and_groups(network: nn.Module, images: Tensor, game: str, group: str | int) -> None:
    found = ca.per_image(network, images, "1", game=game, group=group)
    told = ca.evaluate(network, images, found, methods=["random", "gradient_x_activation"])
    assert np.allclose(told.scores[0], found.scores, rtol=1e-5, atol=1e-5)
    lines = told.table()
    assert lines[0].behind.value == 0
    assert lines[0].share.value >= lines[1].share.value


@pytest.mark.parametrize("fill", ["mean", "spatial_mean", 0.3])
def test_the_fill_is_that_of_the_answers(network: nn.Module, images: Tensor, fill: str | float) -> None:
    found = ca.per_image(network, images, "1", fill=fill, areas=(3, 6))
    told = ca.evaluate(network, images, found, methods=["random"])
    assert np.allclose(told.scores[0], found.scores, rtol=1e-5, atol=1e-5)
    assert np.allclose(told.empty, found.empty, rtol=1e-5, atol=1e-5)


def test_answers_without_areas_have_a_smallest_area_alone(network: nn.Module, images: Tensor) -> None:
    found = ca.per_image(network, images, "1", areas="smallest")
    told = ca.evaluate(network, images, found, methods=["random"])
    assert told.scores.shape == (2, 5, 0)
    line = told.table()[1]
    assert np.isnan(line.share.value)
    assert np.array_equal(told.evaluations[0], found.refine_evaluations)
    assert line.more.value >= 0


def test_parts_of_a_run_joined_are_the_whole(network: nn.Module, images: Tensor) -> None:
    found = ca.per_image(network, images, "1", areas=(3, 6))
    whole = ca.evaluate(network, images, found)
    halves = join([ca.evaluate(network, images[:2], found[:2]), ca.evaluate(network, images[2:], found[2:])])
    assert halves.keys == whole.keys
    for name in ("scores", "original", "empty"):
        assert np.allclose(getattr(halves, name), getattr(whole, name), rtol=1e-5, atol=1e-5)
    assert np.array_equal(halves.smallest_area, whole.smallest_area)


def test_intervals_against_a_slow_bootstrap() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=12)
    values[3] = np.nan
    drawn = generator.integers(0, 12, (500, 12))
    means = [np.nanmean(values[rows]) for rows in drawn]
    found = mean_of(values, lambda: iter([drawn[:200], drawn[200:]]))
    assert found == pytest.approx((np.nanmean(values), np.percentile(means, 2.5), np.percentile(means, 97.5)))
    above, best = generator.random((12, 3)), 1 + generator.random((12, 3))
    shares = [above[rows].sum() / best[rows].sum() for rows in drawn]
    wanted = (above.sum() / best.sum(), np.percentile(shares, 2.5), np.percentile(shares, 97.5))
    assert share_of(above, best, lambda: iter([drawn])) == pytest.approx(wanted)
    assert np.isnan(share_of(above, -best, lambda: iter([drawn])).value)


class Saturated(nn.Module):
    """The target stays the top class when everything is dropped, and is lost when channel 0 alone is: the others speak against it."""

    def forward(self, images: Tensor) -> Tensor:
        channels = nn.functional.pad(images.mean((2, 3)).abs(), (0, 5))[:, :8] + 1
        return self.after(channels[:, :, None, None])

    def __init__(self) -> None:
        super().__init__()
        weights = torch.zeros(2, 8)
        weights[0] = torch.tensor([3.0] + [-0.2] * 7)
        self.relu, self.flat, self.last = nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
        self.last.weight.data, self.last.bias.data = weights, torch.tensor([1.0, 0.9])

    def after(self, channels: Tensor) -> Tensor:
        return self.last(self.flat(self.relu(channels)))


def test_a_class_that_survives_the_loss_of_everything(images: Tensor) -> None:
    network = Saturated().eval()
    found = ca.per_image(network, images, "relu", areas=(2, 4))
    told = ca.evaluate(network, images, found, methods=["gradient_x_activation", "random"])
    assert told.deletion_area[0].tolist() == [1] * 5
    assert told.deletion_area[1].tolist() == [1] * 5
    assert (told.deletion_area[2] != 0).all()


class Together(nn.Module):
    """Channel 0 carries both classes, and most of the target's logit; channel 1 is what tells them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.flat, self.last = nn.ReLU(), nn.Flatten(), nn.Linear(3, 2, bias=False)
        self.last.weight.data = torch.tensor([[5.0, 1.0, 0.0], [5.5, -1.0, 0.1]])

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.flat(self.relu(torch.ones_like(images).mean((2, 3), keepdim=True))))


def test_what_loses_the_class_is_the_margin_not_the_logit(images: Tensor) -> None:
    network = Together().eval()
    found = ca.per_image(network, images, "relu", areas=(1, 2))
    told = ca.evaluate(network, images, found, methods=["gradient_x_activation"])
    assert told.deletion_area.tolist() == [[1] * 5, [2] * 5]  # dropping 0 and 1, by the logit's order, leaves the class only then


def test_in_inference_mode(network: nn.Module, images: Tensor) -> None:
    with torch.inference_mode():
        found = ca.per_image(network, images, "1", areas=(3,))
        told = ca.evaluate(network, images, found)
    assert np.isfinite(told.scores).all()


def test_a_peer_that_is_not_there_is_left_out(network: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch,
                                              caplog: pytest.LogCaptureFixture) -> None:
    def missing(subject: Subject) -> Worth:
        raise ca.InputError("not installed")

    monkeypatch.setattr("chanattr.evidence.evaluate.PEERS", {"there": backwards, "missing": missing})
    found = ca.per_image(network, images, "1", areas=(3,))
    assert ca.evaluate(network, images, found, methods=["random"], peers=True).methods == ("exact", "random", "there")
    assert "missing is left out at 1: not installed" in caplog.text


def other_model(network: nn.Module) -> nn.Module:
    torch.manual_seed(8)
    return nn.Sequential(nn.Conv2d(3, 10, 3), *list(network)[1:]).eval()


def test_bad_input(network: nn.Module, images: Tensor) -> None:
    found = ca.per_image(network, images, "1", areas=(3,))
    with pytest.raises(ca.InputError, match="method 'gradcam'; expected some of random"):
        ca.evaluate(network, images, found, methods=["gradcam"])
    with pytest.raises(ca.InputError, match="'random' twice"):
        ca.evaluate(network, images, found, methods=["random", "random"])
    with pytest.raises(ca.InputError, match="5 rows for 4 images"):
        ca.evaluate(network, images[:4], found)
    with pytest.raises(ca.InputError, match="found has model_sha256"):
        ca.evaluate(other_model(network), images, found)
    with pytest.raises(ca.InputError, match="another image in row"):
        ca.evaluate(network, -9 * images, found, methods=["random"])
    with pytest.raises(ca.InputError, match=r"gave values of shape \(5, 3\)"):
        ca.evaluate(network, images, found, methods={"short": lambda subject: Worth(torch.zeros(5, 3), 0.0)})
    with pytest.raises(ca.InputError, match="not finite"):
        ca.evaluate(network, images, found, methods={"wild": lambda subject: Worth(torch.full((5, 10), torch.nan), 0.0)})
    with pytest.raises(ca.InputError, match="no evaluations to join"):
        join([])
    with pytest.raises(ca.InputError, match="baseline <lambda> gave Tensor; expected a Worth"):
        ca.evaluate(network, images, found, methods={"bare": lambda subject: torch.zeros(5, 10)})  # type: ignore[dict-item,return-value]
    with pytest.raises(ca.InputError, match="a method is named 'exact'"):
        ca.evaluate(network, images, found, methods={"exact": backwards})


def minus(logits: Tensor, targets: Tensor) -> Tensor:
    """A reward of the user's own."""
    return logits.gather(1, targets[:, None])[:, 0] - logits.mean(1)


def test_an_own_reward_has_to_come_along(network: nn.Module, images: Tensor) -> None:
    found = ca.per_image(network, images, "1", areas=(3,), reward=minus)
    with pytest.raises(ca.InputError, match=r"found was asked with reward=.*:minus; expected this function"):
        ca.evaluate(network, images, found)
    told = ca.evaluate(network, images, found, methods=["random"], reward=minus)
    assert np.allclose(told.scores[0], found.scores, rtol=1e-5, atol=1e-5)


def test_a_run_evaluated_from_its_file(network: nn.Module, images: Tensor, tmp_path: Path) -> None:
    batches = [(images[:3], [0, 1, 2], ["a", "b", "c"]), (images[3:], [0, 1], ["d", "e"])]
    with ca.open_run(tmp_path / "run.h5", "a") as run:
        ca.attribute(run, network, batches, layers=["1", "3"], areas={"1": (3, 6), "3": (2, 4)}, progress=False)
    with ca.open_run(tmp_path / "run.h5") as run:
        told = ca.evaluate_run(run, network, batches, methods=["random", "grad_cam"], progress=False)
        assert list(told) == ["1", "3"]
        alone = ca.evaluate(network, images, run.per_image("3"), methods=["random", "grad_cam"])
        some = ca.evaluate_run(run, network, batches, layers=["3"], methods=["random"], limit=2, progress=False)["3"]
        with pytest.raises(ca.InputError, match="limit=0; expected a whole number from 1"):
            ca.evaluate_run(run, network, batches, limit=0, progress=False)
        with pytest.raises(ca.InputError, match="picture 'a' has other bytes than in the run"):
            ca.evaluate_run(run, network, [(images + 1, [0] * 5, list("abcde"))], progress=False)
        with pytest.raises(ca.InputError, match="none of the pictures has answers under the label 'exact'"):
            ca.evaluate_run(run, network, [(images, [0] * 5, list("vwxyz"))], progress=False)
    assert isinstance(told["3"], Evaluation)
    assert told["3"].keys == ("a", "b", "c", "d", "e")
    assert np.allclose(told["3"].scores, alone.scores, rtol=1e-5, atol=1e-5)
    assert some.keys == ("a", "b")
