"""One writer and any number of readers: locks, folders, full disks, signals, and parts that are torn, strange or left over."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import signal
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chanattr.store.merge
import chanattr.store.netcdf
from chanattr.axes import equal
from chanattr.errors import InputError, StoreError
from chanattr.store import open_run
from chanattr.store.join import join_runs
from tests.store.make import classes, images, keys, table, write_all

LAYER = "features.10"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.h5"


def test_one_writer_and_any_number_of_readers(path: Path) -> None:
    with open_run(path, "a") as run:
        run.write(images(0, 2))
        with pytest.raises(StoreError, match=rf"run.h5 is being written by pid {os.getpid()} on .*; expected one writer at a time; wait"):
            open_run(path, "a")
        with open_run(path) as one, open_run(path) as two:
            assert one.keys == two.keys == keys(0, 2)
    assert path.with_name("run.h5.lock").exists()
    open_run(path, "a").close()


@pytest.mark.parametrize("there", ["link", "folder", "pipe"])
def test_a_lock_that_is_no_plain_file_is_refused_and_left(path: Path, there: str) -> None:
    place, precious = path.with_name("run.h5.lock"), path.with_name("precious")
    precious.write_text("mine")
    {"link": lambda: place.symlink_to(precious), "folder": place.mkdir, "pipe": lambda: os.mkfifo(place)}[there]()
    with pytest.raises(StoreError, match=r"run.h5.lock is no plain file; expected the lock of a run, which is one; look at what it is"):
        open_run(path, "a")
    assert precious.read_text() == "mine"


def test_a_full_disk_does_not_keep_a_lock_from_holding(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    held = open_run(path, "a")
    with pytest.raises(StoreError, match=r"is being written by another process"):
        open_run(path, "a")
    held.close()


def test_the_lock_is_free_after_an_error(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="stop"), open_run(path, "a") as run:  # noqa: PT012
        run.write(images(0, 2))
        raise KeyboardInterrupt("stop")
    with open_run(path, "a") as run:
        assert equal(run.per_image(LAYER), images(0, 2))
    path.write_bytes(b"text")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"cannot be read"):
            open_run(path, "a")


def test_a_reader_whose_parts_are_merged_reads_on(path: Path) -> None:
    run = open_run(path, "a")
    run.write(images(0, 2), images=table(images(0, 2)))
    with open_run(path) as beside:
        run.write(classes())
        run.close()
        assert not path_parts(path)
        assert equal(beside.per_image(LAYER), images(0, 2))
        assert equal(beside.per_class(LAYER), classes())


def test_a_reader_whose_run_is_replaced_is_told(path: Path) -> None:
    run = open_run(path, "a")
    run.write(images(0, 2))
    run._release()
    with open_run(path) as beside:
        shutil.rmtree(path.with_name("run.h5.parts"))
        with open_run(path, "a") as other:
            other.write(images(0, 2))
        with pytest.raises(StoreError, match=r"is another run since it was opened; expected it to stay; open it again"):
            beside.per_image(LAYER)


def test_paths_that_cannot_be_runs(tmp_path: Path) -> None:
    for mode in ("r", "a"):
        with pytest.raises(StoreError, match=r"is a folder; expected a run file; add a file name"):
            open_run(tmp_path, mode)
        with pytest.raises(StoreError, match=r"folder that does not exist; expected an existing folder; make .*no first"):
            open_run(tmp_path / "no" / "run.h5", mode)
    with pytest.raises(StoreError, match=r"no run at .*run.h5: neither the file nor parts of it; expected .* mode 'a'"):
        open_run(tmp_path / "run.h5")
    with pytest.raises(InputError, match=r"mode='w'; expected one of r, a; 'r' reads, and 'a' writes"):
        open_run(tmp_path / "run.h5", "w")
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_run_cannot_be_written_and_a_closed_one_not_read(path: Path) -> None:
    write_all(path)
    run = open_run(path)
    for call in (lambda: run.write(images()), lambda: run.set_attributes(a=1),
                 lambda: run.register(("a",), np.zeros((1, 32), "u1"), np.zeros(1, int))):
        with pytest.raises(StoreError, match=r"is open for reading; .*'a'"):
            call()
    run.close()
    run.close()
    with pytest.raises(StoreError, match=r"is closed; .*open it again"):
        run.per_image(LAYER)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_can_be_read_and_not_written(path: Path) -> None:
    write_all(path)
    path.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with open_run(path) as run:
            assert run.check()
        path.with_name("run.h5.lock").chmod(stat.S_IRUSR)
        with pytest.raises(StoreError, match=r"cannot be made .* expected a folder that can be written to"):
            open_run(path, "a")
    finally:
        path.parent.chmod(stat.S_IRWXU)


def test_a_folder_that_cannot_be_written_is_said_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match=r"run.h5.lock cannot be made \(Permission denied\); expected a folder that can be written to"):
        open_run(path, "a")


def test_a_file_system_without_locks_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(path, count=2)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("chanattr.store.lock.fcntl.flock", refuse)
    with pytest.raises(StoreError, match=r"run.h5.lock cannot be locked \(No locks available\); expected a file system with locks; put"):
        open_run(path, "a")
    with open_run(path) as run:  # reading needs none
        assert run.check()


def test_reading_changes_nothing(path: Path) -> None:
    run = open_run(path, "a")
    run.write(images(0, 2))
    (path.parent / "run.h5.parts" / ".writing").write_bytes(b"torn")
    run._release()  # as a killed writer leaves it
    before = sorted((p.name, p.stat().st_mtime_ns) for p in path.parent.rglob("*"))
    with open_run(path) as reader:
        assert equal(reader.per_image(LAYER), images(0, 2))
    assert sorted((p.name, p.stat().st_mtime_ns) for p in path.parent.rglob("*")) == before
    with open_run(path, "a"):
        assert not (path.parent / "run.h5.parts" / ".writing").exists()


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("merging", [False, True])
def test_a_full_disk_leaves_everything_readable(path: Path, monkeypatch: pytest.MonkeyPatch, call: str, merging: bool) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = open_run(path, "a")
    run.write(images(0, 4))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\); .* make room .* before is safe"):
            (run.close if merging else (lambda: run.write(images(4, 6))))()
    if not merging:
        run.write(images(4, 6))
        run.close()
    assert not path.with_name("run.h5.merging").exists()
    with open_run(path) as again:
        assert equal(again.per_image(LAYER, rows=slice(0, 4)), images(0, 4))
        assert len(again.keys) == (4 if merging else 6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_merge_waits_until_hdf5_is_out_of_it(path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """An exception raised within HDF5's own write ends the process."""
    class Ended(BaseException):
        pass

    def end(*_: object) -> None:
        raise Ended

    run = open_run(path, "a")
    run.write(images(0, 2))
    real, came = chanattr.store.netcdf.Disk.write, []

    def write(self: Any, data: Any) -> int:
        if not came:
            came.append(number)
            os.kill(os.getpid(), number)
        return real(self, data)

    kept = signal.signal(number, end)
    monkeypatch.setattr(chanattr.store.netcdf.Disk, "write", write)
    try:
        with pytest.raises(Ended):
            run.close()
        assert came
        assert signal.getsignal(number) is end
    finally:
        signal.signal(number, kept)
    assert not path.exists()
    with open_run(path, "a") as again:
        assert equal(again.per_image(LAYER), images(0, 2))
    assert sorted(one.name for one in path.parent.iterdir()) == ["run.h5", "run.h5.lock"]


