"""`NAME:input` as a layer, and attention heads there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.network.heads import heads_of
from chanattr.network.layers import describe, describe_all
from chanattr.network.tail import bind
from tests.models import Plain, Twice, images, seeded

WIDTH, HEADS = 12, 3


class Attention(nn.Module):
    """Heads side by side, then a projection that is called; by windows of tokens where asked."""

    def __init__(self, windows: int = 1) -> None:
        super().__init__()
        self.num_heads, self.windows = HEADS, windows
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        images, tokens, _ = x.shape
        x = x.reshape(images * self.windows, tokens // self.windows, WIDTH)
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = (q @ k.transpose(2, 3)).softmax(3) @ v
        return self.proj(x.transpose(1, 2).flatten(2)).reshape(images, tokens, WIDTH)


class Transformer(nn.Module):
    def __init__(self, windows: int = 1) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.attn, self.fc = Attention(windows), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.fc((x + self.attn(x)).mean(1))


class Sequences(nn.Module):
    """[L, N, K]: rows of the images are not one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Conv2d(3, 6, 2, stride=2), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(x).flatten(2).permute(2, 0, 1)).relu().mean(0))


@pytest.mark.parametrize("engine", ["tail", "injection"])
def test_an_input_is_masked_for_its_module_only(engine: str) -> None:
    model, x = seeded(Plain), images()
    with torch.no_grad(), ca.capture(model, ["mix:input", "norm"]) as seen:
        model(x)
    assert torch.equal(seen["mix:input"], seen["norm"])
    mask = torch.tensor([1.0, 0, 1, 0, 1, 1])
    with torch.no_grad(), ca.inject(model, "mix:input", mask):
        there = model(x)
    with torch.no_grad(), ca.inject(model, "norm", mask):
        torch.testing.assert_close(model(x), there)
    tail = bind(model, x[:2], ["mix:input"], engine=engine)["mix:input"]
    with torch.no_grad():
        torch.testing.assert_close(tail.logits(tail.stem(x), mask.expand(3, -1), torch.arange(3)), there)


def test_inputs_are_described_and_named_as_one() -> None:
    model = seeded(Transformer)
    layer = describe(model, images(2), "attn.proj:input")
    assert (layer.name, layer.type, layer.shape, layer.channel_axis, layer.grid) == ("attn.proj:input", "Linear", (2, 16, 12), 2, (1, 16))
    wrapped = nn.DataParallel(model)
    layers = describe_all(wrapped, images(2), ["module.attn.proj:input", "attn.proj:input@1"])
    assert [layer.name for layer in layers] == ["attn.proj:input", "attn.proj:input"]


def test_the_call_of_an_input_is_named_or_refused() -> None:
    model = seeded(Twice)
    with pytest.raises(ca.LayerError, match=r"layer 'act:input' fires 2 times .* use act:input@1 to act:input@2"):
        describe(model, images(2), "act:input")
    assert describe(model, images(2), "act:input@2").shape == (2, 5, 4, 4)
    with torch.no_grad(), ca.capture(model, ["act:input@2", "second"]) as seen:
        model(images(2))
    assert torch.equal(seen["act:input@2"], seen["second"])
    with pytest.raises(ca.LayerError, match=r"no layer 'ac' in Twice; did you mean 'act'"):
        describe(model, images(2), "ac:input")


