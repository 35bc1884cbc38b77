"""Hooks put masks in, take activations out, and leave the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.network.names import kind
from tests.models import TORCH_2_6, ChannelsLast, Plain, Tokens, Twice, images, seeded


def state(model: nn.Module) -> dict[str, Any]:
    """All that must be as it was."""
    return {
        "hooks": [(name, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for name, m in model.named_modules()],
        "training": [m.training for m in model.modules()],
        "asked": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    pairs = zip(one["grads"], other["grads"], strict=True)
    return all(one[k] == other[k] for k in ("hooks", "training", "asked")) and all(
        (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def lived_in() -> Plain:
    """A model in the middle of its life: mixed training flags, a frozen part, gradients, a user's own hook."""
    model = seeded(Plain)
    model.norm.train()
    model.mix.weight.requires_grad_(False)
    seeded_input = images()
    model.eval()
    model(seeded_input).sum().backward()
    model.relu.train()
    model.head.register_forward_hook(lambda module, inputs, output: None)
    return model


CONTEXTS: dict[str, Callable[[nn.Module], AbstractContextManager[Any]]] = {
    "inject": lambda model: ca.inject(model, "mix", torch.tensor([1.0, 0, 1, 0, 1, 0])),
    "capture": lambda model: ca.capture(model, ["conv", "relu", "head"]),
    "frozen": lambda model: ca.frozen(model),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("ending", [None, RuntimeError, KeyboardInterrupt])
def test_model_is_left_as_found(context: str, ending: type[BaseException] | None) -> None:
    model = lived_in()
    before, output = state(model), model.eval()(images())
    model.relu.train()

    def run() -> None:
        with CONTEXTS[context](model):
            model(images())
            if ending is not None:
                raise ending("in the middle")

    if ending is None:
        run()
    else:
        with pytest.raises(ending, match="in the middle"):
            run()
    assert same(before, state(model))
    assert torch.equal(model.eval()(images()), output)


@pytest.mark.parametrize("ending", [None, RuntimeError, KeyboardInterrupt])
def test_per_image_leaves_the_model_as_found(ending: type[BaseException] | None) -> None:
    model = lived_in()
    before = state(model)

    def stop(done: int, total: int) -> None:
        if ending is not None:
            raise ending("in the middle")

    def run() -> None:
        ca.per_image(model, images(), "mix", areas=(2,), progress=stop)

    if ending is None:
        run()
    else:
        with pytest.raises(ending, match="in the middle"):
            run()
    assert same(before, state(model))


def test_a_model_that_raises_is_left_as_found() -> None:
    model = lived_in()
    before = state(model)
    with pytest.raises(RuntimeError, match="size"), ca.inject(model, "mix", [1] * 6):
        model(torch.zeros(1, 5, 8, 8))
    assert same(before, state(model))


def test_inject_is_the_mask_times_the_activation() -> None:
    model, x = seeded(Plain), images()
    mask = torch.tensor([1.0, 0, 0.5, 0, 1, 1])
    with ca.capture(model, ["mix"]) as seen:
        model(x)
    expected = model.head(model.pool(model.last(seen["mix"] * mask[:, None, None])).flatten(1))
    with ca.inject(model, "mix", mask):
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("fill", [2.0, torch.arange(6.0)])
def test_a_dropped_channel_becomes_the_fill(fill: float | Tensor) -> None:
    model = seeded(Plain)
    with ca.inject(model, "mix", [0] * 6, fill=fill), ca.capture(model, ["mix"]) as seen:
        model(images())
    values = torch.as_tensor(fill).expand(6)
    assert torch.equal(seen["mix"], values[None, :, None, None].expand_as(seen["mix"]))


def test_a_row_of_masks_an_image() -> None:
    model, x = seeded(Plain), images()
    masks = torch.eye(6)[:3]
    with ca.inject(model, "mix", masks):
        together = model(x)
    for row in range(3):
        with ca.inject(model, "mix", masks[row]):
            torch.testing.assert_close(model(x[row:row + 1]), together[row:row + 1])


def test_capture_keeps_what_an_in_place_module_overwrites() -> None:
    model = seeded(Plain)
    with ca.capture(model, ["conv"]) as seen:
        model(images())
    assert torch.equal(seen["conv"], model.conv(images()))
    assert (seen["conv"] < 0).any()


def test_tuples_with_none_keep_their_other_parts() -> None:
    model = seeded(Tokens)
    given: list[Any] = []
    model.block.register_forward_hook(lambda module, inputs, output: given.append(output))
    with ca.inject(model, "block", [0] * 8):
        model(images())
    first, masked, rest = given[0]
    assert first is None
    assert set(rest) == {"rest"}
    with ca.capture(model, ["block"]) as seen:
        model(images())
    assert seen["block"].shape == masked.shape == (3, 5, 8)


def test_channels_last_is_masked_along_its_last_axis() -> None:
    model = seeded(ChannelsLast)
    with ca.inject(model, "wide", [0] * 9 + [1]), ca.capture(model, ["wide"]) as seen:
        model(images())
    assert seen["wide"].shape == (3, 4, 4, 10)
    assert seen["wide"][..., :9].abs().max() == 0
    assert seen["wide"][..., 9].abs().max() > 0


def test_a_call_is_named_or_refused() -> None:
    model = seeded(Twice)
    with pytest.raises(ca.LayerError, match=r"more than once.*act@1, act@2"), ca.inject(model, "act", [1] * 5):
        model(images())
    outputs = []
    for call in (1, 2):
        with ca.inject(model, f"act@{call}", [0] * 5):
            outputs.append([model(images()) for _ in range(2)])
    assert torch.equal(outputs[0][0], outputs[0][1])  # calls are counted anew in every pass
    assert torch.equal(outputs[1][0], model.head.bias.expand(3, -1))
    assert not torch.equal(outputs[0][0], outputs[1][0])


@pytest.mark.parametrize(("layer", "message"), [
    ("act@3", r"'act' fires 2 time\(s\) in a forward pass, but call 3 was asked"),
    ("aux", "'aux' never fires in a forward pass"),
    ("aux:input", "'aux:input' never fires in a forward pass"),
])
def test_a_call_that_never_comes_is_refused(layer: str, message: str) -> None:
    """The pass would run unmasked, and nothing would be captured."""
    model = seeded(Twice)
    model.aux = nn.Linear(5, 5)
    before = state(model)
    for context in (ca.inject(model, layer, [0] * 5), ca.capture(model, [layer])):
        with pytest.raises(ca.LayerError, match=message), context:
            model(images())
    assert same(before, state(model))


def test_one_name_in_the_place_of_several_is_refused() -> None:
    """Its letters would be taken for names."""
    with pytest.raises(ca.InputError, match=r"layers='act'; expected a list .*; put a single name in a list"), \
            ca.capture(seeded(Twice), "act"):
        pass


def test_a_mask_of_another_size_is_refused() -> None:
    model = seeded(Plain)
    with pytest.raises(ca.InputError, match=r"mask for layer 'mix' has shape \(5,\); expected \[6\] or \[3, 6\]"), \
            ca.inject(model, "mix", [1] * 5):
        model(images())


def test_no_such_layer_suggests_one() -> None:
    with pytest.raises(ca.LayerError, match="no layer 'mixx' in Plain; did you mean 'mix'"), ca.inject(seeded(Plain), "mixx", [1]):
        pass


def test_wrappers_are_seen_through() -> None:
    model = seeded(Plain)
    wrapped = nn.DataParallel(model)
    with ca.inject(wrapped, "mix", [0] * 6), ca.capture(wrapped, ["module.mix"]) as seen:
        wrapped(images())
    assert seen["mix" if "mix" in seen else "module.mix"].abs().max() == 0


def compiled(net: nn.Module) -> nn.Module:
    return torch.compile(net, backend="eager")  # type: ignore[return-value]


def compiled_in_place(net: nn.Module) -> nn.Module:
    net.compile(backend="eager")
    return net


@pytest.mark.parametrize("way", [compiled, compiled_in_place, lambda net: nn.DataParallel(compiled(net))])
def test_a_compiled_model_that_has_run_is_masked_and_captured(way: Callable[[nn.Module], nn.Module]) -> None:
    x, plain = images(), seeded(Plain)
    model = way(seeded(Plain))
    free = model(x)
    mask = torch.tensor([1.0, 0, 1, 0, 0, 1])
    with ca.inject(plain, "mix", mask), ca.capture(plain, ["mix"]) as expected:
        masked = plain(x)
    with ca.inject(model, "mix", mask), ca.capture(model, ["mix"]) as seen:
        torch.testing.assert_close(model(x), masked)
    assert not torch.equal(free, masked)
    torch.testing.assert_close(seen["mix"], expected["mix"])
    torch.testing.assert_close(model(x), free)  # nothing of the mask stays in compiled code
    assert [layer.calls for layer in ca.layers(model, x)] == [layer.calls for layer in ca.layers(plain, x)]
    assert torch.compiler.set_stance("default").prev.stance == "default"


def test_a_model_first_run_inside_stays_unmasked_afterwards() -> None:
    model = compiled(seeded(Plain))
    with ca.inject(model, "mix", [0] * 6):
        model(images())
    torch.testing.assert_close(model(images()), seeded(Plain)(images()))


@pytest.mark.parametrize("engine", [
    pytest.param("tail", marks=pytest.mark.skipif(TORCH_2_6, reason="torch 2.6 exports no compiled model")), "injection"])
def test_a_compiled_model_is_searched_as_the_plain_one(engine: str) -> None:
    model = compiled(seeded(Plain))
    model(images())
    found = [ca.per_image(net, images(), "mix", areas=(2,), engine=engine) for net in (model, seeded(Plain))]
    np.testing.assert_array_equal(found[0].masks, found[1].masks)
    np.testing.assert_allclose(found[0].scores, found[1].scores, rtol=1e-6)
    assert found[0].engine == found[1].engine


def test_a_wrapper_has_the_name_of_what_it_wraps() -> None:
    model = seeded(Plain)
    assert {kind(model), kind(nn.DataParallel(model)), kind(compiled(nn.DataParallel(model)))} == {"Plain"}


def test_the_whole_model_is_a_layer_of_every_pass() -> None:
    model = seeded(Plain)
    for net in (model, nn.DataParallel(model)):
        with ca.inject(net, "", [0, 1, 0, 0]):
            for _ in range(2):
                assert torch.equal(net(images()) != 0, torch.tensor([[False, True, False, False]] * 3))


@pytest.mark.parametrize("layer", ["mix:input", "same"])
@pytest.mark.parametrize("engine", ["auto", "injection"])
def test_what_others_overwrite_later_does_not_spoil_the_slopes(engine: str, layer: str) -> None:
    class Overwritten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.same, self.mix, self.head = nn.Linear(3, 6), nn.Identity(), nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x += self.mix(self.same(x)).relu()
            return self.head(x)

    model, x = seeded(Overwritten), torch.rand(3, 3)
    found = ca.per_image(model, x, layer, areas=[2], engine=engine)
    with torch.no_grad(), ca.inject(model, layer, found.masks[:, 0]):
        logits = model(x)
    np.testing.assert_allclose(found.scores[:, 0], logits[range(3), found.targets.tolist()].numpy(), atol=1e-6)
