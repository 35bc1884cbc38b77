"""A dry run in words, for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from chanattr.tables import count, short

if TYPE_CHECKING:
    from chanattr.attribution.explain import Between, Explanation
    from chanattr.network.explain import Bypass

WIDTH, INDENT = 80, 15


def text(told: Explanation) -> str:
    """All that is told, a paragraph a question."""
    lines = [f"{told.model}, layer {told.layer.name or '(whole model)'}: {told.layer.type}"]
    for title, words in _paragraphs(told):
        lines += textwrap.wrap(words, WIDTH, initial_indent=f"{title:{INDENT}}", subsequent_indent=" " * INDENT)
        lines += [_bypass(one) for one in told.bypasses if title == "passes by"]
    return "\n".join(lines)


def _paragraphs(told: Explanation) -> Iterator[tuple[str, str]]:
    layer = told.layer
    shape = ", ".join(["N", *map(str, layer.shape[1:])])
    yield "calls", f"{count(layer.calls, 'call')} in a forward pass"
    yield "output", (f"{told.layout.name}, here [{shape}]; channels along axis {layer.channel_axis}, K = {layer.channels}; "
                     f"{_positions(told)}")
    yield "rows", f"{told.rows[0]} images in, {told.rows[1]} rows of scores out"
    yield "way", told.engine + (f", because: {told.reason}" if told.reason else "")
    yield "passes by", _passing(told)
    yield "cost", (f"a masked image, forward and backward, takes {_seconds(told.seconds)} this way and {_seconds(told.whole_seconds)} by a "
                   f"hook on the whole network in float32: {told.share:.0%} of it. Measured just now on the same few masks, {told.device}.")
    yield "evaluations", _evaluations(told)
    yield "memory", (f"{size(told.kept)} kept an image; about {size(told.needed * told.batch_size)} for a batch of "
                     f"{count(told.batch_size, 'masked image')}, forward and backward; weights are not in it")
    yield "time", (f"estimate for {count(told.images, 'image')}: {_span(told.estimate(), _seconds)}; with areas='smallest' "
                   f"{_span(told.estimate(smallest=True), _seconds)}. Measured evaluations times their number, no promise; in it, once, "
                   f"{_seconds(told.ready_seconds)} to make the way ready.")


def _positions(told: Explanation) -> str:
    high, wide = told.layout.grid
    if not told.layout.prefix:
        return f"grid {high} x {wide}"
    names = f" ({', '.join(told.layout.prefix_names)})" if told.layout.prefix_names else _usual_prefix(told.layout.prefix)
    return f"grid {high} x {wide} after {count(told.layout.prefix, 'token')}{names}, which a mask covers too"


def _usual_prefix(tokens: int) -> str:
    """What so many tokens usually are, where the model does not say."""
    usual = {1: "a class token", 2: "class and distillation tokens"}.get(tokens, f"a class token and {tokens - 1} registers")
    return f" (usually {usual})"


def _passing(told: Explanation) -> str:
    if told.engine.startswith("injection"):
        return "not known: the whole network runs again, and nothing is kept beside the images"
    if not told.bypasses:
        return "nothing: all that follows comes from this layer"
    what = "this" if len(told.bypasses) == 1 else f"these {len(told.bypasses)}"
    return f"{what}, which a mask here does not cut, {size(sum(one.bytes for one in told.bypasses))} an image:"


def _bypass(one: Bypass) -> str:
    """One line, cut in the middle of the name where it is too long."""
    end = f"  {'x'.join(map(str, one.shape))}  {size(one.bytes)}"
    start = f"{'':{INDENT + 2}}" + ("" if one.whole else f"{one.operation} in ")
    return start + short(one.source, WIDTH - len(start) - len(end)) + end


def _evaluations(told: Explanation) -> str:
    searched = f"{told.evaluations:.0f} an image for {count(len(told.areas), 'area')}, {told.areas[0]} to {told.areas[-1]}, and " \
        if told.areas else ""
    refined = "" if not told.areas else f"{_span(told.refine)} to refine a*; " if told.refine.most else "a* is not refined; "
    everything = told.images * (told.evaluations + told.refine.most)
    whole = f"for {count(told.images, 'image')} at most {everything:,.0f}. " if told.areas else ""
    return (f"{searched}{refined}areas='smallest': {_span(told.smallest)}; {whole}Counted by the {told.search} search itself; one is "
            "(forwards + 2 backwards) / 3 of a masked image.")


def _span(found: Between, said: Callable[[float], str] = "{:.0f}".format) -> str:
    least, most = map(said, found)
    return least if least == most else f"{least} to {most}"


def _seconds(value: float) -> str:
    for below, factor, unit in ((1, 1e-3, "ms"), (100, 1, "s"), (6000, 60, "min"), (172800, 3600, "h")):
        if value < below:
            return f"{value / factor:.3g} {unit}"
    return f"{value / 86400:.3g} days"


def size(held: float) -> str:
    """Bytes in words."""
    for unit in ("B", "KiB", "MiB"):
        if held < 1024:
            return f"{held:.3g} {unit}"
        held /= 1024
    return f"{held:.3g} GiB"
