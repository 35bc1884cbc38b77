"""Several run files of one question into one: what each process of an array of jobs searched, and what they have in common."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chanattr.errors import StoreError
from chanattr.records import SpatialAttribution
from chanattr.store.digest import MEASURED
from chanattr.store.index import Answers, Index, check_label, check_room
from chanattr.store.layout import ASKED, ENERGY, FOLDERS, asked_of
from chanattr.store.picture_rows import read_stored
from chanattr.store.run import Run, open_run
from chanattr.store.source import BLOCK
from chanattr.store.writer import image_rows

PICTURES = 64  # a part


def join_runs(paths: Sequence[Path], output: Path) -> dict[str, Any]:
    """Writes what several runs hold into one, new or gone on with; gives its summary.

    An image that several have counts once, with the answers and the thumbnail of the first that has some; classes are those of the last
    that has them. What is there already is passed over, so that a call that was stopped may be repeated.

    Raises:
        StoreError: no runs, the output among them, other settings or questions, or other bytes or labels under the same key.
    """
    if not paths or os.path.realpath(output) in map(os.path.realpath, paths):
        raise StoreError(f"{len(paths)} runs into {output}; expected one run or more, and a file that is none of them; name another output")
    with open_run(output, "a") as target:
        for path in paths:
            with open_run(path) as source:
                target.set_attributes(**_together(target, source, path))
                index = source.index_for_copies
                _copy_images(index, target)
                for layer, label in index.order:
                    for kind in FOLDERS:
                        if (layer, label) in index.answers[kind]:
                            _copy_answers(index, index.answers[kind][layer, label], target)
                _copy_pictures(index, target)
        return target.summary()


def _together(target: Run, source: Run, path: Path) -> dict[str, Any]:
    """The attributes of both, but for what was measured of one; a question came to its end where it did in both.

    Raises:
        StoreError: they differ.
    """
    mine, theirs = target.attributes, source.attributes
    for name in mine.keys() & theirs.keys() - {*ASKED, MEASURED}:
        if mine[name] != theirs[name]:
            raise StoreError(f"{path} has {name}={str(theirs[name])[:100]!r}, the runs before it {str(mine[name])[:100]!r}; expected runs "
                             "of one model, made alike; merge those that are")
    both = {name: value for name, value in {**theirs, **mine}.items() if name not in (*ASKED, MEASURED)}
    for name in ASKED:
        asked = asked_of(mine, name)
        for layer, labels in asked_of(theirs, name).items():
            for label, said in labels.items():
                held = asked.setdefault(layer, {}).setdefault(label, said)
                if held.get("targets") != said.get("targets"):
                    raise StoreError(f"{path} was asked at {layer} under the label {label!r} with targets {said.get('targets')!r}, the "
                                     f"runs before it with {held.get('targets')!r}; expected one question a label; merge those that are "
                                     "alike")
                asked[layer][label] = {**held, "finished": bool(held.get("finished")) and bool(said.get("finished"))}
        if asked:
            both[name] = asked
    return both


def _copy_images(index: Index, target: Run) -> None:
    """The image table, as far as the target has not all of it."""
    table = target.images()
    known = dict(zip(table.keys, zip(map(bytes, table.sha256), table.label.tolist(), strict=True), strict=True))
    for key, label in zip(index.keys, index.label, strict=True):
        check_label(key, known.get(key, (b"", -1))[1], label)
    pictured = index.thumbnails.keys() - target.index_for_copies.thumbnails.keys()
    new = [key for row, key in enumerate(index.keys) if key in pictured or known.get(key) != (index.sha256[row], index.label[row])]
    for start in range(0, len(new), BLOCK):
        keys = new[start:start + BLOCK]
        thumbnails = {key: index.thumbnail(key) for key in keys if key in pictured}
        target.write_stored(images=image_rows(index, {}, keys, thumbnails))


def _copy_answers(index: Index, answers: Answers, target: Run) -> None:
    head = answers.head
    check_room(target.index_for_copies, head)
    rows = answers.rows()
    if head.rows == "image":
        done = target.finished(head.layer, head.label, spatial=head.kind is SpatialAttribution)
        rows = np.array([row for row in rows if index.keys[row] not in done], np.int64)
    kept = answers.energy_rows()
    for places, found in answers.blocks(head.columns, rows):
        block = rows[places]
        data = {column: found[column.name] for column in head.columns}
        if head.rows == "class":
            target.write_stored(head=head, data=data, rows=block.tolist())
            continue
        with_energy = np.flatnonzero(np.isin(block, kept)).astype("<i4")
        energy = (with_energy, answers.gather([ENERGY], block[with_energy])[ENERGY.name]) if len(with_energy) else None
        images = image_rows(index, {}, [index.keys[row] for row in block], {})
        target.write_stored(images=images, head=head, data=data, energy=energy)


def _copy_pictures(index: Index, target: Run) -> None:
    """Pictures that the target has not."""
    for where, pictures in index.pictures.items():
        held = target.index_for_copies.pictures.get(where)
        new = [one for one in pictures.place if held is None or one not in held.place]
        for start in range(0, len(new), PICTURES):
            target.write_stored(pictures=(pictures.head, read_stored(pictures, new[start:start + PICTURES])))
