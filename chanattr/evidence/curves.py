"""Insertion and deletion over channels: what the network makes of the first k of a ranking, kept or dropped, and of small sets dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chanattr import tables
from chanattr.arguments import STEPS, check_number
from chanattr.attribution.image import mean_where_asked, shard_size_of, shards_of, to_f4
from chanattr.attribution.inputs import (
    array_of,
    check_finite,
    check_images,
    check_keys,
    check_stem,
    check_targets,
    checked_reward,
    goal_of,
    tail_at,
)
from chanattr.attribution.question import Asked, batch_size_of, family_of
from chanattr.attribution.score import fill_of
from chanattr.axes import is_grouped
from chanattr.errors import InputError
from chanattr.evidence.compare import correlation
from chanattr.network.batches import anchor_of, in_batches
from chanattr.network.inputs import take_rows
from chanattr.network.outputs import Inputs
from chanattr.network.stem import Stem
from chanattr.network.tail import Tail
from chanattr.progress import Progress, advance
from chanattr.records import ImageAttribution
from chanattr.search.groups import Group
from chanattr.search.objective import Reward, log_probability, reward_function
from chanattr.settings import area_grid

SMALL = 20  # a set that is dropped for fidelity has a channel in so many
FIGURES = ("", "_probability", "_top1", "_top5")  # of a masked image, in the order of `_judge`


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """What the network makes of the first k channels of a ranking, for N images and P counts k; float32 by the definition.

    Attributes:
        layer, keys: as in `ImageAttribution`.
        counts: k, increasing from 0 to K, i4 [P].
        insertion, deletion: score with the first k channels kept alone, and with them dropped, f4 [N, P].
        insertion_probability, deletion_probability: the target's probability, f4 [N, P].
        insertion_top1, deletion_top1: whether the whole network's first class is still the first, bool [N, P].
        insertion_top5, deletion_top5: whether it is still among the first five, bool [N, P].
        insertion_area, deletion_area: area under the score's curve by trapezoids, over K: the mean score over all k, f4 [N].
        insertion_probability_area, deletion_probability_area: the same of the probability, f4 [N].
        fidelity: correlation of the summed worth of small random sets with the score that is lost when they are dropped, f4 [N]; NaN where
            no worth was given, or either is constant.
    """

    layer: str
    keys: tuple[str, ...]
    counts: np.ndarray
    insertion: np.ndarray
    deletion: np.ndarray
    insertion_probability: np.ndarray
    deletion_probability: np.ndarray
    insertion_top1: np.ndarray
    deletion_top1: np.ndarray
    insertion_top5: np.ndarray
    deletion_top5: np.ndarray
    insertion_area: np.ndarray
    deletion_area: np.ndarray
    insertion_probability_area: np.ndarray
    deletion_probability_area: np.ndarray
    fidelity: np.ndarray

    __repr__ = tables.outline

    def _repr_html_(self) -> str:
        """What a notebook shows: a row an image, with the areas under its curves."""
        return tables.columns(self, (tables.count(len(self.keys), "image"), f"layer {self.layer}", f"0 to {self.counts[-1]:,} channels"), {
            "image": self.keys, "insertion": self.insertion_area, "deletion": self.deletion_area,
            "insertion, probability": self.insertion_probability_area, "deletion, probability": self.deletion_probability_area,
            "fidelity": self.fidelity})


def curves(model: nn.Module, images: Inputs, layer: str, *,
           rankings: ImageAttribution | np.ndarray | Tensor | Sequence[Sequence[int]],
           targets: Sequence[int] | np.ndarray | Tensor | None = None, counts: Sequence[int] | np.ndarray | None = None,
           reward: str | Reward | None = None, fill: str | float | Sequence[float] | np.ndarray | Tensor | None = None,
           worth: np.ndarray | Tensor | None = None, draws: int = 64, seed: int = 0, score: Callable[..., Tensor] | None = None,
           keys: Sequence[str] | None = None, group: Group = "", channel_axis: int | None = None, batch_size: int | None = None,
           engine: str = "auto", progress: Progress = False) -> Curves:
    """Insertion and deletion curves of rankings of the channels, agreement with the whole network, and fidelity of their worth.

    Args:
        model, images, layer, score, keys, group, channel_axis, batch_size, engine, progress: as for `per_image`.
        rankings: channels (or groups) of each image, best first, [N, K]; or an `ImageAttribution` of these images, whose order of
            inclusion is taken, and whose targets, reward, fill and groups where they are not given.
        targets: class numbers [N]; None are those of `rankings` where it has some, else the predicted class of each.
        counts: how many channels are kept or dropped; None is ``area_grid(K)``. 0 and K are always added.
        reward: as for `per_image`; None is that of `rankings` where it has one, else "logit".
        fill: as for `per_image`; None is that of `rankings` where it has one, else "zero".
        worth: of each channel of each image, [N, K], for `Curves.fidelity`.
        draws: random sets dropped for it, each of K / 20 channels (at least one), the same for every image.
        seed: of these sets.

    Raises:
        InputError: rankings are no permutations of K channels for each image, or another argument cannot be used.
        LayerError, ModelError: as in `per_image`.

    Source: insertion and deletion: Petsiuk, Das and Saenko 2018, over channels in place of pixels; fidelity: after Yeh et al. 2019, as
    a correlation, which the scale of the worth does not change.

    Examples:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 5))
        >>> drawn = ca.curves(model, torch.rand(2, 3, 8, 8), "1", rankings=[range(8)] * 2, counts=(2, 4))
        >>> drawn.counts.tolist(), bool((drawn.insertion[:, -1] == drawn.deletion[:, 0]).all())
        ([0, 2, 4, 8], True)
    """
    found = rankings if isinstance(rankings, ImageAttribution) else None
    own = _own(found)
    reward, fill = own["reward"] if reward is None else reward, own["fill"] if fill is None else fill
    asked = Asked(reward=reward, score=score, group=own["group"] if isinstance(group, str) and group == "" else group,
                  batch_size=batch_size, seed=seed)
    count = check_images(images)
    names = check_keys(found.keys if found is not None and keys is None else keys, count)
    targets = found.targets if found is not None and targets is None else targets
    goal = None if targets is None else check_targets(torch.from_numpy(targets) if isinstance(targets, np.ndarray) else targets, count)
    tail = tail_at(model, images, layer, engine=engine, score=score, channel_axis=channel_axis)
    family = family_of(asked.group, model, tail.layer)
    checked, at_once = checked_reward(reward_function(reward), str(reward)), batch_size_of(batch_size, model)
    orders = _check_rankings(_rankings_of(found, tail.layer.name) if found is not None else rankings, count, family.size)
    steps = _check_counts(counts, family.size)
    values = None if worth is None else _check_worth(worth, count, family.size)
    dropped = _small_sets(family.size, int(check_number(f"draws={draws!r}", draws, STEPS)), asked.seed)
    shards = shards_of(count, shard_size_of(model))
    means = mean_where_asked(fill, tail, images, shards)
    parts = []
    with advance(progress, count, f"curves at {layer}") as tell:
        for shard in shards:
            stem = tail.stem(take_rows(images, shard))
            filled = means or fill_of(fill, stem.activation, tail.layer)
            check_stem(stem, names[shard], tail.layer.name)
            wanted = goal_of(None if goal is None else goal[shard], stem)
            judge = _Judge(stem, wanted, filled.taken(stem.logits.device), tail, checked, family.spread, at_once)
            drawn = _drawn(judge, orders[shard], steps, names[shard])
            drawn["fidelity"] = _fidelity(judge, dropped, None if values is None else values[shard])
            parts.append(drawn)
            tell(len(names[shard]))
    whole: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name in ("insertion", "deletion", "insertion_probability", "deletion_probability"):
        whole[f"{name}_area"] = area_under(whole[name], steps).astype(np.float32)
    return Curves(layer=tail.layer.name, keys=names, counts=steps.astype(np.int32), **whole)


def area_under(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The area under curves [..., P] over increasing counts by trapezoids, over the last count, f8 [...].

    Examples:
        >>> float(area_under(np.array([0.0, 1.0, 1.0]), np.array([0, 2, 4])))
        0.75
    """
    between = (values[..., 1:].astype(float) + values[..., :-1]) / 2
    return np.asarray((between * np.diff(counts)).sum(-1) / counts[-1])


