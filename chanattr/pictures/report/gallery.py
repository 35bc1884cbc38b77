"""Images on the page: which ones, their tiles with a filter, and for each its view, channels and inversions at every layer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chanattr.errors import StoreError
from chanattr.pictures.figures import raster, words
from chanattr.pictures.figures.slider import Part, seen_part
from chanattr.pictures.report.answer import Section, encode
from chanattr.pictures.report.cards import Kept, card_list
from chanattr.pictures.report.layer import channel_list
from chanattr.pictures.report.markup import Markup, element, join
from chanattr.pictures.report.masks import held, mask_cards
from chanattr.pictures.report.view import view
from chanattr.records import NOT_REACHED, NOT_RUN, ImageAttribution, SpatialAttribution
from chanattr.tables import count, short

if TYPE_CHECKING:
    from chanattr.store import Run

MOST_CARDS = 12  # of an image


class Shown(NamedTuple):
    """An image of the page; `picture` is None where the file keeps none."""

    key: str
    label: int
    picture: np.ndarray | None


def choose(run: Run, labels: np.ndarray, most: int) -> list[Shown]:
    """At most `most` images, the same number from every class as far as it goes; those with a thumbnail, or any where none has one."""
    order = by_turns(labels)
    pictured = itertools.islice((shown for row in order if (shown := _shown(run, row, labels)).picture is not None), most)
    chosen = list(pictured) or [Shown(run.keys[row], int(labels[row]), None) for row in order[:most]]
    row_of = {key: row for row, key in enumerate(run.keys)}
    return sorted(chosen, key=lambda s: (s.label < 0, s.label, row_of[s.key]))


def by_turns(labels: np.ndarray) -> list[int]:
    """Rows so that every class has its first image before any has its second."""
    turns: dict[int, int] = {}
    ranked = []
    for row, label in enumerate(labels.tolist()):
        turns[label] = turns.get(label, -1) + 1
        ranked.append((turns[label], row))
    return [row for _, row in sorted(ranked)]


def _shown(run: Run, row: int, labels: np.ndarray) -> Shown:
    key = run.keys[row]
    try:
        return Shown(key, int(labels[row]), run.thumbnail(key))
    except StoreError:  # none was kept
        return Shown(key, int(labels[row]), None)


Drawn = Sequence[tuple[int, Section, ImageAttribution]]


def drawn_of(run: Run, sections: Sequence[Section], shown: Sequence[Shown]) -> Drawn:
    """The answers for the page's images, by number of the section."""
    return [(number, section, run.per_image(section.layer, section.label, rows=[s.key for s in shown]))
            for number, section in enumerate(sections) if section.found is not None]


def gallery(run: Run, drawn: Drawn, shown: Sequence[Shown], names: Sequence[str], kept: Sequence[Kept]) -> Markup:
    """The tiles, and beside them the chosen image."""
    masks, parts = held(run, [one.key for one in shown]), _parts(run, drawn, shown)
    cards = [mask_cards(masks, row, part, names) for row, part in enumerate(parts)]
    if not shown or not (drawn or any(cards)):
        none = element("p", "No images were searched, only classes.", class_="note")
        return element("section", element("h2", "Images"), none, id="images")
    viewers = [element("div", *[_article(row, shown, section, _at_each_layer(row, shown, section, drawn),
                                         *_answer(found, row, shown[row], names, section, cards[row], kept[number], parts[row]))
                                for row in range(len(shown))], data_section=number) for number, section, found in drawn]
    if not drawn:
        missing = element("p", "This image was not run.", class_="answer")
        viewers = [element("div", *[_article(row, shown, None, card or missing) for row, card in enumerate(cards)], data_section=0)]
    return element("section", element("h2", "Images"), element("p", _left_out(len(run.keys), shown), class_="note"),
                   element("a", "Skip to the chosen image", href="#chosen", class_="skip", data_skip="chosen"),
                   element("div", element("div", _filter(drawn), _tiles(shown, names, drawn, masks), class_="choose"),
                           element("div", *viewers, class_="viewer", id="chosen", tabindex=-1),
                           class_="images"), id="images")


