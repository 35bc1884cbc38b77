"""Pictures made for the answers of a run file: inversions of its images, and pictures of its channels with their examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from chanattr.errors import InputError
from chanattr.network.outputs import device_of
from chanattr.network.weights import model_sha256
from chanattr.pictures.channels import class_weights, visualise
from chanattr.pictures.examples import examples
from chanattr.pictures.inversion import invert
from chanattr.pictures.pixels import Pixels
from chanattr.pictures.records import ChannelImages, Examples, Inversion
from chanattr.pictures.settings import PictureSettings
from chanattr.progress import Progress
from chanattr.records import ImageAttribution
from chanattr.runs.shards import as_shard
from chanattr.search.objective import Reward
from chanattr.settings import STEPS, check_number
from chanattr.store import Run


class Inverted(NamedTuple):
    """Inversions of the same images at a layer: of their whole activations, and of the masked ones."""

    whole: Inversion
    masked: Inversion


class Channels(NamedTuple):
    """Pictures of a layer: of a class's weighted set (None without a class), of single channels, and their examples."""

    whole: ChannelImages | None
    single: ChannelImages
    examples: tuple[Examples, ...]


def invert_run(run: Run, model: nn.Module, loader: Iterable[Any], *, pixels: Pixels, layers: Sequence[str] | None = None,
               label: str = "exact", keys: Sequence[str] | None = None, limit: int = 6, area: int | None = None,
               settings: PictureSettings | None = None, score: Callable[..., Tensor] | None = None, channel_axis: int | None = None,
               progress: Progress = True) -> dict[str, Inverted]:
    """Inversions of the whole and of the masked activation of some images of a run, by layer.

    Args:
        run: open; only read.
        model: that the answers are of.
        loader: of the pictures, as for `attribute`.
        pixels: what the model's preprocessing does.
        layers: of the run; None is all that have answers under the label.
        label: under which the answers lie.
        keys: of the images; None takes `limit` of those with an a* at every layer, in turn from each class.
        limit: images, where no keys are given.
        area: of the sets; None is each image's a*.
        settings, score, channel_axis, progress: as for `invert`.

    Raises:
        InputError: another model, no such images or area, or none of them in the loader.
        StoreError: no such answers.
    """
    names = list(layers) if layers is not None else [layer for layer in run.layers if label in run.labels(layer)]
    check_run_model(run, model)
    chosen = choose_keys(run, names, label, keys, limit)
    images = images_of(loader, chosen).to(device_of(model))
    made = {}
    for name in names:
        found = run.per_image(name, label, rows=chosen)
        masks = np.stack([found.channel_mask(row, area) for row in range(len(found))])
        options: dict[str, Any] = {"pixels": pixels, "targets": found.targets.tolist(), "keys": chosen, "settings": settings,
                                   "score": score, "channel_axis": channel_axis, "progress": progress}
        made[name] = Inverted(invert(model, images, name, **options), invert(model, images, name, mask=masks, **options))
    return made


def visualise_run(run: Run, model: nn.Module, loader: Iterable[Any] | None, *, pixels: Pixels, layer: str, label: str = "exact",
                  channels: Sequence[int] = (), target: int | None = None, against: int | None = None, top: int = 6, count: int = 1,
                  shown: int = 4, settings: PictureSettings | None = None, reward: Reward | None = None,
                  score: Callable[..., Tensor] | None = None, channel_axis: int | None = None, progress: Progress = True) -> Channels:
    """Pictures of channels of a run's layer: those given, a class's, or those that most a* sets have; and their examples.

    Args:
        run: open; only read.
        model: that the answers are of.
        loader: of the pictures, as for `attribute`; None gives no examples.
        pixels: what the model's preprocessing does.
        layer: of the run.
        label: under which the answers lie.
        channels: numbers; none takes the `top` ones.
        target: a class of the run's classes: its set, weighted by inclusion rates, gets pictures too, and `top` means its.
        against: another class, whose rates are taken off.
        top: channels, where none are given.
        count: pictures of each.
        shown: examples of each kind.
        settings, score, channel_axis, progress: as for `visualise`.
        reward: the callable, where the run has its own.

    Raises:
        InputError: another model, no such channels or class, or none of the run's images in the loader.
        StoreError: no such answers.
    """
    check_run_model(run, model)
    for name, number in {"top": top, "shown": shown}.items():
        check_number(f"{name}={number!r}", number, STEPS)
    if against is not None and target is None:
        raise InputError(f"against={against} without a class; expected one that it is taken off; pass target= too")
    weights = None if target is None else class_weights(run.per_class(layer, label), target, against)
    found = run.per_image(layer, label)
    rates = found.smallest_mask[:, found.groups].sum(0) if weights is None else weights[0]
    numbers = list(channels) or np.argsort(-rates, kind="stable")[:top].tolist()
    options: dict[str, Any] = {"pixels": pixels, "count": count, "settings": settings, "score": score, "channel_axis": channel_axis,
                               "progress": progress}
    names = [f"class {target}" + (f" less class {against}" if against is not None else "")]
    whole = None if weights is None else visualise(model, layer, weights, names=names, **options)
    single = visualise(model, layer, numbers, **options)
    if loader is None:
        return Channels(whole, single, ())
    return Channels(whole, single, _examples(model, loader, found, layer, numbers, pixels=pixels, count=shown, reward=reward, score=score,
                                             channel_axis=channel_axis, progress=progress))


