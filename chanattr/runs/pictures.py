"""Pictures made for the answers of a run file: inversions of its images, and pictures of its channels with their examples."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from chanattr.arguments import STEPS, check_kind, check_number, listed
from chanattr.errors import InputError
from chanattr.network.outputs import device_of
from chanattr.network.weights import model_sha256
from chanattr.picture_records import ChannelImages, Examples, Inversion
from chanattr.picture_settings import PictureSettings
from chanattr.pictures.channels import class_weights
from chanattr.pictures.examples import BATCH, Part
from chanattr.pictures.pixels import Pixels, check_pixels
from chanattr.progress import Progress
from chanattr.records import ImageAttribution
from chanattr.runs.making import Maker
from chanattr.runs.shards import Shard, join, pictures_of, shards
from chanattr.search.objective import Reward
from chanattr.store import Run
from chanattr.store.index import check_bytes


class Inverted(NamedTuple):
    """Inversions of the same images at a layer: of their whole activations, and of the masked ones; of several areas one after another."""

    whole: Inversion
    masked: Inversion


class Channels(NamedTuple):
    """Pictures of a layer: of a class's weighted set (None without a class), of single channels, and their examples."""

    whole: ChannelImages | None
    single: ChannelImages
    examples: tuple[Examples, ...]


def invert_run(run: Run, model: nn.Module, loader: Iterable[Any], *, pixels: Pixels, layers: Sequence[str] | None = None,
               label: str = "exact", keys: Sequence[str] | None = None, limit: int = 6, area: int | Sequence[int] | None = None,
               settings: PictureSettings | None = None, score: Callable[..., Tensor] | None = None, channel_axis: int | None = None,
               progress: Progress = True) -> dict[str, Inverted]:
    """Inversions of the whole and of the masked activation of some images of a run, by layer.

    What the run file has of them is read from it; what is missing is made, and written into it where it is open for writing. On a GPU a
    picture that is made with others may differ in some levels of 255 from the one made alone (see `invert`).

    Args:
        run: open; "a" keeps what is made, "r" does not.
        model: that the answers are of.
        loader: of the pictures, as for `attribute`; gone through only where an inversion is missing.
        pixels: what the model's preprocessing does.
        layers: of the run; None is all that have answers under the label.
        label: under which the answers lie.
        keys: of the images; None takes `limit` of those with an a* at every layer, in turn from each class.
        limit: images, where no keys are given.
        area: of the sets; of several, all images come once for each, by growing area; None is each image's a*.
        settings, score, channel_axis, progress: as for `invert`.

    Raises:
        InputError: another model, no answers under the label, no such images or area, or none of them in the loader.
        StoreError: no such answers, or another picture under a key of the run.

    Examples:
        >>> import tempfile, torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))
        >>> loader = [(torch.rand(2, 3, 8, 8), [0, 1], ["a.jpg", "b.jpg"])]
        >>> with tempfile.TemporaryDirectory() as folder, ca.open_run(f"{folder}/run.h5", "a") as run:
        ...     _ = ca.attribute(run, model, loader, layers=["1"], areas=(1, 2), classes=False, engine="injection", progress=False)
        ...     pixels = ca.Pixels(mean=(0.5,) * 3, std=(0.5,) * 3, size=(8, 8))
        ...     made = ca.invert_run(run, model, loader, pixels=pixels, limit=1, settings=ca.PictureSettings(steps=2), progress=False)
        >>> made["1"].whole.keys, made["1"].masked.pictures.shape
        (('a.jpg',), (1, 8, 8, 3))
    """
    maker = Maker(run, model, check_run_model(run, model), check_pixels(pixels), score, channel_axis, progress)
    names = layers_with(run, label) if layers is None else listed("layers", layers, "layers of the run", "leave it out for all")
    chosen = choose_keys(run, names, label, keys, limit)

    @functools.cache
    def read() -> dict[str, Tensor]:
        return dict(zip(chosen, images_of(run, loader, chosen).to(device_of(model)), strict=True))

    areas = sorted(set(area)) if isinstance(area, Sequence) else [area]
    made = {}
    for name in names:
        found = run.per_image(name, label, rows=chosen)
        masks = np.stack([found.channel_mask(row, one) for one in areas for row in range(len(found))]).astype(np.float32)
        whole, masked = (maker.inversions(name, chosen * times, kept, found.targets.tolist() * times, settings,
                                          lambda some: torch.stack([read()[key] for key in some]))
                         for times, kept in ((1, np.ones_like(masks[:len(found)])), (len(areas), masks)))
        made[name] = Inverted(whole, masked)
    return made


