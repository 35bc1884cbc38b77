"""Insertion and deletion over pixels: what the network makes of the hottest pixels of a map, put in or taken away step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from chanattr import tables
from chanattr.arguments import Range, check_number
from chanattr.attribution.image import to_f4, to_i4
from chanattr.attribution.inputs import array_of, check_finite, check_keys
from chanattr.errors import InputError
from chanattr.evidence.curves import area_under
from chanattr.evidence.saliency import PictureSubject, subject_of
from chanattr.evidence.whole import exact_logits
from chanattr.network.batches import in_batches
from chanattr.search.objective import Reward, log_probability

STEP = 1 / 50  # of the pixels; Petsiuk's is 1 / 224
KERNEL, SIGMA, CUT = 11, 5.0, 4.0  # of Petsiuk's blur: its width and its sigma in pixels, and where scipy ends a Gaussian, in sigmas
BASES = ("zero", "blur")


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelCurves:
    """What the network makes of the first pixels of a map, hottest first, for N images and P counts of pixels.

    Attributes:
        keys: one an image.
        targets: class numbers, i4 [N].
        counts: pixels, increasing from 0 to all, i4 [P].
        shares: the same over all pixels, f8 [P].
        insertion, deletion: the target's probability with these pixels put into the base, and with them replaced by it, f4 [N, P].
        insertion_score, deletion_score: the reward, f4 [N, P].
        insertion_area, deletion_area: area under the probability's curve by trapezoids: its mean over all shares, f4 [N]. A good map has a
            large one and a small one.
        insertion_score_area, deletion_score_area: the same of the reward, f4 [N].
        insertion_base, deletion_base: by name; "images" where they were given.

    Examples:
        >>> import torch, chanattr as ca
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 5))
        >>> found = ca.pixel_curves(model, torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8), step=0.5)
        >>> found.counts.tolist(), found.shares.tolist(), found.insertion.shape
        ([0, 32, 64], [0.0, 0.5, 1.0], (2, 3))
    """

    keys: tuple[str, ...]
    targets: np.ndarray
    counts: np.ndarray
    shares: np.ndarray
    insertion: np.ndarray
    deletion: np.ndarray
    insertion_score: np.ndarray
    deletion_score: np.ndarray
    insertion_area: np.ndarray
    deletion_area: np.ndarray
    insertion_score_area: np.ndarray
    deletion_score_area: np.ndarray
    insertion_base: str
    deletion_base: str

    __repr__ = tables.outline

    def __len__(self) -> int:
        return len(self.keys)

    def _repr_html_(self) -> str:
        """What a notebook shows: a row an image, with the areas under its curves."""
        facts = (tables.count(len(self), "image"), f"into {self.insertion_base}", f"out to {self.deletion_base}")
        return tables.columns(self, facts, {
            "image": self.keys, "target": self.targets, "insertion": self.insertion_area, "deletion": self.deletion_area,
            "insertion, score": self.insertion_score_area, "deletion, score": self.deletion_score_area})


def pixel_curves(model: nn.Module, images: Tensor, heat: np.ndarray | Tensor, *, targets: Sequence[int] | Tensor | None = None,
                 step: float = STEP, insertion_base: str | Tensor = "blur", deletion_base: str | Tensor = "zero",
                 reward: str | Reward = "logit", score: Callable[..., Tensor] | None = None, keys: Sequence[str] | None = None,
                 batch_size: int | None = None) -> PixelCurves:
    """Insertion and deletion curves of heat maps over the pixels of their images.

    Pixels go by their heat, hottest first; among equals by rows from the top left. Scores are float32. A base leaves traces that a network
    may see (edges of what was taken, the class under a weak blur), so compare maps under the same bases only.

    Args:
        model: left as found.
        images: [N, C, H, W] as the model takes them.
        heat: a map an image, [N, H, W].
        targets: class numbers [N]; None is the predicted class of each.
        step: share of the pixels from one point of a curve to the next; above 0, at most 1.
        insertion_base: what pixels are put into: "blur" (Petsiuk's), "zero" (a mean grey, for models that take it so), or images
            [N, C, H, W] or one for all [C, H, W], as the model takes them, or a colour [C].
        deletion_base: what becomes of pixels taken away, likewise.
        reward: of the scores beside the probabilities; as for `per_image`.
        score: turns the model's output into logits, where it does not give them.
        keys: of the images.
        batch_size: images run at once; None goes by the device.

    Raises:
        InputError: maps of another shape, a base that does not fit, or another argument that cannot be used.
        ModelError: as in `per_image`.

    Source: Petsiuk, Das and Saenko 2018, whose step is 1 / 224.

    Examples:
        >>> import torch, chanattr as ca
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 5))
        >>> drawn = ca.pixel_curves(model, torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8), step=0.25)
        >>> drawn.counts.tolist(), bool((drawn.insertion[:, -1] == drawn.deletion[:, 0]).all())
        ([0, 16, 32, 48, 64], True)
    """
    step = check_number(f"step={step!r}", step, Range(0, 1, without="low"))
    subject = subject_of(model, images, targets, reward, score, batch_size)
    names = check_keys(keys, len(images))
    order = _order(heat, images)
    counts = np.unique(np.rint(np.append(np.arange(0, 1, step), 1) * order.shape[1])).astype(np.int64)
    found: dict[str, Any] = {}
    for kind, asked in (("insertion", insertion_base), ("deletion", deletion_base)):
        base = _base(asked, images, f"{kind}_base")
        found[kind], found[f"{kind}_score"] = _curve(subject, base, order, counts, inserted=kind == "insertion")
        check_finite(torch.from_numpy(found[f"{kind}_score"]), names, f"{kind} scores")
        found[f"{kind}_base"] = asked if isinstance(asked, str) else "images"
        for curve in (kind, f"{kind}_score"):
            found[f"{curve}_area"] = area_under(found[curve], counts).astype(np.float32)
    return PixelCurves(keys=names, targets=to_i4(subject.targets), counts=counts.astype(np.int32),
                       shares=counts / counts[-1], **found)


def petsiuk_blur(images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
    """The blur that Petsiuk's insertion begins with: 11 x 11 pixels of a Gaussian of sigma 5 that is reflected at the edge of these, and
    zeros beyond the border. It is weak on images of 224 pixels, and strong on small ones.
    """
    taps = torch.from_numpy(_reflected_gaussian()).to(images)
    count = images.shape[1]
    down = functional.conv2d(images, taps.view(1, 1, -1, 1).expand(count, -1, -1, -1), padding=(KERNEL // 2, 0), groups=count)
    return functional.conv2d(down, taps.view(1, 1, 1, -1).expand(count, -1, -1, -1), padding=(0, KERNEL // 2), groups=count)


def _reflected_gaussian() -> np.ndarray:
    """A one in the middle of KERNEL values, under a Gaussian that is reflected at their ends (as scipy's filter does): it sums to 1."""
    reach = int(CUT * SIGMA + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SIGMA) ** 2)
    place = (np.arange(-reach, reach + 1) + KERNEL // 2) % (2 * KERNEL)
    taps = np.zeros(KERNEL)
    np.add.at(taps, np.minimum(place, 2 * KERNEL - 1 - place), weights / weights.sum())
    return taps


def _curve(subject: PictureSubject, base: Tensor, order: Int[Tensor, "N HW"], counts: np.ndarray,
           inserted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Probability and reward along one curve, f4 [N, P] each."""
    place = order.argsort(1)  # of every pixel among the hottest
    steps = torch.as_tensor(counts, device=place.device)
    images, points = len(subject.images), len(steps)

    def run(part: slice) -> Tensor:
        number = torch.arange(part.start, part.stop, device=place.device)
        rows, step = number // points, steps[number % points]
        hottest = (place[rows] < step[:, None]).view(-1, 1, *subject.images.shape[2:])
        shown = torch.where(hottest == inserted, subject.images[rows], base[rows])
        logits, goal = exact_logits(subject.model, shown, subject.output_score), subject.targets[rows]
        return torch.stack([log_probability(logits, goal).exp(), subject.reward(logits, goal).float()])

    found = torch.cat([got for _, got in in_batches(subject.model, images * points, subject.batch_size, False, run)], 1)
    return to_f4(found[0].view(images, points)), to_f4(found[1].view(images, points))


def _order(heat: Any, images: Tensor) -> Int[Tensor, "N HW"]:
    """The pixels of each map, hottest first.

    Raises:
        InputError: no finite map an image.
    """
    count, _, height, width = images.shape
    given = array_of(heat)
    if given is None or given.shape != (count, height, width) or not np.isfinite(given).all():
        what = f"heat is {type(heat).__name__}" if given is None else f"heat has shape {given.shape} and type {given.dtype}"
        raise InputError(f"{what}; expected finite maps [{count}, {height}, "
                         f"{width}], one an image and of its size; scale them up with torch.nn.functional.interpolate")
    return torch.from_numpy(given).to(images.device).flatten(1).argsort(dim=1, descending=True, stable=True)


def _base(asked: str | Tensor, images: Tensor, name: str) -> Tensor:
    """What is under the pixels, [N, C, H, W]."""
    if isinstance(asked, str):
        if asked not in BASES:
            raise InputError(f"{name}={asked!r}; expected one of {', '.join(BASES)}, or images; leave it out for Petsiuk's")
        return torch.zeros_like(images) if asked == "zero" else petsiuk_blur(images)
    values = array_of(asked)
    if values is None:
        raise InputError(f"{name} is {type(asked).__name__}; expected one of {', '.join(BASES)}, or images; leave it out for Petsiuk's")
    given = torch.from_numpy(values).to(images)
    given = given[:, None, None] if given.ndim == 1 else given
    try:
        whole = given.expand(images.shape)
    except RuntimeError:
        whole = None
    if whole is None or not given.isfinite().all() or math.prod(given.shape) == 0:
        raise InputError(f"{name} has shape {tuple(values.shape)} for images {tuple(images.shape)}; expected finite images of the same "
                         "shape, one [C, H, W], or a colour [C]; resize them")
    return whole