def _examples(model: nn.Module, loader: Iterable[Any], found: ImageAttribution, layer: str, numbers: list[int], *,
              reward: Reward | None, **options: Any) -> tuple[Examples, ...]:
    """Images that drive the channels, and those that need them."""
    rows = {key: row for row, key in enumerate(found.keys) if found.smallest_area[row] >= -1}
    images, keys = _read(loader, rows)
    images = images.to(device_of(model))
    own = found[[rows[key] for key in keys]]
    return (examples(model, images, layer, numbers, keys=keys, **options),
            examples(model, images, layer, numbers, kind="needed", found=own, reward=reward, **options))


def check_run_model(run: Run, model: nn.Module) -> None:
    """Refuses a model that the run's answers are not of.

    Raises:
        InputError: so.
    """
    known = run.attributes.get("model_sha256")
    if known and known != model_sha256(model):
        raise InputError(f"the answers in {run.path} are of another model ({run.attributes.get('model') or 'without a name'}) than the one "
                         "given; expected the same weights; pass the model and the weights that the run was made with")


def choose_keys(run: Run, layers: Sequence[str], label: str, keys: Sequence[str] | None, limit: int) -> list[str]:
    """The keys given, or some with a set at every layer, in turn from each class.

    Raises:
        InputError: a key without a set, or no image with one.
    """
    check_number(f"limit={limit!r}", limit, STEPS)
    table = run.images()
    fitting: set[str] = set(table.keys)
    for layer in layers:
        area = run.field(layer, "smallest_area", label)
        fitting &= {key for key, a in zip(run.keys, area.tolist(), strict=True) if a > 0}
    if keys:
        for key in keys:
            if key not in fitting:
                raise InputError(f"image {key!r} has no a* set at {', '.join(layers)} in {run.path}; expected a key of the run with one at "
                                 "every layer; 'chanattr show' says what is in it")
        return list(keys)
    nth: dict[int, int] = {}
    order = []
    for key, of in zip(table.keys, table.label.tolist(), strict=True):
        if key in fitting:
            nth[of] = nth.get(of, -1) + 1
            order.append((nth[of], key))
    if not order:
        raise InputError(f"no image has an a* set at {', '.join(layers) or 'any layer'} under the label {label!r} in {run.path}; expected "
                         "one or more; attribute some first")
    return [key for _, key in sorted(order)[:limit]]


def images_of(loader: Iterable[Any], keys: Sequence[str]) -> Tensor:
    """The images with these keys, in this order.

    Raises:
        InputError: one is not in the loader.
    """
    images, there = _read(loader, dict.fromkeys(keys, 0))
    missing = [key for key in keys if key not in there]
    if missing:
        raise InputError(f"picture {missing[0]!r} of the run is not among those given; expected it under the same key; give the folder "
                         "that the run was made from")
    return images[torch.tensor([there.index(key) for key in keys])]


def _read(loader: Iterable[Any], wanted: dict[str, int]) -> tuple[Tensor, list[str]]:
    """The wanted images of a loader, and their keys, in its order.

    Raises:
        InputError: there is none.
    """
    images, keys = [], []
    for batch in loader:
        part = as_shard(batch)
        for image, key in zip(part.images, part.keys, strict=True):
            if key in wanted:
                images.append(image)
                keys.append(key)
        if len(keys) == len(wanted):
            break
    if not images:
        raise InputError(f"none of the pictures given is among the {len(wanted)} of the run that are asked for; expected them under the "
                         "same keys; give the folder that the run was made from")
    return torch.stack(images), keys
