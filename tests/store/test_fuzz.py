"""`scripts/fuzz` for a minute's share of its files: right values or a StoreError, whatever is damaged."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "scripts" / "fuzz"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="reads every file in a forked process")
def test_damaged_files_give_right_values_or_an_error() -> None:
    loader = importlib.machinery.SourceFileLoader("fuzz_script", str(FUZZ))
    spec = importlib.util.spec_from_loader("fuzz_script", loader)
    assert spec is not None
    fuzz = importlib.util.module_from_spec(spec)
    loader.exec_module(fuzz)
    ends, bad = fuzz.fuzz(32, seed=2)
    assert bad == []
    assert ends["StoreError"] > 10
    assert ends["right values"] > 0
