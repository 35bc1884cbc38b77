"""Other toolkits' attributions: ours are the same where they are the same method, and refusals are clear."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from chanattr.errors import InputError
from chanattr.evidence import peers
from chanattr.evidence.baselines import BASELINES
from chanattr.evidence.peers import PEERS
from tests.evidence.test_baselines import images, network, subject_of  # noqa: F401


@pytest.mark.parametrize(("peer", "own"), [("captum_layer_gradient_x_activation", "gradient_x_activation"),
                                           ("captum_layer_conductance", "conductance"), ("captum_layer_feature_ablation", "ablation")])
def test_captum_gives_what_ours_give(network: nn.Module, images: torch.Tensor, peer: str, own: str) -> None:  # noqa: F811
    pytest.importorskip("captum", reason="Captum is not installed (extra 'peers')")
    theirs, mine = (table[name](subject_of(network, images)).values for table, name in ((PEERS, peer), (BASELINES, own)))
    assert torch.allclose(theirs, mine, rtol=1e-5, atol=1e-5 * float(mine.abs().max()))


@pytest.mark.parametrize("name", sorted(PEERS))
def test_every_peer_gives_a_number_a_channel_and_leaves_the_model(network: nn.Module, images: torch.Tensor, name: str) -> None:  # noqa: F811
    pytest.importorskip("crp.attribution" if name.startswith("crp") else "captum", reason=f"for {name} (extra 'peers')")
    values = PEERS[name](subject_of(network, images)).values
    assert values.shape == (3, 6)
    assert values.isfinite().all()
    assert not network.training
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())


@pytest.mark.parametrize("name", sorted(PEERS))
def test_a_layer_behind_a_nonlinearity_and_nothing_left_in_the_model(images: torch.Tensor, name: str) -> None:  # noqa: F811
    pytest.importorskip("crp.attribution" if name.startswith("crp") else "captum", reason=f"for {name} (extra 'peers')")
    torch.manual_seed(4)
    deep = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 4)).eval()
    before = {module: dict(vars(module)) for module in deep.modules()}
    together = PEERS[name](subject_of(deep, images, layer="3")).values
    assert all(set(vars(module)) == set(names) for module, names in before.items())
    alone = PEERS[name](subject_of(deep, images[[2]], layer="3", keys=("c",), targets=(1,))).values
    assert torch.allclose(alone[0], together[2], rtol=1e-4, atol=1e-4 * float(together.abs().max()))


@pytest.mark.parametrize("name", sorted(PEERS))
def test_a_toolkit_that_is_not_there(network: nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch, name: str) -> None:  # noqa: F811
    def missing(module: str) -> None:
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"is not installed .*; expected it for this method; install chanattr\[peers\]"):
        PEERS[name](subject_of(network, images))


def test_relevance_explains_logits_alone(network: nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(peers, "_imported", lambda module, package: None)
    subject = subject_of(network, images)
    question = subject.asking.question
    other = subject.asking._replace(question=question.__class__(**{**question.__dict__, "settings": question.settings.__class__(
        **{**question.settings.__dict__, "reward": "contrastive"})}))
    with pytest.raises(InputError, match="reward 'contrastive'; expected a module's output and the reward 'logit'"):
        peers.concept_relevance(subject._replace(asking=other))
