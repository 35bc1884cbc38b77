"""Dataset examples of channels: the images that drive each most, or need it most, cropped to what the strongest position sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from chanattr.arguments import STEPS, check_number
from chanattr.attribution.asking import judge, make_asking
from chanattr.attribution.inputs import check_found, check_images, check_keys, check_model, goal_of
from chanattr.attribution.score import channels_last
from chanattr.errors import InputError
from chanattr.evidence.again import fill_again, question_again
from chanattr.network.layers import Layer, describe
from chanattr.network.tail import Tail, bind
from chanattr.network.weights import check_weights
from chanattr.picture_records import NONE, Examples
from chanattr.pictures import pixels as px
from chanattr.pictures.channels import check_wanted
from chanattr.pictures.pixels import Pixels, check_pixels
from chanattr.pictures.reach import Read, reaching
from chanattr.progress import Progress, advance
from chanattr.records import ImageAttribution
from chanattr.search.objective import Reward

KINDS = ("driven", "needed")
BATCH = 16


class Part(NamedTuple):
    """Some of the images, as the model takes them, and their numbers among all."""

    images: Float[Tensor, "B C H W"]
    rows: Int[np.ndarray, " B"]


class Asked(NamedTuple):
    """Channels, the kind of examples they want, and for "needed" the answers for all images, in the order of their numbers."""

    kind: str
    channels: Sequence[int]
    found: ImageAttribution | None = None


class Standing(NamedTuple):
    """How the images seen so far stand for the channels asked for: filled in place.

    Attributes:
        asked: what was asked.
        numbers, names: of the channels.
        worth: by which images are ordered, NaN where one is no example.
        where: position of the strongest activation.
    """

    asked: Asked
    numbers: Int[Tensor, " R"]
    names: tuple[str, ...]
    worth: Float[np.ndarray, "N R"]
    where: Int[np.ndarray, "N R"]


def examples(model: nn.Module, images: Float[Tensor, "N C H W"], layer: str, *, channels: Sequence[int], pixels: Pixels,
             kind: str = "driven", found: ImageAttribution | None = None, count: int = 8, side: int = 96,
             keys: Sequence[str] | None = None, reward: Reward | None = None, score: Callable[..., Tensor] | None = None,
             channel_axis: int | None = None, progress: Progress = False) -> Examples:
    """For each channel the images with the strongest activation, or those whose a* set loses most when it is taken out.

    What a position sees is measured by the gradient of its activation in the image, so it is right for any network: the box that holds
    every pixel with one. It is never larger than the receptive field, and smaller where a ReLU or a pooling passes nothing. Where an
    activation has no slope (a ReLU6 at its end) it is the box of all channels at that position; where none has one, it is empty.

    Args:
        model: any module; left exactly as found.
        images: as the model takes them.
        layer: dotted name, with ``:input`` and ``@n`` as for `capture`.
        channels: numbers, one a row.
        pixels: what the model's preprocessing does: ``ca.pixels_of(ca.load_model(...).preprocess)``.
        kind: "driven" (by the activation at the strongest position), or "needed" (by what the score of an image's a* set falls without
            the channel; images whose set has it not, or loses nothing, are none). Images that a channel is silent on are none of either.
        found: answers for these images at this layer, in their order; for "needed" alone, which asks for them.
        count: examples of each channel, at most.
        side: of the crops, in pixels.
        keys: a name for each image; None is that of `found`, else its number.
        reward, score: the callables, where the question of `found` has its own.
        channel_axis: as for `per_image`.
        progress: True for a bar, or ``f(done, total)``; a step is an image looked at, or a channel's examples cropped.

    Raises:
        InputError: an argument cannot be used, or `found` is not of this model and these images.
        LayerError, ModelError: as in `per_image`.

    Examples:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))
        >>> pixels = ca.Pixels(mean=(0.5,) * 3, std=(0.5,) * 3, size=(8, 8))
        >>> seen = ca.examples(model, torch.rand(4, 3, 8, 8), "1", channels=[3], pixels=pixels, count=2)
        >>> seen.rows.shape, seen.crops.shape
        ((1, 2), (1, 2, 96, 96, 3))
    """
    total = check_images(images)
    count, side = (int(check_number(f"{name}={number!r}", number, STEPS)) for name, number in {"count": count, "side": side}.items())
    if not isinstance(kind, str) or kind not in KINDS or (kind == "needed") != (found is not None):
        given = "none" if found is None else "given"
        raise InputError(f"kind={kind!r} with found {given}; expected 'driven' without, or 'needed' with what per_image gave for these "
                         "images")
    if found is not None and len(found) != total:
        raise InputError(f"found is {len(found)} rows for {total} images; expected one a row; pass what per_image gave for them, in their "
                         "order")
    names = check_keys(found.keys if keys is None and found is not None else keys, total)
    parts = (Part(part, BATCH * number + np.arange(len(part))) for number, part in enumerate(images.split(BATCH)))
    return find_examples(model, parts, layer, [Asked(kind, channels, found)], keys=names, pixels=pixels, count=count, side=side,
                         reward=reward, score=score, channel_axis=channel_axis, progress=progress)[0]


def find_examples(model: nn.Module, parts: Iterable[Part], layer: str, asked: Sequence[Asked], *, keys: Sequence[str], pixels: Pixels,
                  count: int, side: int, reward: Reward | None = None, score: Callable[..., Tensor] | None = None,
                  channel_axis: int | None = None, progress: Progress = False) -> list[Examples]:
    """What `examples` gives, for several questions in one pass over parts of the images; of those no more are held than are examples.

    Args:
        model, layer, pixels, count, side, reward, score, channel_axis, progress: as for `examples`.
        parts: on the model's device, in any order, that together have every image once.
        asked: questions.
        keys: of all images.

    Raises:
        InputError, LayerError, ModelError: as in `examples`.
    """
    coming = iter(parts)
    first = next(coming)
    check_pixels(pixels, first.images.shape[1])
    check_weights(model)
    check_model(model, first.images[:1], score)
    place = describe(model, first.images[:2], layer, channel_axis=channel_axis)
    standings = [_standing(one, place, len(keys)) for one in asked]
    layers = {one.found.layer for one in asked if one.found is not None}
    tails = bind(model, first.images[:2], sorted(layers), score=score, channel_axis=channel_axis) if layers else {}
    kept: dict[int, Tensor] = {}
    with advance(progress, len(keys) + sum(len(one.numbers) for one in standings), f"examples at {place.name}") as tell:
        for part in chain([first], coming):
            px.shown(part.images, pixels)  # refuses images of another preprocessing
            for one in standings:
                with reaching(model, place.name) as read:
                    peak, one.where[part.rows] = strongest(read, part.images, place, one.numbers)
                fall = None if one.asked.found is None else needs(model, tails[one.asked.found.layer], part.images,
                                                                  one.asked.found[part.rows], one.numbers, reward=reward, score=score)
                one.worth[part.rows] = worth_of(peak, fall)
            kept = still_kept(kept, part, standings, count)
            tell(len(part.rows))
        with reaching(model, place.name) as read:
            return [_record(read, one, place, kept, pixels, keys=keys, count=count, side=side, device=first.images.device, tell=tell)
                    for one in standings]


def worth_of(peak: Float[np.ndarray, "B R"], fall: Float[np.ndarray, "B R"] | None) -> Float[np.ndarray, "B R"]:
    """By what images are ordered, NaN where one is no example: the channel is silent there, or nothing is lost without it."""
    return np.where(peak > 0, peak, np.nan) if fall is None else np.where((fall > 0) & (peak != 0), fall, np.nan)


def still_kept(kept: Mapping[int, Tensor], part: Part, standings: Sequence[Standing], count: int) -> dict[int, Tensor]:
    """Of the images that were kept and those of a part the ones that are examples so far, on the CPU."""
    near = np.array(sorted({*kept, *part.rows.tolist()}))
    places = {place for one in standings for place in best(one.worth[near], count).ravel().tolist() if place != NONE}
    new = dict(zip(part.rows.tolist(), part.images, strict=True))
    return {row: kept[row] if row in kept else new[row].detach().to("cpu", copy=True) for row in near[sorted(places)].tolist()}


def needs(model: nn.Module, tail: Tail, images: Tensor, own: ImageAttribution, channels: Int[Tensor, " R"], *,
          reward: Reward | None = None, score: Callable[..., Tensor] | None = None) -> Float[np.ndarray, "B R"]:
    """By what the score of each image's a* set falls when a channel (or its group) is taken out of it; NaN where it is not in the set.

    In the game *delete* it is by what the score rises, for the set is what is dropped.

    Raises:
        InputError: the answers are not of this model and these images.
    """
    entry, stem = own.groups[channels.numpy()], tail.stem(images)
    value = np.full((len(own), len(channels)), np.nan)
    fill = fill_again(own, stem.activation, tail.layer)
    question = question_again(own, model, tail.layer, fill, reward=reward, score=score)
    goal = goal_of(own.targets.tolist(), stem)
    check_found(own, question.settings, goal, stem.logits)
    row, column = np.nonzero(own.smallest_mask[:, entry])
    if not len(row):
        return value
    masks = own.smallest_mask[row].copy()
    masks[np.arange(len(row)), entry[column]] = False
    asking = make_asking(question, tail, stem, goal, fill)
    left = judge(asking, torch.from_numpy(masks).to(goal.device), torch.from_numpy(row).to(goal.device)).score.cpu().numpy()
    fall = own.smallest_score[row] - left
    value[row, column] = -fall if own.settings.game == "delete" else fall
    return value


@torch.no_grad()
def strongest(read: Read, images: Float[Tensor, "B C H W"], place: Layer,
              channels: Int[Tensor, " R"]) -> tuple[Float[np.ndarray, "B R"], Int[np.ndarray, "B R"]]:
    """The largest activation over positions, and at which it is; the first at ties."""
    value, where = channels_last(read(images), place)[..., channels.to(images.device)].max(1)
    return value.float().cpu().numpy(), where.cpu().numpy()


def best(worth: Float[np.ndarray, "N R"], count: int) -> Int[np.ndarray, "R E"]:
    """Rows by falling worth, ties by number, NaN left out (-1), i4."""
    order = np.argsort(np.where(np.isnan(worth), np.inf, -worth), axis=0, kind="stable")[:count]
    missing = np.isnan(np.take_along_axis(worth, order, 0))
    padded = np.full((count, worth.shape[1]), NONE, np.int32)
    padded[:len(order)] = np.where(missing, NONE, order)
    return padded.T


def box_of(slope: Float[Tensor, "C H W"]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the pixels with a slope, the last two excluded; all 0 where there is none."""
    there = (slope != 0).any(0)
    if not bool(there.any()):
        return 0, 0, 0, 0
    down, across = (torch.nonzero(there.any(axis))[:, 0] for axis in (1, 0))
    return int(down[0]), int(across[0]), int(down[-1]) + 1, int(across[-1]) + 1


