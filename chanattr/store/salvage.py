"""What of a run is whole, row by row, and what is not: told by `chanattr check`, kept by `chanattr repair`."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from chanattr.errors import StoreError
from chanattr.records import NOT_RUN, SpatialAttribution
from chanattr.store import check
from chanattr.store.index import by_group, read_head, run_attributes
from chanattr.store.layout import ASKED, ENERGY, FOLDERS, Column, Head, area_type, asked_of, check_format
from chanattr.store.loading import check_path, tried
from chanattr.store.parts import ImageRows, PartGone, Place, list_parts
from chanattr.store.picture_layout import is_pictures
from chanattr.store.picture_rows import whole_rows
from chanattr.store.run import Run, open_run
from chanattr.store.sound import odd_rows, ranges, read_whole, wrong_sizes
from chanattr.store.source import BLOCK, Items, Source, block_rows, check_columns, picture_at, read_array, read_rows


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What `survey` or `repair` found.

    Attributes:
        faults: a line each, empty where the run is whole.
        images: whose key, digest and label are whole.
        kept: rows of answers that are whole, by the group that they lie in.
        content_sha256: of a run that is whole; "" with faults.
    """

    faults: tuple[str, ...]
    images: int
    kept: Mapping[str, int]
    content_sha256: str = ""


