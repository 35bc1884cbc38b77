"""Class questions: the paper's mean of a* masks, joint sets on the mean reward, scores on held-out images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import chanattr as ca
from chanattr.attribution.classes import fold_members
from tests.models import Plain, images, seeded

LABELS = [2, 0, 2, 0, 2, 1]


def classes(**options: object) -> ca.ClassAttribution:
    return ca.per_class(seeded(Plain), images(6), "mix", targets=LABELS, **{"areas": (1, 3, 6)} | options)  # type: ignore[arg-type]


def test_one_row_a_class_in_order() -> None:
    found = classes(names=["a", "b", "c", "d"])
    assert found.targets.tolist() == [0, 1, 2]
    assert found.names == ("a", "b", "c")
    assert found.rows.tolist() == [2, 1, 3]
    assert found.joint_masks.sum(-1).tolist() == [[1, 3, 6]] * 3


def test_mean_mask_is_over_rows_that_reach() -> None:
    model, x = seeded(Plain), images(6)
    own = ca.per_image(model, x, "mix", targets=LABELS, areas=(1, 3), refine=False)
    area, mask = own.smallest_area.copy(), np.random.default_rng(0).random((6, 6)) < 0.5
    area[[0, 5]], mask[[0, 5]] = -1, False  # one of class 2, and the only one of class 1, do not reach
    own = dataclasses.replace(own, smallest_area=area, smallest_mask=mask)
    found = ca.per_class(model, x, "mix", targets=LABELS, areas=(1, 3), refine=False, found=own)
    for row, target in enumerate(found.targets):
        reach = (np.array(LABELS) == target) & (own.smallest_area >= 0)
        assert found.images[row] == reach.sum()
        expected = own.smallest_mask[reach].mean(0) if reach.any() else np.zeros(6)
        np.testing.assert_allclose(found.mean_mask[row], expected, rtol=1e-6)
    assert found.images.tolist() == [2, 0, 2]


def test_joint_scores_are_the_mean_over_all_images_of_the_class() -> None:
    model, x = seeded(Plain), images(6)
    found = classes()
    for row, target in enumerate(found.targets):
        mine = x[torch.tensor(LABELS) == int(target)]
        for a in range(3):
            with ca.inject(model, "mix", found.joint_masks[row, a]), torch.no_grad():
                logits = model(mine)
            assert found.joint_scores[row, a] == pytest.approx(float(logits[:, target].mean()), rel=1e-5)
            assert found.joint_top1[row, a] == pytest.approx(float((logits.argmax(1) == int(target)).float().mean()))
            expected = float(logits.log_softmax(1)[:, target].mean())
            assert found.joint_log_probability[row, a] == pytest.approx(expected, rel=1e-4)


def test_held_out_scores_come_from_folds_searched_apart() -> None:
    model, x = seeded(Plain), images(6)
    found = classes()
    mine = torch.nonzero(torch.tensor(LABELS) == 2)[:, 0]
    parts = [mine[0::2], mine[1::2]]
    total = 0.0
    for inside, outside in (parts, parts[::-1]):
        apart = ca.per_class(model, x[outside], "mix", targets=[2] * len(outside), areas=(1, 3, 6), folds=0)
        with ca.inject(model, "mix", apart.joint_masks[0, 1]), torch.no_grad():
            total += float(model(x[inside])[:, 2].sum())
    row = found.targets.tolist().index(2)
    assert found.held_out_scores[row, 1] == pytest.approx(total / 3, rel=1e-4)


def test_held_out_is_nan_with_one_image_or_no_folds() -> None:
    found = classes()
    row = found.targets.tolist().index(1)
    assert np.isnan(found.held_out_scores[row]).all()
    assert np.isfinite(found.held_out_scores[[0, 2]]).all()
    assert np.isnan(classes(folds=0).held_out_scores).all()


def test_a_class_of_one_image_equals_the_image() -> None:
    model, x = seeded(Plain), images(1)
    own = ca.per_image(model, x, "mix", targets=[2], areas=(1, 3, 6))
    found = ca.per_class(model, x, "mix", targets=[2], areas=(1, 3, 6))
    np.testing.assert_array_equal(found.joint_masks, own.masks)
    assert found.smallest_area[0] == own.smallest_area[0]
    np.testing.assert_allclose(found.joint_scores, own.scores, rtol=1e-6)


def test_folds_split_by_row() -> None:
    members, held_out = fold_members(5, 2, torch.device("cpu"))
    assert [m.tolist() for m in members] == [[0, 1, 2, 3, 4], [1, 3], [0, 2, 4]]
    assert [h.tolist() for h in held_out] == [[0, 2, 4], [1, 3]]
    assert fold_members(1, 2, torch.device("cpu"))[1] == ()


def test_targets_are_required() -> None:
    with pytest.raises(TypeError, match="targets"):
        ca.per_class(seeded(Plain), images(2), "mix")  # type: ignore[call-arg]
