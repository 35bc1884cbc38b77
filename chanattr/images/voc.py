"""Boxes from VOC's XML, which is not trusted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
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


def _picture(root: _Element, file: Path, classify: Classify) -> Told:
    if root.name != "annotation":
        raise InputError(f"{file} holds <{root.name[:40]}>; expected VOC's <annotation>; take it away or convert it")
    boxes = []
    for one in root.all("object"):
        corners, name = one.all("bndbox"), one.words("name")
        if not corners or not name:
            raise InputError(f"{file} has an object without <{'bndbox' if name else 'name'}>; expected both in each; mend the file")
        left, top, right, bottom = (_number(corners[0].words(side), side, file) for side in ("xmin", "ymin", "xmax", "ymax"))
        difficult = one.words("difficult") or "0"
        if difficult not in ("0", "1"):
            raise InputError(f"{file} has <difficult>{difficult[:40]}</difficult>; expected 0 or 1; mend the file")
        boxes.append(Box(corners_of([left - 1, top - 1, right, bottom], str(file)), classify(name), difficult == "1"))
    size = root.all("size") or [_Element("size", [], [])]
    sides = [_number(size[0].words(side) or "0", side, file) for side in ("width", "height")]
    return Told(root.words("filename") or file.stem, boxes, size_of(sides[0], sides[1], str(file)), str(file))


def _number(words: str, what: str, file: Path) -> float:
    try:
        return float(words)
    except ValueError as error:
        raise InputError(f"{file} has <{what}>{words[:40]}</{what}>; expected a number of pixels; mend the file") from error


class _Element(NamedTuple):
    name: str
    text: list[str]
    inside: list[_Element]

    def all(self, name: str) -> list[_Element]:
        return [one for one in self.inside if one.name == name]

    def words(self, name: str) -> str:
        """The text of an element inside; "" where there is none."""
        return next(("".join(one.text).strip() for one in self.all(name)), "")


@dataclass(frozen=True)
class _Builder:
    """What expat calls: the tree of elements, and the refusal of what annotations have no use for."""

    file: Path
    root: _Element = field(default_factory=lambda: _Element("", [], []))
    open_: list[_Element] = field(default_factory=list)

    def start(self, name: str, _attributes: Any) -> None:
        if len(self.open_) >= DEEPEST:
            raise InputError(f"{self.file} has elements inside one another over {DEEPEST} deep; expected VOC annotations; take it away")
        element = _Element(name, [], [])
        (self.open_[-1] if self.open_ else self.root).inside.append(element)
        self.open_.append(element)

    def end(self, _name: str) -> None:
        self.open_.pop()

    def words(self, text: str) -> None:
        self.open_[-1].text.append(text)

    def refuse(self, *_: Any) -> None:
        """A document type may define entities, which grow without bound or are read from elsewhere."""
        raise InputError(f"{self.file} has a document type or entities; expected plain elements, as VOC's annotations are; take them out")


def _tree(file: Path) -> _Element:
    """The elements of an XML file, which is not trusted."""
    builder, parser = _Builder(file), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.words, builder.refuse
    parser.EntityDeclHandler = builder.refuse
    try:
        parser.Parse(bounded_bytes(file, LARGEST), True)
    except expat.ExpatError as error:
        raise InputError(f"{file} is no XML ({error}); expected VOC annotations; fetch it again, or take it away") from error
    return builder.root.inside[0]
