"""Damaged and hostile files: opening works or gives StoreError, `check` finds every change, nothing outside the file is read."""

from __future__ import annotations

import os
import pickle
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from chanattr.errors import StoreError
from chanattr.store import open_run
from chanattr.store.check import filled_parts, header_sha256, layout_sha256, walk
from tests.store.make import classes, images, table, write_all

LAYER = "features.10"
GROUP = f"layers/{LAYER}/exact"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "run.h5"
    with open_run(path, "a") as run:
        run.write(images(), images=table(images()))
        run.write(classes())
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path, whole: bytes) -> Path:
    made = tmp_path / "run.h5"
    made.write_bytes(whole)
    return made


def everything(path: Path) -> tuple[str, list[str]]:
    """All that a reader can get out of a run."""
    with open_run(path) as run:
        thumbnails = [run.thumbnail(key).tobytes().hex() for key in run.keys[:2]]
        told = {name: value for name, value in run.summary().items() if name != "path"}
        return run.content_sha256(), [repr(told), repr(run.images()), *thumbnails]


def test_bit_flips_are_found_by_check(path: Path, whole: bytes) -> None:
    expected, found = everything(path), 0
    rng = random.Random(0)
    used = [place for place, byte in enumerate(whole) if byte]  # most of a small file is room that HDF5 keeps free
    for number in range(60):
        data = bytearray(whole)
        data[rng.randrange(len(data)) if number % 3 == 0 else rng.choice(used)] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            with open_run(path) as run:
                run.check()
        except StoreError:
            found += 1
        else:
            assert everything(path) == expected  # the flip lies where nothing is kept
    assert found > 20


def test_bit_flips_in_texts_are_found_on_opening(path: Path, whole: bytes) -> None:
    with open_run(path) as run:
        words = [run.keys[3].encode(), b"cut", b"relaxed_steps"]
    for word in words:
        data = bytearray(whole)
        data[data.index(word) + 1] ^= 1
        path.write_bytes(data)
        with pytest.raises(StoreError, match=r"cannot be read \(.*; expected a whole run file .*; take it from a backup"):
            open_run(path)


def test_bit_flips_in_parts_are_found_on_opening(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    run = open_run(path, "a")
    run.write(images())
    run._release()
    (part,) = (tmp_path / "run.h5.parts").iterdir()
    data = part.read_bytes()
    for place in random.Random(0).sample(range(len(data)), 20):
        part.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1:])
        with pytest.raises(StoreError, match=r"is damaged .* delete it"):
            open_run(path)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.3, 0.9, 0.999])
def test_files_cut_short(path: Path, whole: bytes, keep: float) -> None:
    path.write_bytes(whole[:keep if isinstance(keep, int) else int(len(whole) * keep)])
    for mode in ("r", "a"):
        with pytest.raises(StoreError, match=r"cannot be read .* take it from a backup"):
            open_run(path, mode)


def test_other_files(tmp_path: Path) -> None:
    text = tmp_path / "text.h5"
    text.write_text("not HDF5 at all, but long enough to look at\n" * 50)
    with pytest.raises(StoreError, match=r"text\.h5 cannot be read \(it is no HDF5 file\)"):
        open_run(text)
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as root:
        root["image"] = np.arange(4)
    for mode in ("r", "a"):
        before = other.read_bytes()
        with pytest.raises(StoreError, match=r"is an HDF5 file, but not a run of chanattr \(format None\); expected 'chanattr-run'; pass"):
            open_run(other, mode)
        assert other.read_bytes() == before


def test_newer_format_versions(path: Path) -> None:
    for version, match in (("2.0", "has format version 2.0; expected 1.0 .* install a newer chanattr"), ("1.7", "")):
        with h5py.File(path, "r+") as root:
            root.attrs["format_version"] = version
            root.attrs["header_sha256"] = header_sha256(walk(root), list(root["image"].asstr()))
        if match:
            with pytest.raises(StoreError, match=match):
                open_run(path)
        else:
            assert open_run(path).check()
            with pytest.raises(StoreError, match=r"the run has format version 1.7; expected 1.0 or an older one to go on with; install"):
                open_run(path, "a")


@pytest.mark.parametrize(("version", "match"), [("2.0", "install a newer chanattr"), ("0.9", "make it again: no released version")])
def test_the_version_is_told_before_what_it_brought(path: Path, version: str, match: str) -> None:
    """What a later format adds may be nothing that this version knows: it is no damage."""
    with h5py.File(path, "r+") as root:
        root.attrs["format_version"] = version
        root["a complex number"] = np.ones(3, complex)
    with pytest.raises(StoreError, match=match):
        open_run(path)


