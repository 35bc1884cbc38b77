"""`chanattr evaluate`: the answers of a run held against the baselines, or its masks in the pointing game, as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from chanattr.cli.evaluation import evaluation_text, keep
from chanattr.cli.trust import model_of, own_rewards
from chanattr.cli.words import loader_of
from chanattr.errors import InputError
from chanattr.evidence.pointing import SUBSETS, Pointing, pointing_table
from chanattr.images.annotations import load_annotations
from chanattr.runs.evaluate import evaluate_run
from chanattr.runs.pointing import pointing_run
from chanattr.store import open_run


def run_evaluate(file: Path, options: dict[str, Any]) -> None:
    """Evaluates and prints.

    Raises:
        InputError: no images, the file does not say which model it is of, or it names code that the user did not name.
    """
    if not options["images"]:
        raise InputError("no IMAGES; expected the pictures of the run; name their folder, or give --pointing for masks on the picture")
    label = options["label"]
    with open_run(file) as run:
        layers = list(options["layers"]) or [layer for layer in run.layers if label in run.labels(layer)]
        own = own_rewards((run.per_image(layer, label, rows=[]).settings.reward for layer in layers), options["rewards"], file)
        loaded = model_of(run, options)
        found = evaluate_run(run, loaded.module, loader_of(loaded, options["images"]), layers=layers or None, label=label,
                             methods=list(options["methods"]) or None, peers=options["peers"], limit=options["limit"], reward=own,
                             score=loaded.score, channel_axis=options["axis"], seed=options["seed"], progress=not options["as_json"])
    summaries = [one.summary() for one in found.values()]
    click.echo(json.dumps([one.as_dict() for one in summaries], indent=1) if options["as_json"] else evaluation_text(summaries))
    with open_run(file, "a") as run:  # after the figures are shown: a file that cannot be written costs nothing but its copy
        keep(run, label, summaries)


def run_pointing(file: Path, options: dict[str, Any]) -> None:
    """Plays the pointing game with the masks of a run, and with other methods where pictures are given, and prints."""
    methods = list(options["methods"])
    idle = {"--count": options["limit"] is not None, "--peers": options["peers"], "--reward": bool(options["rewards"]),
            "a second --layer": len(options["layers"]) > 1}
    for word in (word for word, given in idle.items() if given):
        raise InputError(f"{word} with --pointing; expected the masks of one layer, over all annotated pictures; leave it out")
    if methods and not options["images"]:
        raise InputError(f"--method {methods[0]} without IMAGES; expected the pictures of the run; name their folder")
    with open_run(file) as run:
        loaded = model_of(run, options)
        boxes = load_annotations(options["pointing"], class_names=loaded.class_names, wordnet_ids=loaded.wordnet_ids)
        found = pointing_run(run, boxes, loaded.preprocess, layer=options["layers"][0] if options["layers"] else ":input",
                             label=options["label"], methods=methods, model=loaded.module if methods else None,
                             loader=loader_of(loaded, options["images"]) if methods else (), score=loaded.score, seed=options["seed"],
                             progress=not options["as_json"])
    figures = {method: _figures(one) for method, one in found.items()}
    click.echo(json.dumps(figures, indent=1) if options["as_json"] else pointing_table(found))


def _figures(found: Pointing) -> dict[str, object]:
    """A method's figures as plain types: by subset, each figure with its interval."""
    lines = {subset: found.figures(subset) for subset in SUBSETS}
    return {subset: {"images": line.images, **{name: list(map(float, getattr(line, name))) for name in line._fields[1:]}}
            for subset, line in lines.items() if line.images}
