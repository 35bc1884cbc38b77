"""Work cut into batches: as large as asked, halved where memory runs out (and remembered), or as a memory budget allows."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Hashable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from chanattr.errors import InputError

LOG = logging.getLogger(__name__)
SHORT = ("out of memory", "can't allocate memory", "not enough memory", "std::bad_alloc",
         "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BESIDE = 2  # memory that an evaluation needs, in what its backward pass keeps: gradients and a convolution's own come and go beside it
_LARGEST: WeakKeyDictionary[Any, dict[Hashable, int]] = WeakKeyDictionary()
_NEEDED: WeakKeyDictionary[Any, dict[Hashable, int]] = WeakKeyDictionary()


def anchor_of(tail: Any) -> Any:
    """What a tail's batch sizes are remembered by: its graph or its model, which live longer than the tail; else itself."""
    if hasattr(tail, "graphs"):
        return tail.graphs.cuts[tail.number].tail
    return getattr(tail, "anchor", getattr(tail, "model", tail))


def in_batches(anchor: Any, total: int, size: int, kept: Hashable, run: Callable[[slice], Any]) -> Iterator[tuple[slice, Any]]:
    """What `run` gives for parts that follow one another, of at most `size`.

    Where memory runs out the part is halved and tried again, and so are all later ones of the same anchor in this process.

    Args:
        anchor: see `anchor_of`.
        total: things to do.
        size: of a part.
        kept: what sizes are remembered apart by: whether `run` keeps what a backward pass needs, or what else it is.
        run: of a part; it must change nothing before it is done.

    Raises:
        torch.OutOfMemoryError, MemoryError, RuntimeError: there is not enough memory for one.
    """
    largest = _LARGEST.setdefault(anchor, {})
    first = 0
    while first < total:
        part = slice(first, min(total, first + min(size, largest.get(kept, size))))
        done, given = _tried(run, part)
        if done:
            yield part, given
            first = part.stop
            continue
        largest[kept] = max(1, (part.stop - part.start) // 2)
        LOG.info("memory ran out at %d images at once; %d from here on", part.stop - part.start, largest[kept])
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _tried(run: Callable[[slice], Any], part: slice) -> tuple[bool, Any]:
    """Whether a part was done, and what it gave; the error is let go here, for it holds the tensors of where it was raised."""
    try:
        return True, run(part)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or part.stop - part.start == 1:
            raise
        return False, None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in SHORT)


def needed_by(anchor: Any, run: Callable[[int], Tensor], part: Hashable = None) -> int:
    """Bytes that one masked image needs, forward and backward.

    Measured once an anchor and part: the memory of what 4 and of what 2 keep for their backward pass, less one another (so that constants
    do not count), times BESIDE.

    Args:
        anchor: see `anchor_of`.
        run: a forward pass of so many masked images, with gradients.
        part: of what the anchor is of: where the whole model is, an early layer keeps more than a late one, and a large image than a small.
    """
    needed = _NEEDED.setdefault(anchor, {})
    if part not in needed:
        with torch.enable_grad():
            needed[part] = max(1, BESIDE * (_kept(run, 4) - _kept(run, 2)) // 2)
    return needed[part]


def _kept(run: Callable[[int], Tensor], count: int) -> int:
    """Bytes of all storages that a forward pass keeps for its backward pass."""
    storages: dict[int, torch.UntypedStorage] = {}  # held, or another would get the same address

    def keep(values: Tensor) -> Tensor:
        storages[values.untyped_storage().data_ptr()] = values.untyped_storage()
        return values

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
        run(count)
    return sum(storage.nbytes() for storage in storages.values())


def bytes_of(budget: str | int | float | None) -> int | None:
    """A memory budget in bytes, from a number of them or from words such as "2GB" or "500 MB" (powers of ten).

    Raises:
        InputError: none of these, or not above 0.
    """
    if budget is None:
        return None
    words = str(budget).strip().upper()
    number = words.rstrip("KMGTB ")
    unit = words[len(number):].strip().removesuffix("B")
    try:
        found = int(float(number) * UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        found = 0
    if found < 1 or isinstance(budget, bool):
        raise InputError(f"a memory budget of {budget!r}; expected bytes above 0, or words such as '500MB' or '2GB'; leave it out for what "
                         "the device holds")
    return found