@torch.inference_mode(False)
def seen_by(read: Read, images: Float[Tensor, "E C H W"], place: Layer, channel: int,
            where: Int[np.ndarray, " E"]) -> Int[np.ndarray, "E 4"]:
    """What a position of each image sees for a channel: the box of the gradient of its activation, else of all channels there, i4."""
    with torch.enable_grad():
        shown = images.detach().clone().requires_grad_()
        there = channels_last(read(shown), place)[torch.arange(len(shown)), torch.from_numpy(where)]
        slopes = torch.autograd.grad(there[:, channel].sum(), shown, retain_graph=True)[0]
        flat = (slopes == 0).flatten(1).all(1)
        if bool(flat.any()):
            slopes = torch.where(flat.view(-1, 1, 1, 1), torch.autograd.grad(there.sum(), shown)[0], slopes)
    return np.array([box_of(slope) for slope in slopes], np.int32)


def crops(pictures: Mapping[int, UInt8[np.ndarray, "H W C"]], rows: Int[np.ndarray, "R E"], boxes: Int[np.ndarray, "R E 4"], side: int,
          colours: int) -> UInt8[np.ndarray, "R E S S C"]:
    """The boxes of pictures at one size, their longer side filling it, on white; white alone where there is none."""
    made = np.full((*rows.shape, side, side, colours), 255, np.uint8)
    for place in zip(*np.nonzero(rows != NONE), strict=True):
        top, left, bottom, right = boxes[place].tolist()
        if top == bottom:
            continue
        part = torch.from_numpy(pictures[int(rows[place])][top:bottom, left:right]).permute(2, 0, 1)[None].float()
        high, wide = (max(1, round(side * size / max(part.shape[2:]))) for size in part.shape[2:])
        fitted = torch.nn.functional.interpolate(part, size=(high, wide), mode="bilinear", antialias=True, align_corners=False)
        down, across = (side - high) // 2, (side - wide) // 2
        made[place][down:down + high, across:across + wide] = px.to_bytes(fitted / 255)[0]
    return made


