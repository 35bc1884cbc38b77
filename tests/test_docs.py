"""The how-to pages' Python runs as it stands there, the pages name what exists, and the site builds without a warning."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import chanattr as ca
from chanattr.cli import main
from tests.models import Plain, images, seeded

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
HOW_TO = [path for path in PAGES if path.parent.name == "how-to"]


@pytest.mark.parametrize("path", [path for path in HOW_TO if "```python" in path.read_text()], ids=lambda path: path.stem)
def test_the_python_runs(path: Path, tmp_path: Path) -> None:
    if path.stem == "read-the-file":
        made = ca.per_image(seeded(Plain), images(3), "norm", areas=(1, 2), search=ca.ExactSearch(relaxed_steps=1, binary_steps=1))
        with ca.open_run(tmp_path / "run.h5", "a") as run:
            run.write(made)
    blocks = re.findall(r"```python( title=\"(\S+)\")?\n(.*?)```", path.read_text(encoding="utf-8"), re.S)
    for _, name, code in blocks:
        if name:
            (tmp_path / name).write_text(code)
    code = "\n".join(code for _, _, code in blocks).replace("features.12/exact", "norm/exact")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_commands_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"^chanattr (\w+)", text, re.M)) | set(re.findall(r"`chanattr (\w+)[ `]", text))
    assert named <= set(main.commands)
    assert all((ROOT / "scripts" / name).is_file() for name in re.findall(r"`(?:\.venv/bin/python )?scripts/(\w+)", text))


def test_every_public_name_is_on_a_page_of_the_api() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    told = set(re.findall(r"^::: \S+\.(\w+)$", pages, re.M))
    errors = {name for name in ca.__all__ if name.endswith("Error")}
    assert set(ca.__all__) - told - errors <= {"figures"}


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None,
                    reason="needs mkdocs-material and mkdocstrings (extra 'docs')")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    # Not with --quiet, which hides warnings from --strict.
    words = ["-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "api" / "attribution.html").read_text(encoding="utf-8")
    assert "per_image" in page
    assert not re.findall(r'(?:src|href)="(https?://fonts[^"]*)"', page)
    listed = re.findall(r'href="(notebooks/\w+\.html)"', (tmp_path / "site" / "notebooks.html").read_text(encoding="utf-8"))
    assert sorted(listed) == [f"notebooks/{text.stem}.html" for text in sorted((ROOT / "notebooks").glob("*.py"))]
    assert all((tmp_path / "site" / path).is_file() for path in listed)
