"""Names mean one module, through wrappers and whatever a user calls a child; each layer has one canonical name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.network.layers import describe, describe_all
from chanattr.network.names import find, named, plain_names
from chanattr.network.tail import bind
from chanattr.network.weights import model_sha256
from tests.models import Plain, Twice, images, seeded


def canonical(model: nn.Module, example: Tensor, names: list[str]) -> tuple[str, ...]:
    return tuple(layer.name for layer in describe_all(model, example, names))


class Clash(nn.Module):
    """A user's own child that is called as a wrapper's is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)
        self.module = nn.Sequential()
        self.module.conv = nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(self.conv(x)).mean((2, 3))


class Shared(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.other = self.one

    def forward(self, x: Tensor) -> Tensor:
        return self.other(x)


WRAPS = {"none": lambda net: net, "parallel": nn.DataParallel, "compiled": lambda net: torch.compile(net, backend="eager"),
         "both": lambda net: torch.compile(nn.DataParallel(net), backend="eager")}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("build", [Plain, Clash])
def test_a_wrapped_model_has_the_names_and_the_digest_of_the_plain_one(build: type[nn.Module], wrap: str) -> None:
    model = seeded(build)
    wrapped = WRAPS[wrap](model)
    assert list(named(wrapped)) == [name for name, _ in model.named_modules()]
    assert list(named(wrapped).values()) == list(model.modules())
    for raw, plain in plain_names(wrapped).items():
        assert find(wrapped, plain).name == plain
        assert build is Clash or find(wrapped, raw).name == plain
    assert model_sha256(wrapped) == model_sha256(model)


def test_a_child_called_module_is_a_child() -> None:
    model = seeded(Clash)
    assert [layer.name for layer in ca.layers(model, images())] == ["", "conv", "module", "module.conv"]
    assert (describe(model, images(), "conv").channels, describe(model, images(), "module.conv").channels) == (5, 4)
    before = model_sha256(model)
    with torch.no_grad():
        model.conv.weight.zero_()
    assert model_sha256(model) != before


@pytest.mark.parametrize(("wrap", "name"), [("none", "module.mix"), ("none", "mix@1"), ("both", "_orig_mod.module.mix"),
                                           ("parallel", "module.mix@1"), ("parallel", "mix"), ("compiled", "_orig_mod.mix")])
def test_a_layer_has_one_canonical_name(wrap: str, name: str) -> None:
    model = WRAPS[wrap](seeded(Plain))
    assert canonical(model, images(), [name, "head"]) == ("mix", "head")
    assert bind(model, images(), [name], engine="injection")[name].layer.name == "mix"


def test_a_call_stays_in_the_name_where_there_are_several() -> None:
    assert canonical(seeded(Twice), images(), ["act@2", "module.act@1", "first@1"]) == ("act@2", "act@1", "first")
    with pytest.raises(ca.LayerError, match="fires 2 times"):
        canonical(seeded(Twice), images(), ["act"])


def test_a_module_under_two_names_is_one_layer() -> None:
    assert canonical(seeded(Shared), torch.rand(2, 3), ["other", "one"]) == ("one", "one")


def test_a_call_goes_after_input() -> None:
    with pytest.raises(ca.LayerError, match=r"no layer '0@2' in Sequential; did you mean '0:input@2'\?"):
        find(nn.Sequential(nn.Linear(2, 2)), "0@2:input")
