"""The frozen results, all three together: numpy arrays that cross from torch to the store and the pictures, once.

Axis letters: N images (rows), A areas, K entries of a mask (channels, or groups of channels), L channels of the layer (K where they are not
grouped), C classes, h w the layer's grid, R S rows and columns of a picture mask's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chanattr import tables
from chanattr.arguments import Range, check_number
from chanattr.axes import axes, check_axes, class_row, labelled, labelled_sets, select, settle
from chanattr.codes import masks_of
from chanattr.errors import InputError
from chanattr.settings import Settings

if TYPE_CHECKING:
    import xarray

NOT_REACHED = -1
NOT_RUN = -2


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageAttribution:
    """Which channels each image needs: for every area the best set found, and the smallest that reaches the level.

    In every game a mask is the selected set: `masks[n, a]` has exactly `areas[a]` ones. `scores` are float32 scores of
    those binary masks (*delete*: with the set dropped; *dual*: kept less dropped).

    Attributes:
        layer: dotted name of the layer.
        settings: the question, complete.
        engine: how masked activations were scored, in words.
        keys: one a row.
        targets: class whose score was kept, i4 [N].
        predictions: the whole network's class, i4 [N].
        probability: the whole network's probability of the target, f4 [N].
        areas: channels selected, i4 [A].
        masks: bool [N, A, K].
        scores: f4 [N, A].
        original: score with every channel, f4 [N].
        empty: score with every channel dropped, f4 [N].
        top1: whether the masked network still names the target, bool [N, A].
        smallest_area: a*, i4 [N]; -1 not reached, 0 the empty set reaches, -2 not run.
        smallest_mask: bool [N, K]; all False where there is no a*.
        smallest_score: f4 [N]; NaN where there is no a*.
        smallest_top1: bool [N].
        energy: root mean square over channels of the a*-masked activation at each position, f4 [N, h, w].
        energy_by_area: the same for every area, f4 [N, A, h, w]; NaN for rows that do not keep it.
        fill_values: what a dropped channel becomes, f4 [L]; NaN when it depends on the image (spatial mean).
        evaluations: of the search over areas, per row, (forwards + 2 backwards) / 3, f4 [N].
        refine_evaluations: of the refinement of a*, per row, f4 [N].
        groups: group of every channel of the layer, i4 [L]: ``masks[..., groups]`` are masks of channels. Where channels are not grouped
            (it may be left out), each is its own.
        irreducible: 1 where no member of the a* set can be dropped (all are tried), i1 [N]; -1 (below also NaN): no a*, or not certified.
        pruned: members of a* that its certification took away, i4 [N].
        swap_gain: of the best exchange of one member that was tried and reaches, f4 [N]; 0 where none betters the score.
        swap_share: exchanges tried, of all that there are, f4 [N].
        optimal: sets counted out, i1 [N]: 1 no smaller one reaches; 2 nor is one of this size better by over 1e-5; -1 also where too many.
        certify_evaluations: of all this, per row, f4 [N].

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.images()  # three images, as `per_image` gives them
        >>> found.smallest_area.tolist(), found.channels(1).tolist(), found.channel_mask(1, area=2).nonzero()[0].tolist()
        ([2, 3, 4], [1, 2, 3], [1, 2])
        >>> found[1:].keys, found.masks.shape
        (('b.jpg', 'c.jpg'), (3, 4, 8))
    """

    layer: str
    settings: Settings
    engine: str
    keys: tuple[str, ...]
    targets: np.ndarray = axes("N")
    predictions: np.ndarray = axes("N")
    probability: np.ndarray = axes("N")
    areas: np.ndarray = axes("A")
    masks: np.ndarray = axes("N A K")
    scores: np.ndarray = axes("N A")
    original: np.ndarray = axes("N")
    empty: np.ndarray = axes("N")
    top1: np.ndarray = axes("N A")
    smallest_area: np.ndarray = axes("N")
    smallest_mask: np.ndarray = axes("N K")
    smallest_score: np.ndarray = axes("N")
    smallest_top1: np.ndarray = axes("N")
    energy: np.ndarray = axes("N h w")
    energy_by_area: np.ndarray = axes("N A h w")
    fill_values: np.ndarray = axes("L")
    evaluations: np.ndarray = axes("N")
    refine_evaluations: np.ndarray = axes("N")
    groups: np.ndarray = axes("L", "i4")
    irreducible: np.ndarray = axes("N", "i1", -1)
    pruned: np.ndarray = axes("N", "i4", 0)
    swap_gain: np.ndarray = axes("N", "f4", np.nan)
    swap_share: np.ndarray = axes("N", "f4", np.nan)
    optimal: np.ndarray = axes("N", "i1", -1)
    certify_evaluations: np.ndarray = axes("N", "f4", 0)

    __repr__ = tables.outline
    __getitem__ = select

    def __post_init__(self) -> None:
        settle(self)

    def __len__(self) -> int:
        return len(self.keys)

    def _repr_html_(self) -> str:
        """What a notebook shows: a row an image, with its a*."""
        return tables.of_images(self, tables.facts(self, tables.count(len(self), "image")))

    def channels(self, row: int) -> np.ndarray:
        """The sorted channel numbers of the row's a* set (group numbers, where channels are grouped)."""
        return np.flatnonzero(self.smallest_mask[row])

    def channel_mask(self, row: int, area: int | None = None) -> np.ndarray:
        """A row's set as a mask of the layer's channels, bool [L], as `ca.inject` takes it (in the game *delete* its complement).

        Args:
            row: of this record.
            area: one of `areas`; None is the row's a*.

        Raises:
            InputError: no such area, or the row has no a*.
        """
        if area is None:
            if self.smallest_area[row] < 0:
                raise InputError(f"row {row} has no a* ({self.smallest_area[row]}: {NOT_REACHED} not reached, {NOT_RUN} not run); expected "
                                 "one that reaches its level; name an area of `areas`, or choose another row")
            mask = self.smallest_mask[row]
        else:
            where = np.flatnonzero(self.areas == area)
            if not len(where):
                raise InputError(f"no sets of area {area!r} here; expected one of {self.areas.tolist()}, or None for a*; ask again with "
                                 "this area")
            mask = self.masks[row, int(where[0])]
        channels: np.ndarray = mask[self.groups]
        return channels

    def ranking(self, row: int) -> np.ndarray:
        """All channels by the smallest area from which they are selected; ties (and the never selected, last) by number.

        Where no areas were searched (``areas="smallest"``), the a* set comes first and the rest after it, both by number.
        """
        masks = self.masks[row] if len(self.areas) else self.smallest_mask[row][None]
        entered = np.where(masks.any(0), masks.argmax(0), len(masks))
        return np.argsort(entered, kind="stable")

    def to_xarray(self) -> xarray.Dataset:
        """The record as a labelled Dataset with coordinates image, area, channel and, where there are, group.

        Needs the extra `xarray`.
        """
        return labelled_sets(self, {"N": "image", "A": "area", "h": "y", "w": "x"}, {"N": np.array(self.keys, dtype=str)})


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassAttribution:
    """Which channels each class needs: the paper's mean of the images' a* masks, and one joint set for all its images.

    Attributes:
        layer, settings, engine: as for `ImageAttribution`.
        targets: class numbers, increasing, i4 [C].
        names: class names, one a class ("" where unknown).
        areas: channels selected by the joint sets, i4 [A].
        rows: images of the class that were searched, i4 [C].
        images: images that `mean_mask` is over (those that reach the level), i4 [C].
        mean_mask: mean of the images' a* masks (the paper's), f4 [C, K]; 0 where `images` is 0.
        joint_masks: one mask for all images of the class, found on their mean reward, bool [C, A, K].
        joint_scores: its mean score over those same images, f4 [C, A].
        joint_top1: share of the images that it still names rightly, f4 [C, A].
        joint_log_probability: mean log-probability of the class under it, f4 [C, A].
        held_out_scores: mean score over images that the set was not searched on, over `folds`, f4 [C, A]; NaN with one image.
        held_out_top1, held_out_log_probability: the same on held-out images, f4 [C, A].
        original, empty: mean score with every channel, and with none, f4 [C].
        original_top1: share of the images that the whole network names rightly, f4 [C].
        smallest_area: a* of the joint sets (mean score against mean level), i4 [C]; -1 not reached, 0 the empty set, -2 not run.
        smallest_mask: bool [C, K].
        smallest_score: f4 [C].
        fill_values: f4 [L].
        evaluations: masked images evaluated for the joint sets, per class, f4 [C].
        groups: as for `ImageAttribution`, i4 [L].

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.classes()  # three classes, as `per_class` gives them
        >>> found.names, found.channels(1, 4).tolist(), found.channels(1, 2, source="mean").tolist()
        (('cat', 'dog', 'fox'), [1, 2, 3, 4], [1, 2])
    """

    layer: str
    settings: Settings
    engine: str
    names: tuple[str, ...]
    targets: np.ndarray = axes("C")
    areas: np.ndarray = axes("A")
    rows: np.ndarray = axes("C")
    images: np.ndarray = axes("C")
    mean_mask: np.ndarray = axes("C K")
    joint_masks: np.ndarray = axes("C A K")
    joint_scores: np.ndarray = axes("C A")
    joint_top1: np.ndarray = axes("C A")
    joint_log_probability: np.ndarray = axes("C A")
    held_out_scores: np.ndarray = axes("C A")
    held_out_top1: np.ndarray = axes("C A")
    held_out_log_probability: np.ndarray = axes("C A")
    original: np.ndarray = axes("C")
    empty: np.ndarray = axes("C")
    original_top1: np.ndarray = axes("C")
    smallest_area: np.ndarray = axes("C")
    smallest_mask: np.ndarray = axes("C K")
    smallest_score: np.ndarray = axes("C")
    fill_values: np.ndarray = axes("L")
    evaluations: np.ndarray = axes("C")
    groups: np.ndarray = axes("L", "i4")

    __repr__ = tables.outline
    __getitem__ = select

    def __post_init__(self) -> None:
        settle(self)

    def __len__(self) -> int:
        return len(self.targets)

    def _repr_html_(self) -> str:
        """What a notebook shows: a row a class, with its joint a* and the channels that most of its images need."""
        top = [", ".join(str(k) for k in np.argsort(-mean, kind="stable")[:5] if mean[k] > 0) for mean in self.mean_mask[:tables.ROWS]]
        return tables.columns(self, tables.facts(self, tables.count(len(self), "class", "classes")), {
            "class": [name or f"class {target}" for name, target in zip(self.names, self.targets, strict=True)], "images": self.rows,
            "named rightly": self.original_top1, "joint a*": [tables.area(area) for area in self.smallest_area[:tables.ROWS]],
            "score at a*": self.smallest_score, "original": self.original, f"{self.settings.unit} most images need": top})

    def channels(self, target: int, count: int, source: str = "joint") -> np.ndarray:
        """The `count` channels of a class.

        Args:
            target: a class number of `targets`.
            count: how many; for "joint" one of `areas`, or a* of the class.
            source: "joint" (sorted by number: a set has no order) or "mean" (highest inclusion rate first, ties by number).

        Raises:
            InputError: no such class, count or source; the class has no a*; or "mean" for one of which no image reaches the level.
        """
        row = class_row(self, target)
        if source == "mean":
            return self._by_mean(row, count)
        if source != "joint":
            raise InputError(f"source={source!r}; expected 'joint' or 'mean'")
        if count in self.areas:
            return np.flatnonzero(self.joint_masks[row, list(self.areas).index(count)])
        if count == self.smallest_area[row] and count < 0:
            raise InputError(f"class {target} has no a* ({count}: {NOT_REACHED} not reached, {NOT_RUN} not run); expected one that reaches "
                             "its level; name an area of `areas`, or choose another class")
        if count == self.smallest_area[row]:
            return np.flatnonzero(self.smallest_mask[row])
        raise InputError(f"no joint set of {count} channels for class {target}; searched were {self.areas.tolist()} and its a* "
                         f"{self.smallest_area[row]}; use one of these, or source='mean'")

    def channel_mask(self, target: int, count: int, source: str = "joint") -> np.ndarray:
        """The set that `channels` names as a mask of the layer's channels, bool [L], as `ca.inject` takes it.

        Args:
            target, count, source: as of `channels`; `count` counts groups, where channels are grouped.

        Raises:
            InputError: as `channels`.
        """
        return np.isin(self.groups, self.channels(target, count, source))

    def _by_mean(self, row: int, count: int) -> np.ndarray:
        channels = self.mean_mask.shape[1]
        if not self.images[row]:
            raise InputError(f"source='mean' for class {self.targets[row]}, of which no image reaches the level; expected one or more, for "
                             "the mean is over them; use source='joint', or ask again with a lower level")
        count = int(check_number(f"count={count!r}", count, Range(1, channels, whole=True), "ask for so many"))
        return np.argsort(-self.mean_mask[row], kind="stable")[:count]

    def to_xarray(self) -> xarray.Dataset:
        """The record as a labelled Dataset with coordinates class (and its name), area, channel and, where there are, group.

        Needs the extra `xarray`.
        """
        data = labelled_sets(self, {"C": "class", "A": "area"}, {"C": self.targets})
        return data.assign_coords(name=("class", np.array(self.names, dtype=str)))


