"""One layer on the page: its histogram, what tells its classes apart, the table of classes, and each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from chanattr import tables
from chanattr.pictures import figures
from chanattr.pictures.figures import words
from chanattr.pictures.report.answer import Section, asked, right_answers, sentence, spread
from chanattr.pictures.report.cards import Kept, class_cards
from chanattr.pictures.report.likeness import likeness
from chanattr.pictures.report.markup import Markup, element, join, number, script_json, scrolled, table
from chanattr.pictures.report.plots import Plot, pair
from chanattr.records import ClassAttribution, ImageAttribution

CLASSES_IN_MATRIX = 40
TOP = 5


class ClassRow(NamedTuple):
    """One line of the table of classes; `searched`, `held_out` and `original` are mean scores, the first two of `compared` channels."""

    place: int
    target: int
    name: str
    images: int
    own: int
    median: float
    joint: int
    top: tuple[int, ...]
    kept: int
    right: int
    searched: float
    held_out: float
    original: float


def compared_area(classes: ClassAttribution) -> int | None:
    """The area at which joint sets are compared: the one searched that is nearest, by ratio, to the classes' median a*."""
    if not len(classes.areas):
        return None
    reached = classes.smallest_area[classes.smallest_area > 0]
    middle = np.median(reached) if len(reached) else classes.areas[-1]
    return int(classes.areas[np.abs(np.log(classes.areas / middle)).argmin()])


def class_rows(section: Section, labels: np.ndarray) -> list[ClassRow]:
    """The table of classes; labels are i4 [N], -1 where unknown."""
    classes = section.classes
    if classes is None:
        return []
    area = compared_area(classes)
    place = None if area is None else classes.areas.tolist().index(area)
    rows = []
    for row, target in enumerate(classes.targets.tolist()):
        median, kept, right = _images_of(section.found, labels, target)
        searched, held_out = (float("nan") if place is None else float(scores[row, place])
                              for scores in (classes.joint_scores, classes.held_out_scores))
        top = tuple(figures.class_channels_data(classes, target, TOP).channels.tolist())
        rows.append(ClassRow(row, target, classes.names[row] or f"class {target}", int(classes.rows[row]), int(classes.images[row]), median,
                             int(classes.smallest_area[row]), top, kept, right, searched, held_out, float(classes.original[row])))
    return rows


def _images_of(found: ImageAttribution | None, labels: np.ndarray, target: int) -> tuple[float, int, int]:
    """Of a class's images: the median a*, the right answers that a* channels keep, and all right answers."""
    if found is None:
        return float("nan"), 0, 0
    mine = (labels == target) & (found.targets == target)
    reached = found.smallest_area[mine & (found.smallest_area >= 0)]
    right = right_answers(found, labels) & mine
    return float(np.median(reached)) if len(reached) else float("nan"), int((right & found.smallest_top1).sum()), int(right.sum())


def layer_section(section: Section, number: int, labels: np.ndarray, names: Sequence[str], first: Section, drawn: Mapping[int, Markup],
                  kept: Kept) -> Markup:
    """A layer's part of the page; `drawn` is what `class_figures` made for it."""
    rows = class_rows(section, labels)
    title = element("h2", "Layer ", element("code", section.title))
    classes = element("p", "No classes were searched at this layer: they need images in class folders.", class_="note")
    if section.classes is not None and rows:
        classes = _classes(section, section.classes, rows, drawn, labels, kept)
    return element("section", title, element("p", spread(section), class_="answer"), _differences(section, first, names),
                   _overview(section, labels, names), classes, element("p", kept.left_out, class_="note") if kept.left_out else None,
                   script_json(kept.channels, id=f"channels-{number}") if kept.channels else None, data_section=number, class_="layer")


def class_figures(section: Section, labels: np.ndarray, most: int) -> dict[int, Markup]:
    """By target what is drawn of the classes that have a place of their own: the `most` with the most images."""
    rows = class_rows(section, labels)
    detailed = sorted(sorted(range(len(rows)), key=lambda row: -rows[row].images)[:most])
    return {} if section.classes is None else {rows[r].target: _drawn(section.classes, rows[r]) for r in detailed}


def _differences(section: Section, first: Section, names: Sequence[str]) -> Markup | None:
    """What was asked otherwise than at the page's first layer."""
    usual = dict(asked(first, names))
    other = [(name, value) for name, value in asked(section, names) if usual.get(name) != value]
    if not other:
        return None
    return element("p", "Asked otherwise here: ", "; ".join(f"{name}: {value}" for name, value in other), ".", class_="note")


def _overview(section: Section, labels: np.ndarray, names: Sequence[str]) -> Markup:
    drawn, note, unit = [], None, section.record.settings.unit
    if section.found is not None:
        asked_so = np.where(labels == section.found.targets, labels, -1)
        known = asked_so if (asked_so >= 0).any() else None
        drawn.append(Plot(figures.smallest_areas(section.found, names, known), f"How many {unit} an image needs",
                          "a* of the images" + ("; below, of those asked about their own class" if known is not None else ""),
                          f"Histogram of a* over the images at {section.title}. {sentence(section, labels)}"))
    classes = section.classes
    if classes is not None and len(classes) > 1 and classes.mean_mask.any():
        chosen = np.sort(np.argsort(-classes.rows, kind="stable")[:CLASSES_IN_MATRIX])
        if len(chosen) < len(classes):
            note = element("p", f"The matrix shows the {len(chosen)} classes with the most images, of {len(classes):,}.", class_="note")
            classes = classes[chosen]
        drawn.append(Plot(figures.class_matrix(classes), "What tells the classes apart",
                          f"share of a class's a* sets that hold the {unit[:-1]}",
                          f"Heat map of the {unit} whose share of a* sets differs most between {len(classes)} classes at {section.title}",
                          narrowest=480))
    return join([pair(*drawn), note])


