"""Masks on the picture on the page: figures as in the file, what the network saw of the picture, and the slider in a browser."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_run
import numpy as np
import pytest
from PIL import Image

from chanattr.codes import masks_of
from chanattr.pictures.figures.slider import seen_part
from chanattr.pictures.report import report
from chanattr.pictures.report.masks import lines_of
from chanattr.records import SpatialAttribution
from chanattr.settings import ExactSearch
from chanattr.store import ImageTable, open_run
from tests.usual import usual

AREAS = (0.05, 0.1, 0.3)


def record(images: int = 4) -> SpatialAttribution:
    """A square of each area around each picture's shape; row 1 is not reached, row 2 needs nothing, the last was not run."""
    down, across = np.indices((32, 32)) / 32
    codes = np.zeros((images, len(AREAS), 32, 32), np.uint8)
    for row in range(images):
        x, y = fake_run.centre(row)
        for place, area in enumerate(AREAS):
            codes[row, place][(abs(across - x) < area**0.5 / 2) & (abs(down - y) < area**0.5 / 2)] = 255
    rng = np.random.default_rng(0)
    by_area = {name: rng.normal(9, 1, (images, len(AREAS))).astype("f4") for name in (
        "scores", "view_scores", "level_set_scores", "greyness", "peak")}
    single = {name: rng.normal(9, 1, images).astype("f4") for name in (
        "probability", "original", "empty", "evaluations", "refine_evaluations")}
    smallest = np.array([0.07, -1, 0, *[0.2] * (images - 4), -2], "f4")
    settings = usual(layer=":input", areas=AREAS, search=ExactSearch(relaxed_steps=80, smoothing=4.0), model="resnet18", fill="",
                        perturbation="blur", levels=8, blur=0.09, preprocessing="resize 160x160, centre crop 80")
    return SpatialAttribution(
        layer=":input", settings=settings, engine="tail", size=(224, 224), keys=fake_run.keys(images), areas=np.array(AREAS, "f4"),
        codes=codes,
        targets=np.arange(images, dtype="i4") % 6, predictions=np.arange(images, dtype="i4") % 5, true_areas=codes.mean((2, 3)) / 255,
        top1=by_area["scores"] > 9, smallest_area=smallest, smallest_code=codes[:, 1] * (smallest > 0)[:, None, None],
        smallest_score=np.where(smallest < 0, np.nan, 9).astype("f4"), smallest_top1=smallest > 0, **by_area, **single)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A page of masks alone, and one of channels and masks."""
    folder = tmp_path_factory.mktemp("masks")
    made, found = [], record()
    for name in ("only", "both"):
        path = folder / f"{name}.h5"
        if name == "both":
            fake_run.write_run(path, images=4, layers=("layer3",), classes=False)
        with open_run(path, "a") as run:
            run.set_attributes(model="resnet18", class_names=fake_run.NAMES, preprocessing="resize 160x160, centre crop 80")
            thumbnails = {key: fake_run.thumbnail(row) for row, key in enumerate(found.keys)}
            run.write(found, images=ImageTable(
                keys=found.keys, sha256=np.zeros((4, 32), "u1"), label=np.full(4, -1, "i4"), target=found.targets,
                prediction=found.predictions, probability=found.probability, thumbnails=thumbnails))
        with open_run(path) as run:
            made.append(report(run, path.with_suffix(".html")))
    return made[0], made[1]


def test_what_a_preprocessing_leaves_of_a_picture() -> None:
    assert seen_part("resize 256x256, centre crop 227, 255*RGB", 100, 300) == pytest.approx([29 / 512] * 2 + [483 / 512] * 2)
    torchvision = "torchvision ResNet18_Weights ImageClassification( crop_size=[224] resize_size=[256] mean=[0.485] )"
    assert seen_part(torchvision, 100, 200) == pytest.approx([0.5 - 7 / 32, 1 / 16, 0.5 + 7 / 32, 15 / 16])
    assert seen_part("resize 280 bicubic, centre crop 224, (255*RGB - 127)", 200, 100) == pytest.approx([0.1, 0.3, 0.9, 0.7])
    assert seen_part("my own", 100, 100) is None


def test_lines_are_in_the_order_of_their_areas() -> None:
    found = record()
    assert [line.name for line in lines_of(found, 0)] == ["5 %", "a*", "10 %", "30 %"]
    assert [line.name for line in lines_of(found, 1)] == ["5 %", "10 %", "30 %"]


@pytest.mark.parametrize("which", [0, 1])
def test_the_page_has_what_the_file_has(pages: tuple[Path, Path], which: int) -> None:
    text, found = pages[which].read_text(encoding="utf-8"), record()
    cards = re.findall(r'<figure class="card masks".*?</figure>', text)
    assert len(cards) == 3  # the last image was not run
    for row, card in enumerate(cards):
        cells = re.findall(r"<tr><th scope=\"row\">(.*?)</th><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td>", card)
        expected = [(line.name, f"{100 * line.area:.1f} %", f"{line.score:.2f}") for line in lines_of(found, row)]
        assert cells == [*expected, ("all", "100 %", f"{found.original[row]:.2f}")]
        strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(re.findall(r'base64,(.*?)"', card)[0]))))
        masks = masks_of(np.stack([line.code for line in lines_of(found, row)]), (64, 64))
        assert np.abs(strip / 255 - masks.reshape(-1, 64)).mean() < 0.01
        assert len(card) < 6000
    assert "a*: 7.0 % of the picture is enough for tench." in cards[0]
    assert "No mask that was tried reaches the level for golden retriever." in cards[1]
    assert "The picture perturbed everywhere reaches the level" in cards[2]
    assert 'data-part="0.2500,0.2500,0.7500,0.7500"' in cards[0]
    assert "<script>alert" not in text
    assert ("Where in the picture must" in text) == (which == 0)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.browser
@pytest.mark.parametrize("which", [0, 1])
def test_the_slider_shows_the_mask_of_its_area(browser: Any, pages: tuple[Path, Path], which: int) -> None:
    said: list[str] = []
    page = browser.new_page(viewport={"width": 400, "height": 900})
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(pages[which].as_uri())
    page.wait_for_selector(".masks[data-at]")
    lines = lines_of(record(), 0)
    for at, line in enumerate(lines):
        page.evaluate("""(at) => { const input = document.querySelector('.masks input'); input.value = at;
                         input.dispatchEvent(new Event('input')); }""", at)
        page.wait_for_selector(f'.masks[data-at="{at}"]')
        assert page.evaluate("document.querySelector('.masks tr[aria-current] th').textContent") == line.name
        drawn = page.evaluate("document.querySelector('.masks canvas').toDataURL('image/png')").partition(",")[2]
        seen = Image.open(io.BytesIO(base64.b64decode(drawn))).convert("RGB")
        middle = Image.fromarray(fake_run.thumbnail(0)).crop((32, 32, 96, 96)).resize(seen.size, Image.Resampling.BILINEAR)
        expected = np.asarray(middle) * (0.18 + 0.82 * masks_of(line.code, seen.size[::-1]))[..., None]
        assert np.abs(np.asarray(seen) - expected).mean() < 8  # JPEG thumbnails, and masks of 64 x 64
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert said == []
    page.close()
