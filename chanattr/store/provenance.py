"""When and by what answers were written: kept in the file, under no digest of its content."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone

import h5py
import numpy as np

import chanattr

LIBRARIES = {"chanattr": chanattr.__version__, "h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version, "numpy": np.__version__}


def now() -> str:
    """This second in UTC, as ISO 8601 has it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions() -> str:
    """Of what writes here, as JSON; torch's where it is at work, for the store never loads it."""
    torch = sys.modules.get("torch")
    return json.dumps(LIBRARIES | ({"torch": str(torch.__version__)} if torch is not None else {}), sort_keys=True)
