"""Adapters of other toolkits' layer attributions to the table of baselines; each is imported when it is asked for (extra `peers`)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from chanattr.attribution.score import channels_last
from chanattr.errors import InputError, first_line
from chanattr.evidence.baselines import Baseline, Subject, Worth, by_entry
from chanattr.network.exactly import float32_exactly
from chanattr.network.hooks import frozen
from chanattr.network.inputs import tensors_of, with_tensors
from chanattr.network.names import find
from chanattr.network.outputs import call, logits_of

STEPS, SAMPLES = 16, 5  # along a path; of noisy inputs


def layer_conductance(subject: Subject) -> Worth:
    """Captum's LayerConductance from a zero input."""
    return _captum(subject, "LayerConductance", STEPS, n_steps=STEPS, method="riemann_trapezoid")


def layer_deep_lift(subject: Subject) -> Worth:
    """Captum's LayerDeepLift from a zero input; models that reuse a nonlinearity are refused by it."""
    return _captum(subject, "LayerDeepLift", 2)


def layer_gradient_x_activation(subject: Subject) -> Worth:
    """Captum's LayerGradientXActivation."""
    return _captum(subject, "LayerGradientXActivation", 1)


def internal_influence(subject: Subject) -> Worth:
    """Captum's InternalInfluence from a zero input."""
    return _captum(subject, "InternalInfluence", STEPS, n_steps=STEPS)


def layer_gradient_shap(subject: Subject) -> Worth:
    """Captum's LayerGradientShap, with a zero input as the only baseline."""
    baselines = tuple(torch.zeros_like(tensor[:1]) for tensor in tensors_of(subject.images))
    return _captum(subject, "LayerGradientShap", SAMPLES, baselines=baselines, n_samples=SAMPLES, stdevs=0.09)


def layer_feature_ablation(subject: Subject) -> Worth:
    """Captum's LayerFeatureAblation, a channel at a time."""
    layer = subject.score.tail.layer
    shape = [1] * subject.score.stem.activation.ndim
    shape[layer.channel_axis] = layer.channels
    mask = torch.arange(layer.channels, device=subject.score.targets.device).view(shape)
    found = _captum(subject, "LayerFeatureAblation", (1 + layer.channels) / 3, layer_mask=mask)
    positions = channels_last(subject.score.stem.activation, layer).shape[1]
    return found._replace(values=found.values / positions)  # a channel's loss stands at each of its positions


def concept_relevance(subject: Subject) -> Worth:
    """zennit-crp's relevance of a channel for the target's logit, by the rule EpsilonPlusFlat."""
    attribution, composites = _imported("crp.attribution", "zennit-crp"), _imported("zennit.composites", "zennit")
    layer = subject.score.tail.layer
    if subject.asking.question.settings.reward != "logit" or layer.name != find(subject.model, layer.name)[1]:
        raise InputError(f"concept_relevance at {layer.name!r} of the reward {subject.asking.question.settings.reward!r}; expected a "
                         "module's output and the reward 'logit', which is all that it explains; leave it out")
    inputs = tensors_of(subject.images)
    if len(inputs) > 1 or subject.output_score is not None:
        raise InputError(f"concept_relevance of a model with {len(inputs)} inputs and {'a' if subject.output_score else 'no'} score "
                         "function; expected one image tensor and logits as the output; leave it out")
    asked = [{"y": [target]} for target in subject.score.targets.tolist()]
    with _left_as_found(subject.model), _failures("concept_relevance", layer.name):
        given = attribution.CondAttribution(subject.model)(inputs[0].detach().clone().requires_grad_(), asked,
                                                           composites.EpsilonPlusFlat(), record_layer=[layer.name])
    relevance = channels_last(given.relevances[layer.name].detach(), layer).float().sum(1)
    return Worth(by_entry(subject, relevance), 1.0)


PEERS: dict[str, Baseline] = {
    "captum_layer_conductance": layer_conductance, "captum_layer_deep_lift": layer_deep_lift,
    "captum_layer_gradient_x_activation": layer_gradient_x_activation, "captum_internal_influence": internal_influence,
    "captum_layer_gradient_shap": layer_gradient_shap, "captum_layer_feature_ablation": layer_feature_ablation,
    "crp_concept_relevance": concept_relevance}


class _Rewarded(nn.Module):
    """The model with its reward for an output: [B] of inputs and targets, which Captum repeats along with its steps."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.model, self._subject = subject.model, subject

    def forward(self, *given: Tensor) -> Tensor:
        *inputs, targets = given
        output = call(self.model, with_tensors(self._subject.images, inputs))
        return self._subject.score.reward(logits_of(output, self._subject.output_score).float(), targets)


@torch.inference_mode(False)
def _captum(subject: Subject, name: str, evaluations: float, **options: Any) -> Worth:
    """One of Captum's layer attributions, summed over positions; one image at a time.

    Raises:
        InputError: Captum is not installed, cannot name this call of the layer, or fails on this model.
    """
    layer = subject.score.tail.layer
    module, _, number, is_input = find(subject.model, layer.name)
    if number > 1:
        raise InputError(f"{name} at {layer.name!r}; expected a layer's only call, for Captum cannot tell calls apart; leave it out here")
    method: Callable[..., Any] = getattr(_imported("captum.attr", "captum"), name)
    network = _Rewarded(subject)
    network.training = subject.model.training  # the wrapper alone: the model stays in its own mode
    where = {"attribute_to_layer_input": is_input} if is_input else {}
    values = []
    for row in range(len(subject.keys)):  # one by one: what is drawn, and memory, hang on no other image
        inputs = tuple(tensor[row:row + 1].detach().clone() for tensor in tensors_of(subject.images))
        inputs = tuple(tensor.requires_grad_() if tensor.is_floating_point() else tensor for tensor in inputs)
        with _left_as_found(subject.model), _failures(name, layer.name), torch.random.fork_rng():
            torch.manual_seed(subject.generator(row).initial_seed())
            given = method(network, module).attribute(inputs, additional_forward_args=(subject.score.targets[row:row + 1].clone(),),
                                                      **where, **options)
        found = given[0] if isinstance(given, tuple) else given
        values.append(channels_last(found.detach(), layer).float().sum(1))
    return Worth(by_entry(subject, torch.cat(values)), evaluations)


@contextmanager
def _left_as_found(model: nn.Module) -> Iterator[None]:
    """Inside, the model runs frozen and in float32; afterwards no module keeps an attribute (Captum's DeepLift leaves activations)."""
    before = {module: set(vars(module)) for module in model.modules()}
    try:
        with frozen(model), torch.enable_grad(), float32_exactly():
            yield
    finally:
        for module, names in before.items():
            for name in set(vars(module)) - names:
                delattr(module, name)


@contextmanager
def _failures(name: str, layer: str) -> Iterator[None]:
    """Another toolkit's failure as this one's error; a full memory stays what it is.

    Raises:
        InputError: it failed.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        raise InputError(f"{name} failed at {layer!r} ({first_line(error)}); expected a model that it takes; leave this "
                         "method out") from error


def _imported(module: str, package: str) -> Any:
    """A module of another toolkit.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{package} cannot be imported, or what it needs is not installed ({error}); expected it for this method; install "
                         "chanattr[peers]") from error
