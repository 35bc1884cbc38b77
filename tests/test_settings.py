"""Settings: what is asked, in text and in one digest; areas."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

import chanattr as ca
from chanattr.arguments import Range, check_number
from chanattr.attribution.perturbation import perturbation_of
from chanattr.attribution.question import Asked, check_areas
from chanattr.picture_settings import CHANNEL, CHANNELS, resolved
from chanattr.pictures.making import noise
from chanattr.settings import LATER_SEARCH, PAPER_AREAS, Settings, area_grid, check_search, paper_areas
from tests.usual import usual

SEARCH = ca.ExactSearch(relaxed_steps=15, binary_steps=25, anneal=0.5, relaxed_rate=0.3, momentum=0.5, memory=0.8, exchange=0.5,
                        exploration=0.4, border=0.0, refine_steps=10, smoothing=0.0, starts=1, hard_every=0, shifts=0, sweeps=0)
PENALTY = ca.PenaltySearch(steps=300, learning_rate=0.01, penalty=1500.0, ramp=150, momentum=0.9, dampening=0.0, start=0.5,
                           reduction="mean", growth=1.0)
PLAIN = usual(layer="features.10", areas=(1, 3, 9), search=SEARCH)
FULL = usual(layer="blocks.3@2", areas=(5,), search=PENALTY, reward="rewards:half", game="dual", fill="values", fill_sha256="ab" * 32,
                level=0.25, refine=False, folds=2, seed=7, score="scores:logits", model="squeezenet é", model_sha256="cd" * 32,
                preprocessing="resize 256; crop 224")
# sha256 of `to_json`: what files in the world are matched by. A change here means that no stored run can be resumed:
#     python -c "from tests.test_settings import PLAIN, FULL; print(PLAIN.digest(), FULL.digest())"
GOLDEN = {
    "plain": (PLAIN, "1344a9e87262fc85fdb2d297598f036b7ba92426d6876a0ff770d3017720c87a"),
    "full": (FULL, "0ba850f6096179e7394643e404ef7d9232fda9abd10d3274c554f87117a0ad35"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_digest_is_stable(name: str) -> None:
    settings, digest = GOLDEN[name]
    assert settings.digest() == digest


def test_the_text_behind_the_digest() -> None:
    assert PLAIN.to_json() == (
        '{"areas":[1,3,9],"fill":"zero","fill_sha256":"","folds":0,"game":"preserve","layer":"features.10","level":"original","model":"",'
        '"model_sha256":"","preprocessing":"","refine":true,"reward":"logit","score":"","search":{"anneal":0.5,'
        '"binary_steps":25,"exchange":0.5,"exploration":0.4,"memory":0.8,"momentum":0.5,"name":"exact","refine_steps":10,'
        '"relaxed_rate":0.3,"relaxed_steps":15},"seed":0}')


def test_a_file_that_names_no_sweeps_was_searched_an_area_at_a_time() -> None:
    walking = dataclasses.replace(PLAIN, search=dataclasses.replace(SEARCH, sweeps=2))
    assert Settings.from_json(PLAIN.to_json()).search.sweeps == 0
    assert json.loads(walking.to_json())["search"]["sweeps"] == 2
    assert Settings.from_json(walking.to_json()) == walking
    assert walking.digest() != PLAIN.digest()


@pytest.mark.parametrize("settings", [PLAIN, FULL, dataclasses.replace(PLAIN, areas=())])
def test_round_trip(settings: Settings) -> None:
    back = Settings.from_json(settings.to_json())
    assert back == settings
    assert back.digest() == settings.digest()
    assert isinstance(back.areas, tuple)
    assert type(back.search) is type(settings.search)


CHANGES: dict[str, Any] = {
    "layer": "features.12", "areas": (1, 3), "search": dataclasses.replace(SEARCH, momentum=0.8), "reward": "contrastive", "game": "delete",
    "fill": "mean", "fill_sha256": "00", "level": 0.5, "refine": False, "folds": 2, "seed": 1, "score": "a:b", "model": "other",
    "model_sha256": "11", "preprocessing": "none", "group": "heads", "groups_sha256": "22", "certify": True,
    "perturbation": "blur", "perturbation_sha256": "33", "levels": 8, "blur": 0.1, "flip": True, "jitter": 0.02, "samples": 2}


def test_every_field_is_tried() -> None:
    assert set(CHANGES) == {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_changes_the_digest_and_is_named_as_different(name: str) -> None:
    other = dataclasses.replace(PLAIN, **{name: CHANGES[name]})
    assert other.digest() != PLAIN.digest()
    [(field, mine, theirs)] = PLAIN.differences(other)
    if name == "search":
        assert (field, mine, theirs) == ("search.momentum", SEARCH.momentum, 0.8)
    else:
        assert field == name
        assert (mine, theirs) == (PLAIN.as_dict().get(name, getattr(PLAIN, name)), other.as_dict()[name])
    assert other.differences(PLAIN) == [(field, theirs, mine)]


def test_equal_settings_do_not_differ() -> None:
    assert PLAIN.differences(Settings.from_json(PLAIN.to_json())) == []


def test_the_two_searches_differ() -> None:
    other = dataclasses.replace(PLAIN, search=PENALTY)
    assert PLAIN.differences(other) == [("search", "exact", "penalty")]


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind, fields in LATER_SEARCH.items() for field in fields])
def test_a_field_that_an_older_search_had_not_is_named_as_different(kind: str, field: str) -> None:
    search = dataclasses.replace({"exact": SEARCH, "penalty": PENALTY}[kind], **LATER_SEARCH[kind])
    older = Settings.from_json(dataclasses.replace(PLAIN, search=search).to_json())
    now = dataclasses.replace(PLAIN, search=dataclasses.replace(search, **{field: 3}))
    assert f'"{field}"' not in older.to_json()
    assert now.differences(older) == [(f"search.{field}", 3, LATER_SEARCH[kind][field])]


def test_as_dict_is_plain_json() -> None:
    assert json.loads(json.dumps(FULL.as_dict())) == FULL.as_dict()


@pytest.mark.parametrize("text", [
    "", "{", "[]", "3", "{}", '{"search": {}}', '{"search": {"name": "exact"}}', PLAIN.to_json().replace('"exact"', '"newest"'),
    PLAIN.to_json().replace('"seed"', '"seed_of_all"'), PLAIN.to_json().replace('"anneal"', '"annealing"'),
    PLAIN.to_json().replace("[1,3,9]", "7"),
])
def test_text_that_is_no_settings_is_refused(text: str) -> None:
    with pytest.raises(ca.InputError, match=r"cannot be read .*; expected the JSON that chanattr wrote; the file may come from a newer"):
        Settings.from_json(text)


@pytest.mark.parametrize("frozen", [PLAIN, SEARCH, PENALTY])
def test_settings_are_frozen(frozen: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign"):
        setattr(frozen, dataclasses.fields(frozen)[0].name, 1)


def test_a_searchs_name_is_not_for_the_caller() -> None:
    with pytest.raises(TypeError, match="name"):
        ca.ExactSearch(name="mine")  # type: ignore[call-arg]


@pytest.mark.parametrize(("channels", "expected"), [
    (1, (1,)), (2, (1, 2)), (8, tuple(range(1, 9))), (64, (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64)),
    (528, (1, 2, 3, 5, 8, 14, 23, 39, 65, 110, 186, 313, 528)), (1280, (1, 2, 3, 6, 11, 20, 36, 65, 118, 214, 388, 705, 1280)),
])
def test_area_grid(channels: int, expected: tuple[int, ...]) -> None:
    assert area_grid(channels) == expected


@pytest.mark.parametrize("channels", [*range(1, 40), 96, 1000, 4096])
def test_a_grid_rises_from_one_to_all(channels: int) -> None:
    for grid in (area_grid(channels), paper_areas(channels)):
        assert (grid[0], grid[-1]) == (1, channels)
        assert list(grid) == sorted(set(grid))
        assert all(type(area) is int for area in grid)
    assert len(area_grid(channels)) <= 13
    assert len(area_grid(channels, 4)) <= 4


def test_paper_areas() -> None:
    assert paper_areas(528) == (*PAPER_AREAS, 528)
    assert len(paper_areas(528)) == 21
    assert paper_areas(1) == (1,)
    assert paper_areas(5) == (1, 5)
    assert paper_areas(6) == (1, 5, 6)
    assert paper_areas(450)[-2:] == (400, 450)


@pytest.mark.parametrize("channels", [0, -3])
def test_no_grid_without_channels(channels: int) -> None:
    with pytest.raises(ca.InputError, match=f"area_grid got {channels} channels; expected a whole number from 1"):
        area_grid(channels)
    with pytest.raises(ca.InputError, match=f"paper_areas got {channels} channels; expected a whole number from 1"):
        paper_areas(channels)


def test_areas_are_sorted_and_said_once() -> None:
    assert check_areas([9, 1, 3, 3], 9) == (1, 3, 9)
    assert check_areas(range(1, 4), 9) == (1, 2, 3)
    assert check_areas(None, 64) == area_grid(64)
    assert check_areas("smallest", 64) == ()


@pytest.mark.parametrize("area", [0, 10, -1, True])
def test_areas_that_are_no_counts_are_refused(area: int) -> None:
    with pytest.raises(ca.InputError, match=f"area {area} for a layer of 9 channels; expected a whole number of channels from 1 to 9"):
        check_areas([2, area], 9)


def test_areas_in_words_are_refused() -> None:
    with pytest.raises(ca.InputError, match="areas='all'; expected a list of whole numbers of channels, None for a grid"):
        check_areas("all", 9)


def test_no_areas_at_all_are_refused() -> None:
    with pytest.raises(ca.InputError, match=r"areas=\[\]; expected a list of whole numbers .*'smallest' for a\* alone"):
        check_areas([], 64)


RANGES = {
    "ExactSearch": {"relaxed_steps": "a whole number from 0", "binary_steps": "a whole number from 1", "anneal": "a number from 0 to 1",
                    "relaxed_rate": "a number above 0", "momentum": "a number from 0, below 1", "memory": "a number from 0, below 1",
                    "exchange": "a number from 0 to 1", "exploration": "a number from 0", "border": "a number from 0",
                    "refine_steps": "a whole number from 1 to 10", "smoothing": "a number from 0",
                    "starts": "a whole number from 1", "hard_every": "a whole number from 0", "shifts": "a whole number from 0 to 31",
                    "sweeps": "a whole number from 0"},
    "PenaltySearch": {"steps": "a whole number from 1", "learning_rate": "a number above 0", "penalty": "a number from 0",
                      "ramp": "a whole number from 0", "momentum": "a number from 0, below 1", "dampening": "a number from 0 to 1",
                      "start": "a number from 0 to 1", "growth": "a number from 1"}}
WRONG = {"a whole number from 0": (-1, 2.5), "a whole number from 1": (0, 1.5), "a whole number from 1 to 10": (0, 11, 2.5),
         "a whole number from 0 to 31": (-1, 32, 2.5),
         "a number above 0": (0, -0.1), "a number from 0": (-1,), "a number from 0 to 1": (-0.1, 1.1, 3),
         "a number from 0, below 1": (1, 5, -1), "a number from 1": (0.9, -1)}
RIGHT = {"a whole number from 0": (0, 7, 2.0), "a whole number from 1": (1, 300), "a whole number from 1 to 10": (1, 10),
         "a whole number from 0 to 31": (0, 31),
         "a number above 0": (1e-9, 4), "a number from 0": (0, 1500), "a number from 0 to 1": (0, 1, 0.5),
         "a number from 0, below 1": (0, 0.999), "a number from 1": (1, 1.0035)}
FIELDS = [(kind, name) for kind, fields in RANGES.items() for name in fields]


def test_every_number_of_a_search_has_a_range() -> None:
    for kind, fields in RANGES.items():
        numbers = {f.name for f in dataclasses.fields(getattr(ca, kind))} - {"name", "reduction"}
        assert set(fields) == numbers


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_numbers_out_of_their_range_are_refused(kind: str, name: str) -> None:
    expected = RANGES[kind][name]
    for value in (*WRONG[expected], float("nan"), float("inf"), True, "1"):
        with pytest.raises(ca.InputError) as caught:
            check_search(getattr(ca, kind)(**{name: value}))
        assert str(caught.value) == f"{kind}({name}={value!r}); expected {expected}; leave it out for the default"


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_numbers_in_their_range_become_plain_ones(kind: str, name: str) -> None:
    expected = RANGES[kind][name]
    for value in RIGHT[expected]:
        found = getattr(check_search(getattr(ca, kind)(**{name: value})), name)
        assert found == value
        assert type(found) is (int if "whole" in expected else float)


def test_numpys_numbers_become_plain_ones() -> None:
    found = check_search(ca.ExactSearch(momentum=np.float32(0.5), binary_steps=np.int64(3)))
    assert (type(found.momentum), type(found.binary_steps)) == (float, int)
    assert dataclasses.replace(PLAIN, search=found).to_json()


@pytest.mark.parametrize("seed", [2**63, 10**400, -1])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    for ask in (lambda: Asked(seed=seed), lambda: perturbation_of("noise", seed=seed),
                lambda: resolved(ca.PictureSettings(seed=seed), CHANNEL, (CHANNELS,))):
        with pytest.raises(ca.InputError, match=r"seed=.*; expected a whole number from 0 to 9.22337e\+18"):
            ask()
    assert noise(1, (1, 2, 2), 2**62).shape == (1, 1, 2, 2)


def test_what_is_not_given_stays_so() -> None:
    assert check_search(ca.ExactSearch()) == ca.ExactSearch()
    assert check_search(ca.PenaltySearch()) == ca.PenaltySearch()


def test_a_range_in_words_and_in_use() -> None:
    assert str(Range(1, 4, whole=True)) == "a whole number from 1 to 4"
    assert check_number("n=4", 4, Range(1, 4, whole=True)) == 4
    with pytest.raises(ca.InputError, match="n=5; expected a whole number from 1 to 4; take fewer"):
        check_number("n=5", 5, Range(1, 4, whole=True), "take fewer")
