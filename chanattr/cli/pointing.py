"""`chanattr evaluate --pointing`: the masks of a run in the pointing game, as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from chanattr.cli.attribute import device_of
from chanattr.cli.trust import model_name
from chanattr.errors import InputError
from chanattr.evidence.pointing import SUBSETS, Pointing, pointing_table
from chanattr.images import image_loader
from chanattr.images.annotations import load_annotations
from chanattr.network.zoo import load_model
from chanattr.runs.pointing import pointing_run
from chanattr.store import open_run


def run_pointing(*, file: Path, images: Sequence[str], annotations: Path, model: str | None, weights: str | None, layers: Sequence[str],
                 label: str, methods: Sequence[str], seed: int, device: str, as_json: bool) -> None:
    """Plays the game with the masks of a run, and with other methods where pictures are given, and prints."""
    if methods and not images:
        raise InputError(f"--method {methods[0]} without IMAGES; expected the pictures of the run; name their folder")
    with open_run(file) as run:
        loaded = load_model(model_name(run.attributes.get("model"), model, file), weights=weights, device=device_of(device))
        told = load_annotations(annotations, class_names=loaded.class_names, wordnet_ids=loaded.wordnet_ids)
        loader = image_loader(list(images), loaded.preprocess, class_names=loaded.class_names, wordnet_ids=loaded.wordnet_ids) \
            if methods else ()
        found = pointing_run(run, told, loaded.preprocess, layer=layers[0] if layers else ":input", label=label, methods=list(methods),
                             model=loaded.module if methods else None, loader=loader, score=loaded.score, seed=seed, progress=not as_json)
    click.echo(json.dumps({method: _figures(one) for method, one in found.items()}, indent=1) if as_json else pointing_table(found))


def _figures(found: Pointing) -> dict[str, object]:
    """A method's figures as plain types: by subset, each figure with its interval."""
    lines = {subset: found.figures(subset) for subset in SUBSETS}
    return {subset: {"images": line.images, **{name: list(map(float, getattr(line, name))) for name in line._fields[1:]}}
            for subset, line in lines.items() if line.images}
