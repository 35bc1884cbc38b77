"""Channels as cards: the pictures and examples that the run file keeps of each, once a layer; and inversions of an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from chanattr.pictures.figures import raster, words
from chanattr.pictures.records import NONE, ChannelImages, Examples
from chanattr.pictures.report.answer import Section
from chanattr.pictures.report.markup import Markup, element, join, script_json
from chanattr.pictures.settings import PictureSettings
from chanattr.records import ClassAttribution

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
KINDS = {"driven": "driven most by", "needed": "needed most by"}


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

    def part(self, share: float) -> Room:
        """A room of its own within this one; what was taken of it is to be taken off here too."""
        return Room(int(self.left * share))

    def take(self, sources: Iterable[str]) -> bool:
        """Takes what pictures need, if there is as much left."""
        size = sum(len(source) + FRAME for source in sources)
        if size > self.left:
            return False
        self.left -= size
        return True


def kept_of(run: Run, section: Section, wanted: Mapping[int, float], keys: Sequence[str], names: Sequence[str], room: Room,
            targets: Sequence[int] = ()) -> Kept:
    """The pictures that the run keeps of a section's channels and classes and of the page's images.

    Args:
        run: open.
        section: of which layer.
        wanted: how often a channel is in a set of the page, by its number.
        keys: of the page's images, those first that come first where not all have room.
        names: of the classes.
        room: for the section's pictures.
        targets: classes that have a place of their own.
    """
    classes, no_room = _of_classes(run, section, targets, names, room)
    if section.record.settings.group:
        inverted, said = _inverted(run, section.layer, keys, names, room)
        return Kept({}, inverted, no_room + said, classes)
    order = [channel for channel, _ in sorted(wanted.items(), key=lambda pair: (-pair[1], pair[0]))]
    made: dict[int, dict[str, Any]] = {}
    drawn = _best(run.channel_pictures(section.layer, [f"channel {channel}" for channel in order]))
    seen = run.examples(section.layer, order)
    at = [(one, {int(channel): row for row, channel in enumerate(one.channels)}) for one in seen]
    there = [channel for channel in order if f"channel {channel}" in drawn or any(channel in rows for _, rows in at)]
    for_cards = room.part(FOR_CARDS)
    whole = for_cards.left
    for channel in there[:MOST_CHANNELS]:
        card: dict[str, Any] = {}
        if (found := drawn.get(f"channel {channel}")) is not None:
            card["picture"] = small(found.picture, SIDE)
            card["said"] = found.said(f"channel {channel}", names)
        for one, rows in at:
            if channel in rows and one.kind in KINDS and one.kind not in card:
                card[one.kind] = _crops(one, rows[channel])
        if not for_cards.take([*([card["picture"]] if "picture" in card else []),
                               *(source for kind in KINDS for source, _ in card.get(kind, ()))]):
            break
        made[channel] = card
    room.left -= whole - for_cards.left
    inverted, said = _inverted(run, section.layer, keys, names, room)
    more = len(there) - len(made)
    return Kept(made, inverted, no_room + (f"The file has pictures of {more:,} more channels. " if more else "") + said, classes)


def _of_classes(run: Run, section: Section, targets: Sequence[int], names: Sequence[str], room: Room) -> tuple[dict[int, Markup], str]:
    """By class the pictures made of its weighted set, whole and less another class's; and how many have no room, in words."""
    if section.classes is None or not run.summary()["pictures"].get(section.layer):
        return {}, ""
    every = section.classes.targets.tolist()
    wanted = {f"class {target}": (target, None) for target in targets}
    wanted |= {f"class {target} less class {other}": (target, other) for target in targets for other in every if other != target}
    drawn = _best(run.channel_pictures(section.layer, list(wanted)))
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
    """One picture made of a channel or of a weighted set, and how."""

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
    return f"{settings.steps:,} step{'' if settings.steps == 1 else 's'}, {settings.parametrisation}"


def _best(records: Iterable[ChannelImages]) -> dict[str, Drawn]:
    """By name the picture of the most steps; of several such the one of the largest value."""
    found: dict[str, Drawn] = {}
    for record in records:
        for row, name in enumerate(record.names):
            best = int(record.value[row].argmax())
            one = Drawn(record.settings, float(record.value[row, best]), int(record.predictions[row, best]), record.pictures[row, best])
            if name not in found or _rank(one) > _rank(found[name]):
                found[name] = one
    return found


