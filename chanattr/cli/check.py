"""`chanattr check` and `chanattr repair`: every fault of a run file in a line, and a new file of what is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from chanattr.errors import InputError
from chanattr.store import Run, open_run
from chanattr.store.salvage import Survey, repair, survey
from chanattr.tables import count


def run_check(file: Path, options: dict[str, Any]) -> bool:
    """Checks a run and prints its faults; gives whether it has some.

    Raises:
        InputError: a model without pictures, or pictures without a model; a reward that is a function and that the user did not name.
    """
    model, images = options["model"], options["images"]
    if bool(images) != bool(model):
        raise InputError(f"{'--images' if images else '--model'} came alone; expected --model and --images together, to score a sample of "
                         "the answers again, or neither; add the other")
    found = survey(file)
    faults, scored = list(found.faults), 0
    if model and not faults:
        with open_run(file) as run:
            wrong, scored = _rescored(run, options)
            faults += wrong
    if options["as_json"]:
        click.echo(json.dumps({"path": str(file), "faults": faults, "images": found.images, "kept": dict(found.kept), "rescored": scored,
                               "content_sha256": found.content_sha256}, indent=1))
        return bool(faults)
    for fault in faults:
        click.echo(f"{file}: {fault}")
    again = f", {count(scored, 'image')} scored again" if scored else ""
    if faults:
        click.echo(f"{count(len(faults), 'fault')}; {_what(found)} whole{again}; 'chanattr repair {file}' keeps those", err=True)
    else:
        click.echo(f"{file} is whole: {_what(found)}{again}; content {found.content_sha256[:16]}")
    return bool(faults)


def run_repair(file: Path, output: Path | None) -> bool:
    """Repairs a run and prints what was lost; gives whether something was."""
    target = output or file.with_name(f"{file.stem}.repaired{file.suffix}")
    found = repair(file, target)
    for fault in found.faults:
        click.echo(f"{file}: {fault}", err=True)
    click.echo(f"wrote {target}: {_what(found)}; {count(len(found.faults), 'fault')}; {file} stays as it is"
               + ("; the command that wrote it, with -o and the new name, searches again what is missing" if found.faults else ""))
    return bool(found.faults)


def _what(found: Survey) -> str:
    rows = ", ".join(f"{where} {number}" for where, number in sorted(found.kept.items()))
    return f"{count(found.images, 'image')}, rows of answers: {rows or 'none'}"


def _rescored(run: Run, options: dict[str, Any]) -> tuple[list[str], int]:
    """What a sample of the answers, evenly over the run's images, differs in from the model, and how many images it has."""
    from chanattr.cli.trust import own_rewards
    from chanattr.cli.words import load, loader_of
    from chanattr.runs.rescore import rescore

    own = own_rewards((run.per_image(layer, label, rows=[]).settings.reward for layer in run.layers for label in run.labels(layer)
                       if run.finished(layer, label)), options["rewards"], run.path)
    loaded, sample = load(options), options["sample"]
    loader = loader_of(loaded, options["images"])
    known = set(run.keys)
    rows = [row for row, key in enumerate(loader.keys) if key in known]
    chosen = [rows[round((number + 0.5) * len(rows) / sample - 0.5)] for number in range(sample)] if len(rows) > sample else rows
    if not chosen:
        raise InputError(f"none of the {len(loader.keys)} pictures is in {run.path}; expected pictures of the run, under the same keys; "
                         "give the folder that the run was made from")
    part = loader.part(chosen)
    wrong = list(rescore(run, loaded.module, part, reward=own, score=loaded.score, channel_axis=options["axis"]))
    return [*wrong, *(f"{path}: {reason}" for path, reason in part.bad)], len(chosen)
