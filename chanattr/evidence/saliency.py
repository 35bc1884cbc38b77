"""Baselines on the picture: where the evidence for a class lies by the attributions of the field, one function each, through one table."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from chanattr.arguments import RATE, SEEDS, SHARE, check_function, check_name, check_number
from chanattr.attribution.inputs import check_finite, checked_reward
from chanattr.attribution.perturbation import blurred, pyramid_of
from chanattr.attribution.question import batch_size_of
from chanattr.errors import InputError, LayerError
from chanattr.evidence.whole import at_layer, exact_logits, last_calls, targets_of
from chanattr.network.batches import in_batches
from chanattr.network.exactly import float32_exactly
from chanattr.network.hooks import frozen
from chanattr.network.layers import Layer, describe, layers
from chanattr.network.outputs import call, logits_of
from chanattr.progress import Progress, advance
from chanattr.search.exact import FORWARDS
from chanattr.search.objective import Reward, log_probability, reward_function

RISE_MASKS, RISE_CELLS, RISE_SHARE = 1000, 7, 0.5  # masks drawn; cells a side; share of cells kept (Petsiuk's 7 and 0.5)
PATCH, STRIDE = 1 / 7, 1 / 14  # of the side: an occluded square, and from one to the next
CENTRE = 0.25  # sigma of the centre's Gaussian, of the side
SMOOTHED = {"blur_ig": 0.09}  # sigma of the side: as broad as the disc of one cell of a smooth mask, and as the pointing game smooths masks
SCATTERED: dict[str, Any] = {"smooth": 0.02, "padding": "edge"}  # what TorchRay gives the pointing game with gradients
POINTING = {"gradient": SCATTERED, "gradient_x_input": SCATTERED}

Pyramid = Callable[[Tensor], Tensor]


class Heat(NamedTuple):
    """Maps of N images, and the evaluations an image that they took.

    Attributes:
        values: [N, H, W]; larger is more evidence. Scales differ from method to method and image to image.
        evaluations: (forwards + 2 backwards) / 3 of one image.
    """

    values: Float[Tensor, "N H W"]
    evaluations: float


class PictureSubject(NamedTuple):
    """What a method may look at: some images and the question about them.

    Attributes:
        model: left as found.
        images: as the model takes them.
        targets: class of each.
        reward: of logits and targets.
        output_score: turns the model's output into logits, or None.
        batch_size: images run at once, at most.
        layer: of Grad-CAM.
        pyramid: blurs images, [N, C, H, W] to [L, N, C, H, W], the image itself last.
        seed: of what is drawn.
    """

    model: nn.Module
    images: Float[Tensor, "N C H W"]
    targets: Int[Tensor, "N"]
    reward: Reward
    output_score: Callable[..., Tensor] | None
    batch_size: int
    layer: Layer | None = None
    pyramid: Pyramid = pyramid_of
    seed: int = 0


Method = Callable[[PictureSubject], Heat]


def pointing_of(method: str) -> dict[str, Any]:
    """What `pointing_game` is given a method's maps with: gradients are smoothed, all others lie as they are.

    Source: TorchRay's ``attribution_benchmark``, for the methods that it has.
    """
    return POINTING.get(method, {"smooth": 0.0})


def saliency(model: nn.Module, images: Tensor, method: str, *, targets: Sequence[int] | Tensor | None = None,
             reward: str | Reward = "logit", score: Callable[..., Tensor] | None = None, layer: str | None = None,
             pyramid: Pyramid | None = None, smooth: float | None = None, seed: int = 0, batch_size: int | None = None,
             progress: Progress = False) -> Heat:
    """Heat maps of images by one of the field's methods; see `SALIENCY` for all of them.

    Args:
        model: left as found; runs in eval mode, in float32 without TF32.
        images: [N, C, H, W] as the model takes them.
        method: "centre", "gradient", "gradient_x_input", "grad_cam", "blur_ig" (blur integrated gradients), "rise" (1,000 masks), or
            "occlusion".
        targets: class numbers [N]; None is the predicted class of each.
        reward: "logit", "contrastive", "log_probability" or a callable (logits, targets) -> [N]; "rise" takes the probability instead.
        score: turns the model's output into logits, where it does not give them.
        layer: of "grad_cam"; None is the last to be called that gives a grid.
        pyramid: of "blur_ig": images [N, C, H, W] to [L, N, C, H, W], from wholly blurred to as they are; None is `pyramid_of`, TorchRay's
            eight levels.
        smooth: sigma of a Gaussian over the maps, as a share of each side, zeros outside; None is 0.09 for "blur_ig", 0 for the others.
        seed: of "rise".
        batch_size: images run at once; None goes by the device.
        progress: True (a bar), False, or ``f(done, total)``, in images.

    Raises:
        InputError: no such method, or an argument cannot be used.
        LayerError, ModelError: as in `per_image`; or no layer gives a grid.

    Examples:
        >>> import torch, chanattr as ca
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 5))
        >>> heat = ca.saliency(model, torch.rand(2, 3, 8, 8), "gradient")
        >>> heat.values.shape, heat.evaluations
        (torch.Size([2, 8, 8]), 1.0)
    """
    check_name("method", method, SALIENCY, remedy="ask for one of them")
    share = check_number(f"smooth={smooth!r}", SMOOTHED.get(method, 0.0) if smooth is None else smooth, SHARE)
    seed = int(check_number(f"seed={seed!r}", seed, SEEDS))
    pyramid = pyramid_of if pyramid is None else pyramid
    check_function("pyramid", pyramid, "images", "leave it out for the usual")
    subject = subject_of(model, images, targets, reward, score, batch_size)._replace(pyramid=pyramid, seed=seed)
    if method == "grad_cam":
        subject = subject._replace(layer=grid_layer(model, images[:2], layer))
    found = []
    with advance(progress, len(images), method) as tell:
        for part, goal in zip(images.split(subject.batch_size), subject.targets.split(subject.batch_size), strict=True):
            found.append(SALIENCY[method](subject._replace(images=part, targets=goal)))
            tell(len(part))
    values = torch.cat([one.values for one in found]).float()
    check_finite(values, [str(row) for row in range(len(images))], f"{method} maps")
    height, width = values.shape[1:]
    return Heat(blurred(values[:, None], share * height, share * width)[:, 0], found[0].evaluations)


def centre(subject: PictureSubject) -> Heat:
    """A Gaussian at the middle, which knows nothing of the image: photographers' habit, and the floor of the pointing game."""
    count, _, height, width = subject.images.shape
    down, right = ((torch.arange(side, device=subject.images.device).float() + 0.5) / side - 0.5 for side in (height, width))
    one = torch.exp(-(down[:, None] ** 2 + right[None] ** 2) / (2 * CENTRE**2))
    return Heat(one.expand(count, -1, -1), 0.0)


