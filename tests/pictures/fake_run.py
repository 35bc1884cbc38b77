"""Records made with numpy, drawn pictures, and run files of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from chanattr.records import ClassAttribution, ImageAttribution
from chanattr.settings import ExactSearch, Settings, area_grid
from chanattr.store import ImageTable, Run, open_run
from tests.usual import usual

NAMES = ["tench", "golden retriever", "umbrella", "espresso", "<b>monarch & friends</b>",
         "</script><script>console.error('a class name ran')</script>"]
HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">.png'
COLOURS = ["#4f7d5b", "#d9a441", "#b03a48", "#6b4a32", "#e07b26", "#c81e1e"]


def settings(layer: str, channels: int) -> Settings:
    search = ExactSearch(relaxed_steps=60, binary_steps=40, anneal=0.6, relaxed_rate=0.1, momentum=0.9, memory=0.8, exchange=0.5,
                         exploration=0.4, refine_steps=10)
    return usual(layer=layer, areas=area_grid(channels), search=search, model="resnet18", folds=2,
                    preprocessing="resize 256, centre crop 224")


def centre(row: int) -> np.ndarray:
    """Where the shape of a picture is, (x, y) as shares of its side."""
    return np.random.default_rng(row).uniform(0.35, 0.65, 2)


def thumbnail(row: int, size: int = 128) -> np.ndarray:
    """A drawn picture: a sky, a ground, and a shape a class."""
    rng = np.random.default_rng(row)
    shade = np.linspace(0, 1, size)[:, None, None]
    sky = (np.array([150, 190, 225]) * (1 - shade) + np.array([235, 230, 215]) * shade) * np.ones((1, size, 1))
    sky[int(size * 0.7):] = np.array([110, 130, 90])
    picture = Image.fromarray(np.clip(sky + rng.normal(0, 6, sky.shape), 0, 255).astype(np.uint8))
    draw, middle = ImageDraw.Draw(picture), centre(row) * size
    box = [*(middle - size * 0.22), *(middle + size * 0.22)]
    [draw.ellipse, draw.rectangle, draw.pieslice][row % 3](*[box] if row % 3 < 2 else (box, 180, 360), fill=COLOURS[row % 6])
    return np.asarray(picture)


def image_record(layer: str = "layer3", *, channels: int = 256, grid: int = 14, images: int = 24, seed: int = 0) -> ImageAttribution:
    """Plausible answers: scores rise, overshoot and return; row 2 is not reached, row 3 needs nothing, row 4 did not run."""
    rng = np.random.default_rng(seed)
    areas = np.array(area_grid(channels), np.int32)
    targets = np.arange(images, dtype=np.int32) % 6
    smallest = np.clip(np.rint(np.exp(rng.normal(np.log(10 + 6 * targets), 0.6))), 1, channels).astype(np.int32)
    original, empty = rng.normal(14, 2, images).astype("f4"), rng.normal(0, 0.4, images).astype("f4")
    rank = np.stack([np.argsort(np.argsort(-rng.normal(size=channels) - 2 * (np.arange(channels) % 41 == t)
                                           - 2.6 * (np.arange(channels) % 67 == 5 * t))) for t in targets])
    share = np.log1p(areas)[None] / np.log1p(smallest)[:, None]
    scores = np.where(share < 1, empty[:, None] + (original - empty)[:, None] * share**1.4, original[:, None] * (1 + 0.25 * np.sin(
        np.pi * np.log(areas / smallest[:, None]) / np.log(channels / smallest[:, None] + 1e-6)))).astype("f4")
    for row, special in ((2, -1), (3, 0), (4, -2)):
        if row < images:
            smallest[row] = special
    energy = _energy(rng, images, grid)
    by_area = energy[:, None] * np.sqrt(areas / channels)[None, :, None, None].astype("f4")
    by_area = (by_area + 0.5 * (areas / channels)[None, :, None, None] * rng.random((images, 1, grid, grid))).astype("f4")
    by_area[1] = np.nan
    top1 = scores > original[:, None] * 0.8
    right = rng.random(images) < 0.85
    return ImageAttribution(
        layer=layer, settings=settings(layer, channels), engine="tail cut at the layer", keys=keys(images), targets=targets,
        predictions=np.where(right, targets, (targets + 1) % 6).astype("i4"), probability=rng.uniform(0.3, 1, images).astype("f4"),
        areas=areas, masks=rank[:, None] < areas[None, :, None], scores=scores, original=original, empty=empty, top1=top1,
        smallest_area=smallest, smallest_mask=rank < smallest[:, None],
        smallest_score=np.where(smallest >= 0, np.where(smallest == 0, empty, original + 0.02), np.nan).astype("f4"),
        smallest_top1=right & (smallest > 0), energy=energy, energy_by_area=by_area, fill_values=np.zeros(channels, "f4"),
        evaluations=np.full(images, 1300, "f4"), refine_evaluations=np.full(images, 50, "f4"))


def _energy(rng: np.random.Generator, images: int, grid: int) -> np.ndarray:
    down, across = np.indices((grid, grid)) / grid
    blob = np.stack([np.exp(-((down - y) ** 2 + (across - x) ** 2) / 0.03) for x, y in map(centre, range(images))])
    return (3 * blob + 0.5 * rng.random((images, grid, grid))).astype("f4")


def class_record(found: ImageAttribution) -> ClassAttribution:
    """Joint sets that follow the images' own; class 5 has one image, so nothing held out."""
    rng = np.random.default_rng(5)
    targets = np.unique(found.targets)
    groups = [np.flatnonzero((found.targets == t) & (found.smallest_area > 0)) for t in targets]
    mean = np.stack([found.smallest_mask[g].mean(0) for g in groups]).astype("f4")
    rank = np.argsort(np.argsort(-mean - rng.normal(0, 0.2, mean.shape), axis=1, kind="stable"), axis=1)
    smallest = np.array([np.median(found.smallest_area[g]) * 1.5 for g in groups]).astype("i4")
    original = np.array([found.original[g].mean() for g in groups], "f4")
    scores = np.stack([found.scores[g].mean(0) for g in groups]).astype("f4")
    held = (scores * 0.86 + rng.normal(0, 0.2, scores.shape)).astype("f4")
    top1 = np.clip(scores / original[:, None], 0, 1).astype("f4")
    held[-1] = np.nan
    return ClassAttribution(
        layer=found.layer, settings=found.settings, engine=found.engine, names=tuple(NAMES[t] for t in targets), targets=targets,
        areas=found.areas, rows=np.array([len(g) for g in groups], "i4"), images=np.array([len(g) for g in groups], "i4"),
        mean_mask=mean, joint_masks=rank[:, None] < found.areas[None, :, None], joint_scores=scores, joint_top1=top1,
        joint_log_probability=-1 / (top1 + 0.1), held_out_scores=held,
        held_out_top1=np.where(np.isnan(held), np.nan, np.clip(top1 * 0.9, 0, 1)).astype("f4"),
        held_out_log_probability=-1 / (top1 + 0.1), original=original, empty=np.array([found.empty[g].mean() for g in groups], "f4"),
        original_top1=np.full(len(targets), 0.9, "f4"), smallest_area=smallest, smallest_mask=rank < smallest[:, None],
        smallest_score=np.array([np.interp(s, found.areas, line) for s, line in zip(smallest, scores, strict=True)], "f4"),
        fill_values=found.fill_values, evaluations=np.full(len(targets), 900, "f4"))


