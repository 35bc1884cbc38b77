from __future__ import annotations

import numpy as np
import pytest
import torch

import chanattr as ca
from chanattr.search.family import Channels
from chanattr.search.groups import Groups, groups_of

GIVEN = [2, 0, 1, 1, 0, 2, 2]
AREAS = torch.tensor([1, 2, 3])


def test_a_group_is_to_the_search_what_a_channel_is() -> None:
    family, entries = groups_of(GIVEN, 7, "mix"), Channels(3)
    values = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    assert family.size == entries.size
    torch.testing.assert_close(family.project(values, AREAS), entries.project(values, AREAS))
    assert torch.equal(family.binary(values, AREAS), entries.binary(values, AREAS))
    assert torch.equal(family.finish(values, AREAS), entries.finish(values, AREAS))
    assert torch.equal(family.every(2, 10), entries.every(2, 10))
    assert torch.equal(family.start(2, device=torch.device("cpu")), torch.ones(2, 3))
    assert family.smooth_gradient(values, 0.5) is values
    assert family.resolve(ca.ExactSearch()) == entries.resolve(ca.ExactSearch())


@pytest.mark.parametrize("group", [GIVEN, tuple(GIVEN), np.array(GIVEN, np.int16), torch.tensor(GIVEN)], ids=lambda g: type(g).__name__)
def test_spread_selects_whole_groups_and_sums_slopes(group: object) -> None:
    family = groups_of(group, 7, "mix")
    masks = family.binary(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)), AREAS).float().requires_grad_()
    spread = family.spread(masks)
    assert spread.tolist() == [[row[g] for g in GIVEN] for row in masks.tolist()]
    weights = torch.arange(7.0)
    (slopes,) = torch.autograd.grad((spread * weights).sum(), masks)
    assert slopes.tolist() == [[1 + 4, 2 + 3, 0 + 5 + 6]] * 3


def test_a_width_is_channels_in_order() -> None:
    assert groups_of(3, 6, "mix").groups.tolist() == [0, 0, 0, 1, 1, 1]
    heads = Groups.consecutive(2, 6, "heads")
    assert (heads.name, heads.unit, heads.size) == ("heads", "heads", 3)
    assert heads.sha256 == groups_of([0, 0, 1, 1, 2, 2], 6, "mix").sha256 != groups_of([1, 1, 0, 0, 2, 2], 6, "mix").sha256


WRONG = [4, 0, -1, True, 2.0, "head", None, [0, 1], [0, 0, 2, 2, 3, 3], [1, 1, 2, 2, 3, 3], [0.0] * 6, [[0] * 6], [-1, 0, 0, 0, 0, 0],
         [0, "a", 1, 1, 1, 1], [[0], [1, 2]]]


@pytest.mark.parametrize("group", WRONG, ids=str)
def test_what_is_no_grouping_is_refused(group: object) -> None:
    with pytest.raises(ca.InputError, match=r"group(=| has the numbers).*; expected 'heads', a divisor of 6 .*; leave it out for single"):
        groups_of(group, 6, "mix")
