"""`rescore`: a sample of a run's stored sets put through the model once more, and what does not come out as it is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chanattr.attribution.asking import judge_sets, make_asking
from chanattr.attribution.image import to_f4
from chanattr.errors import InputError
from chanattr.evidence.evaluate import Here
from chanattr.records import ImageAttribution
from chanattr.runs.evaluate import asked_again
from chanattr.runs.shards import Shard, pictures_of
from chanattr.search.objective import Reward
from chanattr.store import Run

TOLERANCE = 1e-3  # of the score of the whole network (or of 1, where that is more): float32 on another device, in other batches


def rescore(run: Run, model: nn.Module, loader: Iterable[Any], *, reward: str | Reward | Mapping[str, Reward] | None = None,
            score: Callable[..., Tensor] | None = None, channel_axis: int | None = None) -> Iterator[str]:
    """Scores stored sets of channels again, by the definition in float32, for the images that the loader gives.

    Masks on the picture, and joint sets of classes, are not scored.

    Args:
        run: open; only read.
        model: that the answers are of.
        loader: of pictures of the run, as for `attribute`; those that have no answer are passed over.
        reward, score: the callables that the run was asked with, where it was asked with some; rewards may come by their stored names.
        channel_axis: as for `attribute`.

    Yields:
        A line for every layer, label and image whose stored figures are not those of the model.

    Raises:
        InputError: the answers are of another model, the run has no sets of images, or the loader has none of its pictures.
    """
    names = [(layer, label) for layer in run.layers for label in run.labels(layer) if run.finished(layer, label)]
    if not names:
        raise InputError(f"{run.path} holds no sets of channels of images, and these alone are scored again; expected a run of "
                         "'chanattr attribute'; leave the model and the pictures out")
    others: list[str] = []
    pictures = _same_bytes(run, loader, others)
    for label, here, found in asked_again(run, model, pictures, names, reward=reward, score=score, channel_axis=channel_axis):
        yield from (f"{found.layer} ({label}) {key}: {why}" for key, why in _differences(found, _figures(found, here)))
    yield from (f"{key}: the picture has other bytes than the one that was searched" for key in others)


def _same_bytes(run: Run, loader: Iterable[Any], others: list[str]) -> Iterator[Shard]:
    """Pictures of the run, each with the bytes that were searched; the keys of those with others go to `others`.

    Raises:
        InputError: the loader has none of the run's images.
    """
    seen = False
    for part, other in pictures_of(run, loader, set(run.keys)):
        seen = True
        others += other
        if same := [row for row, key in enumerate(part.keys) if key not in other]:
            yield part.rows(same)
    if not seen:
        raise InputError(f"none of the pictures is in {run.path}; expected pictures of the run, under the same keys; give the folder that "
                         "the run was made from")


def _figures(found: ImageAttribution, here: Here) -> dict[str, np.ndarray]:
    """What the model makes of stored sets, by the names that a record has for it."""
    goal = torch.from_numpy(found.targets.astype(np.int64)).to(here.stem.logits.device)
    asking = make_asking(here.question, here.tail, here.stem, goal, here.fill)
    final = judge_sets(asking, torch.from_numpy(found.masks).to(goal.device))
    last = judge_sets(asking, torch.from_numpy(np.array(found.smallest_mask)).to(goal.device)[:, None])
    return {"scores": to_f4(final.score), "original": to_f4(asking.original), "empty": to_f4(asking.empty),
            "smallest_score": to_f4(last.score[:, 0])}


def _differences(found: ImageAttribution, fresh: dict[str, np.ndarray]) -> Iterator[tuple[str, str]]:
    """Keys, and the first figure of each that differs."""
    bound = TOLERANCE * np.maximum(1, np.abs(found.original))
    for row, key in enumerate(found.keys):
        for name in ("original", "empty", "scores", "smallest_score"):
            stored, now = np.atleast_1d(getattr(found, name)[row]), np.atleast_1d(fresh[name][row])
            wrong = np.flatnonzero(np.abs(stored - now) > bound[row])  # NaN, where there is no a*, differs from nothing
            if len(wrong):
                where = f" at area {found.areas[wrong[0]]}" if name == "scores" else ""
                yield key, f"{name}{where} is stored as {stored[wrong[0]]:.6g}, the model gives {now[wrong[0]]:.6g}"
                break
