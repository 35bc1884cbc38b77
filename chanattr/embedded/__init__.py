"""The model, the names of its classes and the pictures that ship, each with its licence beside it; `scripts/make_embedded` made them."""

from __future__ import annotations

from pathlib import Path


def path(name: str) -> Path:
    """Where a shipped file lies."""
    return Path(__file__).parent / name
