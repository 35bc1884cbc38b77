"""A run as it is handed to a worker, and the same made ready in a process: tails cut, questions complete."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from chanattr.arguments import listed
from chanattr.attribution.asking import masks_at_once
from chanattr.attribution.image import answer
from chanattr.attribution.inputs import check_model
from chanattr.attribution.question import Areas, Asked, Question, batch_size_of, family_of, make_question, planned
from chanattr.attribution.score import Fill, fill_of
from chanattr.axes import concatenate
from chanattr.errors import InputError, ModelError
from chanattr.network.batches import bytes_of
from chanattr.network.fast import fast
from chanattr.network.layers import describe_all
from chanattr.network.outputs import device_of
from chanattr.network.stem import Stem, take_stem
from chanattr.network.tail import Tail, bind, stems
from chanattr.network.weights import model_sha256
from chanattr.records import ImageAttribution, SpatialAttribution
from chanattr.runs.shards import Shard


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a process needs to search shards; it can be pickled if the model and the callables can.

    Attributes:
        model: the network.
        example: a batch of one or two images.
        layers: by the one name that each has in a file.
        asked: the question without areas; folds are of classes.
        areas, class_areas: by layer, of images and of classes.
        fills: by layer; "mean" is resolved before shards are searched.
        engine, channel_axis: as in `per_image`.
        digest: of the model's weights.
        images: how many there will be; 0 where that is not known.
    """

    model: nn.Module
    example: Tensor
    layers: tuple[str, ...]
    asked: Asked
    areas: Mapping[str, Areas]
    class_areas: Mapping[str, Areas]
    fills: Mapping[str, Any]
    engine: str
    channel_axis: int | None
    digest: str
    images: int = 0

    @classmethod
    def of(cls, model: nn.Module, example: Tensor, layers: Sequence[str], asked: Asked, *, areas: Areas | Mapping[str, Areas],
           class_areas: Areas | Mapping[str, Areas], fill: Any, engine: str, channel_axis: int | None, images: int = 0) -> Plan:
        """A plan from a caller's arguments; layers and areas go by the layers' one name; areas of classes are those of images where None.

        Raises:
            InputError: no layer, one twice (also by another of its names), or areas for a layer that is not in the run.
            LayerError: as `describe`.
            ModelError: the model fails on the example.
        """
        layers = listed("layers", layers, "layer names, at least one", "put a single name in a list")
        check_model(model, example, asked.score)
        names = functools.partial(one_names, model, example, channel_axis=channel_axis)
        chosen = tuple(names(layers))
        return cls(model=model, example=example, layers=chosen, asked=asked, areas=by_layer(areas, chosen, names),
                   class_areas=by_layer(areas if class_areas is None else class_areas, chosen, names), fills=dict.fromkeys(chosen, fill),
                   engine=engine, channel_axis=channel_axis, digest=model_sha256(model), images=images)


def by_layer(areas: Areas | Mapping[str, Areas], layers: Sequence[str], names: Callable[..., dict[str, str]]) -> dict[str, Areas]:
    """Areas for every layer: one answer for all, or a mapping that names some (the others take the default).

    Args:
        areas: as a caller wrote them.
        layers: of the run.
        names: `one_names` of the model.

    Raises:
        InputError: the mapping names a layer that is not in the run.
    """
    if not isinstance(areas, Mapping):
        return dict.fromkeys(layers, areas)
    written = names(list(areas))
    unknown = [given for name, given in written.items() if name not in layers]
    if unknown:
        raise InputError(f"areas name the layer {unknown[0]!r}, which is not in this run; expected some of {', '.join(layers)}; "
                         "correct the name, or add the layer")
    return {layer: areas[written[layer]] if layer in written else None for layer in layers}


