"""What is asked of a run, held against the model, the loader and the file before any work."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chanattr.arguments import STEPS, check_class_names, check_kind, check_number, check_storable
from chanattr.attribution.inputs import check_range
from chanattr.errors import InputError, StoreError
from chanattr.network.tail import Tail, stems
from chanattr.runs.plan import Ready
from chanattr.runs.shards import parts
from chanattr.settings import TARGETS
from chanattr.store import Run
from chanattr.store.layout import ASKED, asked_of
from chanattr.store.writer import check_model

Targets = str | int


def check_words(run: object, label: object, name: object, shard_size: int | None, class_names: object, **callables: object) -> None:
    """Refuses what can be refused by itself: before the model is looked at.

    Args:
        run: a run, open for writing.
        label: under which answers are to lie.
        name: of the model; "" is its type's.
        shard_size: as asked; None is the file's.
        class_names: one a class.
        callables: by the argument; their stored name must tell them from others.

    Raises:
        InputError: a label or a name that is no text, an empty label, a size that is no whole number from 1, or as a callable a lambda,
            a function inside a function, a method, or an object such as a partial.
    """
    check_kind("run", run, Run, "open it with ca.open_run(path, 'a')")
    if not label:
        raise InputError(f"label={label!r}; expected a name under which the answers lie in the file; leave it out for 'exact'")
    check_storable("label", label, "leave it out for 'exact'")
    check_storable("name", name, "leave it out for the model's type")
    if shard_size is not None:
        check_number(f"shard_size={shard_size!r}", shard_size, STEPS)
    check_class_names("class_names", class_names)
    for argument, given in callables.items():
        if given is None or isinstance(given, str):
            continue
        own = getattr(given, "__qualname__", "")
        if not own or "<" in own or inspect.ismethod(given):
            raise InputError(f"{argument}={given!r} has no name of its own, and a run file tells questions apart by module:function; "
                             "expected a function at the top of a module; write it there with def, and pass that")


def first_images(loader: Iterable[Any]) -> Tensor:
    """One or two images of a loader, to look at the model with.

    Raises:
        InputError: it can be gone through only once, holds nothing, or gives something else than batches.
    """
    check_kind("loader", loader, Iterable, "pass a DataLoader, or a list of the batches")
    if iter(loader) is loader:
        raise InputError(f"loader is {type(loader).__name__}, which can be gone through only once; expected batches that can be gone "
                         "through again, for classes and when resuming; pass a DataLoader, or a list of the batches")
    for part in parts(loader):
        return part.images[:2]
    raise InputError("the loader is empty; expected at least one batch of (images, labels, keys); check the paths that it reads")


def check_file(run: Run, digest: str, label: str, held: Sequence[str], shard_size: int, resume: bool) -> None:
    """Refuses a file that was made from another model or with another shard size or, unless resuming, that has answers.

    Args:
        run, label, shard_size, resume: as asked.
        digest: of the model.
        held: the layers asked for that have answers of this kind under the label.

    Raises:
        StoreError, InputError: so.
    """
    check_model(run.index_for_copies, digest)
    stored = run.attributes.get("shard_size")
    if stored is not None and int(stored) != shard_size:
        raise InputError(f"shard_size={shard_size}, but this file was made with {stored}; expected the same, so that a resumed run repeats "
                         f"an unbroken one; leave it out, or pass {stored}")
    if held and not resume:
        raise InputError(f"the file already has answers at {', '.join(held)} under the label {label!r}, and resume=False; expected none; "
                         "write to another file, or under another label")


def check_question(ready: Ready, run: Run, label: str, targets: Targets, classes: bool) -> None:
    """Refuses to go on under a label that holds answers to another question.

    Args:
        ready: with all fills known.
        run, label, targets: as asked.
        classes: whether some are asked for too.

    Raises:
        InputError: a setting cannot be used.
        StoreError: the stored question is another; names the first field that differs.
    """
    kept = stems(dict(ready.tails), ready.plan.example)
    for layer in ready.plan.layers:
        fill = ready.fill(layer, kept[layer].activation)
        mine = ready.question(layer, fill).settings
        if run.finished(layer, label):
            held = run.per_image(layer, label, rows=slice(0, 0)).settings
            refuse(run, layer, label, [*mine.differences(held), *other_targets(run, layer, label, targets)])
        joint = ready.question(layer, fill, classes=True).settings if classes else None
        if joint is not None and run.has_classes(layer, label):
            names = {"areas": "class_areas"}  # as the caller wrote it
            refuse(run, layer, label, [(names.get(name, name), now, then)
                                       for name, now, then in joint.differences(run.per_class(layer, label).settings)])


def other_targets(run: Run, layer: str, label: str, targets: Targets, *, spatial: bool = False) -> list[tuple[str, Any, Any]]:
    """The difference of targets from those that a file was asked with, if there is one."""
    before = asked_of(run.attributes, ASKED[spatial]).get(layer, {}).get(label, {}).get("targets", targets)
    return [("targets", targets, before)] if targets != before else []


def refuse(run: Run, layer: str, label: str, differences: Sequence[tuple[str, Any, Any]]) -> None:
    """Refuses to go on with another question.

    Args:
        run, layer, label: where the answers lie.
        differences: ``(field, now, then)``.

    Raises:
        StoreError: there is one; names the first, or all of the search.
    """
    if differences:
        told = [one for one in differences if one[0].startswith("search.")] if differences[0][0].startswith("search.") else differences[:1]
        before, asked = (", ".join(f"{one[0]}={one[side]!r}" for one in told) for side in (2, 1))
        raise StoreError(f"{run.path} holds answers at {layer} under the label {label!r} with {before}, but {asked} is asked; expected the "
                         "same question to go on; ask it as before, or give this one another label (label=, --label)")


def check_targets(tail: Tail, example: Tensor, targets: Targets) -> int:
    """Refuses targets that no image could have.

    Returns:
        The number of classes that the model tells apart.

    Raises:
        InputError: neither 'predicted', nor 'label', nor a class of the model.
    """
    classes = int(tail.stem(example).logits.shape[1])
    if isinstance(targets, str) and targets in TARGETS:
        return classes
    if isinstance(targets, bool) or not isinstance(targets, (int, np.integer)) or abs(targets) > sys.maxsize:
        raise InputError(f"targets={repr(targets)[:80]}; expected 'predicted', 'label' or one class number for all images")
    check_range(torch.tensor([int(targets)]), classes, "give one of these, 'predicted' or 'label'")
    return classes


def check_labels(labels: Iterable[int], keys: Iterable[str], classes: int, targets: Targets) -> None:
    """Refuses classes that the model does not have, and where labels are the targets images without one.

    Raises:
        InputError: so; names the first image.
    """
    for key, number in zip(keys, labels, strict=True):
        if number < 0 and targets == "label":
            raise InputError(f"targets='label', but {key!r} has no label; expected class folders; use targets='predicted'")
        if number >= classes:
            raise InputError(f"image {key!r} has the class {number}, but the model has {classes} classes; expected 0 to {classes - 1}, "
                             "or -1 for none; name its folder NNN_name by the model's own numbers, or leave the image out")


def check_known_labels(loader: Iterable[Any], classes: int, targets: Targets) -> None:
    """Refuses what `check_labels` does, where a loader tells all labels without reading images.

    Raises:
        InputError: so; names the first image.
    """
    if hasattr(loader, "keys") and hasattr(loader, "labels"):
        check_labels(map(int, loader.labels), loader.keys, classes, targets)
    elif isinstance(loader, (list, tuple)):
        for part in parts(loader):
            check_labels(part.labels.tolist(), part.keys, classes, targets)
