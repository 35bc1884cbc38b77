"""The question for each image: which channels of a layer does the network need to see this?"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from chanattr.attribution.asking import Asking, check_ends, find_smallest, judge, judge_sets, make_asking, reaches, search_grid
from chanattr.attribution.inputs import check_finite, check_images, check_keys, check_stem, check_targets, goal_of, tail_at
from chanattr.attribution.question import Areas, Asked, Question, make_question
from chanattr.attribution.score import Fill, channels_last, fill_of
from chanattr.axes import concatenate
from chanattr.network.inputs import take_rows
from chanattr.network.layers import Layer
from chanattr.network.outputs import Inputs, device_of
from chanattr.network.stem import Stem
from chanattr.network.tail import Tail
from chanattr.progress import Progress, advance
from chanattr.records import ImageAttribution
from chanattr.search.certify import Certified, Verdict, certify
from chanattr.search.exact import FORWARDS
from chanattr.search.groups import Group
from chanattr.search.objective import Reward, images_per_evaluation
from chanattr.search.smallest import Smallest
from chanattr.settings import Search

LOG = logging.getLogger(__name__)
SHARD, LARGE_SHARD = 16, 128  # images searched side by side, on a CPU and on an accelerator, which they must fill


def per_image(model: nn.Module, images: Inputs, layer: str, *, targets: Sequence[int] | Tensor | None = None,
              areas: Areas = None, search: Search | None = None, reward: str | Reward = "logit", game: str = "preserve",
              fill: str | float | Sequence[float] | np.ndarray | Tensor = "zero", level: str | float | None = None,
              refine: bool | None = None, score: Callable[..., Tensor] | None = None, keys: Sequence[str] | None = None,
              group: Group = "", channel_axis: int | None = None, seed: int = 0, batch_size: int | None = None, engine: str = "auto",
              precision: str = "auto", memory_budget: str | int | float | None = None, certify: bool = False,
              progress: Progress = False) -> ImageAttribution:
    """The best channel sets of every area for each image, and a*, the smallest that keeps the score.

    A mask holds exactly its area in every game; scores are float32 scores of binary masks, not of relaxed ones.

    Args:
        model: any module; left exactly as found.
        images: as the model takes them: a tensor [N, ...], or a tuple (positional) or mapping (by keyword) with a row an image in each
            of its tensors.
        layer: dotted name as in ``named_modules``; ``NAME:input`` is what that module is given; with ``@n`` for the n-th call.
        targets: class numbers [N]; None is the predicted class of each.
        areas: counts of channels (of groups, where there are); None is ``area_grid(K)``; "smallest" searches for a* only.
        search: `ExactSearch` (default) or `PenaltySearch`, the paper's.
        reward: "logit" (the paper), "contrastive", "log_probability", or ``f(logits [B, C], targets [B]) -> [B]``.
        game: "preserve", "delete" or "dual".
        fill: what a dropped channel becomes: "zero" (the paper), "mean" (over `images`), "spatial_mean", a number or K values.
        level: what a* must reach: "original" (default), a fraction of the way from empty to original, or "top1" (default in *delete*:
            the target is no longer the top class).
        refine: bisect a* to the exact count; None is True for `ExactSearch`, False for the paper's.
        score: turns the model's output into logits, for models that give something else.
        keys: a name for each row; None is its number.
        group: what a mask selects whole: "" single channels; "heads" of attention (at ``NAME:input`` of their projection); channels a
            group, in order; the group of every channel, [K]; or ``f(K)`` that gives it.
        channel_axis: of the layer's output, where it is not found rightly.
        seed: of every random choice.
        batch_size: masked images run at once, at most; None fits the device; where memory runs out, less.
        engine: "auto", "tail", "replay" or "injection".
        precision: of the search alone: "float32", "bfloat16", or "auto", which is bfloat16 where that is faster; scores are float32 always.
        memory_budget: bytes, or words such as "2GB", that masked images may need together.
        certify: prove what can be proved of each a* set: members that need not be there are taken out of it until each is needed, a smaller
            set takes its place where all smaller ones can be counted out, and exchanges of one member are tried (`ImageAttribution` has
            the fields). Some thousand forward passes an image.
        progress: True for a bar, False, or ``f(done, total)``.

    Returns:
        An `ImageAttribution` with one row an image.

    Raises:
        InputError: an argument cannot be used.
        LayerError: no such layer, it does not fire once, or it does not reach the score.
        ModelError: the model gives no logits, or NaN.

    Source: Fong, Patrick and Vedaldi 2019, equations 8 and 9. Departure: the default search holds the area exactly.

    Examples:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 5))
        >>> found = ca.per_image(model, torch.rand(2, 3, 8, 8), "1", areas=(2, 4, 8))
        >>> found.masks.sum(-1).tolist()
        [[2, 4, 8], [2, 4, 8]]
    """
    asked = Asked(areas=areas, search=search, reward=reward, game=game, level=level, refine=refine, score=score, seed=seed,
                  batch_size=batch_size, precision=precision, memory_budget=memory_budget, group=group, certify=certify)
    count = check_images(images)
    names = check_keys(keys, count)
    goal = None if targets is None else check_targets(targets, count)
    tail = tail_at(model, images, layer, engine=engine, score=score, channel_axis=channel_axis)
    shards = shards_of(count, shard_size_of(model))
    means = mean_where_asked(fill, tail, images, shards)
    question = None
    records = []
    with advance(progress, count, f"images at {layer}") as tell:
        for shard in shards:
            stem = tail.stem(take_rows(images, shard))
            filled = means or fill_of(fill, stem.activation, tail.layer)
            question = question or make_question(asked, model, tail.layer, filled, images=count)
            wanted = None if goal is None else goal[shard]
            records.append(answer(question, tail, stem, keys=names[shard], targets=wanted, fill=filled))
            tell(len(stem.logits))
    return concatenate(records)


def shard_size_of(model: nn.Module) -> int:
    """Images searched side by side where nobody says how many."""
    return SHARD if device_of(model).type == "cpu" else LARGE_SHARD


def shards_of(count: int, size: int) -> list[slice]:
    """The rows of a batch, `size` at a time, the last ones fewer."""
    return [slice(first, min(count, first + size)) for first in range(0, count, size)]


def in_groups(sizes: Sequence[int], most: int) -> list[list[int]]:
    """The places of some sizes, in groups that follow one another: of at most `most` together, a larger one alone."""
    groups: list[list[int]] = []
    room = 0
    for place, size in enumerate(sizes):
        if not groups or room < size:
            groups.append([])
            room = most
        groups[-1].append(place)
        room -= size
    return groups


def answer(question: Question, tail: Tail, stem: Stem, *, keys: Sequence[str], targets: Sequence[int] | Tensor | None,
           fill: Fill, keep_energy: bool = True) -> ImageAttribution:
    """The record of one shard of images whose activations are at hand.

    Args:
        question: complete.
        tail, stem: of the layer.
        keys, targets: one an image.
        fill: as resolved; [K] or [N, K].
        keep_energy: whether to keep the energy map of every area, for figures; a* has its own always.

    Raises:
        InputError: targets are not one class an image.
        ModelError: numbers of an image are not finite: logits, activations, or scores with every, no or some channels.
    """
    check_stem(stem, keys, tail.layer.name)
    goal = goal_of(targets, stem)
    asking = make_asking(question, tail, stem, goal, fill)
    check_ends(asking, keys)
    grid = torch.tensor(question.settings.areas, device=goal.device, dtype=torch.long)
    masks, spent = search_grid(asking, grid)
    final = judge_sets(asking, masks)
    check_finite(final.score, keys, "masked scores")
    smallest = find_smallest(asking, grid, masks, reaches(asking, final.score, final.top1))
    proved = certify_smallest(asking, smallest) if question.settings.certify else None
    if proved is not None:
        smallest = smallest._replace(area=proved.area, mask=proved.mask)
    last = judge(asking, smallest.mask, torch.arange(len(goal), device=goal.device))
    none, spread, by_area = smallest.area < 0, question.family.spread, (*masks.shape[:2], *tail.layer.grid)
    return ImageAttribution(
        layer=tail.layer.name, settings=question.settings, engine=asking.score.quick.engine, keys=tuple(keys), targets=to_i4(goal),
        predictions=to_i4(stem.logits.argmax(1)), probability=to_f4(stem.logits.float().softmax(1).gather(1, goal[:, None])[:, 0]),
        areas=to_i4(grid), masks=to_numpy(masks), scores=to_f4(final.score), original=to_f4(asking.original), empty=to_f4(asking.empty),
        top1=to_numpy(final.top1 > 0.5), smallest_area=to_i4(smallest.area), smallest_mask=to_numpy(smallest.mask),
        smallest_score=to_f4(last.score.masked_fill(none, torch.nan)), smallest_top1=to_numpy((last.top1 > 0.5) & ~none),
        energy=energies(tail.layer, stem, spread(smallest.mask)[:, None])[:, 0],
        energy_by_area=energies(tail.layer, stem, spread(masks)) if keep_energy else np.full(by_area, np.nan, np.float32),
        fill_values=to_f4(fill.stored()), groups=groups_of_channels(question),
        evaluations=to_f4(spent), refine_evaluations=to_f4(smallest.evaluations),
        **({} if proved is None else certificates(proved, question.settings.game)))


def certify_smallest(asking: Asking, smallest: Smallest) -> Certified:
    """The a* sets of a question certified by the definition, and a word to the log where that made some smaller.

    Args:
        asking: whose rows they are.
        smallest: as found.
    """
    settings = asking.question.settings

    def verdict(masks: Tensor, rows: Tensor) -> Verdict:
        final = judge(asking, masks, rows)
        return Verdict(-final.score if settings.game == "delete" else final.score, reaches(asking, final.score, final.top1, rows))

    proved = certify(smallest.area, smallest.mask, asking.question.family, verdict, seed=settings.seed)
    if taken := int(proved.pruned.sum()):
        LOG.info("layer %s: certification took %d of %d %s from the a* sets of %d of %d images", settings.layer, taken,
                 int(smallest.mask.sum()), settings.unit, int((proved.pruned > 0).sum()), len(smallest.area))
    return proved


def certificates(proved: Certified, game: str) -> dict[str, np.ndarray]:
    """A certification as the fields of an `ImageAttribution`; a mask judged is a forward, two in *dual*."""
    return {"irreducible": to_numpy(proved.irreducible.to(torch.int8)), "optimal": to_numpy(proved.optimal.to(torch.int8)),
            "pruned": to_i4(proved.pruned), "swap_gain": to_f4(proved.swap_gain), "swap_share": to_f4(proved.swap_share),
            "certify_evaluations": to_f4(images_per_evaluation(game) * proved.judged / FORWARDS)}


def mean_fill(tail: Tail, batches: Iterable[Inputs]) -> Fill:
    """The mean of each channel over all images and positions, in one pass: the fill "mean", never a batch's own.

    Args:
        tail: of the layer.
        batches: of images; passed over once.
    """
    total, count = torch.zeros(tail.layer.channels, dtype=torch.float64), 0
    for images in batches:
        flat = channels_last(tail.stem(images).activation, tail.layer).flatten(0, 1)
        total += flat.double().sum(0).cpu()
        count += len(flat)
    return mean_of((total / count).float())


def mean_where_asked(fill: object, tail: Tail, images: Inputs, shards: Sequence[slice]) -> Fill | None:
    """The fill "mean" of a batch, shard by shard; None where another fill is asked for."""
    return mean_fill(tail, (take_rows(images, rows) for rows in shards)) if isinstance(fill, str) and fill == "mean" else None


def mean_of(values: Float[Tensor, "K"]) -> Fill:
    """The fill "mean" from its known values."""
    return Fill("mean", hashlib.sha256(values.cpu().numpy().tobytes()).hexdigest(), values)


def energies(layer: Layer, stem: Stem, masks: Bool[Tensor, "N A K"]) -> np.ndarray:
    """Root mean square over channels of masked activations, f4 [N, A, h, w], at float16 precision (as it is stored)."""
    square = channels_last(stem.activation, layer).float().square()
    root = (torch.einsum("nak,npk->nap", masks.float(), square) / layer.channels).sqrt()
    kept = root.clamp(max=torch.finfo(torch.float16).max).half().float().cpu().numpy()
    return kept.reshape(*masks.shape[:2], *layer.grid)


def groups_of_channels(question: Question) -> np.ndarray:
    """The group of every channel, as a record holds it: each its own where none are asked for."""
    entries = torch.arange(question.family.size)[None]
    return to_i4(question.family.spread(entries)[0])


def to_numpy(values: Tensor) -> np.ndarray:
    """The values as they are, on the host."""
    return values.detach().cpu().numpy()


def to_f4(values: Tensor) -> np.ndarray:
    """The values as float32, on the host."""
    return to_numpy(values.float())


def to_i4(values: Tensor) -> np.ndarray:
    """The values as int32, on the host."""
    return to_numpy(values.to(torch.int32))
