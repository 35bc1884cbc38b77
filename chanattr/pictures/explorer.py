"""`explore`: a run in a notebook, live: pickers of layer and image, and a slider over areas that moves energy map and point."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

from chanattr import tables
from chanattr.arguments import check_class_names, check_kind
from chanattr.errors import InputError, StoreError
from chanattr.pictures.figures import raster, theme, words
from chanattr.pictures.figures.slider import seen_part, steps_of
from chanattr.records import ImageAttribution
from chanattr.store import Run

SIDE = 320  # pixels of the picture's longer side
WIDE, HIGH, LEFT, RIGHT, TOP, BOTTOM = 460, 230, 52, 14, 26, 34  # pixels of the curve and its margins
GREY = 120  # of the ground under an energy map without a picture


def explore(run: Run, label: str = "exact", *, names: tuple[str, ...] = ()) -> Any:
    """An image of a run at a layer: where sets of growing area are active, and their scores, with a slider over areas.

    The picture is the part of the run's thumbnail that the network saw, and a grey ground where the run keeps none. Only the row that is
    shown is read. Needs the extra `notebook`.

    Args:
        run: open; it must stay so as long as the explorer is used.
        label: under which the answers lie.
        names: class names by class number; none takes those that the run keeps.

    Returns:
        An `ipywidgets.VBox`, which a notebook shows: first the pickers of layer and image, then the slider, then picture and curve.

    Raises:
        InputError: ipywidgets is not installed, or the run has no sets of channels under the label.

    Example:
        >>> ca.explore(ca.open_run("run.h5"))  # doctest: +SKIP
    """
    try:
        import ipywidgets as widgets
    except ImportError as error:
        raise InputError("explore needs ipywidgets, which is not installed; expected version 8 or newer; install the extra: pip install "
                         "'chanattr[notebook]'") from error
    check_kind("run", run, Run, "open it with ca.open_run")
    layers = {layer: [key for key in run.keys if key in done] for layer in run.layers
              if label in run.labels(layer) and (done := run.finished(layer, label))}
    if not layers:
        raise InputError(f"{run.path} has no sets of channels of images under the label {label!r}; expected one image or more; attribute "
                         "some, or name another label")
    check_class_names("names", names)
    return _Explorer(widgets, run, label, layers, names or tuple(run.attributes.get("class_names") or ())).box


class _Explorer:
    """The widgets, and the row that they show."""

    def __init__(self, widgets: Any, run: Run, label: str, layers: dict[str, list[str]], names: tuple[str, ...]) -> None:
        self._run, self._label, self._layers, self._names = run, label, layers, names
        self._found: ImageAttribution
        self._steps: list[dict[str, Any]] = []
        first = next(iter(layers))
        self._layer = widgets.Dropdown(options=_options(list(layers)), value=first, description="layer")
        self._image = widgets.Dropdown(options=_options(layers[first]), value=layers[first][0], description="image",
                                       layout={"width": "440px"})
        self._area = widgets.SelectionSlider(options=[("–", 0)], description="area", layout={"width": "440px"})
        self._picture = widgets.Image(format="png")
        self._curve, self._words = widgets.HTML(), widgets.HTML()
        side = widgets.VBox([self._curve, self._words])
        self.box = widgets.VBox([widgets.HBox([self._layer, self._image]), self._area, widgets.HBox([self._picture, side])])
        self._layer.observe(self._to_layer, "value")
        self._image.observe(self._to_image, "value")
        self._area.observe(self._to_area, "value")
        self._to_image()

    def _to_layer(self, _: Any = None) -> None:
        """Another layer: the same image, where it has it."""
        keys, key = self._layers[self._layer.value], self._image.value
        self._image.unobserve(self._to_image, "value")
        self._image.options = _options(keys)
        self._image.value = key if key in keys else keys[0]
        self._image.observe(self._to_image, "value")
        self._to_image()

    def _to_image(self, _: Any = None) -> None:
        """Another image: its row is read, and the slider goes to its a*."""
        key = self._image.value
        self._found = self._run.per_image(self._layer.value, self._label, rows=[key])
        self._ground = _ground(self._run, key, str(self._run.attributes.get("preprocessing") or self._found.settings.preprocessing))
        self._steps = steps_of(self._found, 0)
        star = next((n for n, step in enumerate(self._steps) if step["star"]), max(0, len(self._steps) - 1))
        self._area.unobserve(self._to_area, "value")
        self._area.options = [(f"{step['area']:,}{' (a*)' if step['star'] else ''}", n) for n, step in enumerate(self._steps)] or [("–", 0)]
        self._area.value, self._area.disabled = star, not self._steps
        self._area.observe(self._to_area, "value")
        self._to_area()

    def _to_area(self, _: Any = None) -> None:
        """Another area: map, point and words."""
        at = self._area.value
        energy = self._steps[at]["energy"] if self._steps else None
        self._picture.value = _png(self._ground if energy is None else raster.glow(self._ground, raster.unit(energy)))
        self._curve.value = curve_svg(self._found, self._steps, at)
        self._words.value = self._say(at)

    def _say(self, at: int) -> str:
        found = self._found
        target, seen = (words.class_name(int(number[0]), self._names) for number in (found.targets, found.predictions))
        lines = [f"target {target} · the whole network names {seen} · {words.smallest(int(found.smallest_area[0]))}"]
        if self._steps:
            step = self._steps[at]
            named = "still" if step["kept"] else "no longer"
            lines.append(f"area {step['area']:,}: score {'–' if step['score'] is None else words.number(step['score'])}, the target "
                         f"is {named} the top class{'' if step['energy'] is not None else '; no map is kept of this area'}")
        return "<br>".join(tables.text(line, 200) for line in lines)


def curve_svg(found: ImageAttribution, steps: list[dict[str, Any]], at: int) -> str:
    """Score against area of one row as SVG in the colours of the page, the chosen area marked; filled points still name the target.

    Args:
        found: of one row.
        steps: what `steps_of` gave for it.
        at: which of them is marked.
    """
    drawn = [(n, step) for n, step in enumerate(steps) if step["score"] is not None]
    ends = [float(value) for value in (found.original[0], found.empty[0]) if np.isfinite(value)]
    scores = [*ends, *(step["score"] for _, step in drawn)]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    span = np.log(max(found.masks.shape[2], 2))

    def across(area: float) -> float:
        return float(LEFT + (WIDE - LEFT - RIGHT) * np.log(max(area, 1)) / span)

    def down(score: float) -> float:
        return HIGH - BOTTOM - (HIGH - TOP - BOTTOM) * (score - low) / max(high - low, 1e-9)

    parts = [_line(LEFT, HIGH - BOTTOM, WIDE - RIGHT, HIGH - BOTTOM), _line(LEFT, TOP, LEFT, HIGH - BOTTOM)]
    parts += [_line(LEFT, down(score), WIDE - RIGHT, down(score), "4 4") for score in ends]
    marks = [score for score in (low, high) if not ends or abs(down(score) - down(ends[0])) > 12]  # room for the original's beside them
    parts += [_text(LEFT - 6, down(score) + 4, words.number(score), "end") for score in [*ends[:1], *marks]]
    parts += [_text(across(area), HIGH - BOTTOM + 16, f"{area:,}", "middle") for area in (1, 3, 10, 30, 100, 300, 1000, 3000)
              if area <= found.masks.shape[2]]
    path = " ".join(f"{across(step['area']):.1f},{down(step['score']):.1f}" for _, step in drawn)
    parts.append(f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="1.6" opacity="0.7"/>')
    for n, step in drawn:
        chosen, colour = n == at, theme.ACCENT if step["star"] else "currentColor"
        fill = colour if step["kept"] else "none"
        parts.append(f'<circle cx="{across(step["area"]):.1f}" cy="{down(step["score"]):.1f}" r="{7 if chosen else 3.5}" fill="{fill}" '
                     f'stroke="{colour}" stroke-width="{2.4 if chosen else 1.4}"/>')
    title = _text(LEFT, 14, f"{words.REWARDS.get(found.settings.reward, found.settings.reward)} against {found.settings.unit} selected")
    return (f'<svg width="{WIDE}" height="{HIGH}" role="img" aria-label="score against area" style="font:11px sans-serif">{title}'
            f'{"".join(parts)}</svg>')


def _line(left: float, top: float, right: float, bottom: float, dash: str = "none") -> str:
    return (f'<line x1="{left:.1f}" y1="{top:.1f}" x2="{right:.1f}" y2="{bottom:.1f}" stroke="currentColor" opacity="0.45" '
            f'stroke-dasharray="{dash}"/>')


def _text(left: float, top: float, said: str, anchor: str = "start") -> str:
    return f'<text x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}" fill="currentColor">{tables.text(said)}</text>'


def _options(names: list[str]) -> list[tuple[str, str]]:
    """Names to pick from, cut for reading; what two have in common when cut gets a number."""
    cut = [tables.short(name, 56) for name in names]
    often = Counter(cut)
    return [(f"{short} [{n}]" if often[short] > 1 else short, name) for n, (short, name) in enumerate(zip(cut, names, strict=True))]


def _ground(run: Run, key: str, preprocessing: str) -> np.ndarray:
    """What the network saw of a run's thumbnail, enlarged, u1 [H, W, 3]; grey where the run keeps none."""
    try:
        picture = run.thumbnail(key)
    except StoreError:  # none was kept of this image
        return np.full((SIDE, SIDE, 3), GREY, np.uint8)
    height, width = picture.shape[:2]
    left, top, right, bottom = seen_part(preprocessing, height, width) or (0, 0, 1, 1)
    seen = picture[int(top * height):max(int(bottom * height), int(top * height) + 1), int(left * width):max(int(right * width), 1)]
    scale = SIDE / max(seen.shape[:2])
    shown = raster.resize(seen.astype(np.float32), max(1, int(seen.shape[0] * scale)), max(1, int(seen.shape[1] * scale)))
    return shown.round().astype(np.uint8)


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
