"""`attribute` streams into a run file, resumes by key, and gives what `per_image` and `per_class` give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import chanattr as ca
from chanattr.axes import equal
from tests.models import Homebound, Plain, images, seeded
from tests.runs.loaders import COUNT, LABELS, SHORT, Loader, content, run_all


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


def test_a_finished_run_does_nothing_again(ended: Path) -> None:
    before = content(ended)
    summary = run_all(ended)
    assert (summary.images, summary.skipped, summary.classes) == (0, COUNT, {})
    assert content(ended) == before


def test_new_images_and_layers_may_be_added(tmp_path: Path, whole: Path) -> None:
    run_all(tmp_path / "grown.h5", Loader(count=8), layers=["mix"])
    run_all(tmp_path / "grown.h5", layers=["mix"])
    run_all(tmp_path / "grown.h5", layers=["mix", "conv"])
    with ca.open_run(whole) as straight, ca.open_run(tmp_path / "grown.h5") as grown:
        assert grown.keys == straight.keys
        for layer in ("mix", "conv"):
            assert equal(grown.per_image(layer), straight.per_image(layer))
            assert grown.per_class(layer).rows.tolist() == [3, 3, 3, 1]


def test_another_question_goes_beside_it_under_its_own_label(tmp_path: Path) -> None:
    run_all(tmp_path / "run.h5", layers=["mix"])
    run_all(tmp_path / "run.h5", layers=["mix"], reward="contrastive", label="contrastive")
    with ca.open_run(tmp_path / "run.h5") as run:
        assert sorted(run.labels("mix")) == ["contrastive", "exact"]
        assert run.per_image("mix", "contrastive").settings.reward == "contrastive"
        assert run.per_image("mix").settings.reward == "logit"


def test_batches_of_other_kinds_of_numbers_and_none_at_all(tmp_path: Path) -> None:
    """bfloat16 has no numpy; the last batch of some loaders is empty; keys may be numbers in a tensor."""
    few = images(2).bfloat16()
    loader = [(few, torch.tensor([0, 1]), torch.tensor([7, 8])), (few[:0], [], [])]
    run_all(tmp_path / "run.h5", loader, model=seeded(Plain).bfloat16(), layers=["mix"], classes=False, fill="mean")
    run_all(tmp_path / "run.h5", [loader[1], *loader], model=seeded(Plain).bfloat16(), layers=["mix"], classes=False, fill="mean")
    with ca.open_run(tmp_path / "run.h5") as run:
        assert run.keys == ("7", "8")
        assert run.finished("mix") == {"7", "8"}


def test_thumbnails_stay_with_their_images_whatever_the_batches(tmp_path: Path) -> None:
    """Those of the first of each batch, or of none, None in the places between."""
    pictures = [np.full((4, 4, 3), row, "u1") for row in range(4)]
    about = [(images(4)[[row, row + 1]], None, [f"k{row}", f"k{row + 1}"], np.zeros((2, 32), "u1")) for row in (0, 2)]
    for name, given in {"first": ([pictures[0]], [pictures[2]]), "last": ([None, pictures[1]], [])}.items():
        run_all(tmp_path / name, [(*batch, thumbnails) for batch, thumbnails in zip(about, given, strict=True)], layers=["mix"])
    found = {}
    for name in ("first", "last"):
        with ca.open_run(tmp_path / name) as run:
            found[name] = {key: int(run.thumbnail(key)[0, 0, 0]) for key in run.keys if key in run.index_for_copies.thumbnails}
    assert found == {"first": {"k0": 0, "k2": 2}, "last": {"k1": 1}}


@pytest.mark.parametrize(("targets", "expected"), [("label", LABELS), (2, [2] * COUNT)])
def test_targets_by_label_or_one_for_all(tmp_path: Path, targets: str | int, expected: list[int]) -> None:
    run_all(tmp_path / "run.h5", layers=["mix"], targets=targets, classes=False)
    with ca.open_run(tmp_path / "run.h5") as run:
        assert run.per_image("mix").targets.tolist() == expected


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


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_layer_has_one_name_in_a_file(tmp_path: Path, whole: Path, wrapped: bool) -> None:
    model = torch.nn.DataParallel(seeded(Plain)) if wrapped else seeded(Plain)
    for layers in (["module.mix", "conv@1"], ["mix@1", "module.conv"]):
        summary = run_all(tmp_path / "run.h5", model=model, layers=layers, areas={layers[1]: (1, 3, 6), layers[0]: (1, 3, 6)})
    assert summary.images == 0
    assert content(tmp_path / "run.h5") == content(whole)


def test_workers_give_the_same_content(tmp_path: Path, whole: Path) -> None:
    summary = run_all(tmp_path / "pool.h5", workers=2)
    assert summary.images == COUNT
    assert content(tmp_path / "pool.h5") == content(whole)


def test_what_a_worker_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(ca.ModelError, match=r"a worker cannot get ready \(ModuleNotFoundError: No module named 'mine'\); expected"):
        run_all(tmp_path / "run.h5", model=seeded(Homebound), workers=2)


def test_a_model_that_cannot_be_sent_is_told_before_any_worker_starts(tmp_path: Path) -> None:
    class Local(Plain):
        """Of a function, where no other process finds it."""

    with pytest.raises(ca.ModelError, match=r"cannot go to worker processes \(.*Local.*\); expected .* workers=0"):
        run_all(tmp_path / "run.h5", model=seeded(Local), workers=2)
    assert run_all(tmp_path / "run.h5", model=seeded(Local)).images == COUNT


@pytest.mark.parametrize("workers", [0, 2])
def test_images_without_finite_scores_are_left_out_and_named(tmp_path: Path, workers: int) -> None:
    loader = Loader()
    loader.images[[0, 6]] = torch.nan
    for _ in range(2):
        summary = run_all(tmp_path / "run.h5", loader, fill="mean", workers=workers)
        assert [key for key, _ in summary.bad] == ["folder/0.png", "folder/6.png"]
        assert all("not finite" in reason for _, reason in summary.bad)
    assert (summary.images, summary.skipped, summary.classes) == (0, COUNT - 2, {})
    good = [i for i in range(COUNT) if i not in (0, 6)]
    with ca.open_run(tmp_path / "run.h5") as run:
        assert run.keys == tuple(f"folder/{i}.png" for i in good)
        assert run.per_class("mix").rows.tolist() == [1, 3, 3, 1]
        assert np.isfinite(run.per_image("mix").fill_values).all()
        assert run.summary()["complete"]
        stored = run.per_image("mix")
    alone = ca.per_image(seeded(Plain), loader.images[good], "mix", areas=(1, 3, 6), search=SHORT, keys=stored.keys, engine="injection",
                         fill=stored.fill_values)
    np.testing.assert_array_equal(stored.smallest_area, alone.smallest_area)
    np.testing.assert_allclose(stored.scores, alone.scores, rtol=1e-5)
    with pytest.raises(ca.ModelError, match="not finite"):
        ca.per_image(seeded(Plain), loader.images, "mix", areas=(1,), search=SHORT)


def rooty(logits: Tensor, targets: Tensor) -> Tensor:
    """NaN for a masked image whose logit falls far."""
    return logits.gather(1, targets[:, None])[:, 0].where(logits.amax(1) < 100, torch.nan)


def test_an_image_whose_masked_scores_are_not_finite_is_searched_by_none(tmp_path: Path) -> None:
    loader = Loader()
    loader.images[6] *= 1e6
    summary = run_all(tmp_path / "run.h5", loader, reward=rooty)
    assert [key for key, _ in summary.bad] == ["folder/6.png"]
    with ca.open_run(tmp_path / "run.h5") as run:
        assert run.keys == tuple(f"folder/{i}.png" for i in range(COUNT) if i != 6)
        assert run.per_class("mix").rows.tolist() == [2, 3, 3, 1]


def test_a_run_whose_images_all_lack_finite_scores_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    loader = Loader()
    loader.images[:] = torch.nan
    with pytest.raises(ca.ModelError, match=r"none of the 10 images gives an answer.*first, 'folder/0.png'.*not finite"):
        run_all(tmp_path / "run.h5", loader)
    with pytest.raises(ca.ModelError, match="no image gives finite activations at layer 'mix'"):
        run_all(tmp_path / "run.h5", loader, fill="mean")
    assert not (tmp_path / "run.h5").exists()


@pytest.mark.parametrize("after", [1, 3, 7])
def test_a_run_stopped_among_the_classes_keeps_each_that_was_done(tmp_path: Path, whole: Path, after: int) -> None:
    """Two layers of four classes."""
    def stop(done: int, total: int) -> None:
        if (done, total) == (after, 8):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(tmp_path / "broken.h5", progress=stop)
    with ca.open_run(tmp_path / "broken.h5") as run:
        kept = [len(run.per_class(layer)) if run.has_classes(layer) else 0 for layer in ("mix", "conv")]
        assert sum(kept) == after
        assert not run.summary()["complete"]
    summary = run_all(tmp_path / "broken.h5")
    assert sum(summary.classes.values()) == 8 - after
    assert content(tmp_path / "broken.h5") == content(whole)


def test_a_class_is_durable_as_soon_as_it_is_found(tmp_path: Path) -> None:
    seen = []

    def look(done: int, total: int) -> None:
        if total == 4:
            with ca.open_run(tmp_path / "run.h5") as beside:
                seen.append(len(beside.per_class("mix")))

    run_all(tmp_path / "run.h5", layers=["mix"], progress=look)
    assert seen == [1, 2, 3, 4]


def test_only_classes_with_new_images_are_searched_again(tmp_path: Path) -> None:
    run_all(tmp_path / "run.h5", Loader(count=9), layers=["mix"])
    assert run_all(tmp_path / "run.h5", layers=["mix"]).classes == {"mix": 1}  # the tenth image is of a class of its own
    some = [(images(COUNT)[:1], LABELS[:1], Loader().keys[:1]), (images(1, seed=5), [0], ["new"])]
    for _ in range(2):  # the loader has not the other images of class 0: what is there is over more
        assert run_all(tmp_path / "run.h5", some, layers=["mix"]).classes == {}
    with ca.open_run(tmp_path / "run.h5") as run:
        assert run.per_class("mix").rows.tolist() == [3, 3, 3, 1]


@pytest.mark.parametrize("folds", [0, 2])
def test_classes_have_areas_of_their_own(tmp_path: Path, folds: int) -> None:
    run_all(tmp_path / "run.h5", layers=["mix"], class_areas=(2,), folds=folds)
    with ca.open_run(tmp_path / "run.h5") as run:
        assert run.per_image("mix").areas.tolist() == [1, 3, 6]
        assert run.per_class("mix").areas.tolist() == [2]
        assert run.per_class("mix").settings.folds == folds


def test_a_run_is_complete_when_its_call_came_to_its_end(tmp_path: Path) -> None:
    def complete() -> bool:
        with ca.open_run(tmp_path / "run.h5") as run:
            return bool(run.summary()["complete"])

    def stop_at(place: int) -> Any:
        def stop(done: int, total: int) -> None:
            if done == place:
                raise KeyboardInterrupt
        return stop

    for place in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            run_all(tmp_path / "run.h5", layers=["mix"], progress=stop_at(place))
        assert not complete()  # though every image in the file has an answer
    run_all(tmp_path / "run.h5", layers=["mix"])
    assert complete()
    with pytest.raises(KeyboardInterrupt):
        run_all(tmp_path / "run.h5", layers=["mix"], reward="contrastive", label="other", progress=stop_at(COUNT))
    assert not complete()
    run_all(tmp_path / "run.h5", layers=["mix"])
    assert not complete()  # the other label still is not
    run_all(tmp_path / "run.h5", layers=["mix"], reward="contrastive", label="other")
    assert complete()
