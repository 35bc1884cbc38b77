"""What each worker of a run did: its images and how fast it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
