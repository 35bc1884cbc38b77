"""What a command says while it runs: words for people, or a JSON object a line for machines (``--log-format json``)."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from chanattr.errors import InputError
from chanattr.progress import Progress

LOG = logging.getLogger("chanattr")
JSON = "chanattr.json"  # in the context's meta, which a group shares with its commands
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


class _Stderr(logging.Handler):
    """Writes to the stderr of now."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        click.echo(self.format(record), err=True)


def log_json(ctx: click.Context) -> None:
    """From here to the end of the command all that is said goes to stderr as JSON lines, warnings and library logs too."""
    root, handler = logging.getLogger(), _Stderr()
    handler.setFormatter(_Lines())
    before, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    ctx.meta[JSON] = True

    def undo() -> None:
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(False)

    ctx.find_root().call_on_close(undo)


def is_json() -> bool:
    """Whether the command at hand speaks JSON."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.meta.get(JSON))


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


def write_summary(path: Path, about: Mapping[str, Any]) -> None:
    """A summary as a JSON file, there whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.writing")
    try:
        temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf8")
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"--summary {path} cannot be written ({error.strerror}); expected a place for a file; the run itself is saved: "
                         "name another") from error