def visualise_run(run: Run, model: nn.Module, loader: Iterable[Any] | None, *, pixels: Pixels, layer: str, label: str = "exact",
                  channels: Sequence[int] = (), target: int | None = None, against: int | None = None, top: int = 6, count: int = 1,
                  shown: int = 4, settings: PictureSettings | None = None, reward: Reward | None = None,
                  score: Callable[..., Tensor] | None = None, channel_axis: int | None = None, progress: Progress = True) -> Channels:
    """Pictures of channels of a run's layer: those given, a class's, or those that most a* sets have; and their examples.

    What the run file has of them is read from it; what is missing is made, and written into it where it is open for writing. On a GPU a
    picture that is made with others may differ in some levels of 255 from the one made alone (see `visualise`).

    Args:
        run: open; "a" keeps what is made, "r" does not.
        model: that the answers are of.
        loader: of the pictures, as for `attribute`; gone through once more where it does not list its `keys`. None gives no examples.
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
        StoreError: no such answers, or another picture under a key of the run.

    Examples:
        >>> import tempfile, torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))
        >>> loader = [(torch.rand(2, 3, 8, 8), [0, 1], ["a.jpg", "b.jpg"])]
        >>> with tempfile.TemporaryDirectory() as folder, ca.open_run(f"{folder}/run.h5", "a") as run:
        ...     _ = ca.attribute(run, model, loader, layers=["1"], areas=(1, 2), classes=False, engine="injection", progress=False)
        ...     pixels = ca.Pixels(mean=(0.5,) * 3, std=(0.5,) * 3, size=(8, 8))
        ...     made = ca.visualise_run(run, model, None, pixels=pixels, layer="1", channels=[3], settings=ca.PictureSettings(steps=2),
        ...                             progress=False)
        >>> made.single.names, made.single.pictures.shape
        (('channel 3',), (1, 1, 8, 8, 3))
    """
    maker = Maker(run, model, check_run_model(run, model), check_pixels(pixels), score, channel_axis, progress)
    top, count, shown = (int(check_number(f"{name}={number!r}", number, STEPS))
                         for name, number in {"top": top, "count": count, "shown": shown}.items())
    if against is not None and target is None:
        raise InputError(f"against={against} without a class; expected one that it is taken off; pass target= too")
    if loader is not None:
        check_kind("loader", loader, Iterable, "pass a DataLoader, or a list of the batches")
    weights = None if target is None else class_weights(run.per_class(layer, label), target, against)
    found = run.per_image(layer, label)
    rates = found.smallest_mask[:, found.groups].sum(0) if weights is None else weights[0]
    given = listed("channels", channels, "channel numbers", "leave it out for those that most sets have", least=0)
    numbers = given or np.argsort(-rates, kind="stable")[:top].tolist()
    if not all(isinstance(number, int) and 0 <= number < len(found.groups) for number in numbers):
        raise InputError(f"channels {str(numbers)[:80]} at {layer!r}; expected channel numbers from 0 to {len(found.groups) - 1}; "
                         "'chanattr show' lists those of a* sets")
    name = f"class {target}" + (f" less class {against}" if against is not None else "")
    whole = None if weights is None else maker.channels(layer, [name], weights, count, settings)
    single = maker.channels(layer, [f"channel {number}" for number in numbers], np.eye(len(found.groups), dtype=np.float32)[numbers], count,
                            settings)
    return Channels(whole, single, () if loader is None else _examples(maker, loader, found, numbers, shown, reward))


def _examples(maker: Maker, loader: Iterable[Any], found: ImageAttribution, numbers: list[int], count: int,
              reward: Reward | None) -> tuple[Examples, ...]:
    """Images that drive the channels, and those that need them; of a loader that lists its keys only these, where nothing is missing."""
    rows = {key: row for row, key in enumerate(found.keys) if found.smallest_area[row] >= -1}
    listed = getattr(loader, "keys", None)
    keys = [key for key in listed if key in rows] if isinstance(listed, tuple) and not getattr(loader, "bad", None) else []
    if not keys:
        loader = list(loader) if iter(loader) is loader else loader  # what can be gone through but once is held
        keys = [key for part in _wanted(maker.run, loader, rows) for key in part.keys]
    own = found[[rows[key] for key in keys]]
    return maker.examples(found.layer, numbers, count, own, lambda: _parts(maker, loader, keys), reward=reward)


