"""One unbroken run for all tests that only read one, or go on from a copy of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.runs.loaders import run_all


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run; for reading."""
    path = tmp_path_factory.mktemp("whole") / "run.h5"
    run_all(path)
    return path


@pytest.fixture
def ended(tmp_path: Path, whole: Path) -> Path:
    """The same, to write to."""
    return Path(shutil.copy(whole, tmp_path / "run.h5"))
