"""`attribute` streams into a run file, resumes by key, and gives what `per_image` and `per_class` give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import chanattr as ca
from chanattr.records import equal
from tests.models import Plain, images, seeded

COUNT = 10
LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 3]
SHORT = ca.ExactSearch(relaxed_steps=3, binary_steps=4, refine_steps=2)


class Loader:
    """Ten images in batches of any size."""

    def __init__(self, batch: int = 4, *, count: int = COUNT, keys: list[str] | None = None, seed: int = 1) -> None:
        self.images, self.batch, self.count = images(COUNT, seed=seed), batch, count
        self.keys = keys or [f"folder/{i}.png" for i in range(count)]

    def __iter__(self) -> Iterator[tuple[Tensor, list[int], list[str]]]:
        for first in range(0, self.count, self.batch):
            rows = slice(first, min(first + self.batch, self.count))
            yield self.images[rows], LABELS[rows], self.keys[rows]


def run_all(path: Path, loader: Any = None, **options: Any) -> ca.runs.RunSummary:  # type: ignore[name-defined]
    given: dict[str, Any] = {"areas": (1, 3, 6), "search": SHORT, "shard_size": 4, "progress": False, "engine": "injection"} | options
    with ca.open_run(path, "a") as run:
        return ca.attribute(run, given.pop("model", None) or seeded(Plain), loader or Loader(),
                            given.pop("layers", ["mix", "conv"]), **given)


def content(path: Path) -> str:
    with ca.open_run(path) as run:
        return str(run.content_sha256())


def test_a_run_holds_what_per_image_and_per_class_give(tmp_path: Path) -> None:
    run_all(tmp_path / "run.h5", shard_size=16)
    with ca.open_run(tmp_path / "run.h5") as run:
        stored, classes = run.per_image("mix"), run.per_class("mix")
        assert list(run.layers) == ["mix", "conv"]
        assert run.keys == tuple(Loader().keys)
    model, x = seeded(Plain), images(COUNT)
    fresh = ca.per_image(model, x, "mix", areas=(1, 3, 6), search=SHORT, keys=Loader().keys, engine="injection")
    for name in ("masks", "targets", "smallest_area", "smallest_mask", "top1"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(fresh, name))
    np.testing.assert_allclose(stored.scores, fresh.scores, rtol=1e-6)
    assert classes.targets.tolist() == [0, 1, 2, 3]
    assert classes.rows.tolist() == [3, 3, 3, 1]
    apart = ca.per_class(model, x, "mix", targets=LABELS, areas=(1, 3, 6), search=SHORT, engine="injection")
    np.testing.assert_array_equal(classes.joint_masks, apart.joint_masks)
    np.testing.assert_allclose(classes.held_out_scores, apart.held_out_scores, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 10])
def test_shards_are_fixed_by_key_order_and_shard_size_never_by_the_batch(tmp_path: Path, whole: Path, batch: int) -> None:
    run_all(tmp_path / "other.h5", Loader(batch))
    assert content(tmp_path / "other.h5") == content(whole)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run."""
    path = tmp_path_factory.mktemp("whole") / "run.h5"
    run_all(path)
    return path


