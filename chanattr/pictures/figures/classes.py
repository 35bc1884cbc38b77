"""Channels of classes: the ones an image of a class needs most, and all classes side by side."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from chanattr import tables
from chanattr.arguments import STEPS, check_number
from chanattr.axes import class_row
from chanattr.pictures.figures import theme, words
from chanattr.records import ClassAttribution


class ClassChannels(NamedTuple):
    """What `class_channels` draws: channels by falling inclusion rate; `joint` marks the joint a* set."""

    channels: np.ndarray
    rates: np.ndarray
    joint: np.ndarray
    images: int


class ClassMatrix(NamedTuple):
    """What `class_matrix` draws: inclusion rates [classes, channels]."""

    targets: np.ndarray
    names: tuple[str, ...]
    channels: np.ndarray
    rates: np.ndarray


def class_channels_data(classes: ClassAttribution, target: int, count: int = 12) -> ClassChannels:
    """The `count` channels that most a* sets of a class's images hold, as numbers; fewer where no set holds more.

    Args:
        classes: what `per_class` gave.
        target: class number.
        count: channels, 1 or more.

    Raises:
        InputError: no such class, or a count below 1.

    Examples:
        >>> import chanattr as ca
        >>> classes = ca.figures.samples.classes()
        >>> data = ca.figures.class_channels_data(classes, 1, count=3)
        >>> data.channels.tolist(), data.joint.tolist()
        ([1, 2, 3], [True, True, True])
    """
    words.check_record("classes", classes, ClassAttribution)
    count = int(check_number(f"count={count!r}", count, STEPS))
    row = class_row(classes, target)
    channels = np.argsort(-classes.mean_mask[row], kind="stable")[:count]
    channels = channels[classes.mean_mask[row, channels] > 0]
    return ClassChannels(channels, classes.mean_mask[row, channels], classes.smallest_mask[row, channels],
                         int(classes.images[row]))


def class_channels(classes: ClassAttribution, target: int, count: int = 12) -> go.Figure:
    """Bars of the channels that most of a class's images need; those in the joint a* set in the accent.

    Args:
        classes: what `per_class` gave.
        target: class number.
        count: channels, 1 or more.

    Raises:
        InputError: no such class, or a count below 1.

    Examples:
        >>> import chanattr as ca
        >>> classes = ca.figures.samples.classes()
        >>> ca.figures.class_channels(classes, 1).layout.title.text
        '<b>Channels: dog</b>'
    """
    data, one = class_channels_data(classes, target, count), classes.settings.unit[:-1]
    figure = go.Figure()
    for joint, label, colour in ((True, "in the joint a* set", theme.ACCENT), (False, "not in it", theme.BAR)):
        chosen = data.joint == joint
        figure.add_bar(x=data.rates[chosen], y=[str(c) for c in data.channels[chosen]], orientation="h", name=label,
                       marker={"color": colour}, width=0.68,
                       hovertemplate=f"{one} %{{y}}<br>in %{{x:.0%}} of {data.images} a* sets<br>{label}<extra></extra>")
    name = words.fit(classes.names[class_row(classes, target)] or f"class {target}", 28)
    below = f"{tables.count(data.images, 'image')} · layer {words.fit(classes.layer, 32)}"
    theme.dress(figure, f"{classes.settings.unit.capitalize()}: {name}", below, height=186 + 22 * len(data.channels))
    figure.update_xaxes(range=[0, 1.02], tickformat=".0%", title={"text": f"share of a* sets with the {one}"})
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=[str(c) for c in data.channels[::-1]], ticks="",
                        title={"text": one}, showgrid=False)
    figure.update_layout(showlegend=True)
    return figure


def class_matrix_data(classes: ClassAttribution, count: int = 24) -> ClassMatrix:
    """Inclusion rates of every class for the `count` channels whose rates differ most between classes, of those that some set holds.

    Channels stand by the class that needs them most, so that what is special to a class forms a block.

    Args:
        classes: what `per_class` gave.
        count: channels at most, 1 or more.

    Raises:
        InputError: a count below 1.

    Examples:
        >>> import chanattr as ca
        >>> classes = ca.figures.samples.classes()
        >>> data = ca.figures.class_matrix_data(classes, count=4)
        >>> data.names, data.rates.shape
        (('cat', 'dog', 'fox'), (3, 4))
    """
    words.check_record("classes", classes, ClassAttribution)
    count = int(check_number(f"count={count!r}", count, STEPS))
    rates = classes.mean_mask
    channels = np.argsort(-rates.std(0), kind="stable")[:count]
    channels = np.sort(channels[rates[:, channels].any(0)])
    owner = rates[:, channels].argmax(0)
    channels = channels[np.lexsort((-rates[owner, channels], owner))]
    names = tuple(name or f"class {t}" for name, t in zip(classes.names, classes.targets, strict=True))
    return ClassMatrix(classes.targets, names, channels, rates[:, channels])


def class_matrix(classes: ClassAttribution, count: int = 24) -> go.Figure:
    """A heat map of inclusion rates: classes down, the channels that tell them apart across.

    Args:
        classes: what `per_class` gave.
        count: channels at most, 1 or more.

    Raises:
        InputError: a count below 1.

    Examples:
        >>> import chanattr as ca
        >>> classes = ca.figures.samples.classes()
        >>> ca.figures.class_matrix(classes).layout.title.text
        '<b>What tells the classes apart</b>'
    """
    data, one = class_matrix_data(classes, count), classes.settings.unit[:-1]
    rows = [words.fit(name, 24) for name in data.names]
    figure = go.Figure(go.Heatmap(
        z=data.rates, x=[str(c) for c in data.channels], y=np.arange(len(rows)), zmin=0, zmax=1, xgap=1, ygap=1,
        colorscale=[list(stop) for stop in theme.SEQUENTIAL], text=[[name] * len(data.channels) for name in rows],
        hovertemplate=f"%{{text}}<br>{one} %{{x}}<br>in %{{z:.0%}} of the images' a* sets<extra></extra>",
        # A horizontal bar would do with less room, but it moves the figure's title.
        colorbar={"tickformat": ".0%", "thickness": 8, "outlinewidth": 0, "len": 1, "x": 1.01, "xpad": 4, "tickvals": [0, 0.5, 1]}))
    theme.dress(figure, "What tells the classes apart",
                f"share of a class's a* sets · layer {words.fit(classes.layer, 24)}", height=210 + max(22 * len(rows), 66))
    figure.update_xaxes(type="category", title={"text": one}, tickangle=-90, showgrid=False)
    figure.update_yaxes(tickvals=np.arange(len(rows)), ticktext=rows, autorange="reversed", showgrid=False, ticks="")
    return figure
