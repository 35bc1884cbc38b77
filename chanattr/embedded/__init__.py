"""The model and the pictures that ship with the package, each with its licence beside it; `scripts/make_embedded` made them."""

from __future__ import annotations

from pathlib import Path


def path(name: str) -> Path:
    """Where a shipped file lies."""
    return Path(__file__).parent / name
