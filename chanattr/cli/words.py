"""Words of the command line to what calls take: a device, a model, pictures, and each part of a question."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from chanattr.errors import InputError, first_line
from chanattr.images import ImageLoader, image_loader
from chanattr.network.outputs import device_of as device_of_model
from chanattr.network.zoo import LoadedModel, load_function, load_model
from chanattr.runs.cluster import cluster_of
from chanattr.search.groups import Group
from chanattr.settings import Search


def load(options: Mapping[str, Any]) -> LoadedModel:
    """The model that ``--model`` (or MODEL), ``--weights`` and ``--device`` say."""
    return load_model(options["model"], weights=options["weights"], device=device_of(options["device"]))


def loader_of(loaded: LoadedModel, paths: Sequence[str], **more: Any) -> ImageLoader:
    """Pictures as a model takes them, in its classes; `more` as of `image_loader`."""
    return image_loader(list(paths), loaded.preprocess, class_names=loaded.class_names, wordnet_ids=loaded.wordnet_ids, **more)


def question_of(options: Mapping[str, Any], searches: Mapping[str, Search], *own: str) -> dict[str, Any]:
    """What sets of channels and masks on the picture are both asked with, and a command's own options as they stand.

    It needs neither model nor images: wrong words are refused before anything is loaded.

    Raises:
        InputError: so; names the option.
    """
    if options["search_"] not in searches:
        raise InputError(f"--search {options['search_']}; expected {', '.join(searches)}; leave it out for exact")
    reward = options["reward"]
    same = (*own, "game", "refine", "label", "seed", "batch_size", "precision", "resume")
    return {name: options[name] for name in same} | {
        "search": searches[options["search_"]], "targets": targets_of(options["targets"]),
        "reward": load_function(reward) if ":" in reward else reward, "level": level_of(options["level"])}


def device_of(name: str) -> str:
    """A device by name; "auto" is the first accelerator, else the CPU.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).tolist()  # not every device of torch can compute: "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name} cannot be used ({first_line(error)}); expected a device of this machine; leave it out for "
                         "'auto'") from error
    return name


def readers_of(asked: int | None, model: nn.Module) -> int:
    """Processes that read pictures: as asked, or one a core, at most 8, beside an accelerator; a CPU has no core to spare."""
    if asked is not None:
        return asked
    return 0 if device_of_model(model).type == "cpu" else min(8, os.cpu_count() or 1)


def targets_of(words: str) -> str | int:
    """'predicted', 'label' or a class number.

    Raises:
        InputError: none of these.
    """
    if words in ("predicted", "label"):
        return words
    if not (words.isascii() and words.isdigit()):
        raise InputError(f"--targets {words}; expected 'predicted', 'label' or a class number from 0; leave it out for 'predicted'")
    return int(words)


def level_of(words: str | None) -> str | float | None:
    """A level from words: a name, or a fraction."""
    if words is None or words in ("original", "top1"):
        return words
    try:
        return float(words)
    except ValueError:
        raise InputError(f"--level {words}; expected 'original', 'top1' or a fraction from 0 to 1") from None


def group_of(words: str) -> Group:
    """'', 'heads', channels a group, or the user's own ``file.py:function`` of the number of channels.

    Raises:
        InputError: none of these.
    """
    if words in ("", "heads"):
        return words
    if ":" in words:
        return load_function(words)
    if not (words.isascii() and words.isdigit() and int(words)):
        raise InputError(f"--group {words}; expected 'heads', a whole number of channels a group, or file.py:function; "
                         "leave it out for single channels")
    return int(words)


def fill_of(words: str) -> Any:
    """A fill from words: a name, a number, or the path of a .npy file of K values."""
    if words.endswith(".npy"):
        try:
            return np.load(words, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"--fill {words} cannot be read ({error}); expected K numbers saved by numpy.save") from error
    try:
        return float(words)
    except ValueError:
        return words


def workers_of(words: str) -> int | str:
    """A number of processes, or words for Ray.

    Raises:
        InputError: neither.
    """
    if words.isascii() and words.isdigit():
        return int(words)
    cluster_of(words)
    return words


def shard_of(words: str | None) -> tuple[int, int] | None:
    """(i, n) from ``i/n``.

    Raises:
        InputError: no such words.
    """
    if words is None:
        return None
    found = re.fullmatch("([0-9]+)/([0-9]+)", words)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--shard {words}; expected I/N with I from 1 to N, such as 1/8; count from 1")
    return int(found[1]), int(found[2])