def _parts(maker: Maker, loader: Iterable[Any], keys: Sequence[str]) -> Iterator[Part]:
    """The images with these keys, numbered in this order, on the model's device, some at a time.

    Raises:
        InputError: one is not in the loader, or comes twice.
        StoreError: one has other bytes than the run says.
    """
    number = {key: row for row, key in enumerate(keys)}
    seen: set[str] = set()
    for part in shards(_wanted(maker.run, loader, keys), BATCH):
        seen.update(part.keys)
        yield Part(part.images.to(device_of(maker.model)), np.array([number[key] for key in part.keys]))
    if len(seen) < len(keys):
        gone = sorted(set(keys) - seen)
        raise InputError(f"picture {(gone or list(keys))[0]!r} of the run cannot be read any more, or comes twice; expected every "
                         "picture that the loader lists; mend it, or take it out of the folder")


def layers_with(run: Run, label: str) -> list[str]:
    """The run's layers that have answers under a label.

    Raises:
        InputError: none has.
    """
    names = [layer for layer in run.layers if label in run.labels(layer)]
    if not names:
        labels = ", ".join(dict.fromkeys(repr(one) for layer in run.layers for one in run.labels(layer)))
        other = "masks on the picture alone" if run.spatial_layers else "none"
        there = f"one of its labels, {labels}" if labels else f"answers about channels, and it has {other}"
        raise InputError(f"no layer of {run.path} has sets of channels under the label {label!r}; expected {there}; "
                         + ("name one of them" if labels else "add some with 'chanattr attribute'"))
    return names


def check_run_model(run: Run, model: nn.Module) -> str:
    """The digest of the model's weights; refuses one that the run's answers are not of.

    Raises:
        InputError: so.
    """
    check_kind("run", run, Run, "open it with ca.open_run")
    known = run.attributes.get("model_sha256")
    digest = model_sha256(model)
    if known and known != digest:
        raise InputError(f"the answers in {run.path} are of another model ({run.attributes.get('model') or 'without a name'}) than the one "
                         "given; expected the same weights; pass the model and the weights that the run was made with")
    return digest


def choose_keys(run: Run, layers: Sequence[str], label: str, keys: Sequence[str] | None, limit: int) -> list[str]:
    """The keys given, or some with a set at every layer, in turn from each class.

    Raises:
        InputError: a key without a set, or no image with one.
    """
    limit = int(check_number(f"limit={limit!r}", limit, STEPS))
    table = run.images()
    fitting: set[str] = set(table.keys)
    for layer in layers:
        area = run.field(layer, "smallest_area", label)
        fitting &= {key for key, a in zip(run.keys, area.tolist(), strict=True) if a > 0}
    if keys:
        for key in listed("keys", keys, "keys of the run", "leave it out for some of each class"):
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


def images_of(run: Run, loader: Iterable[Any], keys: Sequence[str]) -> Tensor:
    """The images with these keys, in this order.

    Raises:
        InputError: one is not in the loader.
        StoreError: one has other bytes than the run says.
    """
    whole = join(list(_wanted(run, loader, keys)))
    missing = [key for key in keys if key not in whole.keys]
    if missing:
        raise InputError(f"picture {missing[0]!r} of the run is not among those given; expected it under the same key; give the folder "
                         "that the run was made from")
    return whole.images[torch.tensor([whole.keys.index(key) for key in keys])]


def _wanted(run: Run, loader: Iterable[Any], keys: Iterable[str]) -> Iterator[Shard]:
    """The wanted images of a loader, some at a time, until all were there.

    Raises:
        InputError: there is none.
        StoreError: one has other bytes than the run says.
    """
    wanted, found = set(keys), False
    for part, other in pictures_of(run, loader, wanted):
        for key, (stored, given) in other.items():
            check_bytes(key, stored, given)
        found = True
        yield part
    if not found:
        raise InputError(f"none of the pictures given is among the {len(wanted)} of the run that are asked for; expected them under the "
                         "same keys; give the folder that the run was made from")
