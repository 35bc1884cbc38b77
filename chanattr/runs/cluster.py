"""Shards searched by workers on Ray, on this machine or a cluster: a dead worker's shard is done again, and the driver alone writes."""

from __future__ import annotations

import logging
import os
import pickle
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from chanattr.errors import InputError, ModelError, first_line
from chanattr.network.outputs import device_of
from chanattr.processes import set_handlers, signal_handlers
from chanattr.runs.plan import Plan, Ready, Results, Task
from chanattr.runs.worker import Back, Worker, packed, search_packed, unpacked, unready

LOG = logging.getLogger(__name__)
TRIES = 3  # of a shard whose worker died; an error of our own code, or of the model's, is raised at once
_WORDS = re.compile(r"ray(:(?P<address>[^/]*?))?(/(?P<count>\d+))?")


class Cluster(NamedTuple):
    """Where workers run: an address that Ray knows ("" starts a Ray of our own here), and how many (0: one a GPU, else one a core)."""

    address: str
    workers: int


class _Job(NamedTuple):
    """A task on its way: its bytes, the worker that has it, and how often it was given out."""

    task: Task
    data: bytes
    worker: int
    tries: int


class _Team(NamedTuple):
    """Workers by number, what each did, how to get another, and what each takes up ("GPU" or "CPU")."""

    hire: Callable[[], Any]
    unit: str
    workers: dict[int, Any]
    done: list[Worker]


def cluster_of(words: str) -> Cluster:
    """``ray``, ``ray:4`` (so many here), ``ray:ADDRESS`` (``auto``, or ``HOST:PORT``), ``ray:ADDRESS/8``.

    Raises:
        InputError: other words.

    Examples:
        >>> cluster_of("ray:4"), cluster_of("ray:head:6379/8")
        (Cluster(address='', workers=4), Cluster(address='head:6379', workers=8))
    """
    found = _WORDS.fullmatch(words)
    if found is None or found["address"] == "" or found["count"] == "0" or found["address"] == "0":
        raise InputError(f"workers={words!r}; expected a whole number of processes from 0, 'ray', 'ray:N' for N workers here, "
                         "'ray:ADDRESS' ('auto' or HOST:PORT), or 'ray:ADDRESS/N'; 'ray' alone starts one here")
    address, count = found["address"] or "", int(found["count"] or 0)
    return Cluster("", int(address)) if address.isdigit() and not count else Cluster(address, count)


def cluster_results(ready: Ready, tasks: Iterable[Task], where: Cluster, done: list[Worker]) -> Results:
    """Each task with what it gives, one a layer, in the order that they are done; one task is out for each worker.

    Args:
        ready: this process's own.
        tasks: read as workers become free, so that this process never holds more than is out.
        where: the workers run.
        done: takes what each worker did.

    Raises:
        InputError: Ray is not installed, or cannot be reached.
        ModelError: a worker cannot get ready, or a shard's worker died `TRIES` times.
    """
    with _ray(where) as ray:
        team = _hire(ray, ready.plan, where, done)
        try:
            yield from _give_out(ray, team, tasks)
        finally:
            for worker in team.workers.values():
                ray.kill(worker)


