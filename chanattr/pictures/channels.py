"""Pictures that drive a channel, a weighted set of channels, or what sets one class apart from another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from chanattr.arguments import STEPS, check_kind, check_number, listed
from chanattr.attribution.inputs import array_of, check_model
from chanattr.attribution.score import channels_last
from chanattr.axes import class_row
from chanattr.errors import InputError
from chanattr.network.batches import in_batches
from chanattr.network.layers import Layer, describe
from chanattr.network.outputs import device_of, dtype_of
from chanattr.network.weights import check_weights
from chanattr.picture_records import ChannelImages
from chanattr.picture_settings import CHANNEL, CHANNELS, PictureSettings, resolved
from chanattr.pictures import pixels as px
from chanattr.pictures.inversion import predict
from chanattr.pictures.making import at_once, make, noise, parametrise, smoothed, start_of
from chanattr.pictures.parameters import natural_pictures
from chanattr.pictures.pixels import Pixels, check_pixels
from chanattr.pictures.reach import reaching
from chanattr.progress import Progress, advance
from chanattr.records import ClassAttribution

# Starts that a picture is chosen from: how many, times the contrast, and by which power more their frequencies fall. A channel after a ReLU
# may be silent on faint noise, and then nothing tells the way: bolder and smoother ones are tried, but only then, for they leave traces.
# Some are silent on all noise: those start from the shipped picture that drives them most.
STARTS = ((4, 1.0, 0.0), (4, 10.0, 0.5), (8, 20.0, 0.5), (8, 40.0, 1.0), (8, 80.0, 1.0))
NATURAL, NATURAL_BOLD = 4, 16.0  # pictures of each class; by how much they are bolder, about


@torch.inference_mode(False)
def visualise(model: nn.Module, layer: str, wanted: Sequence[int] | np.ndarray, *, pixels: Pixels, count: int = 1,
              names: Sequence[str] | None = None, settings: PictureSettings | None = None, score: Callable[..., Tensor] | None = None,
              channel_axis: int | None = None, batch_size: int | None = None, progress: Progress = False) -> ChannelImages:
    """Pictures with the largest (weighted) mean activation over positions, several of each row if asked.

    On the CPU every row is made by itself and is the same, bit for bit, whatever is asked beside it; on a GPU, or with a `batch_size`, the
    network adds in another order in another batch, and the ascent makes that grow, as in `invert`. What is reported is of the picture as it
    is kept, in bytes.

    Args:
        model: any module; left exactly as found.
        layer: dotted name, with ``:input`` and ``@n`` as for `capture`.
        wanted: channel numbers, one a row; or weights of all channels, f [R, K], such as `class_weights` gives: negative ones are driven
            down.
        pixels: what the model's preprocessing does: ``ca.pixels_of(ca.load_model(...).preprocess)``; its size is the pictures'.
        count: pictures of each row; ``settings.diversity`` keeps them apart.
        names: one a row; None is "channel 12" (or "set 0" for weights).
        settings: None is the usual: `PictureSettings` resolved with ``CHANNEL``.
        score, channel_axis: as for `per_image`.
        batch_size: pictures made at once, at most, but for those of one row; less where memory runs out. None is 1 on the CPU and 8
            elsewhere.
        progress: True for a bar, or ``f(done, total)``; a step is one of one picture.

    Raises:
        InputError: an argument cannot be used.
        LayerError, ModelError: as in `per_image`.

    Source: Olah, Mordvintsev and Schubert 2017; MaCo (``parametrisation="magnitude"``) Fel et al. 2023.

    Examples:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))
        >>> pixels, settings = ca.Pixels(mean=(0.5,) * 3, std=(0.5,) * 3, size=(8, 8)), ca.PictureSettings(steps=2)
        >>> made = ca.visualise(model, "1", [0, 3], pixels=pixels, count=2, settings=settings)
        >>> made.names, made.pictures.shape
        (('channel 0', 'channel 3'), (2, 2, 8, 8, 3))
    """
    settings = resolved(settings, CHANNEL, (CHANNELS,))
    check_pixels(pixels)
    count = int(check_number(f"count={count!r}", count, STEPS))
    example = px.normalised(torch.full((2, len(pixels.mean), *pixels.size), 0.5, device=device_of(model), dtype=torch.float32), pixels)
    check_weights(model)
    takes = dtype_of(model)
    check_model(model, example[:1].to(takes), score)
    place = describe(model, example.to(takes), layer, channel_axis=channel_axis)
    weights, labels = check_wanted(wanted, place, names)
    size = at_once(batch_size, example.device)
    with advance(progress, len(weights) * count * settings.steps, f"pictures at {place.name}") as tell, reaching(model, place.name) as read:
        work = _Work(lambda shown: read(shown.to(takes)), place, settings, pixels, count, tell)
        parts = [made for _, made in in_batches(model, len(weights), max(1, size // count), True,
                                                lambda s: work.part(weights[s].to(example)))]
    pictures, value = (np.concatenate(whole) for whole in zip(*parts, strict=True))
    flat = px.from_bytes(pictures.reshape(-1, *pictures.shape[2:]), pixels).to(example.device, takes)
    probability, predictions = predict(model, flat, score, size).softmax(1).max(1)
    return ChannelImages(layer=place.name, settings=settings, names=labels, weights=weights.numpy(), pictures=pictures, value=value,
                         predictions=predictions.numpy().astype(np.int32).reshape(value.shape),
                         probability=probability.numpy().reshape(value.shape))


def class_weights(classes: ClassAttribution, target: int, against: int | None = None) -> Float[np.ndarray, "1 K"]:
    """How often a class's images need each channel, less how often another's do, as `visualise` takes it.

    Args:
        classes: what `per_class` gave; its ``mean_mask`` are the inclusion rates.
        target: a class number of it.
        against: another one; None takes nothing off.

    Raises:
        InputError: no such class, one of which no image reaches its level, or nothing that its images need (more than the other's).

    Examples:
        >>> import chanattr as ca
        >>> classes = ca.figures.samples.classes()
        >>> (10 * ca.class_weights(classes, 1, against=0)).round().tolist()
        [[-10.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.0, 0.0]]
    """
    check_kind("classes", classes, ClassAttribution, "pass what per_class gave")
    rows = {one: class_row(classes, one) for one in ([target] if against is None else [target, against])}
    if against is not None and len(rows) < 2:
        raise InputError(f"class {target} less class {against}, itself; expected another class, whose rates are taken off; name one, or "
                         "leave against out")
    rates = []
    for one, row in rows.items():
        classes.channels(one, 1, source="mean")  # refuses what has no rates
        rates.append(classes.mean_mask[row][classes.groups])
    weights = np.asarray(rates[0] - (rates[1] if against is not None else 0), np.float32)
    if not weights.any():
        what = f"no a* set of class {target} has a channel" if against is None else (
            f"the a* sets of classes {target} and {against} have every channel equally often")
        raise InputError(f"{what} at {classes.layer!r}; expected a channel to look for; name another class, or channels by their numbers")
    return weights[None]


def check_wanted(wanted: Sequence[int] | np.ndarray, place: Layer,
                 names: Sequence[str] | None) -> tuple[Float[Tensor, "R K"], tuple[str, ...]]:
    """Weights of the channels and a name for each row.

    Raises:
        InputError: no channel numbers of this layer and no weights, or another number of names.
    """
    given = array_of(wanted)
    values = np.empty(0) if given is None else given
    if values.ndim == 2 and values.shape[1] == place.channels and len(values) and np.isfinite(values).all() and values.any(1).all():
        weights, usual = torch.from_numpy(values.astype(np.float32)), [f"set {row}" for row in range(len(values))]
    elif values.ndim == 1 and len(values) and values.dtype.kind in "iu" and 0 <= values.min() <= values.max() < place.channels:
        weights = torch.eye(place.channels, dtype=torch.float32)[torch.from_numpy(values.astype(np.int64))]
        usual = [f"channel {channel}" for channel in values.tolist()]
    else:
        what = f"wanted={str(wanted)[:80]}" if values.ndim < 2 else f"wanted of shape {values.shape}"
        raise InputError(f"{what} at {place.name!r}; expected channel numbers from 0 to {place.channels - 1}, or "
                         f"weights [rows, {place.channels}] that are not all 0; ca.class_weights gives a class's")
    labels = tuple(usual if names is None else map(str, listed("names", names, "texts, one a row", "leave names out for the usual")))
    if len(labels) != len(weights):
        raise InputError(f"{len(labels)} names for {len(weights)} rows; expected one each; leave names out for the usual")
    return weights, labels


class _Work(NamedTuple):
    """What is the same for every batch."""

    read: Callable[[Tensor], Tensor]
    place: Layer
    settings: PictureSettings
    pixels: Pixels
    copies: int
    tell: Callable[[int], None]

    def part(self, weights: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Pictures of some rows, and their value."""
        each = weights.repeat_interleave(self.copies, 0)
        start, bold = self.start(each)
        fading = None if self.settings.parametrisation == "magnitude" else bold  # there the contrast is given

        def objective(shown: Tensor) -> Tensor:
            flat = self.positions(shown)
            found = (flat.mean(1) * each).sum(1)
            if self.settings.diversity and self.copies > 1:
                found = found - self.settings.diversity * found.detach().abs() * likeness(flat, self.copies)
            return found

        pictures = make(start, objective, self.settings, self.pixels, self.tell, fading)
        with torch.no_grad():
            value = (self.positions(px.from_bytes(pictures, self.pixels).to(each)).mean(1) * each).sum(1)
        return pictures.reshape(len(weights), self.copies, *pictures.shape[1:]), value.cpu().numpy().reshape(len(weights), self.copies)

    def positions(self, shown: Tensor) -> Float[Tensor, "N P K"]:
        """The activation of pictures as the model takes them, its positions in one row."""
        return channels_last(self.read(shown).float(), self.place)

    @torch.no_grad()
    def start(self, each: Float[Tensor, "N K"]) -> tuple[Float[Tensor, "N C H W"], Float[Tensor, " N"]]:
        """For each picture the start of the largest value among a few of its own; bolder ones where the fainter ones' are all the same.

        And how bold each is.
        """
        chosen = torch.zeros(len(each), len(self.pixels.mean), *self.pixels.size, device=each.device, dtype=torch.float32)
        boldness = torch.ones(len(each), device=each.device, dtype=torch.float32)
        silent = torch.ones(len(each), dtype=torch.bool, device=each.device)
        turn = torch.arange(len(each), device=each.device) % self.copies
        for starts, bold in self.levels():
            best = torch.full((len(each),), -torch.inf, device=each.device, dtype=torch.float32)
            least = torch.full((len(each),), torch.inf, device=each.device, dtype=torch.float32)
            for number, start in enumerate(starts.to(each)):
                shown = px.normalised(parametrise(start[None], self.settings).draw(), self.pixels)
                value = (self.positions(shown).mean(1) * each).sum(1)
                mine = silent & (turn == number % self.copies)
                better = mine & (value > best)
                least[mine] = least[mine].minimum(value[mine])
                best[better], chosen[better], boldness[better] = value[better], start, bold
            silent &= ~(best > least)
            if not bool(silent.any()):
                break
        return chosen, boldness

    def levels(self) -> Iterator[tuple[Float[Tensor, "M C H W"], float]]:
        """Starts from the faintest to the boldest, and by how much they are bolder; noise, and at last natural pictures."""
        shape = (len(self.pixels.mean), *self.pixels.size)
        for tries, bold, slope in STARTS:
            drawn = noise(tries * self.copies, shape, self.settings.seed)
            yield (smoothed(drawn, bold, slope) if slope else bold * drawn), bold
        if shape[0] in (1, 3):
            natural = natural_pictures(*shape, per_class=NATURAL)
            yield start_of(natural, self.settings).repeat(-(-2 * self.copies // len(natural)), 1, 1, 1), NATURAL_BOLD


def likeness(flat: Float[Tensor, "N P K"], count: int) -> Float[Tensor, " N"]:
    """For each picture the mean cosine of its channels' Gram matrix with those of the other pictures of its row.

    Source: the diversity term of Olah, Mordvintsev and Schubert 2017.
    """
    gram = torch.nn.functional.normalize(torch.einsum("npk,npl->nkl", flat, flat).flatten(1), dim=1).view(-1, count, flat.shape[-1] ** 2)
    return ((gram @ gram.mT).sum(2) - 1).flatten() / (count - 1)
