"""Boxes of the objects in pictures, from plain JSON, COCO JSON or VOC XML, by the picture's key."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.parsers import expat

import numpy as np
from jaxtyping import Bool, Float32, Int32

from chanattr.errors import InputError
from chanattr.images.find import UNKNOWN, PathLike, class_of

LARGEST_JSON, LARGEST_XML = 2 * 10**9, 4 * 10**6  # bytes; COCO's largest file of boxes has 0.5 10^9, a VOC file some thousands
DEEPEST = 16  # elements inside one another in a VOC file, which has 5
SHOWN = 3
FORMS = ("plain", "coco", "voc")


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageBoxes:
    """The boxes of one picture, which has B of them.

    Attributes:
        boxes: left, top, right, bottom in pixels of the picture file, f4 [B, 4]: 0 is the picture's left (upper) edge and 1 the first
            pixel's right (lower) one, so that a box over the first pixel alone is 0, 0, 1, 1.
        classes: class index of each, i4 [B]; -1 a class that the model does not have.
        difficult: whether the annotators called the object hard to recognise, bool [B].
        size: (width, height) of the picture; (0, 0) where the file does not say.
    """

    boxes: Float32[np.ndarray, "B 4"]
    classes: Int32[np.ndarray, " B"]
    difficult: Bool[np.ndarray, " B"]
    size: tuple[int, int]


Classify = Callable[[str], int]


class _Box(NamedTuple):
    corners: tuple[float, float, float, float]
    label: int
    difficult: bool


class _Found(NamedTuple):
    """One picture as a file of annotations tells it; `where` is for messages."""

    key: str
    boxes: list[_Box]
    size: tuple[int, int]
    where: str


def load_annotations(path: PathLike, *, class_names: Sequence[str] = (), wordnet_ids: Sequence[str] = (),
                     form: str | None = None) -> dict[str, ImageBoxes]:
    """The boxes of every picture that a file (or a folder of VOC files) tells of, by the picture's name in it.

    The forms:

    * plain: a JSON list of ``{"file": "a.jpg", "boxes": [[left, top, right, bottom], ...], "index": 65}``, in pixels from 0 at the
      picture's edge. ``index`` is the class of all its boxes, or a list of one a box; in its place ``name`` (or a list) may be given, a
      name in `class_names` or `wordnet_ids`. If known also ``"width"``, ``"height"``, and ``"difficult"``, true or false, or a list. A
      file may come several times, for several classes; other fields are passed over.
    * COCO: a JSON object with ``images``, ``annotations`` and ``categories``; ``bbox`` is left, top, width, height. Crowds are boxes as
      others. Without class names, a category's class is its place among the categories by increasing id, which is TorchRay's order.
    * VOC: XML, a file or a folder of them (searched to the bottom). Its first pixel is 1 and its last is in the box, so 1 is taken from
      ``xmin`` and ``ymin``. ``name`` is looked for as a folder's name would be: a class name, a WordNet id (as in ImageNet's own files), or
      ``NNN_name``; never by the alphabet.

    Boxes are clipped to the picture where its size is told.

    Args:
        path: a file, or a folder of VOC files.
        class_names: of the model, in its order.
        wordnet_ids: of the model, in its order.
        form: "plain", "coco" or "voc"; None: as the file looks.

    Returns:
        By name, in the order of the file (of the paths, for VOC). A class that the model does not have is -1: such boxes count as objects
        beside those asked about.

    Raises:
        InputError: the file cannot be read, is none of these forms, or something in it is no box; or none of its classes is the model's.

    Examples:
        >>> import json, pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "boxes.json")
        ...     _ = file.write_text(json.dumps([{"file": "a.jpg", "index": 65, "boxes": [[10, 20, 30, 25]]}]))
        ...     load_annotations(file)["a.jpg"].boxes.tolist()
        [[10.0, 20.0, 30.0, 25.0]]
    """
    place = Path(path)
    if form is not None and form not in FORMS:
        raise InputError(f"form={form!r}; expected one of {', '.join(FORMS)}; leave it out to go by the file's looks")

    @functools.cache
    def classify(name: str) -> int:
        found = class_of(name, class_names, wordnet_ids)
        return UNKNOWN if found is None else found

    if form == "voc" or (form is None and (place.is_dir() or place.suffix.lower() == ".xml")):
        found = _voc(place, classify)
    else:
        found = _json(place, classify if len(class_names) or len(wordnet_ids) else None, form)
    joined = _joined(found)
    if not any((one.classes != UNKNOWN).any() for one in joined.values()):
        raise InputError(f"{place} tells of {len(joined)} pictures, but of no class that is known; expected names among the model's "
                         "classes or WordNet ids, NNN_name, or indices; give class_names= and wordnet_ids= of the model, or write indices")
    return joined


def for_keys(annotations: Mapping[str, ImageBoxes], keys: Sequence[str]) -> dict[str, ImageBoxes]:
    """The boxes of the pictures with these keys, by key; pictures without any are left out.

    A key is looked for as it is, else without its suffix (VOC files often name none), else by its last part without the suffix, where only
    one name in the annotations has that.

    Raises:
        InputError: none of the keys is found.

    Examples:
        >>> one = ImageBoxes(boxes=np.zeros((0, 4), np.float32), classes=np.zeros(0, np.int32), difficult=np.zeros(0, bool), size=(0, 0))
        >>> list(for_keys({"val_1": one}, ["snakes/val_1.JPEG", "snakes/val_2.JPEG"]))
        ['snakes/val_1.JPEG']
    """
    ways: list[Callable[[str], str]] = [str, lambda key: str(PurePosixPath(key).with_suffix("")), lambda key: PurePosixPath(key).stem]
    known = [_once(annotations, way) for way in ways]
    found = {}
    for key in keys:
        for names, way in zip(known, ways, strict=True):
            if PurePosixPath(key).name and (name := names.get(way(key))) is not None:
                found[key] = annotations[name]
                break
    if not found:
        raise InputError(f"none of {len(keys)} keys ({_shown(keys)}) is among the {len(annotations)} annotated pictures "
                         f"({_shown(annotations)}); expected the names of the same files; check which pictures the annotations are of")
    return found


def _once(names: Iterable[str], way: Callable[[str], str]) -> dict[str, str]:
    """The one name that is so called, by what it is called; those that several share are left out."""
    held: dict[str, list[str]] = {}
    for name in names:
        held.setdefault(way(name) if PurePosixPath(name).name else name, []).append(name)
    return {short: long[0] for short, long in held.items() if len(long) == 1}


def _joined(found: Iterable[_Found]) -> dict[str, ImageBoxes]:
    """One record a picture, of all its entries."""
    pictures: dict[str, list[_Found]] = {}
    for one in found:
        pictures.setdefault(one.key, []).append(one)
    return {key: _record(entries) for key, entries in pictures.items()}


def _record(entries: Sequence[_Found]) -> ImageBoxes:
    sizes = {one.size for one in entries if one.size != (0, 0)}
    where = entries[0].where
    if len(sizes) > 1:
        raise InputError(f"{where} is said to have the sizes {sorted(sizes)}; expected one picture of one size; mend the file")
    size = sizes.pop() if sizes else (0, 0)
    boxes = [box for one in entries for box in one.boxes]
    corners = np.array([box.corners for box in boxes], np.float32).reshape(-1, 4)
    if size != (0, 0):
        inside = np.clip(corners, 0, np.array([*size, *size], np.float32))
        gone = ((inside[:, :2] >= inside[:, 2:]) & (corners[:, :2] < corners[:, 2:])).any(1)
        if gone.any():
            raise InputError(f"{where} has a box {corners[gone][0].tolist()} outside of its {size[0]} x {size[1]} pixels; expected left, "
                             "top, right and bottom within; mend the file, or its width and height")
        corners = inside
    return ImageBoxes(boxes=corners, classes=np.array([box.label for box in boxes], np.int32),
                      difficult=np.array([box.difficult for box in boxes], bool), size=size)


# JSON


def _json(place: Path, classify: Classify | None, form: str | None) -> list[_Found]:
    whole = _parsed(place)
    if form != "plain" and isinstance(whole, dict) and {"images", "annotations", "categories"} <= whole.keys():
        return _coco(whole, classify, place)
    if form != "coco" and isinstance(whole, list):
        return [_entry(one, f"{place}, entry {number}", classify) for number, one in enumerate(whole)]
    what = f"an object with {_shown(whole)}" if isinstance(whole, dict) else f"a {type(whole).__name__}"
    raise InputError(f"{place} holds {what}; expected a list of pictures with 'file', 'boxes' and 'index', or COCO's object with 'images', "
                     "'annotations' and 'categories'; see load_annotations for the forms")


def _parsed(place: Path) -> Any:
    data = _bytes(place, LARGEST_JSON)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is no JSON ({type(error).__name__}: {str(error)[:100]}); expected annotations in plain or COCO JSON; "
                         "for VOC give an .xml file or a folder") from error


def _bytes(place: Path, largest: int) -> bytes:
    """The bytes of a file that is not larger than it can be."""
    try:
        with place.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(largest + 1) if size <= largest else b""
    except OSError as error:
        raise InputError(f"{place} cannot be read ({error.strerror or error}); expected a file of annotations; check the path and its "
                         "rights") from error
    if size > largest or len(data) > largest:
        raise InputError(f"{place} has {size} bytes; expected annotations of at most {largest}; cut it to the pictures asked about")
    return data


def _entry(one: Any, where: str, classify: Classify | None) -> _Found:
    """One picture of the plain form."""
    if not isinstance(one, dict) or not isinstance(one.get("file"), str) or not one["file"] or not isinstance(one.get("boxes"), list):
        raise InputError(f"{where} is {str(one)[:80]}; expected an object with 'file', a name, and 'boxes', a list; see load_annotations")
    where = f"{where} ({one['file']})"
    count = len(one["boxes"])
    flags = _one_each(one.get("difficult", False), count, "difficult", where)
    if any(not isinstance(flag, (bool, int)) or flag not in (0, 1) for flag in flags):
        raise InputError(f"{where} has difficult={one['difficult']!r}; expected true or false, or a list of one a box; mend the file")
    labels = _labels(one, count, where, classify)
    boxes = [_Box(_corners(box, where), label, bool(flag)) for box, label, flag in zip(one["boxes"], labels, flags, strict=True)]
    return _Found(one["file"].replace("\\", "/"), boxes, _size(one.get("width", 0), one.get("height", 0), where), where)


def _labels(one: dict[str, Any], count: int, where: str, classify: Classify | None) -> list[int]:
    """The class of each box, by its index or its name."""
    if "index" in one:
        labels = _one_each(one["index"], count, "index", where)
        if any(not isinstance(label, int) or isinstance(label, bool) or not UNKNOWN <= label < 2**31 for label in labels):
            raise InputError(f"{where} has index={one['index']!r}; expected a class from 0, or a list of one a box; mend the file")
        return labels
    names = _one_each(one.get("name", ""), count, "name", where)
    if classify is None or any(not isinstance(name, str) or not name for name in names):
        raise InputError(f"{where} has no 'index', and name={one.get('name')!r}; expected the class's index, or its name with class_names= "
                         "of the model given; add an index")
    return [classify(name) for name in names]


def _one_each(value: Any, count: int, what: str, where: str) -> list[Any]:
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise InputError(f"{where} has {len(value)} of {what!r} for {count} boxes; expected one a box, or a single one for all; mend the "
                         "file")
    return value


def _corners(box: Any, where: str) -> tuple[float, float, float, float]:
    """Left, top, right, bottom."""
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise InputError(f"{where} has a box {str(box)[:80]}; expected four finite numbers; mend the file")
    left, top, right, bottom = (float(value) for value in box)
    if not (left <= right and top <= bottom):
        raise InputError(f"{where} has a box {[left, top, right, bottom]}, which ends before it begins; expected left, top, right, bottom "
                         "in pixels; mend the file (COCO's left, top, width, height are for COCO's form)")
    return left, top, right, bottom


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9 and math.isfinite(value)


def _size(width: Any, height: Any, where: str) -> tuple[int, int]:
    """(width, height); (0, 0) where they are not told."""
    if not all(_is_number(side) and side >= 0 and side == int(side) for side in (width, height)):
        raise InputError(f"{where} has a size of {width!r} x {height!r}; expected whole pixels; mend it, or leave width and height out")
    return (int(width), int(height)) if width and height else (0, 0)


def _coco(whole: dict[str, Any], classify: Classify | None, place: Path) -> list[_Found]:
    labels = _categories(whole["categories"], classify, place)
    pictures: dict[Any, _Found] = {}
    for one in _objects(whole["images"], ("id", "file_name"), f"{place}, images"):
        where = f"{place}, image {one['id']!r}"
        if not isinstance(one["file_name"], str) or not isinstance(one["id"], (int, str)):
            raise InputError(f"{where} has the file_name {one['file_name']!r}; expected a name and a number; mend the file")
        size = _size(one.get("width", 0), one.get("height", 0), where)
        pictures[one["id"]] = _Found(one["file_name"], [], size, f"{where} ({one['file_name']})")
    for one in _objects(whole["annotations"], ("image_id", "category_id", "bbox"), f"{place}, annotations"):
        picture, label = pictures.get(_hashable(one["image_id"])), labels.get(_hashable(one["category_id"]))
        if picture is None or label is None:
            raise InputError(f"{place} has an annotation of image {one['image_id']!r} and category {one['category_id']!r}, and no such "
                             f"{'image' if picture is None else 'category'}; expected every one to be listed; mend the file")
        box = one["bbox"]
        if isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box):
            box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
        picture.boxes.append(_Box(_corners(box, picture.where), label, False))
    return list(pictures.values())


def _categories(given: Any, classify: Classify | None, place: Path) -> dict[Any, int]:
    """The class of each category by its id."""
    categories = _objects(given, ("id", "name"), f"{place}, categories")
    if any(not isinstance(one["id"], int) or not isinstance(one["name"], str) for one in categories):
        raise InputError(f"{place} has a category without a whole number as id and a name; expected COCO's categories; mend the file")
    if classify is not None:
        return {one["id"]: classify(one["name"]) for one in categories}
    return {number: place for place, number in enumerate(sorted({one["id"] for one in categories}))}


def _objects(given: Any, fields: tuple[str, ...], where: str) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(one, dict) and all(name in one for name in fields) for one in given):
        raise InputError(f"{where}: not a list of objects with {', '.join(fields)}; expected COCO's form; mend the file")
    return given


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (int, str)) else str(value)


# VOC


class _Element(NamedTuple):
    name: str
    text: list[str]
    inside: list[_Element]

    def all(self, name: str) -> list[_Element]:
        return [one for one in self.inside if one.name == name]

    def words(self, name: str) -> str:
        """The text of an element inside; "" where there is none."""
        return next(("".join(one.text).strip() for one in self.all(name)), "")


def _voc(place: Path, classify: Classify) -> list[_Found]:
    files = sorted(place.rglob("*.xml")) if place.is_dir() else [place]
    if not files:
        raise InputError(f"{place} holds no .xml file; expected VOC annotations, one a picture; give the folder that has them")
    return [_voc_picture(_tree(file), file, classify) for file in files]


def _voc_picture(root: _Element, file: Path, classify: Classify) -> _Found:
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
        boxes.append(_Box(_corners([left - 1, top - 1, right, bottom], str(file)), classify(name), difficult == "1"))
    size = root.all("size") or [_Element("size", [], [])]
    sides = [_number(size[0].words(side) or "0", side, file) for side in ("width", "height")]
    return _Found(root.words("filename") or file.stem, boxes, _size(sides[0], sides[1], str(file)), str(file))


def _number(words: str, what: str, file: Path) -> float:
    try:
        return float(words)
    except ValueError as error:
        raise InputError(f"{file} has <{what}>{words[:40]}</{what}>; expected a number of pixels; mend the file") from error


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
        parser.Parse(_bytes(file, LARGEST_XML), True)
    except expat.ExpatError as error:
        raise InputError(f"{file} is no XML ({error}); expected VOC annotations; fetch it again, or take it away") from error
    return builder.root.inside[0]


def _shown(names: Iterable[str]) -> str:
    listed = [repr(str(name)[:60]) for name, _ in zip(names, range(SHOWN + 1), strict=False)]
    return ", ".join(listed[:SHOWN]) + (", ..." if len(listed) > SHOWN else "")
