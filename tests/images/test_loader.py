"""Batches hold images, labels, keys, digests and thumbnails; bad files are skipped and noted."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import chanattr as ca
from chanattr.images import demo_folder, example_image, image_loader, open_image
from tests.images.make import NAMES, fill, save, to_tensor, write_half, write_text


def test_batches_hold_images_labels_keys_digests_and_thumbnails(tmp_path: Path) -> None:
    fill(tmp_path, "0_a/a.png", "0_a/b.png", "4_c/c.png")
    loader = image_loader(tmp_path, to_tensor, class_names=NAMES, batch_size=2)
    batches = list(loader)
    assert (len(loader), [len(batch.keys) for batch in batches]) == (2, [2, 1])
    assert sum((batch.keys for batch in batches), ()) == loader.keys == ("0_a/a.png", "0_a/b.png", "4_c/c.png")
    labels = np.concatenate([batch.labels for batch in batches])
    assert labels.dtype == np.int64
    assert labels.tolist() == loader.labels.tolist() == [0, 0, 4]
    for batch in batches:
        assert (batch.images.shape[1:], batch.images.dtype) == ((3, 4, 4), torch.float32)
        for row, key in enumerate(batch.keys):
            assert batch.sha256[row].tobytes() == hashlib.sha256((tmp_path / key).read_bytes()).digest()
            torch.testing.assert_close(batch.images[row], to_tensor(open_image(tmp_path / key)))


def test_a_second_pass_gives_the_same(tmp_path: Path) -> None:
    loader = image_loader(fill(tmp_path, "a.png", "b.png", "c.png"), to_tensor, batch_size=2)
    for one, other in zip(loader, loader, strict=True):
        assert one.keys == other.keys
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=0)


def test_bad_files_are_skipped_and_noted_once(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "c.png", "e.png")
    write_text(tmp_path / "b.jpg")
    write_half(tmp_path / "d.jpg")
    loader = image_loader(tmp_path, to_tensor, batch_size=2)
    loader.example()
    for _ in range(2):
        assert [batch.keys for batch in loader] == [("a.png",), ("c.png",), ("e.png",)]
    assert [path for path, _ in loader.bad] == [str(tmp_path / "b.jpg"), str(tmp_path / "d.jpg")]
    assert loader.bad[0][1].startswith("is not a picture that Pillow knows")
    assert "truncated" in loader.bad[1][1]
    assert repr(loader) == "<ImageLoader of 5 pictures, 2 of them unreadable (bad), 2 a batch>"
    assert repr(next(iter(loader))).startswith("Batch(images=float32[1, 3, 4, 4], labels=int64[1], keys=('a.png',), sha256=uint8[1, 32]")


def test_a_batch_of_bad_files_only_is_left_out(tmp_path: Path) -> None:
    fill(tmp_path, "b.png")
    write_text(tmp_path / "a.jpg")
    loader = image_loader(tmp_path, to_tensor, batch_size=1)
    assert [batch.keys for batch in loader] == [("b.png",)]
    assert loader.example().shape == (1, 3, 4, 4)


def test_no_example_among_bad_files(tmp_path: Path) -> None:
    write_text(tmp_path / "a.jpg")
    loader = image_loader(tmp_path, to_tensor)
    assert list(loader) == []
    with pytest.raises(ca.ImageError, match=r"none of 1 image can be read; .* first, .*a\.jpg: is not a picture"):
        loader.example()


def test_example_is_the_first_two_readable(tmp_path: Path) -> None:
    write_text(fill(tmp_path, "b.png", "c.png", "d.png") / "a.jpg")
    torch.testing.assert_close(image_loader(tmp_path, to_tensor).example(),
                               torch.stack([to_tensor(open_image(tmp_path / name)) for name in ("b.png", "c.png")]))


def test_thumbnails_have_short_side_128_and_come_with_the_first_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png", (1, 2, 3), (300, 200))
    save(tmp_path / "b.png", (4, 5, 6), (20, 40))
    save(tmp_path / "c.png", (7, 8, 9), (1, 900))
    fill(tmp_path, "d.png", "e.png")
    loader = image_loader(tmp_path, to_tensor, batch_size=2)
    shapes = [thumbnail.shape for batch in loader for thumbnail in batch.thumbnails]
    assert shapes[:3] == [(128, 192, 3), (256, 128, 3), (512, 128, 3)]
    first = next(iter(loader)).thumbnails[0]
    assert first.dtype == np.uint8
    assert np.unique(first.reshape(-1, 3), axis=0).tolist() == [[1, 2, 3]]
    monkeypatch.setattr("chanattr.images.loader.THUMBNAILS", 3)
    for _ in range(2):
        assert [len(batch.thumbnails) for batch in loader] == [2, 1, 0]


def test_readers_give_what_one_process_gives(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{number}.png" for number in range(7)))
    (tmp_path / "3x.png").write_text("no picture")
    alone, helped = (image_loader(tmp_path, to_tensor, batch_size=3, readers=readers) for readers in (0, 2))
    for mine, theirs in zip(alone, helped, strict=True):
        assert torch.equal(mine.images, theirs.images)
        assert mine.keys == theirs.keys
        assert np.array_equal(mine.sha256, theirs.sha256)
        assert all(np.array_equal(*pair) for pair in zip(mine.thumbnails, theirs.thumbnails, strict=True))
    assert alone.bad == helped.bad
    assert len(helped.bad) == 1


def test_readers_are_no_more_than_there_are_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("chanattr.images.loader.DataLoader", lambda *_, num_workers, **__: asked.append(num_workers) or [])
    assert not list(image_loader(fill(tmp_path, "a.png", "b.png", "c.png"), to_tensor, batch_size=2, readers=10**6))
    assert asked == [2]


def test_limit_per_class(tmp_path: Path) -> None:
    fill(tmp_path, "0_a/a.png", "0_a/b.png", "0_a/c.png", "1_b/a.png", "x.png", "y.png", "z.png")
    loader = image_loader(tmp_path, to_tensor, class_names=NAMES, limit_per_class=2)
    assert loader.keys == ("0_a/a.png", "0_a/b.png", "1_b/a.png", "x.png", "y.png")


def test_readers_below_zero_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ca.InputError, match="readers is -1; expected a whole number from 0"):
        image_loader(fill(tmp_path, "a.png"), to_tensor, readers=-1)


@pytest.mark.parametrize("option", ["batch_size", "limit_per_class"])
def test_numbers_below_one_are_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(ca.InputError, match=f"{option} is 0; expected a whole number from 1"):
        image_loader(fill(tmp_path, "a.png"), to_tensor, **{option: 0})


def test_a_preprocess_that_gives_many_shapes_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", size=(3, 3))
    save(tmp_path / "b.png", size=(4, 4))
    loader = image_loader(tmp_path, lambda picture: torch.zeros(3, picture.height, picture.width))
    with pytest.raises(ca.InputError, match=r"shapes \[\(3, 3, 3\), \(3, 4, 4\)\]; expected one shape"):
        list(loader)


# What ships


def test_the_demo_pictures_are_six_classes_of_twenty() -> None:
    loader = image_loader(demo_folder(), to_tensor, batch_size=120)
    (batch,) = loader
    assert loader.bad == []
    assert dict(zip(*np.unique(batch.labels, return_counts=True), strict=True)) == dict.fromkeys([130, 251, 327, 776, 780, 805], 20)
    assert len({row.tobytes() for row in batch.sha256}) == 120


def test_the_example_is_two_pictures() -> None:
    example = example_image(to_tensor)
    assert example.shape == (2, 3, 4, 4)
    assert not torch.equal(example[0], example[1])


def test_a_copy_elsewhere_has_the_same_keys(tmp_path: Path) -> None:
    shutil.copytree(demo_folder() / "251_dalmatian", tmp_path / "251_dalmatian")
    here = image_loader(tmp_path, to_tensor).keys
    assert here == tuple(key for key in image_loader(demo_folder(), to_tensor).keys if key.startswith("251"))
