"""Specificity: a diagonal by construction, half-shared channels, and every number against hooks."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch

import chanattr as ca
from chanattr.evidence.class_records import Specificity
from chanattr.evidence.specificity import specificity
from tests.evidence.class_network import NAMES, OWN, ClassNetwork, pictures
from tests.models import Plain, images, seeded

LABELS = [0, 1, 2, 3, 2, 1, 0, 3, 3]
APART = ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15))


def planted(own: tuple[tuple[int, ...], ...] = APART, **options: object) -> Specificity:
    model, x = ClassNetwork(own), pictures(LABELS, own)
    found = ca.per_class(model, x, "body", targets=LABELS, areas=(4,), names=NAMES)
    return specificity(model, x, "body", targets=LABELS, classes=found, **{"count": 4} | options)  # type: ignore[arg-type]


def test_keeping_a_class_serves_that_class_alone() -> None:
    found = planted()
    assert found.accuracy.tolist() == np.eye(4).tolist()
    assert (found.logits[~np.eye(4, dtype=bool)] == 0).all()
    np.testing.assert_allclose(found.logits.diagonal(), found.original_logits, rtol=1e-6)
    assert found.original_accuracy.tolist() == [1] * 4
    assert found.images.tolist() == [2, 2, 2, 3]
    assert (found.names, found.sizes.tolist(), found.count) == (NAMES[:4], [4] * 4, 4)


def test_deleting_a_class_harms_that_class_alone() -> None:
    assert planted(game="delete").accuracy.tolist() == (1 - np.eye(4)).tolist()


def test_classes_that_share_half_their_channels_serve_each_other_by_half() -> None:
    found, x = planted(OWN), pictures(LABELS, OWN)
    mine = x[torch.tensor(LABELS) == 1].mean((2, 3))
    assert found.logits[0, 1] == pytest.approx(float(mine[:, 2:4].sum(1).mean()), rel=1e-5)
    assert found.logits[0, 1] > 1
    assert found.logits[2, 1] == 0


def test_random_sets_have_the_same_sizes_and_are_their_own() -> None:
    found, again, other = planted(seed=1), planted(seed=1), planted(seed=2)
    assert np.array_equal(found.random_logits, again.random_logits)
    assert not np.array_equal(found.random_logits, other.random_logits)
    assert np.isnan(planted().random_logits).all()
    model, x = ClassNetwork(APART), pictures(LABELS, APART)
    everything = ca.per_class(model, x, "body", targets=LABELS, areas=(24,))
    whole = specificity(model, x, "body", targets=LABELS, classes=everything, count=24, seed=0)
    np.testing.assert_allclose(whole.random_logits, whole.logits, rtol=1e-6)  # of all channels there is one set


@pytest.mark.parametrize("fill", ["zero", "mean", "spatial_mean", 0.3])
@pytest.mark.parametrize("game", ["preserve", "delete"])
@pytest.mark.parametrize("source", ["joint", "mean"])
def test_every_number_is_that_of_the_hooked_network(fill: str | float, game: str, source: str) -> None:
    model, x = seeded(Plain), images(20)
    labels = (torch.arange(20) % 3).tolist()
    classes = ca.per_class(model, x, "mix", targets=labels, areas=(3,), fill=fill, level=0.1)
    found = specificity(model, x, "mix", targets=labels, classes=classes, count=3, game=game, source=source, batch_size=7)
    with torch.no_grad():
        whole = model(x)
    for a in range(3):
        mask = classes.channel_mask(a, 3, source)
        for b in range(3):
            mine = x[torch.tensor(labels) == b]
            original = whole[torch.tensor(labels) == b, b]
            logits = torch.cat([hooked(model, one[None], mask if game == "preserve" else ~mask, classes, fill) for one in mine])
            assert found.accuracy[a, b] == pytest.approx(float((logits.argmax(1) == b).float().mean()))
            assert found.logits[a, b] == pytest.approx(float(logits[:, b].mean()), rel=1e-4, abs=1e-5)
            assert found.original_logits[b] == pytest.approx(float(original.mean()), rel=1e-4)


@torch.no_grad()
def hooked(model: torch.nn.Module, x: torch.Tensor, mask: np.ndarray, classes: ca.ClassAttribution, fill: str | float) -> torch.Tensor:
    values = torch.from_numpy(classes.fill_values)
    if fill == "spatial_mean":
        with ca.capture(model, ["mix"]) as seen:
            model(x)
        values = seen["mix"].mean((0, 2, 3))
    with ca.inject(model, "mix", mask, fill=values):
        return model(x)


def test_groups_are_masked_whole() -> None:
    model, x = ClassNetwork(APART), pictures(LABELS, APART)
    classes = ca.per_class(model, x, "body", targets=LABELS, areas=(2,), group=[k // 2 for k in range(24)])
    found = specificity(model, x, "body", targets=LABELS, classes=classes, count=2)
    assert found.accuracy.tolist() == np.eye(4).tolist()
    assert found.sizes.tolist() == [2] * 4


def test_missing_sets_and_images_are_nan_and_told(caplog: pytest.LogCaptureFixture) -> None:
    model, x = ClassNetwork(APART), pictures(LABELS, APART)
    classes = ca.per_class(model, x, "body", targets=LABELS, areas=(4,))
    classes = dataclasses.replace(classes, smallest_area=np.array([4, -1, 4, 4], np.int32))
    kept = torch.tensor(LABELS) != 3
    with caplog.at_level(logging.WARNING, logger="chanattr"):
        found = specificity(model, x[kept], "body", targets=torch.tensor(LABELS)[kept], classes=classes)
    assert np.isnan(found.accuracy[1]).all()
    assert np.isnan(found.accuracy[:, 3]).all()
    assert np.isfinite(found.accuracy[[0, 2, 3]][:, :3]).all()
    assert found.sizes.tolist() == [4, -1, 4, 4]
    assert "no images of 1 of 4 classes" in caplog.text
    assert "no such set of 1 of 4 classes" in caplog.text


def test_what_cannot_be_asked() -> None:
    model, x = ClassNetwork(APART), pictures(LABELS, APART)
    classes = ca.per_class(model, x, "body", targets=LABELS, areas=(4,))

    def ask(**options: object) -> None:
        given = {"targets": LABELS, "classes": classes, "count": 4} | options
        specificity(given.pop("model", model), x, "body", **given)  # type: ignore[arg-type]

    for options, words in (({"game": "dual"}, "expected one of preserve, delete"), ({"count": 3}, "no sets of 3 channels"),
                           ({"targets": [9, *LABELS[1:]]}, "images of class 9"), ({"seed": -1}, "seed=-1"),
                           ({"batch_size": 0}, "batch_size=0"), ({"model": ClassNetwork(OWN)}, "other weights"),
                           ({"classes": dataclasses.replace(classes, layer="head")}, "classes are of layer 'head'")):
        with pytest.raises(ca.InputError, match=words):
            ask(**options)