def test_an_error_inside_with_is_not_hidden_by_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(KeyError, match=r"mine"), open_run(path, "a") as run:  # noqa: PT012
        run.write(images(0, 2))
        monkeypatch.setattr(chanattr.store.merge.os, "replace", full)
        raise KeyError("mine")
    with open_run(path) as again:
        assert again.keys == keys(0, 2)


def test_parts_of_another_run_are_not_taken_in(tmp_path: Path) -> None:
    one, two = tmp_path / "run.h5", tmp_path / "two.h5"
    write_all(one)
    with open_run(two, "a") as run:
        run.write(images(0, 2, layer="other"))
        (part,) = path_parts(two)
        path_parts(one, make=True)
        (tmp_path / "run.h5.parts" / part.name.replace("000001", "000099")).write_bytes(part.read_bytes())
    for mode in ("r", "a"):
        with pytest.raises(StoreError, match=r"belongs to another run than the file beside it; .* move"):
            open_run(one, mode)


def path_parts(path: Path, make: bool = False) -> list[Path]:
    folder = path.with_name(path.name + ".parts")
    if make:
        folder.mkdir()
    return sorted(folder.glob("*.h5"))


@pytest.mark.parametrize("tail", ["cut", "empty", "zeros"])
def test_a_torn_last_part_is_passed_over_and_searched_again(path: Path, tail: str, caplog: pytest.LogCaptureFixture) -> None:
    run = open_run(path, "a")
    run.write(images(0, 2))
    run.write(images(2, 4))
    run._release()
    torn = path_parts(path)[1]
    data = torn.read_bytes()
    torn.write_bytes({"cut": data[:-100], "empty": b"", "zeros": data[:-4096] + bytes(4096)}[tail])
    with open_run(path) as again:
        assert again.finished(LAYER) == set(keys(0, 2))
    assert f"{torn.name} is torn (cut short, or zeros at its end) and passed over: its images are searched again" in caplog.text
    assert torn.exists()
    with open_run(path, "a") as again:
        assert not torn.exists()
        assert torn.with_suffix(".torn").exists()
        assert again.finished(LAYER) == set(keys(0, 2))
        again.write(images(2, 4))
    with open_run(path) as again:
        assert equal(again.per_image(LAYER), images(0, 4))


