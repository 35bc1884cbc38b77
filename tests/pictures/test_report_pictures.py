"""Pictures of channels, classes and inversions on the page: which are shown, how they are labelled, and how many have room."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import fake_run
import numpy as np
import pytest
from fake_pictures import texture, write_pictures
from read_page import page_of

from chanattr.picture_records import ChannelImages, Inversion
from chanattr.picture_settings import CHANNEL, INVERSION, PictureSettings
from chanattr.pictures.report import layer as layers
from chanattr.store import open_run


def test_pictures_of_channels_come_once_a_layer_and_only_where_there_are(tmp_path: Path) -> None:
    path = fake_run.write_run(tmp_path / "pictures.h5", images=12)
    with open_run(path, "a") as run:
        channels = write_pictures(run, "layer3", run.keys)
    text = page_of(path)
    [held] = [json.loads(m) for m in re.findall(r'<script type="application/json" id="channels-\d">(.*?)</script>', text)]
    assert set(held) == {str(channel) for channel in channels}
    assert all(set(card) == {"picture", "said", "driven", "needed"} for card in held.values())
    assert [len(held[str(channel)]["driven"]) for channel in channels] == [3, 2, 3, 2, 3]
    assert 'id="channels-0"' in text
    assert 'id="channels-1"' not in text
    with open_run(path) as run:
        inverted = len(run.inversions("layer3")[0])
    assert text.count("Inversion of ") == inverted
    assert text.count("alt=\"The image ") == inverted / 2
    assert text.count("the network names it &lt;b&gt;monarch") == 0  # in data alone


def test_of_pictures_made_in_several_ways_the_one_of_the_most_steps_is_shown(tmp_path: Path) -> None:
    path = fake_run.write_run(tmp_path / "steps.h5", images=12, layers=("layer3",))
    with open_run(path, "a") as run:
        found, values = run.per_image("layer3"), {1: 9.0, 12: 0.5, 3: 2.0}
        top = int(found.smallest_mask.sum(0).argmax())
        for steps, value in (*values.items(), (12, 0.75)):
            ways = {"steps": steps, "seed": int(value == 0.75)}
            numbers = np.full((1, 1), value, "f4")
            run.write_pictures(ChannelImages(
                layer="layer3", settings=PictureSettings(**CHANNEL | ways), names=(f"channel {top}",),
                weights=np.eye(256, dtype="f4")[[top]], pictures=texture(steps, 1, 1), value=numbers, predictions=np.zeros((1, 1), "i4"),
                probability=numbers), {"model_sha256": ""})
            run.write_pictures(Inversion(
                layer="layer3", settings=PictureSettings(**INVERSION | ways), keys=found.keys[:1], masks=np.ones((1, 256), "f4"),
                pictures=texture(steps, 1), originals=texture(50, 1), value=numbers[0], cosine=numbers[0], kept_cosine=numbers[0],
                targets=found.targets[:1], predictions=found.targets[:1], probability=numbers[0]), {"model_sha256": ""})
    text = page_of(path)
    [held] = [json.loads(m) for m in re.findall(r'<script type="application/json" id="channels-0">(.*?)</script>', text)]
    assert held[str(top)]["said"] == f"made to drive channel {top} (12 steps, fourier): mean activation 0.75; the network names it tench"
    assert re.findall("Inversion of the whole activation.*?</b> (.*?)</figcaption>", text) == [
        "cosine 0.75; named tench; dot, 12 steps, fourier"]
    assert "The file has 3 more inversions." in text


def test_a_class_begins_with_the_pictures_of_its_set(tmp_path: Path) -> None:
    path = fake_run.write_run(tmp_path / "classes.h5", images=12, layers=("layer3",))
    names = ("class 3", "class 3 less class 1", "class 77")
    with open_run(path, "a") as run:
        weights, numbers = run.per_class("layer3").mean_mask[[3, 1, 2]], np.full((3, 1), 0.5, "f4")
        run.write_pictures(ChannelImages(
            layer="layer3", settings=PictureSettings(**CHANNEL | {"steps": 8}), names=names, weights=weights,
            pictures=np.stack([texture(n, 1) for n in range(3)]), value=numbers, predictions=np.zeros((3, 1), "i4"),
            probability=numbers), {"model_sha256": ""})
    text = page_of(path)
    [article] = re.findall(r'<article data-class="3".*?</article>', text)
    assert article.index("of-class") < article.index('class="pair"')
    assert re.findall('alt="(made to drive the weighted set[^"]*)"', text) == re.findall('alt="(made[^"]*)"', article) == [
        f"made to drive the weighted set of {which} (8 steps, fourier): mean activation 0.50; the network names it tench"
        for which in ("espresso", "espresso, less golden retriever")]
    assert "of-class" not in page_of(path, classes=1).partition("<main")[2]


def test_pictures_beyond_the_page_are_left_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chanattr.pictures.report.cards.MOST_CHANNELS", 2)
    monkeypatch.setattr("chanattr.pictures.report.cards.MOST_INVERTED", 1)
    path = fake_run.write_run(tmp_path / "many.h5", images=12, layers=("layer3",))
    with open_run(path, "a") as run:
        write_pictures(run, "layer3", run.keys)
    text = page_of(path)
    assert text.count("alt=\"The image ") == 1
    assert "The file has pictures of 3 more channels" in text
    assert "The file has 2 more inversions." in text


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The layers whose figures of classes pages asked for; a layer's are drawn for the first page alone, for on all they are the same."""
    asked: list[str] = []
    drawn: dict[str, dict[int, layers.Markup]] = {}

    def once(section: layers.Section, *given: Any) -> dict[int, layers.Markup]:
        asked.append(section.title)
        return drawn[section.title] if section.title in drawn else drawn.setdefault(section.title, layers.class_figures(section, *given))

    monkeypatch.setattr("chanattr.pictures.report.page.class_figures", once)
    return asked


