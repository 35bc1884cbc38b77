"""Picture files in folders and globs, each with its key and the class that its folder's name says."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from chanattr.arguments import check_class_names, listed, path_of
from chanattr.errors import InputError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"})
UNKNOWN = -1
LISTED = 8

PathLike = str | os.PathLike[str]


class PictureFile(NamedTuple):
    """An image file before it is read.

    Attributes:
        path: where it lies.
        key: path relative to the root, with ``/``.
        label: class index; -1 unknown.
    """

    path: Path
    key: str
    label: int


def find_images(paths: PathLike | Sequence[PathLike], *, class_names: Sequence[str] = (), wordnet_ids: Sequence[str] = (),
                root: PathLike | None = None) -> tuple[PictureFile, ...]:
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
    check_class_names("class_names", class_names)
    check_class_names("wordnet_ids", wordnet_ids)
    given = [paths] if isinstance(paths, (str, os.PathLike)) else listed("paths", paths, "picture files, folders or globs",
                                                                         "give one or more")
    places = [place for one in given for place in _expand(one)]
    labelled = [pair for place in places for pair in _inside(place, class_names, wordnet_ids)]
    base = _root(places, root)
    found = sorted((PictureFile(path, _key(path, base), label) for path, label in labelled), key=lambda one: one.key)
    _check_unique(found)
    return tuple(found)


def _expand(one: PathLike) -> list[Path]:
    """A file or a folder as it is; anything else as a glob."""
    if os.path.exists(path_of("one of paths", one)):  # false also where a name is too long to be one
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
        return Path(os.path.abspath(path_of("root", root)))
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


def _check_unique(found: Sequence[PictureFile]) -> None:
    """Of images sorted by key."""
    for one, other in itertools.pairwise(found):
        if one.key == other.key:
            raise InputError(f"{one.path} came twice, with key {one.key!r}; expected every image once; take one of the paths or globs away")
