"""The tail gives what injection gives: logits and slopes, for every kind of layer; else injection runs and says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.network.stem import take_stem
from chanattr.network.tail import ExportedTail, InjectedTail, ReplayTail, bind, stems
from chanattr.pictures.parameters import colour_basis, natural_magnitude
from chanattr.search.pictures import _gaussian, _matrix, _weights
from tests.models import TORCH_2_6, Branching, ChannelsLast, Dataclass, Losing, Plain, Residual, Tokens, Twice, images, seeded

CASES = [(Plain, "conv", 0), (Plain, "relu", 0), (Plain, "pool", 0), (Residual, "branch", 1), (Residual, "first", 0), (Tokens, "block", 0),
         (ChannelsLast, "wide", 0), (Twice, "act@1", 0), (Twice, "act@2", 0), (Dataclass, "body", 0)]


@pytest.mark.parametrize(("build", "name", "sides"), CASES)
def test_tail_equals_injection(build: type[nn.Module], name: str, sides: int) -> None:
    model, x = seeded(build), images(4)
    fast, slow = bind(model, x, [name], engine="tail")[name], bind(model, x, [name], engine="injection")[name]
    assert isinstance(fast, ExportedTail)
    assert isinstance(slow, InjectedTail)
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(0, 4, (7,), generator=generator)
    results = []
    for tail in (fast, slow):
        masks = torch.rand(7, tail.layer.channels, generator=torch.Generator().manual_seed(4)).requires_grad_()
        logits = tail.logits(tail.stem(x), masks, rows, fill=torch.full((tail.layer.channels,), 0.3))
        slope = torch.autograd.grad(logits.square().sum(), masks)[0]
        results.append((logits.detach(), slope))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)
    assert results[0][1].abs().max() > 0
    assert len(fast.graphs.cuts[fast.number].sides) == sides


def test_several_layers_come_from_one_export_and_one_pass() -> None:
    model, x = seeded(Residual), images()
    tails = bind(model, x, ["first", "branch"])
    kept = stems(tails, x)
    assert tails["first"].graphs is tails["branch"].graphs  # type: ignore[attr-defined]
    with ca.capture(model, ["first", "branch"]) as seen:
        logits = model(x)
    for name in ("first", "branch"):
        torch.testing.assert_close(kept[name].activation, seen[name])
        torch.testing.assert_close(kept[name].logits, logits)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_images_and_masks(count: int) -> None:
    model, x = seeded(Residual), images(count)
    tail = bind(model, x[:2], ["branch"], engine="tail")["branch"]
    stem = tail.stem(x)
    torch.testing.assert_close(tail.logits(stem, torch.ones(count, 6), torch.arange(count)), model(x))
    one = take_stem(stem, torch.tensor([count - 1]))
    torch.testing.assert_close(tail.logits(one, torch.ones(1, 6), torch.tensor([0])), model(x[-1:]))


def test_where_export_fails_replay_runs_and_says_why() -> None:
    found = ca.per_image(seeded(Branching), images(), "body", areas=(2,))
    assert found.engine == "replay"
    assert "torch.export failed" in bind(seeded(Branching), images(), ["body"])["body"].reason
    with pytest.raises(ca.ModelError, match=r"no tail can be cut from Branching .*torch\.export failed"):
        bind(seeded(Branching), images(), ["body"], engine="tail")


class Copying(Plain):
    """Whose graph has a copy, for which torch knows no slope; the model itself has one."""

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(self.relu(self.conv(x)))
        kept = torch.zeros_like(mixed)
        kept.copy_(mixed)
        return self.head(kept.mean((2, 3)))


def test_a_graph_without_a_backward_pass_is_no_tail() -> None:
    tail = bind(seeded(Copying), images(), ["conv"])["conv"]
    assert isinstance(tail, ReplayTail)
    assert "failed" in tail.reason
    assert ca.per_image(seeded(Copying), images(), "conv", areas=(2,)).engine == "replay"


class Remembering(Branching):
    """Takes a module's output from where a hook left it: replay, which does not call that module, would find an old one there."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        self.early[0].register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self.kept = output

    def forward(self, x: Tensor) -> Tensor:
        x = self.early(x)
        return super().forward(x) + self.kept.mean((1, 2, 3))[:, None]


