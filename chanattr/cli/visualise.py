"""`chanattr visualise`: pictures of a run's channels with the images that drive and need them, as PNG sheets and a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from chanattr.cli.made import check_folder, class_of, file_of, named, opened, ready, settings_of
from chanattr.cli.text import table
from chanattr.cli.trust import own_rewards
from chanattr.pictures.records import NONE, ChannelImages, Examples
from chanattr.pictures.sheet import SheetRow, contact_sheet, save_png
from chanattr.runs.pictures import Channels, layers_with, visualise_run


def run_visualise(file: Path, options: dict[str, Any]) -> None:
    """Makes, writes and prints."""
    settings = settings_of(options, diversity=options["diversity"])
    with opened(file, options["store"]) as run:
        check_folder(options["output"])
        have = ready(run, options)
        layers = list(options["layers"]) or layers_with(run, options["label"])
        asked = {layer: run.per_image(layer, options["label"], rows=[]).settings.reward for layer in layers}
        rewards = own_rewards(asked.values(), options["rewards"], file)
        names = have.loaded.class_names
        target, against = (None if words is None else class_of(words, names) for words in (options["target"], options["against"]))
        made = {}
        for layer in layers:
            made[layer] = visualise_run(run, have.loaded.module, have.loader, pixels=have.pixels, layer=layer, label=options["label"],
                                        channels=list(options["channels"]), target=target, against=against, top=options["top"],
                                        count=options["count"], shown=options["shown"], settings=settings,
                                        reward=rewards.get(asked[layer]), score=have.loaded.score,
                                        channel_axis=options["axis"], progress=not options["as_json"])
    files = {layer: save_png(contact_sheet(sheet_rows(one)), file_of(options["output"], "channels", layer, options["label"]))
             for layer, one in made.items()}
    if options["as_json"]:
        click.echo(json.dumps({layer: told(one) | {"file": str(files[layer])} for layer, one in made.items()}, indent=1))
        return
    for layer, one in made.items():
        click.echo(f"{layer}\n{channel_table(one, names)}\nwrote {files[layer]}\n")


def sheet_rows(made: Channels) -> list[SheetRow]:
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
            seen = [_first(one, row) for one in examples] or [""] * len(made.examples)
            rows.append((images.names[row], f"{images.value[row, best]:.4g}", named(int(images.predictions[row, best]), names), *seen))
    return table(head, rows)


def _first(one: Examples, row: int) -> str:
    """The key of the first example, or nothing."""
    return one.keys[one.rows[row, 0]] if one.rows[row, 0] != NONE else "-"


def told(made: Channels) -> dict[str, Any]:
    """The same for programs."""
    return {"settings": json.loads(made.single.settings.to_json()),
            "rows": [{"name": name, "value": images.value[row].tolist(), "predictions": images.predictions[row].tolist()}
                     for images, _ in parts_of(made) for row, name in enumerate(images.names)],
            "examples": {one.kind: [{"name": name, "keys": [one.keys[r] for r in one.rows[row] if r != NONE],
                                     "boxes": one.boxes[row][one.rows[row] != NONE].tolist()} for row, name in enumerate(one.names)]
                         for one in made.examples}}
