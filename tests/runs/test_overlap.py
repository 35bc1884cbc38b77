"""Reading ahead and writing behind: the same items, the same order, and every error where it belongs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import chanattr as ca
from chanattr.runs import overlap
from chanattr.runs.overlap import ahead, behind
from chanattr.runs.shards import as_shard, pinned
from tests.runs.loaders import Loader, content, run_all


def slow(count: int, made: list[int]) -> Iterator[int]:
    for number in range(count):
        made.append(number)
        yield number


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("chanattr")]


@pytest.mark.parametrize("count", [1, 3])
def test_items_come_in_order_and_not_too_early(count: int) -> None:
    made: list[int] = []
    for got, item in enumerate(ahead(slow(20, made), count)):
        assert item == got
        time.sleep(0.005)
        assert len(made) <= got + 1 + count + 1  # the one in hand, those that wait, and the one being made
    assert made == list(range(20))
    assert not threads()


def test_an_item_is_made_before_it_is_asked_for() -> None:
    made: list[int] = []
    items = ahead(slow(5, made))
    assert next(items) == 0
    limit = time.monotonic() + 10
    while len(made) < 2 and time.monotonic() < limit:
        time.sleep(0.01)
    assert len(made) >= 2
    items.close()
    assert not threads()


def test_an_error_of_the_items_comes_in_its_place() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    items = ahead(broken())
    assert next(items) == 1
    with pytest.raises(OSError, match="no more"):
        next(items)
    assert not threads()


def test_what_is_behind_is_done_in_order() -> None:
    done: list[int] = []

    def note(number: int) -> None:
        time.sleep(0.002)
        done.append(number)

    with behind() as do:
        for number in range(20):
            do(note, number)
            assert len(done) >= number - 2  # at most two wait
    assert done == list(range(20))
    assert not threads()


def test_an_error_behind_is_raised_and_nothing_after_it_is_done() -> None:
    done: list[int] = []

    def fail() -> None:
        raise OSError("disk full")

    def three() -> None:
        with behind() as do:
            do(done.append, 1)
            do(fail)
            time.sleep(0.05)
            do(done.append, 2)
            do(done.append, 3)

    with pytest.raises(OSError, match="disk full"):
        three()
    assert done == [1]
    assert not threads()


def test_an_error_behind_is_told_beside_the_callers_own(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise OSError("disk full")

    def both() -> None:
        with behind() as do:
            do(fail)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        both()
    assert "could not be written: disk full" in caplog.text


def test_what_waits_is_done_when_the_caller_fails() -> None:
    done: list[int] = []

    def interrupted() -> None:
        with behind() as do:
            do(time.sleep, 0.05)
            do(done.append, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [1]
    assert not threads()


def test_a_run_leaves_no_thread_and_a_failing_write_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_all(tmp_path / "whole.h5")
    assert not threads()
    write, count = ca.store.run.Run.write, 0

    def third_fails(*given: object, **named: object) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise ca.StoreError("disk full; expected room; make some")
        write(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ca.store.run.Run, "write", third_fails)
    with pytest.raises(ca.StoreError, match="disk full"):
        run_all(tmp_path / "broken.h5")
    monkeypatch.undo()
    assert not threads()
    run_all(tmp_path / "broken.h5")
    assert content(tmp_path / "broken.h5") == content(tmp_path / "whole.h5")


def test_a_loader_that_fails_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    class Broken(Loader):
        def __iter__(self):  # type: ignore[no-untyped-def]
            for number, batch in enumerate(super().__iter__()):
                if number == 2:
                    raise OSError("share went away")
                yield batch

    with pytest.raises(OSError, match="share went away"):
        run_all(tmp_path / "run.h5", Broken(), classes=False)
    with ca.open_run(tmp_path / "run.h5") as run:
        assert len(run.finished("mix")) == 8
    assert not threads()


def test_items_that_hang_do_not_keep_a_run_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "FAREWELL", 0.2)
    wanted = threading.Event()

    def hanging() -> Iterator[int]:
        yield 1
        wanted.wait(60)
        yield 2

    items = ahead(hanging())
    assert next(items) == 1
    started = time.monotonic()
    items.close()
    assert time.monotonic() - started < 10
    wanted.set()
    limit = time.monotonic() + 10
    while threads() and time.monotonic() < limit:
        time.sleep(0.01)
    assert not threads()


def test_images_of_a_shard_are_pinned_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = as_shard((torch.rand(3, 3, 4, 4), torch.arange(3), ["a", "b", "c"]))
    assert whole.rows([0, 1, 2]) is whole  # which stays pinned
    assert whole.rows([2, 0]).keys == ("c", "a")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pinned(whole) is whole
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda images: images + 1)  # told by its values: there is no GPU to pin for
    assert torch.equal(pinned(whole).images, whole.images + 1)
    assert pinned(whole).keys == whole.keys
