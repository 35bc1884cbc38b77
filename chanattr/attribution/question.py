"""A question made complete and checked once, before any work: what `per_image`, `per_class` and a run all start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from chanattr.arguments import COUNT, SEEDS, Range, check_batch_size, check_name, check_number, listed
from chanattr.attribution.inputs import checked_reward
from chanattr.attribution.score import Fill
from chanattr.errors import InputError
from chanattr.network.batches import bytes_of
from chanattr.network.heads import heads_of
from chanattr.network.layers import Layer
from chanattr.network.names import kind
from chanattr.network.outputs import device_of
from chanattr.network.weights import model_sha256
from chanattr.search.family import Channels
from chanattr.search.groups import Group, Groups, groups_of
from chanattr.search.objective import Reward, check_game, level_of, reward_function
from chanattr.search.pictures import Pictures
from chanattr.settings import GAMES, LEVELS, PRECISIONS, REWARDS, SEED, ExactSearch, Search, Settings, area_grid, check_search

Areas = Sequence[int] | str | None
ALONE = 3  # areas' worth of evaluations that a* alone takes (docs/performance.md: 80 to 136 at 40 an area)


@dataclass(frozen=True, kw_only=True)
class Question:
    """Settings with the callables that they name, and what does not change an answer.

    Attributes:
        settings: complete and resolved.
        family: what a mask is: `Channels` of the layer, `Groups` of them, or `Pictures`.
        reward: the callable.
        batch_size: masked images run at once, at most.
        memory_budget: bytes that they may need together; None is what the device holds.
        precision: of the search: "auto", "float32" or "bfloat16"; what is reported is always in float32.
        evaluations: planned with this question, as far as it is known.
    """

    settings: Settings
    family: Any
    reward: Reward
    batch_size: int
    memory_budget: int | None
    precision: str
    evaluations: int


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a caller may say of a question, checked as far as no layer is needed; every field has the default of `per_image`.

    Raises:
        InputError: search, reward, game, level, certify, or a number cannot be used.
    """

    areas: Areas = None
    search: Search | None = None
    reward: str | Reward = REWARDS[0]
    game: str = GAMES[0]
    level: str | float | None = None
    refine: bool | None = None
    score: Callable[..., Tensor] | None = None
    seed: int = SEED
    folds: int = 0
    model: str = ""
    preprocessing: str = ""
    batch_size: int | None = None
    group: Group = ""
    precision: str = PRECISIONS[0]
    memory_budget: str | int | float | None = None
    certify: bool = False

    def __post_init__(self) -> None:
        check_game(self.game)
        resolved_level(self.level, self.game)
        if self.search is not None:
            check_search(self.search)
        reward_function(self.reward)  # refuses what is none
        if self.score is not None and not callable(self.score):
            raise InputError(f"score={self.score!r}; expected a function of the model's output that gives logits; leave it out where "
                             "the model gives them itself")
        if self.refine is not None and not isinstance(self.refine, bool):
            raise InputError(f"refine={self.refine!r}; expected True, False or None; leave it out for the search's own")
        if not isinstance(self.certify, bool):
            raise InputError(f"certify={self.certify!r}; expected True or False; leave it out for answers without certificates")
        for name, allowed in (("folds", COUNT), ("seed", SEEDS)):  # as Python's own numbers: generators take no others
            object.__setattr__(self, name, int(check_number(f"{name}={getattr(self, name)!r}", getattr(self, name), allowed)))
        check_batch_size(self.batch_size, 1)
        check_name("precision", self.precision, PRECISIONS)
        bytes_of(self.memory_budget)  # refuses what is none


def make_question(asked: Asked, model: nn.Module, layer: Layer, fill: Fill, *, digest: str | None = None, images: int = 0) -> Question:
    """The question for one layer, with everything resolved.

    Args:
        asked: the caller's words.
        model: whose weights are digested.
        layer: as found.
        fill: as resolved.
        digest: of the model, where it is known already.
        images: how many there will be, as far as it is known.

    Raises:
        InputError: areas cannot be used on this layer.
    """
    family = family_of(asked.group, model, layer)
    return complete(asked, model, layer, family, digest=digest, evaluations=planned(asked, family, images),
                    areas=check_areas(asked.areas, family.size, family.unit), fill=fill.name, fill_sha256=fill.sha256,
                    group=family.name, groups_sha256=family.sha256)