def _classes(section: Section, classes: ClassAttribution, rows: Sequence[ClassRow], drawn: Mapping[int, Markup], labels: np.ndarray,
             kept: Kept) -> Markup:
    left_out = len(rows) - len(drawn)
    note = element("p", f"{left_out:,} of {len(rows):,} classes are in the table only; the {len(drawn)} with the most images have "
                   "figures. All are in the file.", class_="note") if left_out else None
    articles = [_class_article(section, classes, row, drawn[row.target], kept) for row in rows if row.target in drawn]
    linked, area = set(drawn), compared_area(classes)
    return join([element("h3", "Classes"), _table(section, area, rows, linked, labels), note, likeness(section, area, linked), *articles])


def _table(section: Section, area: int | None, rows: Sequence[ClassRow], linked: set[int], labels: np.ndarray) -> Markup:
    delete, unit = section.record.settings.game == "delete", section.record.settings.unit
    heads = [("class", "Choose one to see its channels and its joint sets"),
             ("images", "labelled so, which share the joint set; 1 of 4: a* and the top channels are of one, for the others have none or "
              "were asked about another class"),
             ("a*", "median over the images"), ("joint a*", "a* of one set for all images of the class"),
             (f"top {unit}", "in most of the images' a* sets"),
             ("right answers gone" if delete else "right answers kept", "of those of the whole network, by each image's own a* channels")]
    if area is not None:
        heads.append((f"{area:,} joint {unit}", "mean score of the joint set on the images it was searched on"))
        heads.append(("held out", f"mean score of {area:,} joint {unit} on images that they were not searched on"))
        heads.append((f"all {unit}", f"mean score with every {unit[:-1]}"))
    known = set(labels.tolist()) if section.found is not None else set()
    body = [_table_row(section, row, linked=row.target in linked, compared=area is not None, delete=delete, known=row.target in known)
            for row in rows]
    return scrolled(table(heads, body), f"Classes at {section.title}")


def _table_row(section: Section, row: ClassRow, *, linked: bool, compared: bool, delete: bool, known: bool) -> Markup:
    name = element("a", row.name, href=f"#class/{row.target}/{section.link}", data_class=row.target) if linked else row.name
    right = row.right - row.kept if delete else row.kept
    cells = [element("th", name, scope="row"), number(tables.some_of(row.own, row.images)),
             number(f"{row.median:,g}" if row.median == row.median else "–"),
             number(tables.area(row.joint)), element("td", " ".join(map(str, row.top)) or "–", class_="channels"),
             number(f"{right} of {row.right}" if known else "–")]
    if compared:
        held = words.number(row.held_out) if np.isfinite(row.held_out) else "–"
        cells += [number(words.number(row.searched)), number(held), number(words.number(row.original))]
    return element("tr", *cells, data_class=row.target)


def _drawn(classes: ClassAttribution, row: ClassRow) -> Markup:
    """The figures of a class, and its joint a* set."""
    name, unit, set_ = row.name, classes.settings.unit, np.flatnonzero(classes.smallest_mask[row.place]).tolist()
    channels = Plot(figures.class_channels(classes, row.target), f"{unit.capitalize()} its images need",
                    f"from {tables.count(int(classes.images[row.place]), 'image')} with this target and an a*",
                    f"{unit.capitalize()} in most a* sets of {name}: {', '.join(map(str, row.top))}")
    curves = Plot(figures.class_curves(classes, row.target), "Joint sets", f"mean score of a set over {tables.count(row.images, 'image')}",
                  f"Mean score of the joint sets of {name} against their area. {_joint_words(classes, row)}")
    listed = channel_list(f"The {tables.count(len(set_), unit[:-1])} of the joint a* set", set_) if set_ else None
    return join([pair(channels, curves), listed])


def _joint_words(classes: ClassAttribution, row: ClassRow) -> str:
    """What the joint sets of a class come to."""
    unit, joint = classes.settings.unit, classes.smallest_mask[row.place]
    text = f"One joint set for {tables.count(row.images, 'image')}: {words.smallest(row.joint)}."
    if joint.any() and row.top:
        text += f" {int(joint[list(row.top)].sum())} of the {len(row.top)} top {unit} are in it."
    if np.isfinite(row.searched):
        held = f", {words.number(row.held_out)} on images held out" if np.isfinite(row.held_out) else ""
        text += (f" {compared_area(classes):,} joint {unit} score {words.number(row.searched)} on the images searched{held}; all "
                 f"{unit} score {words.number(row.original)}.")
    return text


def _class_article(section: Section, classes: ClassAttribution, row: ClassRow, drawn: Markup, kept: Kept) -> Markup:
    title = element("h4", f"{row.name} ", element("span", f"class {row.target}", class_="quiet"))
    return element("article", title, element("p", _joint_words(classes, row)), kept.classes.get(row.target),
                   class_cards(classes, row.place, kept), drawn, data_class=row.target, hidden=True,
                   id=f"class/{row.target}/{section.link}")


def channel_list(title: str, channels: Sequence[int]) -> Markup:
    """Channel numbers, folded away."""
    return element("details", element("summary", title), element("p", ", ".join(map(str, channels)), class_="channels"))
