"""A fast part of docs/coverage.md is remade, and the table says what was found."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from chanattr.network.layers import Layer

ROOT = Path(__file__).resolve().parents[2]
FAST = ("squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("coverage_table", str(ROOT / "scripts" / "coverage_table"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("coverage_table", loader))  # type: ignore[arg-type]
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", FAST)
def test_the_tail_is_injection_in_torchvisions_small_ones(script: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "_seconds", lambda *_: [1.0, 2.0])  # speed is not tested here
    found = script.examine(name)
    assert len(found["layers"]) == script.LAYERS
    assert len({row["type"] for row in found["layers"]}) >= 4
    for row in found["layers"]:
        assert row["engine"] == "tail (export)", (row["layer"], row["reason"])
        assert row["difference"] <= script.LIMIT
        assert row["effect"] > 1e-3  # the masks matter, so that a wrong tail would show


def test_every_classification_architecture_is_named_once(script: ModuleType) -> None:
    names = script.architectures()
    assert len(names) == len(set(names)) >= 80 + 5
    assert {"alexnet", "vit_h_14", "regnet_y_128gf", "maxvit_t"} <= set(names)
    assert not [name for name in names if "quantized" in name]


def layer(name: str, kind: str, calls: int = 1, channels: int = 4) -> Layer:
    return Layer(name=name, type=kind, calls=calls, shape=(2, channels, 3, 3), channel_axis=1, channels=channels, grid=(3, 3))


def test_layers_are_of_different_kinds_and_depths(script: ModuleType) -> None:
    kinds = ["Conv2d", "ReLU", "Pool", "Norm", "Drop", "Act", "Conv2d"]
    body = [layer(f"body.{i}", kind, calls=1 + (i == 5)) for i, kind in enumerate(kinds)]
    layers = [layer("", "Net"), layer("body", "Sequential"), *body, layer("never", "Linear", calls=0), layer("one", "Linear", channels=1),
              layer("end", "Sequential"), layer("end.head", "Linear")]
    assert script.choose(layers) == ["body.1", "body.2", "body.3", "body.5@2", "body", "body.6"]


def test_dead_branches_come_to_life(script: ModuleType) -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3, 2)
            self.layer_scale = nn.Parameter(torch.full((3, 1, 1), 1e-6))
            nn.init.zeros_(self.norm.weight)
            nn.init.zeros_(self.head.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head((self.norm(x) * self.layer_scale).mean((2, 3)))

    model, x = Dead().eval(), 3 + torch.randn(2, 3, 8, 8)
    script.enliven(model, x)
    assert model.layer_scale.min() >= 0.5
    assert (model.norm.weight.min() >= 0.5, model.norm.training) == (True, False)
    assert model.norm.running_mean.mean() > 2
    assert (model(x)[0] - model(x)[1]).abs().max() > 1e-6


def test_what_is_kept_is_not_run_again_and_the_table_tells_it(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(engine: str, reason: str, gain: float) -> dict[str, Any]:
        return {"layer": "body", "type": "Conv2d", "shape": [2, 4, 3, 3], "engine": engine, "reason": reason, "difference": 3e-7,
                "effect": 0.5, "seconds": [1.0, gain]}

    layers = {"good": [row("tail (export)", "", 4.0), row("tail (export)", "", 2.0)], "odd": [row("replay", "torch.export failed: x", 1.5)]}
    found = [{"name": name, "size": 64, "parameters": 9, "seconds": 2.0, "noise": 2e-7, "torch": "2", "torchvision": "0", "layers": rows}
             for name, rows in layers.items()]
    for one in [*found, {"name": "gone", "skipped": "timm is not installed"}]:
        script.keep(script.kept_at(tmp_path, one["name"]), one)
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: pytest.fail("it was run again"))
    script.run_all(["good", "odd", "gone"], tmp_path)
    text = script.table([json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))])
    for part in ("2 architectures with random weights, 3 layers", "3 of 3 layers", "largest difference is 3.0e-07",
                 "from itself by up to 2.0e-07",
                 "replay: 1 architectures (odd)", "median 2.0, from 1.5 to 4.0",
                 "Not run: gone: timm is not installed",
                 "`body` (Conv2d): 4.0x", "* odd, `body`: replay: torch.export failed: x"):
        assert part in text
