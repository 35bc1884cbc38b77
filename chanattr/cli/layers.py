"""`chanattr layers`: the layers of a model, or a dry run of a question about one of them."""

from __future__ import annotations

from typing import Any

import click

from chanattr.attribution.explain import explain
from chanattr.cli.attribute import device_of
from chanattr.cli.text import layer_table
from chanattr.images import example_image
from chanattr.network.layers import layers
from chanattr.network.zoo import load_model


def run_layers(options: dict[str, Any]) -> None:
    """Prints the table, or with ``explain`` what a mask at that layer means and would cost."""
    device = device_of(options["device"])  # a wrong word is refused also where the table does not need it
    loaded = load_model(options["model"], weights=options["weights"], device=device if options["explain"] else "cpu")
    example = example_image(loaded.preprocess)
    if not options["explain"]:
        click.echo(layer_table(layers(loaded.module, example)))
        return
    click.echo(explain(loaded.module, example.to(device), options["explain"], images=options["images"],
                       score=loaded.score))
