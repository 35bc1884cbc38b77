"""Every argument of every public function and figure given something of no kind that it takes, as callers give it: not type-checked."""

from __future__ import annotations

import functools
import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import chanattr as ca
from chanattr.images import demo_folder
from chanattr.images.boxes import ImageBoxes
from tests.models import Plain, images, seeded

# Never looked into, or only said: what they are makes no difference to what is done.
LEFT = {"progress", "asked", "title"}
WRONG = (object(), 3, "no such thing")


def entered(call: Callable[..., Any]) -> Callable[..., None]:
    """A context manager as a function, around a pass of the network."""

    @functools.wraps(call)
    def go(**options: Any) -> None:
        with call(**options):
            seeded(Plain)(images(2))

    return go


def small(picture: Image.Image) -> torch.Tensor:
    """A preprocessing."""
    return torch.from_numpy(np.array(picture.resize((8, 8)))).permute(2, 0, 1) / 255


def calls(folder: Path) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Each public function's name, how it is called, and arguments that it takes."""
    model, some, quick = seeded(Plain), images(4), ca.ExactSearch(relaxed_steps=1, binary_steps=2)
    labels, few = [1, 1, 2, 2], ca.PictureSettings(steps=1)
    at = {"model": model, "images": some, "layer": "mix"}
    asked = {"areas": (1, 3), "search": quick, "engine": "injection"}
    found = ca.per_image(**at, **asked, targets=labels, keys=list("abcd"))
    classes = ca.per_class(**at, **asked, targets=labels)
    record = ca.figures.samples.classes()
    pixels = {"pixels": ca.Pixels((0.5,) * 3, (0.5,) * 3, (8, 8))}
    masks = ca.figures.samples.masks()
    boxes = {"a.jpg": ImageBoxes(boxes=np.array([[1, 1, 4, 4]], np.float32), classes=np.array([1], np.int32),
                                 difficult=np.array([False]), size=(8, 8))}
    (folder / "boxes.json").write_text(json.dumps([{"file": "a.jpg", "index": 1, "boxes": [[1, 1, 4, 4]]}]), encoding="utf8")
    played = {"heat": np.ones((1, 8, 8)), "keys": ["a.jpg"], "targets": [1], "annotations": boxes}
    penalty = {"areas": (0.2,), "search": ca.PenaltySearch(steps=1)}
    run = ca.open_run(folder / "run.h5", "a")
    run.write(found)
    run.write(masks)
    loader = [(some, torch.tensor(labels), list("abcd"))]
    of_run = {"run": run, "model": model, "loader": loader, "progress": False}
    plain = {"engine": "injection"}
    given: dict[str, dict[str, Any]] = {
        "area_grid": {"channels": 10},
        "attribute": of_run | asked | {"layers": ["mix"], "label": "other"},
        "capture": {"model": model, "layers": ["mix"]},
        "certify": {"model": model, "images": some, "found": found} | plain,
        "class_weights": {"classes": record, "target": 1},
        "cluster": {"likeness": ca.overlap(record, 4)},
        "compare": {"one": found, "other": found},
        "curves": at | {"rankings": found} | plain,
        "dequantised": {"model": model},
        "evaluate": {"model": model, "images": some, "found": found, "methods": ["random"]} | plain,
        "evaluate_run": of_run | {"methods": ["random"]} | plain,
        "examples": at | {"channels": [1]} | pixels,
        "explain": {"model": model, "example": some, "layer": "mix"} | plain,
        "explore": {"run": run},
        "frozen": {"model": model},
        "held_out": at | {"targets": labels, "counts": (1,), "search": quick} | plain,
        "image_loader": {"paths": demo_folder(), "preprocess": small},
        "inject": {"model": model, "layer": "mix", "mask": [1.0] * 6},
        "invert": at | pixels | {"settings": few},
        "invert_run": of_run | pixels | {"settings": few},
        "joint_view": {"codes": masks, "found": [ca.figures.samples.images()]},
        "label_randomisation": at | {"areas": (1,), "search": quick},
        "layers": {"model": model, "example": some},
        "load_annotations": {"path": folder / "boxes.json"},
        "load_model": {"name": "embedded"},
        "open_run": {"path": folder / "other.h5", "mode": "a"},
        "overlap": {"record": record, "count": 4},
        "paper_areas": {"channels": 10},
        "per_class": at | asked | {"targets": labels},
        "per_image": at | asked,
        "pixel_curves": {"model": model, "images": some, "heat": torch.ones(4, 8, 8), "step": 0.5},
        "pixels_of": {"preprocess": ca.load_model("embedded").preprocess},
        "pointing_game": played,
        "pointing_run": {"run": run, "annotations": boxes, "preprocess": small, "progress": False},
        "pointing_table": {"methods": {"masks": ca.pointing_game(**played)}},
        "randomisation": at | {"areas": (1,), "search": quick, "steps": 1},
        "report": {"run": run, "path": folder / "page.html"},
        "robust": at | asked,
        "saliency": {"model": model, "images": some, "method": "gradient"},
        "shared": {"record": record, "targets": [1, 2], "count": 4},
        "spatial": {"model": model, "images": some} | penalty,
        "spatial_run": of_run | penalty | {"label": "other"},
        "specificity": at | {"targets": labels, "classes": classes} | plain,
        "stability": at | asked | {"seeds": (1,), "views": ("flip",), "fills": ("zero",)},
        "unique": {"record": record, "target": 1, "count": 4},
        "visualise": {"model": model, "layer": "mix", "wanted": [1], "settings": few} | pixels,
        "visualise_run": of_run | pixels | {"layer": "mix", "channels": [1], "settings": few},
    }
    for name in ca.__all__:
        call = getattr(ca, name)
        if inspect.isfunction(call):
            yield name, entered(call) if name in ("inject", "capture", "frozen") else call, given[name]
    run.close()
    drawn = figures(masks)
    for name in ca.figures.__all__:
        call = getattr(ca.figures, name)
        wanted = inspect.signature(call).parameters
        yield f"figures.{name}", call, {key: value for key, value in drawn[name.removesuffix("_data")].items() if key in wanted}


