"""`bench`: the plain way, the paper's protocol done literally, against `per_image`, measured on the same images in one run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from chanattr import tables
from chanattr.arguments import STEPS, Range, check_number
from chanattr.attribution.asking import Asking, ask_predicted, search_pairs
from chanattr.attribution.image import answer, per_image
from chanattr.attribution.inputs import check_images, check_model
from chanattr.attribution.question import Areas, Asked, Question, batch_size_of, make_question, planned
from chanattr.attribution.score import zeros
from chanattr.errors import InputError
from chanattr.network.clock import measured, peak_since_start
from chanattr.network.folding import work
from chanattr.network.names import kind
from chanattr.network.tail import Tail, bind
from chanattr.progress import Progress, advance
from chanattr.records import ImageAttribution
from chanattr.search.family import Channels
from chanattr.settings import PenaltySearch

PROTOCOL = 300  # steps of the paper
ROUND = 2.0  # seconds that a rate is measured for, at least two steps
PLAIN = "plain"
AREAS, REFINED, ALONE = "refine=False", "refine=True", "areas='smallest'"
WAYS: dict[str, dict[str, Any]] = {AREAS: {"refine": False}, REFINED: {"refine": True}, ALONE: {"areas": "smallest"}}


class Rung(NamedTuple):
    """One part of the gain: what was changed, and how many times less time an image it took, as measured in this run."""

    change: str
    ratio: float


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to answer, measured.

    Attributes:
        name: "plain", or the arguments of `per_image`.
        engine: how masked activations were scored.
        images: answered in each round.
        seconds: an image, of each round; without making the way ready.
        evaluations: an image, with what a* took.
        peak: most bytes held; see `chanattr.network.clock.measured`.
        score: mean over the plain way's images and the areas by the definition in float32; None without areas, or where the plain way
            was cut short.
        share: of the better score of both ways for the same image and area, as ratio of means; None as `score`.
        smallest: a* of the plain way's images, in their order; -1 where none was reached; empty where the way was cut short.
    """

    name: str
    engine: str
    images: int
    seconds: tuple[float, ...]
    evaluations: float
    peak: int
    score: float | None
    share: float | None
    smallest: tuple[int, ...]

    @property
    def mean_seconds(self) -> float:
        """An image, over the rounds."""
        return float(np.mean(self.seconds))

    @property
    def rate(self) -> float:
        """Evaluations a second."""
        return self.evaluations / self.mean_seconds


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What was measured.

    Attributes:
        model, layer, channels, device, threads, torch: what, where and by what.
        areas: searched by both; the full area needs no search in either.
        images, plain_images, steps: given; of which the plain way did; of its protocol's 300 steps.
        batch_size: masked images that `per_image` runs at once; the plain way runs the areas of one image.
        ready_seconds, again_seconds: to find the layer, export, cut, make the fast graph and check them: the first time, and when they
            are kept.
        bare_rate: evaluations a second of what follows the layer alone, in the graph that a search runs in: batches of one size, forward
            and backward, no masks and no search.
        multiplications: of one image forward in that graph; 0 where it is no graph.
        peak_of_process: whether peaks count from the start of the process, where the system cannot put the mark back.
        ways: the plain one first.
        rungs: parts of the gain of the last way; their product is the whole.
    """

    model: str
    layer: str
    channels: int
    device: str
    threads: int
    torch: str
    areas: tuple[int, ...]
    images: int
    plain_images: int
    steps: int
    batch_size: int
    ready_seconds: float
    again_seconds: float
    bare_rate: float
    multiplications: int
    peak_of_process: bool
    ways: tuple[Way, ...]
    rungs: tuple[Rung, ...]

    def _repr_html_(self) -> str:
        """What a notebook shows: a row a way."""
        facts = (self.model, f"layer {self.layer}", self.device, tables.count(self.threads, "thread"))
        return tables.columns(self, facts, {
            "way": [way.name for way in self.ways], "runs as": [way.engine for way in self.ways],
            "seconds an image": [way.mean_seconds for way in self.ways], "times faster": [self.gain(way) for way in self.ways],
            "evaluations": [way.evaluations for way in self.ways],
            "share of the better score": ["–" if way.share is None else way.share for way in self.ways]})

    def gain(self, way: Way) -> float:
        """How many times less time an image than the plain way takes for all its steps (calculated, if it was cut short)."""
        return self.plain_seconds / (self.plain_seconds if way.name == PLAIN else way.mean_seconds)

    @property
    def plain_seconds(self) -> float:
        """An image by the plain way with all its 300 steps: measured, or in proportion to the evaluations if it was cut short."""
        return self.ways[0].mean_seconds * whole_protocol(self.steps)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        ways = [dataclasses.asdict(way) | {"mean_seconds": way.mean_seconds, "rate": way.rate, "gain": self.gain(way)} for way in self.ways]
        rungs = [rung._asdict() for rung in self.rungs]
        return dataclasses.asdict(self) | {"ways": ways, "rungs": rungs, "plain_seconds": self.plain_seconds, "complete": self.complete,
                                           "bare_share": self.bare_share}

    @property
    def bare_share(self) -> float:
        """How much of the bare rate `per_image` keeps on the areas, with its search, judging and records."""
        return self.ways[1].rate / self.bare_rate

    @property
    def complete(self) -> bool:
        """Whether the plain way ran all its steps; else its answers are none."""
        return self.steps == PROTOCOL


def whole_protocol(steps: int) -> float:
    """How many times the evaluations of so many steps all 300 are: each area ends with one forward."""
    return 1.0 if steps == PROTOCOL else (PROTOCOL + 1 / 3) / (steps + 1 / 3)


class _Round(NamedTuple):
    """What was measured of a way once: seconds an image, most bytes, and the answers."""

    seconds: float
    peak: int
    found: ImageAttribution


def bench(model: nn.Module, images: Float[Tensor, "N ..."], layer: str, *, areas: Areas = None, plain_images: int = 1,
          plain_steps: int = PROTOCOL, score: Callable[..., Tensor] | None = None, name: str = "", progress: Progress = False) -> Bench:
    """The plain way against `per_image`, on the same images, in turns.

    The plain way is the paper's protocol done literally: a hook on the whole network, one image at a time, its areas as the batch,
    `PenaltySearch`, float32. There is a round for each image that it does: it, then the rates between, then `per_image` on all images.

    Args:
        model: any module; left exactly as found.
        images: as the model takes them.
        layer, areas, score: as for `per_image`; areas must be given or None.
        plain_images: how many of the images, from the first, the plain way does.
        plain_steps: below 300 its answers are not reported, and its time is calculated from those steps.
        name: of the model, for the report.
        progress: as for `per_image`; over rounds.

    Raises:
        InputError: also for areas="smallest", or no area below K.
        LayerError, ModelError: as `per_image`.
    """
    images_given = check_images(images)
    plain_images = int(check_number(f"plain_images={plain_images!r}", plain_images, Range(1, images_given, whole=True)))
    plain_steps = int(check_number(f"plain_steps={plain_steps!r}", plain_steps, STEPS._replace(high=PROTOCOL)))
    if isinstance(areas, str):
        raise InputError(f"areas={areas!r} to compare with a way that needs areas; expected counts of channels, or None for the grid")
    check_model(model, images[:2], score)
    with measured(images.device) as ready:
        tail = bind(model, images[:2], [layer], score=score)[layer]
        plain = _question(model, tail, areas, plain_steps, score, images_given)
        ask_predicted(plain, tail, images[:2])  # makes the fast graph, which is kept
    with measured(images.device) as again:
        bind(model, images[:2], [layer], score=score)
    hook = bind(model, images[:2], [layer], engine="injection", score=score)[layer]
    open_ = tuple(area for area in plain.settings.areas if area < tail.layer.channels)
    if not open_:
        raise InputError(f"areas={plain.settings.areas} for a layer of {tail.layer.channels} channels; expected one that needs a search, "
                         "below all of them; leave areas out")
    plain = dataclasses.replace(plain, batch_size=len(open_))
    rounds: dict[str, list[_Round]] = {name: [] for name in (PLAIN, *WAYS)}
    rates: dict[str, list[float]] = {}
    with advance(progress, plain_images, "rounds") as tell:
        for row in range(plain_images):
            stem = hook.stem(images[row:row + 1])
            alone = functools.partial(answer, plain, hook, stem, keys=("0",), targets=None, fill=zeros(tail.layer))
            rounds[PLAIN].append(_round(images.device, alone))
            for change, rate in _rates(plain, tail, images, row, batch_size_of(None, model)):
                rates.setdefault(change, []).append(rate)
            for way, asked in WAYS.items():
                ours = functools.partial(per_image, model, images, layer, **{"areas": areas, "score": score} | asked)
                rounds[way].append(_round(images.device, ours, again.seconds))
            tell(1)
    ways = _ways(rounds, plain, hook, images, plain_steps)
    asking = ask_predicted(dataclasses.replace(plain, batch_size=batch_size_of(None, model)), tail, images)
    graph = getattr(asking.score.quick, "anchor", None)
    return Bench(
        model=name or kind(model), layer=tail.layer.name, channels=tail.layer.channels, device=_device_name(images.device),
        threads=torch.get_num_threads(), torch=torch.__version__, areas=open_, images=images_given, plain_images=plain_images,
        steps=plain_steps, batch_size=batch_size_of(None, model), ready_seconds=ready.seconds, again_seconds=again.seconds,
        bare_rate=_bare_rate(asking), multiplications=work(graph) if isinstance(graph, fx.GraphModule) else 0,
        peak_of_process=peak_since_start(images.device), ways=ways,
        rungs=ladder(ways, {change: float(np.mean(found)) for change, found in rates.items()}, plain_steps))


def ladder(ways: Sequence[Way], rates: dict[str, float], steps: int) -> tuple[Rung, ...]:
    """The parts of the gain from the plain way, which is first, to the last; their product is the ratio of seconds an image.

    Seconds are evaluations over their rate, so each change of the rate and each change of the evaluations is a ratio of its own.

    Args:
        ways: plain, on the areas, refined, a* alone.
        rates: evaluations a second after each change, in order.
        steps: of the plain way.
    """
    plain, areas, refined, alone = ways
    rungs, before = [], plain.rate
    for change, rate in (*rates.items(), ("own search, judging, records", areas.rate)):
        rungs.append(Rung(change, rate / before))
        before = rate
    fewer = plain.evaluations * whole_protocol(steps) / areas.evaluations
    return (*rungs, Rung("fewer evaluations", fewer), Rung("a* refined to the exact count", areas.mean_seconds / refined.mean_seconds),
            Rung("areas not searched", refined.mean_seconds / alone.mean_seconds))


def _question(model: nn.Module, tail: Tail, areas: Areas, steps: int, score: Callable[..., Tensor] | None, images: int) -> Question:
    """The plain way's question, with the evaluations that `per_image` plans."""
    asked = Asked(areas=areas, search=PenaltySearch(steps=steps), refine=False, score=score)
    ours = planned(Asked(areas=areas), Channels(tail.layer.channels), images)
    return dataclasses.replace(make_question(asked, model, tail.layer, zeros(tail.layer)), evaluations=ours)


