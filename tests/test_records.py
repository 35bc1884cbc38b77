"""The frozen results: axes checked, rows chosen and joined, equality, rankings, xarray."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import chanattr as ca
from chanattr.axes import array_axes, concatenate, equal, row_axis
from chanattr.records import ClassAttribution, ImageAttribution
from chanattr.settings import Settings
from tests.store.make import AREAS, CHANNELS, GRID, classes, images, keys, settings

Record = ImageAttribution | ClassAttribution
SIZES = {"N": 6, "A": len(AREAS), "K": CHANNELS, "L": CHANNELS, "C": 3, "h": GRID[0], "w": GRID[1]}
RECORDS: dict[str, Record] = {"images": images(), "classes": classes()}
FIELDS = [(name, field) for name, record in RECORDS.items() for field in array_axes(type(record))]


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_every_array_says_its_axes(record: Record) -> None:
    for field, axes in array_axes(type(record)).items():
        assert getattr(record, field).shape == tuple(SIZES[axis] for axis in axes), field
    arrays = {f.name for f in dataclasses.fields(record) if isinstance(getattr(record, f.name), np.ndarray)}
    assert arrays == set(array_axes(type(record)))


def test_a_class_without_a_smallest_set_has_no_mask_of_it() -> None:
    record = classes()
    lost = dataclasses.replace(record, smallest_area=np.full_like(record.smallest_area, -1), smallest_mask=record.smallest_mask & False)
    for ask in (lost.channels, lost.channel_mask):
        with pytest.raises(ca.InputError, match=r"has no a\* \(-1: -1 not reached, .*; expected one that reaches its level"):
            ask(int(lost.targets[0]), -1)


def test_rows_run_along_images_or_classes() -> None:
    assert [row_axis(type(record)) for record in RECORDS.values()] == ["N", "C"]
    assert [len(record) for record in RECORDS.values()] == [6, 3]


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_an_array_of_another_length_is_refused(name: str, field: str) -> None:
    record: Any = RECORDS[name]
    values = getattr(record, field)
    for axis in range(values.ndim):
        longer = np.concatenate([values, values.take([0], axis)], axis)
        with pytest.raises(ca.InputError, match=r"Attribution\.\w+ has \d+ along [NAKLChw]; expected \d+"):
            dataclasses.replace(record, **{field: longer})


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_an_array_of_other_axes_is_refused(name: str, field: str) -> None:
    record: Any = RECORDS[name]
    axes = " ".join(array_axes(type(record))[field])
    values = getattr(record, field)
    for other in (values[..., None], *([values[0]] if values.ndim > 1 else [])):
        with pytest.raises(ca.InputError, match=rf"Attribution\.{field} has shape \(.*\); expected axes {axes}"):
            dataclasses.replace(record, **{field: other})


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_records_are_frozen_and_said_by_name(record: Record) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="layer"):
        record.layer = "other"  # type: ignore[misc]
    kind: Any = type(record)
    with pytest.raises(TypeError, match="positional"):
        kind("layer", settings())


def check_rows(chosen: Record, record: Record, rows: list[int]) -> None:
    letter, text = (("N", "keys") if isinstance(record, ImageAttribution) else ("C", "names"))
    assert type(chosen) is type(record)
    assert len(chosen) == len(rows)
    assert getattr(chosen, text) == tuple(getattr(record, text)[row] for row in rows)
    for field, axes in array_axes(type(record)).items():
        whole = getattr(record, field)
        np.testing.assert_array_equal(getattr(chosen, field), whole[rows] if axes[0] == letter else whole)
    assert (chosen.layer, chosen.settings, chosen.engine) == (record.layer, record.settings, record.engine)


ROWS: list[tuple[Any, list[int]]] = [
    (1, [1]), (-1, [2]), (slice(0, 2), [0, 1]), (slice(None, None, -1), [2, 1, 0]), ([2, 0], [2, 0]), ([1, 1], [1, 1]),
    (np.array([True, False, True]), [0, 2]), (np.array([2, 1]), [2, 1]), (slice(1, 1), []), (np.zeros(3, bool), [])]


@pytest.mark.parametrize(("rows", "expected"), ROWS, ids=[str(rows) for rows, _ in ROWS])
@pytest.mark.parametrize("record", [images(0, 3), classes()], ids=RECORDS)
def test_rows_are_chosen_in_the_order_given(record: Record, rows: Any, expected: list[int]) -> None:
    check_rows(record[rows], record, expected)


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_no_such_row(record: Record) -> None:
    with pytest.raises(IndexError, match="out of bounds"):
        record[99]


def test_concatenate_joins_what_was_apart() -> None:
    whole = images(0, 6)
    assert equal(concatenate([whole[:2], whole[2:3], whole[3:]]), whole)
    assert equal(concatenate([whole]), whole)
    assert concatenate([whole[4:], whole[:1]]).keys == (*keys(4, 6), *keys(0, 1))
    kinds = classes()
    assert equal(concatenate([kinds[:1], kinds[1:]]), kinds)


def test_concatenate_joins_answers_to_one_question_only() -> None:
    with pytest.raises(ca.InputError, match="concatenate got no records; expected at least one"):
        concatenate([])
    other = dataclasses.replace(images(), settings=settings(seed=3))
    with pytest.raises(ca.InputError, match="records differ in seed: 0 and 3; only answers to one question can be joined"):
        concatenate([images(), images(), other])


def test_equal_is_the_same_question_and_numbers() -> None:
    one = images()
    assert np.isnan(one.smallest_score).any()
    assert equal(one, images())
    assert equal(one, dataclasses.replace(one, engine="injection"))
    assert not equal(one, one[:5])
    assert not equal(one, dataclasses.replace(one, settings=settings(seed=1)))
    assert not equal(one, dataclasses.replace(one, keys=keys(1, 7)))
    assert not equal(classes(), dataclasses.replace(classes(), names=("a", "b", "c")))


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_equal_looks_at_every_number(name: str, field: str) -> None:
    record: Any = RECORDS[name]
    values = getattr(record, field).copy()
    last = (-1,) * values.ndim
    values[last] = ~values[last] if values.dtype == bool else np.nan_to_num(values[last]) + 1
    if field == "groups":
        values = getattr(record, field)[::-1]  # every number must still be there
    assert not equal(record, dataclasses.replace(record, **{field: values}))


def test_channels_of_an_image_are_its_smallest_set() -> None:
    record = images()
    for row in range(len(record)):
        numbers = record.channels(row).tolist()
        assert numbers == sorted(numbers)
        assert set(numbers) == set(np.flatnonzero(record.smallest_mask[row]))
    assert record.channels(0).tolist() == []  # not reached


def test_ranking_is_by_the_area_of_entry_ties_by_number() -> None:
    masks = np.zeros((1, 3, 6), bool)
    masks[0, 0, 4] = True
    masks[0, 1, [1, 2, 4]] = True
    masks[0, 2, [0, 1, 2, 3]] = True  # sets need not be nested: 4 has been in already
    record = images(0, 1, channels=6, areas=(1, 3, 4), masks=masks)
    assert record.ranking(0).tolist() == [4, 1, 2, 0, 3, 5]


def test_ranking_without_areas_begins_with_the_smallest_set() -> None:
    record = images(0, 3, areas=())
    for row in range(3):
        numbers = record.channels(row).tolist()
        rest = [c for c in range(CHANNELS) if c not in numbers]
        assert record.ranking(row).tolist() == numbers + rest
    assert len(record.channels(2)) == 2


def test_channels_of_a_class() -> None:
    record = classes((3, 5, 9), smallest_area=np.array([2, 9, 0], "i4"))
    for row, target in enumerate((3, 5, 9)):
        for column, area in enumerate(AREAS):
            assert record.channels(target, area).tolist() == np.flatnonzero(record.joint_masks[row, column]).tolist()
    assert record.channels(3, 2).tolist() == np.flatnonzero(record.smallest_mask[0]).tolist()


def test_mean_channels_of_a_class_are_by_inclusion_ties_by_number() -> None:
    rate = np.zeros((3, CHANNELS), "f4")
    rate[1, [4, 7, 2]] = 0.5, 1.0, 0.5
    record = classes(mean_mask=rate, images=np.array([0, 2, 1], "i4"))
    assert record.channels(1, 4, source="mean").tolist() == [7, 2, 4, 0]
    assert sorted(record.channels(1, CHANNELS, source="mean")) == list(range(CHANNELS))


@pytest.mark.parametrize("count", [0, -1, CHANNELS + 1])
def test_mean_channels_are_from_one_to_all(count: int) -> None:
    record = classes(images=np.ones(3, "i4"))
    with pytest.raises(ca.InputError, match=f"count={count}; expected a whole number from 1 to {CHANNELS}; ask for so many"):
        record.channels(1, count, source="mean")


def test_a_mean_over_no_image_names_no_channels() -> None:
    record = classes(images=np.array([0, 2, 1], "i4"), mean_mask=np.zeros((3, CHANNELS), "f4"))
    with pytest.raises(ca.InputError, match="source='mean' for class 0, of which no image reaches the level; expected one or more"):
        record.channels(0, 5, source="mean")


@pytest.mark.parametrize(("ask", "message"), [
    ((7, 3), r"class 7 is not in this result; expected one of \[0, 1, 2\]"),
    ((0, 4), r"no joint set of 4 channels for class 0; searched were \[1, 3, 9\] and its a\* 2; use one of these, or source='mean'"),
    ((0, 3, "sum"), "source='sum'; expected 'joint' or 'mean'"),
])
def test_channels_that_a_class_does_not_have(ask: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ca.InputError, match=message):
        classes(smallest_area=np.array([2, 9, 0], "i4")).channels(*ask)


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_to_xarray_holds_every_number(record: Record) -> None:
    pytest.importorskip("xarray")
    data = record.to_xarray()
    rows = "image" if isinstance(record, ImageAttribution) else "class"
    words = {"N": "image", "C": "class", "A": "area", "K": "channel", "L": "channel", "h": "y", "w": "x"}
    for field, axes in array_axes(type(record)).items():
        name = {"areas": "area", "targets": "class" if rows == "class" else "targets"}.get(field, field)
        assert data[name].dims == tuple(words[axis] for axis in axes)
        np.testing.assert_array_equal(data[name].values, getattr(record, field))
    assert data["area"].values.tolist() == list(AREAS)
    assert data["channel"].values.tolist() == list(range(CHANNELS))
    assert Settings.from_json(data.attrs["settings"]) == record.settings
    assert (data.attrs["layer"], data.attrs["engine"]) == (record.layer, record.engine)


def test_xarray_selects_by_key_and_area() -> None:
    pytest.importorskip("xarray")
    record = images()
    found = record.to_xarray().sel(image=record.keys[2], area=3)
    assert float(found["scores"]) == record.scores[2, 1]
    named = classes((3, 5, 9)).to_xarray().sel({"class": 5})
    assert int(named["rows"]) == classes((3, 5, 9)).rows[1]
    assert str(named["name"].values) == "name 5, ñ"


def test_xarray_keeps_the_names_of_classes() -> None:
    pytest.importorskip("xarray")
    record = classes((3, 5, 9))
    data = record.to_xarray()
    assert data["name"].dims == ("class",)
    assert tuple(data["name"].values) == record.names
    assert record[:0].to_xarray()["name"].shape == (0,)
