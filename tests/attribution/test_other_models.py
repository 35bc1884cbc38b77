"""Models whose output is no logits (through `score=`), quantised ones, and models that are wrapped, compiled or in half precision."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from tests.models import Plain, images, seeded

torchvision: Any = pytest.importorskip("torchvision")
QUICK = ca.ExactSearch(relaxed_steps=2, binary_steps=3)
QUESTION: dict[str, Any] = {"areas": (2, 5), "search": QUICK, "refine": False}


def class_maps(output: dict[str, Tensor]) -> Tensor:
    """The mean of each class's map: logits of a segmentation model."""
    return output["out"].mean((2, 3))


def detected(output: list[dict[str, Tensor]]) -> Tensor:
    """The sum of each class's scores over the boxes of an image: logits of a detection model of 4 classes."""
    return torch.stack([boxes["scores"].new_zeros(4).index_put((boxes["labels"],), boxes["scores"], accumulate=True) for boxes in output])


def check_scores(found: ca.ImageAttribution, model: nn.Module, x: Tensor, score: Any) -> None:
    """The stored scores are those of the model itself with the sets put in."""
    with torch.no_grad(), ca.frozen(model):
        for row in range(len(x)):
            with ca.inject(model, found.layer, found.channel_mask(row, int(found.areas[0]))):
                seen = score(model(x[row:row + 1]))[0, found.targets[row]].item()
            assert found.scores[row, 0] == pytest.approx(seen, rel=1e-3, abs=1e-5)


def test_segmentation() -> None:
    make = torchvision.models.segmentation.lraspp_mobilenet_v3_large
    model, x = seeded(lambda: make(weights=None, weights_backbone=None, num_classes=5)), images(2, 64)
    found = ca.per_image(model, x, "backbone.4", score=class_maps, **QUESTION)
    assert found.settings.score.endswith(":class_maps")
    check_scores(found, model, x, class_maps)
    with pytest.raises(ca.ModelError, match=r"gave a tensor of shape \(2, 5, 64, 64\); expected logits .*; pass score="):
        ca.per_image(model, x, "backbone.4", **QUESTION)


def test_detection() -> None:
    make = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    model = seeded(lambda: make(weights=None, weights_backbone=None, num_classes=4, box_score_thresh=0.0, min_size=64, max_size=64))
    x = images(2, 64)
    found = ca.per_image(model, x, "backbone.body.6", score=detected, **QUESTION)  # a tensor goes for a list of images of one size
    assert not found.engine.startswith("tail")
    assert np.isfinite(found.scores).all()
    check_scores(found, model, x, detected)


def test_quantised_models_are_refused_and_take_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = next((name for name in ("x86", "fbgemm", "qnnpack") if name in torch.backends.quantized.supported_engines), "")
    if not engine:
        pytest.skip("this torch has no quantised kernels")
    monkeypatch.setattr(torch.backends.quantized, "engine", engine)
    whole, integer = QuantisedNet(), convert(QuantisedNet())
    x = images(2)
    with pytest.raises(ca.ModelError, match=r"QuantisedNet is quantised \(ConvReLU2d 'body.0'\), and no .*; expected a model in floating"):
        ca.per_image(integer, x, "body.0", **QUESTION)
    found = ca.per_image(whole, x, "body.1", areas=(3,), search=QUICK)
    with torch.no_grad(), ca.inject(integer, "body.0", found.channel_mask(0, 3)), ca.capture(integer, ["body.0"]) as seen:
        integer(x)
    kept = seen["body.0"].dequantize().abs().amax((0, 2, 3)) > 0
    assert not kept[~torch.from_numpy(found.channel_mask(0, 3))].any()


class QuantisedNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        quantization = torch.ao.quantization
        self.before, self.after = quantization.QuantStub(), quantization.DeQuantStub()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.head(self.pool(self.body(self.before(x))).flatten(1)))


def convert(model: nn.Module) -> nn.Module:
    """The model with integer kernels, its ranges taken from random images."""
    quantization = torch.ao.quantization
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is to move to another package
        fused = quantization.fuse_modules(model, [["body.0", "body.1"]])
        fused.qconfig = quantization.default_qconfig
        ready = quantization.prepare(fused)
        ready(images(8))
        return quantization.convert(ready)


def test_parallel_and_compiled_models_are_searched_as_the_plain_one() -> None:
    model, x = seeded(Plain), images(5)
    plain = ca.per_image(model, x, "mix", **QUESTION)
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        found = ca.per_image(wrapped, x, "mix", **QUESTION)
        assert found.layer == "mix"
        assert len(found) == 5
        assert np.array_equal(found.masks, plain.masks)
        np.testing.assert_allclose(found.scores, plain.scores, rtol=1e-5)


class Loses(nn.Module):
    """Gives one row less than it was given, as what is spread over devices may."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = seeded(Plain)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[:len(x) // 2 * 2]


def test_a_model_that_loses_images_is_refused() -> None:
    with pytest.raises(ca.ModelError, match=r"gave logits .*; expected one row an image"):
        ca.per_image(Loses(), images(3), "inner.mix", **QUESTION)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model, x = seeded(Plain), images(3)
    whole = ca.per_image(model, x, "mix", **QUESTION)
    half = ca.per_image(seeded(Plain).to(dtype), x.to(dtype), "mix", targets=whole.targets.tolist(), **QUESTION)
    assert half.masks.sum(-1).tolist() == [[2, 5]] * 3
    np.testing.assert_allclose(half.scores, whole.scores, atol=0.05)
