"""`evaluate_run`: the answers of a run file held against the baselines, layer by layer, from the loader's pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chanattr.arguments import SEEDS, STEPS, check_kind, check_number, listed
from chanattr.attribution.inputs import check_model
from chanattr.errors import InputError
from chanattr.evidence.again import fill_again, question_again
from chanattr.evidence.baselines import Baseline
from chanattr.evidence.evaluate import Here, baselines_of, check_names, evaluate_rows, working
from chanattr.evidence.evaluation import Evaluation, join
from chanattr.evidence.peers import PEERS
from chanattr.network.outputs import device_of
from chanattr.network.stem import take_stem
from chanattr.network.tail import Tail, bind, stems
from chanattr.network.weights import model_sha256
from chanattr.progress import Progress, advance
from chanattr.records import ImageAttribution
from chanattr.runs.shards import Shard, pictures_of
from chanattr.search.objective import Reward
from chanattr.store import Run


def evaluate_run(run: Run, model: nn.Module, loader: Iterable[Any], *, layers: Sequence[str] | None = None, label: str = "exact",
                 methods: Sequence[str] | Mapping[str, Baseline] | None = None, peers: bool = False,
                 limit: int | None = None, reward: str | Reward | Mapping[str, Reward] | None = None,
                 score: Callable[..., Tensor] | None = None, channel_axis: int | None = None, seed: int = 0, batch_size: int | None = None,
                 engine: str = "auto", progress: Progress = True) -> dict[str, Evaluation]:
    """How good the answers of a run are beside those of other methods; see `chanattr.evaluate`.

    Args:
        run: open; only read.
        model: that the answers are of.
        loader: of the pictures, as for `attribute`; those that the run has no answer for are passed over.
        layers: of the run; None is all that have answers under the label.
        label: under which the answers lie.
        methods, peers, reward, score, channel_axis, seed, batch_size, engine: as for `evaluate`; rewards may come by their stored names.
        limit: images at most, the first of the loader that have answers at every layer.
        progress: True for a bar, False, or ``f(done, total)``.

    Returns:
        An `Evaluation` by layer.

    Raises:
        InputError: none of the pictures has answers, or they are of another model.
        StoreError: no such answers.

    Examples:
        >>> import tempfile, torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))
        >>> loader = [(torch.rand(2, 3, 8, 8), [0, 1], ["a.jpg", "b.jpg"])]
        >>> with tempfile.TemporaryDirectory() as folder, ca.open_run(f"{folder}/run.h5", "a") as run:
        ...     _ = ca.attribute(run, model, loader, layers=["1"], areas=(1, 2), classes=False, engine="injection", progress=False)
        ...     told = ca.evaluate_run(run, model, loader, methods=["random"], engine="injection", progress=False)
        >>> told["1"].methods
        ('exact', 'random')
    """
    check_kind("run", run, Run, "open it with ca.open_run")
    limit = None if limit is None else int(check_number(f"limit={limit!r}", limit, STEPS))
    seed = int(check_number(f"seed={seed!r}", seed, SEEDS))
    baselines = baselines_of(methods)
    names = ([layer for layer in run.layers if label in run.labels(layer)] if layers is None else
             listed("layers", layers, "layers of the run", "leave it out for all"))
    known = set.intersection(*[run.finished(layer, label) for layer in names]) if names else set()
    total = min(len(known), limit or len(known)) * len(names)
    chosen_methods = {layer: dict(baselines) for layer in names}
    parts: dict[str, list[Evaluation]] = {layer: [] for layer in names}
    pictures = _same_bytes(pictures_of(run, loader, known, limit))
    with advance(progress, total, "images x layers") as tell:
        for _, here, found in asked_again(run, model, pictures, [(layer, label) for layer in names], reward=reward, score=score,
                                          channel_axis=channel_axis, engine=engine, batch_size=batch_size):
            if not parts[found.layer]:
                check_names(found, baselines)
                chosen_methods[found.layer] |= working(here, found, PEERS) if peers else {}
            parts[found.layer].append(evaluate_rows(here, found, chosen_methods[found.layer], seed=seed))
            tell(len(found))
    if not names or not all(parts.values()):
        raise InputError(f"none of the pictures has answers under the label {label!r} at {', '.join(names) or 'any layer'} in {run.path}; "
                         "expected pictures of the run, under the same keys; give the folder that the run was made from")
    return {layer: join(found) for layer, found in parts.items()}


def _same_bytes(pictures: Iterable[tuple[Shard, Collection[str]]]) -> Iterator[Shard]:
    """Pictures, each of which has the bytes that were attributed.

    Raises:
        InputError: one has others.
    """
    for part, other in pictures:
        for key in other:
            raise InputError(f"picture {key!r} has other bytes than in the run; expected the one that was attributed; give the folder that "
                             "the run was made from")
        yield part


def asked_again(run: Run, model: nn.Module, pictures: Iterable[Shard], answers: Sequence[tuple[str, str]], *,
                reward: str | Reward | Mapping[str, Reward] | None, score: Callable[..., Tensor] | None, channel_axis: int | None,
                engine: str = "auto", batch_size: int | None = None) -> Iterator[tuple[str, Here, ImageAttribution]]:
    """A run's answers for pictures, shard by shard, with the network and the question about them at hand once more.

    Args:
        run, model, reward, score, channel_axis, engine, batch_size: as for `evaluate_run`.
        pictures: of the run.
        answers: layers and labels; the network runs once up to all of the layers.

    Yields:
        The label, what is at hand, and the answers, where some of a shard's pictures have any.

    Raises:
        InputError: they are of another model, or were asked with callables that are not given.
    """
    digest, done = model_sha256(model), {at: run.finished(*at) for at in answers}
    tails: dict[str, Tail] = {}
    for shard in pictures:
        images = shard.images.to(device_of(model))
        if not tails:
            check_model(model, images[:2], score)
            tails = bind(model, images[:2], list(dict.fromkeys(layer for layer, _ in answers)), engine=engine, score=score,
                         channel_axis=channel_axis)
        kept = stems(tails, images)
        for layer, label in answers:
            rows = [row for row, key in enumerate(shard.keys) if key in done[layer, label]]
            if not rows:
                continue
            found, tail = run.per_image(layer, label, rows=[shard.keys[row] for row in rows]), tails[layer]
            index = torch.tensor(rows, device=images.device)
            stem = take_stem(kept[layer], index)
            fill = fill_again(found, stem.activation, tail.layer)
            question = question_again(found, model, tail.layer, fill, reward=reward, score=score, batch_size=batch_size, digest=digest)
            yield label, Here(model, tail, stem, images[index], question, fill, score), found
