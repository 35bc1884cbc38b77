"""A run file never makes code run: what is no weights alone is loaded only where the user named it himself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from torch import Tensor

import chanattr as ca
from chanattr.cli import main
from tests.cli.studio import Studio, make_studio

EVIL = '''
import pathlib

pathlib.Path({flag!r}).write_text("run")


def margin(logits, targets):
    return logits.gather(1, targets[:, None])[:, 0] - logits.mean(1)


def make():
    raise SystemExit
'''
COMMANDS = {"evaluate": ("--method", "random"), "invert": ("--steps", "1", "--layer", "mix"),
            "visualise": ("--steps", "1", "--layer", "mix")}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return make_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[Path]:
    import sys

    file = tmp_path / "evil.py"
    file.write_text(EVIL.format(flag=str(tmp_path / "flag")))
    yield file
    sys.modules.pop("evil", None)


def call(*words: object) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words])


def asked_with(studio: Studio, path: Path, name: str, label: str = "exact") -> None:
    """A run whose reward is called as a stranger likes."""
    def margin(logits: Tensor, targets: Tensor) -> Tensor:
        return logits.gather(1, targets[:, None])[:, 0] - logits.mean(1)

    margin.__module__, margin.__qualname__ = name.rsplit(":", 1)
    loaded = ca.load_model(studio.model)
    with ca.open_run(path, "a") as run:
        ca.attribute(run, loaded.module, ca.image_loader(str(studio.images), loaded.preprocess, class_names=loaded.class_names),
                     layers=["mix"], areas=(2, 4), search=ca.ExactSearch(relaxed_steps=3, binary_steps=3, refine_steps=2), reward=margin,
                     classes=False, name="embedded", label=label, progress=False)


@pytest.mark.parametrize("command", ["evaluate", "visualise", "check"])
def test_a_reward_that_only_the_file_names_is_not_run(studio: Studio, tmp_path: Path, evil: Path, command: str) -> None:
    path = tmp_path / "run.h5"
    asked_with(studio, path, f"{evil}:margin")
    own = ["--images", studio.images] if command == "check" else [studio.images, *COMMANDS[command]]
    kept = ["-o", tmp_path / "out"] if command == "visualise" else []
    words = [command, path, *own, *kept, "--model", studio.model, "--device", "cpu"]
    done = call(*words)
    assert done.exit_code == 2, done.output
    assert f"has answers whose reward is the function '{evil}:margin'" in done.stderr
    assert "expected that you name it yourself" in done.stderr
    assert "pass --reward path/to/file.py:function" in done.stderr
    assert not (tmp_path / "flag").exists()


@pytest.mark.parametrize("model", ["{evil}:make", "hf:stranger/model", "timm:hf-hub:stranger/model", "hf:{evil}"])
@pytest.mark.parametrize("command", ["evaluate", "invert", "visualise", "pointing"])
def test_a_model_that_only_the_file_names_is_not_loaded(studio: Studio, tmp_path: Path, evil: Path, command: str, model: str) -> None:
    path = tmp_path / "run.h5"
    name = model.format(evil=evil)
    with ca.open_run(path, "a") as run:
        run.set_attributes(model=name)
    words = ["evaluate", path, "--pointing", tmp_path / "boxes.json"] if command == "pointing" else \
        [command, path, studio.images, *COMMANDS[command]]
    done = call(*words)
    assert done.exit_code == 2, done.output
    assert f"is of the model '{name}', which is code of others to run" in done.stderr
    assert "pass --model with that name" in done.stderr
    assert not (tmp_path / "flag").exists()


def test_a_reward_by_its_name_and_what_is_not_of_the_file(studio: Studio, tmp_path: Path, evil: Path) -> None:
    """As `attribute` stores it: by the module's name, not by the path."""
    path = tmp_path / "run.h5"
    done = call("attribute", studio.model, studio.images, "--layer", "mix", "-o", path, "--areas", "2,4", "--device", "cpu", "--reward",
                f"{evil}:margin", "--no-classes")
    assert done.exit_code == 0, done.output
    with ca.open_run(path) as run:
        assert run.per_image("mix").settings.reward == "evil:margin"
    done = call("attribute", studio.model, studio.images, "--layer", "mix", "-o", path, "--areas", "2,4", "--device", "cpu", "--label",
                "plain", "--no-classes")
    assert done.exit_code == 0, done.output
    words = ["check", path, "--model", studio.model, "--images", studio.images, "--device", "cpu"]
    assert call(*words).exit_code == 2
    done = call(*words, "--reward", f"{evil}:margin")  # each label with its own reward
    assert done.exit_code == 0, done.output
    assert "12 images scored again" in done.stdout
    for command in ("evaluate", "visualise"):
        more = ["-o", tmp_path / "out"] if command == "visualise" else []
        words = [command, path, studio.images, *COMMANDS[command], *more, "--model", studio.model, "--device", "cpu"]
        assert call(*words).exit_code == 2
        done = call(*words, "--reward", f"{evil}:margin")
        assert done.exit_code == 0, done.output
    done = call("evaluate", path, studio.images, "--model", studio.model, "--label", "plain", "--reward", f"{evil}:margin")
    assert done.exit_code == 2
    assert "have no function as their reward; expected the function that they were asked with" in done.stderr


def test_models_by_a_vendors_own_name_need_no_words(tmp_path: Path) -> None:
    from chanattr.cli.trust import model_name

    for name in ("embedded", "efficientnet_lite0", "resnet50", "timm:resnet50.a1_in1k"):
        assert model_name(name, None, tmp_path) == name
    for stored in (None, "", 3, ["embedded"]):
        with pytest.raises(ca.InputError, match="does not say which model it is of"):
            model_name(stored, None, tmp_path)
    assert model_name("hf:a/b", "hf:a/b", tmp_path) == "hf:a/b"
