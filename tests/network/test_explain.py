"""What is told of a layer: its layout, and the data that passes it by, by the names that the user knows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from chanattr.network.explain import OWN_CODE, Bypass, bypasses_of, kept_bytes, layout_of
from chanattr.network.layers import Layer, describe
from chanattr.network.tail import bind
from tests.models import ChannelsLast, Plain, Residual, Tokens, Twice, images, seeded


class Deep(nn.Module):
    """Residual blocks with an activation that is used twice, and a value that arises in the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 4, 3, padding=1), nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        early = x * 2
        for block in self.blocks:
            x = block(x)
        return self.head(torch.cat([early, x], 1).mean((2, 3)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.two(self.act(self.one(x))))


def passing(model: nn.Module, layer: str) -> list[tuple[str, bool]]:
    x = images(2)
    tail = bind(model, x, [layer], engine="tail")[layer]
    return [(found.source, found.whole) for found in bypasses_of(model, tail, tail.stem(x))]


def test_a_skip_connection_is_named_by_the_module_that_gives_it() -> None:
    assert passing(seeded(Deep), "blocks.1.one") == [("blocks.0", True), (OWN_CODE, False)]
    assert passing(seeded(Deep), "blocks.1") == [(OWN_CODE, False)]
    assert passing(seeded(Deep), "blocks.0.two") == [("stem", True), (OWN_CODE, False)]
    assert passing(seeded(Plain), "conv") == []


def test_names_are_seen_through_wrappers() -> None:
    assert passing(nn.Sequential(nn.Identity(), seeded(Deep)), "1.blocks.1.one") == [("1.blocks.0", True), ("1", False)]


def test_shape_and_bytes_are_those_of_one_image() -> None:
    model, x = seeded(Residual), images(3)
    tail = bind(model, x, ["branch"], engine="tail")["branch"]
    stem = tail.stem(x)
    assert bypasses_of(model, tail, stem) == (Bypass(source=OWN_CODE, operation="relu", whole=False, shape=(6, 8, 8), bytes=6 * 64 * 4),)
    assert kept_bytes(stem) == 2 * 6 * 64 * 4
    slow = bind(model, x, ["branch"], engine="injection")["branch"]
    assert bypasses_of(model, slow, slow.stem(x)) == ()
    assert kept_bytes(slow.stem(x)) == (6 + 3) * 64 * 4


@pytest.mark.parametrize(("build", "name", "layout", "grid", "prefix"), [
    (Plain, "conv", "NCHW", (8, 8), 0), (Plain, "head", "vector [N, K]", (1, 1), 0), (ChannelsLast, "wide", "NHWC", (4, 4), 0),
    (Tokens, "block", "tokens [N, L, K]", (2, 2), 1), (Twice, "act@2", "NCHW", (4, 4), 0)])
def test_the_layout_is_told(build: type[nn.Module], name: str, layout: str, grid: tuple[int, int], prefix: int) -> None:
    model, x = seeded(build), images()
    told = layout_of(model, describe(model, x, name), x)
    assert (told.name, told.grid, told.prefix, told.prefix_names) == (layout, grid, prefix, ())


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.reg_token = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 4, 8))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 8))


@pytest.mark.parametrize(("length", "size", "grid", "prefix", "names"), [
    (197, (224, 224), (14, 14), 1, ()), (201, (224, 224), (14, 14), 5, ("cls_token", "reg_token")), (196, (224, 224), (14, 14), 0, ()),
    (33, (64, 128), (4, 8), 1, ()), (83, (224, 224), (1, 83), 0, ())])
def test_tokens_before_the_grid_are_counted(length: int, size: tuple[int, int], grid: tuple[int, int], prefix: int,
                                            names: tuple[str, ...]) -> None:
    layer = Layer(name="body", type="Block", calls=1, shape=(2, length, 8), channel_axis=2, channels=8, grid=(1, length))
    told = layout_of(Named(), layer, torch.zeros(1, 3, *size))
    assert (told.grid, told.prefix, told.prefix_names) == (grid, prefix, names)
