"""Dataset examples of channels: the images that drive each most, or need it most, cropped to what the strongest position sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from chanattr.attribution.asking import judge, make_asking, one_a_row
from chanattr.attribution.inputs import check_found, check_images, check_keys, check_model, goal_of
from chanattr.errors import InputError
from chanattr.evidence.again import fill_again, question_again
from chanattr.network.layers import Layer, describe
from chanattr.network.tail import bind
from chanattr.pictures import pixels as px
from chanattr.pictures.channels import check_wanted
from chanattr.pictures.pixels import Pixels, check_pixels
from chanattr.pictures.reach import Read, reaching
from chanattr.pictures.records import NONE, Examples
from chanattr.progress import Progress, advance
from chanattr.records import ImageAttribution
from chanattr.search.objective import Reward
from chanattr.settings import STEPS, check_number

KINDS = ("driven", "needed")
BATCH = 16


def examples(model: nn.Module, images: Float[Tensor, "N C H W"], layer: str, channels: Sequence[int], *, pixels: Pixels,
             kind: str = "driven", found: ImageAttribution | None = None, count: int = 8, side: int = 96,
             keys: Sequence[str] | None = None, reward: Reward | None = None, score: Callable[..., Tensor] | None = None,
             channel_axis: int | None = None, progress: Progress = False) -> Examples:
    """For each channel the images with the strongest activation, or those whose a* set loses most when it is taken out.

    What a position sees is measured by the gradient of its activation in the image, so it is right for any network: the box that holds
    every pixel with one. It is never larger than the receptive field, and smaller where a ReLU or a pooling passes nothing.

    Args:
        model: any module; left exactly as found.
        images: as the model takes them.
        layer: dotted name, with ``:input`` and ``@n`` as for `capture`.
        channels: numbers, one a row.
        pixels: what the model's preprocessing does: ``ca.pixels_of(ca.load_model(...).preprocess)``.
        kind: "driven" (by the activation at the strongest position; images that a channel is silent on are none), or "needed" (by what the
            score of an image's a* set falls without the channel; images whose set has it not are none).
        found: answers for these images at this layer, in their order; "needed" asks for them.
        count: examples of each channel, at most.
        side: of the crops, in pixels.
        keys: a name for each image; None is that of `found`, else its number.
        reward, score: the callables, where the question of `found` has its own.
        channel_axis: as for `per_image`.
        progress: True for a bar, or ``f(done, total)``; a step is a channel.

    Raises:
        InputError: an argument cannot be used, or `found` is not of this model and these images.
        LayerError, ModelError: as in `per_image`.

    Examples:
        >>> seen = ca.examples(model, images, "features.10", [3, 17], pixels=pixels, kind="needed", found=found)  # doctest: +SKIP
        >>> seen.rows[0], seen.value[0], seen.boxes[0]  # doctest: +SKIP
    """
    total = check_images(images)
    for name, number in {"count": count, "side": side}.items():
        check_number(f"{name}={number!r}", number, STEPS)
    if kind not in KINDS or (kind == "needed") != (found is not None):
        given = "none" if found is None else "given"
        raise InputError(f"kind={kind!r} with found {given}; expected 'driven' without, or 'needed' with what per_image gave for these "
                         "images")
    names = check_keys(found.keys if keys is None and found is not None else keys, total)
    pictures = px.to_bytes(px.shown(images, check_pixels(pixels, images.shape[1])))
    check_model(model, images[:1], score)
    place = describe(model, images[:2], layer, channel_axis=channel_axis)
    weights, labels = check_wanted(list(channels), place, None)
    numbers = weights.argmax(1)
    value = None if found is None else needs(model, images, found, numbers, reward=reward, score=score, channel_axis=channel_axis)
    with reaching(model, place.name) as read, advance(progress, len(numbers), f"examples at {place.name}") as tell:
        peak, where = strongest(read, images, place, numbers)
        worth = np.where(peak > 0, peak, np.nan) if value is None else value
        rows = best(worth, count)
        boxes = np.full((*rows.shape, 4), NONE, np.int32)
        for column, channel in enumerate(numbers.tolist()):
            there = np.flatnonzero(rows[:, column] != NONE)
            chosen = rows[there, column]
            if len(chosen):
                boxes[there, column] = seen_by(read, images[torch.from_numpy(chosen).long()], place, channel, where[chosen, column])
            tell(1)
    cells = np.stack([where // place.grid[1], where % place.grid[1]], -1)
    rows, boxes = rows.T, boxes.swapaxes(0, 1)
    return Examples(layer=place.name, kind=kind, channels=numbers.numpy().astype(np.int32), names=labels, keys=names, rows=rows,
                    value=_picked(worth, rows, np.nan).astype(np.float32), position=_picked(cells, rows, NONE).astype(np.int32),
                    boxes=boxes, crops=crops(pictures, rows, boxes, side))


def needs(model: nn.Module, images: Tensor, found: ImageAttribution, channels: Int[Tensor, " R"], *, reward: Reward | None = None,
          score: Callable[..., Tensor] | None = None, channel_axis: int | None = None) -> Float[np.ndarray, "N R"]:
    """By what the score of each image's a* set falls when a channel (or its group) is taken out of it; NaN where it is not in the set.

    In the game *delete* it is by what the score rises, for the set is what is dropped.

    Raises:
        InputError: `found` is not of this model and these images.
    """
    if len(found) != len(images):
        raise InputError(f"found is {len(found)} rows for {len(images)} images; expected one a row; pass what per_image gave for them, in "
                         "their order")
    entry = found.groups[channels.numpy()]
    value = np.full((len(found), len(channels)), np.nan)
    tail = bind(model, images[:2], [found.layer], score=score, channel_axis=channel_axis)[found.layer]
    for first in range(0, len(found), BATCH):
        own, stem = found[first:first + BATCH], tail.stem(images[first:first + BATCH])
        fill = fill_again(own, stem.activation, tail.layer)
        question = question_again(own, model, tail.layer, fill, reward=reward, score=score)
        goal = goal_of(own.targets.tolist(), stem)
        check_found(own, question.settings, goal, stem.logits)
        row, column = np.nonzero(own.smallest_mask[:, entry])
        if not len(row):
            continue
        masks = own.smallest_mask[row].copy()
        masks[np.arange(len(row)), entry[column]] = False
        asking = make_asking(question, tail, stem, goal, fill, one_a_row(goal))
        left = judge(asking, torch.from_numpy(masks).to(goal.device), torch.from_numpy(row).to(goal.device)).score.cpu().numpy()
        fall = own.smallest_score[row] - left
        value[first + row, column] = -fall if own.settings.game == "delete" else fall
    return value


@torch.no_grad()
def strongest(read: Read, images: Float[Tensor, "N C H W"], place: Layer,
              channels: Int[Tensor, " R"]) -> tuple[Float[np.ndarray, "N R"], Int[np.ndarray, "N R"]]:
    """The largest activation over positions, and at which it is; the first at ties."""
    parts = []
    for part in images.split(BATCH):
        flat = _positions(read(part), place)[..., channels.to(part.device)]
        parts.append([found.cpu() for found in flat.max(1)])
    value, where = (torch.cat(whole) for whole in zip(*parts, strict=True))
    return value.float().numpy(), where.numpy()


def best(worth: Float[np.ndarray, "N R"], count: int) -> Int[np.ndarray, "E R"]:
    """Rows by falling worth, ties by number, NaN left out (-1), i4."""
    order = np.argsort(np.where(np.isnan(worth), np.inf, -worth), axis=0, kind="stable")[:count]
    missing = np.isnan(np.take_along_axis(worth, order, 0))
    padded = np.full((count, worth.shape[1]), NONE, np.int32)
    padded[:len(order)] = np.where(missing, NONE, order)
    return padded


def box_of(slope: Float[Tensor, "C H W"]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the pixels with a slope, the last two excluded; the whole picture where there is none."""
    there = (slope != 0).any(0)
    if not bool(there.any()):
        return 0, 0, there.shape[0], there.shape[1]
    down, across = (torch.nonzero(there.any(axis))[:, 0] for axis in (1, 0))
    return int(down[0]), int(across[0]), int(down[-1]) + 1, int(across[-1]) + 1


def seen_by(read: Read, images: Float[Tensor, "E C H W"], place: Layer, channel: int,
            where: Int[np.ndarray, " E"]) -> Int[np.ndarray, "E 4"]:
    """What a position of each image sees for a channel: the box of the gradient of its activation, i4."""
    with torch.enable_grad():
        shown = images.detach().clone().requires_grad_()
        flat = _positions(read(shown), place)
        peaks = flat[torch.arange(len(shown)), torch.from_numpy(where), channel]
        slopes = torch.autograd.grad(peaks.sum(), shown)[0]
    return np.array([box_of(slope) for slope in slopes], np.int32)


def crops(pictures: UInt8[np.ndarray, "N H W C"], rows: Int[np.ndarray, "R E"], boxes: Int[np.ndarray, "R E 4"],
          side: int) -> UInt8[np.ndarray, "R E S S C"]:
    """The boxes of pictures at one size, their longer side filling it, on white; white alone where there is none."""
    made = np.full((*rows.shape, side, side, pictures.shape[-1]), 255, np.uint8)
    for place in zip(*np.nonzero(rows != NONE), strict=True):
        top, left, bottom, right = boxes[place].tolist()
        part = torch.from_numpy(pictures[rows[place], top:bottom, left:right]).permute(2, 0, 1)[None].float()
        high, wide = (max(1, round(side * size / max(part.shape[2:]))) for size in part.shape[2:])
        fitted = torch.nn.functional.interpolate(part, size=(high, wide), mode="bilinear", antialias=True, align_corners=False)
        down, across = (side - high) // 2, (side - wide) // 2
        made[place][down:down + high, across:across + wide] = px.to_bytes(fitted / 255)[0]
    return made


def _positions(activation: Tensor, place: Layer) -> Float[Tensor, "N P K"]:
    """The activation with its positions in one row, channels last."""
    return activation.movedim(place.channel_axis, -1).reshape(len(activation), -1, place.channels)


def _picked(values: np.ndarray, rows: Int[np.ndarray, "R E"], missing: float) -> np.ndarray:
    """``values[row, column]`` of every example [R, E, ...]; `missing` where there is none."""
    chosen = values[np.maximum(rows, 0), np.arange(len(rows))[:, None]].astype(np.float64)
    return np.where((rows == NONE).reshape(*rows.shape, *[1] * (chosen.ndim - 2)), missing, chosen)
