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
from tests.cli.test_signals import PER_CLASS, found


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


def quick(studio: Studio, path: Path, *words: object) -> list[str]:
    own = ("attribute", studio.model, studio.images, "--layer", "mix", "-o", path, "--areas", "2", "--device", "cpu", "--no-classes")
    return [str(word) for word in (*own, *words)]


@pytest.mark.parametrize(("place", "told"), [
    ("run.h5", "is the run file or lies in what belongs to it"), ("link.h5", "is the run file or lies in what belongs to it"),
    ("run.h5.lock", "is the run file or lies in what belongs to it"), ("run.h5.parts", "is the run file or lies in what belongs to it"),
    ("run.h5.parts/s.json", "is the run file or lies in what belongs to it"), ("/", "is no plain file"), (".", "is no plain file"),
    ("no/summary.json", "cannot be written"), ("mine.txt", "is there already and is no summary"), ("pipe", "is no plain file"),
    ("round", "is no plain file")])
def test_a_summary_has_a_place_of_its_own_before_the_work_begins(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                 place: str, told: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "link.h5").symlink_to("run.h5")
    (tmp_path / "round").symlink_to("round")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    done = CliRunner().invoke(main, quick(studio, tmp_path / "run.h5", "--summary", place))
    assert done.exit_code == 2
    assert f"--summary {place} {told}" in done.stderr, done.stderr
    assert done.stderr.count("expected") == 1
    assert sorted(tmp_path.iterdir()) == before  # nothing was searched
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_summary_replaces_a_summary_through_a_link_and_nothing_else(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text('{"exit_code": 2}')
    (tmp_path / "summary.json").symlink_to("real.json")
    (tmp_path / "summary.json.writing").write_text("mine")
    done = CliRunner().invoke(main, quick(studio, tmp_path / "run.h5", "--summary", tmp_path / "summary.json"))
    assert done.exit_code == 1
    assert json.loads((tmp_path / "real.json").read_text())["exit_code"] == 1
    assert (tmp_path / "summary.json").is_symlink()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["real.json", "run.h5", "run.h5.lock", "summary.json", "summary.json.writing"]


def test_a_summary_that_fails_at_the_end_is_told_with_the_code_that_the_command_ends_with(studio: Studio, tmp_path: Path,
                                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chanattr.cli.attribute.check_summary", lambda *_: None)
    words = quick(studio, tmp_path / "run.h5", "--summary", tmp_path / "no" / "summary.json", "--log-format", "json")
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert json.loads(done.stdout)["exit_code"] == 2
    assert "the run itself is saved" in lines(done.stderr)[-1]["message"]
    assert len(ca.open_run(tmp_path / "run.h5").keys) == 12


def workers_in(summary: Path) -> list[dict[str, Any]]:
    """What a summary tells of two workers that searched twelve images."""
    told: list[dict[str, Any]] = json.loads(summary.read_text())["workers"]
    assert 1 <= len(told) <= 2
    assert sum(one["images"] for one in told) == 12
    assert all(one["seconds"] > 0 and one["per_second"] > 0 and one["deaths"] == 0 and one["host"] for one in told)
    return told


def test_what_each_local_worker_did_is_told(studio: Studio, tmp_path: Path) -> None:
    words = quick(studio, tmp_path / "run.h5", "--workers", "2", "--log-format", "text", "--summary", tmp_path / "told.json")
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1, done.output  # one picture cannot be read
    told = workers_in(tmp_path / "told.json")
    said = [line for line in done.stderr.splitlines() if line.startswith("worker ")]
    assert len(said) == len(told)
    for number, (line, one) in enumerate(zip(said, told, strict=True)):
        assert line.startswith(f"worker {number}: {one['images']} images in {one['seconds']:.1f} s (")
        assert line.endswith(f" a second) on {one['host']}")


def test_every_line_is_json_from_the_first_word_on(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = quick(studio, tmp_path / "run.h5", "--log-format", "json")
    for wrong in ([*words, "--bogus"], [*words, "--batch-size", "x"], ["--bogus", *words], [*words[:5], "--log-format=json"],
                  [*words, "--log-format", "text", "--log-format", "json", "--seed", "x"]):
        done = CliRunner().invoke(main, wrong)
        [error] = lines(done.stderr)
        assert (done.exit_code, error["event"], error["level"]) == (2, "error", "error"), wrong
        assert error["message"].startswith("error: ")
    assert CliRunner().invoke(main, [*words, "--log-format", "text", "--bogus"]).stderr.startswith("error: ")

    def torn(*_: object, **__: object) -> None:
        raise ZeroDivisionError("torn")

    monkeypatch.setattr("chanattr.cli.words.load_model", torn)
    done = CliRunner().invoke(main, [*words, "--debug"])
    *_, error = lines(done.stderr)
    assert done.exit_code == 2
    assert error["event"] == "error"
    assert 'raise ZeroDivisionError("torn")' in error["traceback"]

    def interrupted(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr("chanattr.cli.words.load_model", interrupted)
    try:
        done = CliRunner().invoke(main, words)
    finally:
        signal.signal(signal.SIGINT, before)
    [line] = lines(done.stderr)
    assert (done.exit_code, line["event"]) == (130, "interrupted")


def test_what_threads_and_finalizers_say_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    import threading

    from chanattr.cli.logs import line_of, spoken

    class Torn:
        def __del__(self) -> None:
            raise ValueError("torn")

    before = threading.excepthook, sys.unraisablehook
    with spoken(["attribute", "--log-format", "json"]):
        Torn()
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        assert json.loads(line_of("\ninterrupted", "interrupted"))["event"] == "interrupted"
    one, two = lines(capsys.readouterr().err)
    assert "ValueError: torn" in one["traceback"]
    assert "ZeroDivisionError" in two["traceback"]
    assert (threading.excepthook, sys.unraisablehook) == before


LOUD = """

class Loud(Plain):
    def forward(self, x):
        if not exporting():
            warnings.warn("a warning of the model's", stacklevel=1)
            logging.getLogger("mine").warning("a word of the model's")
            print("said by the model", file=sys.stderr) if WORKERS == 0 else None
        return super().forward(x)


def loud():
    torch.manual_seed(3)
    return Loud(), make()[1]
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_model_says_is_json_in_every_process(tmp_path: Path, workers: int) -> None:
    """And what each worker did; and which picture cannot be read."""
    studio = make_studio(tmp_path)
    (studio.images / "000_cat" / "broken.png").write_bytes(b"no picture")
    file = Path(studio.model.removesuffix(":make"))
    file.write_text(f"import logging, sys, warnings\nWORKERS = {workers}\n{file.read_text()}{LOUD}")
    words = ["attribute", f"{file}:loud", str(studio.images), "--layer", "mix", "-o", str(tmp_path / "run.h5"), "--areas", "2", "--device",
             "cpu", "--no-classes", "--log-format", "json", "--workers", str(workers), "--summary", str(tmp_path / "told.json")]
    done = subprocess.run([sys.executable, "-m", "chanattr", *words], capture_output=True, text=True, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 1, done.stderr  # one picture cannot be read
    said = lines(done.stderr)
    [skipped] = [line for line in said if line["event"] == "skipped"]
    assert skipped["image"].endswith("broken.png")
    here = [line for line in said if line["message"] == "a word of the model's"]
    assert {line["logger"] for line in here} == {"mine"}
    assert any("a warning of the model's" in line["message"] and line["logger"] == "py.warnings" for line in said)
    assert any(line["message"] == "said by the model" for line in said) == (workers == 0)
    told = workers_in(tmp_path / "told.json") if workers else []
    assert [line["images"] for line in said if line["event"] == "worker"] == [one["images"] for one in told]


def test_an_interruption_while_imports_run_is_json(tmp_path: Path) -> None:
    """Of a command that has read no word of its own yet: torch takes a second to import."""
    code = "import os, sys\nos.kill(os.getpid(), 2) if 'NOW' in os.environ else None\n"
    (tmp_path / "torch.py").write_text(code)
    start = ("import signal; signal.signal(2, signal.default_int_handler); from chanattr.cli import main; import sys; "
             "sys.path.insert(0, sys.argv.pop(1)); main()")
    words = ["attribute", "embedded", "nowhere", "--layer", "x", "-o", str(tmp_path / "run.h5"), "--log-format", "json"]
    process = subprocess.run([sys.executable, "-c", start, str(tmp_path), *words], capture_output=True, text=True, check=False,
                             env=os.environ | {"NOW": "1"})
    assert process.returncode == 130, process.stderr
    assert [line["event"] for line in lines(process.stderr)] == ["interrupted"]


STUBBORN = '''

LOCK = (ctypes.c_byte * 64)()


def stubborn():
    """Once a file is there, a picture is never read: it waits in C for a lock that nobody opens, and no signal ends that."""
    model, preprocess, _ = make()

    def read(picture):
        time.sleep(0.02)
        while os.path.exists({path!r}):
            ctypes.CDLL(None).pthread_mutex_lock(LOCK)
        return preprocess(picture)

    return model, read
'''


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_sigterm_ends_it_within_five_seconds_whatever_it_is_in(tmp_path: Path) -> None:
    studio = make_studio(tmp_path, per_class=PER_CLASS)
    file, out, flag = Path(studio.model.removesuffix(":make")), tmp_path / "run.h5", tmp_path / "flag"
    file.write_text("import ctypes, os\n" + file.read_text() + STUBBORN.format(path=str(flag)))
    words = ["attribute", f"{file}:stubborn", str(studio.images), "--layer", "mix", "-o", str(out), "--areas", "2", "--device", "cpu",
             "--log-format", "json"]
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen([sys.executable, "-m", "chanattr", *words], stdout=said, stderr=said,
                                   env=os.environ | {"OMP_NUM_THREADS": "1"})
        limit = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < limit and not found(out):
            time.sleep(0.1)
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
    *_, last = lines((tmp_path / "said").read_text())
    assert last["event"] == "interrupted"
    assert "finished work is saved" in last["message"]
