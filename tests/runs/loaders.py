"""Ten images in batches, a short run over them, and what it wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

import chanattr as ca
from tests.models import Plain, images, seeded

COUNT = 10
LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 3]
SHORT = ca.ExactSearch(relaxed_steps=3, binary_steps=4, refine_steps=2)


class Loader:
    """Ten images in batches of any size."""

    def __init__(self, batch: int = 4, *, count: int = COUNT, keys: list[str] | None = None, seed: int = 1) -> None:
        self.images, self.batch, self.count = images(COUNT, seed=seed), batch, count
        self.keys = keys or [f"folder/{i}.png" for i in range(count)]

    def __iter__(self) -> Iterator[tuple[Tensor, list[int], list[str]]]:
        for first in range(0, self.count, self.batch):
            rows = slice(first, min(first + self.batch, self.count))
            yield self.images[rows], LABELS[rows], self.keys[rows]


def run_all(path: Path, loader: Any = None, **options: Any) -> ca.runs.RunSummary:  # type: ignore[name-defined]
    given: dict[str, Any] = {"areas": (1, 3, 6), "search": SHORT, "shard_size": 4, "progress": False, "engine": "injection"} | options
    with ca.open_run(path, "a") as run:
        return ca.attribute(run, given.pop("model", None) or seeded(Plain), loader or Loader(),
                            layers=given.pop("layers", ["mix", "conv"]), **given)


def content(path: Path) -> str:
    with ca.open_run(path) as run:
        return str(run.content_sha256())


class Again:
    """Batches of which nothing is known beforehand."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)
