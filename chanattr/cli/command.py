"""How every command ends: its errors in one line on stderr, its exit code, and Ctrl-C or a kill with finished work saved."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import click

from chanattr.cli.logs import is_json, line_of, say, spoken
from chanattr.errors import ChanattrError, first_line
from chanattr.processes import collect_seldom, set_handlers, signal_handlers

EXIT_SOME_BAD, EXIT_ERROR, EXIT_INTERRUPTED = 1, 2, 130  # and 128 + its number for another signal
KEEPING = ("attribute", "demo", "spatial")  # commands whose finished work is kept
INTERRUPTED, SAVED = "\ninterrupted", "; finished work is saved. The same command goes on where this one stopped."
DEADLINE = 4.5  # seconds after SIGTERM: whoever sends it to a service kills it soon after, and all that was finished is durable by then
DEBUG = "chanattr.debug"  # in the context's meta, which a group shares with its commands


def _set_debug(ctx: click.Context, _option: click.Parameter, given: bool) -> None:
    logging.basicConfig(format="%(name)s: %(message)s")
    if given:
        ctx.meta[DEBUG] = True
    logging.getLogger().setLevel(logging.INFO if ctx.meta.get(DEBUG) or is_json() else logging.WARNING)


debug_option = click.option("--debug", is_flag=True, expose_value=False, callback=_set_debug,
                            help="Show tracebacks and what the engine decides.")


class Group(click.Group):
    """A group whose errors are one line on stderr, and whose interruption says how to go on."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Takes a command, which then takes ``--debug`` too: it may stand on either side of the command's name."""
        super().add_command(debug_option(cmd), name)

    def main(self, args: Any = None, *more: Any, **named: Any) -> Any:
        """Runs the words of a command line; from here on it speaks as they ask (``--log-format``)."""
        collect_seldom()
        with spoken(sys.argv[1:] if args is None else list(args)):
            return super().main(args, *more, **named)

    def make_context(self, *args: Any, **named: Any) -> click.Context:
        """Reads the words before the command's name."""
        try:
            return super().make_context(*args, **named)
        except click.UsageError as error:
            _say(f"error: {_usage(error)}", "error")
            raise click.exceptions.Exit(EXIT_ERROR) from None

    def invoke(self, ctx: click.Context) -> None:
        """Runs the command, which tells whether something was bad; with ``--debug`` errors come with their traceback."""
        heard: list[int] = []
        try:
            with _listening(heard, partial(_ending, ctx)):
                if super().invoke(ctx):
                    ctx.exit(EXIT_SOME_BAD)
        except KeyboardInterrupt:
            _interrupted(ctx, heard)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):  # click's own ways to end; a reader that has had enough
            raise
        except Exception as error:
            if heard:  # a library may make an error of its own of an interruption
                _interrupted(ctx, heard)
            shown = ctx.meta.get(DEBUG) and not isinstance(error, click.UsageError)
            _say(f"error: {' '.join(_message(error).split())}", "error", traceback.format_exc() if shown else "")
            ctx.exit(EXIT_ERROR)


def _interrupted(ctx: click.Context, heard: list[int]) -> NoReturn:
    _say(_ending(ctx), "interrupted")
    ctx.exit(128 + heard[-1] if heard else EXIT_INTERRUPTED)


def _ending(ctx: click.Context) -> str:
    """What to say of an interruption: also what is kept, where something is."""
    return INTERRUPTED + (SAVED if ctx.invoked_subcommand in KEEPING else "")


def _message(error: Exception) -> str:
    """What to say of an error, in three beats."""
    if isinstance(error, ChanattrError):
        return str(error)
    if isinstance(error, click.UsageError):
        return _usage(error)
    kind = type(error).__name__
    if kind in ("OutOfMemoryError", "MemoryError"):
        return f"out of memory ({first_line(error)}); expected the masked images of one batch to fit; pass a smaller --batch-size"
    if isinstance(error, OSError) and error.filename is not None:
        return (f"{error.filename}: {error.strerror or kind}; expected a file or folder that can be used so; check the path, its rights "
                "and the disk")
    return (f"unexpected {first_line(error)}; expected none of this kind: this is a defect of chanattr or of your own function; "
            "--debug shows where")


def _usage(error: click.UsageError) -> str:
    """A misuse that click found, in one line with three beats."""
    command = error.ctx.command_path if error.ctx is not None else "chanattr"
    came = " ".join(error.format_message().split()).rstrip(".")
    return f"{came}{' Expected' if came.endswith('?') else '; expected'} words as '{command} --help' lists them; look there"


def _say(line: str, event: str, trace: str = "") -> None:
    """An error, after its traceback where there is one."""
    if trace and not is_json():
        click.echo(trace, err=True)
    say(line, event, logging.ERROR, **({"traceback": trace} if trace else {}))


@contextmanager
def _listening(heard: list[int], ending: Callable[[], str]) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM raise `KeyboardInterrupt`, so that what is open is closed; `heard` notes which it was.

    `ending` gives what to say where no Python code is reached in time.
    """
    def end(number: int, _frame: FrameType | None) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    def again(lost: Any) -> None:
        """An interruption that came inside a finalizer is dropped there by Python: it is sent once more, a moment later."""
        if heard and lost.exc_type is KeyboardInterrupt:
            threading.Timer(0.05, os.kill, (os.getpid(), heard[-1])).start()
        else:
            report(lost)

    before = signal_handlers()
    stop = _deadline(ending) if before and os.name == "posix" else None
    report, sys.unraisablehook = sys.unraisablehook, again
    try:
        for number, handler in before.items():
            if handler in (signal.SIG_DFL, signal.default_int_handler):  # one who is told to ignore them does
                signal.signal(number, end)
        yield
    finally:
        if stop is not None:
            stop()
        sys.unraisablehook = report
        set_handlers(before)


def _deadline(ending: Callable[[], str]) -> Callable[[], None]:
    """Ends the process `DEADLINE` seconds after SIGTERM, whatever it is in; gives a function that calls this off.

    A Python handler must wait until the code at hand returns to Python, which a search on a large batch, a merge of a large file or a
    reader that hangs may not do in time. It ends as by a kill -9, after which every finished shard is there.
    """
    hears, told = socket.socketpair()
    told.setblocking(False)
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    over = threading.Event()

    def watch() -> None:
        while sent := hears.recv(1):
            if sent[0] == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN and not over.wait(DEADLINE):
                os.write(2, f"{line_of(ending(), 'interrupted')}\n".encode())
                os._exit(128 + signal.SIGTERM)

    thread = threading.Thread(target=watch, name="chanattr-deadline", daemon=True)
    thread.start()

    def stop() -> None:
        over.set()
        signal.set_wakeup_fd(before)
        told.shutdown(socket.SHUT_WR)  # closing is not enough: readers that were forked hold a copy
        told.close()
        thread.join()
        hears.close()

    return stop
