"""A model file and a folder of class folders with pictures, for tests of the command line."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "red fox", "owl")

MODEL = '''
import time

import torch
from torch import nn
from torchvision.transforms import v2

NAMES = {names!r}
exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch 2.6 has the second alone


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.mix, self.never = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.Linear(2, 2)
        self.act, self.head = nn.ReLU(), nn.Linear(8, {classes})

    def forward(self, x):
        return self.head(self.act(self.mix(self.act(self.conv(x)))).mean((2, 3)))


def make(bias=0.0):
    torch.manual_seed(3)
    model = Plain()
    model.head.weight.data *= 20
    model.mix.bias.data += bias
    return model, v2.Compose([v2.Resize((12, 12)), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]), NAMES


def other():
    model, preprocess, names = make()
    model.head.weight.data *= 0.5
    return model, preprocess, names


def broken():
    return make(float("nan"))


class Slow(Plain):
    """Takes its time, so that it can be interrupted."""

    def forward(self, x):
        if not exporting():
            time.sleep(0.02)
        return super().forward(x)


def slow():
    torch.manual_seed(3)
    model = Slow()
    return model, make()[1]


def nameless():
    return make()[:2]


class Spotty(Plain):
    """NaN for bright pictures."""

    def forward(self, x):
        return super().forward(x).where(x.mean((1, 2, 3), keepdim=True)[..., 0, 0] < 0.9, torch.nan)


def spotty():
    torch.manual_seed(3)
    return Spotty(), *make()[1:]


def fails():
    raise ValueError("no such thing")


def number():
    return 7
'''


class Studio(NamedTuple):
    """``file.py:function`` of a model, and a folder of class folders."""

    model: str
    images: Path


def make_studio(folder: Path, per_class: int = 3) -> Studio:
    """Writes the model file and `per_class` noisy pictures of each class."""
    folder.mkdir(exist_ok=True)
    file = folder / f"little_{zlib.crc32(str(folder).encode()):08x}.py"  # a name of its own, or workers would find the first of that name
    file.write_text(MODEL.format(names=list(CLASSES), classes=len(CLASSES)))
    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        home = folder / "pictures" / f"{number:03d}_{name.replace(' ', '_')}"
        home.mkdir(parents=True)
        for i in range(per_class):
            colour = rng.integers(0, 255, 3)
            noise = rng.normal(0, 40, (24, 30, 3))
            Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(home / f"{i}.png")
    return Studio(f"{file}:make", folder / "pictures")