def _filter(drawn: Drawn) -> Markup | None:
    """What hides tiles: words of a name or class, and how it went."""
    if not drawn:
        return None
    options = [("", "all images"), ("kept", "● a* keeps the class"), ("lost", "○ a* does not"), ("none", "– level not reached"),
               ("wrong", "network is wrong")]
    choice = element("select", *[element("option", words_, value=value) for value, words_ in options], aria_label="Show which images")
    search = element("input", type="search", placeholder="name or class", aria_label="Filter images by name or class")
    return element("form", search, choice, element("span", class_="quiet", role="status"), class_="filter", role="search")


def _parts(run: Run, drawn: Drawn, shown: Sequence[Shown]) -> list[Part | None]:
    """Of each image the part that the network saw, as its preprocessing says."""
    said = str(run.attributes.get("preprocessing") or next((found.settings.preprocessing for _, _, found in drawn), ""))
    return [None if one.picture is None else seen_part(said, one.picture.shape[0], one.picture.shape[1]) for one in shown]


def _left_out(count: int, shown: Sequence[Shown]) -> str:
    without = "" if shown[0].picture is not None else " The file keeps no thumbnails, so energy is drawn on plain grey."
    if len(shown) == count:
        return f"All {count:,} images of the run. Choose one.{without}"
    which = "taken in turn from every class" if any(s.label >= 0 for s in shown) else "the first of the file"
    kind = " that have a thumbnail" if shown[0].picture is not None else ""
    return f"{len(shown):,} of {count:,} images{kind}, {which}; the other {count - len(shown):,} are in the file. Choose one.{without}"


def _tiles(shown: Sequence[Shown], names: Sequence[str], drawn: Drawn, masks: Sequence[tuple[str, SpatialAttribution]]) -> Markup:
    groups = []
    for label, rows in itertools.groupby(range(len(shown)), key=lambda r: shown[r].label):
        name = words.class_name(label, names) if label >= 0 else "no label" if any(s.label >= 0 for s in shown) else "images"
        tiles = [_tile(shown[row], row, name, drawn, masks) for row in rows]
        groups.append(element("div", element("h3", name), element("div", *tiles, class_="tiles"), class_="group"))
    return element("nav", *groups, class_="gallery", aria_label="Images; arrow keys move among them")


def _tile(one: Shown, row: int, name: str, drawn: Drawn, masks: Sequence[tuple[str, SpatialAttribution]]) -> Markup:
    picture = (element("img", src=raster.data_uri(one.picture, quality=74), alt=f"{one.key}, {name}", loading="lazy")
               if one.picture is not None else element("span", short(one.key.rsplit("/", 1)[-1], 22), class_="blank"))
    marks = [element("span", _badge(found, row), class_="badge", data_section=number, data_how=_how(found, row, one.label))
             for number, _, found in drawn] or [element("span", _badge(found, row), class_="badge") for _, found in masks[:1]]
    return element("a", picture, *marks, href=_link(one.key, drawn[0][1] if drawn else None), class_="tile", data_image=row,
                   data_link=f"image/{encode(one.key)}", data_words=f"{one.key} {name}".lower(), title=one.key,
                   tabindex=-1 if row else None)


def _badge(found: ImageAttribution | SpatialAttribution, row: int) -> str:
    """a* of an image in a few letters."""
    area = float(found.smallest_area[row])
    said = f"{area:,.0f}" if isinstance(found, ImageAttribution) else f"{100 * area:.3g} %"
    special: dict[float, str] = {NOT_RUN: "not run", NOT_REACHED: "–"}
    return special.get(area, f"{'●' if found.smallest_top1[row] else '○'} {said}")


def _how(found: ImageAttribution, row: int, label: int) -> str:
    """How it went with an image, for the filter."""
    area = int(found.smallest_area[row])
    how = ["none"] if area == NOT_REACHED else [] if area == NOT_RUN else ["kept" if found.smallest_top1[row] else "lost"]
    return " ".join(how + (["wrong"] if area != NOT_RUN and 0 <= label != int(found.predictions[row]) else []))


