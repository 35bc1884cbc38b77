"""Pages of run files, and what stands on them."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path

from chanattr.pictures.report import report
from chanattr.store import open_run


class Tags(html.parser.HTMLParser):
    """Counts elements, and keeps texts by element and what asks for something outside the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.texts: dict[str, list[str]] = {}
        self.outside: list[str] = []
        self.handlers: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self._open.append(tag)
        self.outside += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith(("data:", "#"))]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)


def page_of(run_file: Path, **options: int) -> str:
    with open_run(run_file) as run:
        return report(run, run_file.with_suffix(".html"), **options).read_text(encoding="utf-8")


def figures_in(text: str) -> list[dict]:
    return [json.loads(m) for m in re.findall(r'<script type="application/json">(.*?)</script>', text)]


def plots_in(text: str) -> list[dict]:
    return [one for one in figures_in(text) if "layout" in one]


def views_in(text: str) -> list[dict]:
    return [one for one in figures_in(text) if "score" in one]
