"""Whether sets stay when what should not matter changes: seeds, fills, views of the image; and sets that are good on several views."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from chanattr import tables
from chanattr.arguments import listed
from chanattr.attribution.asking import Asking, check_ends, judge_sets, make_asking, search_grid
from chanattr.attribution.image import mean_where_asked, per_image, shard_size_of, shards_of, to_f4, to_i4, to_numpy
from chanattr.attribution.inputs import check_images, check_keys, check_stem, check_targets, goal_of, tail_at
from chanattr.attribution.question import Areas, Asked, Question, make_question
from chanattr.attribution.score import Fill, fill_of
from chanattr.errors import InputError
from chanattr.evidence.compare import Comparison, above_chance, compare, mean_known
from chanattr.network.inputs import join_rows, outline, take_rows, tensors_of
from chanattr.network.outputs import Inputs
from chanattr.network.stem import Stem, take_stem
from chanattr.network.tail import Tail
from chanattr.progress import Progress, advance
from chanattr.records import ImageAttribution
from chanattr.search.groups import Group
from chanattr.search.objective import Reward
from chanattr.settings import Search

View = Callable[[Any], Any]
Views = Sequence[str] | Mapping[str, View]


def flip(images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
    """Left and right exchanged."""
    return images.flip(-1)


def crop(images: Float[Tensor, "N C H W"], share: float = 0.9) -> Float[Tensor, "N C H W"]:
    """The middle of the images, `share` of each side, at the size of the whole (bilinear)."""
    high, wide = images.shape[-2:]
    top, left = round((1 - share) * high / 2), round((1 - share) * wide / 2)
    middle = images[..., top:high - top, left:wide - left]
    return torch.nn.functional.interpolate(middle, size=(high, wide), mode="bilinear", align_corners=False)


def noise(images: Float[Tensor, "N C H W"], share: float = 0.05, seed: int = 0) -> Float[Tensor, "N C H W"]:
    """Normal noise of `share` of each image's own standard deviation; the same for every image, so that it hangs on no neighbour."""
    drawn = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float32).to(images)
    return images + share * images.flatten(1).std(1).view(-1, 1, 1, 1) * drawn


VIEWS: dict[str, View] = {"flip": flip, "crop": crop, "noise": noise}


@dataclass(frozen=True, kw_only=True, eq=False)
class Stability:
    """How far the sets of N images stay under V changes, one at a time.

    Attributes:
        layer, keys: as in `ImageAttribution`.
        changes: "seed 1", "view flip", "fill mean", ...
        comparisons: of the unchanged sets with those under each change.
        smallest_area: a* unchanged, i4 [N].
        changed_area: a* under each change, i4 [V, N].
        similarity: mean overlap of the areas' sets where 0 is chance and 1 the same, f8 [V]; NaN without areas.
        smallest_similarity: the same of the a* sets, f8 [V].
        rank: mean Spearman correlation of the order of inclusion, f8 [V].
    """

    layer: str
    keys: tuple[str, ...]
    changes: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    smallest_area: np.ndarray
    changed_area: np.ndarray
    similarity: np.ndarray
    smallest_similarity: np.ndarray
    rank: np.ndarray

    __repr__ = tables.outline

    def _repr_html_(self) -> str:
        """What a notebook shows: a row a change, with means over images."""
        both = (self.smallest_area >= 0) & (self.changed_area >= 0)
        more = np.where(both, self.changed_area - self.smallest_area, np.nan)
        return tables.columns(self, (tables.count(len(self.keys), "image"), f"layer {self.layer}", "0 is chance, 1 the same"), {
            "change": self.changes, "sets alike": self.similarity, "a* sets alike": self.smallest_similarity,
            "orders alike": self.rank, "a* grows by": mean_known(more, 1)})


