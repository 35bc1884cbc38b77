"""A quantised model in floating point: its answers to a step of its eight bits, slopes, its names; what cannot be turned is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

import chanattr as ca
from chanattr.network.integers import Rounded
from chanattr.network.zoo import load_model

ENGINE = next((name for name in ("x86", "fbgemm", "qnnpack") if name in torch.backends.quantized.supported_engines), "")
QUICK = ca.ExactSearch(relaxed_steps=4, binary_steps=4)

pytestmark = pytest.mark.skipif(not ENGINE, reason="this torch has no quantised kernels")


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.quantized, "engine", ENGINE)


class Net(nn.Module):
    """All that torchvision's quantised models are built of."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        quantization, functions = torch.ao.quantization, torch.ao.nn.quantized.FloatFunctional
        self.before, self.after = quantization.QuantStub(), quantization.DeQuantStub()
        self.first, self.second = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.soft, self.dropout = nn.Hardswish(), nn.Dropout()
        self.sum, self.product, self.join, self.rest = functions(), functions(), functions(), functions()
        self.wide, self.head = nn.Sequential(nn.Linear(16, 12), nn.ReLU()), nn.Linear(12, 4, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        first = self.first(self.before(images))
        second = self.soft(self.second(first))
        joined = self.join.cat([self.sum.add(first, second), self.rest.add_relu(first, self.product.mul(first, second))], 1)
        pooled = nn.functional.max_pool2d(joined, joined.shape[-1]).flatten(1)
        return self.after(self.head(self.wide(self.dropout(pooled))))


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 10, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def integers() -> nn.Module:
    """The network in integers, its ranges taken from the images."""
    quantization = torch.ao.quantization
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is to move to another package
        torch.backends.quantized.engine = ENGINE
        model = quantization.fuse_modules(Net().eval(), [["first.0", "first.1"], ["wide.0", "wide.1"]])
        model.qconfig = quantization.get_default_qconfig(ENGINE)
        ready = quantization.prepare(model)
        ready(images(64))
        return quantization.convert(ready)


def test_the_copy_gives_what_the_integers_give(integers: nn.Module) -> None:
    copy = ca.dequantised(integers)
    with torch.no_grad():
        expected, found = integers(images(200)), copy(images(200))
    steps = (expected - found).abs() / integers.head.scale
    assert steps.max() < 1.01
    assert (steps < 0.01).float().mean() > 0.95  # all but where a sum lies between two steps
    assert expected.std(0).min() > 2 * integers.head.scale
    called = {name for name, _ in integers.named_modules() if "_packed" not in name and "post_process" not in name}
    assert called == {name for name, _ in copy.named_modules()}
    assert not any(module.training for name, module in copy.named_modules() if "." not in name)
    assert not any("quantized" in type(module).__module__ for module in copy.modules())
    with torch.no_grad():
        assert torch.equal(integers(images(200)), expected)  # left as it was


def test_rounding_is_to_the_nearest_number_and_slopes_pass_within_the_range() -> None:
    step, values = 0.5, torch.tensor([-9.0, -0.8, 0.1, 0.3, 200.0], requires_grad=True)
    made = Rounded(torch.ao.nn.quantized.Quantize(step, 4, torch.quint8))(values)
    made.sum().backward()
    assert made.tolist() == [-2.0, -1.0, 0.0, 0.5, 125.5]  # 0 to 255, of which 4 is zero
    assert values.grad is not None
    assert values.grad.tolist() == [0, 1, 1, 1, 0]


def test_what_is_found_on_the_copy_holds_in_the_integers(integers: nn.Module) -> None:
    x = images(3)
    found = ca.per_image(ca.dequantised(integers), x, "first.0", areas=(2, 5), search=QUICK)
    assert not found.engine.startswith("injection")
    for place in range(2):
        for row in range(3):
            mask = found.channel_mask(row, (2, 5)[place])
            with torch.no_grad(), ca.inject(integers, "first.0", mask), ca.capture(integers, ["first.0"]) as seen:
                score = integers(x[row:row + 1])[0, found.targets[row]]
            assert not seen["first.0"].dequantize()[:, ~torch.from_numpy(mask)].any()
            assert abs(float(score) - found.scores[row, place]) < 1.01 * integers.head.scale
    assert np.ptp(found.scores) > 2 * integers.head.scale


def test_a_search_on_integers_names_the_way_out(integers: nn.Module) -> None:
    with pytest.raises(ca.ModelError, match=r"Net is quantised .*; ask about .* ca\.dequantised\(model\) where that was eager"):
        ca.per_image(integers, images(2), "first.0", areas=(2,), search=QUICK)


def graph() -> nn.Module:
    """What convert_fx leaves: a graph that holds a module in integers."""
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4)))
    return torch.fx.GraphModule(nn.Sequential(torch.ao.nn.quantized.Linear(3, 4)), traced.graph)


