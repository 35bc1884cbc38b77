"""One writer a run: a lock on a file of its own, which the system frees when its holder dies."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from chanattr.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows has no flock; there two writers are not kept apart
    fcntl = None  # type: ignore[assignment]


def take(path: Path) -> int:
    """Locks `path`, writes this process and host into it, and gives the descriptor that holds the lock until it is closed.

    The file is never deleted: a second process could hold the deleted file while a third one makes and locks a new one.

    Raises:
        StoreError: another process holds it, it cannot be made, or something else lies there.
    """
    strictly = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | strictly, 0o666)
    except OSError as error:
        if path.is_symlink() or path.is_dir():
            raise _no_lock(path) from error
        raise StoreError(f"{path} cannot be made ({error.strerror}); expected a folder that can be written to; "
                         "choose another place for the run file, or change the folder's permissions") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _no_lock(path)
        _lock(descriptor, path)
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same, without a name on it
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _no_lock(path: Path) -> StoreError:
    return StoreError(f"{path} is no plain file; expected the lock of a run, which is one; look at what it is, and move it away")


def _lock(descriptor: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 300, 0).decode(errors="replace").strip() or "another process"
        raise StoreError(f"{path.name.removesuffix('.lock')} is being written by {holder}; expected one writer at a time; "
                         "wait until it has ended, or write to another file (reading is possible meanwhile)") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be locked ({error.strerror}); expected a file system with locks; "
                         "put the run file on a local disk") from error
