"""A question for tests that do not mind most of it."""

from __future__ import annotations

from typing import Any

from chanattr.settings import Settings


def usual(**given: Any) -> Settings:
    """`Settings` with what is given (layer, areas and search at least), and the rest as `per_image` asks it of a nameless model."""
    return Settings(**{"reward": "logit", "game": "preserve", "fill": "zero", "fill_sha256": "", "level": "original", "refine": True,
                       "folds": 0, "seed": 0, "score": "", "model": "", "model_sha256": "", "preprocessing": ""} | given)
