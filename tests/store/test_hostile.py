"""Hostile files are refused before their data is read: nothing outside the file is opened, and nothing takes long."""

from __future__ import annotations

import os
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from chanattr.errors import StoreError
from chanattr.store import open_run
from chanattr.store.check import filled_parts
from tests.store.make import images
from tests.store.test_damage import GROUP, LAYER


def external_link(root: h5py.File, secret: Path) -> None:
    del root["sha256"]
    root["sha256"] = h5py.ExternalLink(str(secret), "/secret")


def soft_link(root: h5py.File, secret: Path) -> None:
    del root["sha256"]
    root["sha256"] = h5py.SoftLink("/label")


def soft_loop(root: h5py.File, secret: Path) -> None:
    root["layers/again"] = h5py.SoftLink("/layers")


def hard_loop(root: h5py.File, secret: Path) -> None:
    root["layers/again"] = root["layers"]


def second_name(root: h5py.File, secret: Path) -> None:
    root["again"] = root["label"]


def virtual(root: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((6, 32), "u1")
    layout[...] = h5py.VirtualSource(str(secret), "secret", (6, 32), "u1")
    del root["sha256"]
    root.create_virtual_dataset("sha256", layout)


def external_storage(root: h5py.File, secret: Path) -> None:
    del root["sha256"]
    root.create_dataset("sha256", (6, 32), "u1", external=[(str(secret), 0, 192)])


def giant(root: h5py.File, secret: Path) -> None:
    del root[f"{GROUP}/score"]
    root.create_dataset(f"{GROUP}/score", (10**12, 3), "f4", chunks=(1024, 3))


def giant_contiguous(root: h5py.File, secret: Path) -> None:
    del root[f"{GROUP}/area"]
    root.create_dataset(f"{GROUP}/area", (10**12,), "i4")


def giant_chunk(root: h5py.File, secret: Path) -> None:
    del root["label"]
    root.create_dataset("label", (6,), "i4", maxshape=(None,), chunks=(2**25,), compression="gzip")[...] = 0


def stores_nothing(root: h5py.File, secret: Path) -> None:
    root.create_dataset("bomb", (2**17,), "u1", chunks=(2**10,), fillvalue=1, compression="gzip")


def unknown_filter(root: h5py.File, secret: Path) -> None:
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((6,))
    made.set_filter(32123, h5py.h5z.FLAG_OPTIONAL, (1, 2))
    del root["label"]
    h5py.h5d.create(root.id, b"label", h5py.h5t.STD_I32LE, h5py.h5s.create_simple((6,)), made)


def references(root: h5py.File, secret: Path) -> None:
    del root["label"]
    root.create_dataset("label", (6,), h5py.ref_dtype)


def compound(root: h5py.File, secret: Path) -> None:
    del root["label"]
    root.create_dataset("label", (6,), [("a", "i4"), ("b", "i4")])


def ragged(root: h5py.File, secret: Path) -> None:
    del root["label"]
    root.create_dataset("label", (6,), h5py.vlen_dtype("i4"))


def pickled_object(root: h5py.File, secret: Path) -> None:
    del root["label"]
    root["label"] = np.void(pickle.dumps({"an": "object"}))


def pickles_of_any_length(root: h5py.File, secret: Path) -> None:
    del root["label"]
    root.create_dataset("label", (6,), h5py.vlen_dtype(np.dtype("V1")))


def complex_numbers(root: h5py.File, secret: Path) -> None:
    root["beside"] = np.zeros(6, "c8")


def wide_rows(root: h5py.File, secret: Path) -> None:
    """Packs 80 MB a row into 80 kB: one row would be all that the memory holds."""
    root.create_dataset("wide", (1, 80, 2**20), "u1", chunks=(1, 1, 2**20), compression="gzip")[...] = 0


def wide_openings(root: h5py.File, secret: Path) -> None:
    """Areas of which each alone is within bounds."""
    for number in range(5):
        root.create_dataset(f"layers/{number}/exact/area", (2**22,), "i4", chunks=(2**20,), compression="gzip")[...] = 0


def attribute_of_many_texts(root: h5py.File, secret: Path) -> None:
    root[GROUP].attrs["many"] = ["text"] * 100


def named_type(root: h5py.File, secret: Path) -> None:
    root["type"] = np.dtype("i4")


def null_space(root: h5py.File, secret: Path) -> None:
    del root["label"]
    root["label"] = h5py.Empty("i4")


def many_objects(root: h5py.File, secret: Path) -> None:
    for n in range(200):
        root.create_group(f"many/{n}")


def deep(root: h5py.File, secret: Path) -> None:
    root.create_group("a/b/c/d/e/f/g/h/i")


def reference_attribute(root: h5py.File, secret: Path) -> None:
    root.attrs.create("model", root["label"].ref, dtype=h5py.ref_dtype)


TRICKS = [external_link, soft_link, soft_loop, hard_loop, second_name, virtual, external_storage, giant, giant_contiguous, giant_chunk,
          stores_nothing,
          unknown_filter, references, compound, ragged, pickled_object, pickles_of_any_length, complex_numbers, wide_rows, wide_openings,
          attribute_of_many_texts, named_type, null_space, many_objects, deep, reference_attribute]


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.__name__)
def test_hostile_files_are_refused_before_data_is_read(path: Path, trick: Callable[[h5py.File, Path], None],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    secret = path.with_name("secret.h5")
    with h5py.File(secret, "w") as root:
        root["secret"] = np.ones((6, 32), "u1")
    with h5py.File(path, "r+") as root:
        trick(root, secret)
    monkeypatch.setattr("chanattr.store.check.MAX_OBJECTS", 200)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", None)  # any read of data ends in another message
    with pytest.raises(StoreError, match=r"cannot be read \((/|more)") as caught:
        open_run(path)
    assert "NoneType" not in str(caught.value)


def test_a_million_empty_keys_are_not_all_read(path: Path) -> None:
    with h5py.File(path, "r+") as root:
        del root["image"]
        made = root.create_dataset("image", (2**20,), h5py.string_dtype(), chunks=(2**14,), compression="gzip")
        for start in range(0, 2**20, 2**14):
            made.id.write_direct_chunk((start,), zlib.compress(bytes(16 * 2**14)))
    with pytest.raises(StoreError, match="has more text than the file has bytes"):
        open_run(path)


def test_a_heap_that_hdf5_would_read_for_ever_is_refused(path: Path, whole: bytes) -> None:
    """An object of no size: HDF5 looks for the next one in the same place again."""
    at = whole.index(b"GCOL") + 16
    last = at
    while int.from_bytes(whole[last:last + 2], "little"):
        last += 16 + -(-int.from_bytes(whole[last + 8:last + 16], "little") // 8) * 8
    for place, words in ((last + 8, bytes(8)), (at + 8, b"\xff" * 8), (at, bytes(16))):
        path.write_bytes(whole[:place] + words + whole[place + len(words):])
        with pytest.raises(StoreError, match=r"a heap of texts at byte \d+ is damaged"):
            open_run(path)


def test_heaps_within_heaps_are_refused_at_once(path: Path, whole: bytes) -> None:
    """Each begins sixteen bytes after the one before and goes on to the end: walking all of them takes the square of the size."""
    count = 40_000
    heaps = b"".join(b"GCOL\1\0\0\0" + (16 * (count - place)).to_bytes(8, "little") for place in range(count))
    path.write_bytes(whole + heaps)
    with pytest.raises(StoreError, match=r"heaps of texts lie within one another|is damaged"):
        open_run(path)


def test_holes_are_not_looked_through(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with open(path, "wb") as file:
        file.write(b"x" * 4096)
        file.truncate(2**40)
        file.seek(2**39)
        file.write(b"GCOL\1")
        file.flush()
        filled = filled_parts(file.fileno(), 2**40)
    if sum(end - first for first, end in filled) > 2**20:
        pytest.skip("this file system keeps no holes")
    assert filled[0][0] == 0
    assert filled[-1][0] <= 2**39 < filled[-1][1]


def test_more_channels_than_any_layer_has_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chanattr.store.check.MAX_ENTRIES", 10)
    with pytest.raises(StoreError, match=r"has 21 channels, more than 10"):
        open_run(path)


def test_a_chunk_that_is_listed_and_not_found_is_no_answer(path: Path, whole: bytes) -> None:
    """The last key of an index of chunks bounds what is looked up, not what is gone through: HDF5 gives zeros for what is beyond."""
    with h5py.File(path) as root:
        item = root["classes/features.10/exact/smallest_score"]
        places: list[tuple[object, ...]] = []
        item.id.chunk_iter(lambda chunk: places.append(tuple(chunk)))
        expected = item[...]
    (_, _, address, _), = places
    entry = int(address).to_bytes(8, "little")  # the chunk's address in its node, and after it the last key: size, filters, offsets
    at = whole.index(entry) + 8
    assert whole.count(entry) == 1
    path.write_bytes(whole[:at] + bytes(24) + whole[at + 24:])
    with h5py.File(path) as root:
        given = root["classes/features.10/exact/smallest_score"][...]
    assert not (given == expected).all()
    with open_run(path) as run, pytest.raises(StoreError, match=r"Can't get storage size of chunk"):
        run.per_class(LAYER)


def test_a_filter_with_another_parameter_is_refused(path: Path, whole: bytes) -> None:
    """It would put the bytes of numbers together otherwise, behind every checksum."""
    shuffled = b"shuffle\0\4\0\0\0"
    assert shuffled in whole
    path.write_bytes(whole.replace(shuffled, b"shuffle\0\2\0\0\0", 1))
    with pytest.raises(StoreError, match=r"is shuffled by \(2,\) bytes"):
        open_run(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_plain_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    os.mkfifo(path)
    for mode in ("r", "a"):
        with pytest.raises(StoreError, match=r"run.h5 is no plain file; expected a run file"):
            open_run(path, mode)
    path.unlink()
    parts = tmp_path / "run.h5.parts"
    parts.mkdir()
    os.mkfifo(parts / f"000001-{'0' * 64}.h5")
    with pytest.raises(StoreError, match=r"is no plain file of at most .* move it away"):
        open_run(path)


def test_a_part_too_large_to_be_read_is_neither_read_nor_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(tmp_path / "run.h5", "a")
    run.write(images())
    monkeypatch.setattr("chanattr.store.parts.MAX_PART", 1000)
    with pytest.raises(StoreError, match=r"bytes of answers came at once; expected at most 1000 a part; write fewer rows"):
        run.write(images(6, 8))
    run._release()
    with pytest.raises(StoreError, match=r"is no plain file of at most 1000 bytes"):
        open_run(tmp_path / "run.h5")