def _standing(asked: Asked, place: Layer, total: int) -> Standing:
    """Before any image was looked at."""
    weights, names = check_wanted(asked.channels, place, None)
    shape = (total, len(names))
    return Standing(asked, weights.argmax(1), names, np.full(shape, np.nan), np.zeros(shape, np.int64))


def _record(read: Read, one: Standing, place: Layer, kept: Mapping[int, Tensor], pixels: Pixels, *, keys: Sequence[str], count: int,
            side: int, device: torch.device, tell: Callable[[int], None]) -> Examples:
    """The best images of each channel, with their boxes and crops."""
    rows = best(one.worth, count)
    boxes = np.full((*rows.shape, 4), NONE, np.int32)
    for row, channel in enumerate(one.numbers.tolist()):
        chosen = rows[row, rows[row] != NONE]  # the first ones
        if len(chosen):
            images = torch.stack([kept[number] for number in chosen.tolist()]).to(device)
            boxes[row, :len(chosen)] = seen_by(read, images, place, channel, one.where[chosen, row])
        tell(1)
    pictures = {row: px.to_bytes(px.shown(kept[row][None], pixels))[0] for row in np.unique(rows[rows != NONE]).tolist()}
    cells = np.stack([one.where // place.grid[1], one.where % place.grid[1]], -1)
    return Examples(layer=place.name, kind=one.asked.kind, channels=one.numbers.numpy().astype(np.int32), names=one.names, keys=tuple(keys),
                    rows=rows, value=_picked(one.worth, rows, np.nan).astype(np.float32),
                    position=_picked(cells, rows, NONE).astype(np.int32), boxes=boxes,
                    crops=crops(pictures, rows, boxes, side, len(pixels.mean)))


def _picked(values: np.ndarray, rows: Int[np.ndarray, "R E"], missing: float) -> np.ndarray:
    """``values[row, column]`` of every example [R, E, ...]; `missing` where there is none."""
    chosen = values[np.maximum(rows, 0), np.arange(len(rows))[:, None]].astype(np.float64)
    return np.where((rows == NONE).reshape(*rows.shape, *[1] * (chosen.ndim - 2)), missing, chosen)
