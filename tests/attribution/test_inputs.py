"""What a caller can get wrong: every mistake is told in three beats, before any work where that can be, never as a raw error."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import chanattr as ca
from chanattr.attribution.inputs import array_of, check_targets
from chanattr.attribution.perturbation import perturbation_of
from chanattr.attribution.question import Asked
from tests.attribution.wrong import CASES, TAKEN
from tests.models import Plain, images, seeded

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def told() -> dict[str, tuple[str, str]]:
    """What each wrong call raises without the tests' check of annotations: in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "tests.attribution.wrong"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_said(told: dict[str, tuple[str, str]], name: str) -> None:
    error, message = told[name]
    assert error == CASES[name].error, message
    assert re.search(CASES[name].message, message), message
    assert "; expected" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", TAKEN)
def test_whole_numbers_of_any_type_are_taken(told: dict[str, tuple[str, str]], name: str) -> None:
    assert told[name] == ["", "no error"]


def test_what_needs_no_layer_is_refused_before_the_model_runs() -> None:
    model = seeded(Plain)
    model.register_forward_hook(lambda *_: pytest.fail("the model ran"))
    for options in ({"targets": [0]}, {"keys": ["a"]}, {"batch_size": 0}, {"search": ca.ExactSearch(momentum=5)}, {"level": 1.5},
                    {"reward": "mine"}, {"game": "play"}):
        with pytest.raises(ca.InputError, match="expected"):
            ca.per_image(model, images(4), "mix", **options)  # type: ignore[arg-type]


def test_tensors_with_a_history_and_of_any_precision_are_numbers() -> None:
    for given in (torch.ones(2, requires_grad=True), torch.ones(2).bfloat16(), np.ones(4)[::-2], [1, 1.0], (True, True)):
        assert array_of(given).tolist() == [1, 1]
    assert [array_of(given) for given in (["a"], [[1], [1, 2]], {"a": 1}, 1j, None, torch.ones(1, dtype=torch.complex64))] == [None] * 6
    model = seeded(Plain)
    one, other = (ca.per_image(model, images(1), "mix", fill=fill, areas=(1,), engine="injection")
                  for fill in (torch.ones(6, requires_grad=True), torch.ones(6).bfloat16()))
    assert one.settings == other.settings
    assert perturbation_of(torch.ones(3, requires_grad=True)).sha256 == perturbation_of(np.ones(3)).sha256
    assert check_targets(np.arange(3)[::-1], 3).tolist() == [2, 1, 0]


def test_asked_without_words_is_as_per_image_asks() -> None:
    assert Asked() == Asked(areas=None, search=None, reward="logit", game="preserve", level=None, refine=None, folds=0, seed=0)


def test_answers_at_hand_may_be_to_other_areas_and_searches() -> None:
    model, x, targets = seeded(Plain), images(4), [1, 1, 2, 2]
    own = ca.per_image(model, x, "mix", targets=targets, areas=(2, 4), search=ca.ExactSearch(binary_steps=3), seed=4)
    found = ca.per_class(model, x, "mix", targets=targets, areas=(1, 3), found=own)
    assert found.rows.tolist() == [2, 2]


def test_answers_at_hand_may_have_the_mean_fill() -> None:
    model, x, targets = seeded(Plain), images(4), [1, 1, 2, 2]
    own = ca.per_image(model, x, "mix", targets=targets, areas=(1,), fill="mean")
    found = ca.per_class(model, x, "mix", targets=targets, areas=(1,), fill="mean", found=own)
    assert found.settings.fill == "mean"


def test_a_run_says_what_its_model_was_given(tmp_path: Path) -> None:
    batch = (torch.rand(2, 4, 8, 8), None, ["a", "b"])
    with ca.open_run(tmp_path / "run.h5", "a") as run, pytest.raises(ca.ModelError, match=r"failed on images of shape \(2, 4, 8, 8\)"):
        ca.attribute(run, seeded(Plain), [batch], layers=["mix"], progress=False)
