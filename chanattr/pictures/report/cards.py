"""Channels as cards: the pictures and examples that the run file keeps of each, once a layer; and inversions of an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from chanattr.picture_records import NONE, Examples
from chanattr.picture_settings import PictureSettings
from chanattr.pictures.figures import class_channels_data, raster, words
from chanattr.pictures.report.answer import Section
from chanattr.pictures.report.markup import Markup, element, join
from chanattr.records import ClassAttribution
from chanattr.tables import count

if TYPE_CHECKING:
    from chanattr.store import Run

SIDE, EXAMPLE, INVERSION = 100, 56, 100  # pixels on the page
MOST_CHANNELS, MOST_EXAMPLES, MOST_INVERTED = 36, 3, 48  # channels a layer, examples a kind, inverted images a layer: a page stays small
MOST_OF_ONE = 8  # inversions of an image
PICTURES, LEAST = 3_000_000, 500_000  # bytes of such pictures on the whole page, at most; and where the page is too large for them
PAGE = 9_700_000  # bytes of a page that is not too large
FOR_CARDS = 0.6  # of a layer's bytes, at most
FRAME = 300  # bytes that a picture takes beside its own: its words
TOP = 6  # cards of a class
KINDS = ("driven", "needed")


class Kept(NamedTuple):
    """What the page has of a layer: by channel what the script shows, by image its inversions, and by class the pictures of its sets."""

    channels: dict[int, dict[str, Any]]
    inversions: dict[str, Markup]
    left_out: str
    classes: dict[int, Markup]


class Room:
    """Bytes that pictures may still take."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, sources: Iterable[str], spare: int = 0) -> bool:
        """Takes what pictures need, if there is as much beside what is to be spared."""
        size = sum(len(source) + FRAME for source in sources)
        if size > self.left - spare:
            return False
        self.left -= size
        return True


def kept_of(run: Run, section: Section, wanted: Sequence[int], keys: Sequence[str], names: Sequence[str], room: Room,
            targets: Sequence[int]) -> Kept:
    """The pictures that the run keeps of a section's channels and classes and of the page's images.

    Args:
        run: open.
        section: of which layer.
        wanted: channels, those that most sets of the page have first.
        keys: of the page's images, those first that come first where not all have room.
        names: of the classes.
        room: for the section's pictures.
        targets: classes that have a place of their own.
    """
    classes, no_room = _of_classes(run, section, targets, names, room)
    cards, more = ({}, "") if section.record.settings.group else _of_channels(run, section.layer, wanted, names, room)
    inverted, said = _inverted(run, section.layer, keys, names, room)
    return Kept(cards, inverted, no_room + more + said, classes)


def _of_channels(run: Run, layer: str, wanted: Sequence[int], names: Sequence[str],
                 room: Room) -> tuple[dict[int, dict[str, Any]], str]:
    """Cards of the channels that most sets have, by number; and how many have no room, in words."""
    drawn = _drawn(run, layer, [f"channel {channel}" for channel in wanted])
    seen = [(one, {int(channel): row for row, channel in enumerate(one.channels)}) for one in run.examples(layer, wanted)]
    there = [channel for channel in wanted if f"channel {channel}" in drawn or any(channel in rows for _, rows in seen)]
    cards: dict[int, dict[str, Any]] = {}
    spare = room.left - int(room.left * FOR_CARDS)
    for channel in there[:MOST_CHANNELS]:
        card: dict[str, Any] = {}
        if (found := drawn.get(f"channel {channel}")) is not None:
            card |= {"picture": small(found.picture, SIDE), "said": found.said(f"channel {channel}", names)}
        for one, rows in seen:
            if channel in rows and one.kind not in card:
                card[one.kind] = _crops(one, rows[channel])
        sources = [card["picture"]] if "picture" in card else []
        if not room.take(sources + [source for kind in KINDS for source, _ in card.get(kind, ())], spare):
            break
        cards[channel] = card
    more = len(there) - len(cards)
    return cards, f"The file has pictures of {more:,} more channels. " if more else ""