def _article(row: int, shown: Sequence[Shown], section: Section | None, *body: Markup | None) -> Markup:
    """An image: its head with the way to its neighbours, and what is said of it."""
    near = [(place, word) for place, word in ((row - 1, "← previous"), (row + 1, "next →")) if 0 <= place < len(shown)]
    steps = element("p", *[element("a", word, href=_link(shown[place].key, section)) for place, word in near], class_="steps")
    head = element("div", element("h3", shown[row].key, tabindex=-1), steps, class_="head")
    return element("article", head, *body, data_image=row, hidden=True)


def _at_each_layer(row: int, shown: Sequence[Shown], section: Section, drawn: Drawn) -> Markup | None:
    """The way to the same image elsewhere."""
    others = [element("a", f"{other.title}: {words.smallest(int(record.smallest_area[row]))}", href=_link(shown[row].key, other),
                      aria_current="true" if other is section else None) for _, other, record in drawn]
    return element("nav", *others, class_="at", aria_label="The same image at each layer") if len(others) > 1 else None


def _answer(found: ImageAttribution, row: int, one: Shown, names: Sequence[str], section: Section, cards: Markup | None, kept: Kept,
            part: Part | None) -> list[Markup | None]:
    """What a layer's answer for an image comes to."""
    if found.smallest_area[row] == NOT_RUN:
        return [element("p", f"This image was not run at {section.title}.", class_="answer"), cards]
    return [element("p", _verdict(found, row, names), class_="answer"), element("p", _facts(found, row, one, names)),
            view(found, row, f"{one.key} at {section.title}", part, one.picture is not None), cards,
            _channels(found, found.channels(row).tolist(), kept), kept.inversions.get(one.key)]


def _channels(found: ImageAttribution, channels: list[int], kept: Kept) -> Markup | None:
    """The a* set: cards of those that the file has pictures of, and all numbers."""
    if not channels:
        return None
    pictured = [channel for channel in kept.channels if channel in set(channels)][:MOST_CARDS]  # those that most sets have
    cards = card_list(sorted(pictured), kept)
    title = element("h4", f"What channels of its a* set look for ({len(pictured)} of {len(channels):,})")
    shown = element("div", title, cards, class_="panel") if cards else None
    return join([shown, channel_list(f"The {count(len(channels), found.settings.unit[:-1])} of its a* set", channels)])


def _link(key: str, section: Section | None) -> str:
    """The deep link to an image, at a layer if there is one."""
    return f"#image/{encode(key)}" + (f"/{section.link}" if section else "")


def _verdict(found: ImageAttribution, row: int, names: Sequence[str]) -> str:
    area, channels = int(found.smallest_area[row]), found.masks.shape[2]
    target = words.class_name(int(found.targets[row]), names)
    if area < 0:
        return f"No set of {found.settings.unit} reaches the level for {target}."
    still = f"the network still says {target}" if found.smallest_top1[row] else f"the network no longer says {target}"
    does = "with them dropped" if found.settings.game == "delete" else "with these alone"
    return f"a* = {area:,} of {channels:,} {found.settings.unit}: {does} {still}."


def _facts(found: ImageAttribution, row: int, one: Shown, names: Sequence[str]) -> str:
    said = words.class_name(int(found.predictions[row]), names)
    target = words.class_name(int(found.targets[row]), names)
    label = f" It is labelled {words.class_name(one.label, names)}." if one.label >= 0 else ""
    chance = f" (probability of the target {found.probability[row]:.2f})" if np.isfinite(found.probability[row]) else ""
    smallest, original, empty = (float(values[row]) for values in (found.smallest_score, found.original, found.empty))
    score = f" {words.number(smallest)} with the a* set," if np.isfinite(smallest) else ""
    return (f"The whole network says {said}; the target is {target}{chance}.{label} Score:{score} {words.number(original)} with every "
            f"channel, {words.number(empty)} with none.")
