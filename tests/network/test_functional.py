"""Operators in place become ones that give new values: rewritten where nobody can tell, elsewhere by torch's pass, always as the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.network.functional import functional
from chanattr.network.tail import bind
from tests.models import TORCH_2_6, images, seeded


def rectified(x: Tensor) -> Tensor:
    return nn.functional.relu(x, inplace=True)


def residual(self: Inplace, x: Tensor) -> Tensor:
    out = self.norm(self.second(rectified(self.first(x))))
    out += self.aside(x)
    return rectified(out) + rectified(self.aside(x)).mul_(2)


def dropped(self: Inplace, x: Tensor) -> Tensor:
    return nn.functional.dropout(self.second(self.first(x)).flatten(2), 0.5, training=False, inplace=True)[..., None]


def read_again(self: Inplace, x: Tensor) -> Tensor:
    out = self.second(self.first(x))
    return rectified(out) + out  # twice the rectified one


def read_before(self: Inplace, x: Tensor) -> Tensor:
    out = self.second(self.first(x))
    sums = out.sum((1, 2, 3), keepdim=True)
    return rectified(out) + sums


def through_a_view(self: Inplace, x: Tensor) -> Tensor:
    out = self.second(self.first(x))
    rectified(out.flatten(2))
    return out


def through_a_composite(self: Inplace, x: Tensor) -> Tensor:
    out = self.second(self.first(x))
    rectified(nn.functional.dropout(out, training=False))  # which gives its input itself
    return out


def a_slice(self: Inplace, x: Tensor) -> Tensor:
    out = self.second(self.first(x))
    out[:, 1:3] = 0.5
    return out


def through_an_unsaid_view(self: Inplace, x: Tensor) -> Tensor:
    out = self.second(self.first(x))
    rectified(torch.ops.aten._unsafe_view(out, out.shape))
    return out


def squared(self: Inplace, x: Tensor) -> Tensor:
    return self.second(self.first(x)).pow_(2)  # whose namesake takes a number and a tensor


def of_bytes(self: Inplace, x: Tensor) -> Tensor:
    bytes_ = (x.mean((1, 2, 3), keepdim=True) * 200).to(torch.uint8) * 1
    bytes_ += torch.full((1, 1, 1, 1), 100)  # which wraps round; a sum would not
    return self.second(self.first(x)) * bytes_


def of_two_types(self: Inplace, x: Tensor) -> Tensor:
    out = self.second(self.first(x))
    out += torch.ones(5, 1, 1, dtype=torch.float64)  # which stays float32; a sum would not
    return out


def kept_its_type(self: Inplace, x: Tensor) -> Tensor:
    return self.second(self.first(x)) * self.aside(x).gt_(0)  # floats; a comparison is not


def without_gradient(self: Inplace, x: Tensor) -> Tensor:
    out = self.second(self.first(x))
    with torch.no_grad():
        scale = out.abs().mean((1, 2, 3), keepdim=True)
    return out / scale


def the_layers_own(self: Inplace, x: Tensor) -> Tensor:
    kept = self.first(x)
    return self.second(rectified(kept)) + kept.mean((1, 2, 3), keepdim=True)


class Inplace(nn.Module):
    """Two convolutions, and what a test does with them."""

    def __init__(self, way: Callable[[Inplace, Tensor], Tensor]) -> None:
        super().__init__()
        self.way = way
        self.first, self.second, self.aside = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 1), nn.Conv2d(3, 5, 3)
        self.norm, self.head = nn.BatchNorm2d(5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.way(self, x).mean((2, 3)))


REWRITTEN = [residual, dropped, read_again, the_layers_own]
TRACED_AGAIN = [read_before, through_a_view, through_a_composite, through_an_unsaid_view, a_slice, squared, of_bytes, of_two_types,
                kept_its_type, without_gradient]


def of(way: Callable[[Inplace, Tensor], Tensor]) -> Inplace:
    return seeded(lambda: Inplace(way))  # type: ignore[arg-type,return-value]


def exported(way: Callable[[Inplace, Tensor], Tensor]) -> torch.export.ExportedProgram:
    return torch.export.export(of(way), (images(),), strict=False)


@pytest.mark.parametrize("way", REWRITTEN + TRACED_AGAIN)
def test_the_tail_is_injection(way: Callable[[Inplace, Tensor], Tensor]) -> None:
    model, x = of(way), images(4)
    if TORCH_2_6 and way is through_a_composite:  # torch's pass itself loses what is written there
        assert "differs from injection" in bind(model, x, ["first"])["first"].reason
        return
    fast, slow = (bind(model, x, ["first"], engine=engine)["first"] for engine in ("tail", "injection"))
    results = []
    for tail in (fast, slow):
        masks = torch.rand(4, 6, generator=torch.Generator().manual_seed(4)).requires_grad_()
        logits = tail.logits(tail.stem(x), masks, torch.arange(4))
        results.append((logits.detach(), torch.autograd.grad(logits.square().sum(), masks)[0]))
    torch.testing.assert_close(results[0][0], results[1][0])
    # torch's pass forgets the switch: its slopes are those of the whole function. What is written past autograd has none of its own.
    if way not in (without_gradient, through_an_unsaid_view):
        torch.testing.assert_close(results[0][1], results[1][1])
    with ca.capture(model, ["first"]) as seen:
        model(x)
    torch.testing.assert_close(fast.stem(x).logits, model(x))
    if way is not the_layers_own:  # there the model overwrites what a hook saw
        torch.testing.assert_close(fast.stem(x).activation, seen["first"])


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch 2.6, about its own graphs; the export is quiet about them
@pytest.mark.parametrize("way", REWRITTEN + TRACED_AGAIN)
def test_nothing_is_overwritten_and_plain_graphs_are_traced_once(way: Callable[[Inplace, Tensor], Tensor],
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    program, asked, own = exported(way), [], torch.export.ExportedProgram.run_decompositions
    assert any(node.target._schema.is_mutable for node in program.graph.nodes if hasattr(node.target, "_schema")) or way is without_gradient
    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", lambda *given: asked.append(1) or own(*given))
    graph = functional(program)
    assert not any(node.target._schema.is_mutable for node in graph.graph.nodes if hasattr(node.target, "_schema"))
    assert bool(asked) == (way in TRACED_AGAIN)
    if not (TORCH_2_6 and way is through_a_composite):
        torch.testing.assert_close(graph(images()), of(way)(images()))