def one_names(model: nn.Module, example: Tensor, given: Sequence[str], *, channel_axis: int | None) -> dict[str, str]:
    """What a caller wrote, by the one name that each layer has in a file.

    Raises:
        InputError: two of them are one layer.
        LayerError: as `describe`.
    """
    names: dict[str, str] = {}
    for written, layer in zip(given, describe_all(model, example, list(given), channel_axis=channel_axis), strict=True):
        if layer.name in names:
            raise InputError(f"{names[layer.name]!r} and {written!r} are one layer, {layer.name!r}; expected different layers; "
                             "take one of them away")
        names[layer.name] = written
    return names


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A plan in a process: its tails, how a search runs each, and the questions as shards bring them up."""

    plan: Plan
    tails: Mapping[str, Tail]
    engines: Mapping[str, str]
    questions: dict[tuple[str, bool], Question] = field(default_factory=dict)

    def question(self, layer: str, fill: Fill, *, classes: bool = False) -> Question:
        """The complete question at a layer, about images or classes, made once."""
        key, plan = (layer, classes), self.plan
        if key not in self.questions:
            asked = (dataclasses.replace(plan.asked, areas=plan.class_areas[layer]) if classes else
                     dataclasses.replace(plan.asked, areas=plan.areas[layer], folds=0))
            self.questions[key] = make_question(asked, plan.model, self.tails[layer].layer, fill, digest=plan.digest, images=plan.images)
        return self.questions[key]

    def fill(self, layer: str, activation: Tensor) -> Fill:
        """The layer's fill for a shard's activations."""
        given = self.plan.fills[layer]
        return given if isinstance(given, Fill) else fill_of(given, activation, self.tails[layer].layer)


def make_ready(plan: Plan) -> Ready:
    """Cuts all tails of the plan in one export; fast graphs are checked on the example, which a resumed run has too."""
    tails = bind(plan.model, plan.example, list(plan.layers), engine=plan.engine, score=plan.asked.score, channel_axis=plan.channel_axis)
    engines = {}
    for layer, stem in stems(tails, plan.example).items():
        asked = dataclasses.replace(plan.asked, areas=plan.areas[layer])
        family = family_of(asked.group, plan.model, tails[layer].layer)
        at_once = masks_at_once(tails[layer], stem, batch_size_of(asked.batch_size, plan.model), bytes_of(asked.memory_budget))
        quick = fast(tails[layer], stem, precision=asked.precision, evaluations=planned(asked, family, plan.images), at_once=at_once)
        engines[layer] = quick.engine
    return Ready(plan=plan, tails=tails, engines=engines)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One shard, the layers to search it at, and its classes: "predicted", "label", or one for all."""

    shard: Shard
    layers: tuple[str, ...]
    targets: str | int

    def targets_of(self, rows: Sequence[int]) -> list[int] | None:
        """The class of each of some rows; None is the predicted one of each."""
        if self.targets == "predicted":
            return None
        return [int(self.shard.labels[row] if self.targets == "label" else self.targets) for row in rows]


class Searched(NamedTuple):
    """What a task gives at one layer.

    Attributes:
        record: of the images whose scores are finite; None where there is none.
        bad: (key, reason) of the others.
    """

    record: ImageAttribution | SpatialAttribution | None
    bad: tuple[tuple[str, str], ...]


Results = Generator[tuple[Task, Searched], None, None]  # each task with what it gives, one a layer


def search_shard(ready: Ready, task: Task) -> Iterator[Searched]:
    """What a shard gives, layer by layer; the network's stem runs once for all of them."""
    device = device_of(ready.plan.model)
    kept = stems({layer: ready.tails[layer] for layer in task.layers}, task.shard.images.to(device, non_blocking=True))
    for layer in task.layers:
        yield search_rows(functools.partial(_answer, ready, task, layer, kept[layer]), task, kept[layer])


def _answer(ready: Ready, task: Task, layer: str, whole: Stem, stem: Stem, index: Tensor, **of: Any) -> ImageAttribution:
    """The record of some rows of a shard side by side."""
    fill = ready.fill(layer, whole.activation)
    kept = any(thumbnail is not None for thumbnail in task.shard.thumbnails)
    return answer(ready.question(layer, fill), ready.tails[layer], stem, fill=fill.of(index), keep_energy=kept, **of)


def search_rows(search: Callable[..., ImageAttribution | SpatialAttribution], task: Task, stem: Stem,
                rows: Sequence[int] | None = None) -> Searched:
    """Rows of a shard side by side, without those whose scores are not finite.

    Args:
        search: ``search(stem, index, keys=, targets=)`` gives the record of some rows, or a `ModelError` where one of them has none.
        task: of the shard.
        stem: of all its rows.
        rows: None is all.
    """
    rows = range(len(task.shard.keys)) if rows is None else rows
    index, keys = torch.as_tensor(rows, device=stem.logits.device), [task.shard.keys[row] for row in rows]
    try:
        return Searched(search(take_stem(stem, index), index, keys=keys, targets=task.targets_of(rows)), ())
    except ModelError as error:
        if len(rows) == 1:
            return Searched(None, ((keys[0], str(error)),))
    finite = stem.logits[index].isfinite().all(1).tolist()
    good = [row for row, fine in zip(rows, finite, strict=True) if fine]
    together = [good] if 0 < len(good) < len(rows) else []  # the others are still searched side by side
    alone = [[row] for row in rows if not together or row not in good]
    parts = [search_rows(search, task, stem, group) for group in (*together, *alone)]
    records = [part.record for part in parts if part.record is not None]
    return Searched(concatenate(records) if records else None, tuple(pair for part in parts for pair in part.bad))
