"""Ctrl-C and a kill of a running command: finished work is kept and merged, a message says how to go on, no worker's traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import chanattr as ca
from chanattr.cli import main
from tests.cli.studio import make_studio

PER_CLASS = 60  # seconds of work, so that some is left once the file has answers
COUNT = 4 * PER_CLASS


def found(path: Path) -> int:
    """Images that have an answer."""
    try:
        with ca.open_run(path) as run:
            return len(run.finished("mix"))
    except ca.StoreError:
        return 0


def as_in_a_terminal() -> None:
    """Ctrl-C is heard: tests that were started in the background have it ignored, and so would the command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def alive(group: int) -> list[str]:
    """Processes of a group, without those that only wait to be taken note of."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listed if line.split()[0] == str(group) and not line.split()[1].startswith("Z")]


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("workers", "readers"), [(0, 0), pytest.param(2, 0, marks=pytest.mark.slow), (0, 2)])
def test_a_signal_to_all_processes_of_a_run(tmp_path: Path, sent: signal.Signals, code: int, workers: int, readers: int) -> None:
    """As a terminal sends it: to the command and to its workers."""
    studio = make_studio(tmp_path, per_class=PER_CLASS)
    out = tmp_path / "run.h5"
    words = ["attribute", studio.model.replace(":make", ":slow"), str(studio.images), "--layer", "mix", "-o", str(out), "--areas", "2",
             "--workers", str(workers), "--readers", str(readers), "--device", "cpu"]
    process = subprocess.Popen([sys.executable, "-m", "chanattr", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True, preexec_fn=as_in_a_terminal, env=os.environ | {"OMP_NUM_THREADS": "1"})
    limit = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < limit and not found(out):
        time.sleep(0.1)
    os.killpg(process.pid, sent)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert "interrupted; finished work is saved. The same command goes on where this one stopped." in told
    for word in ("Traceback", "leaked", "Process Spawn"):
        assert word not in told, told
    with ca.open_run(out) as run:
        assert 0 < len(run.finished("mix")) < COUNT
        assert not run.summary()["complete"]
    parts = tmp_path / "run.h5.parts"
    assert not parts.exists() or not list(parts.iterdir())
    limit = time.monotonic() + 20
    while alive(process.pid) and time.monotonic() < limit:  # multiprocessing's own helper goes a moment later
        time.sleep(0.1)
    assert not alive(process.pid)  # no worker outlives the command


def test_an_error_that_an_interruption_turned_into_is_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt:
            raise OSError("can't write data") from None

    monkeypatch.setattr("chanattr.network.zoo.load_model", torn)
    before = signal.getsignal(signal.SIGTERM)
    result = CliRunner().invoke(main, ["layers", "embedded"])
    assert result.exit_code == 143
    assert result.stderr.splitlines()[-1] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) is before


class Finalized:
    """Is interrupted while it is finalized."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)


def test_an_interruption_inside_a_finalizer_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def finalizing(*_: object, **__: object) -> None:
        Finalized()
        time.sleep(20)
        raise RuntimeError("nobody interrupted")

    monkeypatch.setattr("chanattr.network.zoo.load_model", finalizing)
    before = sys.unraisablehook
    result = CliRunner().invoke(main, ["layers", "embedded"])
    assert result.exit_code == 143, result.stderr
    assert result.stderr.splitlines()[-1] == "interrupted"
    assert sys.unraisablehook is before


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_listening_ends_while_a_forked_process_lives() -> None:
    """A reader holds copies of all that was open when it was forked, the socket of the deadline too."""
    script = """if True:
        import multiprocessing, time
        from chanattr.cli.command import _listening
        reader = multiprocessing.get_context("fork").Process(target=time.sleep, args=(120,))
        with _listening([], str):
            reader.start()
        reader.kill()
    """
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
