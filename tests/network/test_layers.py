"""Layers are found by name, listed, and their channel axis told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import chanattr as ca
from chanattr.network.layers import describe
from tests.models import ChannelsLast, Dataclass, Plain, Tokens, Twice, images, seeded


@pytest.mark.parametrize(("build", "name", "shape", "axis", "grid"), [
    (Plain, "conv", (3, 6, 8, 8), 1, (8, 8)),
    (Plain, "head", (3, 4), 1, (1, 1)),
    (Plain, "pool", (3, 6, 1, 1), 1, (1, 1)),
    (Tokens, "block", (3, 5, 8), 2, (1, 5)),
    (Tokens, "norm", (3, 5, 8), 2, (1, 5)),
    (ChannelsLast, "wide", (3, 4, 4, 10), 3, (4, 4)),
    (ChannelsLast, "norm", (3, 4, 4, 6), 3, (4, 4)),
    (Twice, "act@1", (3, 5, 6, 6), 1, (6, 6)),
    (Twice, "act@2", (3, 5, 4, 4), 1, (4, 4)),
    (Dataclass, "body", (3, 5, 6, 6), 1, (6, 6)),
])
def test_channel_axis_and_grid(build: type[nn.Module], name: str, shape: tuple[int, ...], axis: int, grid: tuple[int, int]) -> None:
    layer = describe(seeded(build), images(), name)
    assert (layer.name, layer.shape, layer.channel_axis, layer.grid) == (name, shape, axis, grid)
    assert layer.channels == shape[axis]


def test_the_list_holds_every_module_with_its_calls() -> None:
    model = seeded(Twice)
    found = {layer.name: layer for layer in ca.layers(model, images())}
    assert list(found) == [name for name, _ in model.named_modules()]
    assert (found["act"].calls, found["never"].calls, found["first"].calls) == (2, 0, 1)
    assert found["never"].channel_axis == -1
    assert (found["first"].type, found["first"].channels) == ("Conv2d", 5)


@pytest.mark.parametrize(("name", "message"), [
    ("actt", "no layer 'actt' in Twice; did you mean 'act'"),
    ("act", "fires 2 times in a forward pass.*act@1 to act@2"),
    ("act@3", "fires 2 time.* but call 3 was asked"),
    ("never", "never fires"),
])
def test_layers_that_cannot_be_meant_are_refused(name: str, message: str) -> None:
    with pytest.raises(ca.LayerError, match=message):
        describe(seeded(Twice), images(), name)


@pytest.mark.parametrize(("example", "message"), [
    (torch.rand(1, 4, 8, 8), r"Twice failed on images of shape \(1, 4, 8, 8\).*; expected images as the model takes them; check"),
    (torch.rand(3, 8), r"Twice failed on images of shape \(3, 8\), torch.float32, cpu \(RuntimeError"),
    (torch.rand(4, 8, 8), "a single image .C, H, W. lacks the batch axis: give image.None.; otherwise check"),
])
def test_images_that_the_model_fails_on_are_named(example: torch.Tensor, message: str) -> None:
    with pytest.raises(ca.ModelError, match=message):
        ca.layers(seeded(Twice), example)


def test_a_layer_without_an_image_axis_is_refused() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 5), nn.Linear(5, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = self.body(x.flatten(0, 2))
            return self.head(rows.view(len(x), -1, 5).mean(1))

    with pytest.raises(ca.LayerError, match="gives 72 rows for 3 images"):
        describe(seeded(Folded), images(), "body")


def test_the_axis_can_be_given() -> None:
    assert describe(seeded(Plain), images(), "conv", channel_axis=-1).channels == 8
    found = ca.per_image(seeded(Plain), images(), "conv", areas=(3,), channel_axis=3)
    assert found.masks.shape == (3, 1, 8)
