"""The notebooks run as they stand, tell their story without defining anything, and are cells that Jupyter and editors read."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
SECONDS = 120  # of processor time, its kernel's too: a minute on two cores, however busy these are
named = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


@named
@pytest.mark.slow
def test_it_runs_in_time_and_its_page_has_every_figure(path: Path, tmp_path: Path) -> None:
    """As the site has it: each cell is run, and what is shown needs no network."""
    before = os.times()
    done = subprocess.run([sys.executable, str(ROOT / "scripts/notebooks"), path.stem, "--out", str(tmp_path)], cwd=tmp_path,
                          capture_output=True, text=True, check=False, timeout=540)
    after = os.times()
    assert done.returncode == 0, done.stderr[-2000:]
    assert after.children_user + after.children_system - before.children_user - before.children_system < SECONDS
    page = (tmp_path / f"{path.stem}.html").read_text(encoding="utf8")
    cells = path.read_text(encoding="utf8").split("# %%")
    assert page.count("Plotly.newPlot(") >= sum("ca.figures." in cell for cell in cells)
    assert not re.search(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["']?https?:""", page)
    assert "unpkg.com" not in page  # a script could fetch it all the same


@named
def test_it_is_made_of_cells_and_words(path: Path) -> None:
    text = path.read_text(encoding="utf8")
    cells = text.split("# %%")
    assert text.startswith("# %% [markdown]\n# # ")
    assert sum(cell.startswith(" [markdown]") for cell in cells) >= 3
    for cell in cells:
        if cell.startswith(" [markdown]"):
            assert all(line.startswith("#") for line in cell.strip().splitlines()[1:]), cell


@named
def test_it_defines_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda))]


@named
def test_a_figure_is_the_last_line_of_its_cell(path: Path) -> None:
    """So a notebook shows it, and a plain run opens no browser."""
    for cell in path.read_text(encoding="utf8").split("# %%"):
        body = ast.parse("\n".join(line for line in cell.splitlines()[1:])).body
        drawn = [number for number, node in enumerate(body) if "ca.figures." in ast.unparse(node)]
        assert drawn in ([], [len(body) - 1]), cell
        assert ".show(" not in cell
