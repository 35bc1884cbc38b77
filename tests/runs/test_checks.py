"""What a run refuses: by the loader, the options, the model, or what the file holds; before any work, and leaving no file."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import chanattr as ca
from chanattr.runs.checks import check_words
from tests.models import Plain, images, seeded
from tests.runs.loaders import COUNT, Again, Loader, content, run_all


@pytest.mark.parametrize(("changed", "message"), [
    ({"reward": "contrastive"}, "reward='logit', but reward='contrastive' is asked"),
    ({"areas": (1, 2)}, r"areas=\[1, 3, 6\], but areas=\[1, 2\]"),
    ({"seed": 3}, "seed=0, but seed=3"),
    ({"search": ca.ExactSearch(binary_steps=5)}, r"with search\.relaxed_steps=3, search\.binary_steps=4, search\.refine_steps=2, but "
     r"search\.relaxed_steps=15, search\.binary_steps=5, search\.refine_steps=10 is asked"),
    ({"level": 0.5}, "level='original', but level=0.5"),
    ({"fill": "mean"}, "fill='zero', but fill='mean'"),
    ({"preprocessing": "other"}, "preprocessing='', but preprocessing='other'"),
])
def test_another_question_for_the_same_layer_is_refused_naming_the_field(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    run_all(tmp_path / "run.h5", layers=["mix"], classes=False)
    before = content(tmp_path / "run.h5")
    with pytest.raises(ca.StoreError, match=message):
        run_all(tmp_path / "run.h5", layers=["mix"], classes=False, **changed)
    assert content(tmp_path / "run.h5") == before


def test_another_model_in_the_same_file_is_refused(ended: Path) -> None:
    with pytest.raises(ca.StoreError, match=r"other model in the same file: it holds answers of .* with weights"):
        run_all(ended, model=seeded(Plain, 1))


def test_without_a_shard_size_the_file_tells_it(tmp_path: Path) -> None:
    run_all(tmp_path / "run.h5", Loader(count=6), shard_size=3)
    run_all(tmp_path / "run.h5", Loader(), shard_size=None)
    run_all(tmp_path / "whole.h5", Loader(), shard_size=3)
    assert content(tmp_path / "run.h5") == content(tmp_path / "whole.h5")
    run_all(tmp_path / "new.h5", Loader(), shard_size=None)
    with ca.open_run(tmp_path / "new.h5") as run:
        assert run.attributes["shard_size"] == 16


def test_another_shard_size_is_refused(ended: Path) -> None:
    with pytest.raises(ca.InputError, match="shard_size=8, but this file was made with 4"):
        run_all(ended, shard_size=8)


def test_no_resume_refuses_a_file_with_answers(tmp_path: Path) -> None:
    run_all(tmp_path / "run.h5", resume=False)
    with pytest.raises(ca.InputError, match="already has answers at mix, conv"):
        run_all(tmp_path / "run.h5", resume=False)


def test_a_known_key_with_other_bytes_is_refused(ended: Path) -> None:
    with pytest.raises(ca.StoreError, match=r"folder/0\.png"):
        run_all(ended, Loader(seed=2))


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ca.InputError, match=r"'folder/0\.png' twice"):
        run_all(tmp_path / "run.h5", Loader(keys=["folder/0.png"] * COUNT))


@pytest.mark.parametrize(("loader", "message"), [
    (Loader(count=0), "loader is empty"),
    (Loader().__iter__(), "loader is generator, which can be gone through only once; expected batches .* pass a DataLoader, or a list"),
    (zip(), "loader is zip, which can be gone through only once"),
    ([torch.zeros(2, 3, 8, 8)], "expected .images, labels, keys. a batch"),
    ([(torch.zeros(2, 3, 8, 8), [1], ["a", "b"])], "gave 2 images, 1 labels and 2 keys"),
])
def test_what_is_no_loader_is_refused(tmp_path: Path, loader: Any, message: str) -> None:
    with pytest.raises(ca.InputError, match=message):
        run_all(tmp_path / "run.h5", loader)
    assert not (tmp_path / "run.h5").exists()


def test_labels_are_needed_where_they_are_the_targets(tmp_path: Path) -> None:
    with pytest.raises(ca.InputError, match="'a' has no label"):
        run_all(tmp_path / "run.h5", [(images(1), None, ["a"])], targets="label")


@pytest.mark.parametrize("generic", [False, True])
def test_classes_that_the_model_has_not_are_refused_before_any_work(tmp_path: Path, generic: bool) -> None:
    batches = [(images(4), [0, 1, 99, 2], list("abcd"))]
    loader: Any = Again(batches) if generic else batches
    for options in ({}, {"classes": False, "targets": "label"}):
        with pytest.raises(ca.InputError, match=r"image 'c' has the class 99, but the model has 4 classes; expected 0 to 3, or -1"):
            run_all(tmp_path / "run.h5", loader, **options)
        assert not (tmp_path / "run.h5").exists()
    run_all(tmp_path / "run.h5", loader, classes=False)  # then they are only noted
    with ca.open_run(tmp_path / "run.h5") as run:
        assert run.images().label.tolist() == [0, 1, 99, 2]


@pytest.mark.parametrize(("before", "now", "message"), [
    ({}, {"targets": 2}, "with targets='predicted', but targets=2 is asked"),
    ({"targets": 2}, {"targets": "label"}, "with targets=2, but targets='label' is asked"),
    ({"classes": True}, {"folds": 0, "classes": True}, "with folds=2, but folds=0 is asked"),
    ({"classes": True}, {"class_areas": (5,), "classes": True}, r"with class_areas=\[1, 3, 6\], but class_areas=\[5\] is asked"),
])
def test_another_question_to_images_or_classes_is_refused_before_any_work(tmp_path: Path, before: dict[str, Any], now: dict[str, Any],
                                                                          message: str) -> None:
    run_all(tmp_path / "run.h5", Loader(count=8), **{"classes": False, **before})
    kept = content(tmp_path / "run.h5")
    with pytest.raises(ca.StoreError, match=message):
        run_all(tmp_path / "run.h5", **{"classes": False, **now})
    assert content(tmp_path / "run.h5") == kept
    run_all(tmp_path / "run.h5", **{"classes": False, **before})


def within() -> Any:
    def inner(logits: Tensor, targets: Tensor) -> Tensor:
        return logits[:, 0]

    return inner


@pytest.mark.parametrize(("option", "message"), [
    ({"targets": -1}, "target -1 for a model with 4 classes; expected 0 to 3"),
    ({"targets": 4}, "target 4 for a model with 4 classes"),
    ({"targets": True}, "targets=True; expected 'predicted', 'label' or one class number"),
    ({"targets": "cat"}, "targets='cat'; expected 'predicted', 'label'"),
    ({"label": ""}, "label=''; expected a name"),
    ({"workers": -1}, "workers=-1; expected a whole number from 0"),
    ({"batch_size": 0}, "batch_size=0; expected a whole number from 1"),
    ({"batch_size": True}, "batch_size=True; expected a whole number"),
    ({"shard_size": 0}, "shard_size=0; expected a whole number from 1"),
    ({"folds": -1}, "folds=-1; expected a whole number from 0"),
    ({"layers": "mix"}, "layers='mix'; expected a list .* put a single name in a list"),
    ({"layers": ["mix", "mix"]}, "'mix' and 'mix' are one layer, 'mix'; expected different layers; take one of them away"),
    ({"layers": ["mix", "module.mix@1"]}, "'mix' and 'module.mix@1' are one layer, 'mix'"),
    ({"areas": {"mix": (1,), "mix@1": (2,)}}, "'mix' and 'mix@1' are one layer"),
    ({"areas": (7,)}, "7"),
    ({"class_areas": (7,)}, "7"),
    ({"class_areas": {"norm": (2,)}}, "'norm', which is not in this run"),
    ({"reward": lambda logits, targets: logits[:, 0]}, r"reward=<function <lambda>.*has no name of its own.* write it there with def"),
    ({"reward": within()}, r"reward=<function within.*has no name of its own"),
    ({"score": functools.partial(torch.mul, other=2.0)}, "score=functools.partial.*has no name of its own"),
])
def test_a_wrong_option_is_refused_before_any_work_and_leaves_no_file(tmp_path: Path, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ca.InputError, match=message):
        run_all(tmp_path / "run.h5", **option)
    assert not (tmp_path / "run.h5").exists()
    assert not (tmp_path / "run.h5.parts").exists()


@pytest.mark.parametrize(("names", "message"), [
    ([None, "dog"], r"class_names\[0\]=None; expected a text .*; write it as text, '' where it is unknown"),
    (range(2), r"class_names\[0\]=0; expected a text"),
    (["a", "b\0"], r"class_names\[1\]='b\\x00'; expected a text without NUL"),
    ({0: "a"}, r"class_names=\{0: 'a'\}; expected a list of texts, one a class by its number"),
])
def test_names_of_classes_that_no_file_holds_are_refused(tmp_path: Path, names: Any, message: str) -> None:
    """They were found out by the class pass, after all images, and each time that the run was resumed."""
    with ca.open_run(tmp_path / "run.h5", "a") as run, pytest.raises(ca.InputError, match=message):
        check_words(run, "exact", "", None, names)


def test_a_name_of_the_model_that_no_file_holds_is_refused(tmp_path: Path) -> None:
    """It was found out when the parts were merged, after all images."""
    with ca.open_run(tmp_path / "run.h5", "a") as run, pytest.raises(ca.InputError, match=r"name='a\\x00'; expected a text without NUL"):
        check_words(run, "exact", "a\0", None, ())


@pytest.mark.parametrize(("batch", "message"), [
    ((images(2).numpy(), None, ["a", "b"]), "gave images of type ndarray; expected a floating tensor"),
    (((images(2) * 255).byte(), None, ["a", "b"]), "gave images of type torch.uint8; expected a floating tensor"),
    ((images(2), [0.5, 1], ["a", "b"]), "gave labels .* expected whole numbers"),
    ((images(1), torch.tensor(1), ["a"]), r"gave labels of shape \[\]; expected a row of them"),
    ((images(2), [[0], [1]], ["a", "b"]), r"gave labels of shape \[2, 1\]; expected a row of them"),
    ((images(2), [0, 2**31], ["a", "b"]), "gave labels from 0 to 2147483648; expected class numbers of at most 2147483647"),
    ((images(2), None, "ab"), "gave keys 'ab'; expected several"),
    ((images(2), None, ["a", "b"], np.zeros((2, 16), "u1")), r"gave digests of shape \[2, 16\]; expected \[2, 32\]"),
    ((images(1), None, ["a"], np.zeros((1, 32), "u1"), [np.zeros((2, 2, 3), "u1")] * 2), "gave 2 thumbnails of 1 images in one batch"),
])
def test_batches_that_are_no_images_and_classes_are_refused(tmp_path: Path, batch: Any, message: str) -> None:
    with pytest.raises(ca.InputError, match=message):
        run_all(tmp_path / "run.h5", [batch])
