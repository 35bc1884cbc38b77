"""For mkdocs: a page in the place of each notebook's, so that links to them are checked and lead somewhere; scripts/docs writes over it."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{name}</title>
<p>This notebook was not made with the site: <code>scripts/docs</code> makes it, and its text is <code>notebooks/{name}.py</code>.</p>
</html>
"""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """The files of the site, and a page for each notebook."""
    for text in sorted(NOTEBOOKS.glob("*.py")):
        files.append(File.generated(config, f"notebooks/{text.stem}.html", content=PAGE.format(name=text.stem)))
    return files
