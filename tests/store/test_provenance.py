"""When and by what answers were written: in every group, kept by merges, copies and repairs, under no digest, and missing in old files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest

import chanattr as ca
from chanattr.store import layout, open_run
from chanattr.store.export import export_run
from chanattr.store.join import join_runs
from chanattr.store.salvage import repair
from tests.store.make import classes, images
from tests.store.test_golden import DATA
from tests.store.test_spatial import spatial

GROUPS = ("layers/features.10/exact", "classes/features.10/exact", "spatial/:input/exact")


def told(path: Path) -> dict[str, tuple[Any, Any]]:
    """Of each group: when, and by what."""
    with h5py.File(path) as root:
        return {where: (root[where].attrs.get("created"), root[where].attrs.get("versions")) for where in GROUPS if where in root}


def write(path: Path) -> None:
    with open_run(path, "a") as run:
        run.set_attributes(model="tiny", model_sha256="ab" * 32)
        run.write(images(0, 4))
        run.write(classes())
        run.write(spatial(0, 3))


def test_every_group_says_when_and_by_what_and_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.h5"
    write(path)
    first = told(path)
    assert set(first) == set(GROUPS)
    for created, versions in first.values():
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", created)
        assert json.loads(versions)["chanattr"] == ca.__version__
        assert {"h5py", "hdf5", "numpy"} <= set(json.loads(versions))
    with open_run(path) as run:
        content = run.content_sha256()
        assert run.summary()["layers"]["features.10"]["exact"]["created"] == first[GROUPS[0]][0]
    monkeypatch.setattr(layout, "now", lambda: "2099-01-01T00:00:00Z")
    write(tmp_path / "later.h5")
    with open_run(tmp_path / "later.h5") as run:
        assert run.content_sha256() == run.check() == content  # provenance is no content
    with open_run(path, "a") as run:
        run.write(images(4, 6))
    assert told(path) == first  # of the first answers
    join_runs([path], tmp_path / "joined.h5")
    assert repair(path, tmp_path / "repaired.h5").images == 6
    with open_run(path) as run:
        export_run(run, tmp_path / "run.nc", "netcdf")
    for copy in ("joined.h5", "repaired.h5", "run.nc"):
        assert told(tmp_path / copy)[GROUPS[0]] == first[GROUPS[0]], copy


@pytest.mark.parametrize("name", ["run-1.0.h5", "early-1.0.h5"])
def test_files_of_before_say_nothing_and_go_on(tmp_path: Path, name: str) -> None:
    shutil.copy(DATA / name, tmp_path / "run.h5")
    assert set(told(tmp_path / "run.h5").values()) == {(None, None)}
    with open_run(tmp_path / "run.h5", "a") as run:
        before = run.check()
        run.write(images(0, 2, layer="new"), label="more")
        assert "created" not in run.summary()["layers"]["features.10"]["exact"]
        assert run.content_sha256() != before
    assert told(tmp_path / "run.h5")[GROUPS[0]] == (None, None)
    with h5py.File(tmp_path / "run.h5") as root:
        assert root["layers/new/more"].attrs["created"]
    with open_run(tmp_path / "run.h5") as run:
        run.check()
