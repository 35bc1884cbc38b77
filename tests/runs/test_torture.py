"""`scripts/torture` for a few kills: nothing told is lost, no row is wrong, and every run that comes to its end is an unbroken one's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_kills_inside_writes_and_at_random_moments() -> None:
    asked = "--kills 10 --inside 3 --workers 0 --ray 0"
    words = [sys.executable, "-W", "ignore", str(ROOT / "scripts" / "torture"), *asked.split()]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"random moments: 10 kills, .* 0 violations, at (\d+) stages", done.stdout)
    assert found, done.stdout
    assert int(found[1]) > 3  # the kills fell at different ones
    assert "inside a write or merge: 3 kills" in done.stdout