def gradient(subject: PictureSubject) -> Heat:
    """The largest absolute slope of the reward among a pixel's colours.

    Source: Simonyan, Vedaldi and Zisserman 2013, as in TorchRay.
    """
    return Heat(_slopes(subject, subject.images).abs().amax(1), 1.0)


def gradient_x_input(subject: PictureSubject) -> Heat:
    """The slope times the value, summed over a pixel's colours: with signs, against a picture of zeros as the model takes them.

    Source: Shrikumar et al. 2016.
    """
    return Heat((_slopes(subject, subject.images) * subject.images).sum(1), 1.0)


def grad_cam(subject: PictureSubject) -> Heat:
    """A layer's channels summed with their mean slopes as weights, what is negative left out, scaled up to the image.

    Source: Selvaraju et al. 2017, equations 1 and 2, as in TorchRay.
    """
    if subject.layer is None:
        raise InputError("Grad-CAM without a layer; expected a PictureSubject with one; ask by saliency(..., 'grad_cam')")
    asked = functools.partial(at_layer, subject.model, layer=subject.layer, reward=subject.reward, score=subject.output_score)
    parts = in_batches(subject.model, len(subject.images), subject.batch_size, True,
                       lambda part: asked(subject.images[part].clone(), targets=subject.targets[part]))
    activation, slopes = (torch.cat(same) for same in zip(*(found for _, found in parts), strict=True))
    heat = (activation * slopes.mean(1, keepdim=True)).sum(2).relu()
    height, width = subject.layer.grid
    scaled = functional.interpolate(heat.view(-1, 1, height, width), subject.images.shape[2:], mode="bilinear", align_corners=False)
    return Heat(scaled[:, 0], 1.0)


