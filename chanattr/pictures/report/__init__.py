"""One self-contained HTML page about a run file."""

from chanattr.pictures.report.page import report

__all__ = ["report"]
