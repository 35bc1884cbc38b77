"""Which rows are as they were written: those whose chunks are there and have their checksums, and whose masks have their sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from chanattr.records import ClassAttribution
from chanattr.store import check
from chanattr.store.layout import TEXT, Column, Head, decode


def odd_rows(found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """By dataset: chunks' first rows where the index of chunks names none, one that another has too, or one without its checksum."""
    taken: dict[int, list[tuple[str, int]]] = {}
    odd: dict[str, set[int]] = {}
    for where, item in found.items():
        if not isinstance(item, h5py.Dataset) or not item.chunks or not hasattr(item.id, "chunk_iter"):
            continue
        expected = set(range(0, len(item), item.chunks[0]))

        def note(chunk: Any, where: str = where, expected: set[int] = expected) -> None:
            first = int(chunk.chunk_offset[0])
            expected.discard(first)
            taken.setdefault(int(chunk.byte_offset), []).append((where, first))
            if chunk.filter_mask:
                odd.setdefault(where, set()).add(first)

        try:
            item.id.chunk_iter(note)
        except check.READING:
            expected = set(range(0, len(item), item.chunks[0]))
        if expected and item.size:
            odd.setdefault(where, set()).update(expected)
    for places in taken.values():
        if len(places) > 1:
            for where, first in places:
                odd.setdefault(where, set()).add(first)
    return {where: np.array(sorted(firsts)) for where, firsts in odd.items()}


def read_whole(item: h5py.Dataset, start: int, stop: int, odd: Mapping[str, np.ndarray],
               faults: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a dataset, and which of them are not whole (a chunk at a time)."""
    text = h5py.check_string_dtype(item.dtype) is not None
    values = np.full((stop - start, *item.shape[1:]), "", object) if text else np.zeros((stop - start, *item.shape[1:]), item.dtype)
    bad = np.zeros(stop - start, bool)
    step = item.chunks[0] if item.chunks else max(1, len(item))
    for first in odd.get(item.name, ()):
        bad[max(0, first - start):max(0, first + step - start)] = True
    if bad.any():
        faults.append(f"{item.name} rows {ranges(start + np.flatnonzero(bad))}: their chunk is missing, or that of others")
    waiting, why = [(start, stop)], ""
    broken: list[int] = []
    while waiting:
        one, two = waiting.pop()
        try:
            values[one - start:two - start] = (item.asstr() if text else item)[one:two]
        except check.READING as error:
            unit = 1 if text else step
            middle = (one // unit + -(-two // unit)) // 2 * unit
            if one < middle < two:
                waiting += [(one, middle), (middle, two)]
                continue
            why = check.brief(error)
            broken += range(one, two)
    if broken:
        bad[np.array(broken) - start] = True
        faults.append(f"{item.name} rows {ranges(np.array(sorted(broken)))} cannot be read ({why})")
    return values, bad


def ranges(rows: np.ndarray) -> str:
    """Row numbers in words: 0 to 63, 128."""
    ends = np.flatnonzero(np.diff(rows) > 1)
    parts = [f"{part[0]} to {part[-1]}" if len(part) > 1 else f"{part[0]}" for part in np.split(rows, ends + 1) if len(part)]
    return ", ".join(parts[:5]) + (f" and {len(parts) - 5} more places" if len(parts) > 5 else "")


def wrong_sizes(head: Head, data: Mapping[Column, np.ndarray], rows: np.ndarray) -> Iterator[tuple[int, str]]:
    """Rows whose masks are not of the sizes that they say, each with what is wrong."""
    fields = {column.field: decode(column, values, head.entries) for column, values in data.items() if column.dtype != TEXT}
    areas = {name: fields[name] for name in ("masks", "joint_masks") if name in fields}
    for row in np.flatnonzero(rows):
        for name, masks in areas.items():
            sizes = masks[row].sum(-1)
            if not np.array_equal(sizes, head.areas):
                place = int(np.flatnonzero(sizes != head.areas)[0])
                yield int(row), f"{name} has {sizes[place]} ones at area {head.areas[place]}"
        if "smallest_mask" in fields and int(fields["smallest_mask"][row].sum()) != max(0, int(fields["smallest_area"][row])):
            yield int(row), f"smallest_mask has {fields['smallest_mask'][row].sum()} ones, but a* is {fields['smallest_area'][row]}"
        for column, values in data.items():
            if column.packed and head.entries % 8 and (values[row][..., -1] >> (head.entries % 8)).any():
                yield int(row), f"{column.name} has ones beyond the last of its {head.entries} entries"
        if head.kind is not ClassAttribution and not np.isfinite(fields["scores"][row]).all():
            yield int(row), "a score is not finite"
