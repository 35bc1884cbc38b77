"""`chanattr invert`: what the activations of a run's images look like, whole and masked, as PNG sheets and a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from chanattr.cli.made import check_folder, file_of, named, opened, ready, settings_of
from chanattr.cli.text import table
from chanattr.pictures.sheet import SheetRow, contact_sheet, save_png
from chanattr.runs.pictures import Inverted, invert_run


def run_invert(file: Path, options: dict[str, Any]) -> None:
    """Makes, writes and prints."""
    settings = settings_of(options, objective=options["objective"])
    with opened(file, options["store"]) as run:
        check_folder(options["output"])
        have = ready(run, options)
        made = invert_run(run, have.loaded.module, have.loader or (), pixels=have.pixels, layers=list(options["layers"]) or None,
                          label=options["label"], keys=list(options["keys"]) or None, limit=options["limit"],
                          area=options["areas"] or None, settings=settings, score=have.loaded.score, channel_axis=options["axis"],
                          progress=not options["as_json"])
    files = {layer: save_png(contact_sheet(sheet_rows(both, have.loaded.class_names)),
                             file_of(options["output"], "inversion", layer, options["label"], options["areas"]))
             for layer, both in made.items()}
    if options["as_json"]:
        click.echo(json.dumps({layer: told(both) | {"file": str(files[layer])} for layer, both in made.items()}, indent=1))
        return
    for layer, both in made.items():
        click.echo(f"{layer}\n{inversion_table(both, have.loaded.class_names)}\nwrote {files[layer]}\n")


def sheet_rows(both: Inverted, names: Sequence[str]) -> list[SheetRow]:
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
             named(int(made.predictions[row]), names),
             "yes" if made.named[row] else "no", f"{made.probability[row]:.3f}")
            for first, key in enumerate(both.whole.keys) for kind, made in zip(("whole", "masked"), both, strict=True)
            for row in range(first, len(made), len(both.whole))]
    return table(("image", "activation", "K", "cosine", "in set", "named", "right", "probability"), rows)


def told(both: Inverted) -> dict[str, Any]:
    """The same for programs."""
    return {"keys": list(both.whole.keys), "settings": json.loads(both.whole.settings.to_json())} | {
        kind: {"keys": list(made.keys), "areas": made.areas.tolist(), "cosine": made.cosine.tolist(),
               "kept_cosine": made.kept_cosine.tolist(), "targets": made.targets.tolist(),
               "predictions": made.predictions.tolist(), "probability": made.probability.tolist()}
        for kind, made in zip(("whole", "masked"), both, strict=True)}
