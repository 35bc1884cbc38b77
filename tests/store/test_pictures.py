"""Pictures in a run file: written, found again, merged, copied, killed, damaged, refused, and read by others."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from chanattr.errors import StoreError
from chanattr.picture_records import ChannelImages, Examples, Inversion
from chanattr.picture_settings import CHANNEL, INVERSION, PictureSettings
from chanattr.store import open_run
from chanattr.store.join import join_runs
from chanattr.store.parts import Place
from chanattr.store.picture_layout import ids_of, question_of
from chanattr.store.picture_rows import made_before
from chanattr.store.salvage import repair, survey
from tests.store.make import images, keys, table

LAYER, CHANNELS, SIDE = "a/b", 21, 20
WITH = {"model_sha256": "ab" * 32, "pixels": [[0.5], [0.25], [SIDE, SIDE]]}


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*shape, SIDE, SIDE, 3)).astype("u1")


def inversions(start: int = 0, stop: int = 3, *, layer: str = LAYER, seed: int = 0, **changes: Any) -> Inversion:
    """Of images `start` to `stop`, the same for the same image whoever asks; every second one masked."""
    numbers = range(start, stop)
    value = np.array([n + 0.5 for n in numbers], "f4")
    record = Inversion(
        layer=layer, settings=PictureSettings(**INVERSION, seed=seed), keys=keys(start, stop),
        masks=np.stack([np.arange(CHANNELS) < (CHANNELS if n % 2 else 5) for n in numbers]).astype("f4"),
        pictures=np.concatenate([pixels(n, 1) for n in numbers]), originals=np.concatenate([pixels(99 + n, 1) for n in numbers]),
        value=value, cosine=value / 9, kept_cosine=value / 8, targets=np.array([n % 4 for n in numbers], "i4"),
        predictions=np.array([n % 3 for n in numbers], "i4"), probability=value / 10)
    return dataclasses.replace(record, **changes)


def channels(numbers: tuple[int, ...] = (3, 17), *, layer: str = LAYER, takes: int = 2) -> ChannelImages:
    value = np.array([[n + take for take in range(takes)] for n in numbers], "f4")
    return ChannelImages(layer=layer, settings=PictureSettings(**CHANNEL), names=tuple(f"channel {n}" for n in numbers),
                         weights=np.eye(CHANNELS, dtype="f4")[list(numbers)], pictures=np.stack([pixels(n, takes) for n in numbers]),
                         value=value, predictions=value.astype("i4"), probability=value / 100)


def examples(numbers: tuple[int, ...] = (3, 17), kind: str = "driven", *, layer: str = LAYER) -> Examples:
    """Two images of each channel, the second channel has one; of the images 0 to 6."""
    rows = np.array([[1, 4], [5, -1]], "i4")[:len(numbers)]
    value = np.where(rows >= 0, rows + 0.25, np.nan).astype("f4")
    return Examples(layer=layer, kind=kind, channels=np.array(numbers, "i4"), names=tuple(f"channel {n}" for n in numbers), keys=keys(0, 6),
                    rows=rows, value=value, position=np.repeat(rows[..., None], 2, 2), boxes=np.repeat(rows[..., None], 4, 2),
                    crops=np.stack([pixels(n, 2) for n in numbers]))


def same(one: Any, other: Any) -> bool:
    """Whether two records hold the same."""
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one)]
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") and a.dtype == b.dtype if isinstance(a, np.ndarray) else a == b
               for a, b in pairs)


def write(path: Path) -> Path:
    with open_run(path, "a") as run:
        run.write(images(layer=LAYER), images=table(images(layer=LAYER)))
        for record in (inversions(), channels(), examples(), examples(kind="needed")):
            run.write_pictures(record, WITH)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("pictures") / "run.h5")


def whole(run: Any) -> bool:
    """Whether all that `write` wrote is there as it was."""
    [made], [drawn], seen = run.inversions(LAYER), run.channel_pictures(LAYER), run.examples(LAYER)
    kinds = sorted(seen, key=lambda one: one.kind)
    return all([same(made, inversions()), same(drawn, channels()), same(kinds[0], examples()), same(kinds[1], examples(kind="needed"))])


@pytest.mark.parametrize("merged", [False, True])
def test_what_was_written_is_read(tmp_path: Path, merged: bool) -> None:
    run = open_run(tmp_path / "run.h5", "a")
    run.write(images(layer=LAYER))
    for record in (inversions(0, 2), channels(), examples(), examples(kind="needed"), inversions(1, 3)):  # one row again
        run.write_pictures(record, WITH)
    if merged:
        run.close()
        run = open_run(tmp_path / "run.h5")
    assert whole(run)
    assert same(run.inversions(LAYER, keys=keys(2, 3))[0], inversions(2, 3))
    assert same(run.channel_pictures(LAYER, names=["channel 17", "none"])[0], channels((17,)))
    assert run.examples(LAYER, channels=[3])[0].channels.tolist() == [3]
    assert (run.inversions("none"), run.inversions(LAYER, keys=["none"])) == ((), ())
    assert run.summary()["pictures"] == {LAYER: {"inversions": 3, "channels": 2, "examples": 4}}
    assert run.check() == run.content_sha256()
    run.close()


def test_the_digest_of_the_answers_leaves_pictures_out(path: Path, tmp_path: Path) -> None:
    with open_run(tmp_path / "run.h5", "a") as run:
        run.write(images(layer=LAYER), images=table(images(layer=LAYER)))
        digest = run.content_sha256()
    with open_run(path) as run:
        assert run.content_sha256() == digest


def test_nothing_is_written_twice(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run.h5"
    copy.write_bytes(path.read_bytes())
    with open_run(copy, "a") as run:
        run.write_pictures(inversions(), WITH)
        assert not Place(copy).parts.exists()
        run.write_pictures(inversions(seed=1), WITH)  # other settings
        run.write_pictures(inversions(), WITH | {"pixels": None})
        assert len(list(Place(copy).parts.iterdir())) == 2
        assert len(run.inversions(LAYER)) == 3


def test_what_is_there_is_found_by_question_and_identity(path: Path) -> None:
    with open_run(path) as run:
        shelf = run.index_for_copies.pictures
        wanted = ids_of(inversions(1, 5))
        for question, count in ((question_of(inversions().settings, WITH), 2), (question_of(inversions(seed=1).settings, WITH), 0),
                                (question_of(inversions().settings, WITH | {"model_sha256": "cd" * 32}), 0)):
            found, there = made_before(shelf, Inversion, LAYER, question, wanted, run.keys)
            assert (found is not None, there) == (count > 0, set(wanted[:count]))
        assert len(set(ids_of(inversions()) + ids_of(inversions(masks=1 - inversions().masks)) + ids_of(
            inversions(targets=inversions().targets + 1)))) == 9


@pytest.mark.parametrize(("record", "made_with", "match"), [
    (inversions(), {"model_sha256": "cd" * 32}, r"other model in the same file"),
    (channels(takes=3), WITH, r"pictures of the sizes .*'take': 3.* at 'a/b'; expected .*'take': 2"),
    (inversions(keys=("a\0", "b", "c")), WITH, r"key 'a\\x00' cannot be stored"),
    (inversions(value=np.zeros((3, 2), "f4")), WITH, r"value of the pictures at 'a/b' has the shape \(3, 2\); expected \(3,\)"),
    (inversions(), {"what": {1}}, r"what made the pictures cannot be stored"),
], ids=["model", "sizes", "text", "shape", "json"])
def test_what_contradicts_is_refused(path: Path, tmp_path: Path, record: Any, made_with: dict[str, Any], match: str) -> None:
    copy = tmp_path / "run.h5"
    copy.write_bytes(path.read_bytes())
    with open_run(copy, "a") as run, pytest.raises(StoreError, match=match):
        run.write_pictures(record, made_with)
    with open_run(copy) as run:
        assert whole(run)
        with pytest.raises(StoreError, match="open for reading"):
            run.write_pictures(inversions(), WITH)


def test_a_row_too_large_to_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chanattr.store.check.MAX_CHUNK", 200_000)
    with open_run(tmp_path / "run.h5", "a") as run:
        with pytest.raises(StoreError, match=r"240,000 bytes of pictures in a row at 'a/b'; expected at most 200,000"):
            run.write_pictures(channels(takes=200), WITH)
        run.write_pictures(inversions(), WITH)


def test_large_rows_are_merged_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chanattr.store.source.BLOCK", 2)
    assert write(tmp_path / "run.h5").is_file()
    with open_run(tmp_path / "run.h5") as run:
        assert whole(run)


def test_plain_h5py_reads_it(path: Path) -> None:
    with h5py.File(path) as root:
        [group] = root["pictures/inversions/a%2Fb"].values()
        assert (group["picture"].dtype, group["picture"].shape, group["picture"].fletcher32) == (np.uint8, (3, SIDE, SIDE, 3), True)
        assert group["key"].asstr()[...].tolist() == list(keys(0, 3))
        question = json.loads(group.attrs["settings"])
        assert question["settings"]["objective"] == "dot"
        assert question["model_sha256"] == "ab" * 32
        assert hashlib.sha256(group.attrs["settings"].encode()).hexdigest() == group.attrs["digest"]
        assert group.name.endswith(group.attrs["digest"][:16])


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_xarray_opens_it_labelled(path: Path, engine: str) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip(engine.replace("netcdf4", "netCDF4"))
    with xarray.open_datatree(path, engine=engine) as tree:
        [here] = tree["pictures/inversions/a%2Fb"].children.values()
        assert here["picture"].dims == ("row", "y", "x", "colour")
        np.testing.assert_array_equal(here["picture"], inversions().pictures)
        assert here["key"].values.tolist() == list(keys(0, 3))
        [drawn] = tree["pictures/channels/a%2Fb"].children.values()
        assert drawn["value"].dims == ("row", "take")
        assert tree["layers/a%2Fb/exact"]["score"].sel(image=keys(3, 4)[0], area=9) == images(3, 4, layer=LAYER).scores[0, 2]


def test_files_are_joined_with_their_pictures(tmp_path: Path) -> None:
    for name, start, stop in (("one", 0, 2), ("two", 1, 3)):
        with open_run(tmp_path / f"{name}.h5", "a") as run:
            run.write(images(0, 6, layer=LAYER))
            run.write_pictures(inversions(start, stop), WITH)
            run.write_pictures(channels() if name == "one" else examples(), WITH)
            run.write_pictures(examples(kind="needed"), WITH)
    join_runs([tmp_path / "one.h5", tmp_path / "two.h5"], tmp_path / "both.h5")
    with open_run(tmp_path / "both.h5") as run:
        assert whole(run)
        run.check()


WRITER = """
import sys
from pathlib import Path
from tests.store.test_pictures import *
with open_run(Path(sys.argv[1]), "a") as run:
    run.write(images(layer=LAYER))
    for number in range(3):
        run.write_pictures(inversions(number, number + 1), WITH)
        print(number, flush=True)
    print("merge", flush=True)
