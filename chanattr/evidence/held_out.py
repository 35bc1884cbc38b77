"""Class sets searched on some folds of a class's images and scored on the others: joint sets, the paper's means, and others."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chanattr import tables
from chanattr.arguments import Range, check_class_names, check_name, check_number, listed
from chanattr.attribution.asking import Asking, check_ends, judge, make_asking, search_grid
from chanattr.attribution.classes import own_answers
from chanattr.attribution.image import groups_of_channels, in_groups, mean_where_asked, shard_size_of, shards_of, to_i4, to_numpy
from chanattr.attribution.inputs import check_images, check_range, check_targets, tail_at
from chanattr.attribution.question import Areas, Asked, Question, make_question
from chanattr.attribution.score import Fill, fill_of
from chanattr.errors import InputError
from chanattr.evidence.baselines import Subject, gradient_x_activation, in_float32
from chanattr.evidence.class_records import HeldOut
from chanattr.network.inputs import take_rows
from chanattr.network.outputs import Inputs
from chanattr.network.stem import Stem, join_stems
from chanattr.network.tail import Tail
from chanattr.progress import Progress, advance
from chanattr.records import ImageAttribution
from chanattr.search.family import largest, nested_masks
from chanattr.search.groups import Group
from chanattr.search.objective import Reward, log_probability, logit
from chanattr.settings import Search

LOG = logging.getLogger(__name__)
GROUP = 512  # images whose activations are held at once, of whole classes (a larger class alone)
METHODS = ("joint", "mean", "mean_of_area", "gradient_x_activation", "random", "other_class")


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is asked of which images: class and fold of each, folds searched apart, the network bound."""

    model: nn.Module
    tail: Tail
    images: Inputs
    goal: Tensor
    classes: Tensor
    place: Tensor
    fold: Tensor
    folds: int
    names: tuple[str, ...]
    methods: tuple[str, ...]
    fill: Fill | None
    seed: int


class _Part(NamedTuple):
    """Whole classes whose activations are at hand: image numbers, their stem, targets and fill."""

    rows: Int[Tensor, "S"]
    stem: Stem
    goal: Int[Tensor, "S"]
    fill: Fill


class _Sets(NamedTuple):
    """Sets of every method; all False where there is none."""

    masks: Bool[Tensor, "M C F A K"]
    reaching: Int[Tensor, "C F"]
    evaluations: Float[Tensor, "M"]


def held_out(model: nn.Module, images: Inputs, layer: str, *, targets: Sequence[int] | Tensor, counts: Areas = None, folds: int = 2,
             rewards: Sequence[str | Reward] = ("logit",), methods: Sequence[str] = METHODS, search: Search | None = None,
             game: str = "preserve", fill: str | float | Sequence[float] | np.ndarray | Tensor = "zero", level: str | float | None = None,
             names: Sequence[str] = (), score: Callable[..., Tensor] | None = None, group: Group = "", channel_axis: int | None = None,
             seed: int = 0, batch_size: int | None = None, engine: str = "auto", precision: str = "auto",
             memory_budget: str | int | float | None = None, progress: Progress = False) -> HeldOut:
    """How good class sets are on images that they were not searched on, by method, class, fold, area and reward.

    Image i of a class lies in fold ``i % folds``; the sets of a fold come from all images outside of it. Activations are held for at most
    512 images at a time, so that thousands of classes fit.

    Args:
        model, images, layer, search, game, fill, level, score, group, channel_axis, seed: as for `per_image`.
        batch_size, engine, precision, memory_budget, progress: the same.
        targets: the class of each image [N]; required.
        counts: channels a set; None is ``area_grid(K)``.
        folds: parts of a class, 2 or more.
        rewards: what is searched, each by itself.
        methods: of
            "joint", one set on the mean reward (this project's);
            "mean", the channels that most of the images' a* sets hold (the paper's), as many as the count;
            "mean_of_area", the same over the images' own best sets of that very count;
            "gradient_x_activation", of the class's mean reward, at the whole activation;
            "random", drawn for each class and fold;
            "other_class", the joint set of another class, drawn for each class and fold.
        names: class names by number.

    Returns:
        A `HeldOut`. A class with fewer images than folds, a mean over no image that reaches the level, and another class's set where
        there is none are left NaN and told to the log.

    Raises:
        InputError: an argument cannot be used, a target is none of the model's classes, or no class has an image for every fold.
        LayerError, ModelError: as in `per_image`.

    Source: the mean is that of Fong, Patrick and Vedaldi 2019, section 5.

    Examples:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))
        >>> found = ca.held_out(model, torch.rand(4, 3, 8, 8), "1", targets=[0, 0, 2, 2], counts=(1, 2), methods=("joint", "random"),
        ...                     engine="injection")
        >>> found.methods, found.by_class().shape
        (('joint', 'random'), (1, 2, 2, 2))
    """
    chosen = tuple(dict.fromkeys(listed("methods", methods, ", ".join(METHODS), "leave it out for all of them")))
    for method in chosen:
        check_name("method", method, METHODS, remedy="leave it out for all of them")
    remedy = "ask for 2, so that each half is scored with the other's sets"
    folds = int(check_number(f"folds={folds!r}", folds, Range(2, whole=True), remedy))
    rewards = listed("rewards", rewards, "one or more", "for one reward give a list of one")
    asked = [Asked(areas=counts, search=search, reward=reward, game=game, level=level, score=score, seed=seed, folds=folds,
                   batch_size=batch_size, precision=precision, memory_budget=memory_budget, group=group, refine="mean" in chosen)
             for reward in rewards]
    goal = check_targets(targets, check_images(images))
    check_class_names("names", names)
    tail = tail_at(model, images, layer, engine=engine, score=score, channel_axis=channel_axis)
    stem = tail.stem(take_rows(images, slice(0, 2)))
    check_range(goal, stem.logits.shape[1], "check that the labels are numbered as the model's classes")
    plan = _plan(model, tail, images, goal.to(stem.logits.device), folds, names, chosen, _fill(fill, model, tail, images, stem),
                 asked[0].seed)
    first = plan.fill or fill_of("spatial_mean", stem.activation, tail.layer)
    questions = [make_question(one, model, tail.layer, first, images=len(goal)) for one in asked]
    if not questions[0].settings.areas:
        raise InputError(f"counts={counts!r}; expected counts of channels, for sets of one size are compared; leave it out for a grid")
    with advance(progress, len(goal) * (len(questions) + 1), f"held-out sets at {layer}") as tell:
        found = [_search(plan, question, tell) for question in questions]
        return _record(plan, questions, found, *_judge(plan, questions, found, tell))