class _Judge(NamedTuple):
    """How masked images are judged: some images' activations and targets, the fill, and what is the same for all images."""

    stem: Stem
    targets: Tensor
    fill: Tensor
    tail: Tail
    reward: Reward
    spread: Callable[[Tensor], Tensor]
    batch_size: int

    @torch.inference_mode(False)
    @torch.no_grad()
    def figures(self, masks: Tensor, rows: Int[Tensor, "M"]) -> Float[Tensor, "4 M"]:
        """Reward, the target's probability, and whether the whole network's first class is the first, and among five, of binary masks."""
        def run(part: slice) -> Tensor:
            image = rows[part]
            logits = self.tail.logits(self.stem, self.spread(masks[part].float()), image, self.fill).float()
            goal = self.targets[image]
            ahead = _ahead(logits, self.stem.logits[image].argmax(1))
            return torch.stack([self.reward(logits, goal), log_probability(logits, goal).exp(), (ahead == 0).float(), (ahead < 5).float()])

        return torch.cat([got for _, got in in_batches(anchor_of(self.tail), len(rows), self.batch_size, False, run)], 1)


def _ahead(logits: Float[Tensor, "B C"], classes: Int[Tensor, "B"]) -> Int[Tensor, "B"]:
    """How many classes come before one of each row; among equals the lower number does."""
    own = logits.gather(1, classes[:, None])
    before = torch.arange(logits.shape[1], device=logits.device)[None] < classes[:, None]
    return ((logits > own) | ((logits == own) & before)).sum(1)


