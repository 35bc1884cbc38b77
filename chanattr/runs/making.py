"""What a run file has of pictures is read from it, the rest is made, and written a batch at a time: nothing is made twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch import Tensor, nn

from chanattr.errors import InputError
from chanattr.picture_records import ChannelImages, Examples, Inversion
from chanattr.picture_settings import CHANNEL, CHANNELS, INVERSION, INVERSIONS, PictureSettings, resolved
from chanattr.pictures.channels import visualise
from chanattr.pictures.examples import KINDS, Asked, Part, find_examples
from chanattr.pictures.inversion import invert
from chanattr.pictures.pixels import Pixels
from chanattr.progress import Progress, advance
from chanattr.records import ImageAttribution
from chanattr.store import Run
from chanattr.store.picture_layout import channel_id, example_id, example_settings, ids_of, inversion_id, question_of
from chanattr.store.picture_rows import made_before

BATCH, SIDE = 8, 96  # pictures written at once; pixels of an example's side
_Made = TypeVar("_Made", Inversion, ChannelImages, Examples)


class Maker(NamedTuple):
    """What all pictures of one call have in common.

    Attributes:
        run: read, and written where it is open for that.
        model, pixels, score, channel_axis, progress: as for `invert`.
        model_sha256: of the weights.
    """

    run: Run
    model: nn.Module
    model_sha256: str
    pixels: Pixels
    score: Callable[..., Tensor] | None
    channel_axis: int | None
    progress: Progress

    @property
    def made_with(self) -> dict[str, Any]:
        """What pictures hang on beside their settings, in JSON types."""
        score = None if self.score is None else f"{getattr(self.score, '__module__', '')}:{getattr(self.score, '__qualname__', '')}"
        return {"model_sha256": self.model_sha256, "pixels": [list(part) for part in self.pixels], "score": score,
                "channel_axis": self.channel_axis}

    @property
    def options(self) -> dict[str, Any]:
        """Arguments that all makers take."""
        return {"pixels": self.pixels, "score": self.score, "channel_axis": self.channel_axis}

    def inversions(self, layer: str, keys: Sequence[str], masks: np.ndarray, targets: Sequence[int], settings: PictureSettings | None,
                   images: Callable[[Sequence[str]], Tensor]) -> Inversion:
        """Inversions, one a row.

        Args:
            layer: canonical name.
            keys: of the images.
            masks: of channels, f4 [N, K].
            targets: class that must be named, [N].
            settings: None is the usual.
            images: gives those with some keys, as the model takes them; asked only where something is missing.
        """
        settings = resolved(settings, INVERSION, INVERSIONS)
        ids = [inversion_id(*row) for row in zip(keys, masks, targets, strict=True)]
        have, new = self._have(Inversion, layer, settings, self.made_with, ids)
        with advance(self.progress if new else False, len(new) * int(settings.steps or 0), f"inversions at {layer}") as tell:
            for start in range(0, len(new), BATCH):
                rows = new[start:start + BATCH]
                own = [keys[row] for row in rows]
                given = images(own)
                if tuple(given.shape[2:]) != tuple(self.pixels.size):
                    raise InputError(f"the pictures given are {tuple(given.shape[2:])} pixels, pixels.size is {tuple(self.pixels.size)}; "
                                     "expected one size; take pixels_of the preprocessing that the loader has")
                part = invert(self.model, given, layer, mask=masks[rows], targets=[targets[row] for row in rows], settings=settings,
                              keys=_apart(own), progress=_onward(tell), **self.options)
                have.append(self._keep(dataclasses.replace(part, keys=tuple(own)), self.made_with))
        return _ordered(have, ids)

    def channels(self, layer: str, names: Sequence[str], weights: np.ndarray, count: int,
                 settings: PictureSettings | None) -> ChannelImages:
        """Pictures of weighted sets of channels, f4 [R, K], `count` of each."""
        settings = resolved(settings, CHANNEL, (CHANNELS,))
        ids, made_with = [channel_id(*row) for row in zip(names, weights, strict=True)], self.made_with | {"count": count}
        have, new = self._have(ChannelImages, layer, settings, made_with, ids)
        step = max(1, BATCH // count)
        with advance(self.progress if new else False, len(new) * count * int(settings.steps or 0), f"pictures at {layer}") as tell:
            for start in range(0, len(new), step):
                rows = new[start:start + step]
                part = visualise(self.model, layer, weights[rows], count=count, names=[names[row] for row in rows], settings=settings,
                                 progress=_onward(tell), **self.options)
                have.append(self._keep(part, made_with))
        return _ordered(have, ids)

    def examples(self, layer: str, channels: Sequence[int], count: int, found: ImageAttribution, parts: Callable[[], Iterable[Part]],
                 **more: Any) -> tuple[Examples, ...]:
        """Examples of channels among the images of `found`, those of each kind; what the run has not is made in one pass over the images.

        Args:
            layer: canonical name.
            channels: numbers, one a row.
            count: examples of each channel, at most.
            found: answers for the images.
            parts: gives the images, numbered as in `found`; asked only where something is missing.
            more: goes to `find_examples`.
        """
        seen = hashlib.sha256(json.dumps(sorted(found.keys)).encode()).hexdigest()
        ids, made, lacking = [example_id(channel) for channel in channels], {}, {}
        for kind in KINDS:
            made_with = self.made_with | {"images": len(found), "images_sha256": seen,
                                          "answers": found.settings.digest() if kind == "needed" else ""}
            made[kind], new = self._have(Examples, layer, example_settings(kind, count, SIDE), made_with, ids)
            if new:
                lacking[kind] = made_with, Asked(kind, [channels[row] for row in new], found if kind == "needed" else None)
        if lacking:
            asked = [one for _, one in lacking.values()]
            found_now = find_examples(self.model, parts(), layer, asked, keys=found.keys, count=count, side=SIDE, progress=self.progress,
                                      **more, **self.options)
            for (kind, (made_with, _)), record in zip(lacking.items(), found_now, strict=True):
                made[kind].append(self._keep(self._of_run(record), made_with))
        return tuple(_ordered(made[kind], ids) for kind in KINDS)

    def _have(self, kind: type[_Made], layer: str, how: Any, made_with: dict[str, Any], ids: list[bytes]) -> tuple[list[_Made], list[int]]:
        """The record of what the run has, if anything, and the rows that it has not, each once."""
        there, known = made_before(self.run.index_for_copies.pictures, kind, layer, question_of(how, made_with), ids, self.run.keys)
        first = {one: row for row, one in reversed(list(enumerate(ids)))}
        return [there] if there is not None else [], sorted(row for one, row in first.items() if one not in known)

    def _keep(self, record: _Made, made_with: dict[str, Any]) -> _Made:
        """The record, written where the run is open for that."""
        if self.run.mode == "a":
            self.run.write_pictures(record, made_with)
        return record

    def _of_run(self, record: Examples) -> Examples:
        """Examples whose rows count the run's images, as those that are read from it."""
        place = {key: row for row, key in enumerate(self.run.keys)}
        own = np.array([place[key] for key in record.keys] + [-1], np.int32)
        return dataclasses.replace(record, keys=self.run.keys, rows=own[record.rows])


def _apart(keys: Sequence[str]) -> list[str]:
    """Names for the rows of a batch: an image may come under several masks."""
    return list(keys) if len(set(keys)) == len(keys) else [f"{row}: {key}" for row, key in enumerate(keys)]


def _onward(tell: Callable[[int], None]) -> Callable[[int, int], None]:
    """Tells a bar over all batches how far one is."""
    before = 0

    def onward(done: int, _total: int) -> None:
        nonlocal before
        tell(done - before)
        before = done

    return onward


def _ordered(parts: Sequence[_Made], ids: Sequence[bytes]) -> _Made:
    """Records of one question as one, its rows as they were asked for."""
    place = {one: row for row, one in enumerate(one for part in parts for one in ids_of(part))}
    rows = [place[one] for one in ids]
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(parts[0]):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], np.ndarray):
            fields[field.name] = np.concatenate(values)[rows]
        elif isinstance(values[0], tuple) and not (field.name == "keys" and isinstance(parts[0], Examples)):
            joined = [text for value in values for text in value]
            fields[field.name] = tuple(joined[row] for row in rows)
    return dataclasses.replace(parts[0], **fields)
