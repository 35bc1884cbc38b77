"""Host work beside the device's: what comes is read ahead, what is done is written behind, each in one thread."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

LOG = logging.getLogger(__name__)
Item = TypeVar("Item")
# Seconds that closing waits for the item in hand: longer than the 5 after which torch's DataLoader looks whether its workers live (a thread
# that is still in it when Python ends aborts the process), but a loader that hangs must not keep an interrupted run from ending.
FAREWELL = 8.0


def ahead(items: Iterable[Item], count: int = 1) -> Generator[Item, None, None]:
    """The items, each made in a thread of its own before it is asked for, at most `count` too early.

    An exception of the items is raised where its item would have come. On closing, the thread ends after the item in hand,
    which is waited for no longer than FAREWELL.
    """
    made: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    room, unwanted = threading.Semaphore(count), threading.Event()

    def make() -> None:
        try:
            for item in items:
                room.acquire()
                if unwanted.is_set():
                    return
                made.put(("item", item))
            made.put(("end", None))
        except BaseException as error:  # whatever it is, it is the caller's
            made.put(("error", error))

    thread = threading.Thread(target=make, name="chanattr-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = made.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            room.release()
            yield value
    finally:
        unwanted.set()
        room.release()
        thread.join(FAREWELL)


@contextmanager
def behind(most: int = 2) -> Iterator[Callable[..., None]]:
    """Inside, ``do(function, ...)`` has a thread call the functions one after another, in order; at most `most` wait.

    An error of one is raised at the next ``do`` or on leaving, and what comes after it is not done. On leaving, also by an exception,
    what waits is done first: nothing that was finished is lost.
    """
    waiting: list[Future[None]] = []

    def call(before: Future[None] | None, function: Callable[..., Any], *given: Any, **named: Any) -> None:
        if before is not None:
            before.result()  # its error is the one of all that come after it
        function(*given, **named)

    def settle(left: int) -> None:
        while len(waiting) > left or (waiting and waiting[0].done()):
            waiting.pop(0).result()

    def do(function: Callable[..., Any], *given: Any, **named: Any) -> None:
        settle(most - 1)
        waiting.append(pool.submit(call, waiting[-1] if waiting else None, function, *given, **named))

    with ThreadPoolExecutor(1, thread_name_prefix="chanattr-behind") as pool:
        try:
            yield do
        except BaseException:
            lost = [error for future in waiting if (error := future.exception()) is not None]
            if lost:  # the caller's own error goes up, and what was not written must be known
                LOG.error("what was finished last could not be written: %s", lost[0])
            raise
        settle(0)
