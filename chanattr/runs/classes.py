"""The class pass of a run: each class's images gathered once more, joint sets searched, one record a layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from chanattr.attribution.classes import answer_class
from chanattr.attribution.image import in_groups
from chanattr.network.outputs import device_of
from chanattr.network.stem import Stem, join_stems, take_stem
from chanattr.network.tail import stems
from chanattr.progress import Progress, advance
from chanattr.records import ClassAttribution
from chanattr.runs.images import Pass
from chanattr.runs.plan import Ready
from chanattr.runs.shards import Shard, join, shards
from chanattr.store import Run

GROUP = 1024  # images gathered at once: what bounds the memory of the class pass


def attribute_classes(images: Pass, ready: Ready, loader: Iterable[Any], progress: Progress) -> dict[str, int]:
    """Joint sets and mean masks of every labelled class that has images in the file and no answer over all of them.

    Each class is durable at each layer before the next begins.

    Returns:
        Classes searched now, by layer; without those that lacked none.
    """
    run, label = images.run, images.label
    held = {layer: _rows(run, layer, label) for layer in ready.plan.layers}
    missing = _missing(run, held, label)
    counts: Counter[str] = Counter()
    if not missing:
        return {}
    names = dict(enumerate(images.about["class_names"]))
    with advance(progress, sum(map(len, missing.values())), "classes") as tell:
        members = {target: set().union(*lacking.values()) for target, lacking in missing.items()}
        for target, shard in _gather(loader, members, images.shard_size):
            here = {layer: [row for row, key in enumerate(shard.keys) if key in wanted] for layer, wanted in missing[target].items()}
            here = {layer: rows for layer, rows in here.items() if len(rows) > held[layer].get(target, 0)}  # else the file's is over more
            kept = _stems(ready, list(here), shard, images.shard_size) if here else {}
            for layer, rows in here.items():
                stem = take_stem(kept[layer], torch.as_tensor(rows, device=kept[layer].logits.device))
                record = _one(run, ready, layer, label, stem, [shard.keys[row] for row in rows], target, names.get(target, ""))
                images.note(finished=False)
                run.write(record, label=label)
                counts[layer] += 1
                tell(1)
    return dict(counts)


def _missing(run: Run, held: Mapping[str, Mapping[int, int]], label: str) -> dict[int, dict[str, set[str]]]:
    """By class: the layers that have no answer over all its images there, each with the keys of those images."""
    table = run.images()
    found: dict[int, dict[str, set[str]]] = {}
    for layer, rows in held.items():
        done = run.finished(layer, label)
        members: dict[int, set[str]] = {}
        for key, target in zip(table.keys, table.label.tolist(), strict=True):
            if target >= 0 and key in done:
                members.setdefault(target, set()).add(key)
        for target, keys in members.items():
            if rows.get(target, 0) != len(keys):
                found.setdefault(target, {})[layer] = keys
    return dict(sorted(found.items()))


def _rows(run: Run, layer: str, label: str) -> dict[int, int]:
    """Over how many images the file's class answers at a layer are."""
    if not run.has_classes(layer, label):
        return {}
    record = run.per_class(layer, label)
    return dict(zip(record.targets.tolist(), record.rows.tolist(), strict=True))


def _one(run: Run, ready: Ready, layer: str, label: str, stem: Stem, keys: Sequence[str], target: int, name: str) -> ClassAttribution:
    own = run.per_image(layer, label, rows=list(keys))
    reached = np.where(own.targets == target, own.smallest_area, -1)  # a* for another class says nothing about this one
    fill = ready.fill(layer, stem.activation)
    return answer_class(ready.question(layer, fill, classes=True), ready.tails[layer], stem, target=target, name=name, fill=fill,
                        smallest_area=reached, smallest_mask=own.smallest_mask)


def _stems(ready: Ready, layers: Sequence[str], shard: Shard, size: int) -> dict[str, Stem]:
    device = device_of(ready.plan.model)
    tails = {layer: ready.tails[layer] for layer in layers}
    parts = [stems(tails, images.to(device)) for images in shard.images.split(size)]
    return {layer: join_stems([part[layer] for part in parts]) for layer in layers}


def _gather(loader: Iterable[Any], members: Mapping[int, set[str]], size: int) -> Iterator[tuple[int, Shard]]:
    """The images of each class in the loader's order; one pass over the loader a group of classes (a larger class alone)."""
    targets = list(members)
    for places in in_groups([len(keys) for keys in members.values()], GROUP):
        parts: dict[int, list[Shard]] = {targets[place]: [] for place in places}
        owner = {key: target for target in parts for key in members[target]}
        for shard in shards(loader, size):
            for target in {owner[key] for key in shard.keys if key in owner}:
                rows = [i for i, key in enumerate(shard.keys) if owner.get(key) == target]
                parts[target].append(shard.rows(rows))
        yield from ((target, join(part)) for target, part in parts.items() if part)
