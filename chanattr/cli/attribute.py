"""`chanattr attribute`: words of the command line to one call of `chanattr.runs.attribute`."""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path
from typing import Any

import click

from chanattr.attribution.question import family_of
from chanattr.cli.command import EXIT_ERROR, EXIT_SOME_BAD
from chanattr.cli.logs import check_summary, is_json, progress_lines, say, write_summary
from chanattr.cli.words import fill_of, group_of, load, loader_of, question_of, readers_of, shard_of, workers_of
from chanattr.errors import InputError
from chanattr.images import ImageLoader
from chanattr.network.layers import describe
from chanattr.network.outputs import device_of as device_of_model
from chanattr.network.zoo import LoadedModel
from chanattr.runs import RunSummary, attribute
from chanattr.search.groups import Group
from chanattr.settings import ExactSearch, PenaltySearch, Search, area_grid, paper_areas
from chanattr.store import open_run
from chanattr.tables import count

SEARCHES: dict[str, Search] = {"exact": ExactSearch(), "penalty": PenaltySearch()}


def run_attribute(options: dict[str, Any]) -> bool:
    """Runs the command; gives whether some images could not be used."""
    output: Path = options["output"]
    if options["summary"]:
        check_summary(options["summary"], output)
    question = question_of(options, SEARCHES, "classes", "memory_budget", "certify") | {
        "workers": workers_of(options["workers"]), "shard": shard_of(options["shard"]), "group": group_of(options["group"]),
        "fill": fill_of(options["fill"])}
    loaded = load(options)
    loader = loader_of(loaded, options["images"], readers=readers_of(options["readers"], loaded.module))
    layers, axis = list(options["layers_"]), options["channel_axis"]
    areas = {name: layer_areas(options["areas"], loaded, loader, name, axis, question["group"]) for name in layers}
    with open_run(output, "a") as run:
        summary = attribute(run, loaded.module, loader, layers=layers, areas=areas, channel_axis=axis, score=loaded.score, name=loaded.name,
                            preprocessing=loaded.preprocessing, class_names=loaded.class_names, progress=progress_lines(), **question)
        complete = bool(run.summary()["complete"])
    about = summary_of(loader, summary, output, complete)
    try:
        if options["summary"]:
            write_summary(options["summary"], about)
    except InputError:
        about["exit_code"] = EXIT_ERROR
        raise
    finally:
        if is_json():
            click.echo(json.dumps({"event": "summary", **about}))
        else:
            tell_summary(summary, output)
    for number, one in enumerate(summary.workers):
        say(f"worker {number}: {one}", "worker", logging.INFO, worker=number, **one.as_dict())
    return tell_bad(loader, summary)


def summary_of(loader: ImageLoader, summary: RunSummary, output: Path, complete: bool) -> dict[str, Any]:
    """What one call did, in JSON types."""
    bad = [{"image": name, "reason": reason} for name, reason in [*loader.bad, *summary.bad]]
    return {"output": str(output), "searched": summary.images, "skipped": summary.skipped, "classes": dict(summary.classes),
            "engines": dict(summary.engines), "seconds": round(summary.seconds, 3), "bad": bad, "complete": complete,
            "workers": [one.as_dict() for one in summary.workers], "exit_code": EXIT_SOME_BAD if bad else 0}


def tell_summary(summary: RunSummary, output: Path) -> None:
    """What was done, in a few lines."""
    skipped = f", {summary.skipped} were there already" if summary.skipped else ""
    click.echo(f"{count(summary.images, 'image')} searched{skipped}; {summary.seconds:.0f} s; wrote {output}")
    for layer, engine in summary.engines.items():
        click.echo(f"  {layer}: {engine}")
    click.echo(f"to see it: chanattr report {shlex.quote(str(output))}")


def tell_bad(loader: ImageLoader, summary: RunSummary) -> bool:
    """Names the images that could not be read, or have no finite scores; gives whether there are some."""
    for name, reason in [*loader.bad, *summary.bad]:
        say(f"skipped {name}: {reason}", "skipped", image=name, reason=reason)
    for bad, what in ((loader.bad, "be read"), (summary.bad, "be searched")):
        if bad:
            say(f"{count(len(bad), 'image')} could not {what}: not in the file", "bad", count=len(bad))
    return bool(loader.bad or summary.bad)


def layer_areas(words: str, loaded: LoadedModel, loader: ImageLoader, layer: str, axis: int | None,
                group: Group) -> tuple[int, ...] | str:
    """Areas of one layer from words; counts over K are dropped with a notice.

    Raises:
        InputError: not 'grid', 'paper', 'smallest' or whole numbers from 1.
    """
    if words == "smallest":
        return words
    found = describe(loaded.module, loader.example().to(device_of_model(loaded.module)), layer, channel_axis=axis)
    family = family_of(group, loaded.module, found)
    channels, unit = family.size, family.unit
    if words in ("grid", "paper"):
        return {"grid": area_grid, "paper": paper_areas}[words](channels)
    try:
        counts = [int(word) for word in words.split(",")]
    except ValueError:
        raise InputError(f"--areas {words}; expected 'grid', 'paper', 'smallest', or whole numbers of {unit} such as 1,5,20") from None
    fitting = tuple(count for count in counts if count <= channels)
    if not fitting or min(fitting) < 1:
        raise InputError(f"--areas {words} for {layer}, which has {channels} {unit}; expected whole numbers from 1 to {channels}; "
                         "leave it out for a grid over all of them")
    if len(fitting) < len(counts):
        say(f"{layer} has {channels} {unit}: areas over that are dropped")
    return fitting
