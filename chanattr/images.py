"""Files, folders and globs to normalised batches with keys, labels, file digests and thumbnails."""

from __future__ import annotations

import glob
import hashlib
import io
import itertools
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from chanattr import embedded
from chanattr.errors import ImageError, InputError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"})
SHORT_SIDE = 128
THUMBNAILS = 500
UNKNOWN = -1
LISTED = 8
TRANSPARENT = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})
LONGEST = 4  # times the short side: a picture as thin as a hair would make a thumbnail of hundreds of megabytes
# What Pillow raises for a file that is broken in one way or another; it documents no common base.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, MemoryError, OverflowError)

PathLike = str | os.PathLike[str]
Preprocess = Callable[[Image.Image], Tensor]


class Batch(NamedTuple):
    """Images side by side; starts as ``(images, labels, keys)``, which is all that a loader of your own must give.

    Attributes:
        images: as the model takes them.
        labels: class indices; -1 unknown.
        keys: one an image.
        sha256: of the files' bytes.
        thumbnails: u1 [y, x, 3] each, short side 128 pixels, for the first images of a pass only: so fewer than there are keys, or none.
    """

    images: Float[Tensor, "B 3 H W"]
    labels: Int64[np.ndarray, " B"]
    keys: tuple[str, ...]
    sha256: UInt8[np.ndarray, "B 32"]
    thumbnails: tuple[np.ndarray, ...]


class Found(NamedTuple):
    """An image file before it is read.

    Attributes:
        path: where it lies.
        key: path relative to the root, with ``/``.
        label: class index; -1 unknown.
    """

    path: Path
    key: str
    label: int


class ImageLoader:
    """Batches of picture files, in the order of their keys; may be gone through any number of times.

    A file that cannot be read is left out of its batch and noted once in `bad`.

    Attributes:
        keys: of every file found, the unreadable ones too, which are known only once a pass met them.
        labels: i8, one a key; -1 unknown.
        bad: (path, reason) of the files that could not be read so far.
    """

    def __init__(self, found: Sequence[Found], preprocess: Preprocess, batch_size: int) -> None:
        self._found = tuple(found)
        self._preprocess = preprocess
        self._batch_size = batch_size
        self.keys = tuple(one.key for one in found)
        self.labels = np.array([one.label for one in found], np.int64)
        self.bad: list[tuple[str, str]] = []
        self._noted: set[str] = set()

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self._found) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        thumbnails = 0
        for start in range(0, len(self._found), self._batch_size):
            rows = [row for one in self._found[start:start + self._batch_size] if (row := self._read(one, thumbnails < THUMBNAILS))]
            if rows:
                batch = _batch(rows, THUMBNAILS - thumbnails)
                thumbnails += len(batch.thumbnails)
                yield batch

    def example(self) -> Float[Tensor, "B 3 H W"]:
        """The first two images that can be read (one, if there is but one).

        Raises:
            ImageError: none can be read.
        """
        images: list[Tensor] = []
        for one in self._found:
            if row := self._read(one, False):
                images.append(row.image)
            if len(images) == 2:
                break
        if not images:
            path, reason = self.bad[0]
            raise ImageError(f"none of the {len(self.keys)} images can be read; expected at least one; the first, {path}: {reason}")
        return torch.stack(images)

    def _read(self, one: Found, thumbnail: bool) -> _Row | None:
        try:
            data = _bytes(one.path)
            picture = _decode(data, one.path)
        except ImageError as error:
            if one.key not in self._noted:
                self._noted.add(one.key)
                self.bad.append((str(one.path), str(error).removeprefix(f"{one.path} ")))
            return None
        return _Row(image=self._preprocess(picture), found=one, sha256=hashlib.sha256(data).digest(),
                    thumbnail=_thumbnail(picture) if thumbnail else None)


class _Row(NamedTuple):
    image: Tensor
    found: Found
    sha256: bytes
    thumbnail: np.ndarray | None


def image_loader(paths: PathLike | Sequence[PathLike], preprocess: Preprocess, *, class_names: Sequence[str] = (),
                 wordnet_ids: Sequence[str] = (), batch_size: int = 16, root: PathLike | None = None,
                 limit_per_class: int | None = None) -> ImageLoader:
    """A loader over picture files.

    Args:
        paths: files, folders and globs; see `find_images` for how they become keys and labels.
        preprocess: an RGB picture to the float tensor [3, H, W] that the model takes, all of one size; ``load_model(...).preprocess``.
        class_names: of the model, in its order.
        wordnet_ids: of the model, in its order.
        batch_size: images a batch.
        root: what keys are relative to; None: the folder given, or the common parent of several paths.
        limit_per_class: takes this many images of each class, the first by key; images without a label count as one class.

    Raises:
        InputError: nothing is found, a class folder names no class, a file is given twice, or a number is below 1.

    Example:
        >>> import chanattr as ca
        >>> from chanattr.images import demo_folder
        >>> model = ca.load_model("embedded")
        >>> loader = ca.image_loader(demo_folder(), model.preprocess, class_names=model.class_names, limit_per_class=2)
        >>> loader.keys[0], int(loader.labels[0]), len(loader)
        ('130_flamingo/flamingo_image_0001.jpg', 130, 1)
    """
    for name, number in {"batch_size": batch_size, "limit_per_class": limit_per_class}.items():
        if number is not None and number < 1:
            raise InputError(f"{name} is {number}; expected a whole number from 1; leave it out for the usual")
    found = find_images(paths, class_names=class_names, wordnet_ids=wordnet_ids, root=root)
    return ImageLoader(_limited(found, limit_per_class), preprocess, batch_size)