def _of_classes(run: Run, section: Section, targets: Sequence[int], names: Sequence[str], room: Room) -> tuple[dict[int, Markup], str]:
    """By class the pictures made of its weighted set, whole and less another class's; and how many have no room, in words."""
    if section.classes is None or not run.summary()["pictures"].get(section.layer):
        return {}, ""
    every = section.classes.targets.tolist()
    wanted = {f"class {target}": (target, None) for target in targets}
    wanted |= {f"class {target} less class {other}": (target, other) for target in targets for other in every if other != target}
    drawn = _drawn(run, section.layer, list(wanted))
    figures: dict[int, list[Markup]] = {}
    left = 0
    for name, (target, other) in wanted.items():
        if name not in drawn:
            continue
        source, title = small(drawn[name].picture, SIDE), words.class_name(target, names)
        if not room.take([source]):
            left += 1
            continue
        title += "" if other is None else f", less {words.class_name(other, names)}"
        said = drawn[name].said(f"the weighted set of {title}", names)
        image = element("img", src=source, alt=said, title=said, loading="lazy", width=SIDE, height=SIDE)
        figures.setdefault(target, []).append(element("figure", image, element("figcaption", element("b", title), " ", said)))
    head = element("h4", "Made to drive its channels, each by how many of its images need it")
    made = {target: element("div", head, element("div", *ones, class_="inversions of-class"), class_="panel")
            for target, ones in figures.items()}
    return made, f"The file has {left:,} more pictures of classes. " if left else ""


class Drawn(NamedTuple):
    """One picture that was made: how, the mean activation that it reaches (of an inversion the cosine), and what it is named."""

    settings: PictureSettings
    value: float
    prediction: int
    picture: np.ndarray

    def said(self, what: str, names: Sequence[str]) -> str:
        """What it is, how it was made and what came of it, in words."""
        return (f"made to drive {what} ({made_in(self.settings)}): mean activation {words.number(self.value)}; the network names it "
                f"{words.class_name(self.prediction, names)}")


def made_in(settings: PictureSettings) -> str:
    """How a picture was made, in a few words."""
    return f"{count(settings.steps, 'step')}, {settings.parametrisation}"


def _best(made: Iterable[tuple[Any, Drawn]]) -> dict[Any, Drawn]:
    """Of several pictures of one thing that of the most steps, then of the largest value."""
    ranked = sorted(made, key=lambda pair: (pair[1].settings.steps, pair[1].value, pair[1].settings.to_json()))
    return dict(ranked)  # the last of each stays


def _drawn(run: Run, layer: str, names: Sequence[str]) -> dict[str, Drawn]:
    """By name the best picture of a channel or of a weighted set."""
    made = []
    for record in run.channel_pictures(layer, names):
        for row, name in enumerate(record.names):
            at = row, int(record.value[row].argmax())
            made.append((name, Drawn(record.settings, float(record.value[at]), int(record.predictions[at]), record.pictures[at])))
    return _best(made)


def _crops(one: Examples, row: int) -> list[list[str]]:
    """Crops with the words for them."""
    verb = "activation" if one.kind == "driven" else "the score falls by"
    return [[small(one.crops[row, place], EXAMPLE), f"{one.keys[at]}: {verb} {words.number(float(one.value[row, place]))}"]
            for place, at in enumerate(one.rows[row][:MOST_EXAMPLES].tolist()) if at != NONE]


