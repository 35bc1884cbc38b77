"""What making pictures gives: inversions, pictures of channels, dataset examples; frozen, numpy only.

Axis letters: N pictures, K channels, R rows (channels, or weighted sets of them), D pictures of a row, E examples of a row, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chanattr import tables
from chanattr.picture_settings import PictureSettings

NONE = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Inversion:
    """Pictures whose activation at a layer is like that of given images, masked or whole. All numbers are of the kept bytes.

    Attributes:
        layer: dotted name.
        settings: resolved.
        keys: of the images, one a row.
        masks: of the activation's channels, f4 [N, K]; all ones where it was whole.
        pictures: made, u1 [N, H, W, C].
        originals: the images themselves, u1 [N, H, W, C].
        value: what was maximised, of the clean picture, f4 [N]; see `settings.objective`.
        cosine: between the picture's whole activation and the masked activation of the image, f4 [N].
        kept_cosine: the same within the channels that the mask keeps, whatever the others do, f4 [N].
        targets: class that must be named, i4 [N].
        predictions: class that the network names for the picture, i4 [N].
        probability: of the target for the picture, f4 [N].

    Examples:
        >>> import chanattr as ca
        >>> made = ca.figures.samples.inversion()  # as `invert` gives it
        >>> made.areas.tolist(), made.named.tolist(), made.pictures.shape
        ([2, 3, 4], [True, True, True], (3, 32, 32, 3))
    """

    layer: str
    settings: PictureSettings
    keys: tuple[str, ...]
    masks: np.ndarray
    pictures: np.ndarray
    originals: np.ndarray
    value: np.ndarray
    cosine: np.ndarray
    kept_cosine: np.ndarray
    targets: np.ndarray
    predictions: np.ndarray
    probability: np.ndarray

    __repr__ = tables.outline

    def __len__(self) -> int:
        return len(self.keys)

    def _repr_html_(self) -> str:
        """What a notebook shows: a row an image; ``ca.figures.inversions`` draws the pictures."""
        facts = (tables.count(len(self), "picture"), f"layer {self.layer}", f"{self.masks.shape[1]:,} channels", self.settings.objective,
                 f"{self.settings.steps} steps")
        return tables.columns(self, facts, {
            "image": self.keys, "channels": self.areas, "cosine": self.cosine, "within them": self.kept_cosine, "target": self.targets,
            "named": self.predictions, "probability": self.probability})

    @property
    def named(self) -> np.ndarray:
        """Whether the network names the target for the picture, bool [N]."""
        return np.asarray(self.predictions == self.targets)

    @property
    def areas(self) -> np.ndarray:
        """Channels that the masks keep, i4 [N]."""
        return np.asarray((self.masks > 0).sum(1), np.int32)


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelImages:
    """Pictures that drive a channel, or a weighted set of channels, as far as they can. All numbers are of the kept bytes.

    Attributes:
        layer: dotted name.
        settings: resolved.
        names: one a row, such as "channel 12".
        weights: of the channels' means over positions, f4 [R, K].
        pictures: u1 [R, D, H, W, C].
        value: weighted mean activation of the clean picture, f4 [R, D].
        predictions: class that the network names, i4 [R, D].
        probability: of that class, f4 [R, D].

    Examples:
        >>> import chanattr as ca
        >>> made = ca.figures.samples.channel_images()  # as `visualise` gives it
        >>> made.names, made.pictures.shape
        (('channel 0', 'channel 1', 'channel 2'), (3, 2, 32, 32, 3))
    """

    layer: str
    settings: PictureSettings
    names: tuple[str, ...]
    weights: np.ndarray
    pictures: np.ndarray
    value: np.ndarray
    predictions: np.ndarray
    probability: np.ndarray

    __repr__ = tables.outline

    def __len__(self) -> int:
        return len(self.names)

    def _repr_html_(self) -> str:
        """What a notebook shows: a row a channel or set; ``ca.figures.channel_cards`` draws the pictures."""
        best = np.arange(len(self)), self.value.argmax(1)
        facts = (f"{tables.count(self.value.shape[1], 'picture')} of each", f"layer {self.layer}", f"{self.settings.steps} steps")
        return tables.columns(self, facts, {"picture of": self.names, "activation": self.value[best], "named": self.predictions[best],
                                            "probability": self.probability[best]})


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """For each channel the images that drive it most, or those where it is most needed, cropped to what its strongest position sees.

    Attributes:
        layer: dotted name.
        kind: "driven" or "needed".
        channels: i4 [R].
        names: one a row.
        keys: of all images that were looked at.
        rows: of the images, best first, i4 [R, E]; -1 where there are fewer.
        value: "driven": the activation at its strongest position; "needed": by what the score of the image's a* set falls without the
            channel; f4 [R, E], NaN where there is none.
        position: of the strongest activation, (row, column) of the layer's grid, i4 [R, E, 2].
        boxes: what that position sees, (top, left, bottom, right) in pixels of the image, the last two excluded, i4 [R, E, 4]; all 0
            where no pixel moves it.
        crops: the boxes at one size, u1 [R, E, S, S, C]; a box that is not square lies in the middle, on white.

    Examples:
        >>> import chanattr as ca
        >>> seen = ca.figures.samples.examples()  # as `examples` gives it
        >>> seen.kind, [seen.keys[row] for row in seen.rows[0]]
        ('driven', ['a.jpg', 'b.jpg'])
    """

    layer: str
    kind: str
    channels: np.ndarray
    names: tuple[str, ...]
    keys: tuple[str, ...]
    rows: np.ndarray
    value: np.ndarray
    position: np.ndarray
    boxes: np.ndarray
    crops: np.ndarray

    __repr__ = tables.outline

    def __len__(self) -> int:
        return len(self.channels)

    def _repr_html_(self) -> str:
        """What a notebook shows: a row a channel, with its first image; ``ca.figures.channel_cards`` draws them."""
        facts = (f"images that {'drive' if self.kind == 'driven' else 'need'} it", f"of {tables.count(len(self.keys), 'image')}",
                 f"layer {self.layer}")
        return tables.columns(self, facts, {
            "channel": self.names, "images": (self.rows != NONE).sum(1),
            "the first": [self.keys[row] if row != NONE else "" for row in self.rows[:, 0]],
            "activation" if self.kind == "driven" else "lost without it": self.value[:, 0]})
