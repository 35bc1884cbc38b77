"""Fast graphs: folded is unfolded, a graph that disagrees is refused, batches halve where memory runs out."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

import chanattr as ca
from chanattr.network import fast as module
from chanattr.network.batches import anchor_of, bytes_of, in_batches, is_out_of_memory, needed_by
from chanattr.network.fast import FastTail, fast
from chanattr.network.folding import CONVOLUTIONS, NORMS, folded, lowered, work
from chanattr.network.stem import Stem
from chanattr.network.tail import ExportedTail, bind
from tests.models import ChannelsLast, Plain, Residual, Tokens, images, seeded


class Normed(nn.Module):
    """Convolutions with batch norms of every kind, and statistics that are not those of a fresh one."""

    def __init__(self, bias: bool = True, groups: int = 1, affine: bool = True, shared: bool = False, pads: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3)
        self.mix = nn.Conv2d(6, 6, 3, bias=bias, groups=groups)
        self.norm, self.flat = nn.BatchNorm2d(6, affine=affine, eps=1e-3), nn.BatchNorm1d(5)
        self.linear, self.head = nn.Linear(6, 5, bias=bias), nn.Linear(5, 4)
        self.shared, self.pads = shared, pads
        for norm in (self.norm, self.flat):
            norm.running_mean, norm.running_var = torch.randn(norm.num_features), torch.rand(norm.num_features) + 0.2

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).relu()
        mixed = self.mix(nn.functional.pad(x, self.pads) if self.pads else x)
        x = self.norm(mixed).relu() + (mixed.mean((1, 2, 3), keepdim=True) if self.shared else 0)
        return self.head(self.flat(self.linear(x.mean((2, 3)))).relu())


KINDS: dict[str, Callable[[], nn.Module]] = {
    "bias": Normed, "no bias": lambda: Normed(bias=False), "groups": lambda: Normed(groups=3), "depthwise": lambda: Normed(groups=6),
    "not affine": lambda: Normed(affine=False), "even padding": lambda: Normed(pads=(2, 2, 1, 1)),
    "uneven padding": lambda: Normed(pads=(0, 1, 0, 1))}


def tail_of(model: nn.Module, layer: str = "body", x: Tensor | None = None) -> ExportedTail:
    tail = bind(model, images(2) if x is None else x, [layer], engine="tail")[layer]
    assert isinstance(tail, ExportedTail)
    return tail


def graph_of(tail: ExportedTail) -> torch.fx.GraphModule:
    return tail.graphs.cuts[tail.number].tail


def count(graph: torch.fx.GraphModule, targets: tuple[object, ...]) -> int:
    return sum(node.target in targets for node in graph.graph.nodes)


@pytest.mark.parametrize("name", KINDS)
def test_folding_changes_nothing(name: str) -> None:
    model = seeded(KINDS[name]).double()
    tail = tail_of(model, x=images(2).double())
    stem, graph = tail.stem(images(3).double()), graph_of(tail)
    after = folded(graph)
    assert (count(graph, NORMS), count(after, NORMS)) == (2, 0)
    assert count(after, (torch.ops.aten.pad.default,)) == (name == "uneven padding")
    before, now = graph(stem.activation), after(stem.activation)
    assert (before - now).abs().max() <= 1e-9 * before.abs().max()


def test_a_convolution_whose_output_is_used_elsewhere_is_not_folded() -> None:
    tail = tail_of(seeded(lambda: Normed(shared=True)).double(), x=images(2).double())
    stem, graph = tail.stem(images(3).double()), graph_of(tail)
    after = folded(graph)
    assert count(after, NORMS) == 1
    assert (graph(stem.activation) - after(stem.activation)).abs().max() <= 1e-9


def test_folding_leaves_the_tail_and_the_model_as_they_were() -> None:
    model = seeded(Normed)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tail = tail_of(model)
    stem, text = tail.stem(images(3)), graph_of(tail).code
    logits = graph_of(tail)(stem.activation)
    for precision in ("float32", "bfloat16"):
        fast(tail, stem, precision=precision)
    assert graph_of(tail).code == text
    assert torch.equal(graph_of(tail)(stem.activation), logits)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("build", "layer"), [(Normed, "body"), (Plain, "mix"), (Residual, "branch"), (Tokens, "block"),
                                              (ChannelsLast, "wide")])
@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_a_fast_graph_gives_nearly_the_logits(build: type[nn.Module], layer: str, precision: str, near: float) -> None:
    tail = tail_of(seeded(build), layer)
    stem = tail.stem(images(3))
    quick = fast(tail, stem, precision=precision)
    assert isinstance(quick, FastTail)
    assert quick.engine == ("tail (export)" if precision == "float32" else "tail (export), bfloat16")
    masks = (torch.rand(7, tail.layer.channels, generator=torch.Generator().manual_seed(3)) < 0.6).float()
    rows = torch.tensor([0, 2, 1, 1, 0, 2, 2])
    for fill in (0.0, torch.full((tail.layer.channels,), 0.3), torch.rand(3, tail.layer.channels)):
        ours, theirs = quick.logits(quick.prepare(stem), masks, rows, fill), tail.logits(stem, masks, rows, fill)
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().max() <= near * theirs.abs().max()
    assert quick.logits(quick.prepare(stem), masks[:1], rows[:1]).shape == (1, theirs.shape[1])


def test_the_last_sums_stay_in_float32() -> None:
    graph = folded(graph_of(tail_of(seeded(Plain), "conv")))
    low = lowered(graph, torch.bfloat16, torch.channels_last, [images(1)])
    logits = low(images(5).new_ones(64, 6, 8, 8).mul(torch.rand(64, 6, 1, 1)).bfloat16())
    assert len(logits[:, 0].unique()) > len(logits[:, 0].bfloat16().unique())
    kernels = [node.args[1].target for node in low.graph.nodes if node.target in CONVOLUTIONS]
    assert [getattr(low, name).dtype for name in kernels] == [torch.bfloat16]


def headed(model: torchvision.models.VisionTransformer) -> nn.Module:
    """With a head of its own: torchvision's fresh one is zero, and so would be all logits."""
    nn.init.normal_(model.heads.head.weight, std=0.02)
    return model