def blur_ig(subject: PictureSubject) -> Heat:
    """Blur integrated gradients: the slope of the reward along a uniform mask, meant over the levels of a blur pyramid.

    The way from the blurred image to the image is a straight line from each level to the next, and the integral over it is by trapezoids: a
    gradient a level. Unsmoothed, a map sums to the reward of the image less that of the blurred one, exactly where the reward is linear or
    quadratic in the image, and as near as the levels are fine elsewhere.

    Source: Sundararajan, Taly and Yan 2017, along a path of blurs as in Xu, Venugopalan and Sundararajan 2020, on TorchRay's pyramid.
    """
    levels = subject.pyramid(subject.images)
    if levels.ndim != 5 or levels.shape[1:] != subject.images.shape or len(levels) < 2:
        raise InputError(f"the pyramid has shape {tuple(levels.shape)} for images {tuple(subject.images.shape)}; expected "
                         "[L, N, C, H, W], L at least 2, the image last; leave pyramid out for the usual")
    total = torch.zeros_like(subject.images[:, 0])
    for place, level in enumerate(levels):
        step = (levels[min(place + 1, len(levels) - 1)] - levels[max(place - 1, 0)]) / 2
        total = total + (_slopes(subject, level) * step).sum(1)
    return Heat(total, float(len(levels)))


def rise(subject: PictureSubject) -> Heat:
    """Random masks summed with the probability of the class under each as weights; the same masks for every image.

    Maps have an offset, about half the mean probability, which the maximum does not mind.

    Source: Petsiuk, Das and Saenko 2018: 7 x 7 cells kept by halves, scaled up and shifted; 1,000 masks where they take 4,000 to 8,000.
    """
    height, width = subject.images.shape[2:]
    total = torch.zeros_like(subject.images[:, 0], dtype=torch.float32)
    for masks in rise_masks(RISE_MASKS, (height, width), seed=subject.seed, at_once=subject.batch_size):
        masks = masks.to(total)
        for row in range(len(total)):
            chance = _forwards(subject, masks, row, _probability)
            total[row] += torch.einsum("m,mhw->hw", chance, masks)
    return Heat(total / (RISE_MASKS * RISE_SHARE), RISE_MASKS / FORWARDS)


def occlusion(subject: PictureSubject) -> Heat:
    """What the reward loses, on average, when a square over the pixel is put to zero (a mean grey, for models that take it so).

    Squares of a seventh of the side, half of one apart; every pixel lies under the same number of them, up to rounding.

    Source: Zeiler and Fergus 2014.
    """
    height, width = subject.images.shape[2:]
    down, right = _strips(height), _strips(width)
    squares = (down[:, None, :, None] * right[None, :, None, :]).flatten(0, 1).to(subject.images.device)
    found = []
    for row in range(len(subject.images)):
        whole = _forwards(subject, torch.ones_like(squares[:1]), row, subject.reward)
        lost = whole - _forwards(subject, 1 - squares, row, subject.reward)
        found.append(torch.einsum("m,mhw->hw", lost, squares) / squares.sum(0))
    return Heat(torch.stack(found), (1 + len(squares)) / FORWARDS)


SALIENCY: dict[str, Method] = {"centre": centre, "gradient": gradient, "gradient_x_input": gradient_x_input, "grad_cam": grad_cam,
                               "blur_ig": blur_ig, "rise": rise, "occlusion": occlusion}


def rise_masks(count: int, size: tuple[int, int], *, cells: int = RISE_CELLS, share: float = RISE_SHARE, seed: int = 0,
               at_once: int = 100) -> Iterator[Float[Tensor, "M H W"]]:
    """RISE's random masks in [0, 1], in parts of `at_once`, on the CPU; the parts do not change them.

    Args:
        count: masks.
        size: (height, width).
        cells: a side, each kept with the probability `share`; scaled up to one cell more than the image and shifted by up to one.
        share: of cells that are kept.
        seed: of all draws.
        at_once: masks a part.

    Examples:
        >>> [part.shape for part in rise_masks(3, (16, 20), at_once=2)]
        [torch.Size([2, 16, 20]), torch.Size([1, 16, 20])]
    """
    check_number(f"share={share!r}", share, RATE)
    generator = torch.Generator().manual_seed(seed)
    grids = (torch.rand(count, cells, cells, generator=generator, dtype=torch.float32) < share).float()
    cell = [math.ceil(side / cells) for side in size]
    shifts = torch.stack([torch.randint(one, (count,), generator=generator) for one in cell], 1)
    for grid, shift in zip(grids.split(at_once), shifts.split(at_once), strict=True):
        whole = functional.interpolate(grid[:, None], [(cells + 1) * one for one in cell], mode="bilinear", align_corners=False)[:, 0]
        yield torch.stack([one[down:down + size[0], right:right + size[1]]
                           for one, (down, right) in zip(whole, shift.tolist(), strict=True)])


