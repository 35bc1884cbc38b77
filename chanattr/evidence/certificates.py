"""Certificates for answers at hand, and what they say: `certify`, `swap_optimal`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chanattr.attribution.asking import Asking, judge, make_asking
from chanattr.attribution.image import certificates, certify_smallest, energies, shard_size_of, shards_of, to_f4, to_i4, to_numpy
from chanattr.attribution.inputs import check_found, check_images, goal_of, tail_at
from chanattr.attribution.question import Question
from chanattr.attribution.score import Fill
from chanattr.axes import concatenate
from chanattr.errors import InputError
from chanattr.evidence.again import fill_again, question_again
from chanattr.network.inputs import take_rows
from chanattr.network.outputs import Inputs
from chanattr.network.stem import Stem
from chanattr.network.tail import Tail
from chanattr.progress import Progress, advance
from chanattr.records import NOT_RUN, ImageAttribution
from chanattr.search.objective import TOLERANCE, Reward
from chanattr.search.smallest import Smallest


def certify(model: nn.Module, images: Inputs, found: ImageAttribution, *, reward: Reward | None = None,
            score: Callable[..., Tensor] | None = None, channel_axis: int | None = None, batch_size: int | None = None,
            engine: str = "auto", memory_budget: str | int | float | None = None, progress: Progress = False) -> ImageAttribution:
    """Answers at hand with certificates for their a* sets: what ``per_image(certify=True)`` would have given.

    A member of a set that need not be there is taken out of it, and a smaller set takes its place where all smaller ones can be counted
    out; `pruned` says by how much. Everything is judged in float32 by the definition. The sets of the areas stay as they are.

    Args:
        model, images: that `found` is of, in its order.
        found: from `per_image`, or read from a run file.
        reward, score: the callables, where the question has its own.
        channel_axis, batch_size, engine, memory_budget, progress: as for `per_image`.

    Returns:
        The record with `irreducible`, `pruned`, `swap_gain`, `swap_share`, `optimal` and `certify_evaluations`, the a* sets and their
        scores and energies as they are now, and ``settings.certify`` True. In a run file it needs a label of its own.

    Raises:
        InputError: `found` is not of this model, these images or these callables, or has rows that were not run.
        LayerError, ModelError: as `per_image`.

    Examples:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 5))
        >>> images = torch.rand(2, 3, 8, 8)
        >>> ca.certify(model, images, ca.per_image(model, images, "1")).irreducible.tolist()
        [1, 1]
    """
    count = check_images(images)
    if not isinstance(found, ImageAttribution) or len(found) != count or (found.smallest_area == NOT_RUN).any():
        what = f"{len(found)} rows, {int((found.smallest_area == NOT_RUN).sum())} of them not run" if isinstance(
            found, ImageAttribution) else type(found).__name__
        raise InputError(f"found is {what}, for {count} images; expected an ImageAttribution with an answer for every image; pass what "
                         "per_image gave for them, in their order")
    tail = tail_at(model, images, found.layer, engine=engine, score=score, channel_axis=channel_axis)
    question, records = None, []
    with advance(progress, count, f"certificates at {found.layer}") as tell:
        for shard in shards_of(count, shard_size_of(model)):
            own, stem = found[shard], tail.stem(take_rows(images, shard))
            fill = fill_again(own, stem.activation, tail.layer)
            if question is None:  # all of it is judged in float32
                asked = question_again(own, model, tail.layer, fill, reward=reward, score=score, batch_size=batch_size,
                                       memory_budget=memory_budget)
                question = dataclasses.replace(asked, settings=dataclasses.replace(asked.settings, certify=True), precision="float32")
            records.append(_certified(question, tail, stem, own, fill))
            tell(len(records[-1]))
    return concatenate(records)


def swap_optimal(found: ImageAttribution) -> np.ndarray:
    """Whether an exchange of one member betters the a* sets by more than 1e-5 of their score, i1 [N].

    1: every exchange was tried, and none does; 0: one does, `swap_gain` says by how much; -1: none does of those that were tried,
    or the row is not certified.
    """
    gains = found.swap_gain > TOLERANCE * np.maximum(1, np.abs(found.smallest_score))
    return np.where(gains, 0, np.where(found.swap_share == 1, 1, -1)).astype(np.int8)


def _certified(question: Question, tail: Tail, stem: Stem, found: ImageAttribution, fill: Fill) -> ImageAttribution:
    """One shard of answers with their certificates; what does not change keeps its numbers."""
    goal = goal_of(found.targets.tolist(), stem)
    check_found(found, question.settings, goal, stem.logits)
    asking = make_asking(question, tail, stem, goal, fill)
    mask, area = (torch.from_numpy(values).to(goal.device) for values in (found.smallest_mask, found.smallest_area.astype(np.int64)))
    proved = certify_smallest(asking, Smallest(area, mask, torch.zeros(len(goal), device=goal.device, dtype=torch.float32)))
    changed = to_numpy((proved.mask != mask).any(1))
    new: dict[str, Any] = _changed(asking, found, proved.mask, changed) | certificates(proved, question.settings.game)
    new["pruned"] = new["pruned"] + found.pruned  # of an earlier certification, too
    return dataclasses.replace(found, settings=question.settings, smallest_area=to_i4(proved.area), smallest_mask=to_numpy(proved.mask),
                               **new)


def _changed(asking: Asking, found: ImageAttribution, mask: Tensor, changed: np.ndarray) -> dict[str, np.ndarray]:
    """Score, top-1 and energy of the a* sets, anew where they changed."""
    final = judge(asking, mask, torch.arange(len(mask), device=mask.device))
    stem, spread, layer = asking.score.stem, asking.question.family.spread, asking.score.tail.layer
    energy = energies(layer, stem, spread(mask)[:, None])[:, 0]
    return {"smallest_score": np.where(changed, to_f4(final.score), found.smallest_score),
            "smallest_top1": np.where(changed, to_numpy(final.top1 > 0.5), found.smallest_top1),
            "energy": np.where(changed[:, None, None], energy, found.energy)}