def complete(asked: Asked, model: nn.Module, layer: Layer, family: Channels | Groups | Pictures, *, digest: str | None,
             evaluations: int = 0, **own: Any) -> Question:
    """The question about masks of a family, with everything resolved.

    Args:
        asked, model, layer, digest: as of `make_question`.
        family: what a mask is.
        evaluations: planned.
        own: fields of `Settings` that hang on the family; areas and fill at least.
    """
    search, reward, name = family.resolve(asked.search or ExactSearch()), reward_function(asked.reward), callable_name(asked.reward)
    settings = Settings(
        layer=layer.name, search=search, reward=name, game=asked.game, level=resolved_level(asked.level, asked.game),
        refine=isinstance(search, ExactSearch) if asked.refine is None else asked.refine, folds=asked.folds, seed=asked.seed,
        score=callable_name(asked.score) if asked.score is not None else "", model=asked.model or kind(model),
        model_sha256=digest or model_sha256(model), preprocessing=asked.preprocessing, certify=asked.certify, **own)
    return Question(settings=settings, family=family, batch_size=batch_size_of(asked.batch_size, model),
                    memory_budget=bytes_of(asked.memory_budget), precision=asked.precision, evaluations=evaluations,
                    reward=reward if isinstance(asked.reward, str) else checked_reward(reward, name))


def family_of(group: Group, model: nn.Module, layer: Layer) -> Channels | Groups:
    """What a mask of a layer selects: its channels, its attention heads, or groups that are given.

    Raises:
        InputError, LayerError: no such group, or heads that cannot be told.
    """
    if isinstance(group, str) and group == "":
        return Channels(layer.channels)
    if isinstance(group, str) and group == "heads":
        return Groups.consecutive(layer.channels // heads_of(model, layer), layer.channels, "heads")
    return groups_of(group, layer.channels, layer.name)


def batch_size_of(batch_size: int | None, model: nn.Module) -> int:
    """Masked images run at once: as many as asked, or enough to fill the device without crowding its memory.

    Raises:
        InputError: not a whole number of 1 or more.
    """
    return check_batch_size(batch_size, 32 if device_of(model).type == "cpu" else 512)


def planned(asked: Asked, family: Channels | Groups, images: int) -> int:
    """Evaluations of all images, roughly: of the search's steps at every area, or where a* alone is asked at those that it takes."""
    search: Search = family.resolve(asked.search or ExactSearch())
    steps = search.starts * (search.relaxed_steps + search.binary_steps) if isinstance(search, ExactSearch) else search.steps
    return images * (len(check_areas(asked.areas, family.size, family.unit)) or ALONE) * int(steps)


def callable_name(named: str | Callable[..., object]) -> str:
    """A name as it is stored: itself, or ``module:function``."""
    if isinstance(named, str):
        return named
    return f"{getattr(named, '__module__', '')}:{getattr(named, '__qualname__', type(named).__name__)}"


def resolved_level(level: str | float | None, game: str) -> str | float:
    """The level as it is stored: the game's own where none is given.

    Raises:
        InputError: it cannot be used in this game.
    """
    if level is None:
        return LEVELS[game]
    if isinstance(level, bool) or not isinstance(level, (str, Real)):
        raise InputError(f"level={level!r}; expected 'original', 'top1' or a fraction from 0 to 1; leave it out for the game's own")
    level_of(level, torch.zeros(1, dtype=torch.float32), torch.zeros(1, dtype=torch.float32))  # refuses what is no level
    if level == "original" and game == "delete":
        raise InputError("level='original' in the game 'delete', where dropping nothing reaches it; expected 'top1' (the default there) "
                         "or a fraction of the way from the empty to the original score")
    return level if isinstance(level, str) else float(level)


def check_areas(areas: Sequence[int] | str | None, channels: int, unit: str = "channels") -> tuple[int, ...]:
    """Areas as increasing counts of channels (or of another `unit`): None is `area_grid`, "smallest" is none at all.

    Raises:
        InputError: no areas, or one that is not a whole number between 1 and `channels`.
    """
    if areas is None:
        return area_grid(channels)
    if isinstance(areas, str) and areas == "smallest":
        return ()
    given = listed("areas", areas, f"whole numbers of {unit}, None for a grid over all of them, or 'smallest' for a* alone",
                   "for one area give a list of one")
    allowed, remedy = Range(1, channels, whole=True, unit=unit), "leave areas out for a grid over all of them"
    return tuple(sorted({int(check_number(f"area {area!r} for a layer of {channels} {unit}", area, allowed, remedy)) for area in given}))