@pytest.mark.parametrize(("module", "message"), [
    (lambda: nn.Sequential(nn.Conv2d(3, 4, 1)), "Sequential has no quantised module; expected a model after "),
    (lambda: nn.Sequential(torch.ao.nn.quantized.ConvTranspose2d(3, 4, 1)), "'0' is a quantised ConvTranspose2d, which is not known"),
    (lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 1))), "Sequential has no quantised module"),
    (lambda: graph(), "the model is a graph, as convert_fx makes it"),
    (lambda: nn.Sequential(nn.ReLU(), graph()), "module '1' is a graph, as convert_fx makes it"),
    (lambda: nn.Sequential(torch.ao.nn.quantized.Quantize(0.1, 0, torch.qint8)), "to torch.qint8; expected torch.quint8"),
    (Net, "Net has no quantised module"),
    (lambda: nn.Sequential(torch.ao.nn.quantized.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")), "'reflect' is not known"),
])
def test_what_cannot_be_turned_is_refused(module: object, message: str) -> None:
    with pytest.raises(ca.ModelError, match=message):
        ca.dequantised(module())  # type: ignore[operator]


def test_a_module_in_two_places_is_one_in_the_copy_too(integers: nn.Module) -> None:
    convolution = torch.ao.nn.quantized.Conv2d(3, 3, 1)
    made = ca.dequantised(nn.Sequential(convolution, convolution, nn.Sequential(convolution)))
    assert made[0] is made[1] is made[2][0]  # type: ignore[index]
    assert isinstance(made[0], Rounded)  # type: ignore[index]


def test_functions_of_integers_are_rounded_alike() -> None:
    functions = torch.ao.nn.quantized.QFunctional()
    functions.scale, functions.zero_point = 0.05, 7
    first, second = (torch.quantize_per_tensor(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)), 0.04, 99, torch.quint8)
                     for seed in (0, 1))
    copy = ca.dequantised(nn.Sequential(functions))[0]  # type: ignore[index]
    for name, arguments in {"add": (first, second), "add_relu": (first, second), "mul": (first, second), "matmul": (first, second),
                            "cat": ([first, second],), "add_scalar": (first, 0.4), "mul_scalar": (first, 0.5)}.items():
        plain = [[part.dequantize() for part in given] if isinstance(given, list) else given.dequantize() if isinstance(given, Tensor)
                 else given for given in arguments]
        expected, found = getattr(functions, name)(*arguments), getattr(copy, name)(*plain)
        assert (expected.dequantize() - found).abs().max() <= 1.01 * expected.q_scale(), name
        assert np.ptp(found.numpy()) > 10 * expected.q_scale(), name


def test_torchvisions_quantised_models_are_loaded_so() -> None:
    loaded = load_model("quantized_shufflenet_v2_x0_5", weights="random")
    assert torch.backends.quantized.engine == ENGINE
    assert len(loaded.class_names) == 1000
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        integers = torchvision.models.get_model("quantized_shufflenet_v2_x0_5", weights=None, quantize=True)
    weighing = {name: module for name, module in integers.named_modules() if hasattr(module, "weight") and callable(module.weight)}
    assert len(weighing) == 57
    for name, module in weighing.items():
        assert torch.equal(loaded.module.get_submodule(name).weight, module.weight().dequantize()), name
    assert "stage3.0.branch2.0" in [layer.name for layer in ca.layers(loaded.module, torch.rand(2, 3, 64, 64))]


def test_a_calibrated_model_of_torchvisions_answers_alike() -> None:
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = torchvision.models.quantization.resnet18(weights=None, quantize=False, num_classes=10)
        x = nn.functional.interpolate(torch.rand(32, 3, 4, 4), size=(64, 64))
        with torch.no_grad():
            for _ in range(20):
                model(x)  # statistics of the norms, without which random weights tell no pictures apart
            model.eval().fuse_model()
            model.qconfig = torch.ao.quantization.get_default_qconfig(ENGINE)
            ready = torch.ao.quantization.prepare(model)
            ready(x)
            integers = torch.ao.quantization.convert(ready)
    with torch.no_grad():
        expected, found = integers(x), ca.dequantised(integers)(x)
    apart = (expected - found).abs().mean()
    assert apart < 2 * integers.fc.scale
    assert expected.std(0).mean() > 5 * apart