def find_images(paths: PathLike | Sequence[PathLike], *, class_names: Sequence[str] = (), wordnet_ids: Sequence[str] = (),
                root: PathLike | None = None) -> tuple[Found, ...]:
    """Picture files with their keys and labels, ordered by key.

    A folder that holds folders with pictures is a folder of class folders: each must be named ``NNN_name`` (NNN the class's index), or by
    a class's exact name or WordNet id. A folder that holds pictures directly is itself a class folder if its name says so, and
    otherwise its pictures have no label; so has a file by itself. Classes are never numbered by the alphabet.

    Args:
        paths: files (of any suffix), folders (searched to the bottom for the usual picture suffixes) and globs.
        class_names: of the model, in its order; empty: nothing is known, so no folder names a class.
        wordnet_ids: of the model, in its order.
        root: what keys are relative to; None: the folder given, or the common parent of several paths.

    Raises:
        InputError: nothing is found, a class folder names no class, or a file is given twice.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not given:
        raise InputError("no path was given; expected picture files, folders or globs")
    places = [place for one in given for place in _expand(one)]
    labelled = [pair for place in places for pair in _inside(place, class_names, wordnet_ids)]
    base = _root(places, root)
    found = sorted((Found(path, _key(path, base), label) for path, label in labelled), key=lambda one: one.key)
    _check_unique(found)
    return tuple(found)


def open_image(path: PathLike) -> Image.Image:
    """A picture file as RGB, turned upright as its EXIF orientation says.

    Transparent pixels are put on white, 16-bit grey is divided by 256 (never clipped), of an animation the first frame is taken.

    Raises:
        ImageError: no such file, not a picture, truncated, or so large that it may be meant to fill the memory.
    """
    return _decode(_bytes(Path(path)), Path(path))


def demo_folder() -> Path:
    """The shipped pictures: 6 class folders of 20."""
    return embedded.path("demo")


def example_image(preprocess: Preprocess) -> Float[Tensor, "B 3 H W"]:
    """Two shipped pictures of different classes, as a model takes them."""
    folders = sorted(path for path in demo_folder().iterdir() if path.is_dir())[:2]
    return torch.stack([preprocess(open_image(min(folder.glob("*.jpg")))) for folder in folders])


# Finding


def _expand(one: PathLike) -> list[Path]:
    """A file or a folder as it is; anything else as a glob."""
    if Path(one).exists():
        return [Path(one)]
    matches = sorted(Path(match) for match in glob.glob(str(one), recursive=True))
    if not matches:
        kind = "a glob that matches something" if glob.has_magic(str(one)) else "a file, a folder or a glob"
        raise InputError(f"{str(one)!r} is not there, looked for from {Path.cwd()}; expected {kind}; check the path")
    return matches


def _inside(place: Path, class_names: Sequence[str], wordnet_ids: Sequence[str]) -> list[tuple[Path, int]]:
    """Picture files of one place with their labels."""
    if place.is_file():
        return [(place, UNKNOWN)]
    files = _pictures(place)
    if not files:
        raise InputError(f"{place} holds no picture; expected files ending in {', '.join(sorted(SUFFIXES))}; "
                         "give another folder, or the files themselves")
    own = class_of(place.resolve().name, class_names, wordnet_ids)
    names = sorted({path.relative_to(place).parts[0] for path in files if path.parent != place})
    labels = {name: class_of(name, class_names, wordnet_ids) for name in names}
    unknown = [name for name, label in labels.items() if label is None]
    if unknown and own is None:
        raise InputError(_no_class(place, unknown, len(names), max(len(class_names), len(wordnet_ids))))
    label = UNKNOWN if own is None else own
    inside = {} if unknown else {name: number for name, number in labels.items() if number is not None}
    return [(path, inside.get(path.relative_to(place).parts[0], label)) for path in files]


def _pictures(place: Path) -> list[Path]:
    """Picture files to the bottom of a folder, through links too; names that start with a dot are left out, some systems' own."""
    found: list[Path] = []
    for folder, inner, names in os.walk(place, followlinks=True, onerror=_cannot_list):
        real = Path(folder).resolve()
        above = {real, *real.parents}  # a link to one of these would be walked in circles
        inner[:] = [name for name in inner if not name.startswith(".") and (real / name).resolve() not in above]
        found += [Path(folder, name) for name in names if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES]
    return found


