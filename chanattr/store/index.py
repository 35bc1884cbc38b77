"""What a run holds and where: the merged file and the parts as one, with their arrays left on disk until asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from chanattr.errors import StoreError
from chanattr.records import NOT_RUN
from chanattr.settings import Settings
from chanattr.store import check
from chanattr.store.layout import ENERGY, ENTRY, FOLDERS, FORMAT_VERSION, UNKNOWN_SHA256, Column, Head, area_type, check_format, version_of
from chanattr.store.parts import PartName
from chanattr.store.picture_layout import is_pictures
from chanattr.store.picture_rows import Shelf, add_pictures
from chanattr.store.source import Items, Piece, Source, block_rows, check_columns, picture_at, read_array, read_places, read_rows

Name = tuple[str, str]  # layer, label
# Objects of a run file at most: outside its questions, and of each beside its columns (group and layer, scales and markers, energies).
COMMON_OBJECTS, GROUP_OBJECTS = 32, 16
# Columns of images at most: HDF5 lists each in one attribute of /image, which ends at 64 KiB. (In the format that has no such end a damaged
# file crashes HDF5 1.14.2.)
LISTED = 4000


@dataclass(eq=False)
class Answers:
    """The answers of one layer and label: what they share, and where their rows lie (later pieces replace earlier rows)."""

    head: Head
    pieces: list[Piece] = field(default_factory=list)
    energy: list[Piece] = field(default_factory=list)
    done: set[int] = field(default_factory=set)

    def add(self, piece: Piece) -> None:
        """Takes in a piece."""
        self.pieces.append(piece)
        self.done.update(piece.rows.tolist())

    def rows(self) -> np.ndarray:
        """Rows that were run (or class numbers), increasing."""
        return np.array(sorted(self.done), np.int64)

    def energy_rows(self) -> np.ndarray:
        """Rows that keep the energy at every area, increasing."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *(piece.rows for piece in self.energy)]))

    def gather(self, wanted: Sequence[Column], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Columns (or `ENERGY` alone) as stored, by dataset name, for some rows i8 [R] in their order; what no piece has is filled in."""
        found = {column.name: np.full(self.head.shape(column, len(rows)), column.missing, column.held)
                 for column in wanted}
        for piece in self.energy if ENERGY in wanted else self.pieces:
            where, places = piece.find(rows)
            if len(where):
                with piece.source.open() as root:
                    for column in wanted:
                        found[column.name][where] = read_rows(root[piece.group][column.name], places)
        return found

    def blocks(self, wanted: Sequence[Column], rows: np.ndarray) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """The same a block of `rows` at a time, with where the block lies in them, so that memory does not grow with the run."""
        step = block_rows(wanted, self.head)
        for start in range(0, len(rows), step):
            yield slice(start, start + step), self.gather(wanted, rows[start:start + step])

    def energies(self, rows: np.ndarray) -> np.ndarray:
        """Energy at every area for some rows, f4 [R, A, h, w]; a read-only view of one NaN where no row keeps it."""
        if not np.isin(rows, self.energy_rows()).any():
            return np.broadcast_to(np.float32(np.nan), self.head.shape(ENERGY, len(rows)))
        return self.gather([ENERGY], rows)[ENERGY.name].astype("<f4")


@dataclass(eq=False)
class Index:
    """All that a run holds, arrays left on disk.

    Attributes:
        run_id: random, of the run; "" before the first write.
        attributes: what the run is about.
        keys, sha256, label: of the images, in the order of first writing.
        row: of a key.
        thumbnails: source and place by key.
        answers: by record type, layer and label.
        pictures: that were made, by the path of their group.
        order: layers and labels in the order of first writing.
        merged: number of the last part that the file holds; `last`: of the last part there is.
        content_sha256: as the file states it.
        version: of the format; the newest of file and parts.
    """

    run_id: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    sha256: list[bytes] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    row: dict[str, int] = field(default_factory=dict)
    thumbnails: dict[str, tuple[Source, int]] = field(default_factory=dict)
    answers: dict[type, dict[Name, Answers]] = field(default_factory=lambda: {kind: {} for kind in FOLDERS})
    pictures: Shelf = field(default_factory=dict)
    order: list[Name] = field(default_factory=list)
    file: Source | None = None
    merged: int = 0
    last: int = 0
    content_sha256: str = ""
    version: str = FORMAT_VERSION

    def add_image(self, key: str, sha256: bytes, label: int) -> int:
        """A key's row; a new one at the end, and what was unknown of an old one filled in.

        Raises:
            StoreError: the key is known with other bytes.
        """
        row = self.row.setdefault(key, len(self.keys))
        if row == len(self.keys):
            self.keys.append(key)
            self.sha256.append(sha256)
            self.label.append(label)
            return row
        check_bytes(key, self.sha256[row], sha256)
        self.sha256[row], self.label[row] = filled_in((self.sha256[row], self.label[row]), (sha256, label))
        return row

    def thumbnail(self, key: str) -> np.ndarray:
        """The small picture of an image, u1 [y, x, rgb].

        Raises:
            StoreError: the file has none of it.
        """
        if key not in self.thumbnails:
            known = "the image is in the file, but without one" if key in self.row else "no such image in the file"
            raise StoreError(f"no thumbnail of {key!r} ({known}); expected one of the {len(self.thumbnails)} kept; open the picture itself")
        source, place = self.thumbnails[key]
        with source.open() as root:
            return picture_at(root["images"], place)

    def close(self) -> None:
        """Closes the merged file."""
        if self.file is not None:
            self.file.close()


def filled_in(held: tuple[bytes, int], given: tuple[bytes, int]) -> tuple[bytes, int]:
    """An image's sha256 and label, from what was known of it and what is told of it now, unknown ones (zeros, below 0) included."""
    return held[0] if given[0] == UNKNOWN_SHA256 else given[0], held[1] if given[1] < 0 else given[1]


def check_bytes(key: str, stored: bytes, given: bytes) -> None:
    """Refuses a known key with other bytes.

    Raises:
        StoreError: both digests are known and differ.
    """
    if UNKNOWN_SHA256 not in (stored, given) and stored != given:
        raise StoreError(f"image {key!r} is in the file with other bytes (sha256 {stored.hex()[:12]}, now {given.hex()[:12]}); expected "
                         "the same picture under the same key; rename the new one, or write to another file")


def check_label(key: str, stored: int, given: int) -> None:
    """Refuses another label for a known one: answers for classes are over the images of a label, and would be stale for good.

    Raises:
        StoreError: both labels are known and differ.
    """
    if min(stored, given) >= 0 and stored != given:
        raise StoreError(f"image {key!r} is in the file with the label {stored}, now {given}; expected the same one, for the answers for "
                         "classes hang on it; give the label that it had, or -1 for none, or write to another file")


def add(index: Index, source: Source, *, sealed: bool = True) -> None:
    """Adds what a source holds to the index.

    Raises:
        StoreError: the source is damaged, or of another run, format or question.
    """
    with source.open() as root:
        about = check.root_attributes(root)
        check_format(about, source.path, part=source.part is not None)
        found = check.walk(root)
        if index.run_id and about.get("run_id") != index.run_id:
            raise StoreError(f"{source.path} belongs to another run than the file beside it; expected parts of one run; move the "
                             f"folder {source.path.parent.name} away if the file is the one you want, or else the file")
        index.run_id = str(about["run_id"])
        index.version = max(index.version, str(about["format_version"]), key=version_of)
        if "settings" in about:
            index.attributes = run_attributes(str(about["settings"]))
        groups = by_group(found)
        rows = _add_images(index, source, groups)
        if source.part is None:
            _add_file(index, about, found, sealed)
        heads = [read_head(kind, found[where], items) for where, items in groups.items() for kind, folder in FOLDERS.items()
                 if where.startswith(f"/{folder}/") and where.count("/") == 3]
        for head in _in_order(about, heads):
            _add_answers(index, source, head, groups[f"/{head.path}"], rows)
        for where in filter(is_pictures, groups):
            add_pictures(index.pictures, source, where, found[where], groups[where])
    if source.part is not None:
        index.last = max(index.last, source.part.number)


def check_writable(index: Index) -> None:
    """Refuses to go on with a file of a newer format: what this version does not know in it would be lost in the next merge.

    Raises:
        StoreError: so.
    """
    if version_of(index.version) > version_of(FORMAT_VERSION):
        raise StoreError(f"the run has format version {index.version}; expected {FORMAT_VERSION} or an older one to go on with; install a "
                         "newer chanattr, or write to another file (reading is possible)")


def _add_file(index: Index, about: Mapping[str, Any], found: dict[str, Any], sealed: bool) -> None:
    """What only the merged file says of itself, and whether its header is as it was written."""
    index.merged = index.last = int(about["parts_merged"])
    if not sealed:
        return
    if why := check.changed(found, index.keys, about):
        raise ValueError(why)
    index.content_sha256 = str(about["content_sha256"])


def by_group(found: Mapping[str, Any]) -> dict[str, Items]:
    """The objects of a walk by group and name: looking one up in h5py costs as much as reading it."""
    groups: dict[str, Items] = {"": {}}
    for where, item in found.items():
        group, _, name = where.rpartition("/")
        groups.setdefault(group, {})[name] = item
    return groups


def _add_images(index: Index, source: Source, groups: Mapping[str, Items]) -> np.ndarray:
    """The run's rows of a source's images."""
    root = groups[""]
    if "image" not in root:
        return np.zeros(0, np.int64)
    keys = check.read_text(root["image"], source.size)
    if len(set(keys)) < len(keys):
        raise ValueError("a key is there twice")
    sha256, label = read_array(root, "sha256", "|u1", (len(keys), 32)), read_array(root, "label", "<i4", (len(keys),))
    if index.keys:
        rows = [index.add_image(key, bytes(digest), int(number)) for key, digest, number in zip(keys, sha256, label, strict=True)]
    else:  # as of a large file: all at once
        data = sha256.tobytes()
        rows = list(range(len(keys)))
        index.keys, index.sha256, index.label = keys, [data[32 * row:32 * row + 32] for row in rows], label.tolist()
        index.row = dict(zip(keys, rows, strict=True))
    if "/images" in groups:
        kept = read_places(groups["/images"]["row"], len(keys))
        index.thumbnails.update({keys[row]: (source, place) for place, row in enumerate(kept)})
    return np.array(rows, np.int64)


def _in_order(about: Mapping[str, Any], heads: Sequence[Head]) -> list[Head]:
    """Groups in the order of first writing of their layer and label, which the file states; a part has one."""
    names = {(head.layer, head.label) for head in heads}
    order = [(str(layer), str(label)) for layer, label in json.loads(about["order"])] if "order" in about else sorted(names)
    if len(order) != len(set(order)) or set(order) != names:
        raise ValueError(f"its groups are {sorted(names)}, but it lists {order}")
    return sorted(heads, key=lambda head: order.index((head.layer, head.label)))


def _add_answers(index: Index, source: Source, head: Head, group: Items, rows: np.ndarray) -> None:
    name = (head.layer, head.label)
    if name not in index.order:
        index.order.append(name)
    known = index.answers[head.kind].setdefault(name, Answers(head))
    check_same(known.head, head)
    if head.rows == "class":
        classes = read_array(group, "class", "<i4", (len(group["class"]),)).astype(np.int64)
        check_columns(head, group, head.columns, len(classes))
        known.add(_piece(source, head.path, classes, np.arange(len(classes))))
        return
    check_columns(head, group, head.columns, len(rows))
    places = np.flatnonzero(read_array(group, "smallest_area", area_type(head.kind), (len(rows),)) != NOT_RUN)
    places = np.array([place for place in places if int(rows[place]) not in known.done], np.int64)  # the first writing stands
    known.add(_piece(source, head.path, rows[places], places))
    if "energy_row" in group:
        kept = read_places(group["energy_row"], len(rows))
        check_columns(head, group, [ENERGY], len(kept))
        mine = np.flatnonzero(np.isin(kept, places))
        known.energy.append(_piece(source, head.path, rows[kept[mine]], mine))


def read_head(kind: type, group: h5py.Group, items: Items) -> Head:
    """What the rows of a group share.

    Raises:
        ValueError, LookupError: the group does not say so, or says that it is another.
    """
    about = check.attributes(group)
    areas = read_array(items, "area", area_type(kind), (len(items["area"]),))
    fill = read_array(items, "fill_values", "<f4", (len(items["fill_values"]),)) if "fill_values" in items else np.zeros(0, "<f4")
    if len(fill) > check.MAX_ENTRIES:
        raise ValueError(f"{group.name} has {len(fill)} channels, more than {check.MAX_ENTRIES}")
    groups = read_array(items, "groups", "<i4", fill.shape) if "groups" in items else np.arange(len(fill), dtype="<i4")
    if "groups" in items and not np.array_equal(np.unique(groups), np.arange(len(np.unique(groups)))):
        raise ValueError(f"the groups of {group.name} are not numbered from 0 without a gap")
    down, across = (int(size) for size in about["grid"])
    head = Head(kind=kind, layer=str(about["layer"]), label=str(about["label"]), settings=Settings.from_json(str(about["settings"])),
                engine=str(about["engine"]), areas=areas, fill_values=fill, groups=groups, grid=(down, across),
                created=str(about.get("created", "")), versions=str(about.get("versions", "")))
    if f"/{head.path}" != group.name:
        raise ValueError(f"the group {group.name} says that it is {head.path}")
    if (kernel := {name: about.get(name) for name in head.own_attributes}) != head.own_attributes:
        raise ValueError(f"the codes of {group.name} are of another kernel, {kernel}")
    return head


def check_same(stored: Head, given: Head) -> None:
    """Refuses answers to another question than those already there.

    Raises:
        StoreError: settings, areas, channels, grid or fill values differ.
    """
    different: list[tuple[str, Any, Any]] = stored.settings.differences(given.settings)
    different += [(f"the number of {name}s", stored.sizes[name], given.sizes[name]) for name in ("channel", ENTRY, "area", "y", "x")
                  if stored.sizes[name] != given.sizes[name]]
    if not different:
        different += [(name, getattr(stored, name).tolist(), getattr(given, name).tolist()) for name in ("areas", "fill_values", "groups")
                      if not np.array_equal(getattr(stored, name), getattr(given, name), equal_nan=name == "fill_values")]
    for name, mine, theirs in different:
        raise StoreError(f"layer {stored.layer!r} has answers under the label {stored.label!r} with {name} {_short(mine)}; these have "
                         f"{_short(theirs)}; expected one question a label; write these under another one: label=...")


def check_room(index: Index, head: Head) -> None:
    """Refuses a new question where the run file would hold more than one can: it could be written, and never merged nor read.

    Raises:
        StoreError: so.
    """
    held = [answers.head for kind in index.answers.values() for answers in kind.values()]
    if (head.kind, head.layer, head.label) in {(one.kind, one.layer, one.label) for one in held}:
        return
    common = COMMON_OBJECTS + GROUP_OBJECTS * len(index.pictures)
    objects = common + sum(len(one.columns) + GROUP_OBJECTS for one in (*held, head))
    listed = common + sum(len(one.columns) for one in (*held, head) if one.rows == "image")
    for number, most, what in ((objects, check.MAX_OBJECTS, "datasets"), (listed, LISTED, "datasets with a row an image")):
        if number > most:
            raise StoreError(f"layer {head.layer!r} under the label {head.label!r} is one question too many: the file has {len(held)} "
                             f"already, and with it more than {most} {what}; expected fewer a file; write it to another file")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 160 else f"{text[:150]}..."


def run_attributes(text: str) -> dict[str, Any]:
    """What a run is about, from JSON.

    Raises:
        ValueError: they are no JSON object.
    """
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("its settings are not a JSON object")
    return found


def _piece(source: Source, group: str, rows: np.ndarray, places: np.ndarray) -> Piece:
    order = np.argsort(rows, kind="stable")
    if len(np.unique(rows)) < len(rows):
        raise ValueError(f"{group} has a row twice")
    return Piece(source, group, rows[order], places[order])


def load(file: Path | None, parts: Sequence[PartName], *, sealed: bool = True) -> Index:
    """The index of a merged file and of the parts that it does not hold yet.

    Args:
        file: None where nothing is merged yet.
        parts: in order.
        sealed: False for a file that has no digests yet.

    Raises:
        StoreError: something is damaged, or does not belong together.
        PartGone: a part went away meanwhile.
    """
    index = Index()
    try:
        if file is not None:
            index.file = Source(file)
            add(index, index.file, sealed=sealed)
        for part in parts:
            index.last = max(index.last, part.number)
            if part.number > index.merged:
                add(index, Source(part.path, part))
    except BaseException:
        index.close()
        raise
    return index
