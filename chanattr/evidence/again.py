"""The question that answers at hand were asked with, made complete once more from their record."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from chanattr.attribution.question import Asked, Question, make_question
from chanattr.attribution.score import Fill, fill_of
from chanattr.errors import InputError
from chanattr.network.layers import Layer
from chanattr.records import ClassAttribution, ImageAttribution
from chanattr.search.objective import Reward


def question_again(found: ImageAttribution, model: nn.Module, layer: Layer, fill: Fill, *,
                   reward: str | Reward | Mapping[str, Reward] | None = None, score: Callable[..., Tensor] | None = None,
                   batch_size: int | None = None, memory_budget: str | int | float | None = None, digest: str | None = None) -> Question:
    """The question that a record answers, complete once more.

    Args:
        found: the record.
        model, layer, fill: that it is of, at hand.
        reward, score: the callables, where the question has its own; rewards may come by the names that questions have for them.
        batch_size, memory_budget: as for `per_image`.
        digest: of the model, where it is known already.

    Raises:
        InputError: it was asked of another model, or with callables that are not given.
    """
    settings = found.settings
    if isinstance(reward, Mapping):
        reward = reward.get(settings.reward)
    for name, stored, given in (("reward", settings.reward, reward), ("score", settings.score, score)):
        if ":" in stored and given is None:
            raise InputError(f"found was asked with {name}={stored}; expected this function here too; pass {name}=")
    group = {"": "", "heads": "heads"}.get(settings.group, found.groups)
    asked = Asked(areas=settings.areas or "smallest", search=settings.search, reward=settings.reward if reward is None else reward,
                  game=settings.game, level=settings.level, refine=settings.refine, score=score, seed=settings.seed, model=settings.model,
                  preprocessing=settings.preprocessing, group=group, batch_size=batch_size, memory_budget=memory_budget)
    question = make_question(asked, model, layer, fill, digest=digest)
    for name, stored, now in settings.differences(question.settings):
        if name not in ("folds", "certify"):
            raise InputError(f"found has {name}={stored!r}, but here it is {now!r}; expected the model and the question that it was asked "
                             "with; pass those")
    return question


def fill_again(found: ImageAttribution | ClassAttribution, activation: Tensor, layer: Layer) -> Fill:
    """What a dropped channel became in a record's question."""
    name = found.settings.fill
    if name in ("zero", "spatial_mean"):
        return fill_of(name, activation, layer)
    return Fill(name, found.settings.fill_sha256, torch.from_numpy(np.array(found.fill_values)).to(activation.device))
