"""`chanattr bench`: the plain way against ours on the same pictures, in tables or as JSON."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from chanattr.attribution.bench import PROTOCOL, Bench, Way, bench
from chanattr.cli.text import TERMINAL, figure, paragraphs, table
from chanattr.cli.words import load, loader_of
from chanattr.errors import InputError
from chanattr.images import demo_folder
from chanattr.network.layers import describe
from chanattr.network.outputs import device_of as device_of_model
from chanattr.network.zoo import LoadedModel
from chanattr.settings import paper_areas
from chanattr.tables import count

DEFAULT_MODEL, DEFAULT_LAYER = "embedded", "features.12"


def run_bench(options: dict[str, Any]) -> None:
    """Measures and prints."""
    layer = options["layer"] or (DEFAULT_LAYER if options["model"] == DEFAULT_MODEL else "")
    if not layer:
        raise InputError(f"no --layer for {options['model']}; expected one of its layers; 'chanattr layers {options['model']}' lists them")
    loaded = load(options)
    images = pictures(loaded, options["images"] or demo_folder(), options["count"]).to(device_of_model(loaded.module))
    areas = areas_of(options["areas"], loaded, images, layer)
    told = bench(loaded.module, images, layer, areas=areas, plain_images=min(options["plain_images"], len(images)),
                 plain_steps=options["plain_steps"], score=loaded.score, name=loaded.name, progress=not options["as_json"])
    click.echo(json.dumps(told.as_dict(), indent=2) if options["as_json"] else bench_text(told))


def areas_of(words: str, loaded: LoadedModel, images: torch.Tensor, layer: str) -> tuple[int, ...] | None:
    """Areas from words.

    Raises:
        InputError: not 'grid', 'paper' or whole numbers.
    """
    if words == "grid":
        return None
    if words == "paper":
        return paper_areas(describe(loaded.module, images[:2], layer).channels)
    try:
        return tuple(int(word) for word in words.split(","))
    except ValueError:
        raise InputError(f"--areas {words}; expected 'grid', 'paper', or whole numbers of channels such as 1,5,20; a* alone is measured "
                         "too, and needs no areas; leave it out for the grid") from None


def pictures(loaded: LoadedModel, folder: Path, wanted: int) -> torch.Tensor:
    """So many pictures of a folder, of as many of its classes as there are.

    Raises:
        ImageError: none can be read.
    """
    classes = len(np.unique(loader_of(loaded, [str(folder)]).labels))
    chosen = loader_of(loaded, [str(folder)], limit_per_class=-(-wanted // classes))
    chosen.example()  # an error, where none can be read
    return torch.stack([image for batch in chosen for image in batch.images][:wanted])


def bench_text(told: Bench) -> str:
    """The tables, and what is to be known of them."""
    part = "" if told.plain_images == told.images else f" ({told.plain_images} of {told.images} by the plain way)"
    what = f"{told.model} {told.layer}, K = {told.channels}; {count(told.images, 'image')}{part}; {count(len(told.areas), 'area')}, "
    where = f"{told.areas[0]} to {told.areas[-1]}; {told.device}, {count(told.threads, 'thread')}, torch {told.torch}"
    head = textwrap.wrap(what + where, TERMINAL)
    return "\n".join([*head, "", cost_table(told), "", quality_table(told), "", ladder_table(told), "", notes(told)])


def cost_table(told: Bench) -> str:
    """Seconds, evaluations and memory of each way."""
    rows = [(way.name, _seconds(way), f"{told.gain(way):.3g}", f"{way.evaluations:.0f}", f"{way.rate:.3g}", f"{way.peak / 2**20:.0f}")
            for way in told.ways]
    return table(("way", "s an image (each round)", "times", "evaluations", "a second", "peak MiB"), rows)


def quality_table(told: Bench) -> str:
    """Scores and a* of each way, on the images that all did."""
    return table(("way", "score", "share", "a* median", "a* mean", "no a*"), [_quality(way) for way in told.ways])


def _quality(way: Way) -> tuple[str, ...]:
    reached = [area for area in way.smallest if area >= 0]
    figures = (f"{np.median(reached):g}", f"{np.mean(reached):.1f}") if reached else ("-", "-")
    without = f"{len(way.smallest) - len(reached)} of {len(way.smallest)}" if way.smallest else "-"
    return way.name, figure(way.score, 3), figure(way.share, 3), *figures, without


def ladder_table(told: Bench) -> str:
    """The parts of the gain, and their product so far."""
    rows, product = [], 1.0
    for rung in told.rungs:
        product *= rung.ratio
        rows.append((rung.change, f"{rung.ratio:.3g}", f"{product:.3g}"))
    return table(("where it comes from", "times", "so far"), rows)


def notes(told: Bench) -> str:
    """What is to be known of the tables, wrapped."""
    plain = told.ways[0]
    short = "" if told.complete else (f" It ran {told.steps} of its {PROTOCOL} steps: its {plain.mean_seconds:.3g} s an image are of "
                                      f"those, 'times' is reckoned from {told.plain_seconds:.3g} s for all {PROTOCOL}, and it has no "
                                      "answers.")
    peak = "of the device's memory" if told.device.startswith("cuda") else "of the process, with libraries and weights"
    since = ", since it started" if told.peak_of_process else ""
    words = (
        f"plain: the paper's protocol literally: a hook on the whole network, one image at a time, its {count(len(told.areas), 'area')} as "
        f"the batch, the penalty search with {count(told.steps, 'step')}, float32; {told.plain_images} of {told.images} images.{short}",
        f"the others: per_image as it comes ({told.ways[1].engine}), all images in each round, {count(told.batch_size, 'masked image')} at "
        f"once. Not in their seconds: making that way ready (export, cut, fold, check), {told.ready_seconds:.2g} s the first time in a "
        f"process, {told.again_seconds:.2g} s when it is kept.",
        "evaluations: an image; (forwards + 2 backwards) / 3 of one masked image.",
        f"score, share (of the better of plain and ours, image by image and area by area) and a*: over the "
        f"{count(told.plain_images, 'image')} that all did; scores by the hook in float32.",
        f"peak: the most that was held, {peak}{since}.",
        f"what follows the layer, alone in that graph ({count(told.batch_size, 'image')} at once, forward and backward, no masks, no "
        f"search): {told.bare_rate:.3g} evaluations a second{_speed(told)}, of which refine=False keeps {told.bare_share:.0%}.",
        *([f"areas='smallest': a* is 0 for {zeros} of {len(told.ways[-1].smallest)}: the empty set reaches the level there and nothing is "
           "searched, so that its times say little."] if (zeros := sum(area == 0 for area in told.ways[-1].smallest)) else []))
    return paragraphs(words)


def _speed(told: Bench) -> str:
    """What that is in operations: two a multiplication, and a backward pass costs twice a forward one."""
    return f", {6e-9 * told.multiplications * told.bare_rate:.3g} billion operations a second" if told.multiplications else ""


def _seconds(way: Way) -> str:
    """The mean and the range of the rounds, at most 25 letters: a table has 80."""
    figures = way.mean_seconds, min(way.seconds), max(way.seconds)
    mean, least, most = (f"{value:.3g}" if value >= 0.01 else f"{value:.2g}" for value in figures)
    return f"{mean} (one round)" if len(way.seconds) == 1 else f"{mean} ({least}–{most})"
