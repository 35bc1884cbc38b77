"""`evaluate_run`: the answers of a run file held against the baselines, layer by layer, from the loader's pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from chanattr.errors import InputError
from chanattr.evidence.again import fill_again, question_again
from chanattr.evidence.baselines import Baseline
from chanattr.evidence.evaluate import Here, baselines_of, check_names, evaluate_rows, working
from chanattr.evidence.evaluation import Evaluation, join
from chanattr.evidence.peers import PEERS
from chanattr.network.outputs import device_of
from chanattr.network.tail import Tail, bind, stems
from chanattr.network.weights import model_sha256
from chanattr.progress import Progress, advance
from chanattr.records import ImageAttribution
from chanattr.runs.shards import Shard, shards
from chanattr.search.objective import Reward
from chanattr.settings import STEPS, check_number
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
    """
    if limit is not None:
        check_number(f"limit={limit!r}", limit, STEPS)
    baselines = baselines_of(methods)
    names = list(layers) if layers is not None else [layer for layer in run.layers if label in run.labels(layer)]
    known = set.intersection(*[run.finished(layer, label) for layer in names]) if names else set()
    total = min(len(known), limit or len(known)) * len(names)
    table, digest = run.images(), model_sha256(model)
    bytes_known = dict(zip(table.keys, map(bytes, table.sha256), strict=True))
    chosen_methods = {layer: dict(baselines) for layer in names}
    tails: dict[str, Tail] = {}
    parts: dict[str, list[Evaluation]] = {layer: [] for layer in names}
    left = limit or len(known)
    with advance(progress, total, "images x layers") as tell:
        for shard in shards(loader, int(run.attributes.get("shard_size", 16))):
            rows = [row for row, key in enumerate(shard.keys) if key in known][:left]
            left -= len(rows)
            if not rows:
                continue
            chosen = shard.rows(rows)
            _check_bytes(chosen, bytes_known)
            images = chosen.images.to(device_of(model))
            tails = tails or bind(model, images[:2], names, engine=engine, score=score, channel_axis=channel_axis)
            for layer, here, found in _questions(run, model, tails, images, chosen, label, reward=reward, score=score, digest=digest,
                                                 batch_size=batch_size):
                if not parts[layer]:
                    check_names(found, baselines)
                    chosen_methods[layer] |= working(here, found, PEERS) if peers else {}
                parts[layer].append(evaluate_rows(here, found, chosen_methods[layer], seed=seed))
                tell(len(rows))
            if left <= 0:
                break
    if not names or not all(parts.values()):
        raise InputError(f"none of the pictures has answers under the label {label!r} at {', '.join(names) or 'any layer'} in {run.path}; "
                         "expected pictures of the run, under the same keys; give the folder that the run was made from")
    return {layer: join(found) for layer, found in parts.items()}


def _questions(run: Run, model: nn.Module, tails: Mapping[str, Tail], images: Tensor, shard: Shard, label: str, *,
               reward: str | Reward | Mapping[str, Reward] | None, score: Callable[..., Tensor] | None, digest: str,
               batch_size: int | None) -> Iterator[tuple[str, Here, ImageAttribution]]:
    """One shard's question at every layer, in turn, with the run's answers; the stem runs once for all."""
    for layer, stem in stems(tails, images).items():
        found, tail = run.per_image(layer, label, rows=list(shard.keys)), tails[layer]
        fill = fill_again(found, stem.activation, tail.layer)
        question = question_again(found, model, tail.layer, fill, reward=reward, score=score, batch_size=batch_size, digest=digest)
        yield layer, Here(model, tail, stem, images, question, fill, score), found


def _check_bytes(shard: Shard, known: Mapping[str, bytes]) -> None:
    """Refuses another picture under a key of the run.

    Raises:
        InputError: so.
    """
    for key, digest in zip(shard.keys, map(bytes, shard.sha256), strict=True):
        if any(digest) and any(known[key]) and digest != known[key]:
            raise InputError(f"picture {key!r} has other bytes than in the run; expected the one that was attributed; give the folder that "
                             "the run was made from")
