"""Replay gives what injection gives, runs only what a layer changes, and leaves the model as it was found."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.network.recording import forwards
from chanattr.network.replay import make_plan
from chanattr.network.stem import join_stems, take_stem
from chanattr.network.tail import ReplayTail, bind
from tests.models import Branching, ChannelsLast, Dataclass, Plain, Residual, Tokens, Twice, images, seeded


class Odd(nn.Module):
    """What no export takes, and every kind of module call beside a layer: a body in place, one that gives a tuple, shared modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True))
        self.split = Split()
        self.act = nn.ReLU(inplace=True)
        self.layer, self.mix = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        left, right, name = self.split(x)
        if float(left.detach().mean()) > 1e6 or name != "halves":
            raise RuntimeError("too bright")
        y = self.act(self.layer(self.act(self.mix(torch.cat([left, right], 1)))))
        return self.head(self.act(self.mix(y + x)).mean((2, 3)))


class Split(nn.Module):
    """Gives two halves, one of them through a convolution, and a word."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, str]:
        return self.left(x[:, :3]), x[:, 3:], "halves"


class Scalar(Odd):
    """A module gives a number for all images beside its maps: nothing that can be gathered, so it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = WithLoss(self.first)

    def forward(self, x: Tensor) -> Tensor:
        x, loss = self.first(x)
        return self.head(self.layer(x).relu().mean((2, 3))) + 0 * loss.abs().item()


