"""What a command says while it runs: words for people, or a JSON object a line for machines (``--log-format json``)."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from chanattr.errors import InputError
from chanattr.progress import Progress

LOG = logging.getLogger("chanattr")
_JSON: list[_Lines] = []  # what writes lines, while a command speaks JSON
OPTION = "--log-format"
EVERY = 5.0  # seconds between two lines of progress


class _Lines(logging.Formatter):
    """A record as one JSON object: time (UTC), level, event, logger, message, and what the event has beside."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname.lower(), "event": getattr(record, "event", "log"), "logger": record.name,
                "message": record.getMessage(), **getattr(record, "about", {})}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _Heard(io.TextIOBase):
    """In the place of stderr: what anyone writes there, such as the user's own model, is logged line by line."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._rest, self._lock, self._mine = stream, "", threading.RLock(), False

    def write(self, text: str) -> int:
        """Keeps what is no whole line yet."""
        with self._lock:
            if self._mine:  # logging itself failed, and says so
                return int(self._stream.write(text))
            *whole, self._rest = (self._rest + text).split("\n")
            self._mine = True
            try:
                for line in whole:
                    if line.strip():
                        LOG.warning("%s", line)
            finally:
                self._mine = False
            return len(text)

    def fileno(self) -> int:
        """Of the stream behind."""
        return int(self._stream.fileno())


@contextmanager
def spoken(words: Sequence[str]) -> Iterator[None]:
    """Inside, all that is said goes to stderr as JSON lines, where the words of a command ask for that.

    From the first word on, before anything is read or imported: errors in the words, warnings, tracebacks of finalizers and threads, what
    the libraries log, and what Python code writes to stderr come so too.
    """
    if not _asks(words):
        yield
        return
    root, stream = logging.getLogger(), sys.stderr
    before, level = root.handlers[:], root.level
    hooks = sys.unraisablehook, threading.excepthook
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Lines())
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.unraisablehook = lambda lost: _tell_lost("an error in a finalizer", lost.exc_type, lost.exc_value, lost.exc_traceback)
    threading.excepthook = lambda lost: _tell_lost("an error in a thread", lost.exc_type, lost.exc_value, lost.exc_traceback)
    _JSON.append(_Lines())
    sys.stderr = _Heard(stream)
    try:
        yield
    finally:
        sys.stderr.write("\n")
        sys.stderr = stream
        _JSON.pop()
        sys.unraisablehook, threading.excepthook = hooks
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(False)


def _asks(words: Sequence[str]) -> bool:
    """Whether the words of a command have ``--log-format json``, the last of several."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(OPTION, nargs="?", dest="form")
    form: str | None = parser.parse_known_args(words)[0].form
    return form == "json"


def _tell_lost(what: str, kind: Any, error: Any, trace: Any) -> None:
    LOG.error("%s: %s", what, error if error is not None else getattr(kind, "__name__", kind), exc_info=(kind, error, trace))


def is_json() -> bool:
    """Whether the command at hand speaks JSON."""
    return bool(_JSON)


def line_of(text: str, event: str) -> str:
    """An error as the line that `say` would write, for one who can wait for nothing."""
    if not _JSON:
        return text
    record = LOG.makeRecord(LOG.name, logging.ERROR, "", 0, text.strip(), (), None, extra={"event": event})
    return _JSON[-1].format(record)


def say(line: str, event: str = "log", level: int = logging.WARNING, **about: Any) -> None:
    """A line on stderr, or an event with what it has beside."""
    if is_json():
        LOG.log(level, line.strip(), extra={"event": event, "about": about})
    else:
        click.echo(line, err=True)


def progress_lines() -> Progress:
    """A bar, or an event every few seconds with how far the work is and how fast it goes."""
    if not is_json():
        return True
    began = last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY or done == total:
            last = now
            say(f"{done} of {total}", "progress", logging.INFO, done=done, total=total, per_second=round(done / max(now - began, 1e-9), 3))

    return tell


def check_summary(path: Path, run: Path) -> None:
    """Refuses a place that a summary could not be written to, or that holds anything else, before the work begins.

    Args:
        path: of the summary.
        run: the run file.

    Raises:
        InputError: so.
    """
    from chanattr.store import is_of_run

    place = Path(os.path.realpath(path))
    if is_of_run(place, run):
        raise InputError(f"--summary {path} is the run file or lies in what belongs to it; expected a file of its own; name another")
    if os.path.lexists(place) and not place.is_file():
        raise InputError(f"--summary {path} is no plain file; expected a place for one; add a file name such as summary.json")
    if place.exists() and not _is_summary(place):
        raise InputError(f"--summary {path} is there already and is no summary; expected a new file, or a summary to replace; name "
                         "another, or move that one away")
    with _writing(place, path, "name another") as temporary:
        temporary.touch()


def write_summary(path: Path, about: Mapping[str, Any]) -> None:
    """A summary as a JSON file, there whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    place = Path(os.path.realpath(path))
    with _writing(place, path, "the run itself is saved: name another") as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf8")
        os.replace(temporary, place)


def _is_summary(place: Path) -> bool:
    """Whether a file is empty, or a summary as `write_summary` writes it."""
    try:
        told = json.loads(place.read_text(encoding="utf8") or '{"exit_code": 0}') if place.stat().st_size < 2**28 else None
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and "exit_code" in told


@contextmanager
def _writing(place: Path, path: Path, advice: str) -> Iterator[Path]:
    """A new name beside a place, whose errors are told in three beats; nothing stays under it."""
    temporary = place.with_name(f".{secrets.token_hex(8)}.writing")
    try:
        yield temporary
    except OSError as error:
        raise InputError(f"--summary {path} cannot be written ({error.strerror}); expected a place for a file; {advice}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
