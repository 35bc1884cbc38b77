"""Pictures of channels: closed forms on linear layers, silent channels, weights, diversity, and repetition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import chanattr as ca
from chanattr.errors import InputError
from chanattr.pictures.channels import likeness
from chanattr.pictures.pixels import Pixels, from_bytes, pixels_of
from tests import models

PIXELS = Pixels((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), (16, 16))
FAR = {"steps": 600, "rate": 0.6}  # colours that are rare in nature are far away
WEIGHT = torch.tensor([[1.0, 1.5, -1.0], [-1.0, 1.0, 1.0]])


class Colours(nn.Module):
    """Channels that each like some colours: the best picture is flat, every colour at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Conv2d(3, 2, 1), nn.Linear(2, 3)
        self.mix.weight.data = WEIGHT[..., None, None].clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(x).mean((2, 3)))


class Silent(nn.Module):
    """A channel that fires only where a whole patch of 5 x 5 pixels is far brighter than noise ever is."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.act, self.head = nn.Conv2d(3, 2, 5), nn.ReLU(), nn.Linear(2, 3)
        nn.init.constant_(self.see.weight, 1 / 75)
        nn.init.constant_(self.see.bias, -0.85)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.see(x)).mean((2, 3)))


def best(weights: torch.Tensor) -> float:
    """The largest weighted mean that any picture has."""
    ends = (torch.tensor([[0.0], [1.0]]) - torch.tensor(PIXELS.mean)) / torch.tensor(PIXELS.std)
    return float((weights * ends[(weights > 0).long(), torch.arange(3)]).sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_models_of_other_precisions_get_pictures_in_their_own(dtype: torch.dtype) -> None:
    model, few = models.seeded(Colours).to(dtype), ca.PictureSettings(steps=2)
    made = ca.visualise(model, "mix", [1, 0], pixels=PIXELS, settings=few)
    alike = ca.visualise(models.seeded(Colours), "mix", [1, 0], pixels=PIXELS, settings=few)
    assert made.value.dtype == np.float32
    np.testing.assert_allclose(made.value, alike.value, atol=0.05)
    images = from_bytes(alike.pictures[:, 0], PIXELS).to(dtype)
    inverted = ca.invert(model, images, "mix", pixels=PIXELS, settings=few)
    assert np.abs(inverted.originals.astype(int) - alike.pictures[:, 0]).max() <= 2
    assert np.isfinite(inverted.cosine).all()


@pytest.mark.parametrize(("parametrisation", "share"), [("fourier", 0.65), ("pixel", 0.9)])
def test_each_channel_gets_the_colours_it_likes(parametrisation: str, share: float) -> None:
    """A flat picture of an extreme colour is far from all natural ones, and farther where the parametrisation is nearer to them."""
    model = models.seeded(Colours)
    made = ca.visualise(model, "mix", [1, 0], pixels=PIXELS, settings=ca.PictureSettings(parametrisation=parametrisation, **FAR))
    with torch.no_grad():
        bias = model.mix.bias
        assert made.names == ("channel 1", "channel 0")
        for row, channel in enumerate((1, 0)):
            top = best(WEIGHT[channel]) + float(bias[channel])
            assert share * top < made.value[row, 0] <= top + 1e-3
            colour = made.pictures[row, 0].reshape(-1, 3).mean(0)
            assert parametrisation == "fourier" or ((colour > 128) == (WEIGHT[channel] > 0).numpy()).all()


def test_weights_are_of_the_means_and_may_be_negative() -> None:
    model = models.seeded(Colours)
    weights = np.array([[1.0, -1.0]], np.float32)
    made = ca.visualise(model, "mix", weights, pixels=PIXELS, settings=ca.PictureSettings(parametrisation="pixel", **FAR))
    top = best(WEIGHT[0] - WEIGHT[1]) + float(model.mix.bias.detach().diff().neg())
    assert made.value[0, 0] == pytest.approx(top, rel=0.05)
    assert made.names == ("set 0",)
    np.testing.assert_array_equal(made.weights, weights)


def test_a_channel_that_noise_does_not_wake_is_woken() -> None:
    model = models.seeded(Silent)
    pixels = Pixels((0.0,) * 3, (1.0,) * 3, (24, 24))
    made = ca.visualise(model, "act", [0], pixels=pixels, settings=ca.PictureSettings(steps=150, rate=0.5))
    assert made.value[0, 0] > 0.08  # 0.15 is all that a white picture gives


def test_what_is_told_is_of_the_kept_picture() -> None:
    model = models.seeded(models.Plain)
    made = ca.visualise(model, "mix", [0, 3], pixels=PIXELS, count=2, settings=ca.PictureSettings(steps=4), names=["a", "b"])
    assert made.pictures.shape == (2, 2, 16, 16, 3)
    with torch.no_grad(), ca.capture(model, ["mix"]) as seen:
        logits = model(from_bytes(made.pictures.reshape(4, 16, 16, 3), PIXELS))
    mean = seen["mix"].mean((2, 3)).numpy()
    np.testing.assert_allclose(made.value, [[mean[0, 0], mean[1, 0]], [mean[2, 3], mean[3, 3]]], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(made.predictions.ravel(), logits.argmax(1))
    np.testing.assert_allclose(made.probability.ravel(), logits.softmax(1).amax(1), rtol=1e-5)
    assert made.names == ("a", "b")


def test_rows_stand_alone_and_a_seed_repeats() -> None:
    model = models.seeded(models.Plain)

    def made(wanted: list[int], seed: int = 0, batch_size: int = 8) -> np.ndarray:
        settings = ca.PictureSettings(steps=6, diversity=0.5, seed=seed)
        return ca.visualise(model, "mix", wanted, pixels=PIXELS, count=2, settings=settings, batch_size=batch_size).pictures.astype(int)

    whole = made([0, 3, 5])
    np.testing.assert_array_equal(whole, made([0, 3, 5]))
    assert np.abs(whole[1:] - made([3, 5])).max() <= 1
    assert np.abs(whole - made([0, 3, 5], batch_size=2)).max() <= 1
    assert np.abs(whole - made([0, 3, 5], seed=1)).max() > 1


def test_on_the_cpu_no_row_hangs_on_those_beside_it() -> None:
    """Bit for bit, on a network of real size, where a batch adds in another order than one picture does."""
    loaded = ca.load_model("embedded")
    pixels = pixels_of(loaded.preprocess)._replace(size=(96, 96))
    options = {"pixels": pixels, "settings": ca.PictureSettings(steps=4)}
    both, alone = (ca.visualise(loaded.module, "features.7", some, **options) for some in ([3, 17], [17]))
    for name in ("pictures", "value", "probability"):
        np.testing.assert_array_equal(getattr(both, name)[1:], getattr(alone, name))


def test_diversity_keeps_the_pictures_of_a_channel_apart() -> None:
    model = models.seeded(models.Plain)

    def alike(weight: float) -> float:
        settings = ca.PictureSettings(diversity=weight, steps=60, jitter=0, scale=0.0, rotation=0.0)
        made = ca.visualise(model, "mix", [3], pixels=PIXELS, count=3, settings=settings)
        with torch.no_grad(), ca.capture(model, ["mix"]) as seen:
            model(from_bytes(made.pictures[0], PIXELS))
        return float(likeness(seen["mix"].movedim(1, -1).flatten(1, 2), 3).mean())

    assert 1 - alike(4.0) > 10 * (1 - alike(0.0))


def test_likeness_is_the_mean_cosine_of_gram_matrices() -> None:
    flat = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0))
    gram = [sum(np.outer(p, p) for p in picture.numpy()) for picture in flat]

    def cos(a: np.ndarray, b: np.ndarray) -> float:
        return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))

    slow = [np.mean([cos(gram[n], gram[m]) for m in range(3 * (n // 3), 3 * (n // 3) + 3) if m != n]) for n in range(6)]
    assert likeness(flat, 3).tolist() == pytest.approx(slow, rel=1e-4)


def test_class_weights_are_inclusion_rates() -> None:
    model = models.seeded(models.Plain)
    images, targets = models.images(6), [0, 0, 0, 3, 3, 3]
    classes = ca.per_class(model, images, "norm", targets=targets, areas=[2], folds=0)
    assert (classes.images > 0).all()
    np.testing.assert_allclose(ca.class_weights(classes, 3), classes.mean_mask[1:])
    np.testing.assert_allclose(ca.class_weights(classes, 0, 3), classes.mean_mask[:1] - classes.mean_mask[1:])
    with pytest.raises(InputError, match="class 1 is not in this result"):
        ca.class_weights(classes, 1)


def test_a_class_that_needs_nothing_or_is_taken_off_itself_is_told_in_words() -> None:
    classes = ca.per_class(models.seeded(models.Plain), models.images(6), "norm", targets=[0, 0, 0, 2, 2, 2], areas=[2], folds=0, level=0.5)
    with pytest.raises(InputError, match=r"^class 2 less class 2, itself; expected another class"):
        ca.class_weights(classes, 2, 2)
    same = dataclasses.replace(classes, mean_mask=np.repeat(classes.mean_mask[:1], 2, 0))
    with pytest.raises(InputError, match=r"^the a. sets of classes 0 and 2 have every channel equally often at 'norm'; expected"):
        ca.class_weights(same, 0, 2)
    with pytest.raises(InputError, match=r"^no a. set of class 0 has a channel at 'norm'; expected a channel to look for"):
        ca.class_weights(dataclasses.replace(classes, mean_mask=np.zeros_like(classes.mean_mask)), 0)


@pytest.mark.parametrize("layer", ["block", "embed"])
def test_token_layers(layer: str) -> None:
    made = ca.visualise(models.seeded(models.Tokens), layer, [5], pixels=PIXELS, settings=ca.PictureSettings(steps=3))
    assert made.weights.shape == (1, 8)
    assert made.weights[0].nonzero()[0].tolist() == [5]


@pytest.mark.parametrize(("change", "message"), [
    ({"wanted": [6]}, r"wanted=\[6\] at 'mix'; expected channel numbers from 0 to 5, or weights \[rows, 6\]"),
    ({"wanted": []}, "expected channel numbers"), ({"wanted": np.zeros((1, 6))}, r"^wanted of shape \(1, 6\) at 'mix'; .*not all 0"),
    ({"wanted": np.ones((1, 5))}, "expected channel numbers"), ({"names": ["a", "b"]}, "2 names for 1 rows; expected one each"),
    ({"batch_size": 0}, "batch_size=0; expected a whole number from 1"),
    ({"count": 0}, "count=0; expected a whole number from 1"), ({"pixels": PIXELS._replace(std=(0.0,) * 3)}, "expected Pixels"),
    ({"settings": ca.PictureSettings(objective="dot")}, "objective='dot'.; expected 'channels'"),
])
def test_what_cannot_be_used_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ca.visualise(models.seeded(models.Plain), "mix",
                     **{"wanted": [1], "pixels": PIXELS, "settings": ca.PictureSettings(steps=1), **change})
