"""Boxes of the objects in pictures by the picture's key: from plain JSON or COCO's, and by `voc.py` from VOC's XML."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from chanattr.arguments import check_class_names, check_kind, check_name, path_of
from chanattr.errors import InputError
from chanattr.images.boxes import Box, Classify, ImageBoxes, Told, bounded_bytes, corners_of, is_number, joined, shown, size_of
from chanattr.images.find import UNKNOWN, PathLike, class_of
from chanattr.images.voc import read_voc

LARGEST = 2 * 10**9  # bytes; COCO's largest file of boxes has 0.5 10^9
FORMS = ("plain", "coco", "voc")


def load_annotations(path: PathLike, *, class_names: Sequence[str] = (), wordnet_ids: Sequence[str] = (),
                     form: str | None = None) -> dict[str, ImageBoxes]:
    """The boxes of every picture that a file (or a folder of VOC files) tells of, by the picture's name in it.

    The forms:

    * plain: a JSON list of ``{"file": "a.jpg", "boxes": [[left, top, right, bottom], ...], "index": 65}``, in pixels from 0 at the
      picture's edge. ``index`` is the class of all its boxes, or a list of one a box; in its place ``name`` (or a list) may be given, a
      name in `class_names` or `wordnet_ids`. Also ``"width"`` and ``"height"``, which the pointing game over a run needs, and if known
      ``"difficult"``, true or false, or a list. A file may come several times, for several classes; other fields are passed over.
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
        >>> import json, pathlib, tempfile, chanattr as ca
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "boxes.json")
        ...     _ = file.write_text(json.dumps([{"file": "a.jpg", "index": 65, "boxes": [[10, 20, 30, 25]]}]))
        ...     ca.load_annotations(file)["a.jpg"].boxes.tolist()
        [[10.0, 20.0, 30.0, 25.0]]
    """
    place = path_of("path", path)
    check_class_names("class_names", class_names)
    check_class_names("wordnet_ids", wordnet_ids)
    if form is not None:
        check_name("form", form, FORMS, remedy="leave it out to go by the file's looks")

    @functools.cache
    def classify(name: str) -> int:
        found = class_of(name, class_names, wordnet_ids)
        return UNKNOWN if found is None else found

    if form == "voc" or (form is None and (place.is_dir() or place.suffix.lower() == ".xml")):
        found = read_voc(place, classify)
    else:
        found = _json(place, classify if len(class_names) or len(wordnet_ids) else None, form)
    pictures = joined(found)
    if not any((one.classes != UNKNOWN).any() for one in pictures.values()):
        raise InputError(f"{place} tells of {len(pictures)} pictures, but of no class that is known; expected names among the model's "
                         "classes or WordNet ids, NNN_name, or indices; give class_names= and wordnet_ids= of the model, or write indices")
    return pictures


def for_keys(annotations: Mapping[str, ImageBoxes], keys: Sequence[str]) -> dict[str, ImageBoxes]:
    """The boxes of the pictures with these keys, by key; pictures without any are left out.

    A key is looked for as it is, else without its suffix (VOC files often name none), else by its last part without the suffix, where only
    one name in the annotations has that.

    Raises:
        InputError: none of the keys is found.

    Examples:
        >>> import numpy as np
        >>> one = ImageBoxes(boxes=np.zeros((0, 4), np.float32), classes=np.zeros(0, np.int32), difficult=np.zeros(0, bool), size=(0, 0))
        >>> list(for_keys({"val_1": one}, ["snakes/val_1.JPEG", "snakes/val_2.JPEG"]))
        ['snakes/val_1.JPEG']
    """
    check_kind("annotations", annotations, Mapping, "pass what load_annotations gives")
    ways: list[Callable[[str], str]] = [str, lambda key: str(PurePosixPath(key).with_suffix("")), lambda key: PurePosixPath(key).stem]
    known = [_once(annotations, way) for way in ways]
    found = {}
    for key in keys:
        for names, way in zip(known, ways, strict=True):
            if PurePosixPath(key).name and (name := names.get(way(key))) is not None:
                found[key] = annotations[name]
                break
    if not found:
        raise InputError(f"none of {len(keys)} keys ({shown(keys)}) is among the {len(annotations)} annotated pictures "
                         f"({shown(annotations)}); expected the names of the same files; check which pictures the annotations are of")
    return found


def _once(names: Iterable[str], way: Callable[[str], str]) -> dict[str, str]:
    """The one name that is so called, by what it is called; those that several share are left out."""
    held: dict[str, list[str]] = {}
    for name in names:
        held.setdefault(way(name) if PurePosixPath(name).name else name, []).append(name)
    return {short: long[0] for short, long in held.items() if len(long) == 1}


# JSON


def _json(place: Path, classify: Classify | None, form: str | None) -> list[Told]:
    whole = _parsed(place)
    if form != "plain" and isinstance(whole, dict) and {"images", "annotations", "categories"} <= whole.keys():
        return _coco(whole, classify, place)
    if form != "coco" and isinstance(whole, list):
        return [_entry(one, f"{place}, entry {number}", classify) for number, one in enumerate(whole)]
    what = f"an object with {shown(whole)}" if isinstance(whole, dict) else f"a {type(whole).__name__}"
    raise InputError(f"{place} holds {what}; expected a list of pictures with 'file', 'boxes' and 'index', or COCO's object with 'images', "
                     "'annotations' and 'categories'; see load_annotations for the forms")


def _parsed(place: Path) -> Any:
    data = bounded_bytes(place, LARGEST)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is no JSON ({type(error).__name__}: {str(error)[:100]}); expected annotations in plain or COCO JSON; "
                         "for VOC give an .xml file or a folder") from error


def _entry(one: Any, where: str, classify: Classify | None) -> Told:
    """One picture of the plain form."""
    if not isinstance(one, dict) or not isinstance(one.get("file"), str) or not one["file"] or not isinstance(one.get("boxes"), list):
        raise InputError(f"{where} is {str(one)[:80]}; expected an object with 'file', a name, and 'boxes', a list; see load_annotations")
    where = f"{where} ({one['file']})"
    count = len(one["boxes"])
    flags = _one_each(one.get("difficult", False), count, "difficult", where)
    if any(not isinstance(flag, (bool, int)) or flag not in (0, 1) for flag in flags):
        raise InputError(f"{where} has difficult={one['difficult']!r}; expected true or false, or a list of one a box; mend the file")
    labels = _labels(one, count, where, classify)
    boxes = [Box(corners_of(box, where), label, bool(flag)) for box, label, flag in zip(one["boxes"], labels, flags, strict=True)]
    return Told(one["file"].replace("\\", "/"), boxes, size_of(one.get("width", 0), one.get("height", 0), where), where)


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


def _coco(whole: dict[str, Any], classify: Classify | None, place: Path) -> list[Told]:
    labels = _categories(whole["categories"], classify, place)
    pictures: dict[Any, Told] = {}
    for one in _objects(whole["images"], ("id", "file_name"), f"{place}, images"):
        where = f"{place}, image {one['id']!r}"
        if not isinstance(one["file_name"], str) or not isinstance(one["id"], (int, str)):
            raise InputError(f"{where} has the file_name {one['file_name']!r}; expected a name and a number; mend the file")
        size = size_of(one.get("width", 0), one.get("height", 0), where)
        pictures[one["id"]] = Told(one["file_name"], [], size, f"{where} ({one['file_name']})")
    for one in _objects(whole["annotations"], ("image_id", "category_id", "bbox"), f"{place}, annotations"):
        picture, label = pictures.get(_hashable(one["image_id"])), labels.get(_hashable(one["category_id"]))
        if picture is None or label is None:
            raise InputError(f"{place} has an annotation of image {one['image_id']!r} and category {one['category_id']!r}, and no such "
                             f"{'image' if picture is None else 'category'}; expected every one to be listed; mend the file")
        box = one["bbox"]
        if isinstance(box, list) and len(box) == 4 and all(is_number(value) for value in box):
            box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
        picture.boxes.append(Box(corners_of(box, picture.where), label, False))
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
