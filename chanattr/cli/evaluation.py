"""Evaluations as plain text, and where a run file keeps them."""

from __future__ import annotations

from collections.abc import Sequence

import click
import numpy as np

from chanattr.cli.text import figure, paragraphs, table
from chanattr.errors import InputError
from chanattr.evidence.evaluation import Summary
from chanattr.evidence.intervals import Interval
from chanattr.store import Run
from chanattr.tables import count


def keep(run: Run, label: str, summaries: Sequence[Summary]) -> None:
    """Writes tables into a run's attributes, beside those of other layers and labels; an older one of the same is replaced."""
    held = run.attributes.get("evaluations", {})
    for one in summaries:
        held.setdefault(one.layer, {})[label] = one.as_dict()
    run.set_attributes(evaluations=held)


def kept(run: Run) -> list[Summary]:
    """The tables that a run holds, in the order of its layers; one that cannot be read (of another version) is said and passed over."""
    held = run.attributes.get("evaluations", {})
    found = []
    for layer, labels in held.items() if isinstance(held, dict) else ():
        for label, one in labels.items() if isinstance(labels, dict) else ():
            try:
                found.append(Summary.from_dict(one))
            except InputError as error:
                click.echo(f"{layer} ({label}): {error}", err=True)
    return sorted(found, key=lambda one: run.layers.index(one.layer) if one.layer in run.layers else len(run.layers))


def evaluation_text(found: Sequence[Summary]) -> str:
    """A table a layer, what its columns are, and the layers beside one another where there are several."""
    parts = [layer_text(one) for one in found]
    return "\n\n".join([*parts, *([depth_text(found)] if len(found) > 1 else []), legend(found[0])])


def layer_text(one: Summary) -> str:
    """The methods at one layer."""
    rows = [(line.method, _with_range(line.share, 3), _with_range(line.behind, 2) if number else "-", _with_range(line.smallest, 1),
             figure(line.deletion.value, 1), figure(line.evaluations, 0), figure(line.seconds, 2))
            for number, line in enumerate(one.lines)]
    areas = count(len(one.areas), "area") + (f", {one.areas[0]} to {one.areas[-1]}" if one.areas else "")
    head = f"{one.layer}: {count(one.images, 'image')}, {areas} {one.unit}; {one.question['reward']}, {one.question['game']}"
    return f"{head}\n" + table(("method", "share", "behind", "a*", "lost at", "evals", "s"), rows) + _part(one)


def _part(one: Summary) -> str:
    """What is to be said where a* or the deletion area is not over all images."""
    needed, lost = one.lines[0].images
    if (needed, lost) == (one.images, one.images):
        return ""
    return f"\na* is over {needed} of {count(one.images, 'image')}, 'lost at' over {lost}: those where every method has one"


def depth_text(found: Sequence[Summary]) -> str:
    """a* by layer, in the order of the run, also as a share of all entries of a mask."""
    rows = []
    for one in found:
        line = one.lines[0]
        share = line.smallest.value / one.entries
        rows.append((one.layer, one.entries, _with_range(line.smallest, 1), figure(share, 3), figure(line.deletion.value, 1)))
    return f"{found[0].lines[0].method}, layer by layer\n" + table(("layer", "K", "a*", "a* / K", "lost at"), rows)


def legend(one: Summary) -> str:
    """What the columns of `layer_text` are."""
    first = one.lines[0].method
    words = (
        "share: of what the best of these methods gains on selecting nothing, image by image and area by area, summed over both. ±: half "
        "of a 95 % bootstrap interval over images (--json has its ends).",
        f"behind: mean score that {first} is ahead. a*: fewest {one.unit} found that reach the level. lost at: fewest whose removal loses "
        "the target as top class. evals, s: evaluations and seconds an image, for the sets of all areas (those of "
        "the search are not in the file).",
        f"{first} is the search of the file; the others rank all {one.unit}, and their sets are the first of that order. "
        "shapley and banzhaf cost hundreds to thousands of evaluations: --method names them.")
    return paragraphs(words)


def _with_range(interval: Interval, digits: int) -> str:
    half = f" ±{(interval.high - interval.low) / 2:.{digits}f}" if np.isfinite(interval.value) else ""
    return figure(interval.value, digits) + half
