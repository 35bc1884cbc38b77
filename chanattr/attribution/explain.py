"""`explain`, a dry run: what a mask at a layer means, which way will run, and what a question would cost, measured on a few masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chanattr import tables
from chanattr.arguments import STEPS, check_number
from chanattr.attribution.asking import Asking, ask_predicted, find_smallest, mask_bytes, search_grid
from chanattr.attribution.image import LARGE_SHARD
from chanattr.attribution.inputs import check_images, check_model
from chanattr.attribution.question import Areas, Asked, Question, make_question
from chanattr.attribution.score import Judged, zeros
from chanattr.network.clock import measured
from chanattr.network.explain import Bypass, Layout, bypasses_of, kept_bytes, layout_of
from chanattr.network.inputs import take_rows, tensors_of
from chanattr.network.layers import Layer
from chanattr.network.names import kind
from chanattr.network.outputs import Inputs, batch_size_of
from chanattr.network.tail import bind
from chanattr.search.objective import Scored
from chanattr.settings import Search, area_grid

MASKS = 8  # that the cost of an evaluation is measured on; fewer rounds than a search, so the estimate is one
FAR = 1e9  # below every level


class Between(NamedTuple):
    """The least and the most of what depends on the image's own a*."""

    least: float
    most: float


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a question about a layer would do and cost. An evaluation is (forwards + 2 backwards) / 3 of one masked image.

    Attributes:
        model: class of the model.
        layer, layout: as found.
        engine, reason: the way that runs, and why it is not the tail ("" if it is).
        bypasses: data that passes the layer by, which a mask there does not cut; of the tail alone, for elsewhere nothing is kept.
        rows: (images given, rows of logits that came).
        ready_seconds: to find the layer, export, cut and check, once a process.
        stem_seconds: of one image's unmasked pass.
        seconds, whole_seconds: of one evaluation with its gradient: by `engine`, and in float32 by a hook on the whole network.
        areas: that would be searched; empty for a* alone.
        search: its name.
        evaluations: of the search over areas, an image.
        refine: evaluations of the refinement of a*, an image; (0, 0) where it is not asked.
        smallest: evaluations with ``areas="smallest"``, an image, refinement included where asked; a look whether the level is reached,
            a third of one each, is not in it.
        batch_size: masked images run at once.
        kept: bytes of one image that are kept.
        needed: bytes of one masked image, forward and backward.
        images: that the estimate is for.
        device: where.
    """

    model: str
    layer: Layer
    layout: Layout
    engine: str
    reason: str
    bypasses: tuple[Bypass, ...]
    rows: tuple[int, int]
    ready_seconds: float
    stem_seconds: float
    seconds: float
    whole_seconds: float
    areas: tuple[int, ...]
    search: str
    evaluations: float
    refine: Between
    smallest: Between
    batch_size: int
    kept: int
    needed: int
    images: int
    device: str

    @property
    def share(self) -> float:
        """The measured cost of an evaluation by this way, as a share of a hooked one's."""
        return self.seconds / self.whole_seconds

    def estimate(self, smallest: bool = False) -> Between:
        """Seconds for all images, by the measured evaluations; an estimate, for larger batches and other loads cost otherwise.

        Args:
            smallest: with ``areas="smallest"``.
        """
        counts = self.smallest if smallest else Between(*(self.evaluations + more for more in self.refine))
        return Between(*(self.ready_seconds + self.images * (self.stem_seconds + count * self.seconds) for count in counts))

    def __str__(self) -> str:
        from chanattr.attribution.explained import text

        return text(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the figures; in words they are printed."""
        counts = Between(*map(round, self.smallest))
        whole, alone = (Between(*(total / self.images for total in self.estimate(smallest))) for smallest in (False, True))
        rows = [("way", self.engine), ("output", self.layout.name), ("channels", self.layer.channels), ("areas", len(self.areas)),
                ("evaluations", round(self.evaluations)),
                *((head, f"{tables.plain(span.least)} to {tables.plain(span.most)}")
                  for head, span in (("evaluations, a* alone", counts), ("seconds", whole), ("seconds, a* alone", alone)))]
        facts = (self.model, f"layer {self.layer.name or '(whole model)'}", self.layer.type, self.device)
        return tables.table("Explanation", facts, (f"an image, of {self.images:,}", "estimated"), rows)


def explain(model: nn.Module, example: Inputs, layer: str, *, images: int = 1000, areas: Areas = None,
            search: Search | None = None, refine: bool | None = None, score: Callable[..., Tensor] | None = None,
            channel_axis: int | None = None, batch_size: int | None = None, engine: str = "auto", precision: str = "auto") -> Explanation:
    """A dry run of `per_image` at a layer: what a mask there means, the way that will run, and what it would cost.

    Evaluations are counted by the search itself on a score that costs nothing; times are measured on a few masks and multiplied.

    Args:
        model: any module; left exactly as found.
        example: one or two images as the model takes them, as `per_image` says.
        images: that the estimate is for.
        layer, areas, search, refine, score, channel_axis, batch_size, engine, precision: as for `per_image`.

    Raises:
        InputError, LayerError, ModelError: as `per_image`; ModelError also where the model gives fewer or more rows than images.

    Examples:
        >>> import torch, chanattr as ca
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 5))
        >>> told = ca.explain(model, torch.rand(2, 3, 8, 8), "1", areas=(2, 4, 8))
        >>> told.layout.name, told.engine, told.rows
        ('NCHW', 'tail (export)', (3, 3))
    """
    asked = Asked(areas=areas, search=search, refine=refine, score=score, batch_size=batch_size, precision=precision)
    images = int(check_number(f"images={images!r}", images, STEPS))
    count = check_images(example)
    check_model(model, example, score)
    device = tensors_of(example)[0].device
    three = take_rows(example, torch.tensor([0, count - 1, 0]))
    with measured(device) as made:
        tail = bind(model, example, [layer], engine=engine, score=score, channel_axis=channel_axis)[layer]
        question = make_question(asked, model, tail.layer, zeros(tail.layer))
        asking = ask_predicted(question, tail, three)
    plain = bind(model, example, [layer], engine="injection", score=score, channel_axis=channel_axis)[layer]
    stem = asking.score.stem
    with measured(device) as passed:
        tail.stem(three)
    seconds, whole = (_evaluation_seconds(one, images) for one in (asking, ask_predicted(question, plain, three)))
    spent, refined = _spent(question)
    _, smallest = _spent(make_question(replace(asked, areas="smallest"), model, tail.layer, zeros(tail.layer)))
    return Explanation(
        model=kind(model), layer=tail.layer, layout=layout_of(model, tail.layer, example), engine=asking.score.quick.engine,
        reason=tail.reason, bypasses=bypasses_of(model, tail, stem), rows=(batch_size_of(three), len(stem.logits)),
        ready_seconds=made.seconds, stem_seconds=passed.seconds / len(stem.logits), seconds=seconds, whole_seconds=whole,
        areas=question.settings.areas, search=question.settings.search.name, evaluations=spent, refine=refined, smallest=smallest,
        batch_size=asking.score.batch_size, kept=kept_bytes(stem),
        needed=mask_bytes(asking.score.quick, asking.score.quick_stem), images=images, device=str(device))


def _evaluation_seconds(asking: Asking, images: int) -> float:
    """Seconds of one masked image among so many, forward and backward, after a first round that is not counted."""
    device, size = asking.original.device, asking.question.family.size
    count = max(1, min(asking.score.batch_size, images, MASKS if device.type == "cpu" else LARGE_SHARD))
    masks = (torch.rand(count, size, generator=torch.Generator().manual_seed(0), dtype=torch.float32) < 0.5).float().to(device)
    rows = torch.arange(count, device=device) % len(asking.original)
    asking.score(masks, rows, True)
    with measured(device) as meter:
        asking.score(masks, rows, True)
    return meter.seconds / count


class _Free:
    """A score that costs nothing, under which a set reaches its row's level as soon as it is large enough.

    A search that stops when it reaches sees so at once if the score is `open`; else it spends all its evaluations before it is judged.
    """

    def __init__(self, enough: Int[Tensor, "R"], open_: bool) -> None:
        self.enough, self.open = enough, open_

    def __call__(self, masks: Float[Tensor, "M K"], rows: Int[Tensor, "M"], gradient: bool) -> Scored:
        rewards = self.judge(masks, rows).score if self.open else torch.full((len(masks),), -FAR, dtype=torch.float32)
        return Scored(rewards, torch.zeros_like(masks) if gradient else masks.new_empty(0, masks.shape[1]))

    def judge(self, masks: Tensor, rows: Int[Tensor, "M"]) -> Judged:
        over = masks.float().sum(1) - self.enough[rows]
        return Judged(over, (over >= 0).float(), over)


def _spent(question: Question) -> tuple[float, Between]:
    """Evaluations an image of the search over areas and, least and most over all places where a* may lie, of finding a*.

    As the search itself counts them, run on free scores whose a* lies in turn at each end of each gap of the areas.
    """
    size, grid = question.family.size, torch.tensor(question.settings.areas, dtype=torch.long)
    ends = torch.tensor(sorted({place for area in (*question.settings.areas, *area_grid(size)) for place in (area, area + 1)
                                if place <= size}))
    zeros = torch.zeros(len(ends), dtype=torch.float32)
    masks = (torch.arange(size) < grid[:, None]).expand(len(ends), -1, -1)
    found = []
    for open_ in (False, True):
        free: Any = _Free(ends, open_)
        asking = Asking(free, question, zeros, zeros - size, zeros, zeros + 1)
        found.append(find_smallest(asking, grid, masks, grid >= ends[:, None]).evaluations)
    _, spent = search_grid(asking._replace(original=zeros[:1]), grid)
    return float(spent[0]), Between(float(torch.cat(found).min()), float(torch.cat(found).max()))
