"""`chanattr invert` and `chanattr visualise`: pictures made for the answers of a run, as PNG sheets and tables."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import quote

import click

from chanattr.cli.text import named, table
from chanattr.cli.trust import model_of, own_rewards
from chanattr.cli.words import loader_of
from chanattr.errors import InputError
from chanattr.picture_records import NONE, ChannelImages, Examples
from chanattr.picture_settings import PictureSettings
from chanattr.pictures.pixels import pixels_of
from chanattr.pictures.sheet import SheetRow, contact_sheet, save_png
from chanattr.runs.pictures import Channels, Inverted, invert_run, layers_with, visualise_run
from chanattr.settings import LABEL
from chanattr.store import Run, open_run


def run_invert(file: Path, options: dict[str, Any]) -> None:
    """Makes, writes and prints what the activations of a run's images look like, whole and masked."""
    settings = settings_of(options, "objective")
    with opened(file, options) as run:
        loaded = model_of(run, options)
        made = invert_run(run, loaded.module, loader_of(loaded, options["images"]), pixels=pixels_of(loaded.preprocess),
                          layers=list(options["layers"]) or None, label=options["label"], keys=list(options["keys"]) or None,
                          limit=options["limit"], area=options["areas"] or None, settings=settings, score=loaded.score,
                          channel_axis=options["axis"], progress=not options["as_json"])
    names = loaded.class_names
    show("inversion", made, options, rows=partial(inversion_rows, names=names), text=partial(inversion_table, names=names),
         told=inversions_told)


def run_visualise(file: Path, options: dict[str, Any]) -> None:
    """Makes, writes and prints what a run's channels look for, with the images that drive and need them."""
    settings = settings_of(options, "diversity")
    with opened(file, options) as run:
        loaded = model_of(run, options)
        loader = loader_of(loaded, options["images"]) if options["images"] else None
        layers = list(options["layers"]) or layers_with(run, options["label"])
        asked = {layer: run.per_image(layer, options["label"], rows=[]).settings.reward for layer in layers}
        rewards = own_rewards(asked.values(), options["rewards"], file)
        names = loaded.class_names
        target, against = (None if words is None else class_of(words, names) for words in (options["target"], options["against"]))
        made = {layer: visualise_run(run, loaded.module, loader, pixels=pixels_of(loaded.preprocess), layer=layer, label=options["label"],
                                     channels=list(options["channels"]), target=target, against=against, top=options["top"],
                                     count=options["count"], shown=options["shown"], settings=settings, reward=rewards.get(reward),
                                     score=loaded.score, channel_axis=options["axis"], progress=not options["as_json"])
                for layer, reward in asked.items()}
    show("channels", made, options, rows=channel_rows, text=partial(channel_table, names=names), told=channels_told)


def opened(file: Path, options: Mapping[str, Any]) -> Run:
    """A run that is there, open to keep what is made, or to read alone; a folder that sheets cannot be written to is refused first."""
    open_run(file).close()  # else one would be made
    check_folder(options["output"])
    return open_run(file, "a" if options["store"] else "r")


def settings_of(options: Mapping[str, Any], own: str) -> PictureSettings:
    """Settings of what was said, with the one that is the command's own; the rest is the usual."""
    return PictureSettings(**{name: options[name] for name in ("steps", "parametrisation", "seed", own)})


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


def show(kind: str, made: Mapping[str, Any], options: Mapping[str, Any], *, rows: Callable[[Any], list[SheetRow]],
         text: Callable[[Any], str], told: Callable[[Any], dict[str, Any]]) -> None:
    """Writes a sheet of what was made at each layer, and prints it as a table, or for programs."""
    files = {layer: save_png(contact_sheet(rows(one)), file_of(options["output"], kind, layer, options["label"], options.get("areas", ())))
             for layer, one in made.items()}
    if options["as_json"]:
        click.echo(json.dumps({layer: told(one) | {"file": str(files[layer])} for layer, one in made.items()}, indent=1))
        return
    for layer, one in made.items():
        click.echo(f"{layer}\n{text(one)}\nwrote {files[layer]}\n")


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


