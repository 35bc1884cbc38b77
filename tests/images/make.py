"""Small picture files, and what makes tensors of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

NAMES = ("tench", "red fox", "crane", "crane", "pug")
IDS = ("n01440764", "n02119022", "n02012849", "n03126707", "n02110958")


def to_tensor(picture: Image.Image) -> Tensor:
    """Four by four pixels, so that all files give one shape."""
    return torch.from_numpy(np.asarray(picture.resize((4, 4)), np.float32)).permute(2, 0, 1)


def save(path: Path, colour: tuple[int, int, int] = (10, 20, 30), size: tuple[int, int] = (6, 5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def fill(folder: Path, *names: str) -> Path:
    """A folder of small PNG files, each of its own colour."""
    for number, name in enumerate(names):
        save(folder / name, (number, 100, 200))
    return folder


# Files that are no pictures


def write_text(path: Path) -> None:
    path.write_text("not a picture, whatever its name says")


def write_half(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:1500])
