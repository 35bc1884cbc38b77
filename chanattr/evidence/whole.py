"""The whole network asked as it is: its logits in float32, the classes asked about, its calls, and slopes at a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chanattr.attribution.inputs import check_images, check_model, check_range, check_targets
from chanattr.attribution.score import channels_last
from chanattr.errors import LayerError
from chanattr.network.batches import in_batches
from chanattr.network.exactly import float32_exactly
from chanattr.network.hooks import change, frozen, watch
from chanattr.network.inputs import take_rows
from chanattr.network.layers import Layer
from chanattr.network.names import named
from chanattr.network.outputs import Inputs, call, logits_of
from chanattr.search.objective import Reward


@torch.no_grad()
def exact_logits(model: nn.Module, images: Inputs, score: Callable[..., Tensor] | None) -> Float[Tensor, "N C"]:
    """What the model, left as found, says of images that fit its memory at once."""
    with frozen(model), float32_exactly():
        return logits_of(call(model, images), score).float()


def targets_of(model: nn.Module, images: Inputs, targets: Sequence[int] | Tensor | None, score: Callable[..., Tensor] | None,
               batch_size: int) -> Int[Tensor, "N"]:
    """The classes that are asked about, where the logits are; None is what the model predicts of each.

    Raises:
        InputError: images are no batch; targets are not one class of the model's an image.
        ModelError: the model fails on these images, or gives another number of rows.
    """
    count = check_images(images)
    check_model(model, take_rows(images, slice(0, 2)), score)
    if targets is None:
        parts = in_batches(model, count, batch_size, False, lambda part: exact_logits(model, take_rows(images, part), score).argmax(1))
        return torch.cat([predicted for _, predicted in parts])
    logits = exact_logits(model, take_rows(images, slice(0, 1)), score)
    return check_range(check_targets(targets, count).to(logits.device), logits.shape[1])


def last_calls(model: nn.Module, example: Inputs) -> dict[str, int]:
    """The modules that run, by plain name, each with the place of its last call among all calls."""
    calls: list[str] = []
    with frozen(model), watch(named(model), lambda name, _inputs, _output: calls.append(name)), torch.no_grad():
        call(model, example)
    return {name: place for place, name in enumerate(calls)}


@torch.inference_mode(False)
def at_layer(model: nn.Module, images: Inputs, layer: Layer, *, targets: Int[Tensor, "N"], reward: Reward,
             score: Callable[..., Tensor] | None) -> tuple[Float[Tensor, "N P K"], Float[Tensor, "N P K"]]:
    """The layer's activation and the reward's slope there, of images that fit the memory at once.

    Raises:
        LayerError: the layer does not reach the logits.
    """
    kept: list[Tensor] = []

    def leaf(activation: Tensor) -> Tensor:
        kept.append(activation.detach().clone().requires_grad_())
        return kept[-1].clone()  # the module after it may work in place

    with frozen(model), change(model, layer.name, leaf), torch.enable_grad(), float32_exactly():
        logits = logits_of(call(model, images), score).float()
        rewards = reward(logits, targets.clone())  # which may have been made in inference mode
        slopes = torch.autograd.grad(rewards.sum(), kept, allow_unused=True)[0] if rewards.requires_grad else None
    if slopes is None:
        raise LayerError(f"layer {layer.name!r} does not reach the logits, so it has no slopes; expected a layer on the way to them; "
                         "choose another")
    return channels_last(kept[0].detach(), layer).float(), channels_last(slopes, layer).float()
