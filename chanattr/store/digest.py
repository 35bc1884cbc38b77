"""One digest of all answers in a run, whatever the order they came in and whether they are merged yet."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from chanattr.store import check
from chanattr.store.index import Answers, Index
from chanattr.store.layout import ENERGY, FOLDERS, TEXT, Column

MEASURED = "evaluations"  # attribute with what `chanattr evaluate` found, seconds among it


def content_sha256(index: Index) -> str:
    """sha256, in hex, of the run's attributes, images and answers: names, types, shapes and decoded values.

    Left out: what tells how the answers came about (engine, versions, order of writing), and what was measured of them.
    Rows go by key, classes by number, layers by name.
    """
    digest = hashlib.sha256(b"chanattr content 1")
    _say(digest, {name: value for name, value in index.attributes.items() if name != MEASURED})
    names = sorted(index.keys)
    for key in names:
        row = index.row[key]
        _say(digest, [key, index.sha256[row].hex(), index.label[row]])
    for key in sorted(index.thumbnails):
        picture = index.thumbnail(key)
        _say(digest, [key, picture.shape])
        digest.update(picture.tobytes())
    for kind in FOLDERS:
        for name in sorted(index.answers[kind]):
            _add_answers(digest, index, index.answers[kind][name])
    return digest.hexdigest()


def _say(digest: Any, value: Any) -> None:
    check.say(digest, json.dumps(value, sort_keys=True))


def _add_answers(digest: Any, index: Index, answers: Answers) -> None:
    head = answers.head
    described = [[column.name, column.dtype, head.shape(column, 0)] for column in head.columns]
    described += [[name, value, head.grid] for name, value in head.own_attributes.items()]
    _say(digest, [head.path, head.settings.as_dict(), described])
    digest.update(head.areas.tobytes() + head.fill_values.tobytes())
    if head.entry == "group":
        digest.update(head.groups.tobytes())
    images = head.rows == "image"
    for wanted, rows in ((head.columns, answers.rows()), ((ENERGY,), answers.energy_rows())):
        lines = []
        for block, found in answers.blocks(wanted, rows):
            flat = np.concatenate([_bytes(found[column.name], column) for column in wanted], axis=1)
            names = [index.keys[row] for row in rows[block]] if images else rows[block].tolist()
            lines += [(name, hashlib.sha256(line.tobytes()).digest()) for name, line in zip(names, flat, strict=True)]
        for name, line in sorted(lines):
            _say(digest, name)
            digest.update(line)


def _bytes(values: np.ndarray, column: Column) -> np.ndarray:
    """Values as bytes, u1 [R, n]; a text by its digest."""
    if column.dtype == TEXT:
        return np.frombuffer(b"".join(hashlib.sha256(str(text).encode()).digest() for text in values), np.uint8).reshape(len(values), 32)
    return np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
