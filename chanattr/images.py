"""Files, folders and globs to normalised batches with keys, labels, digests and thumbnails."""

from __future__ import annotations

import glob
import hashlib
import io
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from chanattr import embedded
from chanattr.errors import ImageError, InputError

Preprocess = Callable[[Image.Image], Tensor]
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
THUMBNAILS, THUMBNAIL_SIDE = 500, 128
UNKNOWN = -1


class Batch(NamedTuple):
    """Some images as the model takes them, and what is known of each.

    Attributes:
        images: float [B, 3, H, W].
        labels: class numbers, i8 [B]; -1 unknown.
        keys: path below the root, with "/".
        sha256: of the files' bytes, u1 [B, 32].
        thumbnails: u1 [y, x, rgb], short side 128; none after the loader's first 500 images.
    """

    images: Tensor
    labels: np.ndarray
    keys: tuple[str, ...]
    sha256: np.ndarray
    thumbnails: tuple[np.ndarray, ...]


class ImageLoader:
    """Batches of picture files; can be passed over again. Files that cannot be read are left out and named in `bad`.

    Attributes:
        keys: of all files that were found.
        labels: i8, one a key; -1 unknown.
        bad: (path, reason) of every file that could not be read so far.
    """

    def __init__(self, files: Sequence[Path], keys: Sequence[str], labels: Sequence[int], preprocess: Preprocess, batch_size: int) -> None:
        self.files, self.keys, self.labels = tuple(files), tuple(keys), np.asarray(labels, dtype=np.int64)
        self.bad: list[tuple[str, str]] = []
        self._preprocess, self._batch_size = preprocess, batch_size

    def __len__(self) -> int:
        return -(-len(self.keys) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        waiting: list[_Read] = []
        thumbnails = 0
        for row in range(len(self.keys)):
            read = self._read(row, thumbnails < THUMBNAILS)
            if read is None:
                continue
            thumbnails += 1
            waiting.append(read)
            if len(waiting) == self._batch_size:
                yield _batch(waiting)
                waiting = []
        if waiting:
            yield _batch(waiting)

    def example(self) -> Float[Tensor, "B 3 H W"]:
        """The first two images that can be read, to look at a model with.

        Raises:
            ImageError: none can be read.
        """
        found = []
        for row in range(len(self.keys)):
            read = self._read(row, False)
            if read is not None:
                found.append(read.image)
            if len(found) == 2:
                break
        if not found:
            raise ImageError(f"none of {len(self.keys)} files can be read as images, first {self.bad[0][0]}: {self.bad[0][1]}; "
                             "expected at least one; check the paths")
        return torch.stack(found)

    def _read(self, row: int, thumbnail: bool) -> _Read | None:
        path = self.files[row]
        try:
            data = path.read_bytes()
            picture = open_image(path, data)
        except (ImageError, OSError) as error:
            if str(path) not in (known for known, _ in self.bad):
                self.bad.append((str(path), str(error)))
            return None
        image = self._preprocess(picture)
        small = (_thumbnail(picture),) if thumbnail else ()
        return _Read(image, int(self.labels[row]), self.keys[row], np.frombuffer(hashlib.sha256(data).digest(), np.uint8), small)


class _Read(NamedTuple):
    image: Tensor
    label: int
    key: str
    sha256: np.ndarray
    thumbnail: tuple[np.ndarray, ...]


def _batch(rows: Sequence[_Read]) -> Batch:
    shapes = {tuple(row.image.shape) for row in rows}
    if len(shapes) > 1:
        raise ImageError(f"preprocessing gave images of shapes {sorted(shapes)} in one batch; expected one shape; "
                         "add a resize and a crop to it")
    return Batch(torch.stack([row.image for row in rows]), np.array([row.label for row in rows], np.int64), tuple(row.key for row in rows),
                 np.stack([row.sha256 for row in rows]), tuple(small for row in rows for small in row.thumbnail))


def image_loader(paths: Sequence[str | Path], preprocess: Preprocess, *, class_names: Sequence[str] = (), wordnet_ids: Sequence[str] = (),
                 batch_size: int = 16, root: str | Path | None = None, limit_per_class: int | None = None) -> ImageLoader:
    """A loader of picture files.

    A folder of class folders gives labels: a class folder is named ``NNN_name`` with the class's number, or by an exact class name, or by
    a WordNet id; never by its place in the alphabet.

    Args:
        paths: files, folders (searched to any depth) and globs.
        preprocess: an RGB picture to a float tensor [3, H, W].
        class_names, wordnet_ids: of the model, one a class.
        batch_size: images a batch.
        root: keys are paths below it; None is the folder given, or the nearest folder that holds all.
        limit_per_class: at most so many images a label (or in all, where there are no labels).

    Raises:
        InputError: nothing found, a class folder that names no class, or one key for two files.

    Example:
        >>> import chanattr as ca
        >>> loaded = ca.load_model("embedded")
        >>> loader = ca.image_loader([ca.images.demo_folder()], loaded.preprocess, class_names=loaded.class_names)
        >>> len(loader.keys), loader.labels[0], loader.keys[0]
        (120, 130, '130_flamingo/flamingo_image_0001.jpg')
    """
    files = find_images(paths)
    top = Path(root).resolve() if root is not None else _common_folder([Path(p) for p in paths], files)
    keys = [_key(path, top) for path in files]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"two files have the key {twice!r}; expected every image to have its own; give each file once")
    labels = _labels(files, top, class_names, wordnet_ids)
    kept = _limited(labels, limit_per_class)
    return ImageLoader([files[i] for i in kept], [keys[i] for i in kept], [labels[i] for i in kept], preprocess, batch_size)


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """The picture files that files, folders and globs name, each once; folders in the order of their names.

    Raises:
        InputError: a path matches nothing, or a folder holds no picture.
    """
    found: dict[Path, None] = {}
    for path in paths:
        words = str(path)
        matches = [Path(words)] if Path(words).exists() else [Path(match) for match in sorted(glob.glob(words, recursive=True))]
        if not matches:
            raise InputError(f"{words!r} is no file, folder or glob that matches; expected pictures; check the path")
        inside = [file for match in matches for file in ([match] if match.is_file() else _in_folder(match))]
        if not inside:
            raise InputError(f"{words!r} holds no picture; expected files named {' '.join(SUFFIXES)}; check the path")
        found.update(dict.fromkeys(file.resolve() for file in inside))
    if not found:
        raise InputError("no paths were given; expected files, folders or globs of pictures")
    return list(found)