def _drawn(judge: _Judge, orders: np.ndarray, counts: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Both curves of some images, by the name of their field."""
    images, channels = orders.shape
    device = judge.stem.logits.device
    place = torch.as_tensor(np.argsort(orders, 1), device=device)
    kept = (place[:, None] < torch.as_tensor(counts, device=device)[None, :, None]).reshape(-1, channels)
    rows = torch.arange(images, device=device).repeat_interleave(len(counts))
    found = {}
    for kind, masks in (("insertion", kept), ("deletion", ~kept)):
        figures = judge.figures(masks, rows).view(len(FIGURES), images, len(counts))
        check_finite(figures[0], names, "masked scores")
        for name, values in zip(FIGURES, figures, strict=True):
            found[kind + name] = to_f4(values) > 0.5 if name.startswith("_top") else to_f4(values)
    return found


def _fidelity(judge: _Judge, dropped: np.ndarray, worth: np.ndarray | None) -> np.ndarray:
    """Correlation of summed worth with score lost over the same sets for every image; NaN without worth."""
    images = len(judge.targets)
    if worth is None:
        return np.full(images, np.nan, np.float32)
    device = judge.stem.logits.device
    masks = torch.as_tensor(np.concatenate([np.zeros_like(dropped[:1]), dropped]), device=device)
    rows = torch.arange(images, device=device).repeat_interleave(len(masks))
    scores = to_f4(judge.figures(~masks.repeat(images, 1), rows)[0].view(images, -1)).astype(float)
    return correlation(worth @ dropped.T.astype(float), scores[:, :1] - scores[:, 1:]).astype(np.float32)


def _small_sets(channels: int, draws: int, seed: int) -> np.ndarray:
    """Random sets of one size, bool [draws, K]."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(draws, channels, generator=generator, dtype=torch.float32).argsort(1)
    return (order < max(1, channels // SMALL)).numpy()


def _own(found: ImageAttribution | None) -> dict[str, Any]:
    """The question that an attribution answers, as far as curves ask it too."""
    if found is None:
        return {"reward": "logit", "fill": "zero", "group": ""}
    named = found.settings.fill
    return {"reward": found.settings.reward, "fill": found.fill_values if named in ("mean", "values") else named,
            "group": found.groups.tolist() if is_grouped(found.groups) else ""}


def _rankings_of(found: ImageAttribution, layer: str) -> np.ndarray:
    if found.layer != layer:
        raise InputError(f"rankings are of layer {found.layer!r}, but curves at {layer!r} were asked; expected one layer; ask at the layer "
                         "that was explained")
    return np.stack([found.ranking(row) for row in range(len(found))])


def _check_rankings(rankings: Any, images: int, channels: int) -> np.ndarray:
    """Rankings as integers [N, K].

    Raises:
        InputError: something else, or a row that is no permutation.
    """
    told = f"expected [{images}, {channels}], for each image every channel from 0 to {channels - 1} once, best first"
    remedy = "rank what an attribution gives with np.argsort(-worth, kind='stable')"
    try:
        orders = np.asarray(rankings.cpu() if isinstance(rankings, Tensor) else rankings if isinstance(rankings, np.ndarray)
                            else [list(row) for row in rankings])
    except (TypeError, ValueError) as error:
        raise InputError(f"rankings are {type(rankings).__name__} ({error}); {told}; {remedy}") from error
    if orders.shape != (images, channels) or orders.dtype.kind not in "iu":
        raise InputError(f"rankings have shape {orders.shape} and type {orders.dtype}; {told}; {remedy}")
    wrong = np.flatnonzero((np.sort(orders, 1) != np.arange(channels)).any(1))
    if len(wrong):
        raise InputError(f"the ranking of row {wrong[0]} is no permutation ({orders[wrong[0], :8].tolist()} ...); {told}; {remedy}")
    return orders


def _check_counts(counts: Sequence[int] | np.ndarray | None, channels: int) -> np.ndarray:
    given = area_grid(channels) if counts is None else counts
    values = array_of(given)
    whole = values is not None and values.ndim == 1 and values.dtype.kind in "iu"
    if values is None or not whole or (values.size and not 0 <= values.min() <= values.max() <= channels):
        raise InputError(f"counts={str(given)[:80]}; expected whole numbers of channels from 0 to {channels}; leave counts out for a grid")
    return np.unique(np.concatenate([values.astype(int), [0, channels]]))


def _check_worth(worth: np.ndarray | Tensor, images: int, channels: int) -> np.ndarray:
    given = array_of(worth)
    values = np.zeros(0) if given is None else given.astype(float)
    if values.shape != (images, channels) or not np.isfinite(values).all():
        raise InputError(f"worth has shape {values.shape}{'' if np.isfinite(values).all() else ' and numbers that are not finite'}; "
                         f"expected [{images}, {channels}] finite numbers; leave worth out for curves alone")
    return values
