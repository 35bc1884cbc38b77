"""Picture files become upright RGB, keys, labels and digests; what is none is skipped and named."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import chanattr as ca
from chanattr.images import class_of, demo_folder, example_image, find_images, image_loader, open_image

NAMES = ("tench", "red fox", "crane", "crane", "pug")
IDS = ("n01440764", "n02119022", "n02012849", "n03126707", "n02110958")


def to_tensor(picture: Image.Image) -> Tensor:
    """Four by four pixels, so that all files give one shape."""
    return torch.from_numpy(np.asarray(picture.resize((4, 4)), np.float32)).permute(2, 0, 1)


def save(path: Path, colour: tuple[int, int, int] = (10, 20, 30), size: tuple[int, int] = (6, 5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def fill(folder: Path, *names: str) -> Path:
    """A folder of small PNG files, each of its own colour."""
    for number, name in enumerate(names):
        save(folder / name, (number, 100, 200))
    return folder


# Odd pictures


def ramp16() -> np.ndarray:
    return (np.arange(64 * 64, dtype=np.uint32).reshape(64, 64) * 16).astype(np.uint16)


def write_grey16(path: Path) -> None:
    Image.fromarray(ramp16()).save(path)


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.pgm"])
def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    write_grey16(tmp_path / name)
    seen = np.asarray(open_image(tmp_path / name))
    np.testing.assert_array_equal(seen, np.repeat((ramp16() // 256).astype(np.uint8)[..., None], 3, axis=2))


def test_grey_of_8_bits_becomes_three_equal_channels(tmp_path: Path) -> None:
    values = np.arange(30, dtype=np.uint8).reshape(5, 6)
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png")), np.repeat(values[..., None], 3, axis=2))


@pytest.mark.parametrize(("pixel", "expected"), [
    ((10, 20, 30, 255), (10, 20, 30)),
    ((10, 20, 30, 0), (255, 255, 255)),
    ((0, 0, 0, 51), (204, 204, 204)),
])
def test_transparency_is_put_on_white(tmp_path: Path, pixel: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    Image.new("RGBA", (3, 2), pixel).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((1, 1)) == expected


def test_a_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([200, 0, 0, 0, 0, 200])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "plain.png")
    picture.save(tmp_path / "holes.png", transparency=1)
    assert [open_image(tmp_path / "plain.png").getpixel((x, 0)) for x in (0, 1)] == [(200, 0, 0), (0, 0, 200)]
    assert [open_image(tmp_path / "holes.png").getpixel((x, 0)) for x in (0, 1)] == [(200, 0, 0), (255, 255, 255)]


def test_grey_with_transparency(tmp_path: Path) -> None:
    Image.new("LA", (2, 2), (40, 0)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = open_image(tmp_path / "a.jpg").getpixel((4, 4))
    assert red < 10
    assert min(green, blue) > 240


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((2, 4, 3), np.uint8)
    upright[0, 0], upright[1, 3] = (255, 0, 0), (0, 255, 0)
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1),
              6: np.rot90(upright, 1), 7: np.rot90(upright, 2).swapaxes(0, 1), 8: np.rot90(upright, -1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png")), upright)


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


# Files that are no pictures


def write_text(path: Path) -> None:
    path.write_text("not a picture, whatever its name says")


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_half(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:1500])


def write_half_png(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:3000])


def write_float(path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)).save(path, "TIFF")


def write_wide(path: Path) -> None:
    Image.fromarray(np.full((2, 2), 70000, np.int32)).save(path, "TIFF")


BAD: tuple[tuple[Callable[[Path], None], str], ...] = (
    (write_text, "is not a picture that Pillow knows; expected JPEG"),
    (write_nothing, "is not a picture that Pillow knows"),
    (write_half, "cannot be decoded .*truncated"),
    (write_half_png, "cannot be decoded"),
    (write_float, "values of mode F from 0.0 to 1.0, not grey of 8 or 16 bits"),
    (write_wide, "values of mode I from 70000 to 70000"),
    (Path.mkdir, "cannot be read"),
    (lambda path: None, "cannot be read .No such file"),
)


@pytest.mark.parametrize(("write", "message"), BAD)
def test_a_file_that_is_no_picture(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    write(tmp_path / "a.jpg")
    with pytest.raises(ca.ImageError, match=message):
        open_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("limit", [20, 5])  # Pillow warns over the limit and refuses over twice the limit
def test_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ca.ImageError, match=f"more pixels than is safe to open; expected at most {limit}"):
        open_image(tmp_path / "a.png")


# Keys and labels


def found(paths: object, **options: object) -> dict[str, int]:
    return {one.key: one.label for one in find_images(paths, class_names=NAMES, wordnet_ids=IDS, **options)}  # type: ignore[arg-type]


def test_class_folders_by_number_name_and_wordnet_id(tmp_path: Path) -> None:
    fill(tmp_path, "0_whatever/a.png", "red fox/b.png", "n02110958/c.png", "002_crane/deep/er/d.png", "003_crane/e.png")
    assert found(tmp_path) == {"0_whatever/a.png": 0, "red fox/b.png": 1, "n02110958/c.png": 4, "002_crane/deep/er/d.png": 2,
                               "003_crane/e.png": 3}


@pytest.mark.parametrize("name", ["crane", "fox", "Tench", "5_none", "1", "0x1_a", "n00000000"])
def test_any_other_class_folder_is_refused_never_numbered_by_the_alphabet(tmp_path: Path, name: str) -> None:
    fill(tmp_path, "tench/a.png", f"{name}/b.png")
    with pytest.raises(ca.InputError, match=rf"1 of 2 folders in .* name no class: '{name}'; expected NNN_name \(NNN from 0 to 4\), "
                                            "a class name .*, or a WordNet id such as n02110341; rename"):
        find_images(tmp_path, class_names=NAMES, wordnet_ids=IDS)


def test_where_no_classes_are_known_a_number_will_do(tmp_path: Path) -> None:
    fill(tmp_path, "007_bond/a.png")
    assert [one.label for one in find_images(tmp_path)] == [7]
    fill(tmp_path, "tench/a.png")
    with pytest.raises(ca.InputError, match="this model tells no names"):
        find_images(tmp_path)


def test_the_listing_of_wrong_folders_is_short(tmp_path: Path) -> None:
    fill(tmp_path, *(f"class{number:02}/a.png" for number in range(30)))
    with pytest.raises(ca.InputError, match=r"30 of 30 folders .* 'class07' \.\.\.; expected"):
        find_images(tmp_path, class_names=NAMES)


def test_pictures_directly_in_a_folder_have_no_label(tmp_path: Path) -> None:
    fill(tmp_path / "holiday", "b.png", "a.png", "4_pug/c.png")
    assert found(tmp_path / "holiday") == {"a.png": -1, "b.png": -1, "4_pug/c.png": 4}


def test_a_class_folder_by_itself_has_its_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "red fox", "a.png", "more/b.png")
    assert found(tmp_path / "red fox") == {"a.png": 1, "more/b.png": 1}
    monkeypatch.chdir(tmp_path / "red fox")
    assert found(".") == {"a.png": 1, "more/b.png": 1}


def test_files_and_globs_have_no_label_and_folders_of_a_glob_have(tmp_path: Path) -> None:
    fill(tmp_path, "0_tench/a.png", "0_tench/b.png", "1_fox/c.png")
    assert found(str(tmp_path / "*" / "*.png")) == {"0_tench/a.png": -1, "0_tench/b.png": -1, "1_fox/c.png": -1}
    assert found(str(tmp_path / "*")) == {"0_tench/a.png": 0, "0_tench/b.png": 0, "1_fox/c.png": 1}
    assert found(tmp_path / "0_tench" / "a.png") == {"a.png": -1}
    assert found(str(tmp_path / "**" / "a.png")) == {"a.png": -1}


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path) -> None:
    fill(tmp_path, "a[1].png", "a1.png")
    assert list(found(tmp_path / "a[1].png")) == ["a[1].png"]


def test_the_root_of_keys(tmp_path: Path) -> None:
    fill(tmp_path, "x/0_a/a.png", "x/1_b/b.png", "y.png")
    assert list(found([tmp_path / "x" / "0_a", tmp_path / "x" / "1_b"])) == ["0_a/a.png", "1_b/b.png"]
    assert list(found([tmp_path / "x" / "0_a" / "a.png", tmp_path / "y.png"])) == ["x/0_a/a.png", "y.png"]
    assert list(found(tmp_path / "x", root=tmp_path)) == ["x/0_a/a.png", "x/1_b/b.png"]
    with pytest.raises(ca.InputError, match="does not lie under the root"):
        found(tmp_path / "x", root=tmp_path / "x" / "0_a")


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    fill(tmp_path / "store", "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0_tench").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "round").symlink_to(tmp_path / "store")
    assert found(tmp_path / "set") == {"0_tench/a.png": 0}


def test_files_of_another_kind_and_hidden_ones_are_left_out_of_a_folder(tmp_path: Path) -> None:
    fill(tmp_path, "a.PNG", "._a.png", ".cache/b.png")
    (tmp_path / "notes.txt").write_text("notes")
    assert list(found(tmp_path)) == ["a.PNG"]


@pytest.mark.parametrize("again", ["a.png", ".", "../images/a.png", "*.png"])
def test_a_file_given_twice_is_refused(tmp_path: Path, again: str) -> None:
    folder = fill(tmp_path / "images", "a.png", "b.png")
    with pytest.raises(ca.InputError, match=r"a\.png came twice, with key 'a\.png'; expected every image once"):
        find_images([folder / "a.png", str(folder / again)], root=folder)


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ca.InputError, match=r"holds no picture; expected files ending in \.bmp, \.gif, \.jp2, \.jpeg"):
        find_images(tmp_path)
    with pytest.raises(ca.InputError, match=r"x\*\.png' is not there, looked for from .*; expected a glob that matches something"):
        find_images(str(tmp_path / "x*.png"))
    with pytest.raises(ca.InputError, match=r"nothere' is not there, .* expected a file, a folder or a glob"):
        find_images(tmp_path / "nothere")
    with pytest.raises(ca.InputError, match="no path was given"):
        find_images([])


def test_a_class_of_two_names_needs_its_number() -> None:
    assert class_of("crane", NAMES, IDS) is None
    assert class_of("3_crane", NAMES, IDS) == 3
    assert class_of("pug", NAMES, IDS) == 4


# The loader


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
