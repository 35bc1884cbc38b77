"""What a run knows of its images and questions is kept, what contradicts it is refused, and a run takes up where it stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest

from chanattr.axes import equal
from chanattr.errors import StoreError
from chanattr.store import open_run
from chanattr.store.index import Index, Source, add
from chanattr.store.join import join_runs
from tests.store.make import CHANNELS, classes, images, keys, settings, sha256, table, write_all

LAYER = "features.10"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.h5"


def test_images_and_thumbnails(path: Path) -> None:
    record, given = images(0, 4), table(images(0, 4), thumbnails=3)
    with open_run(path, "a") as run:
        run.write(record, images=given)
        run.write(images(4, 6))
    with open_run(path) as run:
        found = run.images()
        assert found.thumbnails == {}
        assert np.array_equal(found.sha256[:4], given.sha256)
        assert not found.sha256[4:].any()
        assert found.label.tolist() == [0, 1, 2, 0, -1, -1]
        assert np.array_equal(found.target, images().targets)
        assert np.array_equal(found.prediction, images().predictions)
        assert np.array_equal(found.probability, images().probability)
        for key, picture in given.thumbnails.items():
            assert np.array_equal(run.thumbnail(key), picture)
        with pytest.raises(StoreError, match=r"the image is in the file, but without one"):
            run.thumbnail(record.keys[3])


def test_registered_images_are_remembered_until_they_are_written(path: Path) -> None:
    with open_run(path, "a") as run:
        run.register(keys(0, 6), sha256(keys(0, 6)), np.arange(6))
        assert run.keys == ()
        run.write(images(0, 4))
        assert run.keys == keys(0, 4)
    with open_run(path) as run:
        assert run.images().label.tolist() == [0, 1, 2, 3]
        assert np.array_equal(run.images().sha256, sha256(keys(0, 4)))


def test_what_is_known_of_an_unwritten_image_outlives_a_register_that_knows_less(path: Path) -> None:
    with open_run(path, "a") as run:
        run.register(keys(0, 2), sha256(keys(0, 2)), np.array([7, 8]))
        run.register(keys(0, 2), np.zeros((2, 32), "u1"), np.array([-1, 8]))
        run.write(images(0, 2))
        assert run.images().label.tolist() == [7, 8]
        assert np.array_equal(run.images().sha256, sha256(keys(0, 2)))


def test_labels_learnt_later_are_kept(path: Path) -> None:
    with open_run(path, "a") as run:
        run.write(images(0, 4))
    with open_run(path, "a") as run:
        run.register(keys(0, 2), sha256(keys(0, 2)), np.array([7, 8]))
        assert run.images().label.tolist() == [7, 8, -1, -1]
    with open_run(path) as run:
        assert run.images().label.tolist() == [7, 8, -1, -1]
        assert np.array_equal(run.images().sha256[:2], sha256(keys(0, 2)))


def test_another_label_for_a_known_one_is_refused(path: Path) -> None:
    """The answers for classes would stay those of the old labels."""
    with open_run(path, "a") as run:
        run.write(images(0, 2))
        run.register(keys(0, 2), sha256(keys(0, 2)), np.array([7, -1]))
        with pytest.raises(StoreError, match=r"is in the file with the label 7, now 8; expected the same one"):
            run.register(keys(0, 2), sha256(keys(0, 2)), np.array([8, 8]))
        run.register(keys(0, 2), sha256(keys(0, 2)), np.array([-1, 8]))
        assert run.images().label.tolist() == [7, 8]
    with open_run(path.with_name("other.h5"), "a") as run:
        run.register(keys(0, 1), sha256(keys(0, 1)), np.array([3]))
        run.write(images(0, 1))
    with pytest.raises(StoreError, match=r"is in the file with the label 7, now 3"):
        join_runs([path, path.with_name("other.h5")], path.with_name("joined.h5"))


def test_keys_duplicates_refused(path: Path) -> None:
    with open_run(path, "a") as run:
        with pytest.raises(StoreError, match=r"key 'a' comes twice; expected every image to have its own; rename"):
            run.register(("a", "a"), np.zeros((2, 32), "u1"), np.zeros(2, int))
        with pytest.raises(StoreError, match=r"comes twice"):
            run.write(images(0, 2, keys=("a", "a")))
        assert run.keys == ()


def test_keys_a_known_key_with_other_bytes_refused(path: Path) -> None:
    known = keys(0, 2)
    with open_run(path, "a") as run:
        run.register(known, sha256(known), np.zeros(2, int))
        with pytest.raises(StoreError, match=f"image '{known[1]}' is in the file with other bytes"):
            run.register(known[1:], sha256(keys(7, 8)), np.zeros(1, int))
        run.write(images(0, 2))
    with open_run(path, "a") as run:
        with pytest.raises(StoreError, match=f"image '{known[0]}' is in the file with other bytes .* expected the same picture .* rename"):
            run.register(known, sha256(keys(6, 8)), np.zeros(2, int))
        with pytest.raises(StoreError, match=r"with other bytes"):
            run.write(images(0, 2, layer="b"), images=dataclasses.replace(table(images(0, 2)), sha256=sha256(keys(6, 8))))
        run.register(known, np.zeros((2, 32), "u1"), np.full(2, -1))
        run.register(known, sha256(known), np.zeros(2, int))
        assert np.array_equal(run.images().sha256, sha256(known))


@pytest.mark.parametrize("key", ["a\0b", "caf\udce9.jpg"])
def test_keys_that_cannot_be_stored_are_refused_before_the_search(path: Path, key: str) -> None:
    with open_run(path, "a") as run, pytest.raises(StoreError, match=r"cannot be stored; expected text without NUL .* rename it"):
        run.register((key,), np.zeros((1, 32), "u1"), np.zeros(1, int))


def test_the_same_rows_again_are_passed_over_and_others_refused(path: Path) -> None:
    with open_run(path, "a") as run:
        run.write(images(0, 4))
        parts = len(list(path.with_name("run.h5.parts").iterdir()))
        run.write(images(1, 3))
        assert len(list(path.with_name("run.h5.parts").iterdir())) == parts
        run.write(images(2, 6))
        assert equal(run.per_image(LAYER), images(0, 6))
    scores = images().scores.copy()
    scores[3] += 1
    energy = np.full_like(images().energy_by_area, 0.5)
    with open_run(path, "a") as run:
        with pytest.raises(StoreError, match=f"image '{keys(3, 4)[0]}' has an answer at layer 'features.10' .* another scores; .* label="):
            run.write(images(scores=scores))
        with pytest.raises(StoreError, match=r"another energy_by_area"):
            run.write(images(energy_by_area=energy))
        run.write(images(scores=scores), label="other")
    with open_run(path) as run:
        assert equal(run.per_image(LAYER), images())
        assert np.array_equal(run.per_image(LAYER, "other").scores, scores)


@pytest.mark.parametrize(("changes", "match"), [
    ({"seed": 3}, "with seed 0; these have 3; expected one question a label; .* label="),
    ({"reward": "contrastive"}, "with reward 'logit'; these have 'contrastive'"),
    ({"game": "delete"}, "game"), ({"fill": "mean"}, "fill"), ({"level": 0.5}, "level"), ({"refine": False}, "refine"),
    ({"preprocessing": "other"}, "preprocessing"), ({"model": "other"}, "model"), ({"areas": (1, 2)}, "areas")])
def test_another_question_under_the_same_label_is_refused(path: Path, changes: dict[str, object], match: str) -> None:
    with open_run(path, "a") as run:
        run.write(images(0, 2))
        other = images(2, 4, settings=settings(**changes))
        with pytest.raises(StoreError, match=match):
            run.write(other)
        assert run.finished(LAYER) == set(keys(0, 2))
        run.write(other, label="other")
        assert equal(run.per_image(LAYER, "other", rows=[2, 3]), other)


def test_images_and_classes_have_their_own_question(path: Path) -> None:
    with open_run(path, "a") as run:
        run.write(images())
        run.write(classes())
        with pytest.raises(StoreError, match=r"with folds 2; these have 5"):
            run.write(classes(settings=settings(folds=5)))
        assert run.per_image(LAYER).settings.folds == 0
        assert run.per_class(LAYER).settings.folds == 2


def test_another_grid_or_fill_under_the_same_label_is_refused(path: Path) -> None:
    with open_run(path, "a") as run:
        run.write(images(0, 2))
        wide = images(2, 4)
        with pytest.raises(StoreError, match=r"the number of xs 4; these have 5"):
            run.write(dataclasses.replace(wide, energy=np.zeros((2, 3, 5), "f4"), energy_by_area=np.zeros((2, 3, 3, 5), "f4")))
        with pytest.raises(StoreError, match=r"fill_values"):
            run.write(dataclasses.replace(wide, fill_values=np.ones(CHANNELS, "f4")))


def test_other_model_in_the_same_file(path: Path) -> None:
    with open_run(path, "a") as run:
        run.set_attributes(model="first", model_sha256="00" * 32)
        run.set_attributes(model="second", model_sha256="ab" * 32)
        run.write(images())
        with pytest.raises(StoreError, match=r"other model in the same file: it holds answers of second .* expected one model a file"):
            run.set_attributes(model_sha256="cd" * 32)
        with pytest.raises(StoreError, match=r"other model in the same file"):
            run.write(images(layer="b", settings=settings("b", model_sha256="cd" * 32)))
        run.set_attributes(model_sha256="ab" * 32, class_names=["a", "b"])
    with open_run(path) as run:
        assert run.attributes == {"model": "second", "model_sha256": "ab" * 32, "class_names": ["a", "b"]}


@pytest.mark.parametrize("moment", ["before", "amid", "after"])
def test_an_interruption_between_a_part_and_the_index_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    def torn(index: Index, source: Source) -> None:
        if moment == "amid":
            index.add_image(keys(4, 5)[0], b"1" * 32, 1)
        if moment == "after":
            add(index, source)
        raise KeyboardInterrupt

    with open_run(path, "a") as run:
        run.write(images(0, 3))
        monkeypatch.setattr("chanattr.store.run.add", torn)
        with pytest.raises(KeyboardInterrupt):
            run.write(images(3, 6))
    with open_run(path) as run:
        assert equal(run.per_image(LAYER), images(0, 6))
        run.check()
    assert not path.with_name("run.h5.parts").exists() or not list(path.with_name("run.h5.parts").iterdir())


@pytest.mark.parametrize(("asked", "complete"), [
    ({LAYER: {"exact": {"finished": True}}}, True), ({LAYER: {"exact": {"finished": True}, "b": {"finished": False}}}, False),
    ({}, True), ("text", True), ({LAYER: [1]}, True), ({LAYER: {"exact": 3}}, True)])
def test_a_run_that_was_stopped_before_its_end_is_not_complete(path: Path, asked: object, complete: bool) -> None:
    with open_run(path, "a") as run:
        run.write(images())
        run.set_attributes(asked=asked)
        assert run.summary()["complete"] is complete
    with h5py.File(path) as file:
        assert file.attrs["complete"] == complete


def test_class_rows_replace_earlier_ones(path: Path) -> None:
    with open_run(path, "a") as run:
        run.write(classes((0, 1, 2)))
    with open_run(path, "a") as run:
        newer = classes((1, 5), seed=1)
        run.write(newer)
        found = run.per_class(LAYER)
        assert found.targets.tolist() == [0, 1, 2, 5]
        assert equal(found[[1, 3]], newer)
        assert equal(found[[0, 2]], classes()[[0, 2]])
    with open_run(path) as run:
        assert equal(run.per_class(LAYER), found)
        assert run.labels(LAYER) == ("exact",)


def test_class_twice_refused(path: Path) -> None:
    with open_run(path, "a") as run, pytest.raises(StoreError, match=r"come twice"):
        run.write(classes((1, 1)))


def test_table_of_other_images_refused(path: Path) -> None:
    with open_run(path, "a") as run:
        with pytest.raises(StoreError, match=r"images has 2 keys, the record 6"):
            run.write(images(), images=table(images(0, 2)))
        with pytest.raises(StoreError, match=r"2 keys came with sha256 \(1, 32\)"):
            run.register(("a", "b"), np.zeros((1, 32), "u1"), np.zeros(2, int))
        bad = dataclasses.replace(table(images()), thumbnails={keys(0, 1)[0]: np.zeros((4, 4), "u1")})
        with pytest.raises(StoreError, match=r"the thumbnail of .* is uint8 \(4, 4\); expected uint8 \(y, x, 3\)"):
            run.write(images(), images=bad)
        with pytest.raises(StoreError, match=r"label ''; expected a name"):
            run.write(images(), label="")


def test_resume_ends_with_the_content_of_an_unbroken_run(tmp_path: Path) -> None:
    write_all(tmp_path / "whole.h5")
    path = tmp_path / "broken.h5"
    with open_run(path, "a") as run:
        run.set_attributes(model="tiny", model_sha256="ab" * 32, shard_size=2)
        run.write(images(0, 2), images=table(images(0, 2)))
    write_all(path)
    with open_run(path) as broken, open_run(tmp_path / "whole.h5") as whole:
        assert broken.content_sha256() == whole.content_sha256()
        assert broken.keys == whole.keys
