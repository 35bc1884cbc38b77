"""The README's Python runs as it stands there, and the commands that it names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import chanattr as ca
from chanattr.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_runs(tmp_path: Path) -> None:
    first, *more = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len([line for line in first.splitlines() if line]) <= 12
    code = "\n".join([first, 'with ca.open_run("run.h5", "a") as run:\n    run.write(found)', *more])  # the file that the commands make
    (tmp_path / "chanattr").symlink_to(ROOT / "chanattr")  # the picture's path is that of a checkout
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "schooner" in done.stdout
    assert (tmp_path / "curve.html").stat().st_size > 10_000


def test_the_commands_exist() -> None:
    scripts = set(re.findall(r"scripts/(\w+)", README))
    assert {"demo", "test"} <= scripts
    assert all((ROOT / "scripts" / name).is_file() for name in scripts)
    named = set(re.findall(r"^chanattr (\w+)", README, re.M))
    assert named <= set(main.commands)
    assert {"layers", "attribute", "show", "report"} <= named


def test_every_file_it_points_to_is_there() -> None:
    for path in re.findall(r"`((?:docs|chanattr)/[\w./-]+)`|\]\(([\w./-]+)\)", README):
        assert (ROOT / (path[0] or path[1])).exists(), path


def test_the_version_is_said_once_more_in_the_citation_and_the_changelog() -> None:
    citation, changes = ((ROOT / name).read_text(encoding="utf8") for name in ("CITATION.cff", "CHANGELOG.md"))
    assert re.search(r"^version: (\S+)$", citation, re.M)[1] == ca.__version__
    assert re.search(r"^## (\S+?),? ", changes, re.M)[1] == ca.__version__
