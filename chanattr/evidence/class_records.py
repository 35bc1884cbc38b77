"""The frozen results of what is asked about class sets: numpy only, with their means and bootstrap intervals.

Axis letters as in `chanattr.records`; and W rewards, M methods, F folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chanattr import tables
from chanattr.arguments import check_name
from chanattr.errors import InputError
from chanattr.evidence.compare import mean_known
from chanattr.evidence.intervals import Interval, mean_by_class
from chanattr.settings import Settings

FIGURES = ("scores", "top1", "log_probability", "logits")


@dataclass(frozen=True, kw_only=True, eq=False)
class Specificity:
    """What the channels of class A do for the images of class B: rows are whose channels, columns whose images.

    Attributes:
        layer: dotted name of the layer.
        settings: the question that the sets answer.
        game: "preserve" (only A's channels are kept) or "delete" (they are dropped).
        count: channels a set; -1 for each class's a*.
        source: "joint" or "mean".
        seed: of the random sets; -1 where there are none.
        names: of the classes.
        targets: class numbers, i4 [C].
        sizes: channels of each class's set, i4 [C]; -1 where a class has none.
        images: of each class, i4 [C].
        accuracy: share of B's images that are named rightly among all the model's classes, f4 [C, C]; NaN where A has no set or B no image.
        logits: mean logit of B on B's images, f4 [C, C].
        original_accuracy, original_logits: of the whole network, f4 [C].
        random_accuracy, random_logits: with a random set of the size of A's in its place, f4 [C, C]; NaN where there are none.

    Examples:
        >>> import chanattr as ca
        >>> found = ca.figures.samples.specificity()  # as `specificity` gives it
        >>> found.names, found.accuracy.argmax(1).tolist()
        (('cat', 'dog', 'fox'), [0, 1, 2])
    """

    layer: str
    settings: Settings
    game: str
    count: int
    source: str
    seed: int
    names: tuple[str, ...]
    targets: np.ndarray
    sizes: np.ndarray
    images: np.ndarray
    accuracy: np.ndarray
    logits: np.ndarray
    original_accuracy: np.ndarray
    original_logits: np.ndarray
    random_accuracy: np.ndarray
    random_logits: np.ndarray

    __repr__ = tables.outline

    def __len__(self) -> int:
        return len(self.targets)

    def _repr_html_(self) -> str:
        """What a notebook shows: a row a class, with what its set does for its own images and for the others."""
        verb = "kept" if self.game == "preserve" else "dropped"
        others = mean_known(np.where(np.eye(len(self), dtype=bool), np.nan, self.accuracy), 1)
        return tables.columns(self, (tables.count(len(self), "class", "classes"), f"layer {self.layer}"), {
            "class": [name or f"class {target}" for name, target in zip(self.names, self.targets, strict=True)], "channels": self.sizes,
            "images": self.images, "named rightly": self.original_accuracy, f"its own, set {verb}": self.accuracy.diagonal(),
            f"the others', set {verb}": others})


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """Class sets scored on images that they were not searched on: every image once, by the set from the other folds of its class.

    Attributes:
        layer: dotted name of the layer.
        settings: the question, one a reward.
        methods: where the sets come from, by name; see `held_out`.
        names: of the classes, in words.
        targets: class numbers, i4 [C].
        counts: channels a set, i4 [A].
        folds: F.
        classes: class of each image as a row of `targets`, i4 [N].
        fold: which of its class's folds an image lies in, i4 [N]; -1 where the class has fewer images than folds.
        masks: the set that fold f was scored with (so from the images outside it), bool [W, M, C, F, A, K]; all False where there is none.
        scores: the reward that was searched, each image under the set of its class and fold, f4 [W, M, N, A]; NaN where there is none.
        top1: whether the masked network names the image's class, f4 [W, M, N, A].
        log_probability, logits: of the image's class, f4 [W, M, N, A].
        original_top1, original_log_probability, original_logits: of the whole network, f4 [N].
        reaching: images outside of each fold whose own a* set was found (what the mean is over), i4 [W, C, F]; 0 where not asked for.
        evaluations: masked images evaluated to find each method's sets, f4 [W, M].
        groups: as for `ClassAttribution`, i4 [L].
    """

    layer: str
    settings: tuple[Settings, ...]
    methods: tuple[str, ...]
    names: tuple[str, ...]
    targets: np.ndarray
    counts: np.ndarray
    folds: int
    classes: np.ndarray
    fold: np.ndarray
    masks: np.ndarray
    scores: np.ndarray
    top1: np.ndarray
    log_probability: np.ndarray
    logits: np.ndarray
    original_top1: np.ndarray
    original_log_probability: np.ndarray
    original_logits: np.ndarray
    reaching: np.ndarray
    evaluations: np.ndarray
    groups: np.ndarray

    __repr__ = tables.outline

    def _repr_html_(self) -> str:
        """What a notebook shows: a row a reward and method, with the share of images that are named rightly at up to four counts."""
        means = mean_known(self.by_class("top1"), 2)
        some = np.unique(np.linspace(0, len(self.counts) - 1, 4).round().astype(int))
        rows = [(reward, method, *means[w, m, some], int(self.evaluations[w, m]))
                for w, reward in enumerate(self.rewards) for m, method in enumerate(self.methods)]
        facts = (tables.count(len(self), "class", "classes"), tables.count(len(self.classes), "image"), f"layer {self.layer}",
                 f"named rightly; {tables.plain(float(self.original_top1.mean()))} with every channel")
        heads = ("reward", "method", *(f"{count} channels" for count in self.counts[some]), "evaluations")
        return tables.table("HeldOut", facts, heads, rows)

    @property
    def rewards(self) -> tuple[str, ...]:
        """The rewards that were searched."""
        return tuple(settings.reward for settings in self.settings)

    def __len__(self) -> int:
        return len(self.targets)

    def by_class(self, figure: str = "scores") -> np.ndarray:
        """The mean of a figure over the images of each class, f8 [W, M, C, A]; NaN where there are none.

        Raises:
            InputError: no such figure.
        """
        values = self._figure(figure).astype(np.float64)
        return np.stack([mean_known(values[:, :, self.classes == row], 2) for row in range(len(self))], 2)

    def mean(self, figure: str = "scores", seed: int = 0) -> Interval:
        """The mean over classes of a figure's class means, with 95 % intervals over classes and their images, each f8 [W, M, A].

        Raises:
            InputError: no such figure.
        """
        return mean_by_class(np.moveaxis(self._figure(figure), 2, 0), self.classes, seed=seed)

    def margin(self, method: str, other: str, figure: str = "scores", *, seed: int = 0) -> Interval:
        """By how much one method's mean over classes is above another's, image by image, with 95 % intervals, each f8 [W, A].

        Raises:
            InputError: no such figure or method.
        """
        values = self._figure(figure)
        difference = values[:, self._method(method)] - values[:, self._method(other)]
        return mean_by_class(np.moveaxis(difference, 1, 0), self.classes, seed=seed)

    def wins(self, method: str, other: str, figure: str = "scores") -> np.ndarray:
        """Classes in which one method's mean is above another's, i8 [W, A]; of those where both have one.

        Raises:
            InputError: no such figure or method.
        """
        means = self.by_class(figure)
        won: np.ndarray = (means[:, self._method(method)] > means[:, self._method(other)]).sum(1)
        return won

    def _figure(self, figure: str) -> np.ndarray:
        check_name("figure", figure, FIGURES)
        values: np.ndarray = getattr(self, figure)
        return values

    def _method(self, name: str) -> int:
        if name not in self.methods:
            raise InputError(f"method {name!r} is not in this result; expected one of {', '.join(self.methods)}; ask held_out for it")
        return self.methods.index(name)
