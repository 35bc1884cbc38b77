"""One image by two answers: where it must be seen, and where its channels are active; overlap, correlation, pointing; numpy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chanattr import tables
from chanattr.arguments import SHARE, check_kind, check_number, listed
from chanattr.codes import laid_out
from chanattr.errors import InputError
from chanattr.evidence.compare import mean_known
from chanattr.records import NOT_RUN, ImageAttribution, SpatialAttribution


@dataclass(frozen=True, kw_only=True, eq=False)
class JointView:
    """A picture mask beside the energy of channel sets, layer by layer, for the images that both answers have.

    All maps are on each layer's own grid: the mask is averaged over what a position covers.

    Attributes:
        layers: of the channel sets.
        keys: of the images.
        masks: of the picture at its a* (or at the area asked), by layer, f4 [N, h, w].
        energies: root mean square of the a*-masked activation, by layer, f4 [N, h, w].
        overlap: intersection over union of the highest positions, as many as the mask's area says, f4 [L, N]; by chance about a / (2 - a).
        correlation: of mask and energy over positions (Pearson), f4 [L, N]; NaN where one is constant.
        inside: mean of the mask at the position of most energy, f4 [L, N]: near 1, the channels point into the mask.
        share: of the energy's squares that lies under the mask, f4 [L, N]; by chance the mask's area.
        areas: mean of the mask, f4 [N].

    Examples:
        >>> import chanattr as ca
        >>> view = ca.joint_view(ca.figures.samples.masks(), [ca.figures.samples.images()])
        >>> view.table().splitlines()[1].split()[0], view.masks[0].shape
        ('features.10', (3, 4, 4))
    """

    layers: tuple[str, ...]
    keys: tuple[str, ...]
    masks: tuple[np.ndarray, ...]
    energies: tuple[np.ndarray, ...]
    overlap: np.ndarray
    correlation: np.ndarray
    inside: np.ndarray
    share: np.ndarray
    areas: np.ndarray

    __repr__ = tables.outline

    def _repr_html_(self) -> str:
        """What a notebook shows: a row a layer, means over images."""
        facts = (tables.count(len(self.keys), "image"), f"mean area {self.areas.mean():.1%}")
        heads = ("overlap", "correlation", "points in", "energy in")
        return tables.columns(self, facts, {"layer": self.layers, **dict(zip(heads, self._means(), strict=True))})

    def table(self) -> str:
        """Means over images, a line a layer."""
        lines = [f"{'layer':<20} {'overlap':>8} {'corr.':>7} {'points in':>10} {'energy in':>10}   ({len(self.keys)} images, mean area "
                 f"{self.areas.mean():.1%})"]
        for layer, overlap, correlation, inside, share in zip(self.layers, *self._means(), strict=True):
            lines.append(f"{layer:<20} {overlap:>8.2f} {correlation:>7.2f} {inside:>10.2f} {share:>10.2f}")
        return "\n".join(lines)

    def _means(self) -> list[np.ndarray]:
        """Over images: overlap, correlation, inside and share of every layer."""
        return [mean_known(values, 1) for values in (self.overlap, self.correlation, self.inside, self.share)]


def joint_view(codes: SpatialAttribution, found: Sequence[ImageAttribution], *, area: float | None = None) -> JointView:
    """How far the channels of layers are active where the picture must be seen.

    Args:
        codes: masks on the picture.
        found: channel sets of one layer or more, of the same model; images that all of them ran on are taken, by key.
        area: of the masks, one of ``codes.areas``; None is each image's a*, and the largest area where it has none (where no area reaches,
            or the picture perturbed everywhere does).

    Raises:
        InputError: no layer, no image in all of them, or no such area.

    Examples:
        >>> import chanattr as ca
        >>> view = ca.joint_view(ca.figures.samples.masks(), [ca.figures.samples.images()])
        >>> view.layers, view.keys, view.overlap.shape
        (('features.10',), ('a.jpg', 'b.jpg', 'c.jpg'), (1, 3))
    """
    check_kind("codes", codes, SpatialAttribution, "pass what run.spatial() gives")
    found = listed("found", found, "answers at one layer or more", "pass [run.per_image(layer), ...]")
    for one in found:
        check_kind("one of found", one, ImageAttribution, "pass [run.per_image(layer), ...]")
    answers: list[SpatialAttribution | ImageAttribution] = [codes, *found]
    ran = [{key for key, area in zip(one.keys, one.smallest_area, strict=True) if area != NOT_RUN} for one in answers]
    keys = [key for key in codes.keys if all(key in done for done in ran)]
    if not keys:
        raise InputError(f"no image is in all of {1 + len(found)} answers; expected answers about the same images; their keys must agree")
    if len({codes.settings.model_sha256, *(one.settings.model_sha256 for one in found)}) > 1:
        raise InputError("the answers are of several models (their digests differ); expected one; ask both of the same weights")
    rows = np.array([codes.keys.index(key) for key in keys])
    chosen = _codes(codes[rows], area)
    masks, energies, figures = [], [], []
    for one in found:
        own = one[np.array([one.keys.index(key) for key in keys])]
        energy = laid_out(own.energy)
        covered = chosen.smallest_masks(energy.shape[1:])
        masks.append(covered)
        energies.append(energy)
        figures.append([_compared(*pair) for pair in zip(covered, energy, strict=True)])
    overlap, correlation, inside, share = np.moveaxis(np.array(figures, dtype=np.float32), -1, 0)
    return JointView(layers=tuple(one.layer for one in found), keys=tuple(keys), masks=tuple(masks), energies=tuple(energies),
                     overlap=overlap, correlation=correlation, inside=inside, share=share,
                     areas=chosen.smallest_masks().mean((1, 2)))


def _codes(codes: SpatialAttribution, area: float | None) -> SpatialAttribution:
    """The record with the codes that are meant in the place of a*'s."""
    if area is None:
        has = codes.smallest_area > 0
        return dataclasses.replace(codes, smallest_code=np.where(has[:, None, None], codes.smallest_code, codes.codes[:, -1]))
    place = np.flatnonzero(np.isclose(codes.areas, check_number(f"area={area!r}", area, SHARE, "leave it out for a*"), rtol=1e-5))
    if not len(place):
        raise InputError(f"area={area!r}; expected one of {[round(float(a), 6) for a in codes.areas]}, or None for a*")
    return dataclasses.replace(codes, smallest_code=codes.codes[:, place[0]])


def _compared(mask: np.ndarray, energy: np.ndarray) -> tuple[float, float, float, float]:
    """Overlap, correlation, mask at the strongest position, share of squared energy under the mask."""
    soft, strength = mask.ravel().astype(np.float64), np.nan_to_num(energy.ravel().astype(np.float64))
    count = max(1, round(float(soft.mean()) * soft.size))
    tops = [set(np.argsort(-values, kind="stable")[:count].tolist()) for values in (soft, strength)]
    overlap = len(tops[0] & tops[1]) / len(tops[0] | tops[1])
    constant = soft.std() == 0 or strength.std() == 0
    correlation = np.nan if constant else float(np.corrcoef(soft, strength)[0, 1])
    squares = strength**2
    share = float((soft * squares).sum() / squares.sum()) if squares.sum() > 0 else np.nan
    return overlap, correlation, float(soft[strength.argmax()]), share
