"""How a process of ours runs: which signals it takes, where another ends it, and how seldom it looks for garbage."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Mapping
from typing import Any

SELDOM = 50_000  # objects more than before, until the collector looks through the young ones; 700 are usual
GRACE = 5  # seconds that a process outlives a kill: by then the one that started it has ended it, and no pipe between them is torn


def collect_seldom() -> None:
    """For a process of our own: with torch's million objects that stay, the usual collector takes a fifth of a command's start."""
    gc.set_threshold(SELDOM)


def leave_signals(_: object = None) -> None:
    """Ctrl-C is for the process that started this one; after a kill this one is gone in a few seconds, not at once.

    A kill of a whole group reaches both. Were this process gone first, the other would wait for what it was doing.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _end_later())


def signal_handlers() -> dict[signal.Signals, Any]:
    """The handlers of Ctrl-C and of a kill; none outside the main thread, where no handlers may be set."""
    main = threading.current_thread() is threading.main_thread()
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}


def set_handlers(handlers: Mapping[signal.Signals, Any]) -> None:
    """Puts back what `signal_handlers` gave; one that was not set from Python, None, cannot be."""
    for number, handler in handlers.items():
        if handler is not None:
            signal.signal(number, handler)


def _end_later() -> None:
    timer = threading.Timer(GRACE, os._exit, [1])
    timer.daemon = True
    timer.start()