def _fill(fill: str | float | Sequence[float] | np.ndarray | Tensor, model: nn.Module, tail: Tail, images: Inputs,
          stem: Stem) -> Fill | None:
    """The fill of all images; None where it hangs on each of them."""
    if not isinstance(fill, str) or fill not in ("mean", "spatial_mean"):
        return fill_of(fill, stem.activation, tail.layer)
    return mean_where_asked(fill, tail, images, shards_of(check_images(images), shard_size_of(model)))


def _plan(model: nn.Module, tail: Tail, images: Inputs, goal: Int[Tensor, "N"], folds: int, names: Sequence[str],
          methods: tuple[str, ...], fill: Fill | None, seed: int) -> _Plan:
    """Classes and folds of all images.

    Raises:
        InputError: no class has an image for every fold.
    """
    classes, place, sizes = goal.unique(return_inverse=True, return_counts=True)
    fold = torch.zeros_like(goal)
    for row in range(len(classes)):
        mine = torch.nonzero(place == row)[:, 0]
        fold[mine] = torch.arange(len(mine), device=goal.device) % folds if len(mine) >= folds else -1
    words = tuple((names[target] if target < len(names) else "") or f"class {target}" for target in classes.tolist())
    few = torch.nonzero(sizes < folds)[:, 0].tolist()
    if len(few) == len(classes):
        most = tables.count(int(sizes[few[0]]), "image")
        raise InputError(f"{words[few[0]]} has {most}, and no class has {folds}, so there is no held-out part; "
                         f"expected {folds} or more a class, one for every fold; give more images, or use per_class, which needs no other")
    if few:
        LOG.warning("%d of %d classes have fewer than %d images (first %s): nothing is held out there, NaN", len(few), len(classes), folds,
                    words[few[0]])
    return _Plan(model=model, tail=tail, images=images, goal=goal, classes=classes, place=place, fold=fold, folds=folds, names=words,
                 methods=methods, fill=fill, seed=seed)


def _parts(plan: _Plan) -> Iterator[_Part]:
    """The images of all classes, some whole classes at a time."""
    for classes in in_groups(torch.bincount(plan.place).tolist(), GROUP):
        rows = torch.nonzero(torch.isin(plan.place, torch.tensor(classes, device=plan.place.device)))[:, 0]
        stem = join_stems([plan.tail.stem(take_rows(plan.images, part)) for part in rows.split(shard_size_of(plan.model))])
        yield _Part(rows, stem, plan.goal[rows], plan.fill or fill_of("spatial_mean", stem.activation, plan.tail.layer))


