"""`chanattr spatial`: words of the command line to one call of `chanattr.runs.spatial.spatial_run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from chanattr.attribution.spatial import check_shares
from chanattr.cli.attribute import tell_bad, tell_summary
from chanattr.cli.spatial_text import spatial_text
from chanattr.cli.words import load, loader_of, question_of, readers_of
from chanattr.errors import InputError
from chanattr.network.zoo import LoadedModel
from chanattr.pictures.pixels import pixels_of
from chanattr.runs.spatial import spatial_run
from chanattr.settings import PERTURBATIONS, PICTURE_AREAS, PICTURE_DRAFT, ExactSearch, PenaltySearch, Search
from chanattr.store import open_run

SEARCHES: dict[str, Search] = {"exact": ExactSearch(), "penalty": PenaltySearch(), "draft": PICTURE_DRAFT,
                                "two-starts": ExactSearch(starts=2, relaxed_steps=70)}
BLACK = "black"  # a colour of pictures, which each model's preprocessing makes its own number of


def run_spatial(options: dict[str, Any]) -> bool:
    """Runs the command; gives whether some images could not be used."""
    question = question_of(options, SEARCHES, "layer", "channel_axis") | {"areas": areas_of(options["areas"])}
    if options["perturbation"] not in (*PERTURBATIONS, BLACK):
        raise InputError(f"--perturbation {options['perturbation']}; expected one of {', '.join((*PERTURBATIONS, BLACK))}; leave it out "
                         "for blur")
    loaded = load(options)
    loader = loader_of(loaded, options["images"], readers=readers_of(options["readers"], loaded.module))
    output: Path = options["output"]
    with open_run(output, "a") as run:
        summary = spatial_run(run, loaded.module, loader, perturbation=perturbation_of(options["perturbation"], loaded), score=loaded.score,
                              name=loaded.name, preprocessing=loaded.preprocessing, class_names=loaded.class_names, **question)
        text = spatial_text(run, next(iter(summary.engines)), options["label"], loader.keys)
    click.echo(f"{text}\n")
    tell_summary(summary, output)
    return tell_bad(loader, summary)


def areas_of(words: str | None) -> tuple[float, ...]:
    """Areas from words such as ``0.05,0.1`` or ``5%,10%``; None is the default.

    Raises:
        InputError: no shares of a picture.
    """
    if words is None:
        return PICTURE_AREAS
    try:
        return check_shares([float(word.strip().removesuffix("%")) / (100 if word.strip().endswith("%") else 1)
                             for word in words.split(",")])
    except (ValueError, InputError):
        raise InputError(f"--areas {words}; expected shares of the picture above 0 and at most 1, such as 0.05,0.1 or 5%,10%; leave it out "
                         f"for {','.join(map(str, PICTURE_AREAS))}") from None


def perturbation_of(words: str, loaded: LoadedModel) -> str | np.ndarray:
    """What lies under masks: a name, or black as the model's preprocessing has it.

    Raises:
        InputError: the preprocessing does not tell what black is.
    """
    if words != BLACK:
        return words
    try:
        pixels = pixels_of(loaded.preprocess)
    except InputError as error:
        raise InputError(f"--perturbation {BLACK}, but what black is to this model cannot be told ({error}); expected a preprocessing that "
                         "subtracts and divides; choose another perturbation") from error
    return np.array([(0 - mean) / std for mean, std in zip(pixels.mean, pixels.std, strict=True)], np.float32)