@dataclass
class _Work:
    """The way through a run: what is wrong so far, what is whole, and where to that is written."""

    target: Run | None = None
    faults: list[str] = field(default_factory=list)
    images: set[str] = field(default_factory=set)
    kept: Counter[str] = field(default_factory=Counter)

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Takes note of a file that is refused, and goes on after it; not of a part that another process merges."""
        try:
            yield
        except PartGone:
            raise
        except StoreError as error:
            self.faults.append(str(error))

    def write(self, **piece: Any) -> None:
        """Keeps what is whole."""
        if self.target is not None:
            self.target.write_stored(**piece)


@dataclass(frozen=True)
class _Images:
    """The image table of one source; `keys` has None where a row is not whole."""

    keys: list[str | None]
    sha256: np.ndarray
    label: np.ndarray

    def rows(self, chosen: Sequence[int], thumbnails: Mapping[int, np.ndarray]) -> ImageRows:
        """Some rows that are whole."""
        return ImageRows(keys=[self.keys[row] or "" for row in chosen], sha256=self.sha256[list(chosen)], label=self.label[list(chosen)],
                         thumbnails=thumbnails)


def survey(path: Path) -> Survey:
    """Reads all of a run, and tells everything in it that is not as it was written: structure, checksums, digests, exact mask sizes.

    Raises:
        StoreError: nothing there, or no run of chanattr.
    """
    return tried(path, lambda: _survey(path))


def _survey(path: Path) -> Survey:
    work = _through(path, _Work())
    content = ""
    if not work.faults:
        with work.noting(), open_run(path) as run:
            content = run.check()
    return Survey(faults=tuple(work.faults), images=len(work.images), kept=dict(work.kept), content_sha256=content)


def repair(path: Path, output: Path) -> Survey:
    """Writes what is whole of a run into a new file; the old one stays as it is.

    A row is kept where its key, its question and every one of its values have the digest or checksum that they were written with, and
    its masks their exact sizes. The run that made the file goes on with the new one and searches again what is missing.

    Raises:
        StoreError: nothing there, no run of chanattr, nothing of it is whole, or the new file is there already or cannot be written.
    """
    if Place(output).file.exists() or list_parts(Place(output).parts):
        raise StoreError(f"{output} is there already; expected a place for a new file; name another with -o, or move that one away")
    with open_run(output, "a") as target:
        work = _through(path, _Work(target))
        if not work.images and not work.kept:
            raise StoreError(f"nothing of {path} is whole ({'; '.join(work.faults)[:500]}); expected some rows that are; take it from a "
                             "backup, or make it again")
    return Survey(faults=tuple(work.faults), images=len(work.images), kept=dict(work.kept))


def _through(path: Path, work: _Work) -> _Work:
    """The merged file, then the parts that it does not hold."""
    place = Place(path)
    check_path(place, "r")
    merged, settings = 0, "{}"
    if place.file.exists():
        merged, settings = _file(place.file, work)
    for part in list_parts(place.parts):
        if part.number <= merged:
            continue
        source = Source(part.path, part)
        with work.noting(), source.open() as root:
            settings = str(root.attrs.get("settings", settings))
            _source(root, work, whole=True)
    _settings(settings, work)
    return work


def _file(path: Path, work: _Work) -> tuple[int, str]:
    """The merged file: the number of the last part in it, and what the run is about as JSON."""
    about: dict[str, Any] | None = None
    with contextlib.ExitStack() as closing:
        with work.noting():
            source = Source(path)
            closing.callback(source.close)
            with source.open() as root:
                about = check.attributes(root)
        if about is None:
            return 0, "{}"
        check_format(about, path)  # another kind of file, or a newer one, is no fault but an error
        with work.noting(), source.open() as root:
            _source(root, work, whole=_header(root, about, work))
    return int(about.get("parts_merged", 0)), str(about.get("settings", "{}"))


def _header(root: h5py.File, about: Mapping[str, Any], work: _Work) -> bool:
    """Whether names, keys and attributes are as they were written."""
    try:
        found = check.walk(root)
        why = check.changed(found, check.read_text(root["image"], root.id.get_filesize()), about)
    except check.READING:
        return False  # what it is will be said by name
    work.faults += [why] if why else []
    return not why


def _source(root: h5py.File, work: _Work, *, whole: bool) -> None:
    """Everything of one file that is whole.

    Args:
        root: of the file.
        work: takes what is found.
        whole: whether what no checksum of a chunk covers is known to be as it was written.
    """
    found = check.walk(root, work.faults)
    groups, odd = by_group(found), odd_rows(found)
    images = _images(groups[""], odd, work, whole)
    _keep_images(groups, images, work)
    for where, items in groups.items():
        for kind, folder in FOLDERS.items():
            if where.startswith(f"/{folder}/") and where.count("/") == 3 and where in found:
                head = None
                with check.noting(work.faults, f"{where} cannot be used"):
                    head = _head(kind, found[where], items, len(images.keys), whole)
                if head is not None:
                    _answers(head, items, images, odd, work)
        if is_pictures(where) and where in found:
            for made, data in whole_rows(where, found[where], items, work.faults):
                work.write(pictures=(made, data))
                work.kept[made.path] += 1


def _head(kind: type, group: Any, items: Items, images: int, whole: bool) -> Head:
    """What a group's rows share, held against its digest, and its columns looked at.

    Raises:
        ValueError: it is not as it was written.
    """
    head = read_head(kind, group, items)
    if head.settings.digest() != group.attrs["digest"]:
        raise ValueError("its question does not have the digest that it states")
    if head.settings.areas and not np.array_equal(head.areas, np.array(head.settings.areas).astype(area_type(kind))):
        raise ValueError("its areas are not those of its question")
    if kind is SpatialAttribution and not whole:
        raise ValueError("the size of its pictures is under no digest that still holds")
    check_columns(head, items, head.columns, len(items["class"]) if head.rows == "class" else images)
    return head


def _images(root: Items, odd: Mapping[str, np.ndarray], work: _Work, whole: bool) -> _Images:
    """The image table; without a whole header a key counts where its digest says so."""
    count = len(root["image"]) if "image" in root and len(root["image"].shape) == 1 else 0
    keys: list[str | None] = []
    columns = {"sha256": np.zeros((count, 32), "u1"), "label": np.full(count, -1, "<i4")}
    if not whole:
        columns["key_sha256"] = np.zeros((count, check.KEY_BYTES), "u1")
    there = {name: kept for name, kept in columns.items()
             if name in root and (root[name].shape, root[name].dtype) == (kept.shape, kept.dtype)}
    lost = sorted(columns.keys() - there.keys()) if count else []
    work.faults += [f"/{name} is not there as it must be, and no image is kept without it" for name in lost]
    room = check.MAX_OPENED + (root["image"].file.id.get_filesize() if count else 0)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        texts, bad = read_whole(root["image"], start, stop, odd, work.faults)
        bad |= bool(lost)
        for name, kept in there.items():
            kept[start:stop], wrong = read_whole(root[name], start, stop, odd, work.faults)
            bad |= wrong
        if "key_sha256" in there:
            wrong = (check.key_digests([str(text) for text in texts]) != there["key_sha256"][start:stop]).any(1)
            bad |= wrong
            if wrong.any():
                work.faults.append(f"/image rows {ranges(start + np.flatnonzero(wrong))} do not have the digests of their keys")
        room -= sum(map(len, texts)) + len(texts)
        if room < 0:
            work.faults.append("/image has more text than the file has bytes")
            return _Images([None] * count, columns["sha256"], columns["label"])
        keys += [None if lost else str(text) for text, lost in zip(texts, bad, strict=True)]
    repeated = {key for key, times in Counter(key for key in keys if key is not None).items() if times > 1}
    if repeated:
        work.faults.append(f"/image has {sorted(repeated)[0]!r} twice")
    return _Images([None if key in repeated else key for key in keys], columns["sha256"], columns["label"])


def _keep_images(groups: Mapping[str, Items], images: _Images, work: _Work) -> None:
    """The image table's whole rows, with their thumbnails."""
    pictures = groups.get("/images", {})
    place: dict[int, int] = {}
    if pictures:
        with check.noting(work.faults, "/images cannot be used"):
            place = {int(row): where for where, row in enumerate(read_rows(pictures["row"], np.arange(len(pictures["row"]))))}
    for start in range(0, len(images.keys), BLOCK):
        rows = [row for row in range(start, min(start + BLOCK, len(images.keys))) if images.keys[row] is not None]
        thumbnails = {}
        for new, row in enumerate(rows):
            if row in place:
                with check.noting(work.faults, f"/images/thumbnail {place[row]} cannot be read"):
                    thumbnails[new] = picture_at(pictures, place[row])
        if rows:
            work.write(images=images.rows(rows, thumbnails))
            work.images.update(images.keys[row] or "" for row in rows)


