"""Boxes from VOC's XML, which is not trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from chanattr.errors import InputError
from chanattr.images.boxes import Box, Classify, Told, bounded_bytes, corners_of, size_of

LARGEST = 4 * 10**6  # bytes; a VOC file has some thousands
DEEPEST = 16  # elements inside one another in a VOC file, which has 5


def read_voc(place: Path, classify: Classify) -> list[Told]:
    """The pictures that a file tells of, or every file in a folder, in the order of their paths.

    Raises:
        InputError: no file, or one that is no VOC annotation.
    """
    files = sorted(place.rglob("*.xml")) if place.is_dir() else [place]
    if not files:
        raise InputError(f"{place} holds no .xml file; expected VOC annotations, one a picture; give the folder that has them")
    return [_picture(_tree(file), file, classify) for file in files]


def _picture(root: Element, file: Path, classify: Classify) -> Told:
    if root.tag != "annotation":
        raise InputError(f"{file} holds <{root.tag[:40]}>; expected VOC's <annotation>; take it away or convert it")
    boxes = []
    for one in root.findall("object"):
        corners, name = one.find("bndbox"), _words(one, "name")
        if corners is None or not name:
            raise InputError(f"{file} has an object without <{'bndbox' if name else 'name'}>; expected both in each; mend the file")
        left, top, right, bottom = (_number(_words(corners, side), side, file) for side in ("xmin", "ymin", "xmax", "ymax"))
        difficult = _words(one, "difficult") or "0"
        if difficult not in ("0", "1"):
            raise InputError(f"{file} has <difficult>{difficult[:40]}</difficult>; expected 0 or 1; mend the file")
        boxes.append(Box(corners_of([left - 1, top - 1, right, bottom], str(file)), classify(name), difficult == "1"))
    width, height = (_number(_words(root, f"size/{side}") or "0", side, file) for side in ("width", "height"))
    return Told(_words(root, "filename") or file.stem, boxes, size_of(width, height, str(file)), str(file))


def _words(element: Element, path: str) -> str:
    """The text of an element inside; "" where there is none."""
    return element.findtext(path, "").strip()


def _number(words: str, what: str, file: Path) -> float:
    try:
        return float(words)
    except ValueError as error:
        raise InputError(f"{file} has <{what}>{words[:40]}</{what}>; expected a number of pixels; mend the file") from error


def _tree(file: Path) -> Element:
    """The elements of an XML file, which is not trusted."""
    builder, parser = TreeBuilder(), expat.ParserCreate()
    around: list[Element] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(around) >= DEEPEST:
            raise InputError(f"{file} has elements inside one another over {DEEPEST} deep; expected VOC annotations; take it away")
        around.append(builder.start(name, attributes))

    def end(name: str) -> None:
        around.pop()
        builder.end(name)

    def refuse(*_: Any) -> None:  # a document type may define entities, which grow without bound or are read from elsewhere
        raise InputError(f"{file} has a document type or entities; expected plain elements, as VOC's annotations are; take them out")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(bounded_bytes(file, LARGEST), True)
    except InputError:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:  # the last two: an encoding that is unknown, or of several bytes
        raise InputError(f"{file} is no XML ({error}); expected VOC annotations; fetch it again, or take it away") from error
    return builder.close()