def subject_of(model: nn.Module, images: Tensor, targets: Sequence[int] | Tensor | None, reward: str | Reward,
               score: Callable[..., Tensor] | None, batch_size: int | None) -> PictureSubject:
    """What a caller asks of pictures, checked.

    Raises:
        InputError: images are no floating tensor [N, C, H, W], or another argument cannot be used.
        ModelError: the model fails on these images.
    """
    size = batch_size_of(batch_size, model)
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point() or not images.numel():
        what = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images are {what}; expected a floating tensor [N, C, H, W] as the model takes it, N at least 1; "
                         "ca.image_loader reads picture files")
    goal = targets_of(model, images, targets, score, size)
    return PictureSubject(model, images, goal, checked_reward(reward_function(reward), str(reward)), score, size)


def grid_layer(model: nn.Module, example: Tensor, name: str | None) -> Layer:
    """The layer that Grad-CAM looks at: the one named, or the last to be called whose output has a grid.

    Raises:
        LayerError: no such layer; it has no grid; none has; or the network works on tokens after the last that has, and one must be named.
    """
    if name is not None:
        found = describe(model, example, name)
        if min(found.grid) < 2:
            raise LayerError(f"layer {name!r} gives {list(found.shape)}, which has no grid of two sides; expected [N, K, h, w] or "
                             "[N, h, w, K]; choose a layer with both, as 'chanattr layers MODEL' lists them")
        return found
    last = last_calls(model, example)
    given = sorted((one for one in layers(model, example) if one.name and one.calls and len(one.shape) > 2 and one.channel_axis > 0),
                   key=lambda one: last[one.name])
    gridded = [one for one in given if min(one.grid) > 1 and one.shape[0] == len(example)]
    if not gridded:
        raise LayerError("no layer of the model gives a grid, which Grad-CAM needs; expected [N, K, h, w] somewhere; use another method, "
                         "or name a layer")
    chosen = gridded[-1]
    later = [one for one in given if one.grid[0] == 1 and one.grid[1] > 1 and last[one.name] > last[chosen.name]]
    if later:
        raise LayerError(f"after {chosen.name!r}, the last layer with a grid, the model works on tokens ({later[-1].name!r} gives "
                         f"{list(later[-1].shape)}); expected a layer to be named; pass layer=, or use another method")
    return describe(model, example, chosen.name + f"@{chosen.calls}" * (chosen.calls > 1))


@torch.inference_mode(False)
def _slopes(subject: PictureSubject, images: Tensor) -> Float[Tensor, "N C H W"]:
    """The reward's slope at each value of some images, which are asked about as the subject's are."""

    def run(part: slice) -> Tensor:
        leaf = images[part].detach().clone().requires_grad_()
        with frozen(subject.model), torch.enable_grad(), float32_exactly():
            logits = logits_of(call(subject.model, leaf), subject.output_score).float()
            rewards = subject.reward(logits, subject.targets[part].clone())
            return torch.autograd.grad(rewards.sum(), leaf)[0].float()

    return torch.cat([got for _, got in in_batches(subject.model, len(images), subject.batch_size, True, run)])


def _forwards(subject: PictureSubject, masks: Float[Tensor, "M H W"], row: int, reward: Reward) -> Float[Tensor, "M"]:
    """The reward of one image times each of some masks."""
    image = subject.images[row]

    def run(part: slice) -> Tensor:
        logits = exact_logits(subject.model, masks[part, None].to(image.dtype) * image, subject.output_score)
        return reward(logits, subject.targets[row].expand(len(logits))).float()

    return torch.cat([got for _, got in in_batches(subject.model, len(masks), subject.batch_size, False, run)])


def _probability(logits: Tensor, targets: Tensor) -> Tensor:
    return log_probability(logits, targets).exp()


def _strips(side: int) -> Float[Tensor, "S side"]:
    """Ones where a strip lies: of PATCH of the side, STRIDE apart, the first and the last partly outside."""
    patch = max(1, round(PATCH * side))
    stride = min(patch, max(1, round(STRIDE * side)))
    first = torch.arange(stride - patch, side, stride)[:, None]
    place = torch.arange(side)[None]
    return ((place >= first) & (place < first + patch)).float()
