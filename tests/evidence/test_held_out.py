"""Held-out class sets: every number again by hooks, folds apart, what is missing left NaN and told, and intervals by the definition."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

import chanattr as ca
from chanattr.evidence import held_out as module
from chanattr.evidence.class_records import FIGURES, HeldOut
from chanattr.evidence.held_out import METHODS, held_out
from chanattr.evidence.intervals import mean_by_class
from tests.evidence.class_network import NAMES, OWN, ClassNetwork, pictures
from tests.models import Plain, images, seeded

LABELS = [2, 0, 2, 0, 2, 3, 0, 2, 3, 0, 3, 3, 3]
COUNTS = (1, 3)


def plain(**options: object) -> HeldOut:
    given = {"targets": LABELS, "counts": COUNTS, "level": 0.2} | options
    return held_out(seeded(Plain), images(13), "mix", **given)  # type: ignore[arg-type]


def rows_of(found: HeldOut, row: int) -> np.ndarray:
    return np.flatnonzero(found.classes == row)


def test_every_image_is_scored_once_with_the_sets_of_the_other_folds() -> None:
    found, model, x = plain(rewards=("logit", "log_probability"), folds=2), seeded(Plain), images(13)
    assert found.methods == METHODS
    assert found.rewards == ("logit", "log_probability")
    assert found.targets.tolist() == [0, 2, 3]
    for row in range(3):
        assert found.fold[rows_of(found, row)].tolist() == [i % 2 for i in range(len(rows_of(found, row)))]
    for w, m, a in np.ndindex(2, len(METHODS), 2):
        for image, target in enumerate(LABELS):
            mask = found.masks[w, m, found.classes[image], found.fold[image], a]
            assert mask.sum() == COUNTS[a]
            with ca.inject(model, "mix", mask), torch.no_grad():
                logits = model(x[image:image + 1])
            probability = float(logits.log_softmax(1)[0, target])
            assert found.logits[w, m, image, a] == pytest.approx(float(logits[0, target]), rel=1e-4, abs=1e-5)
            assert found.log_probability[w, m, image, a] == pytest.approx(probability, rel=1e-4, abs=1e-5)
            assert found.top1[w, m, image, a] == float(logits.argmax() == target)
            assert found.scores[w, m, image, a] == (found.logits, found.log_probability)[w][w, m, image, a]
    with torch.no_grad():
        np.testing.assert_allclose(found.original_logits, model(x)[range(13), LABELS], rtol=1e-5)


def test_sets_are_those_of_a_search_on_the_other_folds_alone() -> None:
    found, model, x = plain(folds=3), seeded(Plain), images(13)
    assert found.folds == 3
    for row, target in enumerate(found.targets.tolist()):
        for fold in range(3):
            mine = [image for image in rows_of(found, row) if found.fold[image] != fold]
            apart = ca.per_class(model, x[mine], "mix", targets=[target] * len(mine), areas=COUNTS, level=0.2, folds=0)
            for a, count in enumerate(COUNTS):
                chosen = {name: found.masks[0, m, row, fold, a] for m, name in enumerate(METHODS)}
                assert np.array_equal(chosen["joint"], apart.joint_masks[0, a])
                assert sorted(np.flatnonzero(chosen["mean"])) == sorted(apart.channels(target, count, "mean"))
                own = ca.per_image(model, x[mine], "mix", targets=[target] * len(mine), areas=COUNTS, level=0.2)
                rates = own.masks[:, a].sum(0)
                assert set(np.flatnonzero(chosen["mean_of_area"])) == set(np.argsort(-rates, kind="stable")[:count])
                assert found.reaching[0, row, fold] == (own.smallest_area >= 0).sum() == apart.images[0]
                joints = [found.masks[0, 0, other, fold, a] for other in range(3) if other != row]
                assert any(np.array_equal(chosen["other_class"], mask) for mask in joints)
                slope = torch.ones(len(mine), 6, requires_grad=True)
                with ca.inject(model, "mix", slope):
                    gradient = torch.autograd.grad(model(x[mine])[:, target].mean(), slope)[0].sum(0)
                best = gradient.argsort(descending=True, stable=True)[:count]
                assert set(np.flatnonzero(chosen["gradient_x_activation"])) == set(best.tolist())


def test_planted_channels_are_found_from_either_half() -> None:
    labels = [0, 1, 2, 3] * 4
    found = held_out(ClassNetwork(), pictures(labels), "body", targets=labels, counts=(4,), names=NAMES)
    assert found.names == NAMES[:4]
    for row, members in enumerate(OWN):
        for method in ("joint", "mean", "mean_of_area", "gradient_x_activation"):
            for fold in range(2):
                assert np.flatnonzero(found.masks[0, METHODS.index(method), row, fold, 0]).tolist() == list(members)
    assert found.mean("top1").value[0, :4, 0].tolist() == [1] * 4
    assert found.by_class("top1")[0, METHODS.index("random")].mean() < 1
    assert (found.margin("joint", "random").low > 0).all()
    assert found.margin("joint", "mean").value.tolist() == [[0]]
    assert found.wins("joint", "random").tolist() == [[4]]
    assert found.wins("joint", "mean").tolist() == [[0]]


def test_no_answer_depends_on_what_is_held_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plain()
    monkeypatch.setattr(module, "GROUP", 1)
    apart = plain()
    assert np.array_equal(whole.masks, apart.masks)
    np.testing.assert_allclose(whole.scores, apart.scores, rtol=1e-5)
    np.testing.assert_allclose(whole.evaluations, apart.evaluations, rtol=1e-5)
    assert np.array_equal(whole.reaching, apart.reaching)


@pytest.mark.parametrize("game", ["delete", "dual"])
def test_other_games(game: str) -> None:
    found, model, x = plain(game=game, level=0.5, methods=["joint", "random"]), seeded(Plain), images(13)
    for image, target in enumerate(LABELS):
        mask = found.masks[0, 0, found.classes[image], found.fold[image], 1]
        with torch.no_grad():
            with ca.inject(model, "mix", mask):
                kept = float(model(x[image:image + 1])[0, target])
            with ca.inject(model, "mix", ~mask):
                dropped = float(model(x[image:image + 1])[0, target])
        assert found.scores[0, 0, image, 1] == pytest.approx(dropped if game == "delete" else kept - dropped, rel=1e-4, abs=1e-5)
        assert found.logits[0, 0, image, 1] == pytest.approx(dropped if game == "delete" else kept, rel=1e-4, abs=1e-5)


def test_spatial_fill_and_groups() -> None:
    found = plain(fill="spatial_mean", group=[0, 0, 1, 1, 2, 2], counts=(1, 2), methods=["joint", "mean_of_area"])
    assert found.masks.shape[-1] == 3
    assert found.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.isfinite(found.scores).all()


def test_a_class_with_one_image_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="chanattr"):
        found = plain(targets=[1, *LABELS[1:]])
    assert "1 of 4 classes have fewer than 2 images (first class 1)" in caplog.text
    row = found.targets.tolist().index(1)
    assert found.fold[0] == -1
    assert np.isnan(found.scores[:, :, 0]).all()
    assert not found.masks[0, :4, row].any()
    assert np.isnan(found.by_class()[0, :, row]).all()
    assert np.isfinite(found.by_class()[0, :, [0, 2, 3]]).all()
    assert np.isfinite(found.mean().value).all()
    assert np.isfinite(found.original_logits).all()


def test_no_held_out_half_at_all() -> None:
    with pytest.raises(ca.InputError, match=r"class 0 has 1 images?, and no class has 2.*; expected 2 or more a class.*; give more"):
        held_out(seeded(Plain), images(2), "mix", targets=[0, 1], counts=COUNTS)


def test_one_class_has_no_other(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="chanattr"):
        found = plain(targets=[1] * 13)
    assert "1 of 1 classes have no set by other_class (first class 1), for there is no other class" in caplog.text
    assert np.isnan(found.scores[0, METHODS.index("other_class")]).all()
    assert np.isfinite(found.mean().value[0, 0]).all()
    assert (found.mean().low <= found.mean().high)[0, 0].all()


def test_no_image_reaches_the_level(caplog: pytest.LogCaptureFixture) -> None:
    """The top class after masking is never the target where the whole network does not name it."""
    model, x = seeded(Plain), images(13)
    labels = [(int(row.argmax()) + 1) % 4 for row in model(x).detach()]
    labels = [labels[0]] * 13 if labels.count(labels[0]) > 12 else labels
    with caplog.at_level(logging.WARNING, logger="chanattr"):
        found = held_out(model, x, "mix", targets=labels, counts=(1,), level="top1", methods=["joint", "mean"])
    row = int(np.argmax(np.bincount(found.classes)))
    assert (found.reaching == 0).any(), "no such case: choose other images"
    folded = found.reaching[0, found.classes, np.maximum(found.fold, 0)]  # images that the mean for an image's own fold is over
    assert np.isnan(found.scores[0, 1, folded == 0]).all()
    assert np.isfinite(found.scores[0, 0, found.classes == row]).all()
    assert "have no set by mean" in caplog.text
    assert "no image reaches the level: NaN" in caplog.text


@pytest.mark.parametrize(("options", "words"), [
    ({"targets": [4] * 13}, "target 4 for a model with 4 classes; expected 0 to 3"),
    ({"targets": [-1] * 13}, "target -1"),
    ({"folds": 1}, "folds=1; expected a whole number from 2"),
    ({"methods": ["best"]}, "method='best'; expected one of joint, mean"),
    ({"methods": []}, "expected a list"),
    ({"rewards": "logit"}, "for one reward give a list of one"),
    ({"counts": (7,)}, "area 7 for a layer of 6 channels"),
    ({"counts": "smallest"}, "expected counts of channels"),
])
def test_what_cannot_be_asked(options: dict[str, object], words: str) -> None:
    with pytest.raises(ca.InputError) as caught:
        plain(**options)
    assert words in str(caught.value)
    assert str(caught.value).count(";") >= 2


def test_figures_and_methods_of_a_result_are_named() -> None:
    found = plain(methods=["joint", "random"])
    for figure in FIGURES:
        assert found.by_class(figure).shape == (1, 2, 3, 2)
        assert found.mean(figure).low.shape == (1, 2, 2)
    for row in range(3):
        np.testing.assert_allclose(found.by_class()[:, :, row], found.scores[:, :, found.classes == row].mean(2), rtol=1e-6)
    np.testing.assert_allclose(found.mean().value, found.by_class().mean(2), rtol=1e-6)
    with pytest.raises(ca.InputError, match="figure='best'"):
        found.mean("best")
    with pytest.raises(ca.InputError, match="method 'mean' is not in this result"):
        found.margin("joint", "mean")


def test_intervals_are_those_of_drawing_classes_and_then_images() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(8), [3, 4, 5, 6, 7, 8, 9, 10])
    values = classes % 3 + rng.normal(0, 1, len(classes))
    found = mean_by_class(values[:, None], classes, resamples=20_000)
    assert found.value[0] == pytest.approx(np.mean([values[classes == c].mean() for c in range(8)]))
    means = [np.mean([rng.choice(values[classes == c], (classes == c).sum()).mean() for c in rng.integers(0, 8, 8)]) for _ in range(5000)]
    assert found.low[0] == pytest.approx(np.quantile(means, 0.025), abs=0.05)
    assert found.high[0] == pytest.approx(np.quantile(means, 0.975), abs=0.05)
    lacking = mean_by_class(np.where(classes == 0, np.nan, values)[:, None], classes)
    assert lacking.value[0] == pytest.approx(np.mean([values[classes == c].mean() for c in range(1, 8)]))
    assert np.isnan(mean_by_class(np.full((3, 1), np.nan), [0, 0, 1]).low).all()
