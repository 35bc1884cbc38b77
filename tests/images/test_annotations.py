"""Boxes from every form are the same boxes by key; what is no annotation is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chanattr as ca
from chanattr.images.annotations import for_keys, load_annotations
from chanattr.images.boxes import ImageBoxes

NAMES = ("cat", "dog", "red fox")
IDS = ("n01", "n02", "n03")
# The same two pictures in every form: a.jpg of 100 x 80 has a cat over its first pixel and a difficult dog, b.jpg a red fox.
PLAIN: list[dict[str, Any]] = [
    {"file": "a.jpg", "index": [0, 1], "width": 100, "height": 80, "boxes": [[0, 0, 1, 1], [10, 20, 40, 60]], "difficult": [False, True]},
    {"file": "b.jpg", "name": "red fox", "width": 50, "height": 50, "boxes": [[5, 6, 50, 50]]}]
COCO: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "a.jpg", "width": 100, "height": 80}, {"id": 3, "file_name": "b.jpg", "width": 50, "height": 50},
               {"id": 9, "file_name": "empty.jpg"}],
    "categories": [{"id": 20, "name": "red fox"}, {"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}],
    "annotations": [{"image_id": 7, "category_id": 2, "bbox": [0, 0, 1, 1]}, {"image_id": 3, "category_id": 20, "bbox": [5, 6, 45, 44]},
                    {"image_id": 7, "category_id": 5, "bbox": [10, 20, 30, 40], "iscrowd": 1}]}


def voc(name: str, size: tuple[int, int], *objects: str) -> str:
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<?xml version='1.0'?>\n<annotation><filename>{name}</filename>{sides}{''.join(objects)}</annotation>"


def thing(name: str, corners: tuple[float, ...], extra: str = "") -> str:
    sides = "".join(f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name>{extra}<bndbox>{sides}</bndbox></object>"


A = voc("a.jpg", (100, 80), thing("cat", (1, 1, 1, 1)), thing("dog", (11, 21, 40, 60), "<difficult>1</difficult>"))
B = voc("b.jpg", (50, 50), thing("red fox", (6, 7, 50, 50), "<part><name>head</name><bndbox><xmin>9</xmin></bndbox></part>"))


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf8")
    return path


def same(found: ImageBoxes, boxes: list[list[float]], classes: list[int], difficult: list[bool], size: tuple[int, int]) -> None:
    assert found.boxes.dtype == np.float32
    assert found.boxes.tolist() == boxes
    assert found.classes.tolist() == classes
    assert found.difficult.tolist() == difficult
    assert found.size == size


@pytest.mark.parametrize("form", ["plain", "coco", "voc"])
def test_every_form_tells_the_same_boxes(tmp_path: Path, form: str) -> None:
    if form == "voc":
        write(tmp_path / "voc/x/1.xml", A)
        path = write(tmp_path / "voc/2.xml", B).parent
    else:
        path = write(tmp_path / "boxes.json", PLAIN if form == "plain" else COCO)
    for asked in (None, form):
        found = load_annotations(path, class_names=NAMES, form=asked)
        hard = form != "coco"  # which has no such mark
        same(found["a.jpg"], [[0, 0, 1, 1], [10, 20, 40, 60]], [0, 1], [False, hard], (100, 80))
        same(found["b.jpg"], [[5, 6, 50, 50]], [2], [False], (50, 50))
    if form == "coco":
        same(found["empty.jpg"], [], [], [], (0, 0))


def test_a_coco_class_is_its_place_by_id_where_the_model_tells_none(tmp_path: Path) -> None:
    found = load_annotations(write(tmp_path / "coco.json", COCO))
    assert found["a.jpg"].classes.tolist() == [0, 1]  # ids 2 and 5 of 2, 5, 20
    assert found["b.jpg"].classes.tolist() == [2]


def test_wordnet_ids_and_numbered_names_are_classes_and_others_are_beside_them(tmp_path: Path) -> None:
    text = voc("a", (9, 9), thing("n03", (1, 1, 2, 2)), thing("001_dog", (1, 1, 3, 3)), thing("table", (1, 1, 4, 4)))
    found = load_annotations(write(tmp_path / "a.xml", text), wordnet_ids=IDS)
    assert found["a"].classes.tolist() == [2, 1, -1]


def test_entries_of_one_picture_are_joined_and_boxes_are_clipped(tmp_path: Path) -> None:
    entries = [{"file": "a.jpg", "index": 4, "boxes": [[-3, 1, 5, 2]]}, {"file": "a.jpg", "index": 2, "boxes": [[1, 1, 2, 99]], "width": 10,
                                                                          "height": 8}]
    same(load_annotations(write(tmp_path / "a.json", entries))["a.jpg"], [[0, 1, 5, 2], [1, 1, 2, 8]], [4, 2], [False, False], (10, 8))


def test_voc_without_a_file_name_or_size_goes_by_its_own_name(tmp_path: Path) -> None:
    text = f"<annotation><size><width>0</width><height>0</height></size>{thing('cat', (1.5, 2, 4, 8))}</annotation>"
    same(load_annotations(write(tmp_path / "pic.xml", text), class_names=NAMES)["pic"], [[0.5, 1, 4, 8]], [0], [False], (0, 0))


def test_keys_are_found_by_path_then_without_suffix_then_by_the_file_alone() -> None:
    def one(mark: float) -> ImageBoxes:
        return ImageBoxes(boxes=np.full((1, 4), mark, np.float32), classes=np.zeros(1, np.int32), difficult=np.zeros(1, bool), size=(0, 0))

    told = {"x/a.jpg": one(0), "y/a.jpg": one(1), "b": one(2), "c.png": one(3)}
    found = for_keys(told, ["y/a.jpg", "b.JPEG", "deep/c.jpg", "z/a.jpg", "none.jpg", "x/a.png"])
    assert {key: float(value.boxes[0, 0]) for key, value in found.items()} == {"y/a.jpg": 1, "b.JPEG": 2, "deep/c.jpg": 3, "x/a.png": 0}
    with pytest.raises(ca.InputError, match=r"none of 1 keys \('q.jpg'\) is among the 4 annotated pictures"):
        for_keys(told, ["q.jpg"])


PLAIN_ERRORS: list[tuple[Any, str]] = [
    ("{", r"is no JSON \(JSONDecodeError"),
    ("[" * 100_000, r"is no JSON \(RecursionError"),
    ({"images": []}, "holds an object with 'images'; expected a list of pictures"),
    (3, "holds a int; expected"),
    ([3], "entry 0 is 3; expected an object with 'file'"),
    ([{"file": "a", "boxes": 3}], "expected an object with 'file', a name, and 'boxes'"),
    ([{"file": "a", "boxes": [[1, 2, 3]], "index": 1}], r"has a box \[1, 2, 3\]; expected four finite numbers"),
    ([{"file": "a", "boxes": [[1, 2, 3, "4"]], "index": 1}], "expected four finite numbers"),
    ('[{"file": "a", "boxes": [[1, 2, 3, NaN]], "index": 1}]', "expected four finite numbers"),
    ([{"file": "a", "boxes": [[1, 2, 3, 10**400]], "index": 1}], "expected four finite numbers"),
    ([{"file": "a", "boxes": [[5, 2, 3, 4]], "index": 1}], "which ends before it begins"),
    ([{"file": "a", "boxes": [[1, 2, 3, 4]]}], "has no 'index', and name=None"),
    ([{"file": "a", "boxes": [[1, 2, 3, 4]], "name": "cat"}], "expected the class's index, or its name with class_names="),
    ([{"file": "a", "boxes": [[1, 2, 3, 4]], "index": 1.5}], "has index=1.5; expected a class from 0"),
    ([{"file": "a", "boxes": [[1, 2, 3, 4]], "index": [1, 2]}], "has 2 of 'index' for 1 boxes"),
    ([{"file": "a", "boxes": [[1, 2, 3, 4]], "index": 1, "difficult": "yes"}], "has difficult='yes'; expected true or false"),
    ([{"file": "a", "boxes": [[1, 2, 3, 4]], "index": 1, "width": 2.5, "height": 3}], "has a size of 2.5 x 3; expected whole pixels"),
    ([{"file": "a", "boxes": [[11, 2, 13, 4]], "index": 1, "width": 10, "height": 10}], "outside of its 10 x 10 pixels"),
    ([{"file": "a", "boxes": [], "index": 1, "width": w, "height": 9} for w in (8, 9)], "is said to have the sizes"),
    ([{"file": "a", "boxes": [], "index": 1}], "of no class that is known"),
]


@pytest.mark.parametrize(("content", "message"), PLAIN_ERRORS)
def test_bad_json_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ca.InputError, match=message):
        load_annotations(write(tmp_path / "boxes.json", content))


@pytest.mark.parametrize(("change", "message"), [
    ({"images": 3}, "images: not a list of objects with id, file_name"),
    ({"annotations": [{"bbox": [1, 2, 3, 4]}]}, "annotations: not a list of objects with image_id"),
    ({"annotations": [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1]}]}, "image 1 and category 2, and no such image"),
    ({"annotations": [{"image_id": 7, "category_id": [2], "bbox": [0, 0, 1, 1]}]}, "and no such category"),
    ({"annotations": [{"image_id": 7, "category_id": 2, "bbox": [0, 0, -1, 1]}]}, "which ends before it begins"),
    ({"annotations": [{"image_id": 7, "category_id": 2, "bbox": None}]}, "has a box None; expected four"),
    ({"categories": [{"id": "2", "name": "cat"}]}, "a category without a whole number"),
    ({"images": [{"id": 7, "file_name": 5}]}, "has the file_name 5"),
])
def test_bad_coco_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ca.InputError, match=message):
        load_annotations(write(tmp_path / "coco.json", COCO | change))


LAUGHS = "<!DOCTYPE a [<!ENTITY x 'ha'><!ENTITY y '&x;&x;'>]><annotation><filename>&y;</filename></annotation>"
OUTSIDE = "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><annotation><filename>&x;</filename></annotation>"


@pytest.mark.parametrize(("text", "message"), [
    (LAUGHS, "has a document type or entities"),
    (OUTSIDE, "has a document type or entities"),
    ("<annotation>", "is no XML"),
    ("no", "is no XML"),
    ("<?xml version='1.0' encoding='martian'?><annotation/>", "is no XML"),
    ("<?xml version='1.0' encoding='gb2312'?><annotation/>", "is no XML"),
    ("<a>" * 20 + "</a>" * 20, "over 16 deep"),
    ("<html/>", "holds <html>; expected VOC's <annotation>"),
    (voc("a", (9, 9), "<object><name>cat</name></object>"), "an object without <bndbox>"),
    (voc("a", (9, 9), "<object><bndbox/></object>"), "an object without <name>"),
    (voc("a", (9, 9), thing("cat", (1, 2, 3, "x"))), "has <ymax>x</ymax>; expected a number"),  # type: ignore[arg-type]
    (voc("a", (9, 9), thing("cat", (1, 2, 3, float("nan")))), "expected four finite numbers"),
    (voc("a", (9, 9), thing("cat", (8, 2, 3, 4))), "which ends before it begins"),
    (voc("a", (9, 9), thing("cat", (1, 2, 3, 4), "<difficult>maybe</difficult>")), "expected 0 or 1"),
    (voc("a", (9, 9), thing("wolf", (1, 2, 3, 4))), "of no class that is known"),
])
def test_bad_xml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ca.InputError, match=message):
        load_annotations(write(tmp_path / "a.xml", text), class_names=NAMES)


def test_what_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ca.InputError, match="cannot be read"):
        load_annotations(tmp_path / "none.json")
    with pytest.raises(ca.InputError, match=r"holds no \.xml file"):
        load_annotations(tmp_path)
    path = write(tmp_path / "a.xml", A)
    with pytest.raises(ca.InputError, match="form='yolo'; expected one of plain, coco, voc"):
        load_annotations(path, form="yolo")
    monkeypatch.setattr("chanattr.images.voc.LARGEST", 10)
    with pytest.raises(ca.InputError, match=r"bytes; expected annotations of at most 10"):
        load_annotations(path, class_names=NAMES)