def test_a_page_that_would_be_too_large_has_fewer_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    path = fake_run.write_run(tmp_path / "large.h5", images=12)
    bare = len(page_of(path).encode())
    with open_run(path, "a") as run:
        for layer in ("layer3", "layer4.1.conv2"):
            write_pictures(run, layer, run.keys, inverted=12)
    whole = len(page_of(path).encode())
    asked.clear()
    monkeypatch.setattr("chanattr.pictures.report.cards.LEAST", 0)
    for share in (0.2, 0.5, 0.8):
        room = bare + int(share * (whole - bare))
        monkeypatch.setattr("chanattr.pictures.report.cards.PAGE", room)
        text = page_of(path)
        assert (bare + room) / 2 < len(text.encode()) < room + 0.1 * (whole - bare)
        assert "more inversions" in text
    assert len(asked) == 3 * 2  # figures are not drawn again
    monkeypatch.setattr("chanattr.pictures.report.cards.PAGE", 0)
    assert len(page_of(path).encode()) < bare + 1000
    monkeypatch.setattr("chanattr.pictures.report.cards.LEAST", (whole - bare) // 2)  # pictures do not all give way to the rest
    assert len(page_of(path).encode()) > bare + (whole - bare) // 4
    monkeypatch.setattr("chanattr.pictures.report.cards.LEAST", whole)
    assert len(page_of(path).encode()) == whole


@pytest.mark.usefixtures("asked")
def test_pictures_of_all_layers_together_have_room_for_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_run.write_run(tmp_path / "room.h5", images=12)
    bare = len(page_of(path).encode())
    with open_run(path, "a") as run:
        for layer in ("layer3", "layer4.1.conv2"):
            write_pictures(run, layer, run.keys, inverted=12)
    whole = page_of(path)
    room = (len(whole.encode()) - bare) // 2
    monkeypatch.setattr("chanattr.pictures.report.cards.PICTURES", room)
    text = page_of(path)
    assert len(text.encode()) - bare < 1.1 * room
    stores = re.findall(r'<script type="application/json" id="channels-\d">(.*?)</script>', text)
    made = [len(json.loads(store)) for store in stores]
    assert all(0 < count < 5 for count in made)
    assert re.findall(r"The file has pictures of (\d) more channels", text) == [str(5 - count) for count in made]
    left, before = (sum(map(int, re.findall(r"The file has (\d+) more inversions", one))) for one in (text, whole))
    assert left > before  # of the image that is not on the page
    assert text.count("Inversion of ") + left == whole.count("Inversion of ") + before
