"""All that changes a result: searches, areas and the question asked, frozen, torch-free, with a digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from chanattr.arguments import COUNT, RATE, SHARE, STEPS, Range, check_number
from chanattr.errors import InputError

# What a setting can be, the default first. Public signatures say defaults once more, for their readers: tests/test_house.py compares them.
REWARDS = ("logit", "contrastive", "log_probability")
GAMES = ("preserve", "delete", "dual")
LEVELS = {"preserve": "original", "delete": "top1", "dual": "original"}  # the default of each game
FILLS = ("zero", "mean", "spatial_mean", "values")
PERTURBATIONS = ("blur", "fade", "mean", "noise")
PRECISIONS = ("auto", "float32", "bfloat16")
TARGETS = ("predicted", "label")
SEED, LABEL = 0, "exact"
PICTURE = ":input"  # the layer that is the picture itself
# Not named by older files, where they mean this; the same of `Settings` are its fields with a default.
LATER_SEARCH: dict[str, dict[str, Any]] = {"exact": {"smoothing": 0.0, "starts": 1, "hard_every": 0, "sweeps": 0, "shifts": 0,
                                                    "border": 0.0},
                                           "penalty": {"growth": 1.0}}
Area = Any  # a whole number of channels, or a share of a picture
Unset = Any  # None until the family fills it in
PICTURE_AREAS = (0.025, 0.05, 0.1, 0.2)
PAPER_AREAS = (1, 5, 10, 20, 25, 35, 40, 50, 60, 70, 80, 90, 100, 150, 200, 250, 300, 350, 400, 450)


def within(allowed: Range) -> Any:
    """A field that is None until the family (or the kind of picture) fills it in, and then a number of a range."""
    return dataclasses.field(default=None, metadata={"range": allowed})


@dataclass(frozen=True, kw_only=True)
class ExactSearch:
    """The default search: the area is held exactly at every step.

    A relaxed phase anneals the area from K down to the one asked while projecting on the capped simplex
    ``{0 <= m <= 1, sum m = area}``; a binary phase then exchanges members of the set for worthier others and keeps the best seen.
    The areas of an image are searched in turn, each from what the one before found.
    Fields left None take the family's values (`chanattr.search.family`); the resolved values are stored.

    Attributes:
        relaxed_steps: evaluations of the relaxed phase; 0 leaves it out. Of areas searched in turn only the first has one, of its first
            sweep's evaluations the same share; the others spend all of theirs on exchanges.
        binary_steps: evaluations of the binary phase, at least 1.
        anneal: share of the relaxed phase over which the area falls from K, in [0, 1].
        relaxed_rate: step of the relaxed phase, in mask units per standard deviation of the gradient, above 0.
        momentum: of the relaxed phase, in [0, 1).
        memory: share of the slopes seen so far that still counts after one more step, in [0, 1); in the binary phase those of masks like
            the one at hand count besides, whatever their age, together at most as much as all of those can.
        exchange: share of the set (or of what is outside, where that is less) exchanged at the first binary step; it falls linearly. Of
            areas searched in turn all but the first begin with half of it.
        exploration: noise on the channels' worth at the first binary step, in its standard deviations, 0 or more; it falls linearly.
        border: before an exchange (but the last, and the last two where evaluations are odd in number) one evaluation sees the mask fall
            from one to zero over this many times as many channels as are exchanged, on either side of the set's border: slopes halfway
            tell what an exchange will do. Visits of fewer than four evaluations have none; 0 leaves them out everywhere.
        refine_steps: evaluations of one bisection step of a*, 1 to 10.
        smoothing: of the gradient at the first step, in cells of a picture's grid; it falls to a tenth. 0 leaves it out, as for channels.
        starts: searches from the beginning, of which the best is kept; each has its own noise, or on pictures a coarser smoothing.
        hard_every: on pictures, every how many steps sees the mask hardened towards its level set; 0 never.
        shifts: on pictures, by how many cells of the grid a mask of less than two discs is shifted as a whole, once it is found, the eight
            ways, then by half as many, down to one, once each, where it scores higher; 0 never, at most 31.
        sweeps: how often the areas of an image are gone over, from the largest to the smallest, back, and so on, the evaluations of
            each divided among them, with fewer in the first (and fewer for an area that lies closely below another); 0 searches every
            area by itself, as pictures are.

    Examples:
        >>> import chanattr as ca
        >>> ca.ExactSearch(relaxed_steps=20).binary_steps is None  # the family's
        True
    """

    relaxed_steps: int | Unset = within(COUNT)
    binary_steps: int | Unset = within(STEPS)
    anneal: float | Unset = within(SHARE)
    relaxed_rate: float | Unset = within(RATE)
    momentum: float | Unset = within(Range(0, 1, without="high"))
    memory: float | Unset = within(Range(0, 1, without="high"))
    exchange: float | Unset = within(SHARE)
    exploration: float | Unset = within(Range(0))
    border: float | Unset = within(Range(0))
    refine_steps: int | Unset = within(Range(1, 10, whole=True))
    smoothing: float | Unset = within(Range(0))
    starts: int | Unset = within(STEPS)
    hard_every: int | Unset = within(COUNT)
    shifts: int | Unset = within(Range(0, 31, whole=True))
    sweeps: int | Unset = within(COUNT)
    name: str = dataclasses.field(default="exact", init=False)


@dataclass(frozen=True, kw_only=True)
class PenaltySearch:
    """The paper's search: equation 8, gradient ascent on the reward less lambda times the area penalty.

    Defaults are the paper's channel protocol: 300 steps, learning rate 0.01, lambda rising linearly from 0 to 1500
    over the first 150 steps. Momentum, start and reduction are not stated there; the values here are the ones
    that found the best sets when all were measured.

    Attributes:
        steps: gradient steps, at least 1.
        learning_rate: of plain SGD on the mask, which is clamped to [0, 1] after each step; above 0.
        penalty: lambda at the end of the ramp, 0 or more.
        ramp: steps over which lambda rises linearly from 0; 0 begins with all of it.
        growth: factor by which lambda grows at each step, at least 1 (1 for channels, 1.0035 for pictures, as in TorchRay).
        momentum, dampening: of SGD, in [0, 1) and [0, 1].
        start: value of every channel at the start, in [0, 1].
        reduction: "mean" or "sum" of the squared distances of equation 4.

    Examples:
        >>> import chanattr as ca
        >>> ca.PenaltySearch(steps=100).name, ca.PenaltySearch(steps=100).steps
        ('penalty', 100)
    """

    steps: int | Unset = within(STEPS)
    learning_rate: float | Unset = within(RATE)
    penalty: float | Unset = within(Range(0))
    ramp: int | Unset = within(COUNT)
    momentum: float | Unset = within(Range(0, 1, without="high"))
    dampening: float | Unset = within(SHARE)
    start: float | Unset = within(SHARE)
    reduction: str | Unset = None
    growth: float | Unset = within(Range(1))
    name: str = dataclasses.field(default="penalty", init=False)


Search = ExactSearch | PenaltySearch
PICTURE_DRAFT = ExactSearch(relaxed_steps=40, hard_every=0, shifts=0)  # half the work on pictures, for a first look
AnySearch = TypeVar("AnySearch", bound=Search)
Fields = TypeVar("Fields")
SEARCHES: dict[str, type[ExactSearch] | type[PenaltySearch]] = {"exact": ExactSearch, "penalty": PenaltySearch}


def digest(settings: Any) -> str:
    """sha256 of the settings' `to_json`, in hex."""
    return hashlib.sha256(settings.to_json().encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One question, complete: what a stored result was asked with, and what a resumed run must match.

    Device, engine, batch size and versions are left out on purpose: they do not change what is asked. Fields with a default are younger
    than the format: a file that does not name one means that.

    Attributes:
        layer: dotted name, with ``@n`` for the n-th call; ``:input`` is the picture.
        areas: channels kept, or shares of a picture, increasing; empty when only a* was asked.
        search: with every field resolved.
        reward: its name, or ``module:function`` of a callable.
        game: a name of `GAMES`.
        fill: a name of `FILLS`; with "values" `fill_sha256` tells which.
        level: "original", "top1", or a fraction of the way from the empty to the original score.
        refine: whether a* was refined by bisection.
        folds: parts of a class searched apart for held-out scores (class questions only; 0 otherwise).
        seed: of every random choice.
        score: ``module:function`` that turns the model's output into logits, "" for none.
        model, model_sha256: the model's name, and the digest of its weights and buffers.
        preprocessing: how pictures became tensors, in words; "" when tensors were given.
        group: what a mask selects whole: "" single channels, "heads" of attention, "given" groups; then areas count groups.
        groups_sha256: of the group of every channel; "" for single channels.
        certify: whether images' a* sets were certified, and made smaller where that found a smaller one.
        perturbation: for masks on a picture what lies under them, one of `PERTURBATIONS`, "values" or "images"; "" for channels.
        perturbation_sha256: of values or images that were given.
        levels, blur: of the blur pyramid: how many, and the largest standard deviation as a share of the picture's sides.
        flip: whether every second step sees the picture mirrored.
        jitter: largest shift of the picture at each step, as a share of its sides.
        samples: of the mask, in each cell and direction, while it is searched; 0 all of them.

    Examples:
        >>> import chanattr as ca
        >>> asked = ca.figures.samples.images().settings
        >>> asked.unit, ca.Settings.from_json(asked.to_json()) == asked
        ('channels', True)
    """

    layer: str
    areas: tuple[Area, ...]
    search: Search
    reward: str
    game: str
    fill: str
    fill_sha256: str
    level: str | float
    refine: bool
    folds: int
    seed: int
    score: str
    model: str
    model_sha256: str
    preprocessing: str
    group: str = ""
    groups_sha256: str = ""
    certify: bool = False
    perturbation: str = ""
    perturbation_sha256: str = ""
    levels: int = 0
    blur: float = 0.0
    flip: bool = False
    jitter: float = 0.0
    samples: int = 0

    @property
    def unit(self) -> str:
        """What areas count, in words."""
        if self.perturbation:
            return "of the picture"
        return {"": "channels", "heads": "heads"}.get(self.group, "groups")

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain JSON types, without what is younger than the format and not used: older questions keep their digest."""
        later, own = LATER_SEARCH[self.search.name], {field.name: field.default for field in dataclasses.fields(self)}
        search = {name: value for name, value in dataclasses.asdict(self.search).items() if value != later.get(name, ...)}
        whole = dataclasses.asdict(self) | {"areas": list(self.areas), "search": search}
        return {name: value for name, value in whole.items() if value != own[name]}

    def to_json(self) -> str:
        """Sorted, compact JSON: equal settings give equal text."""
        return json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))

    digest = digest

    def differences(self, other: Settings) -> list[tuple[str, Any, Any]]:
        """``(field, mine, theirs)`` for every field that differs: of two exact or penalty searches ``search.field``, else their names."""
        alike = self.search.name == other.search.name
        mine, theirs = self._named(alike), other._named(alike)
        return [(name, mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]]

    def _named(self, within: bool) -> dict[str, Any]:
        """Every field's value by its name; those of the search too, or its name alone."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | {"areas": list(self.areas)}
        inside = {f"search.{name}": value for name, value in dataclasses.asdict(self.search).items()}
        return found | ({"search": None} | inside if within else {"search": self.search.name})

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """The settings that `to_json` wrote.

        Raises:
            InputError: `text` is not what `to_json` writes.
        """
        try:
            fields = json.loads(text)
            search = fields.pop("search")
            name = search.pop("name")
            return cls(**fields | {"areas": tuple(fields["areas"]), "search": SEARCHES[name](**LATER_SEARCH[name] | search)})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"settings {text[:80]!r} cannot be read ({error}); expected the JSON that chanattr wrote; "
                             "the file may come from a newer version") from error


def area_grid(channels: int, count: int = 13) -> tuple[int, ...]:
    """The default areas: at most `count` channel numbers from 1 to `channels`, evenly spaced by ratio.

    Args:
        channels: K of the layer, 1 or more.
        count: of areas, at most.

    Raises:
        InputError: no channels.

    Examples:
        >>> area_grid(512)
        (1, 2, 3, 5, 8, 13, 23, 38, 64, 108, 181, 304, 512)
    """
    channels = int(check_number(f"area_grid got {channels!r} channels", channels, STEPS, "give the K of a layer"))
    count = int(check_number(f"area_grid got count={count!r}", count, STEPS, "leave it out for 13"))
    import numpy as np  # not before it is needed: the command line's help is made from this file

    values = np.rint(channels ** np.linspace(0, 1, count)).astype(int)
    return tuple(int(v) for v in np.unique(values))


def paper_areas(channels: int) -> tuple[int, ...]:
    """The paper's areas (section 5): its 20 counts below `channels`, and `channels` itself (21 for GoogLeNet's 528).

    Args:
        channels: K of the layer, 1 or more.

    Raises:
        InputError: no channels.

    Examples:
        >>> paper_areas(64)
        (1, 5, 10, 20, 25, 35, 40, 50, 60, 64)
    """
    channels = int(check_number(f"paper_areas got {channels!r} channels", channels, STEPS, "give the K of a layer"))
    return (*(a for a in PAPER_AREAS if a < channels), channels)


def check_ranges(settings: Fields) -> Fields:
    """Settings whose numbers, where they are not None, lie in the ranges of their fields.

    Raises:
        InputError: one does not.
    """
    of: Any = settings
    numbers: dict[str, Any] = {f.name: check_number(f"{type(of).__name__}({f.name}={value!r})", value, f.metadata["range"])
                               for f in dataclasses.fields(of) if "range" in f.metadata and (value := getattr(of, f.name)) is not None}
    checked: Fields = dataclasses.replace(of, **numbers)
    return checked


def check_search(search: AnySearch) -> AnySearch:
    """A search whose fields, where they are not None, are what they can be.

    Raises:
        InputError: no search, or a field out of its range.
    """
    if not isinstance(search, (ExactSearch, PenaltySearch)):
        raise InputError(f"search={search!r}; expected ca.ExactSearch(...) or ca.PenaltySearch(...); leave it out for the exact search")
    whole = check_ranges(search)
    if isinstance(search, PenaltySearch) and search.reduction not in (None, "mean", "sum"):
        raise InputError(f"PenaltySearch(reduction={search.reduction!r}); expected 'mean' or 'sum'; leave it out for the default")
    return whole
