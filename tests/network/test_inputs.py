"""Models with several inputs: tuples and mappings go through layers, tails and stems as one batch, by both engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.network.inputs import at_least_two, join_rows, outline, take_rows, tensors_of, with_tensors
from chanattr.network.layers import describe
from chanattr.network.stem import join_stems, take_stem
from chanattr.network.tail import ExportedTail, bind, stems
from tests.models import images, seeded


@dataclass
class Extra:
    tokens: Tensor
    scale: float = 1.0


class Pair(nn.Module):
    """An image and whole numbers beside it that pass the layer by; a switch that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.words, self.head = nn.Conv2d(3, 6, 3), nn.Embedding(9, 6), nn.Linear(6, 4)

    def forward(self, pixels: Tensor, tokens: Tensor, double: bool = False, temperature: Tensor | None = None) -> dict[str, Tensor]:
        x = self.body(pixels).relu().mean((2, 3)) * self.words(tokens).mean(1)
        logits = self.head(2 * x if double else x)
        return {"logits": logits if temperature is None else logits / temperature, "features": x}


class Nested(Pair):
    """Its second input is a structure."""

    def forward(self, pixels: Tensor, extra: Any) -> Tensor:  # type: ignore[override]
        return super().forward(pixels, extra[0].tokens)["logits"] * extra[0].scale


def tokens(count: int) -> Tensor:
    return torch.randint(0, 9, (count, 5), generator=torch.Generator().manual_seed(6))


CASES: dict[str, tuple[type[nn.Module], Any]] = {
    "tuple": (Pair, lambda n: (images(n), tokens(n))),
    "tuple with a switch": (Pair, lambda n: (images(n), tokens(n), True, None)),
    "mapping": (Pair, lambda n: {"tokens": tokens(n), "pixels": images(n), "double": True, "temperature": torch.tensor(0.5)}),
    "nested": (Nested, lambda n: (images(n), [Extra(tokens(n), 3.0), None])),
}


def direct(model: nn.Module, given: Any, rows: Tensor, masks: Tensor) -> Tensor:
    """The logits of images one by one, each under its mask."""
    logits = []
    for row, mask in zip(rows.tolist(), masks, strict=True):
        one = take_rows(given, slice(row, row + 1))
        with ca.inject(model, "body", mask):
            output = model(**one) if isinstance(one, dict) else model(*one)
        logits.append(output["logits"] if isinstance(output, dict) else output)
    return torch.cat(logits)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("engine", ["tail", "injection"])
def test_both_engines_take_several_inputs(case: str, engine: str) -> None:
    build, inputs = CASES[case]
    model, given = seeded(build), inputs(4)
    tail = bind(model, inputs(2), ["body"], engine=engine)["body"]
    assert isinstance(tail, ExportedTail) == (engine == "tail")
    stem = stems({"body": tail}, given)["body"]
    masks = (torch.rand(5, 6, generator=torch.Generator().manual_seed(7)) < 0.5).float().requires_grad_()
    rows = torch.tensor([3, 0, 2, 2, 1])
    logits = tail.logits(stem, masks, rows)
    torch.testing.assert_close(logits, direct(model, given, rows, masks), rtol=1e-5, atol=1e-6)
    assert torch.autograd.grad(logits.sum(), masks)[0].abs().max() > 0
    some = take_stem(stem, torch.tensor([2, 0]))
    torch.testing.assert_close(tail.logits(some, masks[:2], torch.tensor([1, 0])), direct(model, given, torch.tensor([0, 2]), masks[:2]))
    halves = join_stems([tail.stem(take_rows(given, slice(0, 1))), tail.stem(take_rows(given, slice(1, 4)))])
    torch.testing.assert_close(tail.logits(halves, masks, rows), logits)


@pytest.mark.parametrize("case", CASES)
def test_layers_are_described_from_several_inputs(case: str) -> None:
    build, inputs = CASES[case]
    layer = describe(seeded(build), inputs(2), "body")
    assert (layer.shape, layer.channel_axis) == ((2, 6, 6, 6), 1)
    assert [found.name for found in ca.layers(seeded(build), inputs(1))] == ["", "body", "words", "head"]


@pytest.mark.parametrize("case", CASES)
def test_rows_are_taken_joined_and_doubled_together(case: str) -> None:
    given = CASES[case][1](4)
    parts = [take_rows(given, slice(0, 3)), take_rows(given, torch.tensor([3]))]
    again = join_rows(parts)
    assert outline(again) == outline(given) == outline(with_tensors(given, tensors_of(given)))
    assert all(torch.equal(one, other) for one, other in zip(tensors_of(again), tensors_of(given), strict=True))
    assert [len(tensor) for tensor in tensors_of(at_least_two(parts[1]))] == [2] * len(tensors_of(given))


def test_tensors_of_different_lengths_are_refused() -> None:
    for engine in ("auto", "injection"):
        with pytest.raises(ca.InputError, match=r"tensors of 3 and of 1 rows \(shape \(1, 5\)\).*repeat what is the same for all"):
            bind(seeded(Pair), (images(3), tokens(1)), ["body"], engine=engine)


def test_another_form_than_the_examples_is_refused() -> None:
    tail = bind(seeded(Pair), (images(2), tokens(2), True), ["body"], engine="tail")["body"]
    for other in ((images(2), tokens(2), False), (images(2), tokens(2)), images(2), (images(2, size=9), tokens(2), True)):
        with pytest.raises(ca.InputError, match="expected the same form"):
            tail.stem(other)
