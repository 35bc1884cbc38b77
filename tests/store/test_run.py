"""A run in every state gives back what was written, refuses what contradicts it, and takes up where it stopped."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import stat
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import chanattr.store.merge
import chanattr.store.netcdf
from chanattr.axes import equal
from chanattr.errors import StoreError
from chanattr.records import NOT_RUN
from chanattr.store import ImageTable, open_run
from chanattr.store.index import Index, Source, add
from chanattr.store.join import join_runs
from tests.store.make import AREAS, CHANNELS, GRID, classes, images, keys, settings, sha256, table, write_all

LAYER = "features.10"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.h5"


def test_both_records_read_back_equal_in_all_three_states(path: Path) -> None:
    with open_run(path, "a") as run:
        run.write(images(0, 4), images=table(images(0, 4)))
        run.write(classes())
        assert not path.exists()
        with open_run(path) as parts_only:
            assert equal(parts_only.per_image(LAYER), images(0, 4))
            assert equal(parts_only.per_class(LAYER), classes())
    assert not path.with_name("run.h5.parts").exists()
    with open_run(path) as file_only:
        assert equal(file_only.per_image(LAYER), images(0, 4))
        assert equal(file_only.per_class(LAYER), classes())
        assert file_only.per_image(LAYER).engine == "cut"
    with open_run(path, "a") as run:
        run.write(images(4, 7))
        with open_run(path) as both:
            assert equal(both.per_image(LAYER), images(0, 7))
            assert equal(both.per_class(LAYER), classes())
    with open_run(path) as merged:
        assert equal(merged.per_image(LAYER), images(0, 7))


def test_energies_come_back_rounded_to_half_precision_and_clipped(path: Path) -> None:
    energy = np.linspace(0, 1e6, 6 * 12, dtype="f4").reshape(6, *GRID)
    with open_run(path, "a") as run:
        run.write(images(energy=energy))
        found = run.per_image(LAYER).energy
    assert found.dtype == np.float32
    assert found.max() == 65504
    assert np.array_equal(found, np.clip(energy, 0, 65504).astype("f2").astype("f4"))


def test_no_areas_at_all(path: Path) -> None:
    record = images(areas=())
    with open_run(path, "a") as run:
        run.write(record)
    with open_run(path) as run:
        assert equal(run.per_image(LAYER), record)
        assert run.check() == run.content_sha256()


@pytest.mark.parametrize("channels", [9, 16, 528])
def test_channel_counts_that_are_no_multiple_of_eight(path: Path, channels: int) -> None:
    record = images(channels=channels)
    with open_run(path, "a") as run:
        run.write(record)
    with open_run(path) as run:
        assert equal(run.per_image(LAYER), record)


def test_nothing_written_makes_no_file(path: Path) -> None:
    with open_run(path, "a"):
        pass
    assert not path.exists()


def test_opening_and_closing_a_whole_file_leaves_it_as_it_is(path: Path) -> None:
    write_all(path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    write_all(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_layers_labels_and_keys_in_the_order_of_first_writing(path: Path) -> None:
    with open_run(path, "a") as run:
        for layer in ("z", "a/b", ".", ""):
            run.write(images(2, 4, layer=layer))
        run.write(images(0, 3, layer="z"))
        run.write(images(0, 2, layer="z"), label="other/label")
        run.write(classes(layer="joint only"))
    with open_run(path) as run:
        assert run.layers == ("z", "a/b", ".", "", "joint only")
        assert run.labels("z") == ("exact", "other/label")
        assert run.labels("joint only") == ("exact",)
        assert run.labels("nowhere") == ()
        assert run.keys == (*keys(2, 4), *keys(0, 2))
        assert run.finished(".") == set(keys(2, 4))
        assert run.finished("joint only") == run.finished("nowhere") == set()
        assert equal(run.per_image("z")[[2, 3, 0]], images(0, 3, layer="z"))
        assert equal(run.per_image("", rows=slice(0, 2)), images(2, 4, layer=""))


def test_rows_not_run_come_back_as_such(path: Path) -> None:
    with open_run(path, "a") as run:
        run.write(images(0, 4))
        run.write(images(2, 4, layer="b"))
        for opened in (run, None):
            with open_run(path) if opened is None else run as now:
                found = now.per_image("b")
                assert found.smallest_area.tolist()[:2] == [NOT_RUN, NOT_RUN]
                assert np.isnan(found.scores[:2]).all()
                assert np.isnan(found.energy_by_area[:2]).all()
                assert not found.masks[:2].any()
                assert equal(found[2:], images(2, 4, layer="b"))
                assert not now.summary()["complete"]


def test_rows_that_a_record_did_not_run_are_not_stored(path: Path) -> None:
    area = np.array([NOT_RUN, 0, 2, NOT_RUN], "i4")
    with open_run(path, "a") as run:
        run.write(images(0, 4, smallest_area=area))
        assert run.keys == keys(0, 4)
        assert run.finished(LAYER) == set(keys(1, 3))
        assert np.isnan(run.per_image(LAYER).scores[[0, 3]]).all()
        run.write(images(0, 1))
        run.write(images(3, 4))
    with open_run(path) as run:
        assert equal(run.per_image(LAYER)[[0, 3]], images(0, 4)[[0, 3]])


@pytest.mark.parametrize("rows", [slice(1, 3), 4, -1, [5, 0, 0], np.array([3, 1]), list(keys(2, 4)), keys(5, 6)[0],
                                  np.arange(6) % 2 == 1, []])
@pytest.mark.parametrize("merged", [True, False])
def test_only_the_rows_asked_for(path: Path, rows: object, merged: bool) -> None:
    run = open_run(path, "a")
    for start in range(0, 6, 2):
        run.write(images(start, start + 2))
    if merged:
        run.close()
        run = open_run(path)
    named = isinstance(rows, str) or (isinstance(rows, list) and rows and isinstance(rows[0], str))
    index = [keys(0, 6).index(key) for key in ([rows] if isinstance(rows, str) else rows)] if named else rows
    expected = images()[index if not isinstance(index, list) else np.array(index, int)]
    assert equal(run.per_image(LAYER, rows=rows), expected)
    assert np.array_equal(run.field(LAYER, "masks", rows=rows), expected.masks)
    run.close()


def test_slices_read_slices(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_run(path, "a") as run:
        run.write(images(0, 200))
    read = []
    plain = h5py.Dataset.__getitem__
    with open_run(path) as run:
        monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, *a, **k: read.append(np.size(out := plain(self, *a, **k))) or out)
        run.per_image(LAYER, rows=slice(70, 75))
        assert max(read) <= 5 * len(AREAS) * max(CHANNELS, np.prod(GRID))
        read.clear()
        run.field(LAYER, "smallest_score", rows=[0, 199])
        assert sum(read) <= 200


def test_unknown_names_are_told_with_what_there_is(path: Path) -> None:
    with open_run(path, "a") as run:
        run.write(images())
        with pytest.raises(StoreError, match=r"at layer 'features.1' .* did you mean 'features.10'\?.*holds features.10"):
            run.per_image("features.1")
        with pytest.raises(StoreError, match=r"no answers for classes at layer 'features.10'.*holds none"):
            run.per_class(LAYER)
        with pytest.raises(StoreError, match=r"no answers for images .* label 'other'"):
            run.per_image(LAYER, "other")
        with pytest.raises(StoreError, match=r"no image 'x'"):
            run.per_image(LAYER, rows=["x"])
        with pytest.raises(StoreError, match=r"of 6 images"):
            run.per_image(LAYER, rows=6)
        with pytest.raises(StoreError, match=r"field 'mask'; expected one of .*masks"):
            run.field(LAYER, "mask")
        with pytest.raises(StoreError, match=r"no thumbnail of 'x' .no such image"):
            run.thumbnail("x")
        assert not run.has_classes(LAYER)


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
        run.register(keys(0, 2), np.zeros((2, 32), "u1"), np.array([-1, 9]))
        run.write(images(0, 2))
        assert run.images().label.tolist() == [7, 9]
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


def test_attributes_are_durable_copies_and_json(path: Path) -> None:
    names = [f"class {n} with a long name" * 20 for n in range(2000)]
    with open_run(path, "a") as run:
        run.set_attributes(class_names=names, shard_size=64)
        run.attributes["shard_size"] = 1
        with open_run(path) as beside:
            assert beside.attributes["shard_size"] == 64
        with pytest.raises(StoreError, match=r"attributes when cannot be stored .* convert"):
            run.set_attributes(when=object())
    with open_run(path) as run:
        assert run.attributes == {"class_names": names, "shard_size": 64}
        assert run.keys == ()
        assert not run.summary()["complete"]


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


def test_summary_is_json(path: Path) -> None:
    write_all(path)
    with open_run(path) as run:
        told = json.loads(json.dumps(run.summary()))
    assert told["path"] == str(path)
    assert (told["complete"], told["images"], told["format_version"]) == (True, 8, "1.0")
    assert list(told["layers"]) == [LAYER, "a/b"]
    about = told["layers"][LAYER]["exact"]
    assert (about["areas"], about["channels"], about["images"], about["classes"], about["engine"]) == ([1, 3, 9], CHANNELS, 8, 3, "cut")
    assert about["settings"] == settings().as_dict()
    assert about["class_settings"]["folds"] == 2


def test_a_notebook_shows_what_is_there(path: Path) -> None:
    with open_run(path, "a") as run:
        run.set_attributes(model="<img src=x onerror=alert(1)>")
        run.write(images(0, 3))
        run.write(classes())
        shown = run._repr_html_()
    assert "<table" in shown
    assert [f">{word}</td>" in shown for word in (LAYER, "exact", "3", str(CHANNELS))] == [True] * 4
    assert "not complete" not in shown
    assert "<img" not in shown
    assert "&lt;img src=x" in shown


def test_the_same_answers_in_another_order_have_the_same_digest(tmp_path: Path) -> None:
    digests = set()
    for number, (size, layers) in enumerate([(2, (LAYER, "a/b")), (8, ("a/b", LAYER)), (3, (LAYER, "a/b"))]):
        with open_run(tmp_path / f"{number}.h5", "a") as run:
            run.set_attributes(model="tiny")
            for layer in layers:
                for start in reversed(range(0, 8, size)):
                    record = images(start, min(8, start + size), layer=layer, engine=f"engine {number}")
                    run.write(record, images=table(record))
                run.write(classes((2,), layer=layer, seed=1))
                run.write(classes(layer=layer))
            digests.add(run.content_sha256())
        with open_run(tmp_path / f"{number}.h5") as run:
            digests.add(run.check())
    assert len(digests) == 1


@pytest.mark.parametrize("change", ["score", "label", "attribute", "thumbnail", "class", "fewer", "energy"])
def test_other_answers_have_another_digest(tmp_path: Path, change: str) -> None:
    digests = []
    for changed in (False, True):
        record = images(0, 3 if changed and change == "fewer" else 4)
        if changed and change == "score":
            record = dataclasses.replace(record, scores=record.scores + np.float32(1e-6))
        if changed and change == "energy":
            record = dataclasses.replace(record, energy_by_area=record.energy_by_area + np.float32(1))
        given = table(record, thumbnails=1 if changed and change == "thumbnail" else 2)
        if changed and change == "label":
            given = dataclasses.replace(given, label=given.label + 1)
        with open_run(tmp_path / f"{changed}.h5", "a") as run:
            run.set_attributes(shard_size=2 if changed and change == "attribute" else 1)
            run.write(record, images=given)
            run.write(classes(seed=int(changed and change == "class")))
            digests.append(run.content_sha256())
    assert digests[0] != digests[1]


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
    with pytest.raises(StoreError, match=r"mode='w'; expected 'r' to read or 'a'"):
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


def test_write_alone_is_enough(path: Path) -> None:
    with open_run(path, "a") as run:
        run.write(images(0, 2))
        found = run.images()
    assert not found.sha256.any()
    assert found.label.tolist() == [-1, -1]
    assert found.target.tolist() == images(0, 2).targets.tolist()


def test_table_has_a_row_for_every_image(path: Path) -> None:
    empty = ImageTable(keys=(), sha256=np.zeros((0, 32), "u1"), label=np.zeros(0, "i4"), target=np.zeros(0, "i4"),
                       prediction=np.zeros(0, "i4"), probability=np.zeros(0, "f4"))
    with open_run(path, "a") as run:
        run.write(images()[np.zeros(0, int)], images=empty)
        assert run.keys == run.layers == ()