REAL: dict[str, tuple[Callable[[], nn.Module], str]] = {  # blocks that only a stem would repeat are left out: each takes its time to export
    "resnet18": (torchvision.models.resnet18, "layer3.0.conv1"), "convnext_tiny": (torchvision.models.convnext_tiny, "features.6"),
    "swin_t": (lambda: torchvision.models.SwinTransformer([4, 4], 96, [1, 1, 1, 2], [3, 6, 12, 24], [7, 7]), "features.6"),
    "densenet121": (lambda: torchvision.models.DenseNet(block_config=(1, 1, 1, 16)), "features.denseblock4.denselayer10"),
    "vit_b_16": (lambda: headed(torchvision.models.VisionTransformer(64, 16, 2, 12, 768, 3072)), "encoder.layers.encoder_layer_0")}


@pytest.mark.parametrize("name", REAL)
def test_real_architectures_have_a_fast_graph(name: str) -> None:
    (build, layer), x = REAL[name], images(2, 64)
    tail = bind(seeded(build), x, [layer], engine="tail")[layer]
    assert fast(tail, tail.stem(x), precision="bfloat16").engine == "tail (export), bfloat16"


def test_small_graphs_and_linear_ones_are_searched_in_float32() -> None:
    tail = tail_of(seeded(Plain), "conv")
    assert 0 < work(graph_of(tail)) < module.WORTH
    assert fast(tail, tail.stem(images(3))).engine == "tail (export)"
    assert work(graph_of(tail_of(seeded(Plain), "pool"))) == 0


def test_a_cpu_keeps_what_it_runs_slower_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = folded(graph_of(tail_of(seeded(lambda: Normed(groups=6)))))
    for wide, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        low = lowered(graph, torch.bfloat16, torch.channels_last, [images(1)], grouped_wide=wide)
        assert [getattr(low, node.args[1].target).dtype for node in low.graph.nodes if node.target in CONVOLUTIONS] == [dtype]
    monkeypatch.setattr(module, "has_bfloat16", lambda _: True)
    model, x = seeded(lambda: torchvision.models.VisionTransformer(32, 16, 2, 4, 128, 256)), images(2, 32)
    graph = graph_of(tail_of(model, "encoder.layers.encoder_layer_0", x))
    monkeypatch.setattr(module, "WORTH", 1)
    assert not module._gains(graph, torch.device("cpu"))
    assert module._gains(graph, torch.device("cuda"))


