"""`chanattr evaluate`: the answers of a run held against the baselines, as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from chanattr.cli.attribute import device_of
from chanattr.cli.evaluation import evaluation_text, keep
from chanattr.cli.trust import model_name, own_rewards
from chanattr.errors import InputError
from chanattr.images import image_loader
from chanattr.network.zoo import load_model
from chanattr.runs.evaluate import evaluate_run
from chanattr.store import open_run


def run_evaluate(*, file: Path, images: Sequence[str], model: str | None, weights: str | None, rewards: Sequence[str],
                 layers: Sequence[str], label: str, methods: Sequence[str], peers: bool, limit: int | None, axis: int | None, seed: int,
                 device: str, as_json: bool) -> None:
    """Evaluates and prints.

    Raises:
        InputError: no images, the file does not say which model it is of, or it names code that the user did not name.
    """
    if not images:
        raise InputError("no IMAGES; expected the pictures of the run; name their folder, or give --pointing for masks on the picture")
    with open_run(file) as run:
        name = model_name(run.attributes.get("model"), model, file)
        chosen = list(layers) or [layer for layer in run.layers if label in run.labels(layer)]
        own = own_rewards((run.per_image(layer, label, rows=[]).settings.reward for layer in chosen), rewards, file)
        loaded = load_model(name, weights=weights, device=device_of(device))
        loader = image_loader(list(images), loaded.preprocess, class_names=loaded.class_names, wordnet_ids=loaded.wordnet_ids)
        found = evaluate_run(run, loaded.module, loader, layers=chosen or None, label=label, methods=list(methods) or None, peers=peers,
                             limit=limit, reward=own, score=loaded.score, channel_axis=axis, seed=seed,
                             progress=not as_json)
    summaries = [one.summary() for one in found.values()]
    click.echo(json.dumps([one.as_dict() for one in summaries], indent=1) if as_json else evaluation_text(summaries))
    with open_run(file, "a") as run:  # after the figures are shown: a file that cannot be written costs nothing but its copy
        keep(run, label, summaries)
