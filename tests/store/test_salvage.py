"""`survey` names every fault of a damaged run, and `repair` keeps each row that is whole: none that is not, and none is made up."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from chanattr.axes import equal
from chanattr.errors import StoreError
from chanattr.records import ClassAttribution
from chanattr.store import open_run
from chanattr.store.salvage import repair, survey
from chanattr.store.source import Source
from tests.store.make import AREAS, CHANNELS, classes, images, table

LAYER = "features.10"
GROUP = f"layers/{LAYER}/exact"
COUNT = 150  # masks lie in chunks of 64 rows


def exact_classes() -> ClassAttribution:
    """Classes whose masks have the sizes that they say."""
    made = classes()
    rank = np.random.default_rng(0).permutation(CHANNELS)
    smallest = np.array([-1, 0, 5], "i4")
    return dataclasses.replace(made, joint_masks=np.stack([np.stack([rank < area for area in AREAS])] * 3), smallest_area=smallest,
                               smallest_mask=np.stack([rank < max(0, area) for area in smallest]))


def write(path: Path, count: int = COUNT) -> None:
    with open_run(path, "a") as run:
        run.set_attributes(model="tiny", model_sha256="ab" * 32, asked={LAYER: {"exact": {"targets": "predicted", "finished": True}}})
        run.write(images(0, count), images=table(images(0, count)))
        if not run.has_classes(LAYER):
            run.write(exact_classes())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "run.h5"
    write(path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path, whole: bytes) -> Path:
    made = tmp_path / "run.h5"
    made.write_bytes(whole)
    return made


def digest(path: Path) -> str:
    with open_run(path) as run:
        return run.check()


def places(path: Path, name: str) -> list[Any]:
    """Where a dataset's chunks lie, and how long they are."""
    found: list[Any] = []
    with h5py.File(path) as root:
        root[name].id.chunk_iter(lambda chunk: found.append((chunk.byte_offset, chunk.size)))
    return sorted(found)


def spoil(path: Path, at: int, length: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at:at + length] = bytes(byte ^ 1 for byte in data[at:at + length])
    path.write_bytes(data)


def test_a_whole_run_has_no_faults_in_any_state(path: Path) -> None:
    found = survey(path)
    assert found.faults == ()
    assert (found.images, dict(found.kept)) == (COUNT, {GROUP: COUNT, f"classes/{LAYER}/exact": 3})
    assert found.content_sha256 == digest(path)
    run = open_run(path, "a")
    run.write(images(COUNT, COUNT + 2))
    run._release()
    found = survey(path)
    assert found.faults == ()
    assert found.kept[GROUP] == COUNT + 2


def test_a_repaired_whole_run_has_the_same_content(path: Path) -> None:
    found = repair(path, path.with_name("new.h5"))
    assert found.faults == ()
    assert digest(path.with_name("new.h5")) == digest(path)


