"""Feature inversion: the picture whose activation is most like a given image's, masked or whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from chanattr.attribution.inputs import array_of, check_images, check_keys, check_model, check_range, check_targets
from chanattr.errors import InputError
from chanattr.evidence.whole import exact_logits
from chanattr.network.batches import in_batches
from chanattr.network.hooks import apply_mask
from chanattr.network.layers import Layer, describe
from chanattr.network.weights import check_weights
from chanattr.picture_records import Inversion
from chanattr.picture_settings import INVERSION, INVERSIONS, PictureSettings, resolved
from chanattr.pictures import pixels as px
from chanattr.pictures.making import at_once, make, noise
from chanattr.pictures.pixels import Pixels, check_pixels
from chanattr.pictures.reach import Read, reaching
from chanattr.progress import Progress, advance

LEAST = 0.1  # of the cosine that "dot" is multiplied with, so that pictures that are unlike at first have a slope
Masks = Sequence[Any] | np.ndarray | Tensor


def dot(made: Float[Tensor, "N F"], wanted: Float[Tensor, "N F"], power: float) -> Float[Tensor, " N"]:
    """Equation 10 over its value for the image itself: ``<wanted, made> / <wanted, wanted>``, times the cosine to a power.

    With power 0 it is equation 10 literally; nothing then holds back an activation that is also strong elsewhere.
    """
    product = (made * wanted).sum(1) / wanted.square().sum(1)
    return product * cosine(made, wanted).clamp(min=LEAST) ** power if power else product


def cosine(made: Float[Tensor, "N F"], wanted: Float[Tensor, "N F"], _power: float = 0.0) -> Float[Tensor, " N"]:
    """Cosine of the angle between two activations; 0 where one is 0."""
    return torch.nn.functional.cosine_similarity(made, wanted, dim=1)


def match(made: Float[Tensor, "N F"], wanted: Float[Tensor, "N F"], _power: float = 0.0) -> Float[Tensor, " N"]:
    """Mahendran and Vedaldi 2015, equation 2, negative: ``-|made - wanted|^2 / |wanted|^2``, in the channels kept.

    No picture leaves all other channels silent: one that had to would be grey.
    """
    return -(made - wanted).square().sum(1) / wanted.square().sum(1)


OBJECTIVES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = dict(zip(INVERSIONS, (dot, cosine, match), strict=True))


@torch.inference_mode(False)
def invert(model: nn.Module, images: Float[Tensor, "N C H W"], layer: str, *, pixels: Pixels, mask: Masks | None = None,
           targets: Sequence[int] | Tensor | None = None, settings: PictureSettings | None = None, keys: Sequence[str] | None = None,
           score: Callable[..., Tensor] | None = None, channel_axis: int | None = None, batch_size: int | None = None,
           progress: Progress = False) -> Inversion:
    """For each image a picture whose activation at a layer has the largest dot product with the image's, masked or whole.

    Every picture starts from the same noise and is moved alike. On the CPU each is made by itself and is the same, bit for bit, whatever
    is asked beside it; on a GPU, or with a `batch_size`, the network adds in another order in another batch, and the ascent makes that
    grow: after a hundred steps by some levels of 255. What is reported is of the picture as it is kept, in bytes.

    Args:
        model: any module; left exactly as found.
        images: as the model takes them.
        layer: dotted name, with ``:input`` and ``@n`` as for `capture`.
        pixels: what the model's preprocessing does: ``ca.pixels_of(ca.load_model(...).preprocess)``.
        mask: of channels, [K] or [N, K], in [0, 1]: ``found.channel_mask(row)``, or ``found.masks[row]`` with the image repeated for
            growing areas; None keeps the whole activation.
        targets: class that should be named, [N]; None is the one that the network names for the image.
        settings: None is the usual: `PictureSettings` resolved with ``INVERSION``.
        keys: a name for each row; None is its number.
        score, channel_axis: as for `per_image`.
        batch_size: pictures made at once, at most; less where memory runs out. None is 1 on the CPU and 8 elsewhere.
        progress: True for a bar, or ``f(done, total)``; a step is one of one picture.

    Raises:
        InputError: an argument cannot be used, or an image has no activation left under its mask.
        LayerError, ModelError: as in `per_image`.

    Source: Fong, Patrick and Vedaldi 2019, equation 10; Mahendran and Vedaldi 2015. Departure: the dot product is times the cosine
    (``cosine_power``), as in lucid, for equation 10 alone grows with any activation that is strong.

    Examples:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))
        >>> pixels, settings = ca.Pixels(mean=(0.5,) * 3, std=(0.5,) * 3, size=(8, 8)), ca.PictureSettings(steps=2)
        >>> made = ca.invert(model, torch.rand(2, 3, 8, 8), "1", pixels=pixels, mask=[1, 1, 0, 0], settings=settings)
        >>> made.pictures.shape, made.areas.tolist()
        ((2, 8, 8, 3), [2, 2])
    """
    settings = resolved(settings, INVERSION, INVERSIONS)
    count = check_images(images)
    if not isinstance(images, torch.Tensor):
        raise InputError(f"images are {type(images).__name__}; expected one tensor [N, C, H, W], for pictures are what is made; pass that")
    names, goal = check_keys(keys, count), None if targets is None else check_targets(targets, count)
    originals = px.shown(images.float(), check_pixels(pixels, images.shape[1]))
    check_weights(model)
    check_model(model, images[:1], score)
    place = describe(model, images[:2], layer, channel_axis=channel_axis)
    masks = check_mask(mask, count, place)
    size = at_once(batch_size, images.device)
    with advance(progress, count * settings.steps, f"inversions at {place.name}") as tell, reaching(model, place.name) as read:
        part = partial(_made, read, place, settings, pixels, tell)
        parts = [made for _, made in in_batches(model, count, size, True, lambda s: part(images[s], masks[s], names[s]))]
    pictures, value, likeness, kept = (np.concatenate(whole) for whole in zip(*parts, strict=True))
    wanted = predict(model, images, score, size).argmax(1) if goal is None else goal.cpu()
    predictions, probability = judged(predict(model, px.from_bytes(pictures, pixels).to(images), score, size), wanted)
    return Inversion(layer=place.name, settings=settings, keys=names, masks=masks.cpu().numpy(), pictures=pictures,
                     originals=px.to_bytes(originals), value=value, cosine=likeness, kept_cosine=kept,
                     targets=wanted.numpy().astype(np.int32), predictions=predictions, probability=probability)


def _made(read: Read, place: Layer, settings: PictureSettings, pixels: Pixels, tell: Callable[[int], None], images: Tensor, masks: Tensor,
          names: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Pictures of some images, their value, their cosine, and that within the channels kept."""
    def kept(activation: Tensor) -> Tensor:
        return apply_mask(activation, masks, torch.zeros((), dtype=torch.float32), place.channel_axis, place.name)

    with torch.no_grad():
        wanted = kept(read(images)).flatten(1).float()
    norm = wanted.norm(dim=1)
    if len(bad := torch.nonzero(~((norm > 0) & norm.isfinite()))):
        raise InputError(f"image {names[int(bad[0])]!r} has no finite activation other than 0 at {place.name!r} under its mask; expected "
                         "something to look for; choose a mask that keeps an active channel, or another layer")
    objective = OBJECTIVES[settings.objective]

    def judged(activation: Tensor) -> Tensor:
        compared = kept(activation) if settings.objective == "match" else activation  # which leaves the other channels free
        return objective(compared.flatten(1).float(), wanted, settings.cosine_power)

    start = noise(1, (images.shape[1], images.shape[2], images.shape[3]), settings.seed).to(images.device).expand(images.shape)
    pictures = make(start, lambda shown: judged(read(shown.to(images.dtype))), settings, pixels, tell)  # made in float32
    with torch.no_grad():
        made = read(px.from_bytes(pictures, pixels).to(images))
        told = judged(made), cosine(made.flatten(1).float(), wanted), cosine(kept(made).flatten(1).float(), wanted)
        return (pictures, *(numbers.cpu().numpy() for numbers in told))


