"""Damaged files: opening works or gives StoreError, and `check` finds every change."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from chanattr.errors import StoreError
from chanattr.store import open_run
from chanattr.store.check import header_sha256, layout_sha256, walk
from tests.store.make import images, write_all

LAYER = "features.10"
GROUP = f"layers/{LAYER}/exact"


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


def replace_item(root: h5py.File, name: str, make: Callable[[], object]) -> None:
    del root[name]
    root[name] = make()


def fewer_rows(root: h5py.File) -> None:
    values = root[f"{GROUP}/original"][:3]
    replace_item(root, f"{GROUP}/original", lambda: values)


def other_type(root: h5py.File) -> None:
    values = root[f"{GROUP}/score"][...].astype("f8")
    replace_item(root, f"{GROUP}/score", lambda: values)


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
