"""The how-to pages' Python runs as it stands there, the pages name what exists, and the site builds without a warning."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

import chanattr as ca
from chanattr.cli import main
from chanattr.images.loader import Batch
from chanattr.store.index import Index
from tests.models import Plain, images, seeded

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
HOW_TO = [path for path in PAGES if path.parent.name == "how-to"]


WITH_PYTHON = [path for path in HOW_TO if "```python" in path.read_text(encoding="utf-8")]
# Each folder's page in a process of its own that has seen nothing of the package or of another page. Torch and what exports need, which
# take most of the time, are there already.
RUN_EACH = """
import os, runpy, sys
import torch.export._trace
for folder in sys.argv[1:]:
    if not os.fork():
        os.chdir(folder)
        for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), stream.fileno())
        assert "chanattr" not in sys.modules
        runpy.run_path("page.py", run_name="__main__")
        sys.exit()
    open(os.path.join(folder, "status"), "w").write(str(os.wait()[1]))
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of folders, one a page, in which its Python was run."""
    root = tmp_path_factory.mktemp("pages")
    for path in WITH_PYTHON:
        (root / path.stem).mkdir()
        blocks = re.findall(r"```python( title=\"(\S+)\")?\n(.*?)```", path.read_text(encoding="utf-8"), re.S)
        code = "\n".join(code for _, _, code in blocks).replace("features.12/exact", "norm/exact")
        for name, text in [("page.py", code), *((name, code) for _, name, code in blocks if name)]:
            (root / path.stem / name).write_text(text, encoding="utf-8")
    made = ca.per_image(seeded(Plain), images(3), "norm", areas=(1, 2), search=ca.ExactSearch(relaxed_steps=1, binary_steps=1))
    with ca.open_run(root / "read-the-file" / "run.h5", "a") as run:
        run.write(made)
    subprocess.run([sys.executable, "-c", RUN_EACH, *(str(root / path.stem) for path in WITH_PYTHON)], check=True,
                   env={**os.environ, "PYTHONPATH": str(ROOT)})
    return root


@pytest.mark.parametrize("path", WITH_PYTHON, ids=lambda path: path.stem)
def test_the_python_runs(path: Path, ran: Path) -> None:
    folder = ran / path.stem
    assert (folder / "status").read_text(encoding="utf-8") == "0", (folder / "err").read_text(encoding="utf-8")
    assert (folder / "out").read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_commands_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"^chanattr (\w+)", text, re.M)) | set(re.findall(r"`chanattr (\w+)[ `]", text))
    assert named <= set(main.commands)
    assert all((ROOT / "scripts" / name).is_file() for name in re.findall(r"`(?:\.venv/bin/python )?scripts/(\w+)", text))


def told() -> set[str]:
    """What the pages of the API show, by its full name."""
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    return set(re.findall(r"^::: (\S+)$", pages, re.M))


def full_name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def public() -> list[Any]:
    """Every public function and class, figures too; errors have a page of their own."""
    every = [getattr(ca, name) for name in ca.__all__ if name != "figures"] + [getattr(ca.figures, name) for name in ca.figures.__all__]
    return [value for value in every if value.__module__ != "chanattr.errors"]


def named_in(annotation: object, module: ModuleType) -> Iterator[type]:
    """The package's classes in an annotation, as it is written there."""
    for word in re.findall(r"\w+", annotation if isinstance(annotation, str) else repr(annotation)):
        value = getattr(module, word, None)
        for one in (value, *get_args(value)):  # a union has a name too
            if inspect.isclass(one) and one.__module__.startswith("chanattr."):
                yield one


def given(value: Any) -> Iterator[type]:
    """What a function returns; of a class its fields, and what its public methods and properties return."""
    annotations = [*inspect.get_annotations(value).values()] if inspect.isclass(value) else []
    members = [one for name, one in vars(value).items() if not name.startswith("_")] if inspect.isclass(value) else [value]
    for one in (getattr(one, "fget", getattr(one, "__func__", one)) for one in members):
        annotations += [one.__annotations__.get("return", "")] if inspect.isfunction(one) else []
    for annotation in annotations:
        yield from named_in(annotation, sys.modules[value.__module__])


def test_every_public_name_is_on_a_page_of_the_api() -> None:
    assert {full_name(value) for value in public()} - told() == set()


def test_what_public_calls_give_is_on_a_page_of_the_api() -> None:
    left, found = [*public(), Batch], {Batch, Index}  # what a loader gives; and the store's own, which `Run` gives to what copies
    while left:
        new = set(given(left.pop())) - found
        left += new
        found |= new
    assert {"Summary", "Interval", "Sanity", "Worker", "MaskGames", "Bypass"} <= {kind.__name__ for kind in found}  # it looks
    assert {full_name(kind) for kind in found - {Index}} - told() == set()


def test_what_the_how_to_pages_import_is_on_a_page_of_the_api() -> None:
    lines = [found for path in HOW_TO for found in re.findall(r"^from (chanattr\S*) import (.+)$", path.read_text(encoding="utf-8"), re.M)]
    values = [getattr(importlib.import_module(module), name.strip()) for module, names in lines for name in names.split(",")]
    named = [value for value in values if inspect.isclass(value) or inspect.isfunction(value)]  # not tables and modules
    assert len(named) > 5
    assert {full_name(value) for value in named} - told() == set()


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
