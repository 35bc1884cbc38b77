"""Figures of class sets: their numbers by hand, any number of classes, hostile names, and what is not known told apart from nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import chanattr as ca
from chanattr.evidence.class_records import Specificity
from chanattr.evidence.sets import overlap
from chanattr.pictures.figures import theme
from tests.pictures.fake_run import class_record, image_record, settings

F = ca.figures


@pytest.fixture(scope="module")
def classes() -> ca.ClassAttribution:
    return class_record(image_record())


def matrix(count: int = 3) -> Specificity:
    accuracy = np.eye(count, dtype="f4")
    accuracy[1] = np.nan
    whole = np.full(count, 0.5, "f4")
    return Specificity(layer="layer3", settings=settings("layer3", 256), game="preserve", count=8, source="joint", seed=-1,
                       names=("tench", "<b>monarch</b>", *(f"class {n}" for n in range(2, count))), targets=np.arange(count),
                       sizes=np.full(count, 8), images=np.full(count, 4), accuracy=accuracy, logits=10 * accuracy - 1,
                       original_accuracy=whole, original_logits=4 * whole, random_accuracy=accuracy, random_logits=accuracy)


def test_overlap_matrix_stands_in_the_order_of_its_tree(classes: ca.ClassAttribution) -> None:
    likeness = overlap(classes, 10)
    data = F.overlap_matrix_data(likeness)
    order = [likeness.names.index(name) for name in data.names]
    assert sorted(order) == list(range(6))
    assert np.array_equal(data.jaccard, likeness.jaccard[np.ix_(order, order)])
    assert np.array_equal(data.expected, likeness.expected[np.ix_(order, order)])
    assert data.lines.shape == (5, 4, 2)
    bottoms = data.lines[:, [0, 3]].reshape(-1, 2)
    assert sorted(bottoms[bottoms[:, 1] == 0, 0].tolist()) == [0, 1, 2, 3, 4, 5]  # each class hangs on one line, above its column
    assert (np.diff(data.lines[:, 1, 1]) >= 0).all()


def test_rows_without_a_set_are_left_out(classes: ca.ClassAttribution) -> None:
    few = dataclasses.replace(classes, images=np.array([3, 0, 3, 3, 0, 3], np.int32))
    assert len(F.overlap_matrix_data(overlap(few, 10, source="mean")).names) == 4
    none = dataclasses.replace(classes, images=np.zeros(6, np.int32))
    with pytest.raises(ca.InputError, match="no class has a set; expected one or more; ask"):
        F.overlap_matrix(overlap(none, 10, source="mean"))


def test_specificity_matrix_ends_with_the_whole_network() -> None:
    found = matrix()
    assert np.array_equal(F.specificity_matrix_data(found, "logits").values, found.logits, equal_nan=True)
    figure = F.specificity_matrix(found)
    assert np.array_equal(figure.data[0].z[:3], found.accuracy, equal_nan=True)
    assert figure.data[0].z[3].tolist() == [0.5] * 3
    assert figure.layout.plot_bgcolor == theme.RULE  # shows through where nothing is known
    assert figure.layout.yaxis.ticktext[-1] == "whole network"
    with pytest.raises(ca.InputError, match="figure='best'; expected 'accuracy' or 'logits'"):
        F.specificity_matrix(found, "best")


@pytest.mark.parametrize("count", [1, 2, 6])
def test_figures_of_any_number_of_classes(classes: ca.ClassAttribution, count: int) -> None:
    drawn = F.overlap_matrix(overlap(classes[:count], 10))
    assert len(drawn.data[0].z) == count
    assert "<b>monarch" not in drawn.to_json().replace("\\u003c", "<").replace("&lt;", "")


def test_names_of_many_classes_have_no_room() -> None:
    drawn = F.specificity_matrix(matrix(61))
    assert list(drawn.layout.xaxis.ticktext) == []
    assert "<b>monarch" not in drawn.to_json().replace("\\u003c", "<")
