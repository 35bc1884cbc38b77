"""A whole run file to damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from chanattr.store import open_run
from tests.store.make import classes, images, table


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "run.h5"
    with open_run(path, "a") as run:
        run.write(images(), images=table(images()))
        run.write(classes())
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path, whole: bytes) -> Path:
    made = tmp_path / "run.h5"
    made.write_bytes(whole)
    return made
