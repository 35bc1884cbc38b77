"""A worker process, wherever it runs: how a plan comes to it, what it does with a shard, and what it did so far."""

from __future__ import annotations

import os
import pickle
import socket
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from chanattr.errors import ChanattrError, ModelError, first_line
from chanattr.runs.plan import Plan, Ready, Searched, make_ready, search_shard


def packed(plan: Plan) -> bytes:
    """A plan as it goes to another process.

    Raises:
        ModelError: its model, reward or another of its callables cannot be pickled.
    """
    try:
        return pickle.dumps(plan)
    except Exception as error:  # pickle raises what the objects raise
        raise ModelError(f"the model, or a function of its question, cannot go to worker processes ({first_line(error)}); "
                         "expected classes and functions at the top of a module of their own; put them into a file by another name than "
                         "any loaded before, or take workers=0") from error


def unpacked(data: bytes) -> Ready | ChanattrError:
    """A packed plan made ready in this process, or why it cannot be: raised with the first shard, since of a start that fails a pool tells
    nothing.
    """
    try:
        return make_ready(pickle.loads(data))
    except ChanattrError as error:
        return error
    except Exception as error:  # whatever the user's own modules raise
        return unready(first_line(error))


def unready(why: str) -> ModelError:
    """What a worker says that cannot make its plan ready."""
    return ModelError(f"a worker cannot get ready ({why}); expected the model's file, its packages and chanattr there as they are here; "
                      "put them there under the same paths, or work here with workers=0")


class Back(NamedTuple):
    """What a worker gives back of a shard: an answer a layer, its host and process, and the seconds that it took."""

    found: list[Searched]
    host: str
    process: int
    seconds: float


def search_packed(ready: Ready | ChanattrError, task: bytes) -> Back:
    """What a worker does with a task that came to it.

    Raises:
        ChanattrError: why the worker could not get ready.
    """
    if isinstance(ready, Exception):
        raise ready
    began = time.monotonic()
    found = list(search_shard(ready, pickle.loads(task)))
    return Back(found, socket.gethostname(), os.getpid(), time.monotonic() - began)


@dataclass
class Worker:
    """What one worker process (and whatever took its place) did so far.

    Attributes:
        host: where it runs.
        images: that it searched; one counts again where other layers of it came apart.
        seconds: that it searched for, without waiting and without its start.
        deaths: how often it died and was replaced.
    """

    host: str = ""
    images: int = 0
    seconds: float = 0.0
    deaths: int = 0

    @property
    def per_second(self) -> float:
        """Images a second."""
        return self.images / max(self.seconds, 1e-9)

    def add(self, host: str, images: int, seconds: float) -> None:
        """Counts a shard."""
        self.host, self.images, self.seconds = host, self.images + images, self.seconds + seconds

    def as_dict(self) -> dict[str, Any]:
        """In JSON types."""
        return {"host": self.host, "images": self.images, "seconds": round(self.seconds, 3), "per_second": round(self.per_second, 3),
                "deaths": self.deaths}

    def __str__(self) -> str:
        """In words."""
        died = f", died {self.deaths} times" if self.deaths else ""
        return f"{self.images} images in {self.seconds:.1f} s ({self.per_second:.2f} a second) on {self.host or '?'}{died}"
