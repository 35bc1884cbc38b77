"""The page in a browser: everything is drawn, links open their places, nothing leaves the page."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_run
import pytest

from chanattr.pictures.report import report
from chanattr.store import open_run

pytestmark = pytest.mark.browser
SHOWN = "document.querySelectorAll('.plot .main-svg:first-child').length"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = fake_run.write_run(tmp_path_factory.mktemp("page") / "made.h5", images=12)
    with open_run(path) as run:
        return report(run, Path(path).with_suffix(".html")).as_uri()


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Any]:
    """Opens the page at a place and a width; at the end nothing may have gone wrong or left the page."""
    said: list[str] = []
    asked: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True)

    def at(place: str = "", width: int = 1200, scheme: str = "light") -> Any:
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address + place)
        page.wait_for_selector("html[data-ready]")
        return page

    yield at
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def until(page: Any, expression: str) -> None:
    """Waits for a condition; Playwright's own waiting evaluates text, which the page's policy forbids."""
    end = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


def scroll_through(page: Any) -> None:
    """Brings every part of the page into view and waits for its figures; one that a busy browser passed by comes into view again."""
    until(page, """(async () => {
        const missing = () => [...document.querySelectorAll('.plot')].filter(p => p.offsetParent && !p.querySelector('.main-svg'));
        for (const plot of missing()) { plot.scrollIntoView(); await new Promise(done => setTimeout(done, 60)); }
        return missing().length === 0;
    })()""")


def test_everything_in_view_is_drawn_and_nothing_else(opened: Any) -> None:
    page = opened()
    scroll_through(page)
    assert page.evaluate("[...document.querySelectorAll('.plot')].filter(p => p.offsetParent).length") == 7
    assert page.evaluate(SHOWN) == 7
    assert page.locator(".layer:visible .barlayer .point").count() > 10
    assert page.locator(".layer:visible .heatmaplayer image").count() == 1
    assert page.locator(".viewer article:visible .plot image").count() == 2 + 8  # picture and grid of the energy map, panels


def test_choosing_an_image_changes_the_picture(opened: Any) -> None:
    page = opened()
    source = "document.querySelector('.viewer [data-section=\"0\"] article:not([hidden]) .plot image').href.baseVal"
    scroll_through(page)
    key, before = page.locator(".viewer h3:visible").inner_text(), page.evaluate(source)
    page.locator("a[data-image]").nth(5).click()
    scroll_through(page)
    assert page.locator(".viewer h3:visible").inner_text() != key
    assert page.evaluate(source) != before
    assert page.locator("a[data-image][aria-current]").count() == 1
    page.go_back()
    until(page, f"document.querySelector('.viewer article:not([hidden]) h3').textContent === {key!r}")


def test_links_open_their_places(opened: Any) -> None:
    page = opened("#class/4/layer4.1.conv2")
    assert page.locator(".tabs [aria-current]").inner_text() == "layer4.1.conv2"
    assert page.locator("article[data-class]:visible h4").inner_text().startswith("<b>monarch & friends</b>")
    key = page.evaluate("document.querySelectorAll('a[data-image]')[3].title")
    page = opened(page.evaluate("'#' + document.querySelectorAll('a[data-image]')[3].dataset.link + '/layer4.1.conv2'"))
    assert page.locator(".viewer h3:visible").inner_text() == key
    assert page.locator(".viewer h3:visible").bounding_box()["y"] < 900
    assert opened(f"#image/{key}/layer3").locator(".viewer h3:visible").inner_text() == key
    hostile = page.evaluate("[...document.querySelectorAll('a[data-image]')].find(a => a.title.includes('alert')).getAttribute('href')")
    assert opened(hostile).locator(".viewer h3:visible").inner_text() == fake_run.HOSTILE


@pytest.mark.parametrize("place", ["#image/none/layer3", "#class/99/layer3", "#layer/none", "#image", "#%E0%A4%A", "#x/y/z"])
def test_a_link_to_nothing_is_told(opened: Any, place: str) -> None:
    page = opened(place)
    assert "does not hold" in page.locator("#notice").inner_text()
    assert page.locator(".layer:visible").count() == 1


def test_layers_switch_all_of_the_page(opened: Any) -> None:
    page = opened()
    page.locator(".tabs a").nth(1).click()
    until(page, "document.querySelector('.layer[data-section=\"1\"]').hidden === false")
    assert page.locator(".layer:visible h2").inner_text() == "Layer layer4.1.conv2"
    assert page.locator(".badge:visible").count() == page.locator("a[data-image]").count()
    assert page.locator("a[data-image]").first.get_attribute("href").endswith("/layer4.1.conv2")


@pytest.mark.parametrize("width", [400, 900, 1600])
def test_no_overflow(opened: Any, width: int) -> None:
    page = opened(width=width, scheme="dark")
    scroll_through(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wider = "p => p.offsetParent && p.querySelector('.main-svg').clientWidth > p.clientWidth + 1"
    assert page.evaluate(f"[...document.querySelectorAll('.plot')].filter({wider}).length") == 0


def test_figures_follow_the_window(opened: Any) -> None:
    page = opened()
    scroll_through(page)
    page.set_viewport_size({"width": 500, "height": 900})
    until(page, "document.querySelector('.layer:not([hidden]) .plot .main-svg').clientWidth < 490")
    assert page.evaluate("document.documentElement.scrollWidth") <= 500


def test_keyboard_reaches_and_opens(opened: Any) -> None:
    page = opened()
    page.locator("a[data-image]").nth(2).focus()
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('a[data-image]')[2].hasAttribute('aria-current')")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.evaluate("document.activeElement.dataset.image") == "2"
