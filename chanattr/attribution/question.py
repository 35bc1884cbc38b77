"""A question made complete and checked once, before any work: what `per_image`, `per_class` and a run all start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chanattr.attribution.score import Fill
from chanattr.errors import InputError, ModelError
from chanattr.network.layers import Layer
from chanattr.network.tail import Stem
from chanattr.network.weights import model_sha256
from chanattr.search.family import Channels
from chanattr.search.objective import Reward, level_of, reward_function
from chanattr.settings import GAMES, ExactSearch, Search, Settings, check_areas

Areas = Sequence[int] | str | None


@dataclass(frozen=True, kw_only=True)
class Question:
    """Settings with the callables that they name, and what does not change an answer.

    Attributes:
        settings: complete and resolved.
        family: the channels of the layer.
        reward: the callable.
        batch_size: masked images run at once.
    """

    settings: Settings
    family: Channels
    reward: Reward
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a caller may say of a question; every field has the default of `per_image`."""

    areas: Areas = None
    search: Search | None = None
    reward: str | Reward = "logit"
    game: str = "preserve"
    level: str | float | None = None
    refine: bool | None = None
    score: Callable[..., Tensor] | None = None
    seed: int = 0
    folds: int = 0
    model: str = ""
    preprocessing: str = ""
    batch_size: int | None = None


def make_question(asked: Asked, model: nn.Module, layer: Layer, fill: Fill, *, digest: str | None = None) -> Question:
    """The question for one layer, with everything resolved.

    Args:
        asked: the caller's words.
        model: whose weights are digested.
        layer: as found.
        fill: as resolved.
        digest: of the model, where it is known already.

    Raises:
        InputError: areas, reward, game, level or search cannot be used.
    """
    family = Channels(layer.channels)
    if asked.game not in GAMES:
        raise InputError(f"game={asked.game!r}; expected one of {', '.join(GAMES)}")
    search: Search = family.resolve(asked.search if asked.search is not None else ExactSearch())
    exact = isinstance(search, ExactSearch)
    settings = Settings(
        layer=layer.name, areas=check_areas(asked.areas, layer.channels), search=search, reward=callable_name(asked.reward),
        game=asked.game, fill=fill.name, fill_sha256=fill.sha256, level=_level(asked.level, asked.game),
        refine=exact if asked.refine is None else asked.refine, folds=asked.folds, seed=asked.seed,
        score=callable_name(asked.score) if asked.score is not None else "", model=asked.model or type(model).__name__,
        model_sha256=digest or model_sha256(model), preprocessing=asked.preprocessing)
    return Question(settings=settings, family=family, reward=reward_function(asked.reward),
                    batch_size=asked.batch_size or default_batch_size(model))


def default_batch_size(model: nn.Module) -> int:
    """Masked images run at once: enough to fill the device without crowding its memory."""
    parameter = next(model.parameters(), torch.zeros(0))
    return 32 if parameter.device.type == "cpu" else 512


def callable_name(named: str | Callable[..., object]) -> str:
    """A name as it is stored: itself, or ``module:function``."""
    if isinstance(named, str):
        return named
    return f"{getattr(named, '__module__', '')}:{getattr(named, '__qualname__', type(named).__name__)}"


def check_targets(targets: Sequence[int] | Tensor | None, stem: Stem) -> Tensor:
    """Class numbers, one an image; None is the class that the whole network predicts.

    Raises:
        InputError: not one whole number an image, or out of the model's range.
    """
    count, classes = stem.logits.shape
    if targets is None:
        return stem.logits.argmax(1)
    values = torch.as_tensor(targets, device=stem.logits.device)
    if values.shape != (count,) or values.is_floating_point() or values.dtype == torch.bool:
        raise InputError(f"targets have shape {tuple(values.shape)} and type {values.dtype}; expected {count} whole numbers, "
                         "one an image; leave targets out for the predicted classes")
    bad = values[(values < 0) | (values >= classes)]
    if len(bad):
        raise InputError(f"target {int(bad[0])} for a model with {classes} classes; expected 0 to {classes - 1}")
    return values.long()


def check_finite(values: Tensor, keys: Sequence[str], what: str) -> None:
    """Refuses NaN and infinite scores, naming the images they belong to.

    Raises:
        ModelError: a row of `values` is not finite.
    """
    bad = ~values.flatten(1).isfinite().all(1) if values.ndim > 1 else ~values.isfinite()
    if bad.any():
        names = [keys[i] for i in torch.nonzero(bad)[:3, 0].tolist()]
        raise ModelError(f"the {what} of {int(bad.sum())} image(s) are not finite (NaN or infinite), first {', '.join(map(repr, names))}; "
                         "expected finite numbers; check the preprocessing and the precision of the model")


def check_keys(keys: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Keys, one a row and all different; None is ``str(row)``.

    Raises:
        InputError: another number of keys, or one twice.
    """
    if keys is None:
        return tuple(str(row) for row in range(count))
    if len(keys) != count:
        raise InputError(f"{len(keys)} keys for {count} images; expected one each")
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise InputError(f"key {key!r} comes twice; expected every image to have its own; rename one, or leave keys out")
        seen.add(key)
    return tuple(keys)


def _level(level: str | float | None, game: str) -> str | float:
    if level is None:
        return "top1" if game == "delete" else "original"
    level_of(level, torch.zeros(1), torch.zeros(1))  # refuses what is no level
    if level == "original" and game == "delete":
        raise InputError("level='original' in the game 'delete', where dropping nothing reaches it; expected 'top1' (the default there) "
                         "or a fraction of the way from the empty to the original score")
    return level if isinstance(level, str) else float(level)


