"""Shards searched in this process, or in a local pool of processes; results come back in the order of the tasks."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch

from chanattr.errors import ChanattrError, ModelError
from chanattr.runs.plan import Plan, Ready, Searched, Task, make_ready, search_shard

_READY: list[Ready] = []  # one a worker process, set by its initializer


def results(ready: Ready, tasks: Iterable[Task], workers: int) -> Iterator[tuple[Task, Searched]]:
    """Each task with what it gives, one a layer, as they come.

    Args:
        ready: this process's own.
        tasks: read as they are needed; with workers at most two a worker are ahead.
        workers: processes; 0 searches here.

    Raises:
        ModelError: a worker process died.
    """
    if not workers:
        for task in tasks:
            for searched in search_shard(ready, task):
                yield task, searched
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(ready.plan, threads)) as pool:
        for task, found in _in_order(pool, tasks, ahead=2 * workers):
            for searched in found:
                yield task, searched


def _in_order(pool: ProcessPoolExecutor, tasks: Iterable[Task], ahead: int) -> Iterator[tuple[Task, list[Searched]]]:
    waiting: deque[tuple[Task, Future[list[Searched]]]] = deque()
    try:
        for task in tasks:
            waiting.append((task, pool.submit(_search, task)))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    except BrokenProcessPool as error:
        raise ModelError("a worker process died (killed, or out of memory); expected it to finish its shard; all finished shards are "
                         "saved: start the same command again, with fewer workers if memory was short") from error
    finally:
        for _, future in waiting:
            future.cancel()


def _start(plan: Plan, threads: int) -> None:
    torch.set_num_threads(threads)
    _READY.append(make_ready(plan))


def _search(task: Task) -> list[Searched]:
    if not _READY:
        raise ChanattrError("a worker has no model; expected its start to have made one; report this")
    return list(search_shard(_READY[0], task))
