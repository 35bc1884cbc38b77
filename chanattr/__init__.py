"""chanattr: which channels of a layer does a PyTorch vision network need to see this?

Names are imported on first use, so that `import chanattr` costs nothing and loads no torch.
"""

from __future__ import annotations

import gc
import importlib
from types import ModuleType
from typing import Any

_NAMES = {  # by the module that has them
    "network.layers": ("layers",),
    "network.hooks": ("capture", "inject", "frozen"),
    "network.integers": ("dequantised",),
    "attribution.explain": ("explain",),
    "attribution.image": ("per_image",),
    "attribution.classes": ("per_class",),
    "attribution.spatial": ("spatial",),
    "evidence.certificates": ("certify",),
    "evidence.evaluate": ("evaluate",),
    "runs.evaluate": ("evaluate_run",),
    "runs.pointing": ("pointing_run",),
    "runs.spatial": ("spatial_run",),
    "evidence.evaluation": ("Evaluation",),
    "evidence.sets": ("overlap", "shared", "unique", "cluster"),
    "evidence.specificity": ("specificity",),
    "evidence.held_out": ("held_out",),
    "evidence.compare": ("compare",),
    "evidence.curves": ("curves",),
    "evidence.joint": ("joint_view",),
    "evidence.sanity": ("randomisation", "label_randomisation"),
    "evidence.stability": ("stability", "robust"),
    "evidence.pointing": ("pointing_game", "pointing_table", "Pointing"),
    "evidence.saliency": ("saliency",),
    "evidence.pixel_curves": ("pixel_curves", "PixelCurves"),
    "settings": ("ExactSearch", "PenaltySearch", "Settings", "area_grid", "paper_areas"),
    "records": ("ImageAttribution", "ClassAttribution", "SpatialAttribution"),
    "store": ("open_run",),
    "runs": ("attribute",),
    "network.zoo": ("load_model",),
    "images": ("image_loader",),
    "images.annotations": ("load_annotations",),
    "pictures.report": ("report",),
    "pictures.explorer": ("explore",),
    "picture_settings": ("PictureSettings",),
    "pictures.pixels": ("Pixels", "pixels_of"),
    "pictures.inversion": ("invert",),
    "picture_records": ("Inversion", "ChannelImages", "Examples"),
    "pictures.channels": ("visualise", "class_weights"),
    "runs.pictures": ("invert_run", "visualise_run"),
    "pictures.examples": ("examples",),
    "errors": ("ChanattrError", "InputError", "ImageError", "LayerError", "ModelError", "StoreError"),
}
_HOMES = {name: f"chanattr.{home}" for home, names in _NAMES.items() for name in names}
_ROOMS = {"figures": "chanattr.pictures.figures"}

__all__ = sorted({*_HOMES, *_ROOMS})
__version__ = "1.0.0rc1"


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return _imported(_ROOMS[name])
    if name in _HOMES:
        return getattr(_imported(_HOMES[name]), name)
    raise AttributeError(f"module 'chanattr' has no attribute {name!r}; it has {', '.join(__all__)}")


def _imported(module: str) -> ModuleType:
    """A module, during whose import no garbage is looked for: a quarter of the time, torch's million objects being no garbage."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        if collects:
            gc.enable()


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
