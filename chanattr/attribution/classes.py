"""The question for each class: the paper's mean of its images' a* masks, and one joint set for all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chanattr.arguments import check_class_names
from chanattr.attribution.asking import Asking, check_ends, find_smallest, judge, judge_sets, make_asking, reaches, search_grid, some_rows
from chanattr.attribution.image import answer, groups_of_channels, mean_where_asked, shard_size_of, shards_of, to_f4, to_i4, to_numpy
from chanattr.attribution.inputs import (
    check_finite,
    check_found,
    check_images,
    check_stem,
    check_targets,
    goal_of,
    tail_at,
)
from chanattr.attribution.question import Areas, Asked, Question, make_question
from chanattr.attribution.score import Fill, fill_of
from chanattr.axes import concatenate
from chanattr.errors import InputError
from chanattr.network.inputs import take_rows
from chanattr.network.outputs import Inputs
from chanattr.network.stem import Stem, join_stems, take_stem
from chanattr.network.tail import Tail
from chanattr.progress import Progress, advance
from chanattr.records import ClassAttribution, ImageAttribution
from chanattr.search.groups import Group
from chanattr.search.objective import Reward
from chanattr.settings import Search


def per_class(model: nn.Module, images: Inputs, layer: str, *, targets: Sequence[int] | Tensor,
              areas: Areas = None, search: Search | None = None, reward: str | Reward = "logit", game: str = "preserve",
              fill: str | float | Sequence[float] | np.ndarray | Tensor = "zero", level: str | float | None = None,
              refine: bool | None = None, folds: int = 2, found: ImageAttribution | None = None, names: Sequence[str] = (),
              score: Callable[..., Tensor] | None = None, group: Group = "", channel_axis: int | None = None, seed: int = 0,
              batch_size: int | None = None, engine: str = "auto", precision: str = "auto",
              memory_budget: str | int | float | None = None, progress: Progress = False) -> ClassAttribution:
    """The channels each class needs: the mean of its images' a* masks (the paper's), and joint sets found on the mean reward.

    A set fits the images it was searched on a little too well: `held_out_scores` come from searches on the other folds.

    Args:
        model, images, layer, areas, search, reward, game, fill, level, refine, score: as for `per_image`.
        group, channel_axis, seed, batch_size, engine, precision, memory_budget, progress: the same.
        targets: the class of each image [N]; required.
        folds: parts of a class that are searched apart and scored on the rest; 0 or 1 for none.
        found: the images' own answers to this question, in the order of `images`, if they are at hand; their keys, areas and search
            may be any.
        names: class names by number.

    Returns:
        A `ClassAttribution` with one row a class, in increasing order of its number.

    Raises:
        InputError: an argument cannot be used, or `found` is not of these images, targets or question.
        LayerError, ModelError: as in `per_image`.

    Source: Fong, Patrick and Vedaldi 2019, section 5, for the mean; the joint set is this project's.

    Examples:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))
        >>> found = ca.per_class(model, torch.rand(4, 3, 8, 8), "1", targets=[0, 0, 2, 2], areas=(1, 2), engine="injection")
        >>> found.targets.tolist(), found.joint_masks.sum(-1).tolist()
        ([0, 2], [[1, 2], [1, 2]])
    """
    asked = Asked(areas=areas, search=search, reward=reward, game=game, level=level, refine=refine, score=score, seed=seed,
                  folds=folds, batch_size=batch_size, precision=precision, memory_budget=memory_budget, group=group)
    count = check_images(images)
    if targets is None:
        raise InputError("targets=None; expected the class of each image, for answers are one a class; pass labels, or "
                         "model(images).argmax(1) for the predicted classes")
    check_targets(targets, count)
    check_class_names("names", names)
    tail = tail_at(model, images, layer, engine=engine, score=score, channel_axis=channel_axis)
    size = shard_size_of(model)
    shards = shards_of(count, size)
    stem = join_stems([tail.stem(take_rows(images, rows)) for rows in shards])
    goal = goal_of(targets, stem)
    given = mean_where_asked(fill, tail, images, shards) or fill_of(fill, stem.activation, tail.layer)
    question = make_question(asked, model, tail.layer, given, images=count)
    if found is not None:
        check_found(found, question.settings, goal, stem.logits)
    else:
        with advance(progress, count, f"images at {layer}") as tell:
            found = own_answers(question, tail, stem, [str(row) for row in range(count)], goal, given, size, tell)
    records = []
    classes = goal.unique().tolist()
    with advance(progress, len(classes), f"classes at {layer}") as tell:
        for target in classes:
            rows = torch.nonzero(goal == target)[:, 0]
            name = names[target] if target < len(names) else ""
            own = found[rows.cpu().numpy()]
            records.append(answer_class(question, tail, take_stem(stem, rows), target=target, name=name,
                                        fill=given.of(rows), smallest_area=own.smallest_area,
                                        smallest_mask=own.smallest_mask))
            tell(1)
    return concatenate(records)


def own_answers(question: Question, tail: Tail, stem: Stem, keys: Sequence[str], goal: Int[Tensor, "N"], fill: Fill, size: int,
                tell: Callable[[int], object] = lambda _done: None) -> ImageAttribution:
    """The images' own answers to a question about classes, from their activations.

    Args:
        question: complete.
        tail, stem: of the layer.
        keys, goal: key and class of each image.
        fill: as resolved; [K] or [N, K].
        size: images searched side by side.
        tell: is told how many are done each time.

    Raises:
        ModelError: numbers of an image are not finite.
    """
    records = []
    for rows in torch.arange(len(goal), device=goal.device).split(size):
        records.append(answer(question, tail, take_stem(stem, rows), keys=[keys[row] for row in rows.tolist()], targets=goal[rows],
                              fill=fill.of(rows), keep_energy=False))
        tell(len(rows))
    return concatenate(records)


def answer_class(question: Question, tail: Tail, stem: Stem, *, target: int, name: str, fill: Fill,
                 smallest_area: np.ndarray, smallest_mask: np.ndarray) -> ClassAttribution:
    """The record of one class from the activations of all its images.

    Args:
        question: complete; ``settings.folds`` parts are searched apart.
        tail, stem: of the layer.
        target, name: of the class.
        fill: as resolved; [K] or [N, K].
        smallest_area, smallest_mask: the images' own a* for this target, [R] and [R, K].

    Raises:
        ModelError: numbers of an image, or of the class, are not finite.
    """
    count = len(stem.logits)
    goal = torch.full((count,), target, device=stem.logits.device)
    images = [f"{name or target} image {i}" for i in range(count)]
    check_stem(stem, images, tail.layer.name)
    members, held_out = fold_members(count, question.settings.folds, goal.device)
    asking = make_asking(question, tail, stem, goal, fill, members)
    check_ends(asking, [name or str(target)] * len(members), "class")
    grid = torch.tensor(question.settings.areas, device=goal.device, dtype=torch.long)
    masks, spent = search_grid(asking, grid)
    row = torch.zeros(len(grid), dtype=torch.long, device=goal.device)
    final = judge(asking, masks[0], row)
    check_finite(final.score[None], [name or str(target)], "masked scores", unit="class")
    whole = some_rows(asking, torch.zeros(1, dtype=torch.long))  # all images of the class
    smallest = find_smallest(whole, grid, masks[:1], reaches(whole, final.score, final.top1, row)[None])
    last = judge(whole, smallest.mask, torch.zeros_like(smallest.area))
    outside = _held_out(asking, masks[1:], held_out)
    reach = smallest_area >= 0
    mean = smallest_mask[reach].mean(0) if reach.any() else np.zeros(question.family.size)
    per_fold = torch.tensor([len(m) for m in members], device=spent.device) * spent
    return ClassAttribution(
        layer=tail.layer.name, settings=question.settings, engine=asking.score.quick.engine, names=(name,),
        targets=np.array([target], np.int32), areas=to_i4(grid), rows=np.array([count], np.int32), images=np.array([reach.sum()], np.int32),
        mean_mask=mean[None].astype(np.float32), joint_masks=to_numpy(masks[:1]), joint_scores=to_f4(final.score[None]),
        joint_top1=to_f4(final.top1[None]), joint_log_probability=to_f4(final.log_probability[None]),
        held_out_scores=to_f4(outside[None, 0]), held_out_top1=to_f4(outside[None, 1]),
        held_out_log_probability=to_f4(outside[None, 2]), original=to_f4(asking.original[:1]), empty=to_f4(asking.empty[:1]),
        original_top1=to_f4(asking.named[:1]), smallest_area=to_i4(smallest.area), smallest_mask=to_numpy(smallest.mask),
        smallest_score=to_f4(last.score.masked_fill(smallest.area < 0, torch.nan)),
        fill_values=to_f4(fill.stored()), groups=groups_of_channels(question),
        evaluations=to_f4(per_fold.sum()[None] + count * smallest.evaluations))


def fold_members(count: int, folds: int, device: torch.device) -> tuple[tuple[Int[Tensor, "_"], ...], tuple[Int[Tensor, "_"], ...]]:
    """Rows of a class: first all images, then for each fold the images outside it; and the images inside each fold.

    Image i lies in fold ``i % folds``. No folds where a class has fewer images than folds, or one fold.
    """
    every = torch.arange(count, device=device)
    if folds < 2 or count < folds:
        return (every,), ()
    inside = [every[every % folds == fold] for fold in range(folds)]
    outside = [every[every % folds != fold] for fold in range(folds)]
    return (every, *outside), tuple(inside)


def _held_out(asking: Asking, masks: Bool[Tensor, "F A K"], held_out: tuple[Tensor, ...]) -> Float[Tensor, "3 A"]:
    """Mean score, top-1 and log-probability of each fold's sets over the images that they were not searched on."""
    if not len(masks):
        return torch.full((3, len(asking.question.settings.areas)), torch.nan, dtype=torch.float32)
    outside = asking._replace(score=dataclasses.replace(asking.score, members=held_out))
    sizes = torch.tensor([len(m) for m in held_out], device=masks.device, dtype=torch.float32)
    return (torch.stack(judge_sets(outside, masks)) * sizes[None, :, None]).sum(1) / sizes.sum()