def _replace(root: h5py.File, name: str, make: Callable[[], object]) -> None:
    del root[name]
    root[name] = make()


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


def fewer_rows(root: h5py.File) -> None:
    values = root[f"{GROUP}/original"][:3]
    _replace(root, f"{GROUP}/original", lambda: values)


def other_type(root: h5py.File) -> None:
    values = root[f"{GROUP}/score"][...].astype("f8")
    _replace(root, f"{GROUP}/score", lambda: values)


def missing_column(root: h5py.File) -> None:
    del root[f"{GROUP}/top1"]


def missing_group(root: h5py.File) -> None:
    del root[f"classes/{LAYER}"]
    del root[f"layers/{LAYER}"]


def repeated_key(root: h5py.File) -> None:
    root["image"][1] = root["image"][0]


def row_out_of_range(root: h5py.File) -> None:
    root[f"{GROUP}/energy_row"][1] = 6


def thumbnail_out_of_range(root: h5py.File) -> None:
    root["images/row"][0] = -1


def wrong_settings(root: h5py.File) -> None:
    root[GROUP].attrs["settings"] = '{"search": 3}'


def wrong_name(root: h5py.File) -> None:
    root[GROUP].attrs["layer"] = "other"


def wrong_order(root: h5py.File) -> None:
    root.attrs["order"] = "[[1, 2], [3]]"


def wrong_attributes(root: h5py.File) -> None:
    root.attrs["settings"] = "[]"


def missing_run_id(root: h5py.File) -> None:
    del root.attrs["run_id"]


def class_twice(root: h5py.File) -> None:
    root[f"classes/{LAYER}/exact/class"][1] = 0


WRONG = [fewer_rows, other_type, missing_column, missing_group, repeated_key, row_out_of_range, thumbnail_out_of_range, wrong_settings,
         wrong_name, wrong_order, wrong_attributes, missing_run_id, class_twice]


@pytest.mark.parametrize("change", WRONG, ids=lambda change: change.__name__)
def test_files_whose_parts_do_not_agree_are_refused_with_a_right_digest_too(path: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(path, "r+") as root:
        change(root)
        root.attrs["header_sha256"] = header_sha256(walk(root), list(root["image"].asstr()))
    with pytest.raises(StoreError, match="cannot be read"):
        open_run(path)


@pytest.mark.parametrize("name", ["target", "label", f"{GROUP}/score", "images/thumbnail", f"classes/{LAYER}/exact/mean_mask"])
def test_check_finds_changed_numbers_with_right_checksums(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as root:
        values = root[name][...]
        values.flat[1] += 1
        root[name][...] = values
        root.attrs["layout_sha256"] = layout_sha256(found := walk(root))
        root.attrs["header_sha256"] = header_sha256(found, list(root["image"].asstr()))
    with open_run(path) as run, pytest.raises(StoreError, match=r"has changed since it was written \(.*; take it from a backup"):
        run.check()


def test_a_chunk_that_lies_elsewhere_is_found_on_opening(path: Path) -> None:
    """An index that names another chunk, whole in itself, or none: no checksum of a chunk tells."""
    with h5py.File(path) as root:
        places = [chunk.byte_offset for name in ("target", "prediction") for chunk in chunks_of(root[f"{GROUP}/{name}"])]
    data = path.read_bytes()
    one, two = (place.to_bytes(8, "little") for place in places)
    for other in (two, b"\xff" * 8):
        assert data.count(one) == 1
        path.write_bytes(data.replace(one, other))
        with pytest.raises(StoreError, match=r"its chunks lie elsewhere"):
            open_run(path)


def chunks_of(item: h5py.Dataset) -> list[Any]:
    found: list[Any] = []
    item.id.chunk_iter(lambda chunk: found.append(chunk))
    return found


def test_a_changed_class_name_is_found_on_opening(path: Path) -> None:
    data = path.read_bytes()
    assert data.count(b"name 1, ") == 1
    path.write_bytes(data.replace(b"name 1, ", b"name 7, "))
    with pytest.raises(StoreError, match=r"or its texts differ"):
        open_run(path)


def test_a_whole_file_passes(tmp_path: Path) -> None:
    write_all(tmp_path / "run.h5")
    with open_run(tmp_path / "run.h5") as run:
        assert run.check() == run.content_sha256()
