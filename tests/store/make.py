"""Records of numbers drawn at random, for a store that does not look at what they mean; and a writer to be killed."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

from chanattr.records import ClassAttribution, ImageAttribution
from chanattr.settings import ExactSearch, Settings
from chanattr.store import ImageTable, open_run
from tests.usual import usual

AREAS = (1, 3, 9)
CHANNELS = 21
GRID = (3, 4)


def settings(layer: str = "features.10", **changes: object) -> Settings:
    search = ExactSearch(relaxed_steps=6, binary_steps=4, anneal=0.6, relaxed_rate=0.1, momentum=0.9, memory=0.8, exchange=0.5,
                         exploration=0.4, border=0.0, refine_steps=10, smoothing=0.0, starts=1, hard_every=0, shifts=0, sweeps=0)
    return dataclasses.replace(usual(layer=layer, areas=AREAS, search=search, model="tiny", model_sha256="ab" * 32), **changes)


def keys(start: int, stop: int) -> tuple[str, ...]:
    return tuple(f"{n % 3:03d}_çlass/picture {n:04d}.jpg" for n in range(start, stop))


def images(start: int = 0, stop: int = 6, *, layer: str = "features.10", channels: int = CHANNELS, areas: tuple[int, ...] = AREAS,
           kept: int = 2, **changes: object) -> ImageAttribution:
    """Answers for images `start` to `stop`: the same numbers for the same image whoever asks; half-precision energies."""
    rows = [_image(n, layer, channels, areas, kept) for n in range(start, stop)]
    joined = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    record = ImageAttribution(layer=layer, settings=settings(layer, areas=areas), engine="cut", keys=keys(start, stop),
                              areas=np.array(areas, "i4"), fill_values=np.zeros(channels, "f4"), **joined)
    return dataclasses.replace(record, **changes)


def _image(n: int, layer: str, channels: int, areas: tuple[int, ...], kept: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([n, *layer.encode()])
    rank = rng.permutation(channels)
    smallest = [-1, 0, 2, 7][n % 4]
    by_area = rng.random((len(areas), *GRID)).astype("f2").astype("f4")
    return {"targets": np.int32(n % 3), "predictions": np.int32(n % 5), "probability": np.float32(rng.random()),
            "masks": rank < np.array(areas, int).reshape(-1, 1), "scores": rng.normal(size=len(areas)).astype("f4"),
            "original": np.float32(rng.normal()), "empty": np.float32(rng.normal()), "top1": rng.random(len(areas)) < 0.5,
            "smallest_area": np.int32(smallest), "smallest_mask": rank < smallest,
            "smallest_score": np.float32(np.nan if smallest < 0 else rng.normal()), "smallest_top1": np.bool_(n % 2),
            "energy": rng.random(GRID).astype("f2").astype("f4"), "energy_by_area": by_area if n < kept else np.full_like(by_area, np.nan),
            "evaluations": np.float32(rng.integers(100)), "refine_evaluations": np.float32(rng.integers(100))}


def classes(targets: tuple[int, ...] = (0, 1, 2), *, layer: str = "features.10", seed: int = 0, **changes: object) -> ClassAttribution:
    rng = np.random.default_rng([seed, *layer.encode()])
    count, areas = len(targets), len(AREAS)
    scores = {name: rng.normal(size=(count, areas)).astype("f4") for name in (
        "joint_scores", "joint_top1", "joint_log_probability", "held_out_scores", "held_out_top1", "held_out_log_probability")}
    scores["held_out_scores"][-1] = np.nan
    single = {name: rng.normal(size=count).astype("f4") for name in ("original", "empty", "original_top1", "smallest_score", "evaluations")}
    record = ClassAttribution(
        layer=layer, settings=settings(layer, folds=2), engine="cut", names=tuple(f"name {t}, ñ" for t in targets),
        targets=np.array(targets, "i4"), areas=np.array(AREAS, "i4"), rows=rng.integers(1, 9, count).astype("i4"),
        images=rng.integers(0, 9, count).astype("i4"), mean_mask=rng.random((count, CHANNELS)).astype("f4"),
        joint_masks=rng.random((count, areas, CHANNELS)) < 0.5, smallest_area=rng.integers(-1, 9, count).astype("i4"),
        smallest_mask=rng.random((count, CHANNELS)) < 0.5, fill_values=np.zeros(CHANNELS, "f4"), **scores, **single)
    return dataclasses.replace(record, **changes)


def sha256(names: tuple[str, ...]) -> np.ndarray:
    return np.stack([np.random.default_rng(list(name.encode())).integers(1, 255, 32).astype("u1") for name in names])


def table(record: ImageAttribution, thumbnails: int = 2) -> ImageTable:
    """Digests, labels, and thumbnails of different sizes for the first images of all."""
    numbers = [int(key[-8:-4]) for key in record.keys]
    pictures = {key: np.random.default_rng(n).integers(0, 255, (4 + n, 5, 3)).astype("u1")
                for key, n in zip(record.keys, numbers, strict=True) if n < thumbnails}
    return ImageTable(keys=record.keys, sha256=sha256(record.keys), label=np.array([n % 3 for n in numbers], "i4"), target=record.targets,
                      prediction=record.predictions, probability=record.probability, thumbnails=pictures)


def write_all(path: Path, images_a_part: int = 2, count: int = 8, layers: tuple[str, ...] = ("features.10", "a/b"),
              say: bool = False) -> None:
    """A run of `count` images at some layers, and classes, resumed by key; tells every key that is durable."""
    with open_run(path, "a") as run:
        run.set_attributes(model="tiny", model_sha256="ab" * 32, shard_size=images_a_part)
        for start in range(0, count, images_a_part):
            for layer in layers:
                record = images(start, min(count, start + images_a_part), layer=layer)
                if not set(record.keys) <= run.finished(layer):
                    run.write(record, images=table(record))
                    if say:
                        print(layer, *record.keys, sep="\t", flush=True)
        for layer in layers:
            if not run.has_classes(layer):
                run.write(classes(layer=layer))
        if say:
            print("merge", flush=True)
    if say:
        print("done", flush=True)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]), count=int(sys.argv[2]), say=True)
