"""What `chanattr invert` and `chanattr visualise` share: the model of a run, settings from words, and files by layer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple
from urllib.parse import quote

from chanattr.cli.attribute import device_of
from chanattr.cli.trust import model_name
from chanattr.errors import InputError
from chanattr.images import ImageLoader, image_loader
from chanattr.network.zoo import LoadedModel, load_model
from chanattr.pictures.pixels import Pixels, pixels_of
from chanattr.pictures.settings import PictureSettings
from chanattr.store import Run, open_run

SETTINGS = ("steps", "parametrisation", "seed")
LABEL = "exact"  # the one that file names leave out


class Ready(NamedTuple):
    """A run's model, its pictures if there are, and what pixels it takes."""

    loaded: LoadedModel
    loader: ImageLoader | None
    pixels: Pixels


def ready(run: Run, options: dict[str, Any]) -> Ready:
    """The model that a run names, or the one given, and a loader of the pictures given.

    Raises:
        InputError: none is given, and the run does not say which model it is of, or names code.
    """
    name = model_name(run.attributes.get("model"), options["model"], run.path)
    loaded = load_model(name, weights=options["weights"], device=device_of(options["device"]))
    images: Sequence[str] = options["images"]
    if not images:
        return Ready(loaded, None, pixels_of(loaded.preprocess))
    loader = image_loader(list(images), loaded.preprocess, class_names=loaded.class_names, wordnet_ids=loaded.wordnet_ids)
    return Ready(loaded, loader, pixels_of(loaded.preprocess))


def opened(file: Path, store: bool) -> Run:
    """A run that is there, open to keep what is made, or to read alone."""
    open_run(file).close()  # else one would be made
    return open_run(file, "a" if store else "r")


def check_folder(folder: Path) -> None:
    """Refuses a folder that sheets cannot be written to, before anything is made; it is not made itself.

    Raises:
        InputError: so.
    """
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    try:
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(f"-o {folder} cannot be written to ({there} {'is no folder' if not there.is_dir() else error.strerror}); expected "
                         "a folder, there or not, with permission to write; name another") from error


def settings_of(options: dict[str, Any], **more: Any) -> PictureSettings:
    """Settings of what was said; the rest is the usual."""
    return PictureSettings(**{name: options[name] for name in SETTINGS}, **more)


def class_of(words: str, names: Sequence[str]) -> int:
    """A class by its number or its exact name.

    Raises:
        InputError: neither.
    """
    if words.isascii() and words.isdigit():
        return int(words)
    if words not in names:
        raise InputError(f"no class {words!r}; expected a class number or an exact name; 'chanattr show' lists those of a run")
    return list(names).index(words)


def named(number: int, names: Sequence[str]) -> str:
    """A class in words."""
    return names[number] if number < len(names) else f"class {number}"


def file_of(folder: Path, kind: str, layer: str, label: str = LABEL, areas: Sequence[int] = ()) -> Path:
    """Where the sheet of a layer goes, a name of its own for each label and areas; what a file name cannot hold is written as in a URL.

    Examples:
        >>> file_of(Path("sheets"), "inversion", "mix:input", areas=[5, 2]).name
        'inversion-mix%3Ainput,area-2-5.png'
    """
    more = [] if label == LABEL else [f"label-{quote(label, safe='')}"]
    if areas:
        more.append(f"area-{'-'.join(map(str, sorted(set(areas))))}")
    return folder / f"{','.join([f'{kind}-{quote(layer, safe=str())}', *more])}.png"