def _round(device: torch.device, run: Callable[[], ImageAttribution], ready: float = 0.0) -> _Round:
    """Images answered once more, without what making the way ready takes when it is kept; of small work that is most, and stays in."""
    with measured(device) as meter:
        found = run()
    return _Round((meter.seconds - (ready if ready < meter.seconds / 2 else 0.0)) / len(found), meter.peak, found)


def _rates(plain: Question, tail: Tail, images: Tensor, row: int, batch_size: int) -> Iterator[tuple[str, float]]:
    """Evaluations a second of the plain way's own search, as one thing after another is changed."""
    large = dataclasses.replace(plain, batch_size=batch_size)
    yield "tail cut out", _rate(_unhurried(ask_predicted(plain, tail, images[row:row + 1])))
    before = _unhurried(ask_predicted(large, tail, images))
    yield "large batches", _rate(before)
    for change, precision, evaluations in (("graph folded, channels last", "float32", 0), ("lower precision", "auto", 0),
                                           ("compiled", "auto", plain.evaluations)):
        asking = ask_predicted(dataclasses.replace(large, precision=precision, evaluations=evaluations), tail, images)
        if asking.score.quick is not before.score.quick:
            yield change, _rate(asking)
        before = asking


def _unhurried(asking: Asking) -> Asking:
    """The same, searched in the graph that it is judged in."""
    return asking._replace(score=dataclasses.replace(asking.score, quick=asking.score.tail, quick_stem=asking.score.stem))


