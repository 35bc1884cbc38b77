"""As a service: JSON lines on stderr, a summary for machines, exit codes, and an end within five seconds of SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import chanattr as ca
from chanattr.cli import main
from tests.cli.studio import Studio, make_studio
from tests.cli.test_signals import found


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    made = make_studio(tmp_path_factory.mktemp("studio"))
    (made.images / "000_cat" / "broken.png").write_bytes(b"no picture")
    return made


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_lines_and_summary(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chanattr.cli.logs.EVERY", 0)
    words = ["attribute", studio.model, str(studio.images), "--layer", "mix", "-o", str(tmp_path / "run.h5"), "--areas", "2,100",
             "--device", "cpu", "--log-format", "json", "--summary", str(tmp_path / "summary.json")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1  # one picture cannot be read
    [summary] = lines(done.stdout)
    assert summary.pop("event") == "summary"
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert (summary["searched"], summary["skipped"], summary["exit_code"], summary["complete"]) == (12, 0, 1, True)
    assert summary["classes"] == {"mix": 4}
    [bad] = summary["bad"]
    assert bad["image"].endswith("broken.png")
    said = lines(done.stderr)
    assert all({"time", "level", "event", "logger", "message"} <= set(line) for line in said)
    events = [line["event"] for line in said]
    assert "progress" in events
    last = [line for line in said if line["event"] == "progress" and line["total"] == 13]
    assert last[-1]["done"] == 12
    assert last[-1]["per_second"] > 0
    [skipped] = [line for line in said if line["event"] == "skipped"]
    assert skipped["image"] == bad["image"]
    assert any("areas over that are dropped" in line["message"] for line in said)


def test_errors_are_json_too(studio: Studio, tmp_path: Path) -> None:
    words = ["attribute", studio.model, str(studio.images), "--layer", "nowhere", "-o", str(tmp_path / "run.h5"), "--log-format", "json",
             "--device", "cpu"]
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, done.stdout) == (2, "")
    [error] = [line for line in lines(done.stderr) if line["event"] == "error"]
    assert error["level"] == "error"
    assert error["message"].startswith("error: no layer 'nowhere'")
    text = CliRunner().invoke(main, [*words[:-4], "--device", "cpu"])
    assert text.stderr.startswith("error: ")  # the next command speaks as it is asked


def test_a_summary_that_cannot_be_written_is_an_error_after_the_run_is_saved(studio: Studio, tmp_path: Path) -> None:
    words = ["attribute", studio.model, str(studio.images), "--layer", "mix", "-o", str(tmp_path / "run.h5"), "--areas", "2", "--device",
             "cpu", "--summary", str(tmp_path / "no" / "summary.json")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert "the run itself is saved" in done.stderr
    assert len(ca.open_run(tmp_path / "run.h5").keys) == 12


STUBBORN = '''

class Stubborn(Plain):
    """Does not come back to Python for a minute, once a file is there."""

    def forward(self, x):
        if not torch.compiler.is_exporting() and os.path.exists({path!r}):
            with warnings.catch_warnings():
                ctypes.CDLL(None).usleep(20_000_000)
                ctypes.CDLL(None).usleep(20_000_000)
        return super().forward(x)


def stubborn():
    torch.manual_seed(3)
    return Stubborn(), make()[1]
'''


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_sigterm_ends_it_within_five_seconds_whatever_it_is_in(tmp_path: Path) -> None:
    studio = make_studio(tmp_path, per_class=24)
    file, out, flag = Path(studio.model.removesuffix(":make")), tmp_path / "run.h5", tmp_path / "flag"
    file.write_text("import ctypes, os, warnings\n" + file.read_text() + STUBBORN.format(path=str(flag)))
    words = ["attribute", f"{file}:stubborn", str(studio.images), "--layer", "mix", "-o", str(out), "--areas", "2", "--device", "cpu"]
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen([sys.executable, "-m", "chanattr", *words], stdout=said, stderr=said,
                                   env=os.environ | {"OMP_NUM_THREADS": "1"})
        limit = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < limit and not found(out):
            time.sleep(0.01)
        flag.write_text("")
        time.sleep(1)
        before = found(out)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
    took = time.monotonic() - began
    assert code == 143, (tmp_path / "said").read_text()
    assert took < 5.5  # half a second for a busy machine
    assert 0 < before <= found(out)
    assert "finished work is saved" in (tmp_path / "said").read_text()
