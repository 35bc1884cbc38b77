"""`shard=(i, n)` and `join_runs`: n processes with a file each give, joined, what one process gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import chanattr as ca
from chanattr.cli import main
from chanattr.runs.shards import part_of, shards
from chanattr.store.join import join_runs
from tests.cli.studio import make_studio
from tests.models import images
from tests.runs.loaders import COUNT, Loader, content, run_all


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_joined_file_is_that_of_one_process(tmp_path: Path, whole: Path, count: int) -> None:
    for number in range(1, count + 1):
        summary = run_all(tmp_path / f"{number}.h5", shard=(number, count))
        assert summary.classes == {}
    join_runs([tmp_path / f"{number}.h5" for number in range(1, count + 1)], tmp_path / "joined.h5")
    with ca.open_run(tmp_path / "joined.h5") as run:
        assert len(run.finished("mix")) == len(run.finished("conv")) == COUNT
        assert not run.has_classes("mix")
    assert run_all(tmp_path / "joined.h5").images == 0
    assert content(tmp_path / "joined.h5") == content(whole)


def test_parts_of_a_loader_are_whole_shards_each_in_one() -> None:
    whole = [shard.keys for shard in shards(Loader(), 3)]
    parts = [[shard.keys for shard in shards(part_of(Loader(), (number, 3), 3), 3)] for number in (1, 2, 3)]
    assert [parts[place % 3][place // 3] for place in range(len(whole))] == whole
    for part in ((0, 3), (4, 3), (1, 0)):
        with pytest.raises(ca.InputError, match="expected a whole number from 1"):
            part_of(Loader(), part, 3)


def test_runs_that_have_images_in_common_and_are_joined_twice(tmp_path: Path, whole: Path, ended: Path) -> None:
    run_all(tmp_path / "one.h5", Loader(count=7), layers=["mix"])
    for _ in range(2):
        join_runs([tmp_path / "one.h5", ended], tmp_path / "joined.h5")
        assert content(tmp_path / "joined.h5") == content(whole)


def test_a_thumbnail_is_kept_whichever_run_has_it(tmp_path: Path) -> None:
    """Also where the image itself was there before it."""
    batch = (images(1), None, ["a"], np.ones((1, 32), "u1"))
    run_all(tmp_path / "without.h5", [batch], layers=["mix"])
    for shade in (7, 9):
        run_all(tmp_path / f"with-{shade}.h5", [(*batch, (np.full((2, 2, 3), shade, "u1"),))], layers=["mix"])
    for order in (("without", "with-7", "with-9"), ("with-7", "without", "with-9")):
        joined = tmp_path / f"{order[0]}-first.h5"
        join_runs([tmp_path / f"{name}.h5" for name in order], joined)
        with ca.open_run(joined) as run:
            assert run.thumbnail("a")[0, 0, 0] == 7


def test_runs_that_are_not_alike_are_refused(tmp_path: Path) -> None:
    run_all(tmp_path / "one.h5", Loader(count=7), layers=["mix"])
    for name, options, match in (("size.h5", {"shard_size": 2}, "has shard_size='2', the runs before it '4'"),
                                 ("reward.h5", {"reward": "contrastive"}, "with reward 'logit'; these have 'contrastive'"),
                                 ("target.h5", {"targets": 1}, "with targets 1, the runs before it with 'predicted'")):
        given: dict[str, Any] = options
        run_all(tmp_path / name, layers=["mix"], **given)
        with pytest.raises(ca.StoreError, match=match):
            join_runs([tmp_path / "one.h5", tmp_path / name], tmp_path / f"joined-{name}")
    with pytest.raises(ca.StoreError, match="a file that is none of them"):
        join_runs([tmp_path / "one.h5"], tmp_path / "one.h5")


def test_a_part_that_has_not_ended_leaves_the_joined_run_unfinished(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    run_all(tmp_path / "1.h5", shard=(1, 2), layers=["mix"])
    with pytest.raises(KeyboardInterrupt):
        run_all(tmp_path / "2.h5", Loader(count=10), layers=["mix"], progress=stop)
    assert not join_runs([tmp_path / "1.h5", tmp_path / "2.h5"], tmp_path / "joined.h5")["complete"]


def test_the_command_line(tmp_path: Path) -> None:
    studio = make_studio(tmp_path)
    words = ["attribute", studio.model, str(studio.images), "--layer", "mix", "--areas", "2", "--device", "cpu"]

    def call(*more: object) -> str:
        done = CliRunner().invoke(main, [str(word) for word in more])
        assert done.exit_code == 0, done.output
        return done.stdout

    call(*words, "-o", tmp_path / "whole.h5")
    for number in (1, 2):
        call(*words, "-o", tmp_path / f"{number}.h5", "--shard", f"{number}/2")
    told = call("merge", tmp_path / "1.h5", tmp_path / "2.h5", "-o", tmp_path / "joined.h5")
    assert told == f"wrote {tmp_path / 'joined.h5'}: 12 images of 2 runs\n"
    call(*words, "-o", tmp_path / "joined.h5")
    assert content(tmp_path / "joined.h5") == content(tmp_path / "whole.h5")
    for wrong in ("0/2", "3/2", "1", "a/b"):
        done = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "x.h5"), "--shard", wrong])
        assert done.exit_code == 2
        assert f"--shard {wrong}; expected I/N" in done.stderr