def check_mask(mask: Masks | None, count: int, place: Layer) -> Float[Tensor, "N K"]:
    """Masks of channels, one a row.

    Raises:
        InputError: not [K] or [N, K] in [0, 1].
    """
    if mask is None:
        return torch.ones(count, place.channels, dtype=torch.float32)
    given = array_of(mask)
    values = torch.from_numpy(np.empty(0, np.float32) if given is None else given.astype(np.float32))
    fits = values.shape in ((place.channels,), (count, place.channels))
    if not fits or not bool(((values >= 0) & (values <= 1)).all()):
        what = f"mask={str(mask)[:80]}" if given is None else f"mask of shape {tuple(values.shape)}"
        raise InputError(f"{what}{'' if not fits else ' with values outside 0 to 1'} for {count} images at "
                         f"{place.name!r}; expected [{place.channels}] or [{count}, {place.channels}] in [0, 1]; found.channel_mask(row) "
                         "gives one")
    return values.expand(count, place.channels).clone()


def predict(model: nn.Module, images: Tensor, score: Callable[..., Tensor] | None, batch_size: int) -> Tensor:
    """The whole network's logits, f4 [N, C], on the CPU."""
    return torch.cat([exact_logits(model, part, score).cpu() for part in images.split(batch_size)])


def judged(logits: Float[Tensor, "N classes"], wanted: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The class named for each picture, and the probability of the one wanted.

    Raises:
        InputError: a wanted class that the model has not.
    """
    check_range(wanted, logits.shape[1], "leave targets out for the classes that the network names")
    return logits.argmax(1).numpy().astype(np.int32), logits.softmax(1).gather(1, wanted[:, None])[:, 0].numpy()
