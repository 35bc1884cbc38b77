"""The page in a browser: everything is drawn, links open their places, nothing leaves the page."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_run
import numpy as np
import pytest
from fake_pictures import write_pictures

from chanattr.pictures.report import report
from chanattr.store import open_run

pytestmark = pytest.mark.browser
SHOWN = "document.querySelectorAll('.plot .main-svg:first-child').length"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = fake_run.write_run(tmp_path_factory.mktemp("page") / "made.h5", images=12)
    with open_run(path, "a") as run:
        write_pictures(run, "layer3", run.keys)
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


CANVAS = "document.querySelector('.viewer [data-section=\"0\"] article:not([hidden]) .view canvas')"


def painted(page: Any) -> str:
    """The picture that the view shows, once it is there; as a data URI."""
    until(page, f"{CANVAS}.dataset.painted === {CANVAS}.closest('.view').dataset.at")
    return str(page.evaluate(f"{CANVAS}.toDataURL()"))


def test_everything_in_view_is_drawn_and_nothing_else(opened: Any) -> None:
    page = opened()
    scroll_through(page)
    assert page.evaluate("[...document.querySelectorAll('.plot')].filter(p => p.offsetParent).length") == 4
    assert page.evaluate(SHOWN) == 4
    assert page.locator(".layer:visible .barlayer .point").count() > 10
    assert page.locator(".layer:visible .heatmaplayer image").count() == 1
    assert painted(page) != page.evaluate("document.createElement('canvas').toDataURL()")
    areas = page.evaluate("JSON.parse(document.querySelector('.viewer article:not([hidden]) .view script').textContent).area.length")
    assert page.locator(".viewer article:visible .curve circle.point").count() == areas > 10
    assert page.locator(".three svg").count() == 3
    assert page.locator(".three .dot").count() == 2


def test_choosing_an_image_changes_the_picture(opened: Any) -> None:
    page = opened()
    key, before = page.locator(".viewer h3:visible").inner_text(), painted(page)
    page.locator("a[data-image]").nth(5).click()
    until(page, f"document.querySelector('.viewer article:not([hidden]) h3').textContent !== {key!r}")
    assert painted(page) != before
    assert page.locator("a[data-image][aria-current]").count() == 1
    page.go_back()
    until(page, f"document.querySelector('.viewer article:not([hidden]) h3').textContent === {key!r}")
    assert painted(page) == before


def test_the_slider_moves_the_map_and_the_point(opened: Any) -> None:
    page = opened()
    slider, here = page.locator(".viewer article:visible .view input"), page.locator(".viewer article:visible .curve .here")
    pictures, places, words = [painted(page)], [here.get_attribute("cx")], [page.locator(".now:visible").inner_text()]
    assert "a*" in words[0]
    slider.focus()
    for key in ("Home", "ArrowRight", "End"):
        page.keyboard.press(key)
        pictures.append(painted(page))
        places.append(here.get_attribute("cx"))
        words.append(page.locator(".now:visible").inner_text())
    assert len(set(pictures)) == len(set(places)) == len(set(words)) == 4
    assert words[1].startswith("1 of 256: score ")
    assert slider.get_attribute("aria-valuetext") == words[3]
    assert here.count() == 1


def test_the_map_lies_on_the_part_that_the_network_saw(opened: Any) -> None:
    page = opened()
    painted(page)
    # "resize 256, centre crop 224" of a square picture: an eighth of it, half on each side, is beyond the crop and shows no glow
    grey = f"""(() => {{ const c = {CANVAS}, d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        const colour = (x, y) => {{ const i = 4 * (Math.floor(y * c.height) * c.width + Math.floor(x * c.width));
            return Math.max(d[i], d[i + 1], d[i + 2]) - Math.min(d[i], d[i + 1], d[i + 2]); }};
        let out = 0, inside = 0;
        for (let n = 0; n < 200; n++) {{
            const a = n / 200;
            out = Math.max(out, colour(a, 0.03), colour(0.03, a), colour(a, 0.97), colour(0.97, a));
            inside = Math.max(inside, colour(a, 0.3), colour(a, 0.5), colour(a, 0.6)); }}
        return [out, inside]; }})()"""
    out, inside = page.evaluate(grey)
    assert out <= 3
    assert inside > 60


def test_layers_are_tabs_of_an_image(opened: Any) -> None:
    page = opened()
    key = page.locator(".viewer h3:visible").inner_text()
    page.locator(".viewer article:visible .at a").nth(1).click()
    until(page, "document.querySelector('.tabs [aria-current]').textContent === 'layer4.1.conv2'")
    assert page.locator(".viewer h3:visible").inner_text() == key


def test_tiles_are_filtered(opened: Any) -> None:
    page = opened()
    total = page.locator(".tile:visible").count()
    page.locator(".filter input").fill("umbrella")
    assert 0 < page.locator(".tile:visible").count() < total
    assert page.locator(".group:visible h3").all_inner_texts() == ["umbrella"]
    page.locator(".filter input").fill("")
    page.locator(".filter select").select_option("none")
    assert page.locator(".badge:visible").all_inner_texts() == ["–"]
    assert page.locator(".filter [role=status]").inner_text() == "1 shown"
    page.locator(".tabs a").nth(1).click()  # how it went is of the layer in view
    until(page, "document.querySelector('.layer[data-section=\"1\"]').hidden === false")
    assert page.locator(".tile:visible").count() == 1
    page.locator(".filter select").select_option("")
    assert page.locator(".tile:visible").count() == total


def test_channels_and_inversions_are_shown_where_the_file_has_them(opened: Any) -> None:
    page = opened()
    cards = page.locator(".viewer article:visible .cards li")
    assert cards.count() > 0
    assert cards.first.locator("> img").get_attribute("alt").startswith("made to drive channel ")
    assert cards.first.locator(".crops img").count() in (4, 6)
    assert page.locator(".viewer article:visible .inversions img").count() == 3
    assert page.locator(".layer:visible article:visible .cards li").count() == 6
    assert page.locator(".layer:visible article:visible .cards li img").count() > 0
    assert page.evaluate("[...document.images].filter(i => i.offsetParent && i.complete && !i.naturalWidth).length") == 0
    assert page.evaluate("[...document.images].filter(i => i.offsetParent && !i.alt).length") == 0


def test_the_matrix_of_classes_leads_to_them(opened: Any) -> None:
    page = opened()
    leaves = page.locator(".layer:visible a[data-leaf]")
    assert leaves.count() == 6
    target = leaves.nth(3).get_attribute("data-leaf")
    leaves.nth(3).locator("rect:not(.own):not(.hit)").first.click()
    until(page, f"location.hash.startsWith('#class/{target}/')")
    page.locator(f"article[data-class='{target}']:visible").wait_for()  # the page hears of its new address a moment later
    assert page.locator("article[data-class]:visible").get_attribute("data-class") == target
    leaves.nth(1).focus()
    page.keyboard.press("Enter")
    until(page, f"location.hash.startsWith('#class/{leaves.nth(1).get_attribute('data-leaf')}/')")


def test_a_class_stays_chosen_at_the_other_layers(opened: Any) -> None:
    page = opened("#class/4/layer3")
    page.locator(".tabs a").nth(1).click()
    until(page, "document.querySelector('.layer[data-section=\"1\"]').hidden === false")
    assert page.locator("article[data-class]:visible").get_attribute("data-class") == "4"


def test_scores_that_are_nothing_beside_the_others_are_zero(browser: Any, tmp_path: Path) -> None:
    found = fake_run.image_record(images=12)
    nothing = np.full(12, 4.77e-7, "f4")
    path = tmp_path / "zero.h5"
    with open_run(path, "a") as run:
        fake_run.write(run, dataclasses.replace(found, empty=nothing, scores=np.where(found.areas < 2, nothing[:, None], found.scores)),
                       np.zeros(12, "i4"))
    with open_run(path) as run:
        page = browser.new_page()
        page.goto(report(run, path.with_suffix(".html")).as_uri())
    page.wait_for_selector("html[data-ready]")
    page.locator(".viewer article:visible .view input").fill("0")
    drawn = page.locator(".viewer article:visible .look").inner_text()
    assert "e-7" not in drawn
    assert "score 0," in drawn
    page.close()


def test_figures_have_the_colours_of_the_page(opened: Any) -> None:
    page = opened(scheme="dark")
    scroll_through(page)
    colours = """[...document.querySelectorAll('.plot')].filter(p => p.offsetParent).map(p => [
        getComputedStyle(p.querySelector('.main-svg')).backgroundColor, getComputedStyle(p.querySelector('.xtick text')).fill])"""
    card = "getComputedStyle(document.querySelector('.pair .card')).backgroundColor"
    assert {tuple(one) for one in page.evaluate(colours)} == {("rgba(0, 0, 0, 0)", "rgb(229, 233, 238)")}
    assert page.evaluate(card) == "rgb(27, 33, 40)"
    page.evaluate("document.querySelectorAll('.main-svg').forEach(drawing => { drawing.dataset.dark = ''; })")
    page.emulate_media(color_scheme="light")
    until(page, "!document.querySelector('.main-svg[data-dark]')")  # the page hears of it a moment later
    scroll_through(page)
    assert {tuple(one) for one in page.evaluate(colours)} == {("rgba(0, 0, 0, 0)", "rgb(31, 42, 55)")}
    assert page.evaluate(card) == "rgb(255, 255, 255)"


def test_tab_order_goes_down_the_page(opened: Any) -> None:
    page = opened()
    seen: list[tuple[str, float]] = []
    for _ in range(120):
        page.keyboard.press("Tab")
        where = page.evaluate("""(() => {
            const e = document.activeElement, within = (name) => Boolean(e.closest(name));
            const places = { viewer: '.viewer', tiles: '.choose', tabs: '.tabs', layer: 'main', start: 'body' };
            const place = Object.keys(places).find((name) => within(places[name]));
            return [e.tagName, place,
                    Boolean(e.offsetParent || e.ownerSVGElement || e.tagName === 'svg')]; })()""")
        if where[0] == "BODY":
            break
        assert where[2], where
        seen.append(where[1])
    order = [place for number, place in enumerate(seen) if number == 0 or place != seen[number - 1]]
    assert order[:5] == ["start", "tabs", "layer", "tiles", "viewer"]


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


def test_a_class_name_that_closes_scripts_stays_text(opened: Any) -> None:
    page, name = opened("#class/5/layer3"), fake_run.NAMES[5]
    scroll_through(page)
    assert page.locator("article[data-class]:visible h4").inner_text().startswith(name)
    assert page.locator(".group:visible h3").last.inner_text() == name
    assert page.locator(".layer:visible .plot text", has_text="</script>").count() > 0
    assert page.evaluate("[...document.scripts].filter(script => !script.type).length") == 3
    held = page.evaluate("document.getElementById('channels-0').textContent")
    assert name in json.dumps(json.loads(held))
    assert "</script>" not in held  # no reader of HTML may end the data there


@pytest.mark.parametrize("place", ["#image/none/layer3", "#class/99/layer3", "#layer/none", "#image", "#%E0%A4%A", "#x/y/z"])
def test_a_link_to_nothing_is_told(opened: Any, place: str) -> None:
    page = opened(place)
    assert "does not hold" in page.locator("#notice").inner_text()
    assert page.locator(".layer:visible").count() == 1


@pytest.mark.parametrize("place", ["#images", "#evidence"])
def test_a_link_to_a_part_of_the_page_tells_nothing(opened: Any, place: str) -> None:
    page = opened(place)
    assert page.locator(place).count() == 1
    assert page.locator("#notice").inner_text() == ""


def test_layers_switch_all_of_the_page(opened: Any) -> None:
    page = opened()
    page.locator(".tabs a").nth(1).click()
    until(page, "document.querySelector('.layer[data-section=\"1\"]').hidden === false")
    assert page.locator(".layer:visible h2").inner_text() == "Layer layer4.1.conv2"
    assert page.locator(".badge:visible").count() == page.locator("a[data-image]").count()
    assert page.locator("a[data-image]").first.get_attribute("href").endswith("/layer4.1.conv2")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 900, 1600])
def test_no_overflow(opened: Any, width: int, scheme: str) -> None:
    page = opened(width=width, scheme=scheme)
    scroll_through(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    inner = "e => e.offsetParent && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === 'visible'"
    assert page.evaluate(f"[...document.querySelectorAll('figure, .panel, .cards li, .look > div')].filter({inner}).length") == 0
    wider = "p => p.offsetParent && p.querySelector('.main-svg').clientWidth > p.clientWidth + 1"
    assert page.evaluate(f"[...document.querySelectorAll('.plot')].filter({wider}).length") == 0


def test_figures_follow_the_window(opened: Any) -> None:
    page = opened()
    scroll_through(page)
    page.set_viewport_size({"width": 500, "height": 900})
    until(page, "document.querySelector('.viewer article:not([hidden]) .curve svg').clientWidth < 470")
    until(page, "document.querySelector('.layer:not([hidden]) .plot .main-svg').clientWidth < 490")
    assert page.evaluate("document.documentElement.scrollWidth") <= 500


def test_keyboard_reaches_and_opens(opened: Any) -> None:
    page = opened()
    page.locator("a[data-image]").nth(2).focus()
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('a[data-image]')[2].hasAttribute('aria-current')")
    until(page, "document.activeElement.tagName === 'H3'")  # the head of the image that was chosen
    assert page.evaluate("document.activeElement.textContent === document.querySelectorAll('a[data-image]')[2].title")
    for _ in range(9):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "range":
            break
    assert page.evaluate("document.activeElement.closest('.view') !== null")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_tiles_are_one_stop_and_arrows_move_among_them(opened: Any) -> None:
    page = opened()
    assert page.locator(".tile[tabindex='0']").count() == 1
    at = "Number(document.activeElement.dataset.image)"
    page.locator(".tile[tabindex='0']").focus()
    seen = [page.evaluate(at)]
    for key in ("ArrowRight", "ArrowLeft", "End", "ArrowRight", "ArrowUp", "Home", "ArrowDown"):
        page.keyboard.press(key)
        seen.append(page.evaluate(at))
    last = page.locator(".tile").count() - 1
    assert seen[:5] == [0, 1, 0, last, last]
    assert 0 < seen[5] < last
    assert seen[6] == 0 < seen[7]
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.viewer') !== null")
    page.locator(".filter input").fill("umbrella")
    assert page.locator(".tile[tabindex='0']:visible").count() == 1


def test_a_link_skips_to_the_chosen_image(opened: Any) -> None:
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").first.bounding_box()["width"] > 100
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.tagName") == "H3"
    assert page.evaluate("location.hash") == ""
    assert page.locator(".viewer h3:visible").bounding_box()["y"] < 900
