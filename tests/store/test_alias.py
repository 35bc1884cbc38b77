"""A run under a second name, which a symbolic link gives it, is one run; a part's number is one that can be counted on."""

from __future__ import annotations

from pathlib import Path

import pytest

import chanattr as ca
from chanattr.store import open_run
from chanattr.store.salvage import repair, survey
from tests.store.make import images

DIGEST = "0" * 64


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    (tmp_path / "alias.h5").symlink_to(Path("disk") / "run.h5")
    return tmp_path


def test_both_names_have_one_writer_and_one_file(place: Path) -> None:
    real, alias = place / "disk" / "run.h5", place / "alias.h5"
    with open_run(real, "a") as run:
        run.write(images(0, 2))
        with pytest.raises(ca.StoreError, match="is being written by pid"):
            open_run(alias, "a")
        with open_run(alias) as read:  # also what lies in parts
            assert len(read.keys) == 2
    with open_run(alias, "a") as run:
        run.write(images(2, 4))
        with pytest.raises(ca.StoreError, match="is being written by pid"):
            open_run(real, "a")
        assert survey(alias).images == 4
    assert alias.is_symlink()
    assert sorted(path.name for path in place.iterdir()) == ["alias.h5", "disk"]
    with open_run(real) as run:
        assert len(run.keys) == 4
        run.check()


def test_a_link_to_what_is_not_there_yet_makes_it_there(place: Path) -> None:
    with open_run(place / "alias.h5", "a") as run:
        run.write(images(0, 2))
    assert (place / "alias.h5").is_symlink()
    assert len(open_run(place / "disk" / "run.h5").keys) == 2
    with pytest.raises(ca.StoreError, match="is there already"):
        repair(place / "disk" / "run.h5", place / "alias.h5")


def test_a_link_that_leads_round_is_said(place: Path) -> None:
    (place / "round.h5").symlink_to("round.h5")
    for mode in ("r", "a"):
        with pytest.raises(ca.StoreError, match="leads round to itself"):
            open_run(place / "round.h5", mode)


@pytest.mark.parametrize("number", ["9" * 30, "9" * 19, "\u0661" * 6])
def test_a_part_with_a_number_beyond_all_counting_is_none(tmp_path: Path, number: str) -> None:
    path = tmp_path / "run.h5"
    run = open_run(path, "a")
    run.write(images(0, 2))
    run._release()
    [part] = (tmp_path / "run.h5.parts").iterdir()
    (tmp_path / "run.h5.parts" / f"{number}-{part.name[7:]}").write_bytes(part.read_bytes())
    with open_run(path, "a") as run:
        run.write(images(2, 4))
    with open_run(path) as run:
        assert len(run.keys) == 4
        run.check()


def test_the_last_number_that_can_be_counted_is_said(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    run = open_run(path, "a")
    run.write(images(0, 2))
    run._release()
    [part] = (tmp_path / "run.h5.parts").iterdir()
    part.rename(part.with_name(f"{'9' * 18}-{part.name[7:]}"))
    with pytest.raises(ca.StoreError, match=r"has the number 9{18}; expected them counted from 1"), open_run(path, "a") as run:
        run.write(images(2, 4))
    with open_run(path) as run:  # what was there is merged
        assert len(run.keys) == 2
        run.check()
