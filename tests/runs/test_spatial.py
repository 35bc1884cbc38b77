"""Masks on the picture streamed into a run file: resumed, killed, refused, and the same as the call in memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import chanattr as ca
from chanattr.axes import equal
from chanattr.records import SpatialAttribution
from tests.models import Plain, seeded
from tests.runs.loaders import COUNT, LABELS, Again, Loader, content

SHORT = ca.ExactSearch(relaxed_steps=2, refine_steps=1)
AREAS = (0.2,)


def run_all(path: Path, loader: Any = None, **options: Any) -> Any:
    given: dict[str, Any] = {"areas": AREAS, "search": SHORT, "refine": False, "shard_size": 4, "progress": False,
                             "engine": "injection"} | options
    with ca.open_run(path, "a") as run:
        return ca.spatial_run(run, given.pop("model", None) or seeded(Plain), loader or Loader(), **given)


def read(path: Path, **where: Any) -> SpatialAttribution:
    with ca.open_run(path) as run:
        return run.spatial(**where)


def test_it_is_the_call_in_memory(tmp_path: Path) -> None:
    loader = Loader(batch=3)
    summary = run_all(tmp_path / "run.h5", loader)
    assert (summary.images, summary.skipped, summary.bad) == (COUNT, 0, ())
    assert summary.engines == {":input": read(tmp_path / "run.h5").engine}
    mine = ca.spatial(seeded(Plain), loader.images, areas=AREAS, search=SHORT, refine=False, keys=loader.keys, engine="injection")
    stored = read(tmp_path / "run.h5")
    assert np.array_equal(stored.codes, mine.codes)
    np.testing.assert_allclose(stored.scores, mine.scores, atol=1e-6)
    np.testing.assert_allclose(stored.true_areas, [AREAS] * COUNT, atol=0.002)
    with ca.open_run(tmp_path / "run.h5") as run:
        assert run.images().label.tolist() == LABELS
        assert run.summary()["complete"]


def test_cut_into_batches_in_any_way_and_resumed_the_content_is_the_same(tmp_path: Path) -> None:
    run_all(tmp_path / "whole.h5", Loader(batch=4))
    run_all(tmp_path / "cut.h5", Loader(batch=3))
    run_all(tmp_path / "more.h5", Loader(batch=4, count=6))
    summary = run_all(tmp_path / "more.h5", Loader(batch=4))
    assert (summary.images, summary.skipped) == (4, 6)
    assert content(tmp_path / "whole.h5") == content(tmp_path / "cut.h5")
    before = (tmp_path / "whole.h5").stat().st_mtime_ns
    assert run_all(tmp_path / "whole.h5").images == 0
    assert (tmp_path / "whole.h5").stat().st_mtime_ns == before  # nothing to do leaves the file alone
    # Images 4 and 5 were searched without the two that share their shard in an unbroken run, which must not matter.
    one, other = read(tmp_path / "whole.h5"), read(tmp_path / "more.h5")
    assert np.abs(one.codes.astype(int) - other.codes).max() <= 1


def test_interrupted_between_shards_it_goes_on(tmp_path: Path) -> None:
    class Stops(Loader):
        def __iter__(self) -> Any:
            for number, batch in enumerate(super().__iter__()):
                if number == 2:
                    raise KeyboardInterrupt
                yield batch

    run_all(tmp_path / "whole.h5")
    with pytest.raises(KeyboardInterrupt):
        run_all(tmp_path / "broken.h5", Stops())
    with ca.open_run(tmp_path / "broken.h5") as run:
        assert 4 <= len(run.finished(":input", spatial=True)) <= 8
        assert not run.summary()["complete"]
    run_all(tmp_path / "broken.h5")
    assert content(tmp_path / "broken.h5") == content(tmp_path / "whole.h5")


@pytest.mark.parametrize(("changed", "message"), [
    ({"areas": (0.1, 0.2)}, r"at :input under the label 'exact' with areas=\[0\.2\], but areas=\[0\.1, 0\.2\]"),
    ({"perturbation": "fade"}, "perturbation='blur', but perturbation='fade'"),
    ({"blur": 0.05}, r"blur=0\.\d+, but blur=0\.05"),
    ({"search": ca.ExactSearch(relaxed_steps=4)}, r"with search\.relaxed_steps=2, search\.refine_steps=1, but "
     r"search\.relaxed_steps=4, search\.refine_steps=10 is asked"),
    ({"search": ca.PenaltySearch(steps=2)}, "with search='exact', but search='penalty' is asked"),
    ({"game": "delete", "level": "top1"}, "game='preserve', but game='delete'"),
    ({"flip": False}, "flip=True, but flip=False"),
    ({"targets": 1}, "targets='predicted', but targets=1"),
    ({"seed": 5}, "seed=0, but seed=5"),
])
def test_another_question_is_refused_naming_the_field(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    loader = Loader(count=2)
    run_all(tmp_path / "run.h5", loader)
    before = content(tmp_path / "run.h5")
    with pytest.raises(ca.StoreError, match=message):
        run_all(tmp_path / "run.h5", loader, **changed)
    assert content(tmp_path / "run.h5") == before
    run_all(tmp_path / "run.h5", loader, label="other", **changed)
    with ca.open_run(tmp_path / "run.h5") as run:
        assert run.labels(":input", spatial=True) == ("exact", "other")


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"perturbation": torch.zeros(2, 3, 8, 8)}, ca.InputError, r"a colour \[C\] or one picture \[C, H, W\] for all images of a run"),
    ({"perturbation": "black"}, ca.InputError, "perturbation='black'; expected one of blur, fade, mean, noise"),
    ({"areas": (5,)}, ca.InputError, "areas are shares of the picture"),
    ({"layer": "head"}, ca.LayerError, "on a grid of two sides"),
    ({"targets": 4}, ca.InputError, "target 4 for a model with 4 classes"),
    ({"label": ""}, ca.InputError, "label=''"),
    ({"reward": lambda logits, targets: logits[:, 0]}, ca.InputError, "has no name of its own"),
    ({"shard_size": 0}, ca.InputError, "shard_size=0"),
])
def test_bad_options_leave_no_file(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run_all(tmp_path / "run.h5", **options)
    assert not (tmp_path / "run.h5").exists()


def test_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    large, small = torch.rand(2, 3, 12, 12), torch.rand(2, 3, 8, 8)
    batches = [(large, None, ["a", "b"]), (small, None, ["c", "d"])]
    with pytest.raises(ca.InputError, match=r"images of different sizes, \[3, 12, 12\] \('a'\), \[3, 8, 8\] \('c'\); expected one size"):
        run_all(tmp_path / "run.h5", Again(batches), shard_size=4)
    with pytest.raises(ca.InputError, match=r"images of \[3, 8, 8\] \('c'\) after such of \[3, 12, 12\]"):
        run_all(tmp_path / "other.h5", Again(batches), shard_size=2)
    assert read(tmp_path / "other.h5").keys == ("a", "b")  # what was finished before is kept
    with pytest.raises(ca.StoreError, match=r"size=\(12, 12\), but size=\(8, 8\) is asked"):
        run_all(tmp_path / "other.h5", Again(batches[1:]), shard_size=2)


def test_images_without_finite_scores_are_named_and_left_out(tmp_path: Path) -> None:
    class Broken(Loader):
        def __iter__(self) -> Any:
            for images, labels, keys in super().__iter__():
                rows = [row for row, key in enumerate(keys) if key == "folder/5.png"]
                yield images.clone().index_fill(0, torch.tensor(rows, dtype=torch.long), float("nan")), labels, keys

    summary = run_all(tmp_path / "run.h5", Broken())
    assert [key for key, _ in summary.bad] == ["folder/5.png"]
    assert "folder/5.png" not in read(tmp_path / "run.h5").keys
    assert summary.images == COUNT - 1


def test_beside_channels_and_at_a_layer(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with ca.open_run(path, "a") as run:
        ca.attribute(run, seeded(Plain), Loader(), layers=["mix"], areas=(2,), search=ca.ExactSearch(relaxed_steps=2, binary_steps=2),
                     refine=False, shard_size=4, progress=False, engine="injection", classes=False)
        alone = run.per_image("mix")
    run_all(path, layer="mix")
    run_all(path)
    with ca.open_run(path) as run:
        assert equal(run.per_image("mix"), alone)
        assert run.spatial(layer="mix").size == (6, 6)
        assert run.spatial_layers == ("mix", ":input")
        assert run.summary()["complete"]
    with pytest.raises(ca.StoreError, match="other model in the same file"):
        run_all(path, model=seeded(Plain, 1))
    with pytest.raises(ca.InputError, match=r"already has answers at mix under the label 'exact', and resume=False"):
        run_all(path, layer="mix", resume=False)


def test_progress_counts_every_image(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    run_all(tmp_path / "run.h5", Loader(count=6), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (6, 6)
    told.clear()
    run_all(tmp_path / "run.h5", progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (COUNT, COUNT)


DRIVER = r"""
import sys, time
import torch
torch.set_num_threads(1)
import chanattr as ca
from chanattr.store import Run
from pathlib import Path
from tests.runs.test_spatial import run_all
write = Run.write

