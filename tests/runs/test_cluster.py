"""Workers on Ray: the local run's content bit for bit, also when one is killed; errors are ours; signals stay ours."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import chanattr as ca
from chanattr.runs.cluster import Cluster, cluster_of
from tests.cli.studio import make_studio
from tests.models import Homebound, Plain, images, seeded
from tests.runs.loaders import COUNT, Loader, content, run_all

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="needs Ray (extra 'ray')")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray leaves sockets and files to the collector


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """One Ray for all tests: it takes seconds to start."""
    here = pytest.importorskip("ray")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    kept = signal.getsignal(signal.SIGTERM)
    here.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    signal.signal(signal.SIGTERM, kept)
    yield here
    here.shutdown()


@pytest.mark.parametrize(("words", "expected"), [
    ("ray", Cluster("", 0)), ("ray:4", Cluster("", 4)), ("ray:auto", Cluster("auto", 0)), ("ray:head:6379", Cluster("head:6379", 0)),
    ("ray:head:6379/8", Cluster("head:6379", 8)), ("ray:auto/2", Cluster("auto", 2)), ("ray:10.0.0.1:6379", Cluster("10.0.0.1:6379", 0))])
def test_words(words: str, expected: Cluster) -> None:
    assert cluster_of(words) == expected


@pytest.mark.parametrize("words", ["rays", "ray:", "ray:0", "ray:/2", "ray:auto/0", "dask", "", "ray/x"])
def test_other_words(words: str, tmp_path: Path) -> None:
    with pytest.raises(ca.InputError, match=r"expected a whole number of processes from 0, 'ray'"):
        cluster_of(words)
    with pytest.raises(ca.InputError, match=r"expected a whole number of processes"):
        run_all(tmp_path / "run.h5", workers=words)


@pytest.mark.skipif(HAS_RAY, reason="Ray is here")
def test_without_ray(tmp_path: Path) -> None:
    with pytest.raises(ca.InputError, match=r"need Ray, which is not installed; expected the extra 'ray'; pip install 'chanattr\[ray\]'"):
        run_all(tmp_path / "run.h5", workers="ray")


@needs_ray
def test_the_content_is_that_of_one_process(ray: Any, tmp_path: Path) -> None:
    run_all(tmp_path / "here.h5", shard_size=2)
    before = signal.getsignal(signal.SIGTERM)
    summary = run_all(tmp_path / "ray.h5", shard_size=2, workers="ray:2")
    assert signal.getsignal(signal.SIGTERM) is before
    assert summary.images == 10
    assert len(summary.workers) == 2
    assert sum(one.images for one in summary.workers) == 10
    assert all(one.host and one.seconds > 0 for one in summary.workers if one.images)
    assert content(tmp_path / "ray.h5") == content(tmp_path / "here.h5")


class Doomed(Plain):
    """Kills the process that it runs in, as often as a file says, when it sees the fifth picture of the loader."""

    def forward(self, x: Any) -> Any:
        path = Path(os.environ.get("DOOM", "/nowhere"))
        fifth = (x == images(COUNT)[4]).flatten(1).all(1).any()
        if path.exists() and fifth and str(os.getpid()) != path.with_suffix(".driver").read_text():
            left = int(path.read_text())
            if left:
                path.write_text(str(left - 1))
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


@needs_ray
@pytest.mark.parametrize(("deaths", "whole"), [(1, True), (40, False)])
def test_a_dead_workers_shard_is_done_again_and_counts_once(tmp_path: Path, deaths: int, whole: bool) -> None:
    """In a process of its own: Ray hands the environment to its workers when it starts."""
    doom = tmp_path / "doom"
    doom.write_text(str(deaths))
    code = f"""
import os, sys
from pathlib import Path
Path({str(doom.with_suffix('.driver'))!r}).write_text(str(os.getpid()))
from tests.runs.test_cluster import Doomed
from tests.models import seeded
from tests.runs.loaders import content, run_all
import chanattr as ca, logging
logging.basicConfig(level=logging.INFO)
path = Path({str(tmp_path)!r})
try:
    told = run_all(path / "ray.h5", model=seeded(Doomed), shard_size=3, workers="ray:2", classes=False)
    print([one.as_dict() for one in told.workers], told.images)
except ca.ModelError as error:
    print(error)
"""
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, cwd=root,
                          env=os.environ | {"DOOM": str(doom), "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    if not whole:
        assert "a worker died 3 times over the same shard" in done.stdout
        assert "start the same command again" in done.stdout
        doom.unlink()
        run_all(tmp_path / "ray.h5", model=seeded(Doomed), shard_size=3, classes=False)
    else:
        assert done.stdout.split()[-1] == "10"
        assert done.stdout.count("'per_second'") == 2
        assert done.stdout.count("'deaths': 1") >= 1
        assert done.stderr.count("its shard is done again") >= deaths
    run_all(tmp_path / "here.h5", model=seeded(Doomed), shard_size=3, classes=False)
    assert content(tmp_path / "ray.h5") == content(tmp_path / "here.h5")


class Broken(Plain):
    """Fails on whole shards, not on the two pictures that it is looked at with."""

    def forward(self, x: Any) -> Any:
        if len(x) > 2:
            raise ArithmeticError("no such number")
        return super().forward(x)


@needs_ray
def test_an_error_of_the_model_is_raised_at_once(ray: Any, tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError, match="no such number"):
        run_all(tmp_path / "run.h5", model=seeded(Broken), workers="ray:2", classes=False)


@needs_ray
def test_an_interruption_ends_the_workers_and_keeps_what_was_done(ray: Any, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(tmp_path / "run.h5", Loader(), shard_size=2, workers="ray:2", progress=stop)
    run_all(tmp_path / "run.h5", shard_size=2, workers="ray:2")
    run_all(tmp_path / "here.h5", shard_size=2)
    assert content(tmp_path / "run.h5") == content(tmp_path / "here.h5")


@needs_ray
def test_a_model_of_a_file_that_lies_elsewhere(tmp_path: Path) -> None:
    """Neither in the folder where the command is started, nor beside its program."""
    studio = make_studio(tmp_path / "home")
    (tmp_path / "away").mkdir()
    words = ["attribute", studio.model, str(studio.images), "--layer", "mix", "--areas", "1,2", "--device", "cpu", "--workers", "ray:2"]
    done = subprocess.run([sys.executable, "-m", "chanattr", *words, "-o", "run.h5", "--summary", "told.json"], capture_output=True,
                          text=True, check=False, cwd=tmp_path / "away", timeout=300,
                          env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("worker ")]
    assert len(lines) == 2
    assert all(" images in " in line and " a second) on " in line for line in lines)
    told = json.loads((tmp_path / "away" / "told.json").read_text())
    assert sum(one["images"] for one in told["workers"]) == 12
    assert all(set(one) == {"host", "images", "seconds", "per_second", "deaths"} for one in told["workers"])


@needs_ray
def test_what_a_worker_lacks_at_its_start_is_told_at_once(ray: Any, tmp_path: Path) -> None:
    with pytest.raises(ca.ModelError, match=r"a worker cannot get ready \(ModuleNotFoundError: No module named 'mine'\); expected"):
        run_all(tmp_path / "run.h5", model=seeded(Homebound), shard_size=2, workers="ray:2", classes=False)
