"""How a process that works for another takes signals: the other is who ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

GRACE = 5  # seconds that a process outlives a kill: by then the one that started it has ended it, and no pipe between them is torn


@contextlib.contextmanager
def deaf_at_birth() -> Iterator[None]:
    """Processes started within do not hear Ctrl-C before `leave_signals` has told them what to do with it.

    One that hears it earlier prints a traceback, and hangs for ever where another thread held the terminal when it was forked.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals(_: object = None) -> None:
    """Ctrl-C is for the process that started this one; after a kill this one is gone in a few seconds, not at once.

    A kill of a whole group reaches both. Were this process gone first, the other would wait for what it was doing.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _end_later())
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # as `deaf_at_birth` left it


def _end_later() -> None:
    timer = threading.Timer(GRACE, os._exit, [1])
    timer.daemon = True
    timer.start()