def _hire(ray: Any, plan: Plan, where: Cluster, done: list[Worker]) -> _Team:
    """A worker for each GPU where the model lies on one, else for each core; or as many as said."""
    gpu = device_of(plan.model).type == "cuda"
    unit = "GPU" if gpu else "CPU"
    have = ray.cluster_resources()
    count = where.workers or max(1, int(have.get(unit, 1)))
    if count > have.get(unit, 0):
        raise InputError(f"{count} workers on a Ray with {have.get(unit, 0):g} {unit}s; expected one for each at most; ask for fewer")
    threads = max(1, int(have.get("CPU", os.cpu_count() or 1)) // count)
    # A worker that died is replaced by a new one, not restarted by Ray, which would start one that cannot start for ever.
    kind = ray.remote(max_restarts=0, max_task_retries=0, num_cpus=1, num_gpus=int(gpu))(_Worker)
    data = ray.put(packed(plan))
    places = [os.path.abspath(place) for place in sys.path]  # a module of the user's own is found where this process found it

    def hire() -> Any:
        return kind.remote(data, threads, places)

    done += [Worker() for _ in range(count)]
    return _Team(hire, unit, {number: hire() for number in range(count)}, done)


def _give_out(ray: Any, team: _Team, tasks: Iterable[Task]) -> Results:
    idle, again, out, coming = deque(team.workers), deque[_Job](), dict[Any, _Job](), iter(tasks)

    def send() -> None:
        while idle and (job := _next(again, coming, idle)) is not None:
            out[team.workers[job.worker].search.remote(job.data)] = job

    send()
    while out:
        [reference], _ = ray.wait(list(out), num_returns=1)
        job = out.pop(reference)
        back: Back | None = None
        try:
            back = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        except ray.exceptions.RayError as error:
            if getattr(error, "actor_init_failed", False):  # not even chanattr is there
                raise unready(_last(error)) from error
            _replace(ray, team, job, error)
            again.append(job)
        else:
            team.done[job.worker].add(back.host, len(job.task.shard.keys), back.seconds)
        if job.worker in team.workers:
            idle.append(job.worker)
        send()  # before what came is looked at: a worker must not wait for the disk
        for searched in back.found if back is not None else ():
            yield job.task, searched


def _replace(ray: Any, team: _Team, job: _Job, error: Exception) -> None:
    """A new worker in the place of a dead one, where there is room for it still.

    Raises:
        ModelError: the shard has cost `TRIES` workers, or there is no room for any.
    """
    team.done[job.worker].deaths += 1
    if job.tries >= TRIES:
        raise ModelError(f"a worker died {TRIES} times over the same shard ({first_line(error)}); expected it to finish; all finished "
                         "shards are saved: start the same command again, with fewer workers if memory was short") from error
    LOG.warning("worker %d died (%s); its shard is done again", job.worker, first_line(error))
    del team.workers[job.worker]
    if ray.cluster_resources().get(team.unit, 0) > len(team.workers):  # else its machine went with it
        team.workers[job.worker] = team.hire()
    if not team.workers:
        raise ModelError("the machines of all workers are gone; expected some to stay; all finished shards are saved: start the same "
                         "command again when the cluster is there") from error


def _next(again: deque[_Job], coming: Iterator[Task], idle: deque[int]) -> _Job | None:
    """The next job for the worker that has been free for longest; None where there is none."""
    if again:
        job = again.popleft()
        return job._replace(worker=idle.popleft(), tries=job.tries + 1)
    task = next(coming, None)
    return None if task is None else _Job(task, pickle.dumps(task), idle.popleft(), 1)


def _last(error: BaseException) -> str:
    """Of an error of Ray with the traceback of another, which is its cause: that one's line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:200]


class _Worker:
    """A process of Ray that holds the model.

    What goes wrong while it gets ready is kept and raised with the first shard: of an actor that dies at its start Ray tells little.
    """

    def __init__(self, plan: bytes, threads: int, places: list[str]) -> None:
        torch.set_num_threads(threads)
        sys.path.extend(place for place in places if place not in sys.path)
        self._ready = unpacked(plan)

    def search(self, task: bytes) -> Back:
        """What a shard gives."""
        return search_packed(self._ready, task)


@contextmanager
def _ray(where: Cluster) -> Iterator[Any]:
    """Ray, connected; what was started here is ended, and its handlers of signals are ours again."""
    kept = signal_handlers()
    try:
        import ray
    except ImportError as error:
        raise InputError("workers on Ray need Ray, which is not installed; expected the extra 'ray'; pip install 'chanattr[ray]', or give "
                         "a number of processes") from error
    started = not ray.is_initialized()
    if started:
        here = {"num_cpus": max(where.workers, os.cpu_count() or 1)} if not where.address else {"address": where.address}
        try:
            ray.init(**here, include_dashboard=None if where.address else False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"Ray at {where.address or 'this machine'} cannot be used ({first_line(error)}); expected a running cluster, "
                             "or room to start one; 'ray start --head' starts one, and 'ray' alone one of our own") from error
    set_handlers(kept)
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()
        set_handlers(kept)
