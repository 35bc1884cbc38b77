"""Made inversions, pictures of channels and examples in the run files of `fake_run`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chanattr.picture_records import ChannelImages, Examples, Inversion
from chanattr.picture_settings import CHANNEL, INVERSION, PictureSettings
from chanattr.store import Run

SIDE = 48


def texture(seed: int, *shape: int) -> np.ndarray:
    """Coloured waves, another for every seed: u1 [..., SIDE, SIDE, 3]."""
    rng, (down, across) = np.random.default_rng(seed), np.indices((SIDE, SIDE)) / SIDE
    waves = [np.sin(2 * np.pi * (rng.uniform(1, 5) * down + rng.uniform(-5, 5) * across) + rng.uniform(0, 6)) for _ in range(3)]
    return np.broadcast_to(np.rint(127 + 120 * np.stack(waves, -1)), (*shape, SIDE, SIDE, 3)).astype(np.uint8)


def write_pictures(run: Run, layer: str, keys: Sequence[str], *, inverted: int = 3, most: int = 5) -> list[int]:
    """Keeps pictures of the channels that most a* sets have, and inversions of the first images; gives the channels."""
    found = run.per_image(layer)
    channels = np.argsort(-found.smallest_mask.sum(0), kind="stable")[:most].tolist()
    rows = np.array([[0, 1, 5], [6, 7, -1]] * most, "i4")[:most]
    whole = run.keys
    made_with = {"model_sha256": ""}
    total = found.smallest_mask.shape[1]
    value = np.arange(most, dtype="f4")[:, None] + 0.5
    run.write_pictures(ChannelImages(
        layer=layer, settings=PictureSettings(**CHANNEL), names=tuple(f"channel {channel}" for channel in channels),
        weights=np.eye(total, dtype="f4")[channels], pictures=np.stack([texture(channel, 1) for channel in channels]), value=value,
        predictions=4 + np.arange(most, dtype="i4")[:, None] % 2, probability=value / 10), made_with)
    for kind in ("driven", "needed"):
        crops = np.stack([[texture(1000 + channel + n) for n in range(3)] for channel in channels])
        run.write_pictures(Examples(
            layer=layer, kind=kind, channels=np.array(channels, "i4"), names=tuple(f"channel {channel}" for channel in channels),
            keys=whole, rows=rows, value=np.where(rows >= 0, rows + 0.25, np.nan).astype("f4"), crops=crops,
            position=np.repeat(rows[..., None], 2, 2), boxes=np.repeat(rows[..., None], 4, 2)), made_with)
    some = [row for row, key in enumerate(whole) if key in set(keys[:inverted]) and found.smallest_area[row] > 0]
    for masks in (np.ones((len(some), total), "f4"), found.smallest_mask[some].astype("f4")):
        numbers = np.linspace(0.3, 0.9, len(some)).astype("f4")
        run.write_pictures(Inversion(
            layer=layer, settings=PictureSettings(**INVERSION), keys=tuple(whole[row] for row in some), masks=masks,
            pictures=np.stack([texture(row) for row in some]), originals=np.stack([texture(50 + row) for row in some]), value=numbers,
            cosine=numbers, kept_cosine=numbers, targets=found.targets[some], predictions=np.full(len(some), 4, "i4"),
            probability=numbers), made_with)
    return channels
