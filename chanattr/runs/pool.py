"""Shards searched in this process, or in a local pool of processes, what they log said here; results in the order of the tasks."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe, wait

import torch
from tqdm.std import tqdm

from chanattr.errors import ChanattrError, ModelError
from chanattr.processes import collect_seldom, leave_signals
from chanattr.runs.cluster import Cluster, cluster_results
from chanattr.runs.plan import Ready, Results, Task, search_shard
from chanattr.runs.worker import Back, Worker, packed, search_packed, unpacked

LONGEST = 3000  # bytes of a message: what a pipe takes at once, whoever else writes to it
_READY: list[Ready | ChanattrError] = []  # one a worker process, set by its initializer; or why there is none


def results(ready: Ready, tasks: Iterable[Task], workers: int | Cluster, team: list[Worker]) -> Results:
    """Each task with what it gives, one a layer, as they come.

    Args:
        ready: this process's own.
        tasks: read as they are needed; with workers at most two a worker are ahead.
        workers: processes; 0 searches here, and a cluster on Ray.
        team: takes what each worker did; it grows as they come to work.

    Raises:
        ModelError: the plan cannot go to another process, a worker cannot get ready, or one died.
    """
    if isinstance(workers, Cluster):
        yield from cluster_results(ready, tasks, workers, team)
        return
    if not workers:
        for task in tasks:
            for searched in search_shard(ready, task):
                yield task, searched
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    known: dict[int, Worker] = {}
    with _heard() as says:
        given = (packed(ready.plan), threads, says, logging.getLogger().level)
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=given)
        try:
            for task, back in _in_order(pool, tasks, ahead=2 * workers):
                if back.process not in known:
                    known[back.process] = Worker()
                    team.append(known[back.process])
                known[back.process].add(back.host, len(task.shard.keys), back.seconds)
                for searched in back.found:
                    yield task, searched
        except BaseException:
            _stop(pool)
            raise
        pool.shutdown()


def _in_order(pool: ProcessPoolExecutor, tasks: Iterable[Task], ahead: int) -> Iterator[tuple[Task, Back]]:
    waiting: deque[tuple[Task, Future[Back]]] = deque()
    try:
        for task in tasks:
            with _deaf():
                # Starts a worker, while there are less than may be. As bytes, or torch would open a file for every tensor to share it.
                waiting.append((task, pool.submit(_search, pickle.dumps(task))))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    except BrokenProcessPool as error:
        raise ModelError("a worker process died (killed, or out of memory); expected it to finish its shard; all finished shards are "
                         "saved: start the same command again, with fewer workers if memory was short") from error


def _stop(pool: ProcessPoolExecutor) -> None:
    """Ends the workers in the middle of their work, as an interruption ends it where there are none."""
    for process in list((getattr(pool, "_processes", None) or {}).values()):  # before Python 3.14 the pool has no other way to its workers
        process.kill()
    if sys.version_info < (3, 12) and (tasks := getattr(pool, "_call_queue", None)) is not None:
        # A task on its way to a worker that is gone waits for a reader for ever, as long as this process holds that end of the pipe too
        # (python/cpython#94777).
        with suppress(OSError):
            tasks._reader.close()
    pool.shutdown(cancel_futures=True)


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started in here do not hear of Ctrl-C and of a kill, which are sent to all: the one that started them ends them.

    In this process both are only put off.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(plan: bytes, threads: int, says: Connection, level: int) -> None:
    collect_seldom()
    _speak_through(says, level)
    leave_signals()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the pool ends its workers so when one of them died
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # torch draws bars that nobody sees; their usual lock is a semaphore that a worker ended early leaks
    torch.set_num_threads(threads)
    _READY.append(unpacked(plan))


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _search(task: bytes) -> Back:
    return search_packed(_READY[0], task)


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


def _speak_through(pipe: Connection, level: int) -> None:
    """In a worker: from here on all that is logged or warned of goes to the one that listens."""
    root = logging.getLogger()
    root.handlers[:] = [_Sends(pipe)]
    root.setLevel(level)
    logging.captureWarnings(True)


@contextmanager
def _heard() -> Iterator[Connection]:
    """The end of a pipe for workers' `_speak_through`; inside, and until all of them have ended, what they say is logged here."""
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
