"""chanattr: which channels of a layer does a PyTorch vision network need to see this?

Names are imported on first use, so that `import chanattr` costs nothing and loads no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "layers": "chanattr.network.layers",
    "capture": "chanattr.network.hooks",
    "inject": "chanattr.network.hooks",
    "frozen": "chanattr.network.hooks",
    "dequantised": "chanattr.network.integers",
    "explain": "chanattr.attribution.explain",
    "per_image": "chanattr.attribution.image",
    "per_class": "chanattr.attribution.classes",
    "spatial": "chanattr.attribution.spatial",
    "certify": "chanattr.evidence.certificates",
    "evaluate": "chanattr.evidence.evaluate",
    "evaluate_run": "chanattr.runs.evaluate",
    "pointing_run": "chanattr.runs.pointing",
    "spatial_run": "chanattr.runs.spatial",
    "Evaluation": "chanattr.evidence.evaluation",
    "overlap": "chanattr.evidence.sets",
    "shared": "chanattr.evidence.sets",
    "unique": "chanattr.evidence.sets",
    "cluster": "chanattr.evidence.sets",
    "specificity": "chanattr.evidence.specificity",
    "held_out": "chanattr.evidence.held_out",
    "compare": "chanattr.evidence.compare",
    "curves": "chanattr.evidence.curves",
    "joint_view": "chanattr.evidence.joint",
    "randomisation": "chanattr.evidence.sanity",
    "label_randomisation": "chanattr.evidence.sanity",
    "stability": "chanattr.evidence.stability",
    "robust": "chanattr.evidence.stability",
    "pointing_game": "chanattr.evidence.pointing",
    "pointing_table": "chanattr.evidence.pointing",
    "Pointing": "chanattr.evidence.pointing",
    "saliency": "chanattr.evidence.saliency",
    "pixel_curves": "chanattr.evidence.pixel_curves",
    "PixelCurves": "chanattr.evidence.pixel_curves",
    "ExactSearch": "chanattr.settings",
    "PenaltySearch": "chanattr.settings",
    "Settings": "chanattr.settings",
    "area_grid": "chanattr.settings",
    "paper_areas": "chanattr.settings",
    "ImageAttribution": "chanattr.records",
    "ClassAttribution": "chanattr.records",
    "SpatialAttribution": "chanattr.records",
    "open_run": "chanattr.store",
    "attribute": "chanattr.runs",
    "load_model": "chanattr.network.zoo",
    "image_loader": "chanattr.images",
    "load_annotations": "chanattr.images.annotations",
    "report": "chanattr.pictures.report",
    "explore": "chanattr.pictures.explorer",
    "PictureSettings": "chanattr.pictures.settings",
    "Pixels": "chanattr.pictures.pixels",
    "pixels_of": "chanattr.pictures.pixels",
    "invert": "chanattr.pictures.inversion",
    "Inversion": "chanattr.pictures.records",
    "visualise": "chanattr.pictures.channels",
    "invert_run": "chanattr.runs.pictures",
    "visualise_run": "chanattr.runs.pictures",
    "class_weights": "chanattr.pictures.channels",
    "ChannelImages": "chanattr.pictures.records",
    "examples": "chanattr.pictures.examples",
    "Examples": "chanattr.pictures.records",
    "ChanattrError": "chanattr.errors",
    "InputError": "chanattr.errors",
    "ImageError": "chanattr.errors",
    "LayerError": "chanattr.errors",
    "ModelError": "chanattr.errors",
    "StoreError": "chanattr.errors",
}
_ROOMS = {"figures": "chanattr.pictures.figures"}

__all__ = sorted({*_HOMES, *_ROOMS})
__version__ = "1.0.0rc1"


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(_ROOMS[name])
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'chanattr' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
