"""Masks on the picture in a run file: written, resumed, refused, merged, checked, and read by others."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from chanattr.axes import array_axes, concatenate, equal
from chanattr.codes import masks_of
from chanattr.errors import StoreError
from chanattr.records import SpatialAttribution
from chanattr.settings import ExactSearch, Settings
from chanattr.store import open_run
from chanattr.store.layout import columns
from chanattr.store.parts import Place
from tests.store.make import images, keys, table
from tests.usual import usual

AREAS = (0.05, 0.2)
SIZE = (48, 64)


def settings(layer: str = ":input", **changes: object) -> Settings:
    search = ExactSearch(relaxed_steps=6, binary_steps=0, anneal=0.6, relaxed_rate=0.1, momentum=0.9, memory=0.8, exchange=0.5,
                         exploration=0.4, border=0.0, refine_steps=10, smoothing=4.0, starts=1, hard_every=0, shifts=0, sweeps=0)
    asked = usual(layer=layer, areas=AREAS, search=search, model="tiny", model_sha256="ab" * 32, fill="", perturbation="blur", levels=8,
                     blur=0.09, flip=True, samples=1)
    return dataclasses.replace(asked, **changes)


def spatial(start: int = 0, stop: int = 6, *, layer: str = ":input", **changes: object) -> SpatialAttribution:
    """Masks for images `start` to `stop`: the same numbers for the same image whoever asks."""
    rows = [_image(n, layer) for n in range(start, stop)]
    joined = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    record = SpatialAttribution(layer=layer, settings=settings(layer), engine="cut", size=SIZE, keys=keys(start, stop),
                                areas=np.array(AREAS, "f4"), **joined)
    return dataclasses.replace(record, **changes)


def _image(n: int, layer: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([n, *layer.encode()])
    smallest = [-1, 0, 0.03, 0.7][n % 4]
    by_area = {name: rng.normal(size=len(AREAS)).astype("f4")
               for name in ("true_areas", "scores", "view_scores", "level_set_scores", "greyness", "peak")}
    single = {name: np.float32(rng.normal()) for name in ("probability", "original", "empty", "evaluations", "refine_evaluations")}
    return by_area | single | {
        "targets": np.int32(n % 3), "predictions": np.int32(n % 5), "codes": rng.integers(0, 256, (len(AREAS), 32, 32)).astype("u1"),
        "top1": rng.random(len(AREAS)) < 0.5, "smallest_area": np.float32(smallest),
        "smallest_code": rng.integers(0, 256, (32, 32)).astype("u1") * np.uint8(smallest > 0),
        "smallest_score": np.float32(np.nan if smallest < 0 else rng.normal()), "smallest_top1": np.bool_(n % 2)}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images with masks, two more with sets of channels alone, and a second layer and label."""
    made = tmp_path_factory.mktemp("spatial") / "run.h5"
    with open_run(made, "a") as run:
        run.write(spatial(0, 4), images=table(images(0, 4)))
        run.write(images(2, 6))
        run.write(spatial(1, 3, layer="features.10"))
        run.write(spatial(0, 2, settings=settings(game="delete")), label="lost/found")
    return made


def test_every_field_of_a_record_has_a_place() -> None:
    stored = columns(SpatialAttribution)
    assert {column.field for column in stored} | {"areas"} == set(array_axes(SpatialAttribution))
    assert len({column.name for column in stored}) == len(stored)


@pytest.mark.parametrize("merged", [False, True])
def test_what_was_written_is_read(tmp_path: Path, merged: bool) -> None:
    run = open_run(tmp_path / "run.h5", "a")
    run.write(spatial(0, 3))
    run.write(spatial(2, 6))  # one row again
    if merged:
        run.close()
        run = open_run(tmp_path / "run.h5")
    assert equal(run.spatial(), spatial())
    assert equal(run.spatial(rows=[keys(4, 5)[0], keys(1, 2)[0]]), spatial()[[4, 1]])
    assert run.finished(":input", spatial=True) == set(keys(0, 6))
    assert run.finished(":input") == set()
    assert np.array_equal(run.field(":input", "true_areas", spatial=True, rows=slice(1, 3)), spatial(1, 3).true_areas)
    np.testing.assert_array_equal(run.spatial(rows=0).masks((20, 30)), masks_of(spatial().codes[:1], (20, 30)))
    assert run.content_sha256() == run.check()
    run.close()