def _cannot_list(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be listed ({error.strerror}); expected a folder that may be read; "
                     "check its rights") from error


def class_of(name: str, class_names: Sequence[str], wordnet_ids: Sequence[str]) -> int | None:
    """The class that a folder's name says: an exact class name, a WordNet id, or ``NNN_name``; None where it says none.

    ``NNN_name`` goes by its number alone, the name is for people; where the number of classes is not known, any number will do.
    A class name that several classes have says none.
    """
    for known in (class_names, wordnet_ids):
        if list(known).count(name) == 1:
            return list(known).index(name)
    classes = max(len(class_names), len(wordnet_ids))
    numbered = re.fullmatch(r"([0-9]+)_.+", name)
    if numbered and (classes == 0 or int(numbered[1]) < classes):
        return int(numbered[1])
    return None


def _no_class(place: Path, unknown: list[str], folders: int, classes: int) -> str:
    shown = ", ".join(map(repr, unknown[:LISTED])) + (" ..." if len(unknown) > LISTED else "")
    numbers = f"NNN from 0 to {classes - 1}" if classes else "NNN the class's index; this model tells no names, so no other way is open"
    return (f"{len(unknown)} of {folders} folders in {place} name no class: {shown}; expected NNN_name ({numbers}), a class name that "
            "only one class has, or a WordNet id such as n02110341; rename them, or give the files (a glob) to go without labels")


def _root(places: Sequence[Path], root: PathLike | None) -> Path:
    if root is not None:
        return Path(os.path.abspath(root))
    if len(places) == 1 and places[0].is_dir():
        return Path(os.path.abspath(places[0]))
    return Path(os.path.commonpath([Path(os.path.abspath(place)).parent for place in places]))


def _key(path: Path, root: Path) -> str:
    absolute = Path(os.path.abspath(path))
    if not absolute.is_relative_to(root):
        raise InputError(f"{path} does not lie under the root {root}; expected a root that holds every image; leave root out")
    key = absolute.relative_to(root).as_posix()
    if any("\ud800" <= letter <= "\udfff" for letter in key):
        raise InputError(f"the name {key!a} is not UTF-8; expected one that can be stored as a key; rename the file")
    return key


def _check_unique(found: Sequence[Found]) -> None:
    """Of images sorted by key."""
    for one, other in itertools.pairwise(found):
        if one.key == other.key:
            raise InputError(f"{one.path} came twice, with key {one.key!r}; expected every image once; take one of the paths or globs away")


def _limited(found: Sequence[Found], limit: int | None) -> list[Found]:
    if limit is None:
        return list(found)
    taken: dict[int, int] = {}
    kept = []
    for one in found:
        taken[one.label] = taken.get(one.label, 0) + 1
        if taken[one.label] <= limit:
            kept.append(one)
    return kept


# Reading


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror or error}); expected a picture file; "
                         "check the path and its rights") from error


def _decode(data: bytes, path: Path) -> Image.Image:
    """RGB, upright."""
    with _refusals(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks about odd metadata; a picture that may be a bomb is refused all the same
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            return _rgb(ImageOps.exif_transpose(opened))


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not a picture that Pillow knows; expected JPEG, PNG, GIF, BMP, WebP or TIFF; "
                         "take it away or convert it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{path} has more pixels than is safe to open; expected at most {Image.MAX_IMAGE_PIXELS}; "
                         "make it smaller") from error
    except BROKEN as error:
        raise ImageError(f"{path} cannot be decoded ({type(error).__name__}: {error}); expected a whole picture of 8 or 16 bits; "
                         "fetch or save it again") from error


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        picture = _eight_bits(picture)
    if picture.mode in TRANSPARENT or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits over 256, for Pillow's own conversion clips at 255; other ranges are refused: nothing says what white is."""
    values = np.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"values of mode {picture.mode} from {values.min()} to {values.max()}, not grey of 8 or 16 bits")
    return Image.fromarray((values // 256).astype(np.uint8))


def _thumbnail(picture: Image.Image) -> np.ndarray:
    """Short side 128; of a very long picture its middle."""
    width, height = (min(side, LONGEST * min(picture.size)) for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    share = SHORT_SIDE / min(width, height)
    size = (round(width * share), round(height * share))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height)), np.uint8)


def _batch(rows: Sequence[_Row], thumbnails: int) -> Batch:
    shapes = {tuple(row.image.shape) for row in rows}
    if len(shapes) > 1:
        raise InputError(f"preprocess gave images of shapes {sorted(shapes)[:3]}; expected one shape for all; let it crop to one size")
    return Batch(images=torch.stack([row.image for row in rows]), labels=np.array([row.found.label for row in rows], np.int64),
                 keys=tuple(row.found.key for row in rows),
                 sha256=np.frombuffer(b"".join(row.sha256 for row in rows), np.uint8).reshape(-1, 32),
                 thumbnails=tuple(row.thumbnail for row in rows[:max(0, thumbnails)] if row.thumbnail is not None))
