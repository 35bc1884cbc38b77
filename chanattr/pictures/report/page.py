"""`report`: everything on one page, written in one step."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chanattr import __version__, tables
from chanattr.arguments import STEPS, check_kind, check_number, path_of
from chanattr.errors import StoreError
from chanattr.pictures.figures import theme, words
from chanattr.pictures.report import cards, start
from chanattr.pictures.report.answer import Section, asked, sections, sentence
from chanattr.pictures.report.cards import Kept, Room, kept_of
from chanattr.pictures.report.gallery import Drawn, Shown, by_turns, choose, drawn_of, gallery
from chanattr.pictures.report.layer import class_figures, layer_section
from chanattr.pictures.report.markup import Markup, element, join, script_json
from chanattr.pictures.report.masks import under
from chanattr.pictures.report.plots import shared
from chanattr.settings import LABEL

if TYPE_CHECKING:
    from chanattr.store import Run

MASK_GAMES = {"preserve": "the picture seen through the mask", "delete": "the picture perturbed under the mask",
              "dual": "seen through the mask, less perturbed under it"}
POLICY = ("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
          "base-uri 'none'; form-action 'none'")


def report(run: Run, path: str | os.PathLike[str], *, images: int = 200, classes: int = 60) -> Path:
    """Writes one self-contained HTML page about a run: it needs no network and no other file.

    The page is 1.6 MB plus about 7 kB an image, 3 to 4.5 kB an image and layer (of 5 and of 13 areas), and 6 to 7 kB a class and layer, and
    at most 3 MB of the pictures that the file keeps of channels and inversions: less, down to 0.5 MB, where it would exceed about 9.7 MB.

    Args:
        run: an open run.
        path: of the page; an existing file is replaced in one step.
        images: at most this many images are on the page, taken in turn from every class; what is left out is said there.
        classes: at most this many classes, those with the most images, have figures of their own; the table holds all.

    Returns:
        The path of the page.

    Raises:
        StoreError: the page cannot be written there, the run holds no answers, or its file is damaged.
        InputError: fewer than 1 image or class, or a path in place of the run.

    Examples:
        >>> import chanattr as ca
        >>> with ca.open_run("run.h5") as run:  # doctest: +SKIP
        ...     ca.report(run, "run.html")
    """
    images, classes = (int(check_number(f"{name}={value!r}", value, STEPS, f"leave it out for {usual}"))
                       for name, value, usual in (("images", images, 200), ("classes", classes, 60)))
    from chanattr.store import Run  # not before it is needed: a page's parts are drawn without h5py

    check_kind("run", run, Run, "open it with ca.open_run")
    target = path_of("path", path)
    _check_place(target, run.path)
    write_text(target, html_of(run, images, classes))
    return target


def _check_place(target: Path, run_file: Path) -> None:
    """Refuses what cannot be the page before the work is done."""
    from chanattr.store import is_of_run

    if is_of_run(target, run_file):
        raise StoreError(f"the page {target} would overwrite the run file {run_file}, or its lock or parts; expected another name; choose "
                         f"one such as {run_file.with_suffix('.html').name}")
    if target.is_dir() or not target.parent.is_dir():
        what = "is a folder" if target.is_dir() else "lies in a folder that does not exist"
        raise StoreError(f"the page {target} cannot be written: it {what}; expected a file name in a folder that exists; "
                         "choose another place")


def html_of(run: Run, images: int, classes: int) -> str:
    """The page as text; one that is too large is made again with fewer pictures of channels and inversions."""
    found = sections(run)
    if not found and not run.spatial_layers:
        raise StoreError(f"{run.path} holds no answers yet; expected a run with at least one layer; attribute some images first")
    names = class_names(run)
    labels = np.asarray(run.images().label)
    shown = choose(run, labels, images)
    drawn = drawn_of(run, found, shown)
    figures = [class_figures(section, labels, classes) for section in found]
    kept, taken = _kept(run, found, drawn, shown, names, figures, cards.PICTURES)
    text = _html(run, found, labels, names, drawn, shown, figures, kept)
    over = len(text.encode(errors="replace")) - cards.PAGE
    if over <= 0 or taken <= cards.LEAST:
        return text
    kept, _ = _kept(run, found, drawn, shown, names, figures, max(cards.LEAST, taken - over))
    return _html(run, found, labels, names, drawn, shown, figures, kept)


def _html(run: Run, found: Sequence[Section], labels: np.ndarray, names: Sequence[str], drawn: Drawn, shown: Sequence[Shown],
          figures: Sequence[Mapping[int, Markup]], kept: Sequence[Kept]) -> str:
    """The page around what was drawn of classes and what is kept of pictures, a section each."""
    layers = [layer_section(section, number, labels, names, found[0], figures[number], kept[number])
              for number, section in enumerate(found)]
    links = [section.link for section in found] or [""]
    skip = element("a", "Skip to the chosen image", href="#chosen", class_="skip", data_skip="chosen")
    body = join([skip if shown and (drawn or run.spatial_layers) else None, _header(run, found, labels, names),
                 start.figures(run, found, labels), _reading(run, found, shown),
                 start.evidence(run, found) if found else None, _tabs(found) if found else None,
                 element("main", *layers, gallery(run, drawn, shown, names, kept)), _footer(run),
                 element("p", id="notice", role="status"), script_json(shared() | {"sections": links, "glow": theme.GLOW}, id="shared"),
                 _script("plotly-cartesian.min.js"), _script("view.js"), _script("page.js")])
    return f"<!doctype html>\n{element('html', _head(run), element('body', body), lang='en')}\n"


def _kept(run: Run, found: Sequence[Section], drawn: Drawn, shown: Sequence[Shown], names: Sequence[str],
          figures: Sequence[Mapping[int, Markup]], room: int) -> tuple[list[Kept], int]:
    """What the run keeps of pictures, a section each, of the channels that most sets of the page have; and the bytes they take."""
    records = {number: record for number, _, record in drawn}
    made = []
    keys = [shown[row].key for row in by_turns(np.array([one.label for one in shown], int))]
    left = room
    for number, section in enumerate(found):
        rates = np.zeros(section.channels)
        if number in records:
            rates += records[number].smallest_mask.sum(0)
        if section.classes is not None:
            rates += section.classes.mean_mask.sum(0)
        wanted = [channel for channel in np.argsort(-rates, kind="stable").tolist() if rates[channel]]
        share = left // (len(found) - number)  # what one layer leaves, the next ones have
        part = Room(share)
        made.append(kept_of(run, section, wanted, keys, names, part, list(figures[number])))
        left -= share - part.left
    return made, room - left


def class_names(run: Run) -> list[str]:
    """Class names by class number; empty where the run knows none."""
    names = run.attributes.get("class_names") or []
    return [str(name) for name in names] if isinstance(names, list) else []


def write_text(target: Path, text: str) -> None:
    """Writes a file in one step: whoever looks sees the old one or the new one.

    Raises:
        StoreError: it cannot be written.
    """
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        try:
            temporary.write_text(text, encoding="utf-8", errors="replace")
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"the page {target} cannot be written ({error.strerror or error}); expected a file name in a folder that exists "
                         "and may be written to; choose another place") from error


def _file(name: str) -> Markup:
    return Markup(resources.files("chanattr.pictures.report").joinpath(name).read_text(encoding="utf-8"))


def _script(name: str) -> Markup:
    return element("script", _file(name))


def _head(run: Run) -> Markup:
    metas = [element("meta", charset="utf-8"), element("meta", http_equiv="Content-Security-Policy", content=POLICY),
             element("meta", name="viewport", content="width=device-width, initial-scale=1"),
             element("meta", name="color-scheme", content="light dark")]
    # Without an icon of its own the page would ask its server for one.
    return element("head", *metas, Markup('<link rel="icon" href="data:,">'), element("title", f"{run.path.name} · chanattr"),
                   element("style", _file("page.css")))


def _header(run: Run, found: Sequence[Section], labels: np.ndarray, names: Sequence[str]) -> Markup:
    model = str(run.attributes.get("model") or "this network")
    layers = list(dict.fromkeys(section.layer for section in found))
    known = np.unique(labels[labels >= 0])
    count = tables.count(len(run.keys), "image") + (f" of {tables.count(len(known), 'class', 'classes')}" if len(known) else "")
    answers = [element("li", element("a", element("code", section.title), href=f"#layer/{section.link}"), " ", sentence(section, labels))
               for section in found]
    digest = str(run.attributes.get("model_sha256") or "")
    pairs = [("model", f"{model}{f', weights {digest[:12]}' if digest else ''}"), ("images", count)]
    pairs += [("layers", ", ".join(layers)), *asked(found[0], names)] if found else _masks_asked(run)
    listed = join(element("div", element("dt", name), element("dd", value)) for name, value in pairs)
    which = "these" if len(run.keys) != 1 else "this"
    what = "Which channels does " if found else "Where in the picture must "
    title = element("h1", what, element("em", model), f" {'need to see' if found else 'look to see'} {which} {count}?")
    return element("header", title, element("ul", *answers, class_="answers"),
                   element("details", element("summary", "What was asked"), element("dl", listed), open=True))


def _masks_asked(run: Run) -> list[tuple[str, str]]:
    """What was asked of a run that has masks on the picture alone, by its first label."""
    layer = run.spatial_layers[0]
    settings = run.spatial(slice(0, 0), layer, run.labels(layer, spatial=True)[0]).settings
    return [("masks on", "the picture" if layer == ":input" else layer), ("score", f"{settings.reward} of the target"),
            ("game", f"{settings.game}: {MASK_GAMES.get(settings.game, '')}"), ("under masks", under(settings)),
            ("a* must reach", words.level(settings)),
            ("areas searched", ", ".join(f"{100 * area:.3g} %" for area in settings.areas)),
            ("search", f"{settings.search.name}, seed {settings.seed}"),
            ("pictures", settings.preprocessing or "tensors, as they were given")]


def _tabs(found: Sequence[Section]) -> Markup:
    links = [element("a", section.title, href=f"#layer/{section.link}", data_tab=number) for number, section in enumerate(found)]
    return element("nav", element("span", "Layer", class_="quiet"), *links, class_="tabs", aria_label="Layers")


def _reading(run: Run, found: Sequence[Section], shown: Sequence[Shown]) -> Markup:
    """How to read the page, and how to open the file."""
    texts = [("Mask", "a set of channels of one layer. The others are replaced, at every position, by what a dropped channel becomes."),
             ("Area", "how many channels a mask selects."),
             ("a*", "the smallest area found whose mask reaches the level; a better search might find a smaller one. 0: even no channel "
              "reaches it. Not reached: no mask that was tried does."),
             ("Markers", "filled ●: the masked network still says the target. Open ○: it no longer does. Orange is a* and its sets."),
             ("Score", "what the network makes of the masked layer. It may exceed the original: some dropped channels spoke against "
              "the target."),
             ("Energy", "root mean square over the selected channels at each position of the layer's grid. It shows where they are active, "
              "which is not a proof of which pixels matter. It lies on the part of the picture that the network was given; what was cut "
              "off is dark."),
             ("Cards", "what the file keeps of a channel: a picture made to drive it, and parts of images that drive or need it most."),
             ("Masks on the picture", "smooth masks of one area; bright is what the network is shown. Choose an area with the slider. They "
              "show what is enough, found by one search: another place may be enough too."),
             ("Held out", "the joint set was searched without these images; how far it falls behind is what does not carry over.")]
    listed = join(element("div", element("dt", name), element("dd", text)) for name, text in texts)
    title = element("summary", "How to read this, and how to open the file")
    return element("details", title, element("dl", listed), _snippet(run, found, shown))


def _snippet(run: Run, found: Sequence[Section], shown: Sequence[Shown]) -> Markup:
    """How the first answers are read from the file, as code."""
    more = []
    if not found:
        layer = run.spatial_layers[0]
        where = "" if layer == ":input" else f"layer={layer!r}, "
        read = f"spatial({where}label={run.labels(layer, spatial=True)[0]!r})"
    else:
        section = found[0]
        label = "" if section.first and section.label == LABEL else f", {section.label!r}"
        read = f"{'per_class' if section.found is None else 'per_image'}({section.layer!r}{label})"
        if section.found is not None:
            more = [f"print(found.channels({run.keys.index(shown[0].key)}))  # of {shown[0].key!r}"]
    lines = ["import chanattr as ca", "", f"with ca.open_run({run.path.name!r}) as run:", f"    found = run.{read}",
             "print(found.smallest_area)", *more]
    code = Markup("\n".join(element("span", line) for line in lines))
    return element("pre", element("code", code), tabindex="0")


def _footer(run: Run) -> Markup:
    return element("footer", f"Made by chanattr {__version__} from {run.path.name}, content ", element("code", run.content_sha256()[:12]),
                   ". The page holds everything it needs and asks no server for anything.")
