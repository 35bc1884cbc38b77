"""Long runs: batches in, rows out, into a run file; resumed by key; the one room that knows network and store."""

from chanattr.runs.attribute import RunSummary, attribute

__all__ = ["RunSummary", "attribute"]