def test_where_nothing_else_works_injection_runs_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    found = ca.per_image(seeded(Remembering), images(), "body", areas=(2,))
    assert found.engine == "injection"
    assert "whole network runs for every mask" in caplog.text
    assert "no replay: the replay of 'body' failed" in caplog.text
    with pytest.raises(ca.ModelError, match=r"body of Remembering cannot be replayed"):
        bind(seeded(Remembering), images(), ["body"], engine="replay")


@pytest.mark.parametrize("engine", ["auto", "replay", "injection"])
@pytest.mark.parametrize("name", ["aside", "never"])
def test_a_layer_that_does_not_reach_the_score_is_refused(engine: str, name: str) -> None:
    with pytest.raises(ca.LayerError, match="no path leads to the score" if name == "aside" else "never fires"):
        bind(seeded(Twice), images(), [name], engine=engine)


def test_a_tail_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    true = ExportedTail.logits
    monkeypatch.setattr(ExportedTail, "logits", lambda self, *given: true(self, *given) * 1.001)
    tail = bind(seeded(Plain), images(), ["mix"])["mix"]
    assert tail.engine == "replay"
    assert "differs from injection by" in tail.reason
    monkeypatch.setattr(ReplayTail, "logits", lambda self, *given: InjectedTail.logits(self, *given) * 1.001)
    tail = bind(seeded(Plain), images(), ["mix"])["mix"]
    assert tail.engine == "injection"
    assert tail.reason.count("differs from injection by") == 2
    assert all(part in caplog.text for part in tail.reason.split("; no replay: "))
    for engine in ("tail", "replay"):
        with pytest.raises(ca.ModelError, match="differs from injection by"):
            bind(seeded(Plain), images(), ["mix"], engine=engine)


def test_the_model_may_be_training_and_compiled_names_are_seen_through() -> None:
    model = seeded(Plain).train()
    found = ca.per_image(nn.DataParallel(model), images(), "module.mix", areas=(3,))
    assert model.training
    assert found.layer == "mix"
    model.eval()
    with ca.inject(model, "mix", found.masks[0, 0]):
        score = model(images()[:1])[0, found.targets[0]]
    assert score.item() == pytest.approx(float(found.scores[0, 0]), rel=1e-5)


@pytest.mark.parametrize("engine", ["fast", ""])
def test_no_such_engine(engine: str) -> None:
    with pytest.raises(ca.InputError, match="expected one of auto, tail, replay, injection"):
        bind(seeded(Plain), images(), ["mix"], engine=engine)


def test_a_model_without_logits_is_refused() -> None:
    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    with pytest.raises(ca.ModelError, match=r"expected logits \[images, classes\]; pass score="):
        ca.per_image(seeded(Maps), images(), "conv", areas=(2,))
    found = ca.per_image(seeded(Maps), images(), "conv", areas=(2,), score=lambda output: output.mean((2, 3)))
    assert found.scores.shape == (3, 1)


@contextmanager
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


AMBIENT: dict[str, Callable[[], AbstractContextManager[Any]]] = {"inference": torch.inference_mode, "no_grad": torch.no_grad,
                                                                 "float64": float64}


@pytest.mark.parametrize("ambient", AMBIENT)
@pytest.mark.parametrize("engine", ["tail", "injection"])
@pytest.mark.parametrize("fill", ["mean", "spatial_mean", [0.5] * 6])
def test_ambient_modes_change_nothing(ambient: str, engine: str, fill: Any) -> None:
    model = seeded(Plain)

    def search(batch: Tensor) -> ca.ImageAttribution:
        return ca.per_image(model, batch, "mix", areas=(2, 4), fill=fill, engine=engine)

    x = images()
    expected = search(x)
    with AMBIENT[ambient]():
        batch = x.clone()  # made inside: in inference mode no tensor of a backward pass
        inside = search(batch)
    for found in (inside, search(batch.clone())):
        np.testing.assert_array_equal(found.masks, expected.masks)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)
        assert (found.engine, found.scores.dtype) == (expected.engine, np.float32)


PIXELS, STEPS = ca.Pixels((0.5,) * 3, (0.5,) * 3, (8, 8)), 2
FEW = ca.ExactSearch(relaxed_steps=2, binary_steps=8)  # an area in the middle of 16 channels is not counted out, but exchanged
MADE = ca.PictureSettings(steps=STEPS, parametrisation="magnitude")