class WithLoss(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(x)
        return x, x.mean()


class Overwriting(nn.Module):
    """Uses what an activation in place left in its input, not what it gave; the sum in place is of nothing that is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.layer = nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.Conv2d(5, 5, 1)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x -= x.mean((1, 2, 3), keepdim=True)
        self.act(x)
        return self.head((self.layer(x) + x).mean((2, 3))) if float(x.detach().sum()) >= 0 else x


CASES: list[tuple[Any, str]] = [
    (Branching, "body"), (Odd, "layer"), (Odd, "first"), (Odd, "first.0"), (Odd, "act@1"), (Odd, "act@2"), (Odd, "act@3"), (Odd, "mix@2"),
    (Odd, "layer:input"), (Odd, "act:input@2"), (Odd, "split.left:input"), (Odd, "split"), (Odd, "split.left"), (Scalar, "layer"),
    (Overwriting, "layer"), (Overwriting, "conv"), (Plain, "conv"), (Plain, "relu"), (Plain, "mix"), (Plain, "last"), (Plain, "pool"),
    (Residual, "branch"), (Tokens, "block"), (Tokens, "norm"), (ChannelsLast, "wide"), (Twice, "act@1"), (Twice, "act@2"),
    (Dataclass, "body")]


@pytest.mark.parametrize(("build", "name"), CASES)
def test_replay_equals_injection(build: Any, name: str) -> None:
    model, x = seeded(build), images(4)
    fast, slow = bind(model, x, [name], engine="replay")[name], bind(model, x, [name], engine="injection")[name]
    assert isinstance(fast, ReplayTail)
    rows = torch.tensor([3, 0, 1, 1, 2, 0, 3])
    results = []
    for tail in (fast, slow):
        masks = torch.rand(7, tail.layer.channels, generator=torch.Generator().manual_seed(4)).requires_grad_()
        logits = tail.logits(tail.stem(x), masks, rows, fill=torch.full((tail.layer.channels,), 0.3))
        results.append((logits.detach(), torch.autograd.grad(logits.square().sum(), masks)[0]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)
    assert results[0][1].abs().max() > 0


def test_what_finished_before_the_layer_does_not_run_again() -> None:
    model, x = seeded(Odd), images(3)
    tail = bind(model, x, ["layer"], engine="replay")["layer"]
    stem = tail.stem(x)
    ran: list[str] = []
    inside = {"first.0": model.first[0], "first.1": model.first[1], "split.left": model.split.left}
    for module in (*inside.values(), model.mix, model.layer):
        module.forward = _noted(module.forward, module, ran, model)  # the model's own, as far as replay knows
    tail.logits(stem, torch.ones(3, 6), torch.arange(3))
    assert ran == ["mix"]  # the call after the layer; that before it, the layer and all in `first` and `split` are answered


def _noted(own: Any, module: nn.Module, ran: list[str], model: nn.Module) -> Any:
    name = next(name for name, other in model.named_modules() if other is module)

    def forward(*given: Any) -> Any:
        ran.append(name)
        return own(*given)
    return forward


def test_only_what_is_still_read_is_kept() -> None:
    plan = make_plan(seeded(Odd), images(), "layer", None)
    assert [(step.module, bool(step.places)) for step in plan.steps] == [
        ("first", True), ("split", True), ("mix", True), ("act", True), ("layer", True)]
    kept = [sum(place >= 0 for place in step.places) for step in plan.steps]
    assert kept == [1, 2, 0, 0, 0]  # one half is a view of what `first` gave, which is read after the layer
    chain = make_plan(seeded(Plain), images(), "mix", None)
    assert (len(chain.steps), chain.sides) == (4, 0)


def test_what_cannot_be_gathered_runs() -> None:
    plan = make_plan(seeded(Scalar), images(), "layer", None)
    assert [step.module for step in plan.steps] == ["first.body", "layer"]


class Turning(nn.Module):
    """Calls other modules for dark images than for bright ones."""

    def __init__(self) -> None:
        super().__init__()
        self.dark, self.bright, self.body = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 5, 3)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bright(x) if x.mean().item() > 0 else self.dark(x)
        return self.head(self.body(x).relu().mean((2, 3)))


def test_images_that_go_another_way_are_scored_by_injection() -> None:
    model, x = seeded(Turning), images(4)
    tail = bind(model, x[:2], ["body"])["body"]
    assert tail.engine == "replay"
    plain = bind(model, x, ["body"], engine="injection")["body"]
    masks, rows = (torch.rand(4, 5, generator=torch.Generator().manual_seed(1)) < 0.5).float(), torch.arange(4)
    for batch in (x, -x):
        torch.testing.assert_close(tail.logits(tail.stem(batch), masks, rows), plain.logits(plain.stem(batch), masks, rows))
    joined = join_stems([tail.stem(x[:2]), tail.stem(-x[2:])])
    for half, batch in ((slice(0, 2), x[:2]), (slice(2, 4), -x[2:])):
        stem = take_stem(joined, rows[half])
        torch.testing.assert_close(tail.logits(stem, masks[:2], rows[:2]), plain.logits(plain.stem(batch), masks[:2], rows[:2]))


def state_of(model: nn.Module) -> list[Any]:
    """All that must be as it was found: attributes of every module, the forward that runs, hooks, flags, and weights bit by bit."""
    found: list[Any] = []
    for name, module in model.named_modules():
        found.append((name, list(vars(module)), vars(module).get("forward"), module.training, list(module._forward_hooks.items()),
                      list(module._forward_pre_hooks.items())))
    return [*found, *((p.requires_grad, p.grad, p._version, p.detach().clone().numpy().tobytes()) for p in model.parameters())]


@pytest.mark.parametrize("where", ["bind", "stem", "logits"])
def test_the_model_is_left_as_found_also_by_an_exception(where: str) -> None:
    model, x = seeded(Odd).train(), images(3)
    own = model.mix.forward
    model.mix.forward = own  # an attribute of the instance that must come back
    model.layer.register_forward_hook(lambda *_: None)
    before = state_of(model)
    tail = bind(model, x, ["layer"], engine="replay")["layer"]
    stem = tail.stem(x)
    tail.logits(stem, torch.ones(3, 6), torch.arange(3))
    assert state_of(model) == before
    bright = torch.full_like(x, 1e30)
    wrong = dataclasses.replace(stem, sides=tuple(side + 1e30 for side in stem.sides))
    failing = {"bind": lambda: bind(model, bright, ["layer"], engine="replay"), "stem": lambda: tail.stem(bright),
               "logits": lambda: tail.logits(wrong, torch.ones(3, 6), torch.arange(3))}
    with pytest.raises(RuntimeError, match="too bright"):
        failing[where]()
    assert state_of(model) == before
    assert model.mix.forward is own


def test_forwards_come_back_in_a_class_and_in_an_instance() -> None:
    model = seeded(Plain)
    own = model.mix.forward = model.mix.forward
    with forwards({"mix": model.mix, "conv": model.conv}, lambda name, own, *_: name):
        assert (model.mix(1), model.conv(1)) == ("mix", "conv")
    assert model.mix.forward is own
    assert "forward" not in vars(model.conv)


def test_hooks_of_the_user_run_as_in_injection() -> None:
    model, x = seeded(Odd), images(3)
    model.first.register_forward_hook(lambda _m, _i, output: output * 2)
    model.layer.register_forward_hook(lambda _m, _i, output: output + 1)
    fast, slow = bind(model, x, ["layer"], engine="replay")["layer"], bind(model, x, ["layer"], engine="injection")["layer"]
    masks, rows = torch.tensor([[1.0, 0, 0, 1, 0, 1]]).expand(3, -1), torch.arange(3)
    torch.testing.assert_close(fast.logits(fast.stem(x), masks, rows), slow.logits(slow.stem(x), masks, rows))


def test_a_whole_answer_by_replay() -> None:
    model, x = seeded(Odd), images(3)
    fast, slow = (ca.per_image(model, x, "layer", areas=(1, 3), engine=engine) for engine in ("auto", "injection"))
    assert (fast.engine, slow.engine) == ("replay", "injection")
    assert (fast.masks == slow.masks).all()
    torch.testing.assert_close(torch.tensor(fast.scores), torch.tensor(slow.scores), rtol=1e-5, atol=1e-6)
