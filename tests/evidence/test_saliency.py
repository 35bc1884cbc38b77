"""Heat maps of networks with known answers: closed forms of linear networks, a network that sees one region alone, slow loops."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.attribution.perturbation import perturbation_of, pyramid_of
from chanattr.evidence import saliency as room
from chanattr.evidence.pointing import pointing_game
from chanattr.evidence.saliency import POINTING, SALIENCY, Heat, grid_layer, pointing_of, rise_masks, saliency
from chanattr.images.boxes import ImageBoxes
from tests.models import Branching, ChannelsLast, Dataclass, Plain, Tokens, Twice, images, seeded

REGION = (slice(20, 32), slice(4, 16))  # rows and columns that `Region` sees, of 40 x 36


class Linear(nn.Module):
    """Two classes, each a weighted sum of the values of a picture."""

    def __init__(self, height: int = 12, width: int = 10) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weights = nn.Parameter(torch.randn(2, 3, height, width, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", x, self.weights) + torch.tensor([0.0, 0.5])


class Quadratic(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1 * super().forward(x) ** 2


class Region(nn.Module):
    """A small network on one region of the picture; what lies elsewhere is cut off before anything looks at it.

    Class 0 is texture: the more a pixel differs from its neighbours, the higher its score. A region that is grey or blurred is class 1.
    """

    def __init__(self) -> None:
        super().__init__()
        apart = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]).expand(1, 3, 3, 3) / 2
        self.body = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.Softplus())
        self.body[0].weight = nn.Parameter(torch.cat([apart, -apart]))
        window = torch.zeros(40, 36)
        window[REGION] = 1
        self.register_buffer("window", window)

    def forward(self, x: Tensor) -> Tensor:
        texture = (self.body(x * self.window).sum(1) * self.window).sum((1, 2)) / self.window.sum()
        return torch.stack([2 * texture, torch.full_like(texture, 5)], 1)


SEEN = ImageBoxes(boxes=np.array([[4, 20, 16, 32]], np.float32), classes=np.zeros(1, np.int32), difficult=np.zeros(1, bool), size=(36, 40))


def region() -> tuple[nn.Module, Tensor]:
    """The network, and two images of noise, which it takes for class 0."""
    return Region(), torch.randn(2, 3, 40, 36, generator=torch.Generator().manual_seed(1))


# Closed forms


def test_gradients_of_a_linear_network_are_its_weights() -> None:
    model, x = Linear(), torch.randn(2, 3, 12, 10)
    weights = model.weights.detach()[[1, 0]]
    found = saliency(model, x, "gradient", targets=[1, 0])
    torch.testing.assert_close(found.values, weights.abs().amax(1))
    torch.testing.assert_close(saliency(model, x, "gradient_x_input", targets=[1, 0]).values, (weights * x).sum(1))
    assert found.evaluations == 1


def test_blur_integrated_gradients_of_a_linear_network_are_weights_times_what_the_blur_takes() -> None:
    model, x = Linear(), torch.randn(2, 3, 12, 10)
    found = saliency(model, x, "blur_ig", targets=[1, 0], smooth=0)
    blurred = pyramid_of(x)[0]
    torch.testing.assert_close(found.values, (model.weights.detach()[[1, 0]] * (x - blurred)).sum(1))
    assert found.evaluations == 8


def blurs(images: Tensor, levels: int) -> Tensor:
    return pyramid_of(images, perturbation_of("blur", levels=levels))


@pytest.mark.parametrize("levels", [2, 5])
def test_blur_integrated_gradients_add_up_to_the_gain(levels: int) -> None:
    model, x = Quadratic(), torch.randn(3, 3, 12, 10)
    found = saliency(model, x, "blur_ig", targets=[0, 1, 1], smooth=0, pyramid=functools.partial(blurs, levels=levels))
    with torch.no_grad():
        gain = (model(x) - model(blurs(x, levels)[0]))[torch.arange(3), torch.tensor([0, 1, 1])]
    torch.testing.assert_close(found.values.sum((1, 2)), gain, rtol=1e-4, atol=1e-3)


def test_the_gain_of_a_real_network_is_nearly_met_and_better_so_with_more_levels() -> None:
    model, x = region()
    with torch.no_grad():
        gain = (model(x) - model(pyramid_of(x)[0]))[:, 0]
    missed = []
    for levels in (8, 29):
        found = saliency(model, x, "blur_ig", smooth=0, pyramid=functools.partial(blurs, levels=levels))
        missed.append(float(((found.values.sum((1, 2)) - gain) / gain).abs().max()))
    assert missed[1] < missed[0] < 0.2
    assert missed[1] < 0.02


def test_grad_cam_of_pooled_channels_is_the_head_times_the_activation() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                         nn.Linear(6, 4)))
    x = images(3, 16)
    with torch.no_grad():
        activation, head = model[:2](x), model[4].weight[[0, 3, 2]]
        wanted = (head[:, :, None, None] * activation / 64).sum(1, keepdim=True).relu()
    scaled = nn.functional.interpolate(wanted, (16, 16), mode="bilinear", align_corners=False)[:, 0]
    for layer in (None, "1"):
        found = saliency(model, x, "grad_cam", targets=[0, 3, 2], layer=layer)
        torch.testing.assert_close(found.values, scaled)


def test_occlusion_of_a_linear_network_is_what_lies_under_the_squares() -> None:
    model, x = Linear(14, 28), torch.randn(1, 3, 14, 28)
    worth = (model.weights.detach()[0] * x[0]).sum(0).numpy()
    total, count = np.zeros((14, 28)), np.zeros((14, 28))
    for top in range(-1, 14):  # squares of 2 x 4, 1 and 2 apart
        for left in range(-2, 28, 2):
            rows, columns = slice(max(top, 0), top + 2), slice(max(left, 0), left + 4)
            total[rows, columns] += worth[rows, columns].sum()
            count[rows, columns] += 1
    assert (count == 4).all()
    found = saliency(model, x, "occlusion", targets=[0])
    np.testing.assert_allclose(found.values[0].numpy(), total / count, atol=1e-4)
    assert found.evaluations == pytest.approx((1 + 15 * 15) / 3)


def test_the_centre_is_the_middle() -> None:
    for height, width in ((9, 9), (9, 15), (10, 6)):
        heat = saliency(Linear(height, width), torch.zeros(1, 3, height, width), "centre").values[0]
        y, x = divmod(int(heat.argmax()), width)
        assert abs(y + 0.5 - height / 2) <= 0.5
        assert abs(x + 0.5 - width / 2) <= 0.5


# RISE


def test_rise_masks_are_scaled_up_and_shifted_as_the_paper_says() -> None:
    size, cells = (11, 17), 3
    masks = torch.cat(list(rise_masks(4, size, cells=cells, share=0.4, seed=5))).numpy()
    generator = torch.Generator().manual_seed(5)
    grids = (torch.rand(4, cells, cells, generator=generator) < 0.4).float().numpy()
    cell = [math.ceil(side / cells) for side in size]
    shifts = [torch.randint(one, (4,), generator=generator).tolist() for one in cell]

    def at(grid: np.ndarray, place: float, axis: int) -> tuple[int, int, float]:
        """The two cells beside a pixel of the scaled mask, and the weight of the second."""
        scale = cells / ((cells + 1) * cell[axis])
        where = max((place + 0.5) * scale - 0.5, 0)
        low = int(where)
        return low, min(low + 1, cells - 1), where - low

    for number, grid in enumerate(grids):
        for y in range(size[0]):
            for x in range(size[1]):
                up, down, v = at(grid, y + shifts[0][number], 0)
                left, right, h = at(grid, x + shifts[1][number], 1)
                above = (1 - h) * grid[up, left] + h * grid[up, right]
                below = (1 - h) * grid[down, left] + h * grid[down, right]
                assert masks[number, y, x] == pytest.approx((1 - v) * above + v * below, abs=1e-5)


def test_rise_masks_do_not_depend_on_their_parts_and_keep_half() -> None:
    whole = torch.cat(list(rise_masks(50, (20, 30), at_once=50)))
    assert torch.equal(torch.cat(list(rise_masks(50, (20, 30), at_once=7))), whole)
    assert not torch.equal(torch.cat(list(rise_masks(50, (20, 30), seed=1))), whole)
    many = torch.cat(list(rise_masks(2000, (14, 14))))
    assert float(many.min()) >= 0
    assert float(many.max()) <= 1
    assert float((many.mean(0) - 0.5).abs().max()) < 0.06  # five sigmas of a mean of 2,000 halves


def test_rise_is_the_sum_of_masks_by_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "RISE_MASKS", 30)
    model, x = region()
    found = saliency(model, x, "rise", targets=[1, 0], seed=4, batch_size=8)
    wanted = np.zeros((2, 40, 36))
    for mask in torch.cat(list(rise_masks(30, (40, 36), seed=4))):
        for row, target in enumerate((1, 0)):
            with torch.no_grad():
                wanted[row] += float(model(x[row:row + 1] * mask).softmax(1)[0, target]) * mask.numpy() / 30 / 0.5
    np.testing.assert_allclose(found.values.numpy(), wanted, rtol=1e-4)
    assert found.evaluations == 10


# A network that sees one region alone


@pytest.mark.parametrize("method", sorted(set(SALIENCY) - {"centre"}))
def test_the_region_that_the_network_sees_is_found(method: str) -> None:
    model, x = region()
    found = saliency(model, x, method, layer="body" if method == "grad_cam" else None)
    played = pointing_game(found.values.numpy(), ["a", "b"], [0, 0], annotations={"a": SEEN, "b": SEEN}, tolerance=1, **pointing_of(method))
    assert played.hit.tolist() == [1, 1]
    assert (played.energy > 1.5 * played.share).all() or method == "rise"  # whose offset is energy everywhere
    if method in ("gradient", "gradient_x_input"):
        assert (played.energy == 1).all()


def test_the_centre_misses_what_is_not_there() -> None:
    model, x = region()
    played = pointing_game(saliency(model, x, "centre").values.numpy(), ["a", "b"], [0, 0], annotations={"a": SEEN, "b": SEEN},
                           tolerance=1, smooth=0)
    assert played.hit.tolist() == [0, 0]


def test_gradients_alone_are_smoothed() -> None:
    assert set(POINTING) < set(SALIENCY)
    assert [method for method in SALIENCY if pointing_of(method)["smooth"]] == ["gradient", "gradient_x_input"]


# What every method keeps to


@pytest.mark.parametrize("method", sorted(SALIENCY))
def test_an_image_has_its_map_whatever_runs_beside_it(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "RISE_MASKS", 20)
    model, x = seeded(Plain), images(3, 16)
    whole = saliency(model, x, method, targets=[0, 1, 2])
    assert whole.values.shape == (3, 16, 16)
    assert whole.values.dtype == torch.float32
    alone = saliency(model, x[[2, 0]], method, targets=[2, 0], batch_size=1)
    torch.testing.assert_close(alone.values, whole.values[[2, 0]], rtol=1e-4, atol=1e-5)
    assert alone.evaluations == whole.evaluations


@pytest.mark.parametrize("method", sorted(SALIENCY))
def test_the_model_is_left_as_it_was_and_modes_do_not_matter(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "RISE_MASKS", 10)
    model, x = seeded(Plain), images(2, 16)
    plain = saliency(model, x, method)
    model.train()
    before = copy.deepcopy(model.state_dict())
    with torch.inference_mode():
        inside = saliency(model, x.clone(), method)
    torch.testing.assert_close(inside.values.clone(), plain.values)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_targets_that_are_left_out_are_what_is_predicted() -> None:
    model, x = Linear(), torch.randn(8, 3, 12, 10)
    targets = model(x).argmax(1)
    assert len(targets.unique()) == 2
    told = saliency(model, x, "gradient", targets=targets.tolist())
    assert torch.equal(saliency(model, x, "gradient", batch_size=3).values, told.values)


def test_rewards_and_scores_are_asked_for() -> None:
    model, x = Linear(), torch.randn(1, 3, 12, 10)
    contrast = saliency(model, x, "gradient", targets=[0], reward="contrastive")
    weights = model.weights.detach()
    torch.testing.assert_close(contrast.values[0], (weights[0] - weights[1]).abs().amax(0))
    doubled = saliency(model, x, "gradient", targets=[0], reward=lambda logits, targets: 2 * logits.gather(1, targets[:, None])[:, 0])
    torch.testing.assert_close(doubled.values[0], 2 * weights[0].abs().amax(0))
    assert saliency(seeded(Dataclass), images(2), "grad_cam", score=lambda output: output.logits).values.shape == (2, 8, 8)
    assert saliency(seeded(Branching), images(2), "blur_ig").values.shape == (2, 8, 8)


def test_progress_counts_images() -> None:
    told: list[tuple[int, int]] = []
    saliency(Linear(), torch.randn(5, 3, 12, 10), "gradient", batch_size=2, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_smoothing_is_asked_for() -> None:
    x = torch.randn(1, 3, 12, 10)
    raw = saliency(Linear(), x, "gradient").values
    smooth = saliency(Linear(), x, "gradient", smooth=0.1).values
    assert smooth.std() < 0.8 * raw.std()
    assert torch.equal(saliency(Linear(), x, "blur_ig").values, saliency(Linear(), x, "blur_ig", smooth=0.09).values)


# Grad-CAM's layer


@pytest.mark.parametrize(("build", "name", "grid"), [(Plain, "last", (6, 6)), (ChannelsLast, "wide", (4, 4)), (Twice, "act@2", (4, 4)),
                                                     (Dataclass, "body", (6, 6))])
def test_the_last_layer_with_a_grid_is_taken(build: Any, name: str, grid: tuple[int, int]) -> None:
    layer = grid_layer(seeded(build), images(2), None)
    assert (layer.name, layer.grid) == (name, grid)


def test_channels_last_layers_give_the_same_map() -> None:
    model, x = seeded(ChannelsLast), images(2)
    found = saliency(model, x, "grad_cam", targets=[1, 2])
    with torch.no_grad():
        wide = model.wide(model.norm(model.embed(x).permute(0, 2, 3, 1)))
    head = model.head.weight.detach()[[1, 2]]
    slopes = head[:, None, None] * (wide > 0) / 16
    wanted = (slopes.mean((1, 2), keepdim=True) * wide).sum(3).relu()
    torch.testing.assert_close(found.values, nn.functional.interpolate(wanted[:, None], (8, 8), mode="bilinear", align_corners=False)[:, 0])


def test_a_layer_that_works_in_place_may_follow() -> None:
    found = saliency(seeded(Plain), images(2), "grad_cam", layer="mix")
    assert found.values.shape == (2, 8, 8)


@pytest.mark.parametrize(("model", "layer", "message"), [
    (seeded(Tokens), None, "after 'embed', the last layer with a grid, the model works on tokens"),
    (seeded(Tokens), "block", "which has no grid of two sides"),
    (seeded(Plain), "nowhere", "no layer 'nowhere' in Plain"),
    (seeded(Twice), "aside", "does not reach the logits"),
    (Linear(8, 8), None, "no layer of the model gives a grid"),
])
def test_layers_that_grad_cam_cannot_take(model: nn.Module, layer: str | None, message: str) -> None:
    with pytest.raises(ca.LayerError, match=message):
        saliency(model, images(2), "grad_cam", layer=layer)


# Bad arguments


@pytest.mark.parametrize(("change", "message"), [
    ({"method": "lime"}, "method='lime'; expected one of centre, gradient"),
    ({"images": torch.rand(3, 12, 10)}, r"images are \(3, 12, 10\) torch.float32; expected a floating tensor \[N, C, H, W\]"),
    ({"images": torch.zeros(2, 3, 12, 10, dtype=torch.int64)}, "expected a floating tensor"),
    ({"targets": [0]}, "targets have shape"),
    ({"targets": [0, 2]}, "target 2 for a model with 2 classes"),
    ({"smooth": 2.0}, "smooth=2.0; expected"),
    ({"batch_size": -1}, "batch_size=-1; expected"),
    ({"batch_size": 0}, "batch_size=0; expected a whole number from 1"),
    ({"reward": "loss"}, "reward='loss'; expected one of"),
    ({"method": "blur_ig", "pyramid": lambda given: given[None]}, r"the pyramid has shape \(1, 2, 3, 12, 10\)"),
])
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    given = {"images": torch.rand(2, 3, 12, 10), "method": "gradient"} | change
    with pytest.raises(ca.InputError, match=message):
        saliency(Linear(), given.pop("images"), given.pop("method"), **given)


def test_maps_that_are_not_finite_are_refused() -> None:
    x = torch.rand(2, 3, 12, 10)
    x[1, 0, 0, 0] = torch.inf
    with pytest.raises(ca.ModelError, match=r"the gradient_x_input maps of 1 image\(s\) are not finite .* first '1'"):
        saliency(Linear(), x, "gradient_x_input", targets=[0, 0])


def test_a_heat_is_a_pair() -> None:
    assert Heat(torch.zeros(1, 2, 2), 1.0)._fields == ("values", "evaluations")
