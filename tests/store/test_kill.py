"""kill -9 at any moment: the run opens, nothing that was written is lost, and it ends as an unbroken one does."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chanattr.axes import equal
from chanattr.store import open_run
from tests.store.make import classes, images, write_all

COUNT = 24
LAYERS = ("features.10", "a/b")


def killed(path: Path, moment: Callable[[list[str]], float | None]) -> list[str]:
    """Starts a writer, reads what it says is durable, and kills it; gives its lines."""
    root = str(Path(__file__).parents[2])
    started = subprocess.Popen([sys.executable, "-m", "tests.store.make", str(path), str(COUNT)], stdout=subprocess.PIPE, text=True,
                               encoding="utf-8", cwd=root, env=os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONPATH": root})
    lines: list[str] = []
    assert started.stdout is not None
    with started.stdout as stream:
        for line in stream:
            lines.append(line.rstrip("\n"))
            wait = moment(lines)
            if wait is not None:
                time.sleep(wait)
                started.kill()
                break
        lines += [line.rstrip("\n") for line in stream]
    started.wait()
    return lines


def holds(path: Path, lines: list[str]) -> None:
    """The run opens and has every row that was told to be durable, as it was written."""
    with open_run(path) as run:
        for layer in LAYERS:
            told = [key for line in lines if line.startswith(layer + "\t") for key in line.split("\t")[1:]]
            assert set(told) <= run.finished(layer)
            numbers = sorted(int(key[-8:-4]) for key in run.finished(layer))
            if numbers:
                every = images(0, COUNT, layer=layer)
                assert equal(run.per_image(layer, rows=[every.keys[n] for n in numbers]), every[numbers])


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("unbroken") / "run.h5"
    write_all(path, count=COUNT)
    with open_run(path) as run:
        return run.content_sha256()


@pytest.mark.parametrize("seed", range(3))
def test_killed_while_writing_and_while_merging(tmp_path: Path, unbroken: str, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "run.h5"
    told: list[str] = []
    for _ in range(2):
        after = rng.randrange(1, 9)
        told += killed(path, lambda lines, after=after: rng.uniform(0, 0.03) if len(lines) >= after else None)
        holds(path, told)
    for _ in range(2):
        told += killed(path, lambda lines: rng.uniform(0, 0.4) if lines[-1] == "merge" else None)
        holds(path, told)
    assert killed(path, lambda lines: None)[-1] == "done"
    holds(path, told)
    with open_run(path) as run:
        assert run.check() == unbroken
        assert equal(run.per_class("a/b"), classes(layer="a/b"))
        assert run.summary()["complete"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.h5", "run.h5.lock"]


def test_the_lock_of_a_living_writer_names_it_and_a_killed_one_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    code = ("import sys, time; from chanattr.store import open_run\n"
            "run = open_run(sys.argv[1], 'a'); print('open', flush=True); time.sleep(60)")
    started = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    with started.stdout as stream:
        assert stream.readline() == "open\n"
        with pytest.raises(OSError, match=rf"is being written by pid {started.pid} on "):
            open_run(path, "a")
        started.kill()
        started.wait()
    open_run(path, "a").close()
