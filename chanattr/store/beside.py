"""What belongs to a run on the disk, and must not be written over by anything else."""

from __future__ import annotations

import os
from pathlib import Path

from chanattr.store.parts import Place


def beside(file: Path) -> tuple[Path, ...]:
    """The run file with its parts, its lock and its next state, by their real names."""
    place = Place(Path(os.path.realpath(file)))
    return place.file, place.parts, place.lock, place.merging


def is_of_run(path: Path, file: Path) -> bool:
    """Whether a path is the run file, anything that belongs to it, or lies in that."""
    real = Path(os.path.realpath(path))
    return any(real == one or one in real.parents for one in beside(file)) or (real.exists() and file.exists() and real.samefile(file))