def figures(masks: ca.SpatialAttribution) -> dict[str, dict[str, Any]]:
    """Arguments that each figure takes."""
    samples, dropped = ca.figures.samples, ca.figures.samples.masks("delete")
    found, record, picture, told = samples.images(), samples.classes(), samples.picture(), samples.evaluation()
    image, mask = {"found": found, "row": 0, "names": list("abc")}, {"found": masks, "row": 0, "names": list("abc")}
    return {
        "area_curve": image,
        "area_strip": image | {"picture": picture},
        "channel_cards": {"made": samples.channel_images()},
        "class_channels": {"classes": record, "target": 1},
        "class_curves": {"classes": record, "target": 1},
        "class_matrix": {"classes": record},
        "depth": {"found": [told]},
        "energy_map": image | {"picture": picture},
        "inversions": {"made": [samples.inversion()], "found": found},
        "mask_and_channels": {"view": ca.joint_view(masks, [found]), "row": 0, "picture": picture},
        "mask_curve": mask,
        "mask_games": {"kept": samples.masks(), "dropped": dropped, "row": 0},
        "mask_growth": {"found": masks, "rows": [0], "pictures": [picture]},
        "mask_strip": mask | {"picture": picture},
        "method_maps": {"pictures": [picture], "maps": {"masks": masks.heat((32, 32))[:1]}},
        "methods": {"found": told},
        "overlap_matrix": {"likeness": ca.overlap(record, 4)},
        "sanity": {"told": samples.sanity()},
        "smallest_areas": {"found": found, "names": list("abc"), "labels": [0, 1, 2]},
        "specificity_matrix": {"found": samples.specificity()},
    }


def told() -> dict[str, str]:
    """What was neither taken nor refused as an error of this package, by "function argument=what"; and what is refused though right."""
    raw: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # some paths that are given are taken
        for name, call, given in calls(Path(folder)):
            parameters = inspect.signature(call).parameters.values()
            arguments = [one.name for one in parameters if one.name not in LEFT and one.kind is not one.VAR_POSITIONAL]
            for argument, wrong in [("", None), *((one, wrong) for one in arguments for wrong in WRONG)]:
                try:
                    call(**given | ({argument: wrong} if argument else {}))
                except Exception as error:
                    if f"{name} {argument}" == "dequantised ":
                        continue  # the network is not quantised
                    if not argument or not isinstance(error, ca.ChanattrError) or "xpected" not in str(error):
                        raw[f"{name} {argument}={wrong!r}".removesuffix(" =None")] = f"{type(error).__name__}: {error}"
    return raw


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(told()))
