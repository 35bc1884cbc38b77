"""The figure of a sanity check: means per depth, the chance level, and where the layer is passed."""

from __future__ import annotations

import numpy as np
import pytest

from chanattr.evidence.randomised import Sanity
from chanattr.pictures import figures


def told(rank: float = 0.1) -> Sanity:
    jaccard = np.array([1.0, 0.4, 0.2])[:, None, None] * np.ones((3, 2, 2))
    return Sanity(layer="a<b", random=("", "head", "body"), depth=np.array([0, 1, 3], np.int32), after=np.array([True, True, False]),
                  jaccard=jaccard, chance=np.full((3, 2, 2), 0.15), rank=np.array([[1, 1], [0.5, np.nan], [rank, rank]]),
                  similarity=np.array([1, 0.3, 0.05]), limit=0.5, verdict="passes")


def test_numbers_are_means_of_what_is_known() -> None:
    data = figures.sanity_data(told(np.nan))
    assert data.jaccard.tolist() == pytest.approx([1, 0.4, 0.2])
    assert data.chance.tolist() == pytest.approx([0.15] * 3)
    np.testing.assert_array_equal(data.rank, [1, 0.5, np.nan])
    assert data.border == 1


def test_the_chance_level_is_drawn_and_names_are_escaped() -> None:
    figure = figures.sanity(told())
    assert [trace.name for trace in figure.data] == ["overlap (Jaccard)", "rank correlation of the order", "overlap of random sets"]
    assert list(figure.data[2].y) == pytest.approx([0.15] * 3)
    assert figure.data[2].line.dash == "dash"
    assert "a&lt;b" in figure.to_json() or "a\\u0026lt;b" in figure.to_json()
    assert figure.layout.shapes[0].x0 == 1
