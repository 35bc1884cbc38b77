"""What comes with a question, checked before any work on it: images, keys, targets, the model, a reward, answers at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized

import numpy as np
import torch
from torch import Tensor, nn

from chanattr.errors import ChanattrError, InputError, ModelError, first_line
from chanattr.network.hooks import frozen
from chanattr.network.inputs import described, running, take_rows, tensors_of
from chanattr.network.names import check_module, kind
from chanattr.network.outputs import Inputs, batch_size_of, call, first_tensor, logits_of
from chanattr.network.stem import Stem
from chanattr.network.tail import Tail, bind
from chanattr.records import ImageAttribution
from chanattr.search.objective import Reward
from chanattr.settings import Settings

SAME = 0.02  # how far probabilities of the same images may lie apart: other devices and half precision
# What answers at hand must have been asked with; areas and search may differ.
SHARED = ("layer", "reward", "game", "fill", "fill_sha256", "level", "score", "model_sha256")


def check_images(images: object) -> int:
    """Refuses what is no batch of images; gives their number.

    Raises:
        InputError: not a floating tensor with a batch axis and at least one image, nor a tuple or mapping of tensors with a row an
            image, of which one is such a tensor.
    """
    if "images" in getattr(images, "_fields", ()):
        raise InputError(f"images are a {type(images).__name__} of a loader; expected what of it the model takes; pass batch.images, and "
                         "keys=batch.keys to have the files' names in the answers")
    tensors = tensors_of(images) if isinstance(images, (tuple, Mapping)) and first_tensor(images) is not None else [images]
    fitting = [x for x in tensors if isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 1 and len(x)]
    if not fitting:
        what = f"{type(images).__name__}{_shape(images)}"
        raise InputError(f"images are {what}; expected a floating tensor [N, ...] as the model takes it, N at least 1, or a tuple or "
                         "mapping that holds one; make them floats by the model's own preprocessing, tensors by torch.from_numpy; "
                         "ca.image_loader reads picture files")
    return len(fitting[0])


def check_model(model: nn.Module, images: Inputs, score: Callable[..., Tensor] | None) -> None:
    """Runs the model once as it is, so that its own error comes with what it was given.

    Raises:
        ModelError: it is no module, or it or the score function fails on these images, gives another number of rows, or is quantised.
    """
    check_module(model)
    _check_unquantised(model)
    with running(model, images), frozen(model), torch.no_grad():
        logits = logits_of(call(model, images), score)
    if len(logits) != batch_size_of(images):
        raise ModelError(f"{type(model).__name__} gave logits {tuple(logits.shape)} for {described(images)}; expected one row an image; "
                         "give images with a batch axis [N, ...]")


def tail_at(model: nn.Module, images: Inputs, layer: str, *, engine: str, score: Callable[..., Tensor] | None,
            channel_axis: int | None) -> Tail:
    """The network after a layer, made on the first two images, on which the model is checked before.

    Raises:
        InputError, LayerError, ModelError: as `check_model` and `bind`.
    """
    example = take_rows(images, slice(0, 2))
    check_model(model, example, score)
    return bind(model, example, [layer], engine=engine, score=score, channel_axis=channel_axis)[layer]


def _check_unquantised(model: nn.Module) -> None:
    """Refuses a model with integer kernels, which have no backward pass: no slope would reach the mask.

    Raises:
        ModelError: so; names the first of its quantised modules.
    """
    for name, module in model.named_modules():
        if hasattr(module, "_packed_params"):
            raise ModelError(f"{kind(model)} is quantised ({type(module).__name__} {name!r}), and no gradient flows through integers "
                             "to the mask; expected a model in floating point; ask about the model before its conversion, or about "
                             "ca.dequantised(model) where that was eager, which computes nearly the same, and put what is found into the "
                             "quantised one with ca.inject")


def check_keys(keys: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Keys, one a row and all different; None is ``str(row)``.

    Raises:
        InputError: another number of keys, one that is no text, or one twice.
    """
    if keys is None:
        return tuple(str(row) for row in range(count))
    given = "one text" if isinstance(keys, str) else len(keys) if isinstance(keys, Sized) else type(keys).__name__
    if given != count:
        raise InputError(f"{given} as keys for {count} images; expected a list of texts, one each; leave keys out for row numbers")
    seen: set[str] = set()
    for key in keys:
        if not isinstance(key, str):
            raise InputError(f"key {key!r} is {type(key).__name__}; expected text; pass [str(key) for key in keys]")
        if key in seen:
            raise InputError(f"key {key!r} comes twice; expected every image to have its own; rename one, or leave keys out")
        seen.add(str(key))
    return tuple(str(key) for key in keys)


def array_of(given: object) -> np.ndarray | None:
    """A caller's real numbers as an array of its own, a tensor's without their history; None where they are none."""
    try:
        plain = given.detach().cpu() if isinstance(given, Tensor) else given
        values = np.asarray(plain.double() if isinstance(plain, Tensor) and plain.is_floating_point() else plain)  # numpy has no bfloat16
    except (TypeError, ValueError, RuntimeError):
        return None
    return values.copy() if values.dtype.kind in "biuf" else None