def _sets(model: nn.Module, x: Tensor, layer: str, targets: Tensor) -> Any:
    return ca.per_image(model, x, layer, targets=targets, areas=(1,), search=FEW, engine="injection", refine=False).masks


PUBLIC: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "per_image": lambda model, x: ca.per_image(model, x, "mix", areas=(5,), search=FEW, engine="injection"),
    "per_class": lambda model, x: ca.per_class(model, x, "mix", areas=(5,), search=FEW, engine="injection", targets=[0, 0, 1, 1]),
    "penalty": lambda model, x: ca.per_image(model, x, "mix", areas=(5,), search=ca.PenaltySearch(steps=STEPS), engine="injection"),
    "held_out": lambda model, x: ca.held_out(model, x, "mix", counts=(5,), search=FEW, engine="injection", targets=[0, 0, 1, 1],
                                             methods=("joint", "random")),
    "invert": lambda model, x: ca.invert(model, x[:1], "mix", pixels=PIXELS, settings=ca.PictureSettings(steps=STEPS)),
    "visualise": lambda model, _x: ca.visualise(model, "mix", [3], pixels=PIXELS, settings=MADE),
    "examples": lambda model, x: ca.examples(model, x, "mix", channels=[3], pixels=PIXELS, side=8),
    "spatial": lambda model, x: ca.spatial(model, x[:1], areas=(0.3,), engine="injection", refine=False,
                                           search=ca.ExactSearch(relaxed_steps=STEPS, shifts=0)),
    "randomisation": lambda model, x: ca.randomisation(model, x, "mix", attribute=_sets, steps=1)}
KEPT = (_gaussian, _matrix, _weights, colour_basis, natural_magnitude)  # tensors kept in this process


@pytest.mark.parametrize("ambient", AMBIENT)
@pytest.mark.parametrize("name", PUBLIC)
def test_ambient_modes_change_no_answer(name: str, ambient: str) -> None:
    model, x = seeded(lambda: Plain(16)), images(4)
    for kept in KEPT:
        kept.cache_clear()
    with AMBIENT[ambient]():
        found = PUBLIC[name](model, x.clone())  # made inside: in inference mode no tensor of a backward pass
    expected = PUBLIC[name](model, x)
    for field, values in vars(expected).items():
        if isinstance(values, np.ndarray):
            np.testing.assert_array_equal(getattr(found, field), values)
            assert getattr(found, field).dtype == values.dtype


@pytest.mark.parametrize("engine", ["auto", "injection"])
def test_a_model_built_in_inference_mode_is_refused_and_left_as_found(engine: str) -> None:
    with torch.inference_mode():
        model = seeded(Plain)
    with pytest.raises(ca.ModelError, match=r"Plain has weights made in inference mode.*build or load the model outside it"):
        bind(model, images(), ["mix"], engine=engine)
    for ask in (PUBLIC["invert"], PUBLIC["visualise"], PUBLIC["examples"]):
        with pytest.raises(ca.ModelError, match="Plain has weights made in inference mode"):
            ask(model, images())
    with ca.frozen(model), ca.inject(model, "mix", [1] * 6), torch.no_grad():
        model(images())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("build", "name"), [(Plain, "mix"), (Residual, "branch"), (Tokens, "block"), (ChannelsLast, "wide")])
