"""`rescore`: a sample of a run's stored sets put through the model once more, and what does not come out as it is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chanattr.attribution.asking import judge, make_asking, one_a_row
from chanattr.attribution.image import to_f4
from chanattr.errors import InputError
from chanattr.evidence.again import fill_again, question_again
from chanattr.network.outputs import device_of
from chanattr.network.stem import Stem
from chanattr.network.tail import Tail, bind, stems
from chanattr.network.weights import model_sha256
from chanattr.records import ImageAttribution
from chanattr.runs.shards import shards
from chanattr.search.objective import Reward
from chanattr.store import Run

TOLERANCE = 1e-3  # of the score of the whole network (or of 1, where that is more): float32 on another device, in other batches


def rescore(run: Run, model: nn.Module, loader: Iterable[Any], *, reward: str | Reward | Mapping[str, Reward] | None = None,
            score: Callable[..., Tensor] | None = None, channel_axis: int | None = None, tolerance: float = TOLERANCE) -> Iterator[str]:
    """Scores stored sets of channels again, by the definition in float32, for the images that the loader gives.

    Args:
        run: open; only read.
        model: that the answers are of.
        loader: of pictures of the run, as for `attribute`; those that have no answer are passed over.
        reward, score: the callables that the run was asked with, where it was asked with some; rewards may come by their stored names.
        channel_axis: as for `attribute`.
        tolerance: largest difference of a score, as a share of the larger of 1 and the score of the whole network.

    Yields:
        A line for every layer, label and image whose stored figures are not those of the model.

    Raises:
        InputError: the answers are of another model, or the loader has none of the run's images.
    """
    names = [(layer, label) for layer in run.layers for label in run.labels(layer) if run.finished(layer, label)]
    layers, digest, seen = list(dict.fromkeys(layer for layer, _ in names)), model_sha256(model), 0
    table = run.images()
    known = dict(zip(table.keys, map(bytes, table.sha256), strict=True))
    tails: dict[str, Tail] = {}
    for shard in shards(loader, int(run.attributes.get("shard_size", 16))):
        mine = [row for row, key in enumerate(shard.keys) if key in known]
        for row in mine:
            if any(known[shard.keys[row]]) and bytes(shard.sha256[row]) != known[shard.keys[row]]:
                yield f"{shard.keys[row]}: the picture has other bytes than the one that was searched"
        mine = [row for row in mine if not any(known[shard.keys[row]]) or bytes(shard.sha256[row]) == known[shard.keys[row]]]
        if not mine:
            continue
        seen += len(mine)
        chosen = shard.rows(mine)
        images = chosen.images.to(device_of(model))
        tails = tails or bind(model, images[:2], layers, score=score, channel_axis=channel_axis)
        kept = stems(tails, images)
        for layer, label in names:
            done = run.finished(layer, label)
            rows = [row for row, key in enumerate(chosen.keys) if key in done]
            if rows:
                found = run.per_image(layer, label, rows=[chosen.keys[row] for row in rows])
                fresh = _figures(found, model, tails[layer], kept[layer], rows, reward=reward, score=score, digest=digest)
                yield from (f"{layer} ({label}) {key}: {why}" for key, why in _differences(found, fresh, tolerance))
    if not seen:
        raise InputError(f"none of the pictures is in {run.path}; expected pictures of the run, under the same keys; give the folder that "
                         "the run was made from")


def _figures(found: ImageAttribution, model: nn.Module, tail: Tail, stem: Stem, rows: list[int], *,
             reward: str | Reward | Mapping[str, Reward] | None, score: Callable[..., Tensor] | None, digest: str) -> dict[str, np.ndarray]:
    """What the model makes of stored sets, by the names that a record has for it."""
    device = stem.logits.device
    fill = fill_again(found, stem.activation, tail.layer)
    question = question_again(found, model, tail.layer, fill, reward=reward, score=score, digest=digest)
    goal = torch.zeros(len(stem.logits), dtype=torch.long, device=device)
    index = torch.tensor(rows, device=device)
    goal[index] = torch.from_numpy(found.targets.astype(np.int64)).to(device)
    asking = make_asking(question, tail, stem, goal, fill, one_a_row(goal))
    count, areas, entries = found.masks.shape
    masks = torch.from_numpy(found.masks.reshape(count * areas, entries)).to(device)
    final = judge(asking, masks, index.repeat_interleave(areas))
    last = judge(asking, torch.from_numpy(np.array(found.smallest_mask)).to(device), index)
    return {"scores": to_f4(final.score.view(count, areas)), "original": to_f4(asking.original[index]),
            "empty": to_f4(asking.empty[index]), "smallest_score": to_f4(last.score)}


def _differences(found: ImageAttribution, fresh: dict[str, np.ndarray], tolerance: float) -> Iterator[tuple[str, str]]:
    """Keys, and the first figure of each that differs."""
    bound = tolerance * np.maximum(1, np.abs(found.original))
    for row, key in enumerate(found.keys):
        for name in ("original", "empty", "scores", "smallest_score"):
            stored, now = np.atleast_1d(getattr(found, name)[row]), np.atleast_1d(fresh[name][row])
            wrong = np.flatnonzero(np.abs(stored - now) > bound[row])  # NaN, where there is no a*, differs from nothing
            if len(wrong):
                where = f" at area {found.areas[wrong[0]]}" if name == "scores" else ""
                yield key, f"{name}{where} is stored as {stored[wrong[0]]:.6g}, the model gives {now[wrong[0]]:.6g}"
                break
