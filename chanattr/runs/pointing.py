"""`pointing_run`: the masks of a run file in the pointing game against annotated boxes, beside heat maps of the field's methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from chanattr.arguments import check_function, check_kind, check_name, listed
from chanattr.errors import InputError
from chanattr.evidence.pointing import Pointing, pointing_game
from chanattr.evidence.saliency import SALIENCY, pointing_of, saliency
from chanattr.images.annotations import for_keys
from chanattr.images.boxes import ImageBoxes
from chanattr.images.frame import measured_frame, regions_of
from chanattr.network.outputs import device_of
from chanattr.progress import Progress, advance
from chanattr.runs.shards import pictures_of
from chanattr.store import Run

OURS = "masks"


def pointing_run(run: Run, annotations: Mapping[str, ImageBoxes], preprocess: Callable[..., Any], *, layer: str = ":input",
                 label: str = "exact", methods: Sequence[str] = (), model: nn.Module | None = None, loader: Iterable[Any] = (),
                 score: Callable[..., Tensor] | None = None, seed: int = 0, progress: Progress = True) -> dict[str, Pointing]:
    """How often the masks of a run point at the object, by TorchRay's protocol; and how often other methods do on the same pictures.

    Args:
        run: open; only read.
        annotations: boxes by key, from `load_annotations`; keys also fit by the file's name alone.
        preprocess: of a picture, as the run had it: it tells which part of a file the network saw.
        layer, label: where the masks lie in the file.
        methods: of `chanattr.evidence.saliency.SALIENCY`, for which `model` and `loader` are needed.
        model, score: the network, and what turns its output into logits.
        loader: of the run's pictures.
        seed: of what methods draw.
        progress: True for a bar, False, or ``f(done, total)``.

    Returns:
        A `Pointing` by method, the run's masks first.

    Raises:
        InputError: no picture of the run is annotated, no such method, or pictures are missing.
        StoreError: no such answers.

    Examples:
        >>> import tempfile, numpy as np, torch, chanattr as ca
        >>> from chanattr.images.boxes import ImageBoxes
        >>> boxes = ImageBoxes(boxes=np.array([[16, 16, 48, 48]], np.float32), classes=np.array([0], np.int32),
        ...                    difficult=np.array([False]), size=(64, 64))
        >>> def preprocess(picture):
        ...     return torch.from_numpy(np.array(picture.resize((32, 32)))).permute(2, 0, 1) / 255
        >>> with tempfile.TemporaryDirectory() as folder, ca.open_run(f"{folder}/run.h5", "a") as run:
        ...     run.write(ca.figures.samples.masks())
        ...     ca.pointing_run(run, {"a.jpg": boxes}, preprocess)["masks"].hit.tolist()
        [1]
    """
    check_kind("run", run, Run, "open it with ca.open_run")
    check_function("preprocess", preprocess, "a picture", "pass that of the run, load_model(...).preprocess")
    methods = listed("methods", methods, ", ".join(SALIENCY), "leave it out for the masks of the run alone", least=0)
    for method in methods:
        check_name("method", method, SALIENCY, remedy="leave it out for the masks of the run alone")
    if methods and model is None:
        raise InputError(f"methods {', '.join(methods)} without a model; expected the network that the run is of; give model= and loader=")
    run.spatial(rows=[], layer=layer, label=label)  # refuses what is not there
    done = run.finished(layer, label, spatial=True)
    ordered = [key for key in run.keys if key in done]
    told = for_keys(annotations, ordered)
    keys = [key for key in ordered if key in told]
    codes = run.spatial(rows=keys, layer=layer, label=label)
    regions = regions_of(lambda size: measured_frame(preprocess, size), told, keys)
    found = {OURS: pointing_game(codes.masks(), keys, codes.targets, annotations=told, regions=regions)}
    if not methods or model is None:
        return found
    heats = _heats(run, model, loader, keys, codes.targets, methods, score=score, seed=seed, progress=progress)
    return found | {method: pointing_game(heat, keys, codes.targets, annotations=told, regions=regions, **pointing_of(method))
                    for method, heat in heats.items()}


def _heats(run: Run, model: nn.Module, loader: Iterable[Any], keys: Sequence[str], targets: np.ndarray, methods: Sequence[str], *,
           score: Callable[..., Tensor] | None, seed: int, progress: Progress) -> dict[str, np.ndarray]:
    """Heat maps [N, H, W] of every method, in the order of the keys."""
    place = {key: row for row, key in enumerate(keys)}
    held: dict[str, dict[int, np.ndarray]] = {method: {} for method in methods}
    with advance(progress, len(keys) * len(methods), "images x methods") as tell:
        for chosen, _ in pictures_of(run, loader, place):
            goal = [int(targets[place[key]]) for key in chosen.keys]
            for method in methods:
                heat = saliency(model, chosen.images.to(device_of(model)), method, targets=goal, score=score, seed=seed)
                held[method] |= {place[key]: one for key, one in zip(chosen.keys, heat.values.cpu().numpy(), strict=True)}
                tell(len(goal))
    missing = [key for row, key in enumerate(keys) if any(row not in rows for rows in held.values())]
    if missing:
        raise InputError(f"{len(missing)} annotated pictures of the run are not among the images, first {missing[0]!r}; expected all; give "
                         "the folder that the run was made from")
    return {method: np.stack([rows[row] for row in range(len(keys))]) for method, rows in held.items()}