def test_rows_that_were_not_run(path: Path) -> None:
    with open_run(path) as run:
        lacking = run.spatial(rows=[4, 5])
        assert lacking.smallest_area.tolist() == [-2, -2]
        assert not lacking.codes.any()
        assert np.isnan(lacking.scores).all()
        assert lacking.targets.tolist() == [-1, -1]
        run_again = run.spatial(rows=[0, 1, 2, 3])
        assert equal(run_again, spatial(0, 4))
    with open_run(path.parent / "again.h5", "a") as run:  # what was not run is not stored as an answer
        run.write(concatenate([run_again, dataclasses.replace(lacking, engine=run_again.engine)]))
        assert run.finished(":input", spatial=True) == set(keys(0, 4))


def test_channels_and_masks_lie_apart(path: Path) -> None:
    with open_run(path) as run:
        assert run.layers == ("features.10",)
        assert run.spatial_layers == (":input", "features.10")
        assert (run.labels(":input"), run.labels(":input", spatial=True)) == ((), ("exact", "lost/found"))
        assert equal(run.per_image("features.10", rows=slice(2, 6)), images(2, 6))
        assert run.spatial(layer="features.10").smallest_area.tolist() == [-2, 0, np.float32(0.03), -2, -2, -2]
        summary = run.summary()
        assert list(summary["layers"]) == ["features.10"]
        assert {layer: list(labels) for layer, labels in summary["spatial"].items()} == {":input": ["exact", "lost/found"],
                                                                                        "features.10": ["exact"]}
        assert summary["spatial"][":input"]["exact"]["images"] == 4
        assert summary["spatial"][":input"]["exact"]["size"] == [48, 64]
        assert not summary["complete"]
        known = run.images()
        assert known.target[:4].tolist() == [0, 1, 2, 0]  # of the first two only masks tell
        json.dumps(summary)


def test_the_digest_is_of_the_answers_alone(tmp_path: Path) -> None:
    digests = []
    for number, cuts in enumerate([(0, 6), (0, 1, 4, 6), (0, 3, 6)]):
        with open_run(tmp_path / f"{number}.h5", "a") as run:
            parts = list(itertools.pairwise(cuts))
            for start, stop in parts if number < 2 else parts[::-1]:
                run.write(spatial(start, stop, engine=f"engine {number}"))
            digests.append(run.content_sha256())
        with open_run(tmp_path / f"{number}.h5") as run:
            digests.append(run.check())
    assert len(set(digests)) == 1
    others = [spatial(codes=spatial().codes ^ np.uint8(1)), spatial(size=(64, 48)), spatial(settings=settings(seed=1))]
    for number, other in enumerate(others):
        with open_run(tmp_path / f"other {number}.h5", "a") as run:
            run.write(other)
            digests.append(run.content_sha256())
    assert len(set(digests)) == 4


@pytest.mark.parametrize(("changes", "match"), [
    ({"settings": settings(perturbation="fade", levels=2)}, r"':input' has answers under the label 'exact' with perturbation 'blur'"),
    ({"size": (48, 65)}, r"the number of xs 64; these have 65"),
    ({"scores": spatial().scores + 1}, r"'000_çlass/picture 0000.jpg' has an answer at layer ':input'.*another scores; expected rows that"),
    ({"settings": settings(model_sha256="cd" * 32)}, r"other model in the same file"),
    ({"keys": ("a", "a", *keys(2, 6))}, r"key 'a' comes twice")])