def test_a_spoilt_chunk_costs_its_rows_and_no_others(path: Path) -> None:
    before = path.read_bytes()
    at, length = places(path, f"{GROUP}/mask_bits")[1]
    spoil(path, at + length // 2)
    [fault] = survey(path).faults
    assert fault.startswith(f"/{GROUP}/mask_bits rows 64 to 127 cannot be read (OSError: ")
    damaged, new = path.read_bytes(), path.with_name("new.h5")
    repair(path, new)
    assert path.read_bytes() == damaged
    left = [*range(64), *range(128, COUNT)]
    with open_run(new) as run:
        every = images(0, COUNT)
        assert run.finished(LAYER) == {every.keys[row] for row in left}
        assert equal(run.per_image(LAYER, rows=left), every[left])
        assert equal(run.per_class(LAYER), exact_classes())
        assert len(run.keys) == COUNT
        assert not run.summary()["complete"]
        assert np.array_equal(run.thumbnail(run.keys[0]), table(images()).thumbnails[run.keys[0]])
    write(new)  # the run that made it goes on
    path.write_bytes(before)
    assert digest(new) == digest(path)


def test_a_spoilt_key_costs_its_image(path: Path) -> None:
    key = images(7, 8).keys[0].encode()
    data = path.read_bytes()
    assert data.count(key) == 1
    spoil(path, data.index(key) + 4)
    faults = survey(path).faults
    assert "its names, keys or attributes have changed since it was written" in faults
    assert any("/image rows 7 do" in fault for fault in faults)
    repair(path, path.with_name("new.h5"))
    with open_run(path.with_name("new.h5")) as run:
        every = images(0, COUNT)
        assert run.keys == tuple(key for row, key in enumerate(every.keys) if row != 7)
        assert equal(run.per_image(LAYER), every[[row for row in range(COUNT) if row != 7]])


def test_a_spoilt_question_costs_its_group(path: Path) -> None:
    data = path.read_bytes()
    at = data.index(b'"relaxed_steps":6')
    path.write_bytes(data[:at] + b'"relaxed_steps":7' + data[at + 17:])
    assert any(f"/{GROUP} cannot be used" in fault or f"/classes/{LAYER}/exact cannot be used" in fault for fault in survey(path).faults)
    repair(path, path.with_name("new.h5"))
    with open_run(path.with_name("new.h5")) as run:
        assert len(run.keys) == COUNT
        assert bool(run.finished(LAYER)) != run.has_classes(LAYER)


def test_a_chunk_that_another_row_has_too_is_not_taken_for_it(path: Path) -> None:
    (one, _), (two, _), *_ = places(path, f"{GROUP}/mask_bits")
    data = path.read_bytes()
    path.write_bytes(data.replace(two.to_bytes(8, "little"), one.to_bytes(8, "little")))
    faults = survey(path).faults
    assert any("rows 0 to 127: their chunk is missing, or that of others" in fault for fault in faults)
    repair(path, path.with_name("new.h5"))
    with open_run(path.with_name("new.h5")) as run:
        assert equal(run.per_image(LAYER, rows=range(128, COUNT)), images(128, COUNT))
        assert len(run.finished(LAYER)) == COUNT - 128


def test_masks_of_wrong_sizes_are_told_by_row(tmp_path: Path) -> None:
    path, record = tmp_path / "run.h5", images()
    masks, smallest, scores = record.masks.copy(), record.smallest_mask.copy(), record.scores.copy()
    masks[3, 1, 2] ^= True
    smallest[2] = True
    scores[4, 0] = np.inf
    with open_run(path, "a") as run:
        run.write(dataclasses.replace(record, masks=masks, smallest_mask=smallest, scores=scores))
    assert [fault.removeprefix(f"/{GROUP} ") for fault in survey(path).faults] == [
        f"row 2: smallest_mask has {CHANNELS} ones, but a* is {record.smallest_area[2]}",
        f"row 3: masks has {masks[3, 1].sum()} ones at area 3", "row 4: a score is not finite"]
    repair(path, tmp_path / "new.h5")
    with open_run(tmp_path / "new.h5") as run:
        assert run.finished(LAYER) == {record.keys[row] for row in (0, 1, 5)}


def test_bits_beyond_the_last_channel_are_told(path: Path) -> None:
    with h5py.File(path, "r+") as root:
        root[f"{GROUP}/mask_bits"][5, 0, -1] |= 0x80
    assert any("row 5: mask_bits has ones beyond the last of its 21 entries" in fault for fault in survey(path).faults)


def test_a_damaged_part_costs_itself(path: Path) -> None:
    run = open_run(path, "a")
    for start in (COUNT, COUNT + 2):
        run.write(images(start, start + 2))
    run._release()
    first = min(path.with_name("run.h5.parts").glob("*.h5"))
    spoil(first, 2000)
    [fault] = survey(path).faults
    assert first.name in fault
    assert repair(path, path.with_name("new.h5")).kept[GROUP] == COUNT + 2
    with open_run(path.with_name("new.h5")) as new:
        assert equal(new.per_image(LAYER)[[-2, -1]], images(COUNT + 2, COUNT + 4))


def test_a_merge_meanwhile_is_no_fault(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(path, "a")
    run.write(images(COUNT, COUNT + 2))
    plain = Source.open
    waiting = [run]

    def merged_first(self: Source) -> Any:
        if self.part is not None and waiting:
            waiting.pop().close()
        return plain(self)

    monkeypatch.setattr(Source, "open", merged_first)
    found = survey(path)
    assert found.faults == ()
    assert found.kept[GROUP] == COUNT + 2


def test_hostile_objects_are_passed_over_unread(path: Path) -> None:
    secret = path.with_name("secret.h5")
    with h5py.File(secret, "w") as root:
        root["secret"] = np.ones(COUNT, "f4")
    with h5py.File(path, "r+") as root:
        del root[f"{GROUP}/original"]
        root[f"{GROUP}/original"] = h5py.ExternalLink(str(secret), "/secret")
    faults = survey(path).faults
    assert f"/{GROUP}/original is a link to elsewhere" in faults
    assert any(f"/{GROUP} cannot be used (KeyError" in fault for fault in faults)
    assert set(repair(path, path.with_name("new.h5")).kept) == {f"classes/{LAYER}/exact"}


def test_what_cannot_be_repaired(path: Path, whole: bytes) -> None:
    path.with_name("new.h5").write_text("mine")
    with pytest.raises(StoreError, match=r"new.h5 is there already; expected a place for a new file; .* -o"):
        repair(path, path.with_name("new.h5"))
    with pytest.raises(StoreError, match=r"no run at"):
        survey(path.with_name("nowhere.h5"))
    path.write_bytes(whole[:300])
    assert len(survey(path).faults) == 1
    with pytest.raises(StoreError, match=r"nothing of .*run.h5 is whole \("):
        repair(path, path.with_name("other.h5"))
    with h5py.File(path, "w") as root:
        root["image"] = np.arange(3)
    with pytest.raises(StoreError, match="not a run of chanattr"):
        survey(path)


def test_a_repair_that_keeps_nothing_leaves_no_file(tmp_path: Path) -> None:
    """It would stand in the way of the next one."""
    path, new = tmp_path / "run.h5", tmp_path / "new.h5"
    with open_run(path, "a") as run:
        run.set_attributes(model="tiny")
        run.write(images())
    for name in ("sha256", f"{GROUP}/score"):
        for at, _ in places(path, name):
            spoil(path, at + 2)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"nothing of .*run.h5 is whole \("):
            repair(path, new)
        assert not new.exists()
        assert not new.with_name("new.h5.parts").exists()


def test_whatever_is_damaged_no_wrong_row_is_kept(tmp_path: Path) -> None:
    made = tmp_path / "made.h5"
    write(made, 80)
    whole, every, rng = made.read_bytes(), images(0, 80), random.Random(0)
    used = [place for place, byte in enumerate(whole) if byte]
    kept = 0
    for number in range(12):
        path, new = tmp_path / f"{number}.h5", tmp_path / f"{number}-new.h5"
        data, at = bytearray(whole), rng.choice(used)
        length = rng.choice((1, 8, 300))
        data[at:at + length] = rng.randbytes(len(data[at:at + length]))
        path.write_bytes(data)
        try:
            faults = survey(path).faults
            repair(path, new)
        except StoreError:
            continue
        with open_run(new) as run:
            rows = [every.keys.index(key) for key in run.keys]
            done = [row for row, key in enumerate(run.keys) if LAYER in run.layers and key in run.finished(LAYER)]
            if done:
                found, right = run.per_image(LAYER, rows=done), every[[rows[row] for row in done]]
                assert equal(dataclasses.replace(found, energy_by_area=right.energy_by_area), right)
            assert faults or len(done) == 80
            kept += len(done)
    assert kept > 12 * 40
