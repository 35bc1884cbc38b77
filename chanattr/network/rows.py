"""What a model must give: one row an image, and each image's own, whatever runs beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from chanattr.errors import ModelError
from chanattr.network.hooks import eager, frozen
from chanattr.network.inputs import take_rows, tensors_of, with_tensors
from chanattr.network.names import kind
from chanattr.network.outputs import Inputs, batch_size_of, call, logits_of

APART = 1e-3  # of the logits' scale: how far an image's may move with its neighbours; in a batch of the same size they should not at all


def check_rows(logits: Tensor, images: Inputs) -> None:
    """Refuses logits that are not one row an image.

    Raises:
        ModelError: so.
    """
    if len(logits) != batch_size_of(images):
        raise ModelError(f"the model gave logits {tuple(logits.shape)} for images of shape {tuple(tensors_of(images)[0].shape)}; expected "
                         "one row an image; give images with a batch axis, and a model that neither mixes nor drops them")


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of logits as a share of the scale of `theirs`; infinite where others are finite, 0 where none is."""
    finite = theirs.isfinite()
    if not torch.equal(finite, ours.isfinite()):
        return float("inf")
    if not finite.any():
        return 0.0
    return float((ours - theirs)[finite].abs().amax() / theirs[finite].abs().amax().clamp(min=1e-30))


@torch.no_grad()
def check_alone(model: nn.Module, example: Inputs, score: Callable[[Any], Tensor] | None) -> None:
    """Refuses a model that loses images, or whose logits of one depend on what runs beside it: every answer would hang on its batch.

    Three images are tried, for what is spread over devices or taken in pairs may lose the last of an odd number.

    Args:
        model: left as found.
        example: the model's input for one or more images.
        score: turns the output into logits.

    Raises:
        ModelError: so.
    """
    same = take_rows(example, torch.zeros(3, dtype=torch.long))
    other = with_tensors(same, [torch.cat([one[:1], one[1:] / 2 + 0.1]) if one.is_floating_point() else one for one in tensors_of(same)])
    found = []
    with frozen(model), eager():
        for images in (same, other):
            logits = logits_of(call(model, images), score)
            check_rows(logits, images)
            found.append(logits[0].float())
    alone, beside = found
    finite = alone.isfinite() & beside.isfinite()  # what is not finite is refused where it is asked for
    moved = difference(beside[finite], alone[finite])
    if moved > APART:
        raise ModelError(f"{kind(model)} gives an image other logits when another image runs beside it (by {moved:.1e} of their scale); "
                         "expected each image by itself; a batch norm without running statistics, or in training mode inside forward, "
                         "does so: give the model statistics of its own")