@dataclass(frozen=True, kw_only=True, eq=False)
class SpatialAttribution:
    """Where each image must be seen: for every area the best smooth mask found, as a low-resolution code, and the smallest that reaches.

    All figures are float32, of the mask that the stored code means, on a picture of `size`. In every game a mask is what is selected
    (*delete*: the picture is perturbed under it).

    Attributes:
        layer: ":input" for the picture, or the layer on whose grid the masks lie.
        settings: the question, complete; its areas are shares of the picture.
        engine: how masked pictures were scored, in words.
        size: height and width of the picture (or of the layer's grid).
        keys, targets, predictions, probability, top1, evaluations, refine_evaluations: as for `ImageAttribution`.
        areas: as asked, shares of the picture, f4 [A].
        codes: u1 [N, A, R, S], 255 is 1; `masks` has what they mean.
        true_areas: measured, the mean of each mask, f4 [N, A].
        scores: of the picture under each mask, f4 [N, A].
        view_scores: mean with that of the mirrored picture; `scores` again where the search saw none, f4 [N, A].
        level_set_scores: with the hard mask of the same area, f4 [N, A].
        greyness: mean of 4 m (1 - m), over the area, f4 [N, A]; 0 is a hard mask.
        peak: highest value of each mask, f4 [N, A]; below 1 where the area is less than one disc of the family covers (about 0.033).
        original: score of the whole picture, f4 [N].
        empty: score of the picture perturbed everywhere, f4 [N].
        smallest_area: a*, measured, f4 [N]; -1 not reached, 0 the empty mask reaches, -2 not run.
        smallest_code: u1 [N, R, S]; all 0 where there is no a*.
        smallest_score: f4 [N]; NaN where there is no a*.
        smallest_top1: bool [N].

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.masks()  # three pictures, as `spatial` gives them
        >>> found.masks((32, 32)).shape, found.smallest_masks((32, 32)).shape
        ((3, 3, 32, 32), (3, 32, 32))
    """

    layer: str
    settings: Settings
    engine: str
    size: tuple[int, int]
    keys: tuple[str, ...]
    targets: np.ndarray = axes("N")
    predictions: np.ndarray = axes("N")
    probability: np.ndarray = axes("N")
    areas: np.ndarray = axes("A")
    codes: np.ndarray = axes("N A R S")
    true_areas: np.ndarray = axes("N A")
    scores: np.ndarray = axes("N A")
    view_scores: np.ndarray = axes("N A")
    level_set_scores: np.ndarray = axes("N A")
    greyness: np.ndarray = axes("N A")
    peak: np.ndarray = axes("N A")
    top1: np.ndarray = axes("N A")
    original: np.ndarray = axes("N")
    empty: np.ndarray = axes("N")
    smallest_area: np.ndarray = axes("N")
    smallest_code: np.ndarray = axes("N R S")
    smallest_score: np.ndarray = axes("N")
    smallest_top1: np.ndarray = axes("N")
    evaluations: np.ndarray = axes("N")
    refine_evaluations: np.ndarray = axes("N")

    __repr__ = tables.outline
    __getitem__ = select

    def __post_init__(self) -> None:
        check_axes(self)

    def __len__(self) -> int:
        return len(self.keys)

    def _repr_html_(self) -> str:
        """What a notebook shows: a row an image, with its a* as a share of the picture."""
        facts = (tables.count(len(self), "image"), "on the picture" if self.layer == ":input" else f"on the grid of {self.layer}",
                 "areas " + ", ".join(f"{area:.3g}" for area in self.areas[:tables.ROWS]), self.settings.game, self.settings.reward)
        return tables.of_images(self, facts, share=True)

    def masks(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """The masks that the codes mean, f4 [N, A, H, W] in [0, 1].

        Args:
            size: height and width of the picture that they are for; None is the size searched at.
        """
        return masks_of(self.codes, size or self.size)

    def smallest_masks(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """The masks of a*, f4 [N, H, W]; all 0 where there is none."""
        return masks_of(self.smallest_code, size or self.size)

    def heat(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """The masks summed over areas, f4 [N, H, W]: TorchRay's map for the pointing game, before it is smoothed."""
        return np.asarray(self.masks(size).sum(1))

    def to_xarray(self) -> xarray.Dataset:
        """The record as a labelled Dataset with coordinates image and area. Needs the extra `xarray`."""
        names = {"N": "image", "A": "area", "R": "code_y", "S": "code_x"}
        data = labelled(self, names, {"N": np.array(self.keys, dtype=str), "A": self.areas})
        return data.assign_attrs(size=list(self.size))


def entries_of(record: ImageAttribution | ClassAttribution) -> int:
    """K: how many channels, or groups of channels, a mask of a record selects from."""
    return int(record.smallest_mask.shape[1])