def _rank(one: Drawn) -> tuple[int, float, str]:
    return one.settings.steps or 0, one.value, one.settings.to_json()


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
        sources = [small(one.picture, INVERSION) for one in found]
        if not room.take(sources):
            break
        cards: list[Markup] = []
        for one, source in zip(found, sources, strict=True):
            what = "the whole activation" if one.whole else f"{one.area:,} channels"
            if not cards:
                cards.append(_figure("", f"The image {key}", "the image", ""))
            cards.append(_figure(source, f"Inversion of {what} of {key}", what,
                                 f"cosine {one.cosine:.2f}; named {words.class_name(one.prediction, names)}; {one.settings.objective}, "
                                 f"{made_in(one.settings)}"))
            shown += 1
        if cards:
            title = element("h4", "Inversions: what the activations look like")
            made[key] = element("div", title, element("div", *cards, class_="inversions"), class_="panel")
    return made, f"The file has {total - shown:,} more inversions." if total > shown else ""


class Inverted(NamedTuple):
    """One inversion of an image, and how it was made."""

    whole: bool
    area: int
    cosine: float
    prediction: int
    settings: PictureSettings
    picture: np.ndarray


def _inversions(run: Run, layer: str, key: str) -> list[Inverted]:
    """Of an image the inversions of every mask, the largest first: for each that of the most steps, then of the largest cosine."""
    best: dict[bytes, Inverted] = {}
    for record in run.inversions(layer, [key]):
        for row in range(len(record)):
            mask = record.masks[row]
            one = Inverted(bool((mask == 1).all()), int(record.areas[row]), float(record.cosine[row]), int(record.predictions[row]),
                           record.settings, record.pictures[row])
            other = best.get(mask.tobytes())
            if other is None or (one.settings.steps or 0, one.cosine) > (other.settings.steps or 0, other.cosine):
                best[mask.tobytes()] = one
    return sorted(best.values(), key=lambda one: -one.area)


def _figure(source: str, alt: str, title: str, below: str) -> Markup:
    image = element("img", src=source or "data:,", alt=alt, loading="lazy", width=INVERSION, height=INVERSION, data_tile=not source)
    return element("figure", image, element("figcaption", element("b", title), " ", below))


def small(picture: np.ndarray, side: int) -> str:
    """A picture u1 [H, W, C] as a data URI, its longer side at most `side`."""
    whole = Image.fromarray(np.ascontiguousarray(picture[..., :3] if picture.shape[-1] >= 3 else picture[..., 0])).convert("RGB")
    whole.thumbnail((side, side), Image.Resampling.LANCZOS)
    return raster.data_uri(np.asarray(whole), quality=72)


def store(kept: Kept, number: int) -> Markup | None:
    """What the script takes cards from."""
    return script_json(kept.channels, id=f"channels-{number}") if kept.channels else None


def card_list(channels: Iterable[int], kept: Kept, below: dict[int, str] | None = None) -> Markup | None:
    """A place for a card a channel: those with a picture, or all where there are words for them; None without any."""
    shown = [channel for channel in channels if below is not None or channel in kept.channels]
    if not shown:
        return None
    said = below or {}
    items = [element("li", element("b", f"channel {channel}"), element("span", said[channel], class_="quiet") if channel in said else None,
                     data_channel=channel) for channel in shown]
    return element("ul", *items, class_="cards")


def class_cards(classes: ClassAttribution, target: int, kept: Kept) -> Markup | None:
    """The channels that most of a class's images need, with how often, and how much more often than the other classes' images."""
    place = classes.targets.tolist().index(target)
    rates = classes.mean_mask[place]
    top = [int(channel) for channel in np.argsort(-rates, kind="stable")[:TOP] if rates[channel] > 0]
    if not top or not classes.images[place]:
        return None
    others = [row for row in range(len(classes)) if row != place and classes.images[row]]
    elsewhere = classes.mean_mask[others].mean(0) if others else None
    unit = classes.settings.unit
    below = {}
    for channel in top:
        rate = f"inclusion {rates[channel]:.0%}"
        if elsewhere is not None:
            rate += f", elsewhere {elsewhere[channel]:.0%}: specificity {rates[channel] - elsewhere[channel]:+.2f}"
        below[channel] = rate
    if unit != "channels":
        items = [element("li", element("b", f"{unit[:-1]} {channel}"), element("span", below[channel], class_="quiet")) for channel in top]
        return element("ul", *items, class_="cards")
    note = element("p", "Inclusion: share of the class's a* sets that hold the channel. Specificity: that, less the mean over the other "
                   "classes.", class_="note")
    return join([card_list(top, kept, below), note])