def test_other_precisions_give_the_same_logits(build: type[nn.Module], name: str, dtype: torch.dtype) -> None:
    model, x = seeded(build).to(dtype), images(2).to(dtype)
    fast, slow = bind(model, x, [name], engine="tail")[name], bind(model, x, [name], engine="injection")[name]
    masks = (torch.rand(5, fast.layer.channels, generator=torch.Generator().manual_seed(5)) < 0.5).float()
    rows = torch.tensor([0, 1, 1, 0, 1])
    logits = [tail.logits(tail.stem(x), masks, rows) for tail in (fast, slow)]
    assert logits[0].dtype == logits[1].dtype == dtype
    torch.testing.assert_close(logits[0], logits[1], rtol=2 * torch.finfo(dtype).eps, atol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("engine", ["tail", "injection"])
@pytest.mark.parametrize(("build", "name"), [(Plain, "mix"), (Tokens, "block"), (Residual, "branch")])
def test_one_image_is_enough(build: type[nn.Module], name: str, engine: str) -> None:
    model, x = seeded(build), images(3)
    tail = bind(model, x[:1], [name], engine=engine)[name]
    alone, together = tail.stem(x[:1]), tail.stem(x)
    torch.testing.assert_close(alone.activation, together.activation[:1])
    mask = torch.tensor([[1.0, 0] * (tail.layer.channels // 2)])
    one = tail.logits(alone, mask, torch.tensor([0]))
    assert one.shape == (1, 4)
    torch.testing.assert_close(one, tail.logits(together, mask.expand(3, -1), torch.arange(3))[:1])


class TwoInputs(nn.Module):
    """Takes images and tokens, and a word that is the same for all."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.words, self.head = nn.Conv2d(3, 6, 3), nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, pixels: Tensor, words: Tensor, mode: str = "sum") -> Tensor:
        joined = self.body(pixels).mean((2, 3))
        return self.head((joined + self.words(words) if mode == "sum" else joined).tanh())


def words(count: int) -> Tensor:
    return torch.rand(count, 5, generator=torch.Generator().manual_seed(8))


FORMS: dict[str, Callable[[int], Any]] = {
    "tuple": lambda count: (images(count), words(count), "sum"),
    "mapping": lambda count: {"pixels": images(count), "words": words(count)},
}
WAYS = {"tail": "tail (export)", "replay": "replay", "injection": "injection"}


@pytest.mark.parametrize("engine", WAYS)
@pytest.mark.parametrize("form", FORMS)
def test_models_with_several_inputs(form: str, engine: str) -> None:
    model, inputs = seeded(TwoInputs), FORMS[form](4)
    tail = bind(model, FORMS[form](2), ["body"], engine=engine)["body"]
    assert tail.engine == WAYS[engine]
    stem = stems({"body": tail}, inputs)["body"]
    rows, masks = torch.tensor([3, 0, 0, 2]), torch.rand(4, 6, generator=torch.Generator().manual_seed(2))
    with ca.inject(model, "body", masks[rows]), torch.no_grad():
        pixels, tokens = (images(4)[rows], words(4)[rows])
        expected = model(pixels, tokens)
    torch.testing.assert_close(tail.logits(take_stem(stem, rows), masks[rows], torch.arange(4)).detach(), expected)
    torch.testing.assert_close(tail.logits(stem, masks[rows], rows).detach(), expected)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel, "compiled": compiled, "both": lambda model: compiled(nn.DataParallel(model)),
    "bfloat16": lambda model: model.to(torch.bfloat16)}


@pytest.mark.parametrize("engine", WAYS)
@pytest.mark.parametrize("wrap", WRAPPERS)
def test_wrapped_compiled_and_half_models(wrap: str, engine: str) -> None:
    if TORCH_2_6 and engine == "tail" and wrap in ("compiled", "both"):
        pytest.skip("torch 2.6 exports no compiled model")
    bare = seeded(Residual)
    model = WRAPPERS[wrap](bare)
    x = images(3).to(bare.head.weight.dtype)
    with torch.no_grad():
        whole = model(x)  # compiled before any hook is placed
    tail = bind(model, x[:2], ["branch"], engine=engine)["branch"]
    assert (tail.engine, tail.layer.name) == (WAYS[engine], "branch")
    masks = torch.tensor([[1.0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    with ca.inject(bare, "branch", masks), torch.no_grad():
        expected = bare(x)
    error = 4 * torch.finfo(x.dtype).eps
    torch.testing.assert_close(tail.logits(tail.stem(x), masks, torch.arange(3)).detach(), expected, rtol=error, atol=error)
    torch.testing.assert_close(expected[2], whole[2], rtol=error, atol=error)
    with torch.no_grad():
        torch.testing.assert_close(model(x), whole)


class Pooling(Plain):
    """One row for all images."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean(0, keepdim=True)


@pytest.mark.parametrize("engine", ["auto", *WAYS])
@pytest.mark.parametrize(("build", "rows"), [(Pooling, 1), (Losing, 2)])
def test_a_model_that_loses_images_is_refused(build: type[nn.Module], rows: int, engine: str) -> None:
    with pytest.raises(ca.ModelError, match=rf"logits \({rows}, 4\) for images of shape \(3, 3, 8, 8\); expected one row an image"):
        bind(seeded(build), images(2), ["mix"], engine=engine)
