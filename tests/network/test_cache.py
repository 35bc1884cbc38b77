"""A model is exported once in a process: for the same weights, layers, form and score; never for others; and it is let go."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chanattr.network import cache
from chanattr.network.export import Unsupported
from chanattr.network.tail import ExportedTail, bind
from tests.models import TORCH_2_6, Branching, Plain, Residual, images, seeded


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The layers of every export that really ran; nothing is kept before and after."""
    ran: list[Any] = []
    true = cache.export_and_cut

    def counted(model: nn.Module, example: Any, layers: Any, score: Any) -> Any:
        ran.append(tuple(layers))
        return true(model, example, layers, score)

    monkeypatch.setattr(cache, "export_and_cut", counted)
    cache._KEPT.clear()
    yield ran
    cache._KEPT.clear()


def graphs(model: nn.Module, x: Any = None, layer: str = "branch", **options: Any) -> Any:
    tail = bind(model, images() if x is None else x, [layer], **options)[layer]
    assert isinstance(tail, ExportedTail)
    return tail.graphs


def test_the_same_question_is_not_exported_again(exports: list[Any]) -> None:
    model = seeded(Residual)
    first = graphs(model)
    assert graphs(model.train(), images(5, seed=3)) is first  # training flags and numbers of images do not matter
    assert graphs(model, images(1), engine="tail") is first
    assert graphs(model, channel_axis=1) is first
    assert len(exports) == 1


def sums(output: Tensor) -> Tensor:
    return output + 1


OTHER: dict[str, Callable[[nn.Module], Any]] = {
    "another layer": lambda model: graphs(model, layer="first"),
    "another size": lambda model: graphs(model, images(size=10)),
    "another score function": lambda model: graphs(model, score=sums),
    "another model with the same weights": lambda _: graphs(seeded(Residual)),
}


@pytest.mark.parametrize("what", OTHER)
def test_another_question_is_exported(exports: list[Any], what: str) -> None:
    model = seeded(Residual)
    first = graphs(model)
    assert OTHER[what](model) is not first
    assert graphs(model) is first
    assert len(exports) == 2


def test_a_score_function_is_known_again(exports: list[Any]) -> None:
    model = seeded(Residual)
    assert graphs(model, score=sums) is graphs(model, score=sums)
    assert len(exports) == 1


def replaced(model: nn.Module) -> None:
    model.head.weight = nn.Parameter(model.head.weight.detach() * 2)


def retargeted(model: nn.Module) -> None:
    model.head.weight.data = model.head.weight.detach() * 2


def loaded(model: nn.Module) -> None:
    model.load_state_dict({name: value * 2 for name, value in model.state_dict().items()})


def trained(model: nn.Module) -> None:
    model.train()(images()).square().sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()


def converted(model: nn.Module) -> None:
    model.double().float()
    model.head.bias.data.add_(1)


def hooked(model: nn.Module) -> None:
    model.first.register_forward_hook(lambda _m, _i, output: output * 2)


def exchanged(model: nn.Module) -> None:
    model.head = nn.Linear(6, 4)


def written_behind(model: nn.Module) -> None:
    model.head.weight.data.mul_(2)  # no version tells; the graph reads the same memory


CHANGES = [replaced, retargeted, loaded, trained, converted, hooked, exchanged, written_behind]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_never_a_tail_of_other_weights(exports: list[Any], change: Callable[[nn.Module], None]) -> None:
    model, x = seeded(Residual), images()
    before = bind(model, x, ["branch"])["branch"].stem(x).logits
    change(model)
    tail = bind(model, x, ["branch"])["branch"]
    assert tail.engine == "tail (export)"
    with torch.no_grad():
        torch.testing.assert_close(tail.logits(tail.stem(x), torch.ones(3, 6), torch.arange(3)), model.eval()(x))
    assert (tail.stem(x).logits - before).abs().max() > 1e-3
    assert len(exports) == 1 + (change is not written_behind)


class Scaled(Residual):
    scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


def test_what_nothing_tells_of_is_found_by_the_check(exports: list[Any]) -> None:
    model = seeded(Scaled)
    first = graphs(model)
    model.scale = 2.0
    assert graphs(model) is not first
    assert len(exports) == 2


def test_a_failed_export_is_not_tried_again(exports: list[Any]) -> None:
    model = seeded(Branching)
    reasons = [bind(model, images(), ["body"])["body"].reason for _ in range(2)]
    assert reasons[0] == reasons[1]
    assert "torch.export failed" in reasons[0]
    with pytest.raises(Unsupported, match=r"torch\.export failed"):
        cache.graphs_of(model, images(), ["body"], None)
    assert len(exports) == 1


@pytest.mark.parametrize("build", [
    Residual, pytest.param(Branching, marks=pytest.mark.skipif(TORCH_2_6, reason="a failed export of torch 2.6 holds the model"))])
def test_a_model_is_held_weakly(exports: list[Any], build: type[nn.Module]) -> None:
    model = seeded(build)
    logging.disable(logging.CRITICAL)  # pytest keeps torch's records, and with them its tensors
    try:
        bind(model, images(), ["body" if build is Branching else "branch"])
    finally:
        logging.disable(logging.NOTSET)
    gone, weights = weakref.ref(model), weakref.ref(model.head.weight.untyped_storage())
    assert len(cache._KEPT) == 1
    del model
    gc.collect()
    assert gone() is None
    gc.collect()  # the graphs, cycles of their own, were given up when the model went, which may have been in the first round
    assert weights() is None
    assert not cache._KEPT


def test_a_score_function_is_held_weakly(exports: list[Any]) -> None:
    class Adding:
        def __call__(self, output: Tensor) -> Tensor:
            return output + 1

    model, score = seeded(Residual), Adding()
    graphs(model, score=score)
    gone = weakref.ref(score)
    del score
    gc.collect()
    assert gone() is None


def test_bounded_and_the_oldest_goes_first(exports: list[Any]) -> None:
    models = [seeded(Plain, seed) for seed in range(cache.MOST + 1)]
    for model in models[:-1]:
        graphs(model, layer="mix")
    graphs(models[0], layer="mix")
    graphs(models[-1], layer="mix")
    assert sum(map(len, cache._KEPT.values())) == cache.MOST
    assert len(exports) == cache.MOST + 1
    graphs(models[0], layer="mix")
    assert len(exports) == cache.MOST + 1
    graphs(models[1], layer="mix")
    assert len(exports) == cache.MOST + 2


def test_exports_of_weights_that_are_gone_are_given_up(exports: list[Any]) -> None:
    model = seeded(Residual)
    for _ in range(3):
        graphs(model)
        loaded(model)
    assert len(exports) == 3
    assert len(cache._KEPT[model]) == 1


def test_threads_may_ask_together(exports: list[Any]) -> None:
    models = [seeded(Plain, seed) for seed in range(4)]
    x = images()
    kept = {id(model): cache.graphs_of(model, x, ["mix"], None)[0] for model in models}
    wrong: list[int] = []

    def ask(number: int) -> None:
        for turn in range(200):
            model = models[(number + turn) % 4]
            if cache.graphs_of(model, x, ["mix"], None)[0] is not kept[id(model)]:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(exports) == len(cache._KEPT) == 4