def _rate(asking: Asking) -> float:
    """Evaluations a second over all rows and areas side by side, after a first step that is not counted."""
    settings, device = asking.question.settings, asking.original.device
    areas = torch.tensor([area for area in settings.areas if area < asking.question.family.size], device=device)
    rows = torch.arange(len(asking.original), device=device).repeat_interleave(len(areas))
    everything = areas.repeat(len(asking.original))

    def run(steps: int) -> tuple[float, float]:
        short = dataclasses.replace(asking.question, settings=dataclasses.replace(settings, search=PenaltySearch(steps=steps)))
        with measured(device) as meter:
            found = search_pairs(asking._replace(question=short), everything, rows)
        return float(found.evaluations.sum()), meter.seconds

    return _after_one(run)


def _bare_rate(asking: Asking) -> float:
    """Evaluations a second of the search's own graph and nothing else, after a first round that is not counted."""
    score, device = asking.score, asking.original.device
    rows = torch.arange(score.batch_size, device=device) % len(asking.original)
    leaf = score.quick_stem.activation[rows].detach().requires_grad_()

    def run(steps: int) -> tuple[float, float]:
        with measured(device) as meter, torch.enable_grad():
            for _ in range(steps):
                torch.autograd.grad(score.quick.logits_from(score.quick_stem, leaf, rows).sum(), leaf)
        return steps * len(rows), meter.seconds

    return _after_one(run)


