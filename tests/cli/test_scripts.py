"""The scripts' choice of a Python, and what they say; nothing is installed here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def find_python(**environment: str) -> subprocess.CompletedProcess[str]:
    """What scripts/setup.sh finds."""
    return subprocess.run(["bash", "-c", 'set -euo pipefail; source "$1/setup.sh"; find_python; echo "$python"', "bash", str(SCRIPTS)],
                          capture_output=True, text=True, check=False, env=os.environ | environment)


def test_a_python_in_a_path_with_a_space_is_taken(tmp_path: Path) -> None:
    link = tmp_path / "my tools" / "python"
    link.parent.mkdir()
    link.symlink_to(sys.executable)
    assert find_python(PYTHON=str(link)).stdout == f"{link}\n"


@pytest.mark.parametrize(("name", "message"), [
    ("nowhere at all", "PYTHON=nowhere at all is no command; chanattr needs Python 3.10 or newer: name one, or unset PYTHON"),
    ("false", r"PYTHON=false is false ("),
])
def test_the_python_that_is_named_or_none(name: str, message: str) -> None:
    done = find_python(PYTHON=name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)


def test_without_a_name_one_is_found() -> None:
    assert "python" in find_python(PYTHON="").stdout


@pytest.mark.parametrize(("word", "code"), [("-h", 0), ("--help", 0), ("--nope", 2)])
def test_demo_passes_its_words_on(tmp_path: Path, word: str, code: int) -> None:
    """In a copy whose .venv is a stand-in with this Python's chanattr, so that nothing is installed."""
    root = tmp_path / "a copy"
    shutil.copytree(SCRIPTS, root / "scripts")
    (root / "scripts" / "setup.sh").write_text(f'venv="{tmp_path}/venv"\nset_up() {{ :; }}\n')
    command = tmp_path / "venv" / "bin" / "chanattr"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m chanattr "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(["bash", str(root / "scripts" / "demo"), word], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert ("Usage" in done.stdout) == (code == 0)
    assert not list(tmp_path.glob("chanattr-demo"))