def test_auto_is_bfloat16_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH", 1)
    tail = tail_of(seeded(Normed))
    for has, engine in ((True, "tail (export), bfloat16"), (False, "tail (export)")):
        monkeypatch.setattr(module, "has_bfloat16", lambda _, has=has: has)
        assert fast(tail, tail.stem(images(3))).engine == engine
    assert not module.has_bfloat16(torch.device("meta"))


@pytest.mark.parametrize("change", [lambda weight: weight.mul_(2), lambda weight: weight.copy_(weight.flip(0).clone())],
                         ids=["scaled", "permuted"])
def test_a_graph_is_made_once_and_again_when_weights_change(change: Callable[[Tensor], object]) -> None:
    model = seeded(Normed)
    tail = tail_of(model)
    stem = tail.stem(images(3))
    first = fast(tail, stem)
    assert fast(tail, stem) is first
    change(model.head.weight.data)  # .data: nothing tells of it but the numbers
    stem = tail.stem(images(3))
    again = fast(tail, stem)
    assert again is not first
    masks, rows = torch.ones(3, 6), torch.arange(3)
    torch.testing.assert_close(again.logits(again.prepare(stem), masks, rows), stem.logits)


def test_a_graph_that_disagrees_is_refused(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    tail = tail_of(seeded(Normed))
    stem = tail.stem(images(3))
    honest = module._make

    def wrong(*arguments: object) -> FastTail:
        made = honest(*arguments)
        by = 1.2 if made.dtype == torch.bfloat16 else 1.001
        return dataclasses.replace(made, run=lambda *values: by * made.run(*values))

    monkeypatch.setattr(module, "_make", wrong)
    with caplog.at_level(logging.WARNING):
        assert fast(tail, stem, precision="bfloat16") is tail
    assert "no fast graph in bfloat16 at 'body': logits differ by" in caplog.text
    assert "no fast graph in float32 at 'body': logits differ by 1.0e-03 of their scale (at most 1e-04)" in caplog.text


def test_the_check_halves_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    honest = FastTail.logits

    def small(self: FastTail, stem: Stem, masks: Tensor, rows: Tensor, fill: float | Tensor = 0.0) -> Tensor:
        sizes.append(len(rows))
        if len(rows) > 8:
            raise torch.OutOfMemoryError(f"{len(rows)} do not fit")
        return honest(self, stem, masks, rows, fill)

    monkeypatch.setattr(FastTail, "logits", small)
    tail = tail_of(seeded(Normed))
    found = fast(tail, tail.stem(images(3)))
    assert isinstance(found, FastTail)
    assert sizes == [32, 16, 8, 8, 8, 8]
    sizes.clear()
    assert fast(tail_of(seeded(Normed)), tail.stem(images(3)), at_once=5).engine == found.engine
    assert sizes == [5, 5, 5, 5, 5, 5, 2]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # which torch reads of what it compiles
def test_a_graph_is_compiled_for_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        compiled.append(next(len(given) for given in reversed(inputs) if given.shape[1:] == stem.activation.shape[1:]))
        return graph.forward

    honest = torch.compile
    monkeypatch.setattr(torch, "compile", lambda graph, dynamic: honest(graph, dynamic=dynamic, backend=backend))
    monkeypatch.setattr(module, "COMPILED", ("cpu",))
    tail = tail_of(seeded(Normed))
    stem = tail.stem(images(3))
    quick = fast(tail, stem, evaluations=module.COMPILE)
    assert isinstance(quick, FastTail)
    assert quick.engine == "tail (export), compiled"
    assert fast(tail, stem, evaluations=module.COMPILE - 1).engine == "tail (export)"
    kept = quick.prepare(stem)
    for size in (1, 2, 3, 5, 9, 17, 33, 65, 129, 257, 512):
        rows = torch.arange(size) % 3
        for gradient in (True, False):
            masks = torch.ones(size, 6, requires_grad=gradient)
            with torch.set_grad_enabled(gradient):
                torch.testing.assert_close(quick.logits(kept, masks, rows), stem.logits[rows], rtol=1e-4, atol=1e-5)
    assert sorted(set(compiled)) == [2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert len(compiled) == 18  # each with gradients and without; what is beyond torch's limit would run eagerly, unseen here
    torch._dynamo.reset()


@pytest.mark.parametrize(("precision", "engine"), [("bfloat16", "tail (export), bfloat16"), ("float32", "tail (export)")])
def test_where_compiling_fails_the_same_graph_runs_uncompiled(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
                                                             precision: str, engine: str) -> None:
    def broken(graph: torch.fx.GraphModule, dynamic: bool) -> Callable[..., Tensor]:
        def run(*values: Tensor) -> Tensor:
            raise ImportError("no compiler here")
        return run

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(module, "COMPILED", ("cpu",))
    tail = tail_of(seeded(Normed))
    with caplog.at_level(logging.WARNING):
        found = fast(tail, tail.stem(images(3)), precision=precision, evaluations=module.COMPILE)
    assert isinstance(found, FastTail)
    assert found.engine == engine
    assert f"no compiled fast graph in {precision} at 'body': it fails (ImportError: no compiler here)" in caplog.text


def test_slopes_of_no_use_are_refused(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    tail = tail_of(seeded(Normed))
    monkeypatch.setattr(module, "_correlation", lambda *_: 0.9)
    with caplog.at_level(logging.WARNING):
        assert fast(tail, tail.stem(images(3)), precision="bfloat16").engine == "tail (export)"
    assert "slopes correlate by 0.900 (at least 0.99); the search runs without it" in caplog.text


def test_no_such_precision() -> None:
    with pytest.raises(ca.InputError, match=r"precision='half'; expected one of auto, float32, bfloat16; leave it out"):
        ca.per_image(seeded(Normed), images(2), "body", areas=(2,), precision="half")


def test_what_is_no_exported_tail_is_left() -> None:
    tail = bind(seeded(Normed), images(2), ["body"], engine="injection")["body"]
    assert fast(tail, tail.stem(images(3)), precision="bfloat16") is tail


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError(
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")])
def test_batches_halve_where_memory_runs_out(error: Exception) -> None:
    sizes: list[int] = []

    def run(part: slice) -> int:
        sizes.append(part.stop - part.start)
        if sizes[-1] > 5:
            raise error
        return part.start

    anchor = nn.Identity()
    parts = [part for part, _ in in_batches(anchor, 21, 16, True, run)]
    assert sizes == [16, 8, 4, 4, 4, 4, 4, 1]
    assert [i for part in parts for i in range(21)[part]] == list(range(21))
    sizes.clear()
    assert len(list(in_batches(anchor, 8, 16, True, run))) == 2
    assert sizes == [4, 4]
    assert is_out_of_memory(error)


def test_a_single_one_that_does_not_fit_is_an_error() -> None:
    def run(part: slice) -> None:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        list(in_batches(nn.Identity(), 4, 4, False, run))


def test_other_errors_pass() -> None:
    def run(part: slice) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(in_batches(nn.Identity(), 4, 4, False, run))


@pytest.mark.parametrize(("words", "expected"), [(None, None), (1500, 1500), ("2GB", 2 * 10**9), ("500 MB", 5 * 10**8),
                                                 ("1.5g", 15 * 10**8)])
def test_budgets(words: str | int | None, expected: int | None) -> None:
    assert bytes_of(words) == expected


@pytest.mark.parametrize("words", ["much", "", "-2GB", 0, "GB", "nanGB", "infGB", True])
def test_what_is_no_budget(words: str | int) -> None:
    with pytest.raises(ca.InputError, match=r"a memory budget of .*; expected bytes above 0, or words such as '500MB' or '2GB'; leave"):
        bytes_of(words)


def test_what_a_masked_image_needs_is_twice_what_its_backward_pass_keeps() -> None:
    weight = torch.ones(100, requires_grad=True)

    def run(size: int) -> Tensor:
        return (torch.ones(size, 100, requires_grad=True) * weight).sin().sum()  # keeps two tensors of 400 bytes each

    assert needed_by(nn.Identity(), run) == 2 * 2 * 400


def test_an_anchor_outlives_its_tail() -> None:
    model = seeded(Normed)
    tail = tail_of(model)
    assert anchor_of(tail) is graph_of(tail)
    assert anchor_of(bind(model, images(2), ["body"], engine="injection")["body"]) is model