def _after_one(run: Callable[[int], tuple[float, float]]) -> float:
    """The rate of a run of so many steps, which gives what it did and its seconds, after a first step that is not counted."""
    _, once = run(1)
    done, seconds = run(int(np.clip(ROUND / max(once, 1e-6), 2, PROTOCOL)))
    return done / seconds


def _ways(rounds: dict[str, list[_Round]], plain: Question, hook: Tail, images: Tensor, steps: int) -> tuple[Way, ...]:
    """The ways with what their answers are worth, where the plain way's are complete."""
    shared = len(rounds[PLAIN])
    asking = ask_predicted(plain, hook, images[:shared])
    scores = {name: _scores(asking, own, shared) for name, own in rounds.items()}
    best = np.maximum(scores[PLAIN], scores[AREAS])
    ways = []
    for name, own in rounds.items():
        complete = steps == PROTOCOL or name != PLAIN
        score = float(scores[name].mean()) if scores[name].size and complete else None
        area = np.concatenate([one.found.smallest_area for one in own])[:shared]
        spent = np.concatenate([one.found.evaluations + one.found.refine_evaluations for one in own])
        ways.append(Way(
            name=name, engine=own[0].found.engine, images=len(own[0].found), seconds=tuple(one.seconds for one in own),
            evaluations=float(spent.mean()), peak=max(one.peak for one in own), score=score,
            share=None if score is None or steps < PROTOCOL else score / float(best.mean()),
            smallest=tuple(area.tolist()) if complete else ()))
    return tuple(ways)


def _scores(asking: Asking, rounds: list[_Round], shared: int) -> np.ndarray:
    """Scores by the definition of the plain way's images at the areas below K, [images, areas]."""
    masks = np.concatenate([one.found.masks for one in rounds])[:shared]
    masks = masks[:, masks[0].sum(1) < masks.shape[2]]
    device = asking.original.device
    rows = torch.arange(shared, device=device).repeat_interleave(masks.shape[1])
    judged = asking.score.judge(torch.from_numpy(masks).flatten(0, 1).to(device), rows).score
    return judged.view(masks.shape[:2]).cpu().numpy()


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