def stability(model: nn.Module, images: Inputs, layer: str, *, targets: Sequence[int] | Tensor | None = None,
              seeds: Sequence[int] = (1, 2), views: Views = ("flip", "crop", "noise"), fills: Sequence[Any] = ("zero", "mean"),
              progress: Progress = False, **asked: Any) -> Stability:
    """How far the sets and a* stay with another seed, on other views of the images, and with other fills.

    A flip may exchange channels that see a left and a right edge: less than full similarity is no fault by itself.

    Args:
        model, images, layer, progress: as for `per_image`.
        targets: class numbers [N], of every view; None is the predicted class of each unchanged image.
        seeds: in place of 0.
        views: names of `VIEWS` ("flip", "crop", "noise"), or names with a function of the images each, such as
            ``{**VIEWS, "jpeg": jpeg_view(75, mean, std)}`` (`chanattr.images.views`).
        fills: the first is that of the unchanged question and all other changes.
        asked: any other argument of `per_image`: areas, search, reward, level, group, ...

    Raises:
        InputError: an argument cannot be used, or a view gives other images than it was given.
        LayerError, ModelError: as in `per_image`.

    Examples:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))
        >>> told = ca.stability(model, torch.rand(2, 3, 8, 8), "1", seeds=(1,), views=("flip",), fills=("zero",), areas=(1, 2),
        ...                     engine="injection")
        >>> told.changes, told.changed_area.shape
        (('seed 1', 'view flip'), (2, 2))
    """
    check_images(images)
    named = check_views(views)
    fills = listed("fills", fills, "one or more", "leave it out for 'zero' and 'mean'")
    seeds = listed("seeds", seeds, "whole numbers", "leave it out for 1 and 2", least=0)
    shown = {name: viewed(images, name, view) for name, view in named.items()}
    changes = {**{f"seed {seed}": (images, {"seed": seed}) for seed in seeds}, **{f"view {name}": (x, {}) for name, x in shown.items()},
               **{f"fill {fill if isinstance(fill, (str, int, float)) else number}": (images, {"fill": fill})
                  for number, fill in enumerate(fills[1:], 1)}}
    options = {"fill": fills[0], "seed": 0} | asked
    with advance(progress, 1 + len(changes), f"changes at {layer}") as tell:
        plain = per_image(model, images, layer, targets=targets, **options)
        tell(1)
        goal, found = torch.from_numpy(plain.targets).long(), []
        for given, change in changes.values():
            found.append(per_image(model, given, layer, targets=goal, **options | change))
            tell(1)
    return _compared(plain, tuple(changes), found)