print("done", flush=True)
"""


@pytest.mark.parametrize("after", ["0", "1", "merge"])
def test_killed_between_nothing_is_lost(tmp_path: Path, after: str) -> None:
    root = str(Path(__file__).parents[2])
    lines: list[str] = []
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "run.h5")], stdout=subprocess.PIPE, text=True, cwd=root,
                          env=os.environ | {"PYTHONPATH": root}) as started:
        assert started.stdout is not None
        for line in started.stdout:
            lines.append(line.strip())
            if lines[-1] == after:
                started.kill()
        lines += [line.strip() for line in started.stdout]
    told = max(int(line) for line in lines if line.isdigit()) + 1
    with open_run(tmp_path / "run.h5", "a") as run:
        [found] = run.inversions(LAYER)
        assert told <= len(found) <= 3
        assert same(found, inversions(0, len(found)))
        run.write_pictures(inversions(), WITH)
    with open_run(tmp_path / "run.h5") as run:
        assert same(run.inversions(LAYER)[0], inversions())
        run.check()


def chunk_of(path: Path, name: str, number: int = 0) -> slice:
    with h5py.File(path) as root:
        [group] = root["pictures/inversions/a%2Fb"].values()
        chunk = group[name].id.get_chunk_info(number)
    return slice(chunk.byte_offset, chunk.byte_offset + chunk.size)


def test_a_damaged_picture_is_found_and_the_rest_kept(path: Path, tmp_path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = chunk_of(path, "picture")
    data[place.start + 100] ^= 1
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(data)
    with open_run(damaged) as run:
        assert same(run.channel_pictures(LAYER)[0], channels())
        with pytest.raises(StoreError, match=r"damaged\.h5 cannot be read"):
            run.inversions(LAYER)
        with pytest.raises(StoreError):
            run.check()
    found = survey(damaged)
    assert any("/pictures/inversions" in fault for fault in found.faults)
    repair(damaged, tmp_path / "mended.h5")
    with open_run(tmp_path / "mended.h5") as run:
        assert (run.inversions(LAYER), len(run.examples(LAYER))) == ((), 2)
        assert same(run.channel_pictures(LAYER)[0], channels())
        run.check()


def test_a_whole_run_is_surveyed_and_repaired_as_it_is(path: Path, tmp_path: Path) -> None:
    found = survey(path)
    assert found.faults == ()
    assert sum(count for where, count in found.kept.items() if where.startswith("pictures/")) == 9
    repair(path, tmp_path / "mended.h5")
    with open_run(tmp_path / "mended.h5") as run:
        assert whole(run)


def test_a_damaged_key_costs_its_picture_alone(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    odd = keys(1, 2)[0].encode()
    places = [place for place in range(len(data)) if data.startswith(odd, place)]
    for number, place in enumerate(places):
        (tmp_path / "run.h5").write_bytes(data[:place] + b"X" + data[place + 1:])
        repair(tmp_path / "run.h5", tmp_path / f"mended {number}.h5")
        with open_run(tmp_path / f"mended {number}.h5") as run:
            for found in run.inversions(LAYER):
                assert same(found, inversions()) or found.keys == (keys(0, 1)[0], keys(2, 3)[0])


def forged(tmp_path: Path, change: Callable[[h5py.Group], None]) -> Path:
    """A run with one part whose group of inversions was changed, under the right name."""
    with open_run(tmp_path / "made.h5", "a") as run:
        run.write_pictures(inversions(), WITH)
        [part] = Place(tmp_path / "made.h5").parts.iterdir()
        with h5py.File(part) as root, h5py.File("copy", "w", driver="core", backing_store=False) as other:
            root.copy("pictures", other)
            other.attrs.update(dict(root.attrs))
            [group] = other["pictures/inversions/a%2Fb"].values()
            change(group)
            other.flush()
            data = other.id.get_file_image()
    folder = Place(tmp_path / "run.h5").parts
    folder.mkdir()
    (folder / f"000001-{hashlib.sha256(data).hexdigest()}.h5").write_bytes(data)
    return tmp_path / "run.h5"


def put(name: str, values: Any) -> Callable[[h5py.Group], None]:
    def change(group: h5py.Group) -> None:
        del group[name]
        group[name] = values
    return change


def say(name: str, value: Any) -> Callable[[h5py.Group], None]:
    return lambda group: group.attrs.__setitem__(name, value)


@pytest.mark.parametrize(("change", "match"), [
    (put("id", np.zeros((3, 31), "u1")), r"id is uint8 \(3, 31\), not \|u1 \(3, 32\)"),
    (put("picture", pixels(0, 2)), r"picture is uint8 \(2, 20, 20, 3\), not \|u1 \(3, 20, 20, 3\)"),
    (put("mask", np.zeros((3, CHANNELS), "f8")), r"mask is float64"),
    (lambda group: group.__delitem__("key"), r"KeyError"),
    (say("sizes", '{"y": 1}'), r"has the sizes {'y': 1}"),
    (say("sizes", json.dumps({"channel": 10**12, "y": 20, "x": 20, "colour": 3})), r"has the sizes"),
    (say("sizes", json.dumps({"channel": True, "y": 20, "x": 20, "colour": 3})), r"has the sizes"),
    (say("settings", '{"settings": 3}'), r"does not say what made its pictures"),
    (say("settings", '{"settings": {}}'), r"says that it is pictures/inversions/a%2Fb/"),
    (say("layer", "b"), r"says that it is pictures/inversions/b/"),
    (say("digest", "ab" * 32), r"with the digest abab"),
], ids=["id", "shape", "type", "missing", "sizes", "huge", "bool", "settings", "question", "layer", "digest"])
def test_a_group_that_is_not_as_it_says_is_refused(tmp_path: Path, change: Callable[[h5py.Group], None], match: str) -> None:
    with pytest.raises(StoreError, match=match):
        open_run(forged(tmp_path, change))


@pytest.mark.parametrize("change", [
    put("picture", pixels(7, 3)), put("value", np.zeros(3, "f4")), put("key", np.array(keys(1, 4), object)),
    put("id", np.random.default_rng(0).integers(0, 255, (3, 32)).astype("u1"))], ids=["picture", "value", "key", "id"])
def test_a_row_without_its_digest_is_never_given(tmp_path: Path, change: Callable[[h5py.Group], None]) -> None:
    with open_run(forged(tmp_path, change)) as run:
        with pytest.raises(StoreError, match="has changed since it was written"):
            run.inversions(LAYER)
        with pytest.raises(StoreError):
            run.check()


def test_unknown_kinds_are_passed_over(tmp_path: Path) -> None:
    def other(group: h5py.Group) -> None:
        group.file.move("pictures/inversions", "pictures/later")
    with open_run(forged(tmp_path, other)) as run:
        assert run.inversions(LAYER) == ()