def _search(plan: _Plan, question: Question, tell: Callable[[int], None]) -> _Sets:
    """The sets of all methods, classes and folds for one reward."""
    grid = torch.tensor(question.settings.areas, device=plan.goal.device)
    shape = (len(plan.methods), len(plan.classes), plan.folds, len(grid), question.family.size)
    masks = torch.zeros(shape, dtype=torch.bool, device=grid.device)
    sets = _Sets(masks, torch.zeros(shape[1:3], dtype=torch.long, device=grid.device), torch.zeros(len(masks), dtype=torch.float32))
    joint = torch.zeros(shape[1:], dtype=torch.bool, device=grid.device)
    for part in _parts(plan):
        _search_part(plan, question, part, grid, sets, joint)
        tell(len(part.rows))
    if "random" in plan.methods:
        generator = torch.Generator().manual_seed(plan.seed)
        drawn = torch.rand(len(plan.classes) * plan.folds, shape[-1], generator=generator, dtype=torch.float32).to(grid.device)
        masks[plan.methods.index("random")] = nested_masks(drawn, grid).view(shape[1:]) & _folded(plan)[:, None, None, None]
    if "other_class" in plan.methods:
        _others(plan, joint, masks[plan.methods.index("other_class")])
    _tell_lacking(plan, masks, question.settings.reward)
    return sets


def _tell_lacking(plan: _Plan, masks: Bool[Tensor, "M C F A K"], reward: str) -> None:
    there = masks.any(-1).all(-1).all(-1)
    for method, rows in zip(plan.methods, ~there & _folded(plan), strict=True):
        if lacking := [plan.names[row] for row in torch.nonzero(rows)[:, 0].tolist()]:
            why = "there is no other class" if method == "other_class" else "no image reaches the level"
            LOG.warning("reward %s: %d of %d classes have no set by %s (first %s), for %s: NaN", reward, len(lacking), len(rows), method,
                        lacking[0], why)


def _search_part(plan: _Plan, question: Question, part: _Part, grid: Int[Tensor, "A"], sets: _Sets, joint: Bool[Tensor, "C F A K"]) -> None:
    """What is found on the activations of some classes."""
    place, fold = plan.place[part.rows], plan.fold[part.rows]
    pairs = [(row, number) for row in place.unique().tolist() if bool((fold[place == row] >= 0).all()) for number in range(plan.folds)]
    if not pairs:
        return
    members = tuple(torch.nonzero((place == row) & (fold != number))[:, 0] for row, number in pairs)
    to = tuple(torch.tensor(pairs, device=grid.device).T)
    sizes = torch.tensor([len(m) for m in members], dtype=torch.float32)
    asking = make_asking(question, plan.tail, part.stem, part.goal, part.fill, members)
    names = [plan.names[row] for row, _ in pairs]
    check_ends(asking, names, "class")

    def put(method: str, masks: Bool[Tensor, "R A K"], spent: float) -> None:
        if method in plan.methods:
            number = plan.methods.index(method)
            sets.masks[number][to] = masks
            sets.evaluations[number] += spent

    if "joint" in plan.methods or "other_class" in plan.methods:
        found, spent = search_grid(asking, grid)
        joint[to] = found
        put("joint", found, float((spent.cpu() * sizes).sum()))
    if "gradient_x_activation" in plan.methods:
        worth = gradient_x_activation(Subject(in_float32(asking), plan.model, plan.images, None, names))
        put("gradient_x_activation", nested_masks(worth.values, grid), float(sizes.sum()))
    if "mean" in plan.methods or "mean_of_area" in plan.methods:
        own = _own(plan, question, part)
        searching = float(own.evaluations.sum())
        masks, smallest, areas = (torch.from_numpy(one).to(grid.device) for one in (own.masks, own.smallest_mask, own.smallest_area))
        reached = areas >= 0
        put("mean", _means(smallest[:, None].expand_as(masks), reached, members, grid), searching + float(own.refine_evaluations.sum()))
        put("mean_of_area", _means(masks, torch.ones_like(reached), members, grid), searching)
        sets.reaching[to] = torch.stack([reached[m].sum() for m in members])


def _folded(plan: _Plan) -> Bool[Tensor, "C"]:
    """Whether a class has an image in every fold."""
    return torch.zeros(len(plan.classes), dtype=torch.bool, device=plan.goal.device).index_fill(0, plan.place[plan.fold >= 0], True)


