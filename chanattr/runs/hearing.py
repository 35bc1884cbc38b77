"""What worker processes log and warn of, said by the process that started them, in its own way."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe

LONGEST = 3000  # bytes of a message: what a pipe takes at once, whoever else writes to it


class _Sends(logging.Handler):
    """Sends records through a pipe."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """One record with its traceback, cut to its longest."""
        data = json.dumps([record.name[:200], record.levelno, self.format(record)[:LONGEST // 6]]).encode()  # an odd letter takes six bytes
        with suppress(OSError):  # the process that listened is gone
            self._pipe.send_bytes(data)


def speak_through(pipe: Connection, level: int) -> None:
    """In a worker: from here on all that is logged or warned of goes to the one that listens."""
    root = logging.getLogger()
    root.handlers[:] = [_Sends(pipe)]
    root.setLevel(level)
    logging.captureWarnings(True)


@contextmanager
def heard() -> Iterator[Connection]:
    """The end of a pipe for workers' `speak_through`; inside, and until all of them have ended, what they say is logged here."""
    hears, says = Pipe(duplex=False)

    def listen() -> None:
        with suppress(EOFError, OSError):
            while True:
                name, level, text = json.loads(hears.recv_bytes())
                logging.getLogger(name).log(level, "%s", text)

    thread = threading.Thread(target=listen, name="chanattr-hearing", daemon=True)
    thread.start()
    try:
        yield says
    finally:
        says.close()
        thread.join(timeout=5)
        if not thread.is_alive():
            hears.close()