def test_hooks_of_inputs_go_also_when_an_error_passes() -> None:
    model = seeded(Plain)
    for context in (ca.inject(model, "mix:input", torch.ones(6)), ca.capture(model, ["mix:input"])):
        with pytest.raises(ValueError, match="mine"), context:
            raise ValueError("mine")
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("windows", [1, 4])
@pytest.mark.parametrize("engine", ["tail", "injection"])
def test_the_best_heads_are_found(windows: int, engine: str) -> None:
    model, x = seeded(lambda: Transformer(windows)), images(3)
    found = ca.per_image(model, x, "attn.proj:input", areas=(1, 2, 3), group="heads", engine=engine, targets=[0, 1, 2])
    assert (found.settings.group, found.groups.tolist(), found.masks.shape) == ("heads", [0] * 4 + [1] * 4 + [2] * 4, (3, 3, 3))
    for row in range(3):
        scores = []
        for head in range(HEADS):
            with torch.no_grad(), ca.inject(model, "attn.proj:input", found.groups == head):
                scores.append(float(model(x[row:row + 1])[0, row]))
        assert found.masks[row, 0].tolist() == [s == max(scores) for s in scores]
        assert found.scores[row, 0] == pytest.approx(max(scores), rel=1e-5)


def test_rows_that_do_not_follow_their_image_are_refused() -> None:
    with pytest.raises(ca.LayerError, match=r"layer 'mix:input' gives 16 rows for 2 images .* choose another layer"):
        describe(seeded(Sequences), images(2), "mix:input")


def heads(model: nn.Module, x: Tensor, layer: str) -> int:
    return heads_of(model, describe(model, x, layer))


def test_where_heads_cannot_be_told() -> None:
    model, x = seeded(Transformer), images(2)
    assert heads(model, x, "attn.proj:input") == HEADS
    with pytest.raises(ca.LayerError, match=r"layer 'attn.proj', which is not the input .* choose 'attn.proj:input', or pass group="):
        heads(model, x, "attn.proj")
    with pytest.raises(ca.LayerError, match=r"layer 'attn', which is not the input .* choose 'attn.proj:input', or pass group="):
        heads(model, x, "attn")
    with pytest.raises(ca.LayerError, match=r"tells no number of heads; expected one of num_heads, .* pass group= the channels of a head"):
        heads(model, x, "fc:input")
    layer = describe(model, x, "attn.proj:input")
    model.attn.num_heads = 5
    with pytest.raises(ca.LayerError, match=r"of 12 channels: its attention tells \[5\] heads; expected one of .* divides"):
        heads_of(model, layer)


def test_torchvision_uses_the_projection_as_weights() -> None:
    torchvision: Any = pytest.importorskip("torchvision")
    vit = torchvision.models.VisionTransformer(image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8).eval()
    swin = torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4]).eval()
    for model, layer in ((vit, "encoder.layers.encoder_layer_0.self_attention.out_proj:input"), (swin, "features.1.0.attn.proj:input")):
        with pytest.raises(ca.LayerError, match=r"is never called: \w+Attention .* uses the weights .*; expected a module that is called"):
            ca.per_image(model, images(2, 32), layer, group="heads")


def test_heads_of_timm() -> None:
    timm: Any = pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, num_classes=5).eval()
    assert heads(vit, images(2, 32), "blocks.0.attn.proj:input") == 3
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=4, num_classes=5, depths=(1, 1, 1, 1)).eval()
    found = ca.per_image(swin, images(2, 64), "layers.1.blocks.0.attn.proj:input", areas=(2,), group="heads", engine="tail")
    assert found.masks.shape == (2, 1, 6)


def test_heads_of_transformers() -> None:
    hf: Any = pytest.importorskip("transformers", reason="the extra 'hf' is not installed")
    vit = hf.ViTForImageClassification(hf.ViTConfig(image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=1, num_labels=5,
                                                    num_attention_heads=3, intermediate_size=24)).eval()
    swin = hf.SwinForImageClassification(hf.SwinConfig(image_size=32, patch_size=2, embed_dim=12, depths=[1, 1], num_heads=[2, 3],
                                                       window_size=4, num_labels=5)).eval()
    for model, count in ((vit, [3]), (swin, [2, 3])):
        layers = [name for name, _ in model.named_modules() if name.endswith(("attention.output.dense", "attention.o_proj"))]
        assert [heads(model, images(2, 32), f"{layer}:input") for layer in layers] == count
