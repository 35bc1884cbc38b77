"""Time and memory, measured: seconds with the device waited for, and the most memory that a piece of work held."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Meter:
    """What a piece of work took; filled in when `measured` is left.

    Attributes:
        seconds: wall clock, until the device had done its work.
        peak: bytes; see `measured`.
    """

    seconds: float = 0.0
    peak: int = 0


@contextmanager
def measured(device: torch.device) -> Iterator[Meter]:
    """Measures what is done inside.

    The peak is of the allocator's memory on CUDA, and elsewhere of the whole process (its resident set, libraries and weights
    included). The process's high-water mark is put back first where the system allows (Linux); elsewhere it is that of the process's
    whole life: `peak_since_start` tells.

    Args:
        device: waited for before and after.
    """
    meter = Meter()
    wait(device)
    _forget_peak(device)
    start = time.perf_counter()
    yield meter
    wait(device)
    meter.seconds = time.perf_counter() - start
    meter.peak = _peak(device)


def peak_since_start(device: torch.device) -> bool:
    """Whether peaks count from the process's start rather than from the piece of work's."""
    return device.type != "cuda" and not _forget_peak(device)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _forget_peak(device: torch.device) -> bool:
    """Puts the high-water mark back to what is held now; tells whether that could be done."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        RESET.write_text("5")
    except OSError:
        return False
    return True


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        import resource  # Windows has none

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
