"""`evaluate_run`: the answers of a run file held against the baselines, layer by layer, from the loader's pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chanattr.errors import InputError
from chanattr.evidence.again import fill_again, question_again
from chanattr.evidence.baselines import Baseline
from chanattr.evidence.evaluate import Here, baselines_of, evaluate_rows
from chanattr.evidence.evaluation import Evaluation, join
from chanattr.network.outputs import device_of
from chanattr.network.tail import Tail, bind, stems, take_stem
from chanattr.progress import Progress, advance
from chanattr.runs.shards import Shard, shards
from chanattr.search.objective import Reward
from chanattr.store import Run


def evaluate_run(run: Run, model: nn.Module, loader: Iterable[Any], *, layers: Sequence[str] | None = None, label: str = "exact",
                 methods: Sequence[str] | Mapping[str, Baseline] | None = None, limit: int | None = None,
                 reward: str | Reward | None = None, score: Callable[..., Tensor] | None = None,
                 channel_axis: int | None = None, seed: int = 0, batch_size: int | None = None,
                 engine: str = "auto", progress: Progress = True) -> dict[str, Evaluation]:
    """How good the answers of a run are beside those of other methods; see `chanattr.evaluate`.

    Args:
        run: open; only read.
        model: that the answers are of.
        loader: of the pictures, as for `attribute`; those that the run has no answer for are passed over.
        layers: of the run; None is all that have answers under the label.
        label: under which the answers lie.
        methods, reward, score, channel_axis, seed, batch_size, engine: as for `evaluate`.
        limit: images at most, the first of the loader that have answers at every layer.
        progress: True for a bar, False, or ``f(done, total)``.

    Returns:
        An `Evaluation` by layer.

    Raises:
        InputError: none of the pictures has answers, or they are of another model.
        StoreError: no such answers.
    """
    baselines = baselines_of(methods)
    names = list(layers) if layers is not None else [layer for layer in run.layers if label in run.labels(layer)]
    known = set.intersection(*[run.finished(layer, label) for layer in names]) if names else set()
    total = min(len(known), limit or len(known)) * len(names)
    tails: dict[str, Tail] = {}
    parts: dict[str, list[Evaluation]] = {layer: [] for layer in names}
    left = limit or len(known)
    with advance(progress, total, "images x layers") as tell:
        for shard in shards(loader, int(run.attributes.get("shard_size", 16))):
            rows = [row for row, key in enumerate(shard.keys) if key in known][:left]
            left -= len(rows)
            if not rows:
                continue
            chosen = shard.rows(rows)
            images = chosen.images.to(device_of(model))
            tails = tails or bind(model, images[:2], names, engine=engine, score=score, channel_axis=channel_axis)
            for layer, part in _evaluated(run, model, tails, images, chosen, label, baselines, reward=reward, score=score, seed=seed,
                                          batch_size=batch_size):
                parts[layer].append(part)
                tell(len(rows))
            if left <= 0:
                break
    if not names or not all(parts.values()):
        raise InputError(f"none of the pictures has answers under the label {label!r} at {', '.join(names) or 'any layer'} in {run.path}; "
                         "expected pictures of the run, under the same keys; give the folder that the run was made from")
    return {layer: join(found) for layer, found in parts.items()}


def _evaluated(run: Run, model: nn.Module, tails: Mapping[str, Tail], images: Tensor, shard: Shard, label: str,
               baselines: Mapping[str, Baseline], *, reward: str | Reward | None, score: Callable[..., Tensor] | None, seed: int,
               batch_size: int | None) -> Iterable[tuple[str, Evaluation]]:
    """One shard's evaluation at every layer, in turn; the stem runs once for all."""
    for layer, stem in stems(tails, images).items():
        found = run.per_image(layer, label, rows=list(shard.keys))
        tail = tails[layer]
        stem = take_stem(stem, torch.arange(len(shard.keys), device=stem.logits.device))
        fill = fill_again(found, stem.activation, tail.layer)
        question = question_again(found, model, tail.layer, fill, reward=reward, score=score, batch_size=batch_size)
        yield layer, evaluate_rows(Here(model, tail, stem, images, question, fill, score), found, baselines, seed=seed)
