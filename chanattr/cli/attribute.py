"""`chanattr attribute`: words of the command line to one call of `chanattr.runs.attribute`."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from chanattr.attribution.question import family_of
from chanattr.cli.command import EXIT_ERROR, EXIT_SOME_BAD
from chanattr.cli.logs import check_summary, is_json, progress_lines, say, write_summary
from chanattr.errors import InputError, first_line
from chanattr.images import ImageLoader, image_loader
from chanattr.network.layers import describe
from chanattr.network.outputs import device_of as device_of_model
from chanattr.network.zoo import LoadedModel, load_function, load_model
from chanattr.runs import RunSummary, attribute
from chanattr.runs.cluster import cluster_of
from chanattr.search.groups import Group
from chanattr.settings import ExactSearch, PenaltySearch, Search, area_grid, paper_areas
from chanattr.store import open_run
from chanattr.tables import count

SEARCHES: dict[str, Search] = {"exact": ExactSearch(), "penalty": PenaltySearch(), "borderless": ExactSearch(border=0),
                                "apart": ExactSearch(sweeps=0, border=0)}


def run_attribute(options: dict[str, Any]) -> int:
    """Runs the command; gives the number of images that could not be used."""
    output: Path = options["output"]
    if options["summary"]:
        check_summary(options["summary"], output)
    question = question_of(options)
    loaded = load_model(options["model"], weights=options["weights"], device=device_of(options["device"]))
    loader = image_loader(list(options["images"]), loaded.preprocess, class_names=loaded.class_names, wordnet_ids=loaded.wordnet_ids,
                          readers=readers_of(options["readers"], device_of_model(loaded.module)))
    layers, axis = list(options["layers_"]), options["channel_axis"]
    areas = {name: layer_areas(options["areas"], loaded, loader, name, axis, question["group"]) for name in layers}
    with open_run(output, "a") as run:
        summary = attribute(run, loaded.module, loader, layers, areas=areas, channel_axis=axis, score=loaded.score, name=loaded.name,
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
    tell_workers(summary)
    return tell_bad(loader, summary)


def summary_of(loader: ImageLoader, summary: RunSummary, output: Path, complete: bool) -> dict[str, Any]:
    """What one call did, in JSON types."""
    bad = [{"image": name, "reason": reason} for name, reason in [*loader.bad, *summary.bad]]
    return {"output": str(output), "searched": summary.images, "skipped": summary.skipped, "classes": dict(summary.classes),
            "engines": dict(summary.engines), "seconds": round(summary.seconds, 3), "bad": bad, "complete": complete,
            "workers": [one.as_dict() for one in summary.workers],
            "exit_code": EXIT_SOME_BAD if bad else 0}


def question_of(options: dict[str, Any]) -> dict[str, Any]:
    """What needs neither model nor images, as `attribute` takes it; wrong words are refused here, before anything is loaded.

    Raises:
        InputError: so; names the option.
    """
    if options["search_"] not in SEARCHES:
        raise InputError(f"--search {options['search_']}; expected {', '.join(SEARCHES)}; leave it out for exact")
    same = ("game", "refine", "classes", "label", "seed", "batch_size", "precision", "memory_budget", "certify", "resume")
    return {name: options[name] for name in same} | {
        "workers": workers_of(options["workers"]), "shard": shard_of(options["shard"]), "targets": targets_of(options["targets"]),
        "search": SEARCHES[options["search_"]], "reward": reward_of(options["reward"]),
        "group": group_of(options["group"]), "fill": fill_of(options["fill"]), "level": level_of(options["level"])}


def workers_of(words: str) -> int | str:
    """A number of processes, or words for Ray.

    Raises:
        InputError: neither.
    """
    if words.isascii() and words.isdigit():
        return int(words)
    cluster_of(words)
    return words


def shard_of(words: str | None) -> tuple[int, int] | None:
    """(i, n) from ``i/n``.

    Raises:
        InputError: no such words.
    """
    if words is None:
        return None
    number, _, count = words.partition("/")
    if not (number.isascii() and number.isdigit() and count.isascii() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise InputError(f"--shard {words}; expected I/N with I from 1 to N, such as 1/8; count from 1")
    return int(number), int(count)


def tell_summary(summary: RunSummary, output: Path) -> None:
    """What was done, in a few lines."""
    skipped = f", {summary.skipped} were there already" if summary.skipped else ""
    click.echo(f"{count(summary.images, 'image')} searched{skipped}; {summary.seconds:.0f} s; wrote {output}")
    for layer, engine in summary.engines.items():
        click.echo(f"  {layer}: {engine}")
    click.echo(f"to see it: chanattr report {shlex.quote(str(output))}")


def tell_workers(summary: RunSummary) -> None:
    """A line for each worker: what it did, and how fast."""
    for number, one in enumerate(summary.workers):
        say(f"worker {number}: {one}", "worker", logging.INFO, worker=number, **one.as_dict())


def tell_bad(loader: ImageLoader, summary: RunSummary) -> int:
    """Names the images that could not be read, or have no finite scores; gives their number."""
    for name, reason in [*loader.bad, *summary.bad]:
        say(f"skipped {name}: {reason}", "skipped", image=name, reason=reason)
    for bad, what in ((loader.bad, "be read"), (summary.bad, "be searched")):
        if bad:
            say(f"{count(len(bad), 'image')} could not {what}: not in the file", "bad", count=len(bad))
    return len(loader.bad) + len(summary.bad)


def device_of(name: str) -> str:
    """A device by name; "auto" is the first accelerator, else the CPU.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).tolist()  # not every device of torch can compute: "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name} cannot be used ({first_line(error)}); expected a device of this machine; leave it out for "
                         "'auto'") from error
    return name


def readers_of(asked: int | None, device: torch.device) -> int:
    """Processes that read pictures: as asked, or one a core, at most 8, beside an accelerator; a CPU has no core to spare."""
    if asked is not None:
        return asked
    return 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)


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


def targets_of(words: str) -> str | int:
    """'predicted', 'label' or a class number.

    Raises:
        InputError: none of these.
    """
    if words in ("predicted", "label"):
        return words
    if not (words.isascii() and words.isdigit()):
        raise InputError(f"--targets {words}; expected 'predicted', 'label' or a class number from 0; leave it out for 'predicted'")
    return int(words)


def group_of(words: str) -> Group:
    """'', 'heads', channels a group, or the user's own ``file.py:function`` of the number of channels.

    Raises:
        InputError: none of these.
    """
    if words in ("", "heads"):
        return words
    if ":" in words:
        return load_function(words)
    if not (words.isascii() and words.isdigit() and int(words)):
        raise InputError(f"--group {words}; expected 'heads', a whole number of channels a group, or file.py:function; "
                         "leave it out for single channels")
    return int(words)


def level_of(words: str | None) -> str | float | None:
    """A level from words: a name, or a fraction."""
    if words is None or words in ("original", "top1"):
        return words
    try:
        return float(words)
    except ValueError:
        raise InputError(f"--level {words}; expected 'original', 'top1' or a fraction from 0 to 1") from None


def fill_of(words: str) -> Any:
    """A fill from words: a name, a number, or the path of a .npy file of K values."""
    if words.endswith(".npy"):
        import numpy as np

        try:
            return np.load(words, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"--fill {words} cannot be read ({error}); expected K numbers saved by numpy.save") from error
    try:
        return float(words)
    except ValueError:
        return words


def reward_of(words: str) -> str | Callable[..., Any]:
    """A reward by name, or the user's own ``file.py:function``."""
    return load_function(words) if ":" in words else words
