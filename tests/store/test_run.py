"""A run in every state gives back what was written: records, rows, attributes, its summary and its digest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from chanattr.axes import equal
from chanattr.errors import StoreError
from chanattr.records import NOT_RUN
from chanattr.store import ImageTable, open_run
from tests.store.make import AREAS, CHANNELS, GRID, classes, images, keys, settings, table, write_all

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
                                  np.arange(6) % 2 == 1, [], np.int64(4), np.array(keys(2, 4)), np.array(keys(2, 4), object)])
@pytest.mark.parametrize("merged", [True, False])
def test_only_the_rows_asked_for(path: Path, rows: object, merged: bool) -> None:
    run = open_run(path, "a")
    for start in range(0, 6, 2):
        run.write(images(start, start + 2))
    if merged:
        run.close()
        run = open_run(path)
    if isinstance(rows, np.ndarray) and rows.dtype.kind in "UO":
        named = True
    else:
        named = isinstance(rows, str) or (isinstance(rows, list) and rows and isinstance(rows[0], str))
    index = [keys(0, 6).index(key) for key in ([rows] if isinstance(rows, str) else rows)] if named else rows
    expected = images()[index if isinstance(index, slice) else np.atleast_1d(np.array(index, bool if np.size(index) == 6 else int))]
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
        with pytest.raises(StoreError, match=r"at layer 'features.1' .* did you mean 'features.10'\?.*holds: features.10"):
            run.per_image("features.1")
        with pytest.raises(StoreError, match=r"no answers for classes at layer 'features.10'.*holds: none"):
            run.per_class(LAYER)
        with pytest.raises(StoreError, match=r"no answers for images .* label 'other'"):
            run.per_image(LAYER, "other")
        with pytest.raises(StoreError, match=r"no image 'x'"):
            run.per_image(LAYER, rows=["x"])
        with pytest.raises(StoreError, match=r"of 6 images"):
            run.per_image(LAYER, rows=6)
        with pytest.raises(StoreError, match=r"rows=True of 6 images .*; expected row numbers"):
            run.per_image(LAYER, rows=True)
        with pytest.raises(StoreError, match=r"field 'mask'; expected one of .*masks"):
            run.field(LAYER, "mask")
        with pytest.raises(StoreError, match=r"no thumbnail of 'x' .no such image"):
            run.thumbnail("x")
        assert not run.has_classes(LAYER)


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
