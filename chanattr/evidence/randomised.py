"""The record of a sanity check: how far sets stay the same while the network, or the class asked about, is made random; numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chanattr import tables


@dataclass(frozen=True, kw_only=True, eq=False)
class Sanity:
    """How far sets stay the same while the network (or the class asked about) is made random, for N images and A sets each.

    Attributes:
        layer: dotted name.
        random: what was made random last, one a step; "" for the first, which is the trained network asked once more.
        depth: how many modules are random (of labels: 1), i4 [D].
        after: whether only what follows the layer is random: its activation is what it was, bool [D].
        jaccard: overlap of the sets with those of the trained network, f8 [D, N, A].
        chance: of random sets of the same sizes, f8 [D, N, A].
        rank: Spearman's correlation of the order in which channels come in, f8 [D, N]; 0 by chance.
        similarity: mean overlap on a scale where 0 is chance and 1 the same sets, f8 [D].
        limit: similarity above which sets count as unchanged.
        verdict: "passes", or what is wrong in words.

    Examples:
        >>> import chanattr as ca
        >>> told = ca.figures.samples.sanity()  # as `randomisation` gives it
        >>> told.passes, told.random, told.similarity.tolist()
        (True, ('', 'classifier.1', 'features.10'), [1.0, 0.08, 0.0])
    """

    layer: str
    random: tuple[str, ...]
    depth: np.ndarray
    after: np.ndarray
    jaccard: np.ndarray
    chance: np.ndarray
    rank: np.ndarray
    similarity: np.ndarray
    limit: float
    verdict: str

    __repr__ = tables.outline

    def _repr_html_(self) -> str:
        """What a notebook shows: a row a depth."""
        return tables.columns(self, (self.verdict, f"layer {self.layer}"), {
            "random": self.depth, "the last": [name or "the trained network" for name in self.random], "only after the layer": self.after,
            "similarity": self.similarity, "overlap": self.jaccard.mean((1, 2)), "by chance": self.chance.mean((1, 2))})

    @property
    def passes(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict == "passes"
