"""Whether heat maps point at the object: the pointing game by TorchRay's protocol, and energy in the box; numpy only."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chanattr import tables
from chanattr.arguments import RATE, SEEDS, Range, check_kind, check_name, check_number, listed
from chanattr.attribution.inputs import array_of
from chanattr.errors import InputError
from chanattr.evidence.heat import distance, inside, maximum, smoothed
from chanattr.evidence.intervals import Interval, mean_of, resamples, share_by_class, wilson

if TYPE_CHECKING:
    from chanattr.images.boxes import ImageBoxes

TOLERANCE, SMOOTH = 15.0, 0.09  # TorchRay's: pixels of the file, and a share of the heat map's short side
SMALL = 0.25  # of the picture: objects under it may be difficult
HIT, MISS, NO_BOXES, OTHER_CLASS, HARD, CUT_AWAY = 1, 0, -1, -2, -3, -4  # of `Pointing.hit`
LEFT_OUT = {NO_BOXES: "not annotated", OTHER_CLASS: "no box of the class", HARD: "all its boxes marked difficult", CUT_AWAY: "cropped away"}
SUBSETS = ("all", "difficult")
FIGURES = ("overall", "by class", "inside", "energy", "chance")
PADDINGS = ("zero", "edge")
GRID = 256  # cells a side, to measure a share of a picture's area


class PointingLine(NamedTuple):
    """One method and subset in figures.

    Attributes:
        images: played.
        overall: share of hits, with Wilson's interval.
        by_class: mean over classes of their share of hits, with a bootstrap interval over images.
        inside: share of points that lie in a box itself, with Wilson's interval.
        energy: mean share of the heat that lies in the boxes, with a bootstrap interval over images.
        chance: mean share of the area that the boxes have: the energy of a uniform map.
    """

    images: int
    overall: Interval
    by_class: Interval
    inside: Interval
    energy: Interval
    chance: Interval


@dataclass(frozen=True, kw_only=True, eq=False)
class Pointing:
    """Where N heat maps point, held against the boxes of their class. Rows that are not played are NaN (False).

    Attributes:
        keys: one a row.
        targets: class that each map is about, i4 [N].
        hit: 1 the point is within the tolerance of a box, 0 it is not; not played: -1 the picture has no annotation, -2 no box of the
            class, -3 all boxes of the class are marked difficult (as in VOC), -4 nothing of them lies in the part that the map covers;
            i1 [N].
        points: the map's maximum, x and y in pixels of the file, f8 [N, 2]; NaN also for a constant map, which is a miss.
        distance: of the point to the nearest pixel of a box, in pixels of the file, f8 [N]; 0 in a box.
        inside: whether the point lies in a box itself, bool [N].
        difficult: whether the row is in Zhang's difficult subset, bool [N].
        energy: share of the map's positive heat in the boxes, f8 [N]; NaN also for a map without any.
        share: of the map's area that the boxes have, f8 [N].
        tolerance: pixels of the file.
        smooth: of the Gaussian before the maximum, a share of the map's short side.
        padding: what lies outside of the map for it.

    Examples:
        >>> import numpy as np, chanattr as ca
        >>> from chanattr.images.boxes import ImageBoxes
        >>> boxes = ImageBoxes(boxes=np.array([[40, 40, 80, 80]], np.float32), classes=np.array([7], np.int32),
        ...                    difficult=np.array([False]), size=(100, 100))
        >>> found = ca.pointing_game(np.eye(50)[None], ["a.jpg"], [7], annotations={"a.jpg": boxes})
        >>> found.figures().images, found.figures().overall.value, found.figures("difficult").images
        (1, 1.0, 0)
    """

    keys: tuple[str, ...]
    targets: np.ndarray
    hit: np.ndarray
    points: np.ndarray
    distance: np.ndarray
    inside: np.ndarray
    difficult: np.ndarray
    energy: np.ndarray
    share: np.ndarray
    tolerance: float
    smooth: float
    padding: str

    __repr__ = tables.outline

    def __len__(self) -> int:
        return len(self.keys)

    def _repr_html_(self) -> str:
        """What a notebook shows: hits and energy, of all and of the difficult ones."""
        rows = []
        for subset in SUBSETS:
            told = self.figures(subset)
            rows.append((subset, told.images, tables.interval(*told.overall), tables.interval(*told.inside),
                         tables.interval(*told.energy), told.chance.value))
        heads = ("images", "played", "hits", "in a box itself", "energy in boxes", "of a uniform map")
        return tables.table("Pointing", (tables.count(len(self), "map"), "95 % intervals"), heads, rows)

    def figures(self, subset: str = "all", seed: int = 0) -> PointingLine:
        """The figures of a subset.

        Args:
            subset: "all", or "difficult": Zhang's.
            seed: of the bootstrap's 2,000 resamples.

        Raises:
            InputError: no such subset.
        """
        check_name("subset", subset, SUBSETS)
        rows = np.flatnonzero((self.hit >= 0) & (self.difficult if subset == "difficult" else True))
        drawn = functools.partial(resamples, len(rows), seed)
        hits, inside = (self.hit[rows] == HIT), self.inside[rows]
        return PointingLine(
            images=len(rows), overall=wilson(int(hits.sum()), len(rows)), by_class=share_by_class(hits, self.targets[rows], drawn),
            inside=wilson(int(inside.sum()), len(rows)), energy=mean_of(self.energy[rows], drawn),
            chance=mean_of(self.share[rows], drawn))

    def left_out(self) -> dict[str, int]:
        """Rows that were not played, by reason."""
        return {words: int((self.hit == code).sum()) for code, words in LEFT_OUT.items() if (self.hit == code).any()}

    def table(self, name: str = "heat", seed: int = 0) -> str:
        """The figures as text, a line a subset; see `pointing_table` for several methods in one."""
        return pointing_table({name: self}, seed)


def pointing_game(heat: np.ndarray, keys: Sequence[str], targets: Sequence[int] | np.ndarray, *,
                  annotations: Mapping[str, ImageBoxes], regions: np.ndarray | None = None, tolerance: float = TOLERANCE,
                  smooth: float = SMOOTH, padding: str = "zero") -> Pointing:
    """The pointing game: a map hits where its maximum lies on an object of its class, or nearer than the tolerance.

    TorchRay's protocol: maps are summed over areas, smoothed by a Gaussian (zeros outside), and the maximum's place in the picture's own
    pixels is held against the boxes. A hit is a distance *below* the tolerance. A picture whose boxes of the class are all marked difficult
    is not played. Departures: the map is smoothed in its own pixels and its maximum carried to the file's, in place of resizing the map;
    COCO's objects are their boxes, not their outlines; a constant map points nowhere and misses; a class never asked about does not count
    as one of accuracy 0.

    The difficult subset is Zhang's rule: the boxes of the class cover under a quarter of the picture, and the picture has a box of another
    class. With annotations of one class a picture (ImageNet's) it is empty.

    Energy is the share of the map's positive heat, unsmoothed, in the boxes of the class; pixels on a box's edge count by what of them lies
    in it. Of a uniform map it is the boxes' share of the area.

    Args:
        heat: maps [N, H, W], or masks [N, A, H, W] of several areas.
        keys: of the pictures, as in `annotations`; see `for_keys`. The same picture may come several times, for several classes.
        targets: class that each map is about, [N].
        annotations: the boxes by key, from `load_annotations`.
        regions: left, top, right, bottom of the part of the file that each map covers, in pixels of the file, [N, 4]; see `regions_of`.
            None: the whole picture, whose size the annotations tell.
        tolerance: in pixels of the file; above 0.
        smooth: sigma, as a share of the map's short side; 0 does not smooth.
        padding: what lies outside for the smoothing: "zero" (TorchRay's for masks), or "edge", the nearest pixel (its way for gradients).
            Zeros draw the maximum of a map with an offset, such as RISE's, to the middle: leave that unsmoothed, as TorchRay does, or
            take "edge". ``saliency.pointing_of`` tells what TorchRay does for each method.

    Raises:
        InputError: shapes that do not go together, maps that are not finite, a size or region that nobody tells, or no key is annotated.

    Source: Zhang et al. 2016 (excitation backprop); Fong, Patrick and Vedaldi 2019, table 1, as in TorchRay's benchmark. Energy: Wang et
    al. 2020 (Score-CAM), with every box of the class.

    Examples:
        >>> import numpy as np, chanattr as ca
        >>> from chanattr.images.boxes import ImageBoxes
        >>> boxes = ImageBoxes(boxes=np.array([[40, 40, 80, 80]], np.float32), classes=np.array([7], np.int32),
        ...                    difficult=np.array([False]), size=(100, 100))
        >>> heat = np.zeros((1, 50, 50)); heat[0, 30, 30] = 1
        >>> found = ca.pointing_game(heat, ["a.jpg"], [7], annotations={"a.jpg": boxes})
        >>> found.hit.tolist(), found.points.tolist(), found.energy.tolist(), found.share.round(2).tolist()
        ([1], [[61.0, 61.0]], [1.0], [0.16])
    """
    maps, names = _check_maps(heat), tuple(listed("keys", keys, "texts, one a map", "give the names that annotations know"))
    given = array_of(targets)
    goal = np.zeros(0) if given is None else given
    _check_rows(maps, names, goal, annotations, tolerance, smooth, padding)
    places = _check_regions(regions, names, annotations)
    rows = [_row(one, int(target), annotations.get(name), place, (smooth, padding))
            for one, target, name, place in zip(maps, goal, names, places, strict=True)]
    found: dict[str, Any] = {name: np.array([getattr(row, name) for row in rows]) for name in _Row._fields if name != "left_out"}
    hit = np.array([row.left_out or (HIT if row.distance < tolerance else MISS) for row in rows], np.int8)
    return Pointing(keys=names, targets=goal.astype(np.int32), hit=hit, tolerance=float(tolerance), smooth=float(smooth),
                    padding=padding, **found)


def pointing_table(methods: Mapping[str, Pointing], seed: int = 0) -> str:
    """Methods held against one another as text: hits, points in the box, and energy, with 95 % intervals.

    Args:
        methods: by name.
        seed: of the bootstrap.

    Raises:
        InputError: no method.

    Examples:
        >>> import numpy as np, chanattr as ca
        >>> from chanattr.images.boxes import ImageBoxes
        >>> boxes = ImageBoxes(boxes=np.array([[40, 40, 80, 80]], np.float32), classes=np.array([7], np.int32),
        ...                    difficult=np.array([False]), size=(100, 100))
        >>> found = ca.pointing_game(np.eye(50)[None], ["a.jpg"], [7], annotations={"a.jpg": boxes})
        >>> ca.pointing_table({"masks": found}).splitlines()[1].split()[:4]
        ['masks', '1', '100.0', '(20.7-100.0)']
    """
    check_kind("methods", methods, Mapping, "give a Pointing by its name")
    seed = int(check_number(f"seed={seed!r}", seed, SEEDS))
    if not methods:
        raise InputError("no method for a table; expected a Pointing by its name; play the pointing game first")
    rows = []
    for subset in SUBSETS:
        for name, found in methods.items():
            if (line := found.figures(subset, seed)).images or subset == "all":
                label = name if subset == "all" else f"{name}, {subset}"
                rows.append((label, str(line.images), *(_percent(figure) for figure in line[1:])))
    head = ("method", "images", *FIGURES)
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]
    first = next(iter(methods.values()))
    return "\n".join([*lines, "", _legend(first)])


class _Row(NamedTuple):
    """What `Pointing` says of a row; `left_out` is why it is not played, 0 where it is."""

    left_out: int = 0
    points: tuple[float, float] = (math.nan, math.nan)
    distance: float = math.nan
    inside: bool = False
    difficult: bool = False
    energy: float = math.nan
    share: float = math.nan


def _row(heat: np.ndarray, target: int, told: ImageBoxes | None, region: np.ndarray, smooth: tuple[float, str]) -> _Row:
    if told is None:
        return _Row(NO_BOXES)
    own = told.classes == target
    if not own.any():
        return _Row(OTHER_CLASS)
    if told.difficult[own].all():
        return _Row(HARD)
    height, width = heat.shape
    boxes, corner = told.boxes[own].astype(float), np.tile(region[:2], 2)
    scale = np.array([width, height]) / (region[2:] - region[:2])
    cover = inside((boxes - corner) * np.tile(scale, 2), height, width)
    if not cover.any():
        return _Row(CUT_AWAY)
    positive = np.maximum(heat, 0)
    energy = float((positive * cover).sum() / positive.sum()) if positive.any() else math.nan
    point = maximum(smoothed(heat, smooth[0] * min(heat.shape), smooth[1])) if np.ptp(heat) else None
    x, y = (math.nan, math.nan) if point is None else (point / scale + region[:2]).tolist()
    within = (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
    return _Row(points=(x, y), distance=distance(x, y, boxes), inside=bool(within.any()), difficult=_difficult(told, own, region),
                energy=energy, share=float(cover.mean()))


def _difficult(told: ImageBoxes, own: np.ndarray, region: np.ndarray) -> bool:
    """Zhang's rule."""
    sides = np.array(told.size if told.size != (0, 0) else np.maximum(region[2:], told.boxes[:, 2:].max(0)), float)
    return bool(not own.all() and inside(told.boxes[own] / np.tile(sides, 2) * GRID, GRID, GRID).mean() < SMALL)


def _percent(figure: Interval) -> str:
    if not np.isfinite(figure.value):
        return "-"
    value, low, high = (100 * number for number in figure)
    return f"{value:.1f} ({low:.1f}-{high:.1f})"


def _legend(found: Pointing) -> str:
    """What the columns are, and what was not played."""
    words = (f"per cent, with 95 % intervals. overall: maximum nearer than {found.tolerance:g} pixels to a box of the class; by class: the "
             "mean over classes; inside: maximum in a box; energy: heat in the boxes; chance: their share of the area")
    left = ", ".join(f"{count} {reason}" for reason, count in found.left_out().items())
    return words + (f"; not played: {left}" if left else "")


def _check_maps(heat: Any) -> np.ndarray:
    """Maps [N, H, W], summed over areas where there are.

    Raises:
        InputError: something else.
    """
    given = array_of(heat)
    if given is None:
        raise InputError(f"heat is {type(heat).__name__}; expected maps [N, H, W]; give an array or a tensor of numbers")
    values = given.astype(float)
    if values.ndim == 4:
        values = values.sum(1)
    if values.ndim != 3 or not values.size:
        raise InputError(f"heat has shape {values.shape}; expected maps [N, H, W], or masks [N, A, H, W]; give one map an image")
    if (bad := np.flatnonzero(~np.isfinite(values).all((1, 2)))).size:
        raise InputError(f"the heat map of row {bad[0]} is not finite (NaN or infinite); expected finite numbers; leave out such rows")
    return values


def _check_rows(maps: np.ndarray, keys: tuple[str, ...], targets: np.ndarray, annotations: Mapping[str, ImageBoxes], tolerance: float,
                smooth: float, padding: str) -> None:
    check_kind("annotations", annotations, Mapping, "pass what load_annotations gives")
    if len(keys) != len(maps) or targets.shape != (len(maps),) or targets.dtype.kind not in "iu":
        raise InputError(f"{len(maps)} heat maps with {len(keys)} keys and targets of shape {targets.shape} and type {targets.dtype}; "
                         "expected one key and one class number a map; give them in the order of the maps")
    check_number(f"tolerance={tolerance!r}", tolerance, RATE, "leave it out for TorchRay's")
    check_number(f"smooth={smooth!r}", smooth, Range(0), "leave it out for TorchRay's")
    check_name("padding", padding, PADDINGS)
    if not any(key in annotations for key in keys):
        shown = ", ".join(map(repr, [*annotations][:3])) or "there are none"
        raise InputError(f"none of {len(keys)} keys (first {keys[0]!r}) is annotated; expected keys such as {shown}; use "
                         "for_keys(annotations, keys), which also finds them by their file's name")


def _check_regions(regions: Any, keys: tuple[str, ...], annotations: Mapping[str, ImageBoxes]) -> np.ndarray:
    """Regions [N, 4] of all rows that are annotated.

    Raises:
        InputError: another shape, a region without extent, or a picture whose size nobody tells.
    """
    if regions is None:
        unknown = [key for key in keys if key in annotations and annotations[key].size == (0, 0)]
        if unknown:
            raise InputError(f"the annotations of {unknown[0]!r} tell no size, so nothing tells what its heat map covers; expected width "
                             "and height, or regions=; add them, or pass what regions_of gives")
        return np.array([[0, 0, *(annotations[key].size if key in annotations else (1, 1))] for key in keys], float)
    given = array_of(regions)
    values = np.zeros(0) if given is None else given.astype(float)
    if values.shape != (len(keys), 4):
        raise InputError(f"regions have shape {values.shape}; expected [{len(keys)}, 4]: left, top, right and bottom of each; see "
                         "regions_of")
    played = np.array([key in annotations for key in keys])
    wrong = np.flatnonzero(played & ~(values[:, :2] < values[:, 2:]).all(1))
    if len(wrong):
        raise InputError(f"the region of {keys[wrong[0]]!r} is {values[wrong[0]].tolist()}; expected left below right and top below "
                         "bottom, in pixels of the file; see regions_of")
    return values
