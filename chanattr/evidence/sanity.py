"""Whether an attribution looks at the network: its sets against those of the network made random from the output down."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from chanattr.arguments import SEEDS, SHARE, STEPS, check_function, check_number
from chanattr.attribution.image import per_image
from chanattr.attribution.spatial import spatial
from chanattr.codes import level_sets
from chanattr.errors import InputError, ModelError
from chanattr.evidence.compare import above_chance, chance_of, entered, jaccard, mean_known, spearman
from chanattr.evidence.randomised import Sanity
from chanattr.evidence.whole import exact_logits, last_calls, targets_of
from chanattr.network.hooks import capture, frozen
from chanattr.network.inputs import take_rows
from chanattr.network.names import kind, named, unwrapped
from chanattr.network.outputs import Inputs, call
from chanattr.progress import Progress, advance
from chanattr.settings import PICTURE, PICTURE_AREAS, Search

Attribute = Callable[[nn.Module, Any, str, Tensor], Any]
LIMIT, LABEL_LIMIT = 0.5, 0.9  # above-chance overlap from which sets count as unchanged: by random weights, and by other labels
SAME = 1e-6  # of an activation's scale: by so much it may move and still be what it was
BATCH = 32


def randomisation(model: nn.Module, images: Inputs, layer: str, *, attribute: Attribute | None = None,
                  targets: Sequence[int] | Tensor | None = None, areas: Sequence[float] | None = None, search: Search | None = None,
                  steps: int | None = None, limit: float = LIMIT, score: Callable[..., Tensor] | None = None, seed: int = 0,
                  progress: Progress = False) -> Sanity:
    """The sets of an attribution while the modules of a copy of the network are made random, one after another from the output down.

    An attribution that looks at the network must give other sets of the same size: for a random network, and already where only what
    follows the layer is random. Targets stay those of the trained network.

    Args:
        model: copied; the copy is in eval mode, the model is left as found.
        images: as for `per_image`.
        layer: of the sets; ":input" for those of pixels, of the picture itself.
        attribute: ``f(model, images, layer, targets) -> masks`` [N, A, K] of zeros and ones, areas increasing; None is `per_image`, and on
            the picture the level sets of `spatial`'s masks.
        targets: class numbers [N]; None is what the trained network predicts.
        areas, search: of `per_image` or `spatial`, where `attribute` is None.
        steps: at how many depths to ask, evenly spaced and with the last; None is every module. The last depth at which only what follows
            the layer is random is always among them.
        limit: of `Sanity`.
        score: as for `per_image`.
        seed: of the random weights.
        progress: as for `per_image`.

    Returns:
        A `Sanity`; ``verdict`` is "passes" or says what the attribution ignores.

    Raises:
        InputError: an argument cannot be used, or the attribution gives no sets of these images.
        LayerError, ModelError: as in `per_image`; or the model cannot be copied, or has no weights.

    Source: Adebayo et al. 2018, cascading randomisation; Fong, Patrick and Vedaldi 2019, figure 7. Modules are drawn again by their
    ``reset_parameters``; of those without it the weights are permuted.

    Examples:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))
        >>> def sets(model, images, layer, targets):
        ...     return ca.per_image(model, images, layer, targets=targets, areas=(1, 2), engine="injection").masks
        >>> told = ca.randomisation(model, torch.rand(2, 3, 8, 8), "1", attribute=sets)
        >>> told.random, told.depth.tolist(), told.after.tolist()
        (('', '3', '0'), [0, 1, 2], [True, True, False])
    """
    goal = targets_of(model, images, targets, score, BATCH).cpu()
    limit, seed = check_number(f"limit={limit!r}", limit, SHARE), int(check_number(f"seed={seed!r}", seed, SEEDS))
    ask = _usual(layer, areas, search, score) if attribute is None else attribute
    check_function("attribute", ask, "model, images, layer and targets", "leave it out for the default search")
    example = take_rows(images, slice(0, 2))
    names = cascade_order(model, example)
    trained = _activation(model, example, layer)
    kept = [bool((trained - _activation(network, example, layer)).abs().amax() <= SAME * trained.abs().amax())
            for network in _cascade(model, names, seed)]
    border = max((depth for depth, same in enumerate(kept, 1) if same and all(kept[:depth])), default=0)
    wanted = _depths(len(names), steps, border)
    first = _masks_of(ask(model, images, layer, goal), len(goal))
    found = {0: _masks_of(ask(model, images, layer, goal), len(goal))}
    with advance(progress, len(wanted), f"random depths at {layer}") as tell:
        for depth, network in enumerate(_cascade(model, names, seed), 1):
            if depth in wanted:
                found[depth] = _masks_of(ask(network, images, layer, goal), len(goal))
                tell(1)
    after = [depth <= border for depth in found]
    faults = [(-1, "ignores the network; with every module random")]
    if border:
        faults.append((sum(after) - 1, "ignores what follows the layer; with all of that random"))
    return _judged(layer, first, found, ["", *(names[depth - 1] for depth in wanted)], after, limit, "of the same network", faults)


def label_randomisation(model: nn.Module, images: Inputs, layer: str, *, attribute: Attribute | None = None,
                        targets: Sequence[int] | Tensor | None = None, areas: Sequence[float] | None = None, search: Search | None = None,
                        limit: float = LABEL_LIMIT, score: Callable[..., Tensor] | None = None, seed: int = 0) -> Sanity:
    """The sets of an attribution when every class among the targets is exchanged for another one.

    Classes share channels, so sets may stay partly the same; sets that do not move at all know nothing of the class.

    Args:
        model, images, layer, attribute, targets, areas, search, score: as for `randomisation`; the model is left as found.
        limit: of `Sanity`; higher than for weights.
        seed: of the exchange: classes in a random circle, each image asked about the next one. With a single class, another one.

    Raises:
        InputError, LayerError, ModelError: as `randomisation`; or the model has a single class.

    Examples:
        >>> import torch, chanattr as ca
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))
        >>> def strongest(model, images, layer, targets):  # knows nothing of the class
        ...     with torch.no_grad(), ca.capture(model, [layer]) as seen:
        ...         model(images)
        ...     place = (-seen[layer].amax((2, 3))).argsort().argsort()
        ...     return torch.stack([place < 1, place < 2], 1)
        >>> ca.label_randomisation(model, torch.rand(2, 3, 8, 8), "1", attribute=strongest).passes
        False
    """
    goal = targets_of(model, images, targets, score, BATCH).cpu()
    limit, seed = check_number(f"limit={limit!r}", limit, SHARE), int(check_number(f"seed={seed!r}", seed, SEEDS))
    ask = _usual(layer, areas, search, score) if attribute is None else attribute
    check_function("attribute", ask, "model, images, layer and targets", "leave it out for the default search")
    others = _other_labels(goal, exact_logits(model, take_rows(images, slice(0, 2)), score).shape[1], seed)
    first, again, other = (_masks_of(ask(model, images, layer, of), len(goal)) for of in (goal, goal, others))
    return _judged(layer, first, {0: again, 1: other}, ["", "targets"], [True, True], limit, "about the same classes",
                   [(1, "ignores the class; asked about other classes")])


def cascade_order(model: nn.Module, example: Inputs) -> tuple[str, ...]:
    """The modules that hold weights of their own, by plain name, from the output down: the one called last comes first.

    A module that holds weights beside other modules (a token, a position embedding) counts as called when the first of these was; one that
    is never called (weights that its parent uses itself) as its parent.

    Raises:
        ModelError: there is none.
    """
    modules = named(model)
    last = last_calls(model, example)

    def place(name: str) -> float:
        inner = [last[other] for other in last if other != name and (not name or other.startswith(f"{name}."))]
        if inner:
            return min(inner) - 0.5
        return last[name] if name in last else place(name.rpartition(".")[0]) if name else -1

    holding = [name for name, module in modules.items() if any(True for _ in module.parameters(recurse=False))]
    if not holding:
        raise ModelError(f"{kind(model)} has no weights; expected a network with modules to be made random; check what it holds")
    return tuple(sorted(holding, key=place, reverse=True))


@torch.inference_mode(False)
def reinitialise(module: nn.Module, seed: int) -> None:
    """New random weights for what a module itself holds: by its ``reset_parameters``, else (or where that changes nothing) permuted."""
    own = [*module.parameters(recurse=False)]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
        torch.manual_seed(seed)
        before = [tensor.clone() for tensor in own]
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        if all(torch.equal(old, new) for old, new in zip(before, own, strict=True)):
            for tensor in own:
                order = torch.randperm(tensor.numel()).to(tensor.device)
                tensor.copy_(tensor.flatten()[order].view_as(tensor))


def _cascade(model: nn.Module, names: Sequence[str], seed: int) -> Iterator[nn.Module]:
    """One copy of the model, with one module more made random at each step."""
    try:
        with torch.inference_mode(False):  # in that mode a copy has weights through which no gradient flows
            network = copy.deepcopy(unwrapped(model)).eval()
    except Exception as error:  # whatever a module's own parts raise
        raise ModelError(f"{kind(model)} cannot be copied ({type(error).__name__}: {error}); expected a model that copy.deepcopy takes, "
                         "for the one given is left as it is; take away what hangs on it (open files, tensors with a history)") from error
    modules = named(network)
    for number, name in enumerate(names):
        reinitialise(modules[name], (1000 * seed + number) % 2**63)
        yield network


def _activation(model: nn.Module, example: Inputs, layer: str) -> Tensor:
    with frozen(model), capture(model, [layer]) as seen, torch.no_grad():
        call(model, example)
    return seen[layer].float()


def _depths(modules: int, steps: int | None, border: int) -> tuple[int, ...]:
    if steps is None:
        return tuple(range(1, modules + 1))
    count = int(check_number(f"steps={steps!r}", steps, STEPS, "leave it out for every module"))
    spread = np.rint(np.linspace(modules, 1, min(count, modules))).astype(int).tolist()
    return tuple(sorted({*spread, border} - {0}))


def _usual(layer: str, areas: Sequence[float] | None, search: Search | None, score: Callable[..., Tensor] | None) -> Attribute:
    """The attribution of this package, without its refinement of a*: of channels, or at the input of pixels."""

    def channels(model: nn.Module, images: Any, layer: str, targets: Tensor) -> np.ndarray:
        counts = cast("Sequence[int] | None", areas)
        return per_image(model, images, layer, targets=targets, areas=counts, search=search, score=score, refine=False).masks

    def pixels(model: nn.Module, images: Any, _layer: str, targets: Tensor) -> np.ndarray:
        shares = PICTURE_AREAS if areas is None else areas
        found = spatial(model, images, targets=targets, areas=shares, search=search, score=score, refine=False)
        return level_sets(found.masks()).reshape(*found.codes.shape[:2], -1)

    return pixels if isinstance(layer, str) and layer == PICTURE else channels


def _other_labels(goal: Int[Tensor, "N"], classes: int, seed: int) -> Int[Tensor, "N"]:
    """Another class for every class among the targets."""
    if classes < 2:
        raise InputError("labels of a model with 1 class; expected two or more, for there is no other to ask about; use randomisation")
    present: Tensor = goal.unique()
    generator = torch.Generator().manual_seed(seed)
    if len(present) == 1:
        return (goal + 1 + int(torch.randint(classes - 1, (1,), generator=generator))) % classes
    circle = present[torch.randperm(len(present), generator=generator)]
    place = (goal[:, None] == circle[None]).int().argmax(1)
    return circle[(place + 1) % len(circle)]


def _masks_of(given: Any, images: int) -> np.ndarray:
    """What an attribution gave, as bool [N, A, K].

    Raises:
        InputError: it is something else.
    """
    values = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if values.ndim != 3 or len(values) != images or not values.size or not np.isin(values, (0, 1)).all():
        raise InputError(f"the attribution gave {values.dtype} of shape {values.shape}; expected masks of zeros and ones [{images}, A, K], "
                         "a set for each image and area; give the first k channels of its ranking for some k")
    masks = values.astype(bool)
    if masks.all(2).all() or not masks.any():
        raise InputError(f"the attribution gave sets of {masks.sum(2).max()} of {masks.shape[2]} channels only; expected some that are "
                         "neither empty nor everything, for all others are the same always; ask for areas in between")
    return masks


def _judged(layer: str, first: np.ndarray, found: dict[int, np.ndarray], random: Sequence[str], after: Sequence[bool], limit: float,
            twice: str, faults: Sequence[tuple[int, str]]) -> Sanity:
    """The record of what was found at each depth, against the sets of the trained network; `twice` and `faults` as for `_verdict`."""
    for masks in found.values():
        if masks.shape != first.shape:
            raise InputError(f"the attribution gave masks of shape {masks.shape} after {first.shape}; expected the same number of sets and "
                             "channels each time; let it use the same areas for every network")
    every = np.stack(list(found.values()))
    overlap, chance = jaccard(first, every), chance_of(first.sum(2), every.sum(3), first.shape[2])
    similarity = mean_known(above_chance(overlap, chance), (1, 2))
    return Sanity(layer=layer, random=tuple(random), depth=np.array(list(found), np.int32), after=np.array(after), jaccard=overlap,
                  chance=chance, rank=np.stack([spearman(entered(first), entered(masks)) for masks in every]), similarity=similarity,
                  limit=limit, verdict=_verdict(similarity, limit, twice, faults))


def _verdict(similarity: np.ndarray, limit: float, twice: str, faults: Sequence[tuple[int, str]]) -> str:
    """What is wrong, if anything: sets that differ, asked `twice` the same, or that stay at the depth of one of the `faults`, in words."""
    if not similarity[0] > limit:
        return f"broken: asked twice {twice}, its sets have a similarity of {similarity[0]:.2f}, so nothing can be told"
    for place, words in faults:
        if similarity[place] > limit:
            return f"broken: {words} its sets have a similarity of {similarity[place]:.2f}"
    return "passes"
