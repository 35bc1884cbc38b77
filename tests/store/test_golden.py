"""Files of every format version, written once and kept: today's code reads them, and so do others, for ever."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from chanattr.axes import equal
from chanattr.store import Run, open_run
from chanattr.store.salvage import repair
from tests.store.make import images

DATA = Path(__file__).parents[1] / "data"
# Content digests, as the code that wrote the files stated them. The first has images, classes, pictures and certificates; the second is of
# before there was layout_sha256, key_sha256, or anything of pictures.
FILES = {"run-1.0.h5": "eee64b02cb5d4c86ca960160ad6d64278f447486b53ff9dbe06618ad111ddb3a",
         "early-1.0.h5": "c207e3245d0a5e50d7e4f221564cec42ba04ef8f625115f94e275f01f17cb53d"}
PART = "000007-33efecab3022d2cb53057676a0991bd15c984515aa01ff6bbba11c071408d526.h5"
WITH_PART = "f8f78c28146506b8bcb12e6e655667eed9658d177f6654d5a25151761d0ce226"


def same(run: Run, root: h5py.File) -> int:
    """Whether a run gives what plain h5py reads, dataset by dataset; how many were compared."""
    count = 0
    for layer in root["layers"].values():
        for group in layer.values():
            record = run.per_image(group.attrs["layer"], group.attrs["label"])
            done = group["smallest_area"][...] != -2
            bits = group["mask_bits"]
            masks = np.unpackbits(bits[...], axis=-1, count=bits.attrs["channels"], bitorder="little").astype(bool)
            assert np.array_equal(record.masks, masks)
            for name, field in (("score", "scores"), ("top1", "top1"), ("smallest_area", "smallest_area"), ("original", "original"),
                                ("energy", "energy"), ("probability", "probability"), ("fill_values", "fill_values")):
                assert np.array_equal(getattr(record, field), group[name][...], equal_nan=group[name].dtype.kind == "f"), name
                count += 1
            assert json.loads(group.attrs["settings"]) == record.settings.as_dict()
            assert record.settings.digest() == group.attrs["digest"]
            assert {key for key, ran in zip(run.keys, done, strict=True) if ran} == run.finished(record.layer, group.attrs["label"])
    return count


@pytest.mark.parametrize("name", FILES)
def test_a_kept_file_is_read(name: str) -> None:
    with open_run(DATA / name) as run, h5py.File(DATA / name) as root:
        assert run.check() == FILES[name] == root.attrs["content_sha256"]
        assert run.keys == tuple(root["image"].asstr())
        assert same(run, root) >= 7
        assert equal(run.per_image("features.10", rows=slice(0, 3)), images(0, 3))


@pytest.mark.parametrize("name", FILES)
def test_a_kept_file_goes_on_and_is_repaired(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    shutil.copy(DATA / name, path)
    faults = repair(path, tmp_path / "new.h5").faults
    assert all(fault.startswith("/classes/features.10/exact row") for fault in faults)  # made at random, of no exact size
    with open_run(path) as run, open_run(tmp_path / "new.h5") as new:
        assert run.keys == new.keys
        for layer in run.layers:
            for label in run.labels(layer):
                assert equal(run.per_image(layer, label), new.per_image(layer, label))
    with open_run(path, "a") as run:
        run.write(images(0, 8))
    with open_run(path) as run:
        assert equal(run.per_image("features.10", rows=images(0, 8).keys), images(0, 8))
        run.check()


def test_a_kept_part_is_read_beside_its_file(tmp_path: Path) -> None:
    shutil.copy(DATA / "run-1.0.h5", tmp_path / "run.h5")
    (tmp_path / "run.h5.parts").mkdir()
    shutil.copy(DATA / "part-1.0.h5", tmp_path / "run.h5.parts" / PART)
    with open_run(tmp_path / "run.h5") as run:
        assert run.check() == WITH_PART
        assert equal(run.per_image("features.10", rows=slice(4, 6)), images(4, 6))
    open_run(tmp_path / "run.h5", "a").close()
    with open_run(tmp_path / "run.h5") as run:
        assert run.check() == WITH_PART


@pytest.mark.parametrize("name", FILES)
def test_xarray_reads_a_kept_file(name: str) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    with xarray.open_datatree(DATA / name, engine="h5netcdf") as tree, open_run(DATA / name) as run:
        found = tree["layers/features.10/exact"]
        assert np.array_equal(found["score"].values, run.per_image("features.10").scores)
        assert found["score"].sel(image=run.keys[1], area=3) == run.per_image("features.10").scores[1, 1]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.skipif(shutil.which("h5dump") is None, reason="needs h5dump (hdf5-tools)")
def test_h5dump_reads_a_kept_file(name: str) -> None:
    words = ["h5dump", "-d", "/layers/features.10/exact/score", str(DATA / name)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'DATASET "/layers/features.10/exact/score"' in done.stdout
