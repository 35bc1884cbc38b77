"""The channel axis is told by modules, by their neighbours, by other image sizes or by the mask; else it is asked for, never guessed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.network.layers import describe
from tests.models import ChannelsLast, Plain, seeded


def oblong(high: int, wide: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, high, wide, generator=torch.Generator().manual_seed(2))


class Permute(nn.Module):
    """Moves axes, and does not say so."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.axes)


class Scale(nn.Module):
    """A module of no known kind."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Fixed(nn.Module):
    """Takes images of one size only."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.size:
            raise ValueError("another size")
        return x


class SwinLike(nn.Module):
    """[N, h, w, K] between a permutation and the head: residual blocks of norm, linear, GELU."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Conv2d(3, width, 2, stride=2), Permute(0, 2, 3, 1), nn.LayerNorm(width))
        self.mlp = nn.Sequential(nn.Linear(width, 10), nn.GELU(), nn.Dropout(), nn.Linear(10, width))
        self.scale = Scale()
        self.norm, self.back, self.last, self.head = nn.LayerNorm(width), Permute(0, 3, 1, 2), Scale(), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = self.scale(x + self.mlp(x)) + 1
        return self.head(self.last(self.back(self.norm(x))).mean((2, 3)))


@pytest.mark.parametrize(("high", "wide"), [(8, 8), (8, 12), (12, 8), (12, 24), (12, 12), (20, 12), (12, 20)])
def test_images_of_any_shape(high: int, wide: int) -> None:
    axes = {layer.name: layer.channel_axis for layer in ca.layers(seeded(SwinLike), oblong(high, wide))}
    assert axes == {"": 1, "embed": 3, "embed.0": 1, "embed.1": 3, "embed.2": 3, "mlp": 3, "mlp.0": 3, "mlp.1": 3, "mlp.2": 3, "mlp.3": 3,
                    "scale": 3, "norm": 3, "back": 1, "last": 1, "head": 1}


@pytest.mark.parametrize(("high", "wide"), [(6, 6), (6, 9), (9, 6), (5, 6)])
def test_channels_first_with_as_many_channels_as_rows(high: int, wide: int) -> None:
    layers = {layer.name: layer for layer in ca.layers(seeded(Plain), oblong(high, wide))}
    assert {layers[name].channel_axis for name in ("conv", "relu", "norm", "mix", "last", "pool")} == {1}
    assert layers["relu"].shape[1] == 6


@pytest.mark.parametrize(("size", "mask"), [((8, 12), 6), ((12, 12), 6)])
@pytest.mark.parametrize("engine", ["tail", "injection"])
def test_a_search_masks_channels(size: tuple[int, int], mask: int, engine: str) -> None:
    model, x = seeded(SwinLike), oblong(*size)
    found = ca.per_image(model, x, "scale", areas=(3,), engine=engine)
    assert found.masks.shape == (2, 1, mask)
    with ca.capture(model, ["scale"]) as seen:
        model(x)
    rest = seen["scale"] * torch.as_tensor(found.masks[:, 0], dtype=torch.float32)[:, None, None]
    logits = model.head((2 * model.norm(rest + 1)).mean((1, 2)))
    np.testing.assert_allclose(found.scores[:, 0], logits.detach().gather(1, torch.as_tensor(found.targets)[:, None].long())[:, 0],
                               rtol=1e-5)


def known_size(high: int, wide: int) -> nn.Sequential:
    return nn.Sequential(Fixed((high, wide)), nn.Conv2d(3, 6, 1), Permute(0, 2, 3, 1), Scale(), Permute(0, 3, 1, 2),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))


def any_size(high: int, wide: int) -> nn.Sequential:
    return nn.Sequential(*list(known_size(high, wide))[1:])


def flat_head(high: int, wide: int) -> nn.Module:
    return nn.Sequential(*list(any_size(high, wide))[:4], nn.Flatten(), nn.Linear(6 * high * wide, 4))


@pytest.mark.parametrize("build", [any_size, flat_head])
@pytest.mark.parametrize("size", [(6, 6), (6, 8), (8, 6), (5, 7)])
def test_another_size_tells(build: Callable[[int, int], nn.Module], size: tuple[int, int]) -> None:
    layer = describe(build(*size).eval(), oblong(*size), "2")
    assert (layer.channel_axis, layer.channels, layer.grid) == (3, 6, size)


@pytest.mark.parametrize("size", [(6, 6), (6, 8), (5, 7)])
def test_where_nothing_tells_the_axis_is_asked_for(size: tuple[int, int]) -> None:
    model = known_size(*size).eval()
    with pytest.raises(ca.LayerError, match=r"layer '3' gives shape .*nothing tells which axis has the channels.*pass channel_axis="):
        describe(model, oblong(*size), "3")
    assert ca.per_image(model, oblong(*size), "3", areas=(2,), channel_axis=-1).masks.shape == (2, 1, 6)
    assert {layer.name: layer.channel_axis for layer in ca.layers(model, oblong(*size))}["3"] == -1


@pytest.mark.parametrize(("size", "channels", "axis"), [((6, 6), 6, 0), ((8, 8), 6, 3), ((8, 8), 8, 0), ((5, 7), 6, 3), ((6, 8), 6, 0)])
def test_a_mask_by_hand_goes_where_it_fits_or_is_refused(size: tuple[int, int], channels: int, axis: int) -> None:
    model = any_size(*size).eval()
    mask = torch.arange(channels) > 0
    with ca.inject(model, "2", mask), ca.capture(model, ["2"]) as seen:
        if axis:
            model(oblong(*size))
            assert torch.equal(seen["2"].abs().amax((0, 1, 2)) > 0, mask)
            return
        with pytest.raises(ca.InputError, match=r"tells which axis has the channels.*pass channel_axis="):
            model(oblong(*size))


@pytest.mark.parametrize("axis", [0, 4, -4, 9])
def test_an_axis_that_is_none_is_refused(axis: int) -> None:
    with pytest.raises(ca.InputError, match=f"channel_axis={axis} for an activation of shape .*expected 1 to 3"):
        describe(seeded(ChannelsLast), oblong(8, 8), "wide", channel_axis=axis)


def test_clips_and_sequences() -> None:
    clip = nn.Sequential(nn.Conv3d(3, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(5, 4)).eval()
    found = {layer.name: layer for layer in ca.layers(clip, torch.rand(2, 3, 4, 6, 6))}
    assert (found["1"].channel_axis, found["1"].channels, found["1"].grid) == (1, 5, (1, 144))
    sound = nn.Sequential(nn.Conv1d(3, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(5, 4)).eval()
    assert describe(sound, torch.rand(2, 3, 7), "1").channels == 5


def test_swin_on_an_image_that_is_not_square() -> None:
    models = pytest.importorskip("torchvision.models")
    model = seeded(lambda: models.swin_t(weights=None))
    found = {layer.name: layer for layer in ca.layers(model, oblong(64, 96, 1))}
    wrong = [(name, layer.shape) for name, layer in found.items() if len(layer.shape) == 4 and name not in ("features.0.0", "permute",
             "avgpool") and layer.channel_axis != 3]
    assert wrong == []
    assert {found[name].channel_axis for name in ("features.0.0", "permute", "avgpool")} == {1}


@pytest.mark.parametrize("name", ["convnext_tiny", "resnet18", "mobilenet_v3_small", "googlenet"])
def test_convolutional_networks_on_images_that_are_not_square(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    extra = {"init_weights": False} if name == "googlenet" else {}
    model = seeded(lambda: getattr(models, name)(weights=None, **extra))
    inside = ("block.2", "block.3", "block.4", "block.5", "block.1") if name == "convnext_tiny" else ()
    for layer in ca.layers(model, oblong(96, 64, 1)):
        if len(layer.shape) == 4:
            assert layer.channel_axis == (3 if layer.name.endswith(inside) and inside and "block" in layer.name else 1), layer