def test_any_other_damaged_part_is_named(path: Path) -> None:
    run = open_run(path, "a")
    for start in (0, 2, 4):
        run.write(images(start, start + 2))
    run._release()
    _, middle, last = path_parts(path)
    whole = middle.read_bytes()
    for part, damaged in ((middle, whole[:-100]), (last, last.read_bytes()[:600] + b"x" + last.read_bytes()[601:])):
        kept = part.read_bytes()
        part.write_bytes(damaged)
        for mode in ("r", "a"):
            with pytest.raises(StoreError, match=rf"{part.name} is damaged .* delete it: its images are searched again"):
                open_run(path, mode)
        part.write_bytes(kept)
    middle.unlink()
    with open_run(path, "a") as again:
        assert again.finished(LAYER) == {*keys(0, 2), *keys(4, 6)}


def test_a_part_that_does_not_fit_is_taken_back(path: Path) -> None:
    """What another file holds is written as it is stored; refused, it must not keep the run from being opened."""
    with open_run(path, "a") as run:
        run.write(images(0, 2), images=table(images(0, 2)))
    other = path.with_name("other.h5")
    with open_run(other, "a") as run:
        run.write(images(0, 3), images=dataclasses.replace(table(images(0, 3)), sha256=np.full((3, 32), 7, np.uint8)))
    with open_run(path) as run:
        before = run.content_sha256()
    for _ in range(2):
        with pytest.raises(StoreError, match="is in the file with other bytes"):
            join_runs([other], path)
    with open_run(path) as run:
        assert equal(run.per_image(LAYER), images(0, 2))
        assert run.check() == before


def test_parts_left_by_a_kill_after_the_merge_are_known_and_removed(path: Path) -> None:
    run = open_run(path, "a")
    run.write(images(0, 4))
    run.write(classes(seed=1))
    left = {part.name: part.read_bytes() for part in path_parts(path)}
    run.write(classes(seed=2))
    run.close()
    path_parts(path, make=True)
    for name, data in left.items():
        (path.with_name("run.h5.parts") / name).write_bytes(data)
    with open_run(path) as again:
        assert equal(again.per_class(LAYER), classes(seed=2))
    with open_run(path, "a"):
        assert not path.with_name("run.h5.parts").exists()