def _own(plan: _Plan, question: Question, part: _Part) -> ImageAttribution:
    """The images' own sets of every area, and their a*."""
    keys = [f"{plan.names[int(plan.place[row])]} image {int(row)}" for row in part.rows]
    return own_answers(question, plan.tail, part.stem, keys, part.goal, part.fill, shard_size_of(plan.model))


def _means(masks: Bool[Tensor, "S A K"], valid: Bool[Tensor, "S"], members: Sequence[Tensor],
           grid: Int[Tensor, "A"]) -> Bool[Tensor, "R A K"]:
    """For each row and area, the channels that most of its members' masks hold; none where no member is valid."""
    rates = torch.stack([masks[m].float().sum(0) for m in members])
    there = torch.stack([valid[m].any() for m in members])
    found = torch.stack([largest(rates[:, column], grid[column].expand(len(rates))) for column in range(len(grid))], 1)
    return found & there[:, None, None]


def _others(plan: _Plan, joint: Bool[Tensor, "C F A K"], into: Bool[Tensor, "C F A K"]) -> None:
    """Gives each class and fold the joint set of another class, drawn at random."""
    known = torch.nonzero(joint.any(-1).all(-1).all(-1))[:, 0]
    if len(known) < 2:
        return
    generator = torch.Generator().manual_seed(plan.seed + 1)
    for number, row in enumerate(known.tolist()):
        for fold in range(plan.folds):
            step = int(torch.randint(1, len(known), (1,), generator=generator))
            into[row, fold] = joint[known[(number + step) % len(known)], fold]


def _judge(plan: _Plan, questions: Sequence[Question], found: Sequence[_Sets],
           tell: Callable[[int], None]) -> tuple[Float[np.ndarray, "4 W M N A"], Float[np.ndarray, "3 N"]]:
    """Figures of every image under each reward's and method's set of its class and fold, and of the whole network."""
    count, areas = len(plan.goal), len(questions[0].settings.areas)
    figures = np.full((4, len(questions), len(plan.methods), count, areas), np.nan, np.float32)
    original = np.zeros((3, count), np.float32)
    for part in _parts(plan):
        rows = part.rows.cpu().numpy()
        logits = part.stem.logits.float()
        whole = (logits.argmax(1) == part.goal).float(), log_probability(logits, part.goal), logit(logits, part.goal)
        original[:, rows] = torch.stack(whole).cpu().numpy()
        asking = make_asking(questions[0], plan.tail, part.stem, part.goal, part.fill)
        for number, (question, sets) in enumerate(zip(questions, found, strict=True)):
            mine = asking._replace(question=question, score=dataclasses.replace(asking.score, reward=question.reward))
            for method, masks in enumerate(sets.masks):
                at = masks[plan.place[part.rows], plan.fold[part.rows].clamp(min=0)]
                figures[:, number, method, rows] = _figures(mine, at)
        tell(len(rows))
    return figures, original


def _figures(asking: Asking, masks: Bool[Tensor, "S A K"]) -> Float[np.ndarray, "4 S A"]:
    """Score, top-1, log-probability and logit of each image under its masks; NaN where a mask is none."""
    there = masks.any(-1)
    rows = torch.nonzero(there)[:, 0]
    figures = torch.full((4, *there.shape), torch.nan, device=masks.device, dtype=torch.float32)
    if len(rows):
        final = judge(asking, masks[there], rows)
        game = asking.question.settings.game
        kept = ~masks[there] if game == "delete" else masks[there]
        logits = final.score if asking.score.reward is logit and game != "dual" else dataclasses.replace(
            asking.score, reward=logit).judge(kept, rows).score
        figures[:, there] = torch.stack([final.score, final.top1, final.log_probability, logits])
    return figures.cpu().numpy()


def _record(plan: _Plan, questions: Sequence[Question], found: Sequence[_Sets], figures: Float[np.ndarray, "4 W M N A"],
            original: Float[np.ndarray, "3 N"]) -> HeldOut:
    masks, reaching, evaluations = (torch.stack(same) for same in zip(*found, strict=True))
    return HeldOut(
        layer=plan.tail.layer.name, settings=tuple(question.settings for question in questions), methods=plan.methods, names=plan.names,
        targets=to_i4(plan.classes), counts=np.array(questions[0].settings.areas, np.int32), folds=plan.folds, classes=to_i4(plan.place),
        fold=to_i4(plan.fold), masks=to_numpy(masks), scores=figures[0], top1=figures[1], log_probability=figures[2], logits=figures[3],
        original_top1=original[0], original_log_probability=original[1], original_logits=original[2], reaching=to_i4(reaching),
        evaluations=to_numpy(evaluations), groups=groups_of_channels(questions[0]))