def check_targets(targets: Sequence[int] | np.ndarray | Tensor, count: int) -> Tensor:
    """Class numbers, one an image, i8 [count].

    Raises:
        InputError: not one whole number an image.
    """
    try:
        values = torch.as_tensor(np.ascontiguousarray(targets) if isinstance(targets, np.ndarray) else targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"targets={str(targets)[:80]} are no numbers; expected {count} whole numbers, one an image; "
                         "leave targets out for the predicted classes") from error
    if values.shape != (count,) or values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise InputError(f"targets have shape {tuple(values.shape)} and type {values.dtype}; expected {count} whole numbers, one an image; "
                         f"leave targets out for the predicted classes, or give [7] * {count} for one class")
    return values.long()


def goal_of(targets: Sequence[int] | Tensor | None, stem: Stem) -> Tensor:
    """Class numbers of a stem's images, where its logits are; None is the class that the whole network predicts.

    Raises:
        InputError: not one whole number an image, or out of the model's range.
    """
    count, classes = stem.logits.shape
    if targets is None:
        return stem.logits.argmax(1)
    return check_range(check_targets(targets, count).to(stem.logits.device), classes)


def check_range(targets: Tensor, classes: int, remedy: str = "leave targets out for the predicted classes") -> Tensor:
    """Targets that a model has, as they are.

    Raises:
        InputError: one is none of its classes.
    """
    bad = targets[(targets < 0) | (targets >= classes)]
    if len(bad):
        raise InputError(f"target {int(bad[0])} for a model with {classes} classes; expected 0 to {classes - 1}; {remedy}")
    return targets


def check_stem(stem: Stem, names: Sequence[str], layer: str) -> None:
    """Refuses images whose logits or activations are not finite.

    Raises:
        ModelError: so; names them.
    """
    check_finite(stem.logits, names, "scores")
    check_finite(stem.activation, names, f"activations at layer {layer!r}")


def check_finite(values: Tensor, names: Sequence[str], what: str, *, unit: str = "image", remedy: str = "") -> None:
    """Refuses NaN and infinite numbers, naming the rows that they belong to.

    Args:
        values: [N, ...].
        names: one a row.
        what: the values, in words.
        unit: what a row is.
        remedy: what to do.

    Raises:
        ModelError: a row of `values` is not finite.
    """
    bad = ~(values.flatten(1).isfinite().all(1) if values.ndim > 1 else values.isfinite())
    if bad.any():
        named = ", ".join(repr(names[i]) for i in torch.nonzero(bad)[:3, 0].tolist())
        todo = remedy or f"check the preprocessing and the precision of the model, or leave out such an {unit}"
        raise ModelError(f"the {what} of {int(bad.sum())} {unit}(s) are not finite (NaN or infinite), first {named}; "
                         f"expected finite numbers; {todo}")


def checked_reward(reward: Reward, name: str) -> Reward:
    """A caller's reward whose values are looked at, each time: ``[B]``, floating, and with a gradient where logits have one."""

    def checked(logits: Tensor, targets: Tensor) -> Tensor:
        try:
            values = reward(logits, targets)
        except (ChanattrError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise InputError(f"reward {name} failed on logits {tuple(logits.shape)} and targets {tuple(targets.shape)} "
                             f"({first_line(error)}); expected a function (logits, targets) -> [B]; "
                             "try it by itself on such tensors") from error
        if not isinstance(values, Tensor) or values.shape != targets.shape or not values.is_floating_point():
            raise InputError(f"reward {name} gave {type(values).__name__}{_shape(values)} for logits {tuple(logits.shape)}; expected a "
                             f"floating tensor of shape {tuple(targets.shape)}, one number an image; do not sum over images")
        if logits.requires_grad and not values.requires_grad:
            raise InputError(f"reward {name} has no gradient in the logits, which the search follows; expected one that is differentiable; "
                             "leave out detach, argmax and comparisons")
        return values

    return checked


def check_found(found: ImageAttribution, settings: Settings, targets: Tensor, logits: Tensor) -> None:
    """Refuses answers at hand that are not those of these images to this question (areas and search may differ).

    Raises:
        InputError: other rows, layer, targets, channels or question, or other images, as their probabilities tell.
    """
    remedy = "pass what per_image gave for these images, in their order, or leave found out"
    if not isinstance(found, ImageAttribution) or len(found) != len(targets):
        what = f"{len(found)} rows" if isinstance(found, ImageAttribution) else type(found).__name__
        raise InputError(f"found is {what} for {len(targets)} images; expected an ImageAttribution with one row an image; {remedy}")
    for name, mine, theirs in settings.differences(found.settings):
        if name in SHARED:
            raise InputError(f"found has {name}={theirs!r}, but {name}={mine!r} is asked; expected the same question; {remedy}")
    goal = targets.cpu().numpy()
    if (other := np.flatnonzero(found.targets != goal)).size:
        row = int(other[0])
        raise InputError(f"found is about class {found.targets[row]} in row {row}, but its target is {goal[row]}; expected the same "
                         f"targets; {remedy}")
    mine = logits.float().softmax(1).gather(1, targets[:, None])[:, 0].cpu().numpy()
    if (far := np.flatnonzero(~(np.abs(found.probability - mine) <= SAME))).size:
        row = int(far[0])
        raise InputError(f"found is of another image in row {row} (probability {found.probability[row]:.3f} of class {goal[row]}, here "
                         f"{mine[row]:.3f}); expected the same images; {remedy}")


def _shape(values: object) -> str:
    """Shape and type in words, of what has them."""
    return f" {tuple(values.shape)} {values.dtype}" if hasattr(values, "shape") and hasattr(values, "dtype") else ""