def unhurried(self, *given, **named):
    done = write(self, *given, **named)
    print("written", flush=True)
    time.sleep(0.1)
    return done

Run.write = unhurried
run_all(Path(sys.argv[1]), shard_size=2)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_it_goes_on_to_the_same_content(tmp_path: Path) -> None:
    run_all(tmp_path / "whole.h5", shard_size=2)
    path = tmp_path / "broken.h5"
    root = str(Path(__file__).parents[2])
    for after in (1, 2):
        with subprocess.Popen([sys.executable, "-W", "ignore", "-c", DRIVER, str(path)], cwd=root, stdout=subprocess.PIPE, text=True,
                              env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}) as started:
            assert started.stdout is not None
            for _ in range(after):
                assert started.stdout.readline() == "written\n"
            time.sleep(0.05)
            started.send_signal(signal.SIGKILL)
        with ca.open_run(path) as run:
            held = len(run.finished(":input", spatial=True))
            assert run.check()
        assert held >= 2 * after
    assert held < COUNT
    run_all(path, shard_size=2)
    assert content(path) == content(tmp_path / "whole.h5")


def test_a_picture_or_a_colour_may_lie_under_masks(tmp_path: Path) -> None:
    colour, picture = torch.tensor([0.1, 0.2, 0.3]), torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(3))
    loader = Loader(count=2)
    for name, under in (("colour", colour), ("picture", picture)):
        run_all(tmp_path / f"{name}.h5", loader, perturbation=under)
        wholly: Tensor = under[:, None, None].expand(3, 8, 8) if under.ndim == 1 else under
        with torch.no_grad():
            expected = seeded(Plain)(wholly[None])[0]
        found = read(tmp_path / f"{name}.h5")
        np.testing.assert_allclose(found.empty, expected.numpy()[found.targets], atol=1e-5)
    with pytest.raises(ca.StoreError, match=r"perturbation_sha256='[0-9a-f]{64}', but perturbation_sha256='"):
        run_all(tmp_path / "colour.h5", loader, perturbation=colour + 0.1)
