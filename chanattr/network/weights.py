"""What a model is, in one digest: its parameters and buffers by name, dtype, shape and bytes; and whether slopes flow through them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

from chanattr.errors import ModelError
from chanattr.network.names import check_module, kind, plain_names


def model_sha256(model: nn.Module) -> str:
    """sha256 over all parameters and buffers, in hex; the same on every device, and through `torch.compile` and `DataParallel`.

    Source: names sorted, each followed by dtype, shape and little-endian bytes.
    """
    digest = hashlib.sha256()
    plain = plain_names(model)
    named = {_plain(name, plain): tensor for name, tensor in model.state_dict(keep_vars=True).items() if isinstance(tensor, torch.Tensor)}
    for name in sorted(named):
        tensor = named[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def check_weights(model: nn.Module) -> None:
    """Refuses a model that was built in inference mode, and what is no model.

    Raises:
        ModelError: so.
    """
    check_module(model)
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(f"{kind(model)} has weights made in inference mode, through which no gradient flows to the mask; expected weights "
                         "made outside torch.inference_mode; build or load the model outside it")


def _plain(name: str, modules: Mapping[str, str]) -> str:
    """A tensor's name with its module's plain name."""
    owner, _, last = name.rpartition(".")
    return f"{modules.get(owner, owner)}.{last}".removeprefix(".")