def open_image(path: str | Path, data: bytes | None = None) -> Image.Image:
    """A picture file as 8-bit RGB, turned upright by its EXIF orientation.

    Grey becomes three equal channels, transparency is laid over white, 16-bit grey is scaled (not clipped), and of an animation the
    first frame is taken.

    Args:
        path: for messages, and to read from where `data` is None.
        data: the file's bytes.

    Raises:
        ImageError: it cannot be read as a picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)  # remarks on broken EXIF: the picture is still good
            picture = Image.open(io.BytesIO(Path(path).read_bytes() if data is None else data))
            picture.load()
            return _rgb(ImageOps.exif_transpose(picture))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"more pixels than is sane ({error}); expected a picture of ordinary size; shrink it first") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, struct.error) as error:
        reason = "not a picture that can be read" if isinstance(error, Image.UnidentifiedImageError) else f"damaged ({error})"
        raise ImageError(f"{reason}; expected one of {' '.join(SUFFIXES)}; open it in a viewer to see, or leave it out") from error


def demo_folder() -> Path:
    """The folder of the 120 pictures that ship: six ImageNet classes, twenty each (Caltech-101, CC BY 4.0)."""
    return embedded.path("demo")


def example_image(preprocess: Preprocess) -> Float[Tensor, "2 3 H W"]:
    """Two of the shipped pictures as a model takes them, to look at the model with."""
    return image_loader([demo_folder()], preprocess).example()


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype=np.float64)
        scale = 256.0 if picture.mode.startswith("I") and values.max(initial=0) > 255 else 1.0
        return Image.fromarray(np.clip(values / scale, 0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, clear).convert("RGB")
    return picture.convert("RGB")


def _thumbnail(picture: Image.Image) -> np.ndarray:
    scale = THUMBNAIL_SIDE / min(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS), dtype=np.uint8)  # type: ignore[arg-type]


def _in_folder(folder: Path) -> list[Path]:
    files = []
    for where, folders, names in os.walk(folder):
        folders.sort()
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(where, name) for name in sorted(names) if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return files


def _common_folder(given: Sequence[Path], files: Sequence[Path]) -> Path:
    """The folder given, where it is the only path; else the nearest folder that holds all files."""
    if len(given) == 1 and given[0].is_dir():
        return given[0].resolve()
    return Path(os.path.commonpath([file.parent for file in files]))


def _key(path: Path, root: Path) -> str:
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        raise InputError(f"{path} is not below the root {root}; expected all images below it; leave root out") from None


def _labels(files: Sequence[Path], root: Path, names: Sequence[str], ids: Sequence[str]) -> list[int]:
    """The class of each file: of the folder that it lies in, where that is a class folder."""
    folders = list(dict.fromkeys(file.parent for file in files))
    known = {folder: class_of(folder.name, names, ids) for folder in folders}
    below = [folder for folder in folders if folder != root]
    unknown = [folder for folder in below if known[folder] == UNKNOWN]
    if unknown and names and len(below) > 0 and (len(unknown) < len(below) or len(below) > 1):
        shown = ", ".join(repr(folder.name) for folder in unknown[:5])
        raise InputError(f"{len(unknown)} folder(s) name no class of the model: {shown}{', ...' if len(unknown) > 5 else ''}; expected "
                         f"NNN_name with the class's number (0 to {len(names) - 1}), an exact class name such as {names[0]!r}, or a "
                         "WordNet id; rename them, or give the pictures as files to go without classes")
    return [known[file.parent] for file in files]


def class_of(folder: str, names: Sequence[str], ids: Sequence[str]) -> int:
    """The class that a folder's name stands for, -1 for none: ``NNN_name``, an exact class name, or a WordNet id."""
    plain = folder.lower().replace("_", " ")
    same = [i for i, name in enumerate(names) if name.lower().replace("_", " ") == plain]
    if len(same) == 1:
        return same[0]
    if folder in ids:
        return list(ids).index(folder)
    match = re.fullmatch(r"(\d{1,5})[_-].+", folder)
    return int(match[1]) if match and int(match[1]) < len(names) else UNKNOWN


def _limited(labels: Sequence[int], limit: int | None) -> list[int]:
    counts: dict[int, int] = {}
    kept = []
    for row, label in enumerate(labels):
        counts[label] = counts.get(label, 0) + 1
        if limit is None or counts[label] <= limit:
            kept.append(row)
    return kept
