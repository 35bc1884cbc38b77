"""What a user adds: a reward, a family, a baseline, a model source and a figure, each one function, one entry of a table, one check."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import chanattr as ca
from chanattr.cli import main
from chanattr.evidence.baselines import BASELINES, Subject, Worth, by_entry, channels_last
from chanattr.network.zoo import SOURCES, LoadedModel
from chanattr.pictures.figures import theme
from chanattr.pictures.report import plots
from chanattr.search.objective import REWARD_FUNCTIONS
from tests.cli.studio import make_studio
from tests.models import Plain, images, seeded


def test_a_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    def over_the_mean(logits: Tensor, targets: Tensor) -> Tensor:
        """How far the target's logit lies above the mean of all."""
        return logits.gather(1, targets[:, None])[:, 0] - logits.mean(1)

    monkeypatch.setitem(REWARD_FUNCTIONS, "over_the_mean", over_the_mean)

    model, batch = seeded(Plain), images()
    found = ca.per_image(model, batch, "mix", reward="over_the_mean")
    assert found.settings.reward == "over_the_mean"
    np.testing.assert_allclose(found.original, over_the_mean(model(batch), model(batch).argmax(1)).detach(), atol=1e-5)
    with pytest.raises(ca.InputError, match="expected one of logit, contrastive, log_probability, over_the_mean, or a callable"):
        ca.per_image(model, batch, "mix", reward="margin")


def test_a_family() -> None:
    def blocks(channels: int) -> Tensor:
        """Channels laid out on a square in order; 2 x 2 of them are a block."""
        side = math.isqrt(channels)
        row, column = torch.arange(channels) // side, torch.arange(channels) % side
        return row // 2 * (side // 2) + column // 2

    model, batch = seeded(lambda: Plain(channels=16)), images()
    found = ca.per_image(model, batch, "mix", group=blocks)
    assert blocks(16).view(4, 4).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert found.groups.tolist() == blocks(16).tolist()
    for row in range(len(batch)):
        for area in (1, 2, 3):
            mask = found.channel_mask(row, area).reshape(2, 2, 2, 2)  # block row, row in it, block column, column in it
            assert mask.sum() == 4 * area
            assert (mask == mask[:, :1, :, :1]).all()
        with ca.inject(model, "mix", found.channel_mask(row, 2)):
            assert model(batch[row:row + 1])[0, found.targets[row]].item() == pytest.approx(found.scores[row, 1], abs=1e-5)


def test_a_family_from_the_command_line(tmp_path: Path) -> None:
    studio = make_studio(tmp_path)
    (tmp_path / "mine.py").write_text("def even_and_odd(channels):\n    return [channel % 2 for channel in range(channels)]\n")
    words = ["attribute", studio.model, studio.images, "--layer", "mix", "--group", f"{tmp_path}/mine.py:even_and_odd",
             "-o", tmp_path / "r.h5"]
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert ca.open_run(tmp_path / "r.h5").per_image("mix").groups.tolist() == [0, 1] * 4


def test_a_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    def strongest_position(subject: Subject) -> Worth:
        """The largest activation of a channel over its positions."""
        values = channels_last(subject.score.stem.activation, subject.score.tail.layer).float().amax(1)
        return Worth(by_entry(subject, values), 0.0)

    monkeypatch.setitem(BASELINES, "strongest_position", strongest_position)

    model, batch = seeded(Plain), images()
    found = ca.per_image(model, batch, "mix")
    told = ca.evaluate(model, batch, found)  # the default methods have it
    with ca.capture(model, ["mix"]) as seen:
        model(batch)
    for row, best in enumerate(seen["mix"].amax((2, 3)).argmax(1)):
        with ca.inject(model, "mix", torch.arange(6) == best):
            score = model(batch[row:row + 1])[0, found.targets[row]].item()
        assert told.scores[told.methods.index("strongest_position"), row, 0] == pytest.approx(score, abs=1e-5)


def test_a_model_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(name: str, own: bool) -> LoadedModel:
        """``plain:CHANNELS``: the tests' network of any width."""
        return LoadedModel(name=name, module=Plain(int(name.partition(":")[2])), preprocess=lambda picture: torch.zeros(3, 8, 8),
                           preprocessing="none")

    monkeypatch.setitem(SOURCES, "'plain:CHANNELS'", (lambda name: name.startswith("plain:"), plain))

    loaded = ca.load_model("plain:5")
    assert not loaded.module.training
    assert [layer.channels for layer in ca.layers(loaded.module, images()) if layer.name == "mix"] == [5]
    assert ca.per_image(loaded.module, images(), "mix").masks.shape[-1] == 5
    with pytest.raises(ca.ModelError, match="a torchvision model or 'plain:CHANNELS'"):
        ca.load_model("plane")


def test_a_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def area_histogram_data(found: ca.ImageAttribution) -> np.ndarray:
        """How many images have each a*, from 0 to K."""
        return np.bincount(found.smallest_area[found.smallest_area >= 0], minlength=found.masks.shape[-1] + 1)

    def area_histogram(found: ca.ImageAttribution) -> go.Figure:
        """Images by their a*."""
        figure = go.Figure(go.Bar(y=area_histogram_data(found), marker={"color": theme.SLATE}))
        theme.dress(figure, f"a* of {len(found)} images", f"layer {found.layer}")
        return figure

    for one in (area_histogram_data, area_histogram):  # what an import in `figures/__init__.py` does
        monkeypatch.setattr(ca.figures, one.__name__, one, raising=False)

    with ca.open_run(tmp_path / "run.h5", "a") as run:  # from the model to the file, to a record, to the page
        ca.attribute(run, seeded(Plain), [(images(), None, ["a", "b", "c"])], layers=["mix"], classes=False, progress=False)
        found = run.per_image("mix")
    assert ca.figures.area_histogram_data(found).tolist() == [(found.smallest_area == area).sum() for area in range(7)]
    figure = ca.figures.area_histogram(found)
    assert list(figure.data[0].y) == ca.figures.area_histogram_data(found).tolist()
    card = str(plots.card(plots.Plot(figure, "How many channels", "Images by their a*", "a histogram")))
    assert "How many channels" in card
    assert theme.SLATE in card


def test_every_figure_has_its_numbers() -> None:
    numbers = {name for name in ca.figures.__all__ if name.endswith("_data")}
    assert {f"{name}_data" for name in ca.figures.__all__ if name not in numbers} == numbers
