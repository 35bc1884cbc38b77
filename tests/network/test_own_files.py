"""A model of one's own: a function in a file, and weights from a file, which are never unpickled."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import chanattr as ca
from chanattr.network.zoo import load_function, load_model
from tests.network.test_zoo import logits


@pytest.fixture(autouse=True)
def _imports_undone() -> Iterator[None]:
    """A file of a user stays imported; not from one test to the next."""
    path, names = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - names:
        if str(getattr(sys.modules[name], "__file__", "")).endswith("mine.py"):
            del sys.modules[name]


# A user's own file

FILE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)
    def forward(self, x):
        return self.head(x.mean((2, 3)))

def small(picture):
    return torch.full((3, 2, 2), float(picture.width))

def build(): return Net()
def pair(): return Net(), small
def triple(): return Net(), small, ["a", "b", "c", "d"]
def usual_with_names(): return Net(), None, ["a", "b", "c", "d"]
def four(): return Net(), small, [], 4
def number(): return 3
def no_callable(): return Net(), 5
def fails(): raise KeyError("weights")
def reward(logits, targets): return logits.sum(1)
held = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(("function", "shape", "names"), [
    ("build", (3, 224, 224), ()), ("pair", (3, 2, 2), ()), ("triple", (3, 2, 2), ("a", "b", "c", "d")),
    ("usual_with_names", (3, 224, 224), ("a", "b", "c", "d")),
])
def test_what_a_function_may_give(file: Path, function: str, shape: tuple[int, ...], names: tuple[str, ...]) -> None:
    loaded = load_model(f"{file}:{function}")
    assert not loaded.module.training
    assert loaded.preprocess(Image.new("RGB", (300, 400))).shape == shape
    assert loaded.class_names == names
    assert logits(loaded, torch.rand(2, *shape)).shape == (2, 4)
    assert (f"{file}:{function}" in loaded.preprocessing) == (shape[1] == 2)


@pytest.mark.parametrize(("function", "message"), [
    ("four", r"gave \(Net, function, list, int\); expected a torch.nn.Module"),
    ("number", r"gave \(int\); expected a torch.nn.Module"),
    ("no_callable", r"gave \(Net, int\); expected a torch.nn.Module"),
    ("fails", "raised KeyError: 'weights'; expected a module"),
    ("nothing", "has no function 'nothing'; expected one of those in it: Net, build, fails"),
    ("held", "has no function 'held'"),
])
def test_what_a_function_may_not_give(file: Path, function: str, message: str) -> None:
    with pytest.raises(ca.ModelError, match=message):
        load_model(f"{file}:{function}")


def test_a_function_makes_its_own_weights(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ca.ModelError, match=r"asked for with random weights; .* a function makes its own weights"):
        load_model(f"{file}:build", weights="random")
    state = {"head.weight": torch.ones(4, 3), "head.bias": torch.zeros(4)}
    save_file(state, tmp_path / "w.safetensors")
    loaded = load_model(f"{file}:build", weights=str(tmp_path / "w.safetensors"))
    torch.testing.assert_close(loaded.module(torch.ones(1, 3, 2, 2)), torch.full((1, 4), 3.0))


@pytest.mark.parametrize(("words", "message"), [
    ("nothere.py:reward", "names no Python file; expected path/to/file.py:function"),
    ("reward", "names no Python file"),
])
def test_a_function_that_is_not_there(words: str, message: str) -> None:
    with pytest.raises(ca.InputError, match=message):
        load_function(words)


def test_a_file_that_raises_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import nothere_at_all")
    with pytest.raises(ca.InputError, match=r"mine\.py raised ModuleNotFoundError: .*nothere_at_all.*; expected a file that runs"):
        load_function(f"{path}:reward")
    assert "mine" not in sys.modules
    path.write_text(FILE)
    assert callable(load_function(f"{path}:reward"))


def test_a_file_is_run_once_so_that_what_it_makes_can_be_pickled(file: Path) -> None:
    reward, build = load_function(f"{file}:reward"), load_function(f"{file}:build")
    assert pickle.loads(pickle.dumps(reward)) is reward
    assert type(pickle.loads(pickle.dumps(build()))) is type(build())


def test_worker_processes_find_a_users_function(file: Path) -> None:
    reward = load_function(f"{file}:reward")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        total = pool.apply(reward, (torch.ones(2, 3), torch.zeros(2)))
    assert total.tolist() == [3.0, 3.0]


def test_a_file_named_like_a_module_does_not_replace_it(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("def build(): return 'mine'")
    assert load_function(f"{tmp_path / 'json.py'}:build")() == "mine"
    assert sys.modules["json"] is json


# Weights from a file


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt"])
def test_weights_from_a_file(tmp_path: Path, name: str) -> None:
    state = {key: value.clone() for key, value in load_model("embedded", weights="random").module.state_dict().items()}
    state["classifier.1.bias"] += 1
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    loaded = load_model("embedded", weights=str(tmp_path / name)).module.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


class Trap:
    """Pickled, it writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_file_is_never_unpickled(tmp_path: Path) -> None:
    torch.save({"classifier.1.bias": Trap(tmp_path / "sprung")}, tmp_path / "w.pth")
    with pytest.raises(ca.ModelError, match=r"cannot be read .*a file that needs unpickling is refused"):
        load_model("embedded", weights=str(tmp_path / "w.pth"))
    assert not (tmp_path / "sprung").exists()


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = load_model("embedded").module.state_dict()
    state["extra.weight"] = state.pop("features.0.weight")
    state["classifier.1.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ca.ModelError, match=r"do not fit embedded: features.0.weight missing; extra.weight unknown; classifier.1.bias is "
                                            r"\(3,\), expected \(1000,\) \(3 in all\)"):
        load_model("embedded", weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize(("held", "message"), [
    ({"epoch": 3, "state_dict": {}}, "hold a dict of epoch, state_dict; expected a state dict of tensors"),
    ([1, 2], "hold a list; expected a state dict"),
])
def test_weights_that_are_no_state_dict(tmp_path: Path, held: object, message: str) -> None:
    torch.save(held, tmp_path / "w.pth")
    with pytest.raises(ca.ModelError, match=message):
        load_model("embedded", weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "rndom"])
def test_weights_that_are_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ca.ModelError, match=f"{name} cannot be read .*expected 'random', a .safetensors file"):
        load_model("embedded", weights=str(tmp_path / name))


def test_text_for_weights(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_text("no tensors")
    with pytest.raises(ca.ModelError, match=r"cannot be read .*SafetensorError"):
        load_model("embedded", weights=str(tmp_path / "w.safetensors"))


def test_a_file_without_its_function_is_told_so(file: Path) -> None:
    with pytest.raises(ca.ModelError, match=r"is a file, and not yet a model; expected the function in it .*; name it as .*\.py:FUNCTION"):
        load_model(str(file))


def test_a_loaded_model_goes_to_the_device_asked(file: Path) -> None:
    assert next(load_model(f"{file}:build", device="meta").module.parameters()).device.type == "meta"


def test_a_new_module_is_made_at_each_call(file: Path) -> None:
    one, other = load_model("embedded").module, load_model("embedded").module
    assert isinstance(one, nn.Module)
    assert one is not other
