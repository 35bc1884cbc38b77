"""A disk that is really full, a small tmpfs: a clear error, nothing lost, and the run goes on after room is made."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = r"""
import os, sys
from pathlib import Path
from chanattr.axes import equal
from chanattr.errors import StoreError
from chanattr.store import open_run
from tests.store.make import classes, images, write_all

disk, count = Path(sys.argv[1]), 40
path, ballast = disk / "run.h5", disk / "ballast"
layers = ("features.10", "a/b")

def room():
    about = os.statvfs(disk)
    return about.f_bavail * about.f_frsize

def fill(left):
    with open(ballast, "wb") as file:
        file.write(bytes(max(0, room() - left)))

def finished():
    with open_run(path) as run:
        run.check()
        for layer in run.layers:
            done = sorted(int(key[-8:-4]) for key in run.finished(layer))
            every = images(0, count, layer=layer)
            assert equal(run.per_image(layer, rows=[every.keys[n] for n in done]), every[done])
        return sum(len(run.finished(layer)) for layer in run.layers)

def refused(why):
    try:
        write_all(path, count=count)
    except StoreError as error:
        assert "No space left on device" in str(error) and "everything written before is safe" in str(error), error
        print(why, finished(), flush=True)
        return
    raise AssertionError("the disk was not full")

fill(150_000)                       # a few parts fit
refused("parts")
before = finished()
assert before > 0
write = open_run(path, "a")          # an open run goes on in the same process, too
ballast.unlink()
write.write(images(38, 40, layer=layers[0]))
write._release()
assert finished() == before + 2
fill(300_000)                        # all that is there does not fit twice: merging fails, parts stay
try:
    with open_run(path, "a"):
        pass
    print("merged in little room", finished(), flush=True)
except StoreError as error:
    assert "No space left on device" in str(error), error
    print("merge", finished(), flush=True)
assert finished() == before + 2
assert not path.with_name("run.h5.merging").exists()
ballast.unlink()
write_all(path, count=count)
whole = disk / "whole.h5"
write_all(whole, count=count)
with open_run(path) as one, open_run(whole) as two:
    assert one.check() == two.check()
print("same", flush=True)
"""


@pytest.mark.skipif(shutil.which("unshare") is None or not sys.platform.startswith("linux"), reason="needs unshare (util-linux)")
def test_a_small_tmpfs(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=4m none "{disk}"'
    tried = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no tmpfs may be mounted here ({tried.stderr.strip()})")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", PROGRAM, str(disk)],
                          capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line.split()[0] for line in done.stdout.splitlines()]
    assert said == ["parts", "merge", "same"], done.stdout