@pytest.mark.parametrize(("after", "ending"), [(1, KeyboardInterrupt), (2, RuntimeError), (5, KeyboardInterrupt), (8, KeyboardInterrupt)])
def test_a_stopped_run_goes_on_and_ends_the_same(tmp_path: Path, whole: Path, after: int, ending: type[BaseException]) -> None:
    steps = 0

    def stop(done: int, total: int) -> None:
        nonlocal steps
        steps += 1
        if steps == after:
            raise ending("stopped")

    with pytest.raises(ending, match="stopped"):
        run_all(tmp_path / "broken.h5", progress=stop)
    with ca.open_run(tmp_path / "broken.h5") as run:
        assert len(run.finished("mix")) == min(COUNT, 4 * ((after + 1) // 2))
        done = len(run.finished("mix") & run.finished("conv"))
        assert done == min(COUNT, 4 * (after // 2))
    summary = run_all(tmp_path / "broken.h5")
    assert summary.images == COUNT - done
    assert content(tmp_path / "broken.h5") == content(whole)


def test_a_finished_run_does_nothing_again(tmp_path: Path) -> None:
    run_all(tmp_path / "run.h5")
    before = content(tmp_path / "run.h5")
    summary = run_all(tmp_path / "run.h5")
    assert (summary.images, summary.skipped, summary.classes) == (0, COUNT, {})
    assert content(tmp_path / "run.h5") == before


def test_new_images_and_layers_may_be_added(tmp_path: Path, whole: Path) -> None:
    run_all(tmp_path / "grown.h5", Loader(count=8), layers=["mix"])
    run_all(tmp_path / "grown.h5", layers=["mix"])
    run_all(tmp_path / "grown.h5", layers=["mix", "conv"])
    with ca.open_run(whole) as straight, ca.open_run(tmp_path / "grown.h5") as grown:
        assert grown.keys == straight.keys
        for layer in ("mix", "conv"):
            assert equal(grown.per_image(layer), straight.per_image(layer))
            assert grown.per_class(layer).rows.tolist() == [3, 3, 3, 1]


@pytest.mark.parametrize(("changed", "message"), [
    ({"reward": "contrastive"}, "reward='logit', but reward='contrastive' is asked"),
    ({"areas": (1, 2)}, r"areas=\[1, 3, 6\], but areas=\[1, 2\]"),
    ({"seed": 3}, "seed=0, but seed=3"),
    ({"search": ca.ExactSearch(binary_steps=5)}, "search=.*'binary_steps': 4.* but search=.*'binary_steps': 5"),
    ({"level": 0.5}, "level='original', but level=0.5"),
    ({"fill": "mean"}, "fill='zero', but fill='mean'"),
    ({"preprocessing": "other"}, "preprocessing='', but preprocessing='other'"),
])
def test_another_question_for_the_same_layer_is_refused_naming_the_field(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    run_all(tmp_path / "run.h5", layers=["mix"], classes=False)
    before = content(tmp_path / "run.h5")
    with pytest.raises(ca.StoreError, match=message):
        run_all(tmp_path / "run.h5", layers=["mix"], classes=False, **changed)
    assert content(tmp_path / "run.h5") == before


def test_another_question_goes_beside_it_under_its_own_label(tmp_path: Path) -> None:
    run_all(tmp_path / "run.h5", layers=["mix"])
    run_all(tmp_path / "run.h5", layers=["mix"], reward="contrastive", label="contrastive")
    with ca.open_run(tmp_path / "run.h5") as run:
        assert sorted(run.labels("mix")) == ["contrastive", "exact"]
        assert run.per_image("mix", "contrastive").settings.reward == "contrastive"
        assert run.per_image("mix").settings.reward == "logit"


def test_another_model_in_the_same_file_is_refused(tmp_path: Path) -> None:
    run_all(tmp_path / "run.h5")
    with pytest.raises(ca.StoreError, match=r"model"):
        run_all(tmp_path / "run.h5", model=seeded(Plain, 1))


def test_another_shard_size_is_refused(tmp_path: Path) -> None:
    run_all(tmp_path / "run.h5")
    with pytest.raises(ca.InputError, match="shard_size=8, but this file was made with 4"):
        run_all(tmp_path / "run.h5", shard_size=8)


def test_no_resume_refuses_a_file_with_answers(tmp_path: Path) -> None:
    run_all(tmp_path / "run.h5", resume=False)
    with pytest.raises(ca.InputError, match="already has answers at mix, conv"):
        run_all(tmp_path / "run.h5", resume=False)


def test_a_known_key_with_other_bytes_is_refused(tmp_path: Path) -> None:
    run_all(tmp_path / "run.h5")
    with pytest.raises(ca.StoreError, match=r"folder/0\.png"):
        run_all(tmp_path / "run.h5", Loader(seed=2))


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ca.InputError, match=r"'folder/0\.png' twice"):
        run_all(tmp_path / "run.h5", Loader(keys=["folder/0.png"] * COUNT))


@pytest.mark.parametrize(("loader", "message"), [
    ([], "loader is empty"),
    ([torch.zeros(2, 3, 8, 8)], "expected .images, labels, keys. a batch"),
    ([(torch.zeros(2, 3, 8, 8), [1], ["a", "b"])], "gave 2 images, 1 labels and 2 keys"),
])
def test_what_is_no_loader_is_refused(tmp_path: Path, loader: list[Any], message: str) -> None:
    with pytest.raises(ca.InputError, match=message):
        run_all(tmp_path / "run.h5", loader or iter(()))


@pytest.mark.parametrize(("targets", "expected"), [("label", LABELS), (2, [2] * COUNT)])
def test_targets_by_label_or_one_for_all(tmp_path: Path, targets: str | int, expected: list[int]) -> None:
    run_all(tmp_path / "run.h5", layers=["mix"], targets=targets, classes=False)
    with ca.open_run(tmp_path / "run.h5") as run:
        assert run.per_image("mix").targets.tolist() == expected


def test_labels_are_needed_where_they_are_the_targets(tmp_path: Path) -> None:
    with pytest.raises(ca.InputError, match="'a' has no label"):
        run_all(tmp_path / "run.h5", [(images(1), None, ["a"])], targets="label")


def test_mean_fill_is_one_for_the_whole_run_and_is_kept_when_resumed(tmp_path: Path) -> None:
    run_all(tmp_path / "part.h5", Loader(count=4), layers=["mix"], fill="mean", classes=False)
    with ca.open_run(tmp_path / "part.h5") as run:
        first = run.per_image("mix").fill_values
    run_all(tmp_path / "part.h5", layers=["mix"], fill="mean", classes=False)
    with ca.open_run(tmp_path / "part.h5") as run:
        np.testing.assert_array_equal(run.per_image("mix").fill_values, first)
        assert len(run.finished("mix")) == COUNT


def test_areas_by_layer(tmp_path: Path) -> None:
    run_all(tmp_path / "run.h5", areas={"mix": (2,), "conv": (1, 5)})
    with ca.open_run(tmp_path / "run.h5") as run:
        assert run.per_image("mix").areas.tolist() == [2]
        assert run.per_image("conv").areas.tolist() == [1, 5]
    with pytest.raises(ca.InputError, match="'norm', which is not in this run"):
        run_all(tmp_path / "other.h5", areas={"norm": (2,)})


def test_workers_give_the_same_content(tmp_path: Path, whole: Path) -> None:
    summary = run_all(tmp_path / "pool.h5", workers=2)
    assert summary.images == COUNT
    assert content(tmp_path / "pool.h5") == content(whole)


def test_bad_scores_keep_what_is_finished(tmp_path: Path) -> None:
    loader = Loader()
    loader.images[6] = torch.nan
    with pytest.raises(ca.ModelError, match=r"not finite.*folder/6.png"):
        run_all(tmp_path / "run.h5", loader)
    with ca.open_run(tmp_path / "run.h5") as run:
        assert len(run.finished("mix")) == 4
