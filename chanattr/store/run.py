"""`open_run`: a run of attributions in a file, written row by row and read in any state."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from chanattr.arguments import check_name, path_of
from chanattr.errors import StoreError
from chanattr.picture_records import ChannelImages, Examples, Inversion
from chanattr.records import ClassAttribution, ImageAttribution, SpatialAttribution
from chanattr.store import lock, reader, writer
from chanattr.store.digest import content_sha256
from chanattr.store.index import Index, add, check_writable, load
from chanattr.store.layout import Answer, ImageTable
from chanattr.store.loading import check_path, load_again, load_place
from chanattr.store.merge import merge
from chanattr.store.parts import PartGone, Place, build_part, remove_parts, write_part
from chanattr.store.picture_layout import Made
from chanattr.store.picture_rows import picture_piece, records
from chanattr.store.source import Source

T = TypeVar("T")
_log = logging.getLogger(__name__)


def open_run(path: str | os.PathLike[str], mode: str = "r") -> Run:
    """A run file, open for reading or for going on.

    Args:
        path: of the run file; parts and lock lie beside it (``run.h5.parts``, ``run.h5.lock``).
        mode: "r" reads whatever is there, without a lock and without changing anything; "a" writes too, makes the run where there is
            none, and merges all parts into the file when closed.

    Raises:
        StoreError: nothing there, damaged, not a run, held by another writer, or not writable.
        InputError: no path, or another mode.

    Examples:
        >>> import tempfile, chanattr as ca
        >>> with tempfile.TemporaryDirectory() as folder, ca.open_run(f"{folder}/run.h5", "a") as run:
        ...     run.write(ca.figures.samples.images())
        ...     run.per_image("features.10", rows=["b.jpg"]).smallest_area.tolist()
        [3]
    """
    check_name("mode", mode, ("r", "a"), remedy="'r' reads, and 'a' writes, also a new run")
    return Run(path_of("path", path), mode)


class Run:
    """A run file; use `open_run` to make one, and ``with`` or `close` to end it.

    Attributes:
        path, mode: of the run file, and how it is open, "r" or "a".

    Examples:
        >>> import tempfile, chanattr as ca
        >>> with tempfile.TemporaryDirectory() as folder, ca.open_run(f"{folder}/run.h5", "a") as run:
        ...     for record in (ca.figures.samples.images(), ca.figures.samples.classes(), ca.figures.samples.masks()):
        ...         run.write(record)
        ...     run.layers, run.spatial_layers, run.labels("features.10"), sorted(run.finished("features.10"))
        ...     run.field("features.10", "smallest_area").tolist(), run.per_class("features.10").names, run.spatial(rows=[0]).keys
        (('features.10',), (':input',), ('exact',), ['a.jpg', 'b.jpg', 'c.jpg'])
        ([2, 3, 4], ('cat', 'dog', 'fox'), ('a.jpg',))
    """

    def __init__(self, path: Path, mode: str) -> None:
        self.path, self.mode = path, mode
        self._place = Place(path)
        self._known: writer.Known = {}
        self._changed: dict[str, None] = {}  # keys whose row of the image table is not durable yet, in order
        self._open: Index | None = None
        self._torn = False  # a part is being written, and the index may know half of it
        check_path(self._place, mode)
        self._lock = lock.take(self._place.lock) if mode == "a" else -1
        try:
            self._open = load_place(self._place, mode)
            if mode == "a":
                check_writable(self._open)
                remove_parts(self._place, self._open.merged)
                self._open.run_id = self._open.run_id or secrets.token_hex(8)
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        try:
            self.close()
        except StoreError as second:  # the first error is the one to show; the parts are safe
            _log.warning("%s could not be merged and stays in parts: %s", self.path, second)

    def __repr__(self) -> str:
        state = "closed" if self._open is None else f"images: {len(self.keys)}, layers: {len(self.layers)}"
        return f"<run {self.path} ({self.mode}): {state}>"

    def close(self) -> None:
        """Ends the run; one open for writing is merged into its file first. A second call does nothing.

        Raises:
            StoreError: the file cannot be written; the parts then stay, and nothing is lost.
        """
        if self._open is None:
            return
        try:
            if self.mode == "a":
                self._mend()
                self._write_changed()
                if self._index.last > self._index.merged:
                    merge(self._place, self._index, reader.image_table(self._index))
                    remove_parts(self._place, self._index.last)
        finally:
            self._release()

    def _mend(self) -> None:
        """Reads the index again where an interruption fell between a part and its place in the index: a merge would lose it."""
        if self._torn and self._open is not None:
            fresh = load_place(self._place, self.mode)
            fresh.run_id, fresh.last = self._open.run_id, max(fresh.last, self._open.last)
            self._open.close()
            self._open, self._torn = fresh, False

    def _release(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def _index(self) -> Index:
        if self._open is None:
            raise StoreError(f"{self.path} is closed; expected an open run; open it again with ca.open_run")
        return self._open

    def _read(self, get: Callable[[Index], T]) -> T:
        """What is asked of the index; once more where whoever writes the run has merged parts since it was opened."""
        try:
            return get(self._index)
        except PartGone:  # only another process merges: never while this one writes
            self._open = load_again(self._place, self._index)
            return get(self._index)

    def _repr_html_(self) -> str:
        return reader.html_of(self.summary())

    # What is there
    @property
    def layers(self) -> tuple[str, ...]:
        """Layers with sets of channels, in the order of first writing."""
        return tuple(dict.fromkeys(layer for layer, _ in reader.names_of(self._index, spatial=False)))

    @property
    def spatial_layers(self) -> tuple[str, ...]:
        """Layers with masks on the picture (":input"), or on their own grid, in the order of first writing."""
        return tuple(dict.fromkeys(layer for layer, _ in reader.names_of(self._index, spatial=True)))

    def labels(self, layer: str, *, spatial: bool = False) -> tuple[str, ...]:
        """Labels under which a layer has sets of channels, for images or classes, or masks on the picture; empty where it has none."""
        return tuple(label for one, label in reader.names_of(self._index, spatial) if one == layer)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of all images in the order of first writing: the rows of `per_image`."""
        return tuple(self._index.keys)

    @property
    def attributes(self) -> dict[str, Any]:
        """What the run is about: model, model_sha256, shard_size, preprocessing, class_names, and whatever else was set (a copy)."""
        return dict(json.loads(json.dumps(self._index.attributes)))

    def finished(self, layer: str, label: str = "exact", *, spatial: bool = False) -> set[str]:
        """Keys of the images that have a set of channels (or a mask on the picture) at a layer; empty for a layer that has none."""
        answers = self._index.answers[reader.BY_IMAGE[spatial]].get((layer, label))
        return {self._index.keys[row] for row in answers.done} if answers else set()

    def per_image(self, layer: str, label: str = "exact", rows: reader.Keys = None) -> ImageAttribution:
        """The answers for images at a layer, in the order of `keys` or of the rows given.

        Only what is asked for is read. Rows that were not run come back with `smallest_area` -2, NaN scores and empty masks. Energies
        were rounded to half precision when they were written.

        Args:
            layer: dotted name.
            label: under which it was written.
            rows: row numbers, a slice, a mask, keys, one of these, or None for all.

        Raises:
            StoreError: no such answers, no such rows, or the file is damaged.
        """
        return self._read(lambda index: reader.image_record(index, layer, label, rows))

    def spatial(self, rows: reader.Keys = None, layer: str = ":input", label: str = "exact") -> SpatialAttribution:
        """The masks on the picture, in the order of `keys` or of the rows given; ``found.masks()`` has what their codes mean.

        Only what is asked for is read. Rows that were not run come back with `smallest_area` -2, NaN scores and codes of 0.

        Args:
            rows, label: as for `per_image`.
            layer: ":input" for the picture, or the layer on whose grid the masks lie.

        Raises:
            StoreError: no such answers, no such rows, or the file is damaged.
        """
        return self._read(lambda index: reader.spatial_record(index, layer, label, rows))

    def field(self, layer: str, name: str, label: str = "exact", *, rows: reader.Keys = None, spatial: bool = False) -> np.ndarray:
        """One array of `per_image` (or of `spatial`), by its name there, without reading the others: for statistics over large files.

        Raises:
            StoreError: no such answers, rows or array, or the file is damaged.
        """
        return self._read(lambda index: reader.row_field(index, reader.BY_IMAGE[spatial], layer, label, name, rows))

    def has_classes(self, layer: str, label: str = "exact") -> bool:
        """Whether there are answers for classes at a layer."""
        return (layer, label) in self._index.answers[ClassAttribution]

    def per_class(self, layer: str, label: str = "exact") -> ClassAttribution:
        """The answers for classes at a layer, by class number.

        Raises:
            StoreError: there are none, or the file is damaged.
        """
        return self._read(lambda index: reader.class_record(index, layer, label))

    def inversions(self, layer: str, keys: Sequence[str] | None = None) -> tuple[Inversion, ...]:
        """The inversions at a layer, whole and masked, of images (None: all): a record for each way (settings, model, pixels) of making.

        Raises:
            StoreError: the file is damaged.
        """
        return self._read(lambda index: records(index.pictures, Inversion, layer, ("key", keys), self.keys))

    def channel_pictures(self, layer: str, names: Sequence[str] | None = None) -> tuple[ChannelImages, ...]:
        """The pictures of channels at a layer, by `names` such as "channel 12" or "class 3" (None: all): a record for each way of making.

        Raises:
            StoreError: the file is damaged.
        """
        return self._read(lambda index: records(index.pictures, ChannelImages, layer, ("name", names), self.keys))

    def examples(self, layer: str, channels: Sequence[int] | None = None) -> tuple[Examples, ...]:
        """The dataset examples of channels at a layer: a record for each kind and set of images; `rows` count the run's `keys`.

        Raises:
            StoreError: the file is damaged.
        """
        return self._read(lambda index: records(index.pictures, Examples, layer, ("channel", channels), self.keys))

    def images(self) -> ImageTable:
        """The images without thumbnails; target, prediction and probability come from the first layer and label by name."""
        return self._read(reader.image_table)

    def thumbnail(self, key: str) -> np.ndarray:
        """The small picture of an image, u1 [y, x, rgb].

        Raises:
            StoreError: none was kept.
        """
        return self._read(lambda index: index.thumbnail(key))

    def summary(self) -> dict[str, Any]:
        """What the run holds, in JSON types: layers, labels, settings, counts."""
        return reader.summary_of(self._index, str(self.path))

    def content_sha256(self) -> str:
        """Digest of all answers, in hex: the same for the same answers, in whatever order they came and whether merged or in parts.

        Engine, versions and the order of rows are left out.
        """
        return self._read(content_sha256)

    def check(self) -> str:
        """Reads everything and compares it with the digests that were written; gives `content_sha256`.

        Raises:
            StoreError: something has changed since it was written.
        """
        with contextlib.closing(load(self.path if self._index.file else None, [])) as alone:
            return reader.verify(self._index, alone)

    # What is written
    def write(self, record: Answer, label: str = "exact", images: ImageTable | None = None) -> None:
        """Writes a record; it is durable when this returns.

        Rows of images never change: the same row again is passed over, another answer for it refused. Rows of classes replace earlier
        ones of the same class. Rows that the record says were not run (-2) are not stored.

        Args:
            record: answers to one question; its settings must equal those under the same layer and label (images, classes and masks on
                the picture each have their own). `label`: under which the answers lie.
            images: digests, labels and thumbnails of the record's images, in the same order; None takes what `register` was told.
                The table's target, prediction and probability are taken from the record.

        Raises:
            StoreError: another question or model, another answer for a row, other bytes or another label for a key, or the disk is full.
        """
        index = self._writable()
        data = (writer.class_part(index, record, label) if isinstance(record, ClassAttribution) else
                writer.image_part(index, self._known, record, label, self._noted(record, images)))
        self._write_changed()
        if data is not None:
            self._write(data)

    def write_pictures(self, record: Made, made_with: Mapping[str, Any]) -> None:
        """Writes pictures that were made; durable when this returns. Those that are there already are passed over.

        Args:
            record: inversions, pictures of channels, or examples.
            made_with: what else they hang on than their settings, in JSON types: ``model_sha256`` of the weights, and whatever tells
                them from others.

        Raises:
            StoreError: made by another model than that of the answers, or the disk is full.
        """
        writer.check_model(self._writable(), str(made_with.get("model_sha256") or ""))
        if (piece := picture_piece(self._index.pictures, record, made_with)) is not None:
            self.write_stored(pictures=piece)

    def register(self, keys: Sequence[str], sha256: np.ndarray, labels: np.ndarray) -> None:
        """Takes note of images before they are searched: digests u1 [N, 32] (zeros unknown) and labels [N] (-1 unknown).

        Remembered until their rows are written; what is new of images in the file is written with the next record, or on closing.

        Raises:
            StoreError: a key twice or that cannot be stored, or a known key with other bytes or another label.
        """
        self._changed |= dict.fromkeys(writer.register(self._writable(), self._known, keys, sha256, labels))

    def set_attributes(self, **values: Any) -> None:
        """Sets some of `attributes`, durably.

        Raises:
            StoreError: a value that JSON cannot hold, or another model than that of the answers in the file.
        """
        index = self._writable()
        text = writer.attributes_with(index, values)
        if json.loads(text) != index.attributes:
            self._write(build_part(index.run_id, settings=text))

    def _noted(self, record: writer.ByImage, images: ImageTable | None) -> dict[str, np.ndarray]:
        """Registers a table of images; gives its thumbnails."""
        if images is None:
            return {}
        writer.check_table(record, images)
        self.register(images.keys, images.sha256, images.label)
        return dict(images.thumbnails)

    def _writable(self) -> Index:
        if self.mode != "a":
            raise StoreError(f"{self.path} is open for reading; expected a run open for writing; use ca.open_run(path, 'a')")
        self._mend()
        return self._index

    def _write_changed(self) -> None:
        if self._changed:
            keys = list(self._changed)
            self._write(build_part(self._index.run_id, images=writer.image_rows(self._index, self._known, keys, {})))
            self._changed.clear()

    @property
    def index_for_copies(self) -> Index:
        """Where everything lies, for what copies arrays as they are stored."""
        return self._index

    def write_stored(self, **piece: Any) -> None:
        """Writes arrays as they are stored (the arguments of `build_part`), durably: for what is copied from another file.

        Raises:
            StoreError: another question under the same layer and label, other bytes for a key, or the disk is full.
        """
        self._write(build_part(self._writable().run_id, **piece))

    def _write(self, data: bytes) -> None:
        index = self._index
        index.last += 1  # also when the write fails: a number is never used twice
        self._torn = True
        part = write_part(self._place, index.last, data)
        try:
            add(index, Source(part.path, part))
        except StoreError:  # it does not fit what is there, and would keep the run from being opened
            part.path.unlink()
            raise
        self._torn = False
