"""Small networks with every kind of output that a layer may give."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Its export refuses what torch.compile made, and keeps a model that it failed on alive: such models are searched by replay, and stay.
TORCH_2_6 = torch.__version__.startswith("2.6.")


def seeded(build: Any, seed: int = 0) -> Any:
    """What `build()` gives with the random numbers of a seed, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def images(count: int = 3, size: int = 8, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


class Plain(nn.Module):
    """Convolution, in-place ReLU, batch norm, pooling, linear."""

    def __init__(self, channels: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(channels)
        self.mix = nn.Conv2d(channels, channels, 3)
        self.last = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.relu(self.conv(x)))
        return self.head(self.drop(self.pool(self.last(self.mix(x))).flatten(1)))


class Residual(nn.Module):
    """A skip connection that passes the branch by."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.branch = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.head((x + self.branch(x)).relu().mean((2, 3)))


class Tokens(nn.Module):
    """[N, L, K] with a class token, attention, and a block that gives a tuple with None in it."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.block = TupleBlock(width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        _, x, _ = self.block(x)
        return self.head(self.norm(x)[:, 0])


class TupleBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[None, Tensor, dict[str, Tensor]]:
        return None, (x + self.mix(x).mean(1, keepdim=True)).relu(), {"rest": x}


class ChannelsLast(nn.Module):
    """[N, h, w, K] inside, as in Swin and ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 2, stride=2)
        self.norm = nn.LayerNorm(6)
        self.wide = nn.Linear(6, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x).permute(0, 2, 3, 1))
        return self.head(self.wide(x).relu().mean((1, 2)))


class Twice(nn.Module):
    """One activation module used twice, one never, one whose output goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 3)
        self.act, self.never, self.aside = nn.SiLU(), nn.Linear(2, 2), nn.Conv2d(3, 5, 1)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.aside(x)
        return self.head(self.act(self.second(self.act(self.first(x)))).mean((2, 3)))


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor | None = None


class Dataclass(nn.Module):
    """Gives a dataclass, as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 5, 3), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Output:
        hidden = self.body(x).relu()
        return Output(logits=self.head(hidden.mean((2, 3))), hidden=hidden)


class Losing(Plain):
    """Takes images in pairs, and drops the last of an odd number."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[: len(x) // 2 * 2]


class Branching(nn.Module):
    """Looks at its data to choose its way: no export."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 5, 3), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        x = x.relu() if float(x.detach().mean()) > -100 else x.tanh()
        return self.head(x.mean((2, 3)))


class Homebound(Plain):
    """Can be unpickled only in the process that made it."""

    def __reduce__(self) -> Any:
        return _come, (os.getpid(),)


def _come(home: int) -> Any:
    if os.getpid() != home:
        raise ModuleNotFoundError("No module named 'mine'")
    return seeded(Homebound)