def _inverted(run: Run, layer: str, keys: Sequence[str], names: Sequence[str], room: Room) -> tuple[dict[str, Markup], str]:
    """By image a row of its inversions at a layer, and how many are left out, in words; the script puts the tile's picture before them."""
    made: dict[str, Markup] = {}
    shown = 0
    total = run.summary()["pictures"].get(layer, {}).get("inversions", 0)
    for key in keys if total else ():
        if len(made) == MOST_INVERTED:
            break
        found = _inversions(run, layer, key)[:MOST_OF_ONE]
        sources = [small(one.picture, INVERSION) for _, one in found]
        if not room.take(sources):
            break
        if not found:
            continue
        cards = [_figure("", f"The image {key}", "the image", "")]
        for (what, one), source in zip(found, sources, strict=True):
            named = words.class_name(one.prediction, names)
            cards.append(_figure(source, f"Inversion of {what} of {key}", what,
                                 f"cosine {one.value:.2f}; named {named}; {one.settings.objective}, {made_in(one.settings)}"))
        shown += len(found)
        title = element("h4", "Inversions: what the activations look like")
        made[key] = element("div", title, element("div", *cards, class_="inversions"), class_="panel")
    return made, f"The file has {total - shown:,} more inversions." if total > shown else ""


def _inversions(run: Run, layer: str, key: str) -> list[tuple[str, Drawn]]:
    """Of an image the best inversion of every mask, the largest first, with what was inverted in words."""
    made = []
    for record in run.inversions(layer, [key]):
        for row, mask in enumerate(record.masks):
            one = Drawn(record.settings, float(record.cosine[row]), int(record.predictions[row]), record.pictures[row])
            made.append(((int(record.areas[row]), bool((mask == 1).all()), mask.tobytes()), one))
    best = sorted(_best(made).items(), key=lambda pair: -pair[0][0])
    return [("the whole activation" if whole else f"{area:,} channels", one) for (area, whole, _), one in best]


def _figure(source: str, alt: str, title: str, below: str) -> Markup:
    image = element("img", src=source or "data:,", alt=alt, loading="lazy", width=INVERSION, height=INVERSION, data_tile=not source)
    return element("figure", image, element("figcaption", element("b", title), " ", below))


def small(picture: np.ndarray, side: int) -> str:
    """A picture u1 [H, W, C] as a data URI, its longer side at most `side`."""
    whole = Image.fromarray(np.ascontiguousarray(picture[..., :3] if picture.shape[-1] >= 3 else picture[..., 0])).convert("RGB")
    whole.thumbnail((side, side), Image.Resampling.LANCZOS)
    return raster.data_uri(np.asarray(whole), quality=72)


def card_list(channels: Iterable[int], kept: Kept, below: Mapping[int, str] | None = None, one: str = "channel") -> Markup | None:
    """A place for a card a channel (or group): those with a picture, or all where there are words for them; None without any."""
    shown = [channel for channel in channels if below is not None or channel in kept.channels]
    if not shown:
        return None
    items = [element("li", element("b", f"{one} {channel}"), element("span", below[channel], class_="quiet") if below else None,
                     data_channel=channel if one == "channel" else None) for channel in shown]
    return element("ul", *items, class_="cards")


def class_cards(classes: ClassAttribution, place: int, kept: Kept) -> Markup | None:
    """The channels that most of a class's images need, with how often, and how much more often than the other classes' images."""
    rates = classes.mean_mask[place]
    top = class_channels_data(classes, int(classes.targets[place]), TOP).channels.tolist()
    if not top:
        return None
    others = [row for row in range(len(classes)) if row != place and classes.images[row]]
    unit = classes.settings.unit
    below = {channel: f"inclusion {rates[channel]:.0%}" for channel in top}
    if others:
        elsewhere = classes.mean_mask[others].mean(0)
        for channel in top:
            below[channel] += f", elsewhere {elsewhere[channel]:.0%}: specificity {rates[channel] - elsewhere[channel]:+.2f}"
    cards = card_list(top, kept, below, unit[:-1])
    if unit != "channels":
        return cards
    note = element("p", "Inclusion: share of the class's a* sets that hold the channel. Specificity: that, less the mean over the other "
                   "classes.", class_="note")
    return join([cards, note])
