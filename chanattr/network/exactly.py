"""Where numbers are reported, float32 is float32: without the caller's autocast, and without TF32 on CUDA."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

LOG = logging.getLogger(__name__)


@contextmanager
def float32_exactly() -> Iterator[None]:
    """Inside, no autocast and no TF32, which has 3 digits and is the default of cuDNN's convolutions; outside, all is as it was."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.cuda.is_available():
            try:
                stack.enter_context(_without_tf32())
            except RuntimeError as error:  # torch refuses where its older and newer settings of precision are mixed
                LOG.warning("TF32 could not be switched off, so scores may have 3 digits only: %s", error)
        yield


@contextmanager
def _without_tf32() -> Iterator[None]:
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    with cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, benchmark_limit=cudnn.benchmark_limit,
                     deterministic=cudnn.deterministic, allow_tf32=False):
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
