"""What public functions, records and the command line take: defaults are the same everywhere, and what is many is named."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import chanattr as ca
from chanattr import settings
from chanattr.attribution.question import Asked
from chanattr.cli import main
from chanattr.evidence.class_records import HeldOut, Specificity
from chanattr.picture_settings import PictureSettings
from chanattr.search.objective import REWARD_FUNCTIONS
from chanattr.store import Run

# What each setting is where nobody says. Elsewhere None is "that of the answers at hand", or "found out".
USUAL: dict[str, Any] = {
    "reward": settings.REWARDS[0], "game": settings.GAMES[0], "fill": settings.FILLS[0], "perturbation": settings.PERTURBATIONS[0],
    "precision": settings.PRECISIONS[0], "engine": "auto", "seed": settings.SEED, "label": settings.LABEL, "group": "", "level": None,
    "refine": None, "search": None, "score": None, "certify": False, "channel_axis": None, "memory_budget": None, "batch_size": None,
    "jitter": 0.0, "samples": None, "flip": None, "resume": True, "shard_size": None, "name": "", "preprocessing": "", "class_names": (),
    "folds": 2,
}
# Each with its reason.
OTHERWISE: dict[str, Any] = {
    "certify reward": None, "curves reward": None, "evaluate reward": None, "evaluate_run reward": None, "examples reward": None,
    "visualise_run reward": None, "curves fill": None,  # the answers' own
    "inject fill": 0.0,  # a number: no layer is looked at
    "specificity seed": None,  # random sets are drawn only with one
    "image_loader batch_size": 16,  # of pictures, not of masked ones
    "PictureSettings jitter": None,  # of pictures that are made, in pixels
    "Pointing.table name": "heat",  # of a method
    "Asked folds": 0,  # only classes have some
}
# Commands and what each calls; words of the command line that mean what a function's default is.
CALLS: dict[str, Callable[..., Any]] = {"attribute": ca.attribute, "spatial": ca.spatial_run, "evaluate": ca.evaluate_run,
                                        "invert": ca.invert_run, "visualise": ca.visualise_run, "layers": ca.explain}
WORDS = {("attribute", "areas"): ("grid", None), ("attribute", "workers"): ("0", 0), ("spatial", "areas"): (None, settings.PICTURE_AREAS)}


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    for prefix, room in (("", ca), ("figures.", ca.figures)):
        yield from ((prefix + name, getattr(room, name)) for name in room.__all__ if inspect.isfunction(getattr(room, name)))


def public_methods() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Of public classes, of runs and of what public functions give."""
    for one in {*(getattr(ca, name) for name in ca.__all__ if inspect.isclass(getattr(ca, name))), Run, HeldOut, Specificity}:
        for name, method in inspect.getmembers(one, inspect.isfunction):
            if not name.startswith("_"):
                yield f"{one.__name__}.{name}", method


def options(command: click.Command) -> dict[str, Any]:
    """What each option is where it is not given."""
    ctx = click.Context(command)
    found = {one.name: one.get_default(ctx) for one in command.params if isinstance(one, click.Option) and not one.multiple}
    return {name: None if repr(value).startswith("Sentinel") else value for name, value in found.items() if name is not None}


def defaults() -> Iterator[tuple[str, str, Any]]:
    """Where, of what, and which."""
    for where, function in (*public_functions(), *public_methods()):
        given = inspect.signature(function).parameters.values()
        yield from ((where, one.name, one.default) for one in given if one.default is not one.empty)
    for record in (Asked, PictureSettings):
        fields = dataclasses.fields(record)
        yield from ((record.__name__, one.name, one.default) for one in fields if one.default is not dataclasses.MISSING)
    for name, command in main.commands.items():
        yield from ((f"chanattr {name}", option, value) for option, value in options(command).items())


def differing() -> set[str]:
    """Defaults that are not what they are elsewhere."""
    found = {(f"{where} {name}", name, value) for where, name, value in defaults() if name in USUAL}
    return {f"{place}={value!r}" for place, name, value in found if value != OTHERWISE.get(place, USUAL[name])}


def unlike() -> set[str]:
    """Options whose default is not that of what the command calls."""
    found = set()
    for name, function in CALLS.items():
        signature = inspect.signature(function).parameters
        for option, value in options(main.commands[name]).items():
            if option in signature and signature[option].default is not inspect.Parameter.empty:
                mine, theirs = WORDS.get((name, option), (value, value))
                if (value, signature[option].default) != (mine, theirs):
                    found.add(f"{name} {option}")
    return found


def test_a_setting_has_one_default_everywhere() -> None:
    assert differing() == set()
    assert len([name for _, name, _ in defaults() if name in USUAL]) > 150  # it looks


def test_a_command_has_the_defaults_of_what_it_calls() -> None:
    assert unlike() == set()


def test_a_default_that_differs_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(inspect.unwrap(ca.per_class).__kwdefaults__, "game", "dual")
    option = next(one for one in main.commands["spatial"].params if one.name == "label")
    monkeypatch.setattr(option, "default", "other")
    limit = next(one for one in main.commands["invert"].params if one.name == "limit")
    monkeypatch.setattr(limit, "default", 7)
    assert differing() == {"per_class game='dual'", "chanattr spatial label='other'"}
    assert unlike() == {"spatial label", "invert limit"}


def test_what_is_said_of_defaults_otherwise_is_still_so() -> None:
    there = {f"{where} {name}": value for where, name, value in defaults()}
    assert {place: there.get(place, "nowhere") for place in OTHERWISE} == OTHERWISE


def test_areas_are_those_of_the_kind_of_mask() -> None:
    shares = {"spatial", "spatial_run"}
    for where, name, value in defaults():
        if name == "areas" and where in dict(public_functions()):
            assert value == (settings.PICTURE_AREAS if where in shares else None), where


def test_a_game_has_a_level_and_a_reward_a_name() -> None:
    assert tuple(settings.LEVELS) == settings.GAMES
    assert tuple(REWARD_FUNCTIONS) == settings.REWARDS


def test_at_most_three_arguments_come_by_place() -> None:
    for name, function in (*public_functions(), *public_methods()):
        given = inspect.signature(function).parameters.values()
        assert len([one for one in given if one.kind is one.POSITIONAL_OR_KEYWORD and one.name != "self"]) <= 3, name


def test_every_argument_of_every_function_is_taken_or_refused_in_words() -> None:
    """Each is given something of no kind, a number and a text; tests/kinds.py says what led to another error than one of ours."""
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-m", "tests.kinds"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}