def test_what_contradicts_is_refused(tmp_path: Path, changes: dict[str, object], match: str) -> None:
    with open_run(tmp_path / "run.h5", "a") as run:
        run.write(spatial())
        digest = run.content_sha256()
        with pytest.raises(StoreError, match=match):
            run.write(spatial(**changes))
        assert run.content_sha256() == digest


def test_nothing_there(path: Path) -> None:
    with open_run(path) as run:
        with pytest.raises(StoreError, match=r"no masks on the picture at layer ':inputs' .*mean ':input'\?.* holds: :input \(exact\)"):
            run.spatial(layer=":inputs")
        with pytest.raises(StoreError, match=r"field 'energy_by_area'; expected one of codes, .*; run.spatial has the others"):
            run.field(":input", "energy_by_area", spatial=True)


def test_plain_h5py_reads_it(path: Path) -> None:
    with h5py.File(path) as root:
        group = root["spatial/:input/exact"]
        about = dict(group.attrs)
        assert (about["layer"], about["label"], about["grid"].tolist()) == (":input", "exact", list(SIZE))
        assert (about["kernel"], about["kernel_radius"], about["kernel_coldness"]) == ("soft maximum of discs", 3 / 32, 20)
        assert "channel" not in group
        assert (group["code"].dtype, group["code"].shape, group["code"].fletcher32) == (np.uint8, (6, 2, 32, 32), True)
        assert set(root["spatial/:input"]) == {"exact", "lost%2Ffound"}


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_xarray_opens_it_labelled(path: Path, engine: str) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip(engine.replace("netcdf4", "netCDF4"))
    record = spatial(0, 4)
    with xarray.open_datatree(path, engine=engine) as tree:
        here = tree["spatial/:input/exact"]
        assert here["code"].dims == ("image", "area", "code_y", "code_x")
        np.testing.assert_allclose(here["code"][:4], record.codes / 255, atol=1e-6)
        assert here["smallest_code"].dims == ("image", "code_y", "code_x")
        assert here["top1"].dtype == bool
        for row, key in enumerate(record.keys):
            assert here["score"].sel(image=key, area=0.05) == record.scores[row, 0]
        assert here["smallest_area"].values[4:].tolist() == [-2, -2]
        assert np.isnan(here["true_area"].values[4:]).all()
        assert tree["layers/features.10/exact"]["score"].sel(image=record.keys[3], area=9) == images(3, 4).scores[0, 2]


def test_a_damaged_code_is_found(path: Path, tmp_path: Path) -> None:
    with h5py.File(path) as root:
        chunk = root["spatial/:input/exact/code"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 1
    (tmp_path / "run.h5").write_bytes(data)
    with open_run(tmp_path / "run.h5") as run:
        assert run.spatial(layer="features.10", rows=[1, 2]).codes.any()
        with pytest.raises(StoreError, match=r"run\.h5 cannot be read"):
            run.spatial()
        with pytest.raises(StoreError):
            run.check()


def test_codes_of_another_kernel_are_refused(path: Path, tmp_path: Path) -> None:
    with open_run(tmp_path / "run.h5", "a") as run:
        run.write(spatial(0, 2))
        [part] = (tmp_path / "run.h5.parts").iterdir()
        with h5py.File(part) as root, h5py.File("copy", "w", driver="core", backing_store=False) as other:
            for name in root:
                root.copy(name, other)
            other.attrs.update(dict(root.attrs))
            other["spatial/:input/exact"].attrs["kernel_radius"] = 0.2
            other.flush()
            data = other.id.get_file_image()
    folder = Place(tmp_path / "other.h5").parts
    folder.mkdir()
    (folder / f"000001-{hashlib.sha256(data).hexdigest()}.h5").write_bytes(data)
    with pytest.raises(StoreError, match=r"are of another kernel"):
        open_run(tmp_path / "other.h5")