def _compared(plain: ImageAttribution, changes: tuple[str, ...], found: Sequence[ImageAttribution]) -> Stability:
    comparisons = tuple(compare(plain, other) for other in found)

    def means(values: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([float(mean_known(one)) for one in values])

    return Stability(
        layer=plain.layer, keys=plain.keys, changes=changes, comparisons=comparisons, smallest_area=plain.smallest_area,
        changed_area=np.array([other.smallest_area for other in found], np.int32).reshape(len(found), len(plain)),
        similarity=means([above_chance(c.jaccard, c.chance[None]) for c in comparisons]),
        smallest_similarity=means([above_chance(c.smallest_jaccard, c.smallest_chance) for c in comparisons]),
        rank=means([c.rank for c in comparisons]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Robust:
    """Sets that are good on several views of each image, beside those of the image alone, for N images and A areas.

    Attributes:
        layer, keys, targets, areas: as in `ImageAttribution`.
        views: that a set was searched on, beside the image itself.
        unseen: that it was not.
        masks, plain_masks: searched on the image and its views, and on the image alone, bool [N, A, K].
        scores, plain_scores: of these on the image itself, f4 [N, A].
        unseen_scores, plain_unseen_scores: mean over the unseen views, f4 [N, A].
        original: score of the image with every channel, f4 [N].
        empty: with none, f4 [N].
    """

    layer: str
    keys: tuple[str, ...]
    targets: np.ndarray
    areas: np.ndarray
    views: tuple[str, ...]
    unseen: tuple[str, ...]
    masks: np.ndarray
    plain_masks: np.ndarray
    scores: np.ndarray
    plain_scores: np.ndarray
    unseen_scores: np.ndarray
    plain_unseen_scores: np.ndarray
    original: np.ndarray
    empty: np.ndarray

    __repr__ = tables.outline

    def _repr_html_(self) -> str:
        """What a notebook shows: a row an area, with mean scores over images of the sets for all views and, behind, what these change."""
        views = f"searched on {', '.join(self.views)}; unseen {', '.join(self.unseen)}"
        return tables.columns(self, (tables.count(len(self.keys), "image"), f"layer {self.layer}", views), {
            "area": self.areas, "score": self.scores.mean(0), "lost on the image": self.cost.mean(0),
            "score on unseen views": self.unseen_scores.mean(0), "gained on them": self.gain.mean(0)})

    @property
    def cost(self) -> np.ndarray:
        """Score that the image itself loses by it, f4 [N, A]."""
        lost: np.ndarray = self.plain_scores - self.scores
        return lost

    @property
    def gain(self) -> np.ndarray:
        """Score that the unseen views gain by it, f4 [N, A]."""
        gained: np.ndarray = self.unseen_scores - self.plain_unseen_scores
        return gained


def robust(model: nn.Module, images: Inputs, layer: str, *, views: Views = ("flip", "noise"), unseen: Views = ("crop",),
           targets: Sequence[int] | Tensor | None = None, areas: Areas = None, search: Search | None = None,
           reward: str | Reward = "logit", fill: str | float | Sequence[float] | np.ndarray | Tensor = "zero",
           score: Callable[..., Tensor] | None = None, keys: Sequence[str] | None = None, group: Group = "",
           channel_axis: int | None = None, seed: int = 0, batch_size: int | None = None, engine: str = "auto", precision: str = "auto",
           memory_budget: str | int | float | None = None, progress: Progress = False) -> Robust:
    """One set of every area that is good on several views of an image, and what that costs and gains against the image's own set.

    The mean reward over the image and its views is maximised (the game *preserve*), as for a class over its images; both searches have
    the same steps. What is gained is measured on views that neither search saw.

    Args:
        views: that are searched on beside the image, as for `stability`.
        unseen: that are scored only.
        targets: class numbers [N], of every view; None is the predicted class of each unchanged image.
        model, images, layer, areas, search, reward, fill, score, keys, group, channel_axis: as for `per_image`.
        seed, batch_size, engine, precision, memory_budget, progress: the same.

    Raises:
        InputError: an argument cannot be used, a view is both seen and unseen, or gives other images than it was given.
        LayerError, ModelError: as in `per_image`.

    Examples:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))
        >>> told = ca.robust(model, torch.rand(2, 3, 8, 8), "1", areas=(1, 2), engine="injection")
        >>> told.views, told.unseen, told.gain.shape
        (('flip', 'noise'), ('crop',), (2, 2))
    """
    asked = Asked(areas=areas, search=search, reward=reward, score=score, seed=seed, batch_size=batch_size, precision=precision,
                  memory_budget=memory_budget, group=group)
    if isinstance(areas, str):
        raise InputError(f"areas={areas!r}; expected counts of channels, for sets of one size are compared; leave them out for a grid")
    seen, held = check_views(views), check_views(unseen)
    if not seen or not held or set(seen) & set(held):
        raise InputError(f"views {sorted(seen)} and unseen {sorted(held)}; expected one or more each, and none in both; leave them out for "
                         "the usual")
    count = check_images(images)
    names = check_keys(keys, count)
    goal = None if targets is None else check_targets(targets, count)
    tail = tail_at(model, images, layer, engine=engine, score=score, channel_axis=channel_axis)
    shards = shards_of(count, max(1, shard_size_of(model) // (1 + len(seen))))
    means = mean_where_asked(fill, tail, images, shards)
    question, parts = None, []
    with advance(progress, count, f"images at {layer}") as tell:
        for shard in shards:
            part = take_rows(images, shard)
            shown = [viewed(part, name, view) for name, view in [*seen.items(), *held.items()]]
            stem = tail.stem(join_rows([part, *shown]))
            filled = means or fill_of(fill, stem.activation, tail.layer)
            question = question or make_question(asked, model, tail.layer, filled, images=count * (1 + len(seen)))
            parts.append(_robust_shard(question, tail, stem, filled, None if goal is None else goal[shard], names[shard], len(seen)))
            tell(len(names[shard]))
    whole: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Robust(layer=tail.layer.name, keys=names, areas=np.array(question.settings.areas if question else (), np.int32),
                  views=tuple(seen), unseen=tuple(held), **whole)


def _robust_shard(question: Question, tail: Tail, stem: Stem, fill: Fill, wanted: Tensor | None, names: Sequence[str],
                  seen: int) -> dict[str, np.ndarray]:
    """Both searches of some images; the stem has the images, then each view of all of them, the unseen ones last."""
    count = len(names)
    goal = goal_of(wanted, take_stem(stem, torch.arange(count, device=stem.logits.device)))
    places = torch.arange(len(stem.logits), device=goal.device).view(-1, count).T
    every = [f"{name} ({number})" if number else name for number in range(places.shape[1]) for name in names]
    check_stem(stem, every, tail.layer.name)
    alone, together, unseen = (tuple(part) for part in (places[:, :1], places[:, :1 + seen], places[:, 1 + seen:]))
    asking = make_asking(question, tail, stem, goal.repeat(places.shape[1]), fill, together)
    check_ends(asking, names)
    grid = torch.tensor(question.settings.areas, device=goal.device, dtype=torch.long)
    own, others = _over(asking, alone), _over(asking, unseen)
    masks, plain = search_grid(asking, grid)[0], search_grid(own, grid)[0]
    ends = torch.stack([torch.ones_like(masks[:, 0]), torch.zeros_like(masks[:, 0])], 1)
    whole = _scores(own, ends)
    return {"targets": to_i4(goal), "masks": to_numpy(masks), "plain_masks": to_numpy(plain),
            "scores": _scores(own, masks), "plain_scores": _scores(own, plain), "unseen_scores": _scores(others, masks),
            "plain_unseen_scores": _scores(others, plain), "original": whole[:, 0], "empty": whole[:, 1]}


def _over(asking: Asking, members: tuple[Tensor, ...]) -> Asking:
    """The same question over other images."""
    return asking._replace(score=dataclasses.replace(asking.score, members=members))


def _scores(asking: Asking, masks: Bool[Tensor, "N A K"]) -> np.ndarray:
    """Float32 scores of the sets of every row, f4 [N, A]."""
    return to_f4(judge_sets(asking, masks).score)


def check_views(views: Views) -> dict[str, View]:
    """Views by name.

    Raises:
        InputError: a name that is none of `VIEWS`, or something that is no function.
    """
    if isinstance(views, str) or not isinstance(views, (Sequence, Mapping)):
        raise InputError(f"views={views!r}; expected names out of {', '.join(VIEWS)}, or names with a function each; give a list of one")
    found = dict(views) if isinstance(views, Mapping) else {str(name): VIEWS.get(name) if isinstance(name, str) else None for name in views}
    for name, view in found.items():
        if not callable(view):
            raise InputError(f"view {name!r} is not known; expected one of {', '.join(VIEWS)}, or a function of the images under a name of "
                             "your own: {**VIEWS, 'jpeg': jpeg_view(75, mean, std)} with chanattr.images.views.jpeg_view")
    return found  # type: ignore[return-value]


def viewed(images: Inputs, name: str, view: View) -> Inputs:
    """A view of some images, checked.

    Raises:
        InputError: a view that ships does not fit such images, or one gives something else than it was given.
    """
    if view in VIEWS.values() and not (isinstance(images, Tensor) and images.ndim == 4):
        raise InputError(f"view {name!r} of {outline(images)}; expected a tensor of images [N, C, H, W]; give a function of your own")
    shown: Inputs = view(images)
    alike = type(shown) is type(images) and outline(shown) == outline(images) and len(tensors_of(shown)[0]) == len(tensors_of(images)[0])
    if not alike or not all(bool(part.isfinite().all()) for part in tensors_of(shown) if part.is_floating_point()):
        what = outline(shown) if isinstance(shown, Tensor) else type(shown).__name__
        raise InputError(f"view {name!r} gave {what} of {outline(images)}; expected finite images of the same form; let it return as many "
                         "images of the same size and type")
    return shown
