"""Long runs: batches in, rows out, into a run file; resumed by key; it knows network and store."""

from chanattr.runs.attribute import attribute
from chanattr.runs.images import RunSummary

__all__ = ["RunSummary", "attribute"]
