"""`chanattr demo`: the shipped images through the shipped network, end to end."""

from __future__ import annotations

from pathlib import Path

import click

from chanattr.cli.text import class_table, legend
from chanattr.cli.words import loader_of
from chanattr.errors import InputError
from chanattr.images import demo_folder
from chanattr.network.zoo import load_model
from chanattr.pictures.report import report
from chanattr.runs import attribute
from chanattr.store import open_run

LAYERS = ("features.10", "features.12")
FULL_LAYERS = ("features.7", *LAYERS)
AREAS = (2, 8, 24, 72, 160)
CLASS_AREAS = (8, 24, 72)
PER_CLASS = 4


def run_demo(out: Path, *, full: bool, workers: int) -> None:
    """Makes demo.h5 and demo.html in `out` (with `full` demo-full.h5 and .html, so that both may lie there); prints a table of classes.

    Raises:
        InputError: the folder cannot be made.
    """
    name = "demo-full" if full else "demo"
    path, page = out / f"{name}.h5", out / f"{name}.html"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be made ({error.strerror}); expected a folder or a place for one; pass another") from error
    loaded = load_model("embedded")
    loader = loader_of(loaded, [str(demo_folder())], limit_per_class=None if full else PER_CLASS)
    layers = FULL_LAYERS if full else LAYERS
    click.echo(f"{loaded.name}: which channels of {', '.join(layers)} does it need to see these {len(loader.keys)} images?")
    with open_run(path, "a") as run:
        attribute(run, loaded.module, loader, layers=layers, areas=None if full else AREAS, class_areas=CLASS_AREAS, folds=2,
                  shard_size=8, workers=workers, name=loaded.name, preprocessing=loaded.preprocessing, class_names=loaded.class_names)
    with open_run(path) as run:
        for layer in layers:
            found = run.per_image(layer)
            click.echo(f"\n{layer}: {found.masks.shape[2]} channels\n{class_table(found, run.per_class(layer), run.images().label)}")
        report(run, page)
    click.echo(f"\n{legend()}")
    if not full:
        click.echo(f"\nLeft out to be quick: all but {PER_CLASS} images a class, all but {len(AREAS)} areas, and features.7 "
                   "('chanattr demo --full' does them, in hours, into files of its own).")
    click.echo(f"\n{path.resolve()}   the answers, for h5py, xarray or ca.open_run\n{page.resolve()}   the page: open it in a browser")