def inversion_rows(both: Inverted, names: Sequence[str]) -> list[SheetRow]:
    """Images, inversions of the whole activation, and of the masked one, a row for each area."""
    rows = [SheetRow("images", tuple(both.whole.originals), both.whole.keys, keys=True)]
    count = len(both.whole)
    for title, made in zip(("the whole activation", "the masked activation"), both, strict=True):
        below = [f"{cosine:.2f} {named(int(of), names)}" for cosine, of in zip(made.cosine, made.predictions, strict=True)]
        for at in range(0, len(made), count):
            kept = "" if len(made) == count else f" of {int(made.areas[at])} channels"
            rows.append(SheetRow(f"{title}{kept} at {made.layer}: cosine, and the class named", tuple(made.pictures[at:at + count]),
                                 tuple(below[at:at + count])))
    return rows


def inversion_table(both: Inverted, names: Sequence[str]) -> str:
    """A line an image, kind and area."""
    rows = [(key, kind, int(made.areas[row]), f"{made.cosine[row]:.3f}", f"{made.kept_cosine[row]:.3f}",
             named(int(made.predictions[row]), names), "yes" if made.named[row] else "no", f"{made.probability[row]:.3f}")
            for first, key in enumerate(both.whole.keys) for kind, made in both._asdict().items()
            for row in range(first, len(made), len(both.whole))]
    return table(("image", "activation", "K", "cosine", "in set", "named", "right", "probability"), rows)


def inversions_told(both: Inverted) -> dict[str, Any]:
    """The same for programs."""
    figures = ("areas", "cosine", "kept_cosine", "targets", "predictions", "probability")
    return {"keys": list(both.whole.keys), "settings": json.loads(both.whole.settings.to_json())} | {
        kind: {"keys": list(made.keys), **{name: getattr(made, name).tolist() for name in figures}}
        for kind, made in both._asdict().items()}


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


def channel_rows(made: Channels) -> list[SheetRow]:
    """A row for a class's weighted set, and one for each channel: its pictures, then its examples."""
    rows = []
    for images, examples in parts_of(made):
        for row in range(len(images)):
            pictures, below = list(images.pictures[row]), [f"made: {value:.4g}" for value in images.value[row]]
            for one in examples:
                shown = [place for place in range(one.rows.shape[1]) if one.rows[row, place] != NONE]
                pictures += [one.crops[row, place] for place in shown]
                below += [f"{one.kind}: {one.value[row, place]:.4g}" for place in shown]
            rows.append(SheetRow(f"{images.names[row]} at {images.layer}", tuple(pictures), tuple(below)))
    return rows


def parts_of(made: Channels) -> list[tuple[ChannelImages, tuple[Examples, ...]]]:
    """A class's weighted set, which has no examples, and the single channels."""
    return [*([] if made.whole is None else [(made.whole, ())]), (made.single, made.examples)]


def channel_table(made: Channels, names: Sequence[str]) -> str:
    """A line a row: the value of its best picture, what the network names it, and its first examples."""
    head = ["channel", "value", "named", *(f"{one.kind} most by" for one in made.examples)]
    rows = []
    for images, examples in parts_of(made):
        for row in range(len(images)):
            best = int(images.value[row].argmax())
            firsts = [(one, one.rows[row, 0]) for one in examples]
            seen = [one.keys[first] if first != NONE else "-" for one, first in firsts] or [""] * len(made.examples)
            rows.append((images.names[row], f"{images.value[row, best]:.4g}", named(int(images.predictions[row, best]), names), *seen))
    return table(head, rows)


def channels_told(made: Channels) -> dict[str, Any]:
    """The same for programs."""
    return {"settings": json.loads(made.single.settings.to_json()),
            "rows": [{"name": name, "value": images.value[row].tolist(), "predictions": images.predictions[row].tolist()}
                     for images, _ in parts_of(made) for row, name in enumerate(images.names)],
            "examples": {one.kind: [{"name": name, "keys": [one.keys[r] for r in one.rows[row] if r != NONE],
                                     "boxes": one.boxes[row][one.rows[row] != NONE].tolist()} for row, name in enumerate(one.names)]
                         for one in made.examples}}
