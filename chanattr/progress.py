"""How far long work is: a tqdm bar, silence, or the caller's own function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = bool | Callable[[int, int], None]


@contextmanager
def advance(progress: Progress, total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A function that is told how many of `total` steps have been done since its last call.

    Args:
        progress: True (a bar on stderr), False (nothing), or ``f(done, total)``.
        total: steps in all.
        what: label of the bar.
    """
    if progress is True:
        from tqdm.auto import tqdm

        with tqdm(total=total, desc=what, dynamic_ncols=True) as bar:
            yield bar.update
        return
    done = 0

    def tell(steps: int) -> None:
        nonlocal done
        done += steps
        if callable(progress):
            progress(done, total)

    yield tell