def keys(images: int) -> tuple[str, ...]:
    return tuple(HOSTILE if n == 0 else f"{n % 6:03d}_{['a', 'bb', 'c'][n % 3]}/ILSVRC2012_val_{n:08d}.JPEG" for n in range(images))


def write_run(path: Path, *, images: int = 24, layers: tuple[str, ...] = ("layer3", "layer4.1.conv2"), classes: bool = True,
              thumbnails: bool = True, labels: bool = True, names: bool = True) -> Path:
    """A run file of made records; the last image has no thumbnail."""
    label = np.arange(images, dtype="i4") % 6 if labels else np.full(images, -1, "i4")
    with open_run(path, "a") as run:
        run.set_attributes(model="resnet18", class_names=NAMES if names else [])
        for seed, layer in enumerate(layers):
            channels, grid = {"layer4.1.conv2": (512, 7)}.get(layer, (256, 14))
            found = image_record(layer, channels=channels, grid=grid, images=images, seed=seed)
            write(run, found, label, thumbnails=thumbnails)
            if classes:
                run.write(class_record(found))
    return path


def write(run: Run, found: ImageAttribution, label: np.ndarray, *, thumbnails: bool = True, under: str = "exact") -> None:
    """A record of made images into an open run."""
    pictures = {key: thumbnail(row) for row, key in enumerate(found.keys[:-1])} if thumbnails else {}
    digests = np.stack([np.random.default_rng(list(key.encode())).integers(1, 255, 32).astype("u1") for key in found.keys])
    run.write(found, under, ImageTable(keys=found.keys, sha256=digests, label=label, target=found.targets, prediction=found.predictions,
                                       probability=found.probability, thumbnails=pictures))
