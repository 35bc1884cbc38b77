"""`explore`: pickers and slider move map, point and words; names are text; what is missing is said."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import chanattr as ca
from chanattr.store import Run
from tests.pictures.fake_run import HOSTILE, write_run

widgets = pytest.importorskip("ipywidgets", reason="explore needs the extra notebook")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with ca.open_run(write_run(tmp_path / "run.h5", images=8, classes=False)) as opened:
        yield opened


def parts(box: Any) -> tuple[Any, ...]:
    """Layer, image, area, picture, curve and words of an explorer."""
    (layer, image), area, (picture, side) = box.children[0].children, box.children[1], box.children[2].children
    return layer, image, area, picture, *side.children


def marked(curve: Any) -> list[str]:
    """The place of the chosen point."""
    return re.findall(r'cx="([\d.]+)" cy="[\d.]+" r="7"', curve.value)


def test_the_slider_moves_map_point_and_words(run: Run) -> None:
    _, image, area, picture, curve, told = parts(ca.explore(run))
    image.value = run.keys[1]
    smallest = int(run.per_image(run.layers[0], rows=[run.keys[1]]).smallest_area[0])
    assert area.label == f"{smallest} (a*)"
    seen, place = bytes(picture.value), marked(curve)
    assert seen.startswith(b"\x89PNG")
    assert len(place) == 1
    area.value = 0
    assert area.label == "1"
    assert bytes(picture.value) != seen
    assert float(marked(curve)[0]) < float(place[0])
    assert ElementTree.fromstring(curve.value).findall("circle")[0].get("r") == "7"
    assert len(ElementTree.fromstring(curve.value).findall("circle")) == len(area.options)
    assert "area 1: score" in told.value


def test_another_image_and_another_layer(run: Run) -> None:
    layer, image, _, picture, curve, _ = parts(ca.explore(run))
    first = bytes(picture.value), curve.value
    image.value = run.keys[5]
    assert (bytes(picture.value), curve.value) != first
    layer.value = run.layers[1]
    assert image.value == run.keys[5]  # the same image stays
    assert '<text x="' in curve.value


@pytest.mark.parametrize("row", [2, 3])
def test_images_without_a_star(run: Run, row: int) -> None:
    _, image, area, _, curve, told = parts(ca.explore(run))
    image.value = run.keys[row]
    assert "(a*)" not in "".join(label for label, _ in area.options)
    assert {2: "a* not reached", 3: "a* = 0"}[row] in told.value
    assert len(marked(curve)) == 1


def test_what_was_not_run_is_not_offered(run: Run) -> None:
    _, image, *_ = parts(ca.explore(run))
    assert run.keys[4] not in [key for _, key in image.options]


def test_names_are_text(tmp_path: Path) -> None:
    with ca.open_run(write_run(tmp_path / "run.h5", images=8, classes=False)) as run:
        box = ca.explore(run, names=(HOSTILE,) * 6)
        *_, curve, told = parts(box)
        assert "&lt;/script&gt;" in told.value
        assert not re.search(r"<(script|img)", curve.value + told.value)


def test_a_label_without_answers_is_refused(run: Run) -> None:
    with pytest.raises(ca.InputError, match="no sets of channels of images under the label 'nope'"):
        ca.explore(run, "nope")


def test_without_ipywidgets_it_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ca.InputError, match="explore needs ipywidgets, which is not installed"):
        ca.explore(run)


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = "import sys, chanattr, chanattr.store; assert not {'torch', 'plotly', 'ipywidgets'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True)