def _answers(head: Head, items: Items, images: _Images, odd: Mapping[str, np.ndarray], work: _Work) -> None:
    """The whole rows of a group, a block at a time."""
    count = len(items["class"]) if head.rows == "class" else len(images.keys)
    energy = _energy_places(head, items, count, work)
    step = block_rows(head.columns, head)
    for start in range(0, count, step):
        stop = min(start + step, count)
        data, bad = {}, np.zeros(stop - start, bool)
        for column in head.columns:
            data[column], wrong = read_whole(items[column.name], start, stop, odd, work.faults)
            bad |= wrong
        area = next((data[column] for column in head.columns if column.field == "smallest_area"), np.zeros(stop - start))
        if head.rows == "image":
            bad |= (area == NOT_RUN) | np.array([images.keys[row] is None for row in range(start, stop)], bool)
        for row, why in wrong_sizes(head, data, ~bad):
            work.faults.append(f"/{head.path} row {start + row}: {why}")
            bad[row] = True
        good = np.flatnonzero(~bad)
        if len(good):
            try:
                _keep(head, items, images, data, start + good, good, energy, work)
                work.kept[head.path] += len(good)
            except StoreError as error:
                work.faults.append(f"/{head.path}: {error}")


def _keep(head: Head, items: Items, images: _Images, data: Mapping[Column, np.ndarray], rows: np.ndarray, good: np.ndarray,
          energy: Mapping[int, int], work: _Work) -> None:
    chosen = {column: values[good] for column, values in data.items()}
    if head.rows == "class":
        numbers, bad = read_whole(items["class"], int(rows[0]), int(rows[-1]) + 1, {}, work.faults)
        if bad.any():
            raise StoreError("its class numbers cannot be read")
        work.write(head=head, data=chosen, rows=numbers[rows - rows[0]].tolist())
        return
    kept = [(new, energy[int(row)]) for new, row in enumerate(rows) if int(row) in energy]
    by_area = None
    if kept:
        rows_in, places = np.array(sorted(kept, key=lambda pair: pair[1])).T
        with check.noting(work.faults, f"/{head.path}/energy_by_area cannot be read, and the rows are kept without it"):
            by_area = rows_in.astype("<i4"), read_rows(items["energy_by_area"], places)
    work.write(images=images.rows(rows.tolist(), {}), head=head, data=chosen, energy=by_area)


def _energy_places(head: Head, items: Items, count: int, work: _Work) -> dict[int, int]:
    """Where the energy at every area of a row lies."""
    if "energy_row" not in items:
        return {}
    with check.noting(work.faults, f"/{head.path}/energy_row cannot be used"):
        kept = read_array(items, "energy_row", "<i4", (len(items["energy_row"]),))
        check_columns(head, items, [ENERGY], len(kept))
        return {int(row): place for place, row in enumerate(kept) if 0 <= row < count}
    return {}


def _settings(text: str, work: _Work) -> None:
    """What the run is about, into the new file: as not finished, where something is lost."""
    about: dict[str, Any] = {}
    with check.noting(work.faults, "the run's settings cannot be read"):
        about = run_attributes(text)
    if work.faults:
        for name in ASKED:
            said = asked_of(about, name)
            about |= {name: {layer: {label: one | {"finished": False} for label, one in labels.items()} for layer, labels in said.items()}}
        about = {name: value for name, value in about.items() if name not in ASKED or value}
    if work.target is not None and about and (work.images or work.kept):  # alone they would leave a new run file that holds nothing
        work.target.set_attributes(**about)
