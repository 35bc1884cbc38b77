"""Pictures for the answers of a run: made once, read ever after; what a stopped call made is not made again."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import chanattr as ca
from chanattr.images import demo_folder
from chanattr.pictures import examples
from chanattr.pictures.pixels import Pixels
from chanattr.runs import making
from chanattr.runs.pictures import Channels, Inverted
from tests import models

PIXELS = Pixels((0.0,) * 3, (1.0,) * 3, (16, 16))
QUICK = ca.PictureSettings(steps=2)
LAYER = "2"
SEARCH = {"areas": (1, 2, 4), "level": 0.3, "targets": "label", "progress": False}


def network() -> torch.nn.Module:
    return models.seeded(lambda: torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(6, 8, 3, stride=2, padding=1), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 4)))


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return network().eval()


@pytest.fixture(scope="module")
def loader() -> list[Any]:
    images = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    return [(images[n:n + 5], torch.arange(n, n + 5) % 2, [f"{m}.png" for m in range(n, n + 5)]) for n in (0, 5)]


@pytest.fixture
def file(tmp_path: Path, model: torch.nn.Module, loader: list[Any]) -> Path:
    with ca.open_run(tmp_path / "run.h5", "a") as run:
        ca.attribute(run, model, loader, layers=[LAYER], **SEARCH)
    return tmp_path / "run.h5"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """How many rows each maker was asked for, call by call."""
    counted: dict[str, list[int]] = {"invert": [], "visualise": [], "find_examples": []}
    rows: dict[str, Callable[..., list[int]]] = {
        "invert": lambda _m, images, *_: [len(images)], "visualise": lambda _m, _l, wanted: [len(wanted)],
        "find_examples": lambda _m, _i, _l, asked: [len(one.channels) for one in asked]}

    def spied(name: str, real: Any) -> Any:
        def spy(*given: Any, **options: Any) -> Any:
            counted[name] += rows[name](*given)
            return real(*given, **options)
        return spy

    for name in rows:
        monkeypatch.setattr(making, name, spied(name, getattr(making, name)))
    return counted


def inverted(file: Path, model: torch.nn.Module, loader: Any, mode: str = "a", **options: Any) -> Inverted:
    with ca.open_run(file, mode) as run:
        return ca.invert_run(run, model, loader, **{"pixels": PIXELS, "settings": QUICK, "progress": False, "limit": 3} | options)[LAYER]


def seen(file: Path, model: torch.nn.Module, loader: Any, mode: str = "a", **options: Any) -> Channels:
    with ca.open_run(file, mode) as run:
        return ca.visualise_run(run, model, loader, **{"pixels": PIXELS, "settings": QUICK, "progress": False, "layer": LAYER,
                                                       "channels": [5, 1, 3], "shown": 2} | options)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if not dataclasses.is_dataclass(one) or one == other:
        return bool(one == other)
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") if isinstance(a, np.ndarray) else a == b
               for a, b in ((getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one)))


def unread() -> Any:
    raise AssertionError("the loader was gone through")
    yield


def test_inversions_are_made_once(file: Path, model: torch.nn.Module, loader: list[Any], calls: dict[str, list[int]]) -> None:
    first = inverted(file, model, loader)
    assert calls["invert"] == [3, 3]
    assert same(inverted(file, model, unread()), first)
    assert same(inverted(file, model, unread(), mode="r"), first)
    assert calls["invert"] == [3, 3]
    more = inverted(file, model, loader, limit=5)
    assert calls["invert"] == [3, 3, 2, 2]
    assert set(first.whole.keys) < set(more.whole.keys)
    inverted(file, model, loader, settings=ca.PictureSettings(steps=3))
    inverted(file, model, loader, area=2)  # other masks alone: the whole activations are there
    assert calls["invert"] == [3, 3, 2, 2, 3, 3, 3]
    with ca.open_run(file) as run:
        assert sorted(len(record) for record in run.inversions(LAYER)) == [6, 13]
        run.check()


def test_what_is_stored_is_what_is_made(file: Path, model: torch.nn.Module, loader: list[Any]) -> None:
    direct = inverted(file, model, loader, mode="r")
    stored = inverted(file, model, loader)
    assert same(direct, stored)
    assert same(inverted(file, model, unread()), direct)
    made = seen(file, model, loader, mode="r")
    assert same(seen(file, model, loader), made)
    assert same(seen(file, model, loader), made)
    with ca.open_run(file) as run:
        assert run.summary()["pictures"] == {LAYER: {"inversions": 6, "channels": 3, "examples": 6}}


def test_an_inversion_is_what_invert_gives(file: Path, model: torch.nn.Module, loader: list[Any]) -> None:
    made = inverted(file, model, loader)
    images = dict(zip([key for _, _, keys in loader for key in keys], torch.cat([batch[0] for batch in loader]), strict=True))
    alone = ca.invert(model, torch.stack([images[key] for key in made.masked.keys]), LAYER, pixels=PIXELS, settings=QUICK,
                      mask=made.masked.masks, targets=made.masked.targets.tolist(), keys=made.masked.keys)
    assert same(alone, made.masked)


def test_channels_and_examples_are_made_once(file: Path, model: torch.nn.Module, loader: list[Any], calls: dict[str, list[int]]) -> None:
    first = seen(file, model, loader)
    assert (calls["visualise"], calls["find_examples"]) == ([3], [3, 3])
    assert [one.kind for one in first.examples] == ["driven", "needed"]
    assert same(seen(file, model, loader), first)
    part = seen(file, model, loader, channels=[3, 2])
    assert (calls["visualise"], calls["find_examples"]) == ([3, 1], [3, 3, 1, 1])
    assert part.single.names == ("channel 3", "channel 2")
    assert np.array_equal(part.single.pictures[0], first.single.pictures[2])
    assert part.examples[0].rows[0].tolist() == first.examples[0].rows[2].tolist()
    seen(file, model, loader, count=2)  # two of each are others
    seen(file, model, loader, shown=3)
    assert (calls["visualise"], calls["find_examples"]) == ([3, 1, 3], [3, 3, 1, 1, 3, 3])
    assert seen(file, model, None).examples == ()


def test_other_images_make_other_examples(file: Path, model: torch.nn.Module, loader: list[Any], calls: dict[str, list[int]]) -> None:
    seen(file, model, loader)
    fewer = seen(file, model, loader[:1])
    assert calls["find_examples"] == [3, 3, 3, 3]
    names = [fewer.examples[0].keys[row] for row in fewer.examples[0].rows.ravel() if row >= 0]
    assert set(names) <= set(loader[0][2])


def test_a_class_is_made_once(file: Path, model: torch.nn.Module, loader: list[Any], calls: dict[str, list[int]]) -> None:
    options = {"target": 1, "channels": [1]}
    first = seen(file, model, None, **options)
    assert first.whole is not None
    assert first.whole.names == ("class 1",)
    assert same(seen(file, model, None, **options), first)
    assert calls["visualise"] == [1, 1]


def test_stopped_between_batches_nothing_is_made_again(file: Path, model: torch.nn.Module, loader: list[Any], calls: dict[str, list[int]],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "BATCH", 2)
    real = making.invert

    def stopped(*given: Any, **options: Any) -> Any:
        if len(calls["invert"]) == 3:
            raise KeyboardInterrupt
        return real(*given, **options)

    monkeypatch.setattr(making, "invert", stopped)
    with pytest.raises(KeyboardInterrupt):
        inverted(file, model, loader, limit=5)
    assert calls["invert"] == [2, 2, 1]
    monkeypatch.setattr(making, "invert", real)
    inverted(file, model, loader, limit=5)
    assert calls["invert"] == [2, 2, 1, 2, 2, 1]
    with ca.open_run(file) as run:
        assert len(run.inversions(LAYER)[0]) == 10


def test_pictures_of_another_size_than_said(file: Path, model: torch.nn.Module, loader: list[Any]) -> None:
    with pytest.raises(ca.InputError, match=r"the pictures given are \(16, 16\) pixels, pixels.size is \(8, 8\)"):
        inverted(file, model, loader, pixels=PIXELS._replace(size=(8, 8)))


def other_bytes(loader: list[Any], key: str) -> list[Any]:
    """The same loader with another picture under a key."""
    return [(torch.stack([1 - image if one == key else image for image, one in zip(images, keys, strict=True)]), labels, keys)
            for images, labels, keys in loader]


class Listed(list[Any]):
    """A loader that says beforehand which keys it has."""

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key for batch in self for key in batch[2])


def test_another_picture_under_a_known_key_is_refused_and_nothing_is_kept(file: Path, model: torch.nn.Module, loader: list[Any]) -> None:
    with ca.open_run(file) as run:
        found = run.per_image(LAYER)
    key = found.keys[int(np.flatnonzero(found.smallest_area > 0)[0])]
    wrong = other_bytes(loader, key)
    for given in (wrong, Listed(wrong)):  # read before it is known what is missing, and after
        with pytest.raises(ca.StoreError, match=f"image '{key}' is in the file with other bytes"):
            seen(file, model, given)
    with pytest.raises(ca.StoreError, match=f"image '{key}' is in the file with other bytes"):
        inverted(file, model, wrong, keys=[key])
    with ca.open_run(file) as run:
        assert run.inversions(LAYER) == ()
        assert run.examples(LAYER) == ()


class Passing:
    """Says its keys beforehand, makes its images when they are asked for, and counts how many of its batches are held meanwhile."""

    def __init__(self, count: int) -> None:
        self.keys = tuple(map(str, range(count)))
        self.made: list[weakref.ref[np.ndarray]] = []
        self.held = 0

    def __iter__(self) -> Iterator[Any]:
        for first in range(0, len(self.keys), 5):
            images = np.random.default_rng(first).random((5, 3, 16, 16), np.float32)
            self.made.append(weakref.ref(images))
            given = torch.from_numpy(images), None, self.keys[first:first + 5]
            del images
            yield given
            del given
            self.held = max(self.held, sum(one() is not None for one in self.made))


def test_no_more_images_are_held_than_are_examples(tmp_path: Path, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    loader, kept, real = Passing(100), [], examples.still_kept

    def spy(*given: Any) -> Any:
        kept.append(real(*given))
        return kept[-1]

    with ca.open_run(tmp_path / "many.h5", "a") as run:
        ca.attribute(run, model, loader, layers=[LAYER], classes=False, **SEARCH | {"targets": "predicted"})
    loader.made, loader.held = [], 0
    monkeypatch.setattr(examples, "still_kept", spy)
    made = seen(tmp_path / "many.h5", model, loader, channels=(), top=3)
    assert len(loader.made) == 20  # one pass
    assert loader.held <= 5  # a part of 16 images, and the batch that follows
    assert [len(one) <= 2 * 3 * 2 for one in kept] == [True] * 7  # kinds, channels, examples
    assert sum(int((one.rows >= 0).sum()) for one in made.examples) > 6


def test_a_loader_that_can_be_gone_through_once_is_enough(file: Path, model: torch.nn.Module, loader: list[Any]) -> None:
    assert same(seen(file, model, iter(loader), mode="r"), seen(file, model, loader, mode="r"))


def test_examples_batch_by_batch_are_those_of_all_images_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, layer, channels = ca.load_model("embedded"), "features.12", [3, 17, 100, 255]
    loader = ca.image_loader(demo_folder(), loaded.preprocess, class_names=loaded.class_names, limit_per_class=2, batch_size=5)
    pixels, quick = ca.pixels_of(loaded.preprocess), ca.ExactSearch(relaxed_steps=1, binary_steps=1)
    monkeypatch.setattr(examples, "BATCH", 5)
    with ca.open_run(tmp_path / "demo.h5", "a") as run:
        ca.attribute(run, loaded.module, loader, layers=[layer], areas=(200,), refine=False, level=0.3, search=quick, classes=False,
                     progress=False)
        made = ca.visualise_run(run, loaded.module, loader, pixels=pixels, layer=layer, channels=channels, shown=4, settings=QUICK,
                                progress=False)
        found = run.per_image(layer)
    assert len(found) == 12
    monkeypatch.setattr(examples, "BATCH", 12)
    images = torch.cat([batch.images for batch in loader])
    for one, answers in zip(made.examples, (None, found), strict=True):
        at_once = ca.examples(loaded.module, images, layer, channels=channels, pixels=pixels, kind=one.kind, found=answers, count=4,
                              keys=found.keys)
        assert (one.rows >= 0).sum() >= 5
        assert one.keys == at_once.keys
        np.testing.assert_allclose(one.value, at_once.value, rtol=1e-4, atol=1e-5)
        for name in ("rows", "position", "boxes", "crops"):
            np.testing.assert_array_equal(getattr(one, name), getattr(at_once, name), name)


def test_a_run_without_sets_of_channels(tmp_path: Path, model: torch.nn.Module, loader: list[Any]) -> None:
    with ca.open_run(tmp_path / "masks.h5", "a") as run:
        ca.spatial_run(run, model, loader[:1], areas=(0.3,), refine=False, search=ca.ExactSearch(relaxed_steps=1), progress=False)
        for label in ("exact", *run.labels(":input", spatial=True)):
            with pytest.raises(ca.InputError, match=r"expected answers about channels, and it has masks on the picture alone; add some"):
                ca.invert_run(run, model, loader, pixels=PIXELS, label=label, progress=False)


def test_a_picture_whose_bytes_are_unknown_is_taken(tmp_path: Path, model: torch.nn.Module, loader: list[Any]) -> None:
    file, unknown = tmp_path / "unknown.h5", [(*batch, np.zeros((5, 32), np.uint8)) for batch in loader]
    with ca.open_run(file, "a") as run:
        ca.attribute(run, model, unknown, layers=[LAYER], **SEARCH)
    assert len(inverted(file, model, loader).whole) == 3
    assert len(inverted(file, model, unknown, limit=4).whole) == 4
