"""The class pass of a run: each class's images gathered once more, joint sets searched, one record a layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from chanattr.attribution.classes import answer_class
from chanattr.attribution.question import Areas
from chanattr.network.outputs import device_of
from chanattr.network.tail import Stem, join_stems, stems
from chanattr.progress import Progress, advance
from chanattr.records import ClassAttribution, concatenate
from chanattr.runs.plan import Ready, by_layer
from chanattr.runs.shards import Shard, join, shards
from chanattr.store import Run

GROUP = 1024  # images gathered at once: what bounds the memory of the class pass


def attribute_classes(run: Run, ready: Ready, loader: Iterable[Any], label: str, *, areas: Areas | Mapping[str, Areas], folds: int,
                      names: Sequence[str], shard_size: int, progress: Progress) -> dict[str, int]:
    """Joint sets and mean masks of every labelled class that the file has images of and no complete answer for.

    Returns:
        Classes searched now, by layer.
    """
    table = run.images()
    members = {int(c): np.flatnonzero(table.label == c) for c in np.unique(table.label) if c >= 0}
    layers = [layer for layer in ready.plan.layers if members and not _complete(run, layer, label, members)]
    wanted = by_layer(areas, ready.plan.layers)
    if not layers:
        return {}
    found: dict[str, list[ClassAttribution]] = {layer: [] for layer in layers}
    with advance(progress, len(members) * len(layers), "classes") as tell:
        for group in _groups(members):
            for target, shard in _gather(loader, table.keys, {c: members[c] for c in group}, shard_size):
                name = names[target] if target < len(names) else ""
                kept = _stems(ready, layers, shard, shard_size)
                for layer in layers:
                    found[layer].append(_one(run, ready, layer, label, kept[layer], shard.keys, target, name, wanted[layer], folds))
                    tell(1)
    for layer in layers:
        run.write(concatenate(sorted(found[layer], key=lambda record: int(record.targets[0]))), label=label)
    return {layer: len(found[layer]) for layer in layers}


def _one(run: Run, ready: Ready, layer: str, label: str, stem: Stem, keys: Sequence[str], target: int, name: str, areas: Areas,
         folds: int) -> ClassAttribution:
    own = run.per_image(layer, label, rows=list(keys))
    reached = np.where(own.targets == target, own.smallest_area, -1)  # a* for another class says nothing about this one
    fill = ready.fill(layer, stem.activation)
    question = ready.question(layer, fill, areas=areas, folds=folds)
    return answer_class(question, ready.tails[layer], stem, target=target, name=name, fill=fill, smallest_area=reached,
                        smallest_mask=own.smallest_mask)


def _stems(ready: Ready, layers: Sequence[str], shard: Shard, size: int) -> dict[str, Stem]:
    device = device_of(ready.plan.model)
    tails = {layer: ready.tails[layer] for layer in layers}
    parts = [stems(tails, images.to(device)) for images in _cut(shard.images, size)]
    return {layer: join_stems([part[layer] for part in parts]) for layer in layers}


def _cut(images: Tensor, size: int) -> list[Tensor]:
    return list(images.split(size))


def _complete(run: Run, layer: str, label: str, members: Mapping[int, np.ndarray]) -> bool:
    """Whether the file's class answers at a layer are over all images that it now holds."""
    if not run.has_classes(layer, label):
        return False
    record = run.per_class(layer, label)
    return dict(zip(record.targets.tolist(), record.rows.tolist(), strict=True)) == {c: len(rows) for c, rows in members.items()}


def _groups(members: Mapping[int, np.ndarray]) -> list[list[int]]:
    """Classes in groups of at most `GROUP` images (a larger class alone)."""
    groups: list[list[int]] = []
    room = 0
    for target, rows in members.items():
        if not groups or room < len(rows):
            groups.append([])
            room = GROUP
        groups[-1].append(target)
        room -= len(rows)
    return groups


def _gather(loader: Iterable[Any], keys: Sequence[str], members: Mapping[int, np.ndarray], size: int) -> list[tuple[int, Shard]]:
    """The images of each class, from one pass over the loader, in the file's order."""
    owner = {keys[row]: target for target, rows in members.items() for row in rows}
    parts: dict[int, list[Shard]] = {target: [] for target in members}
    for shard in shards(loader, size):
        for target in {owner[key] for key in shard.keys if key in owner}:
            rows = [i for i, key in enumerate(shard.keys) if owner.get(key) == target]
            parts[target].append(shard.rows(rows))
    return [(target, join(part)) for target, part in parts.items() if part]
