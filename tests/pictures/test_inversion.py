"""Inversion: toy layers give the input back, objectives are their equations, rows do not hang on each other, the model is left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import chanattr as ca
from chanattr.errors import InputError, LayerError
from chanattr.picture_settings import INVERSION, INVERSIONS, PictureSettings, resolved
from chanattr.pictures import inversion
from chanattr.pictures.pixels import Pixels, from_bytes, normalised, pixels_of
from chanattr.pictures.reach import reaching
from tests import models

PIXELS = Pixels((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), (16, 16))
STILL = {"jitter": 0, "scale": 0.0, "rotation": 0.0, "variation": 0.0}


class Linear(nn.Module):
    """Blocks of 2 x 2 pixels, each by one matrix: a rotation, or one that stretches some directions three times as far as others."""

    def __init__(self, rotation: bool, act: nn.Module) -> None:
        super().__init__()
        self.layer, self.act, self.head = nn.Conv2d(3, 12, 2, stride=2, bias=not rotation), act, nn.Linear(12, 5)
        nn.init.orthogonal_(self.layer.weight)
        if not rotation:
            self.layer.weight.data *= torch.linspace(1, 3, 12).view(-1, 1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.layer(x)).mean((2, 3)))


def toy(rotation: bool = False, act: nn.Module | None = None) -> nn.Module:
    return models.seeded(lambda: Linear(rotation, act or nn.Identity()))


def pictures(count: int = 2, pixels: Pixels = PIXELS) -> torch.Tensor:
    """Smooth ones within [0, 1], as the model takes them."""
    noise = torch.randn(count, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    smooth = nn.functional.interpolate(noise, size=(16, 16), mode="bicubic", align_corners=False)
    return normalised(torch.sigmoid(smooth), pixels)


def correlations(made: ca.Inversion) -> list[float]:
    return [float(np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1])
            for a, b in zip(made.pictures, made.originals, strict=True)]


@pytest.mark.parametrize("parametrisation", ["fourier", "pixel"])
@pytest.mark.parametrize(("layer", "act"), [("layer", None), ("act", nn.LeakyReLU(0.5))], ids=["linear", "invertible"])
def test_matching_gives_the_input_back(layer: str, act: nn.Module | None, parametrisation: str) -> None:
    settings = ca.PictureSettings(objective="match", parametrisation=parametrisation, steps=300, **STILL)
    made = ca.invert(toy(act=act), pictures(), layer, pixels=PIXELS, settings=settings)
    assert min(correlations(made)) > 0.99
    assert made.cosine.min() > 0.99
    assert np.abs(made.pictures.astype(int) - made.originals).mean() < 6  # of 255: not its likeness alone, but itself


@pytest.mark.parametrize(("settings", "rotation"), [({"objective": "cosine"}, False), ({"objective": "dot", "cosine_power": 16.0}, True)],
                         ids=["cosine", "dot"])
def test_the_largest_product_gives_the_input_back(settings: dict[str, object], rotation: bool) -> None:
    """Up to its scale, which a product does not hold; the power outweighs what contrast gains by leaving the direction."""
    flat = PIXELS._replace(mean=(0.5,) * 3, std=(0.25,) * 3)
    model = toy(rotation)
    if not rotation:
        nn.init.zeros_(model.layer.bias)
    given = pictures(pixels=flat)
    made = ca.invert(model, given, "layer", pixels=flat, settings=ca.PictureSettings(steps=500, **settings, **STILL))
    assert min(correlations(made)) > 0.99


def test_objectives_are_their_equations() -> None:
    made, wanted = (np.random.default_rng(n).normal(size=(3, 7)) for n in (0, 1))
    norm = [np.sqrt(sum(v * v for v in row)) for row in wanted]
    inner = [sum(a * b for a, b in zip(x, y, strict=True)) for x, y in zip(made, wanted, strict=True)]
    angle = [i / n / np.sqrt(sum(v * v for v in x)) for i, n, x in zip(inner, norm, made, strict=True)]
    a, b = torch.from_numpy(made), torch.from_numpy(wanted)
    assert inversion.dot(a, b, 0.0).tolist() == pytest.approx([i / n**2 for i, n in zip(inner, norm, strict=True)])
    lucid = [i / n**2 * max(0.1, c) ** 2 for i, n, c in zip(inner, norm, angle, strict=True)]
    assert inversion.dot(a, b, 2.0).tolist() == pytest.approx(lucid)
    assert inversion.cosine(a, b).tolist() == pytest.approx(angle)
    assert inversion.match(a, b).tolist() == pytest.approx(
        [-sum((x - y) ** 2 for x, y in zip(p, q, strict=True)) / n**2 for p, q, n in zip(made, wanted, norm, strict=True)])


def test_what_is_told_is_of_the_kept_picture() -> None:
    model, images = models.seeded(models.Plain), pictures(3)
    mask = np.array([1, 0, 1, 1, 0, 1], bool)
    made = ca.invert(model, images, "mix", pixels=PIXELS, mask=mask, settings=ca.PictureSettings(steps=3))
    with torch.no_grad(), ca.capture(model, ["mix"]) as seen:
        model(images)
        wanted = (seen["mix"] * torch.from_numpy(mask).view(1, -1, 1, 1)).flatten(1)
        logits = model(from_bytes(made.pictures, PIXELS))
        found = seen["mix"].flatten(1)
        expected = model(images).argmax(1)
    np.testing.assert_allclose(made.cosine, nn.functional.cosine_similarity(found, wanted), rtol=1e-5)
    inside = (seen_of(model, made) * torch.from_numpy(mask).view(1, -1, 1, 1)).flatten(1)
    np.testing.assert_allclose(made.kept_cosine, nn.functional.cosine_similarity(inside, wanted), rtol=1e-5)
    np.testing.assert_array_equal(made.predictions, logits.argmax(1))
    np.testing.assert_array_equal(made.targets, expected)
    np.testing.assert_allclose(made.probability, logits.softmax(1)[range(3), expected], rtol=1e-5)
    np.testing.assert_array_equal(made.named, made.predictions == made.targets)
    assert made.areas.tolist() == [4, 4, 4]
    assert made.masks.shape == (3, 6)
    assert made.settings == resolved(PictureSettings(steps=3), INVERSION, INVERSIONS)


def seen_of(model: nn.Module, made: ca.Inversion) -> torch.Tensor:
    """What the kept pictures' activation is."""
    with torch.no_grad(), ca.capture(model, [made.layer]) as seen:
        model(from_bytes(made.pictures, PIXELS))
    return seen[made.layer]


def test_matching_leaves_the_other_channels_free() -> None:
    model, mask = models.seeded(models.Plain), np.array([1, 0, 0, 1, 0, 0], bool)
    settings = ca.PictureSettings(objective="match", steps=60, **STILL)
    made = ca.invert(model, pictures(2), "mix", pixels=PIXELS, mask=mask, settings=settings)
    with torch.no_grad(), ca.capture(model, ["mix"]) as seen:
        model(pictures(2))
    wanted, found = seen["mix"][:, mask].flatten(1), seen_of(model, made)[:, mask].flatten(1)
    np.testing.assert_allclose(made.value, -((found - wanted) ** 2).sum(1) / (wanted ** 2).sum(1), rtol=1e-4)
    assert (made.value > -0.05).all()
    assert (made.kept_cosine > made.cosine + 0.1).all()


def test_a_seed_repeats_and_rows_stand_alone() -> None:
    model, images = models.seeded(models.Plain), pictures(3)

    def made(rows: slice, seed: int = 0, batch_size: int = 8) -> np.ndarray:
        settings = ca.PictureSettings(steps=8, seed=seed)
        return ca.invert(model, images[rows], "mix", pixels=PIXELS, settings=settings, batch_size=batch_size).pictures

    whole = made(slice(None))
    np.testing.assert_array_equal(whole, made(slice(None)))
    for other in (made(slice(1, 3)), made(slice(None), batch_size=2)[1:]):
        assert np.abs(whole[1:].astype(int) - other).max() <= 1
    assert np.abs(whole.astype(int) - made(slice(None), seed=1)).max() > 1


def test_on_the_cpu_no_picture_hangs_on_those_beside_it() -> None:
    """Bit for bit, on a network of real size, where a batch adds in another order than one picture does."""
    loaded = ca.load_model("embedded")
    pixels = pixels_of(loaded.preprocess)
    images = pictures(2, pixels).repeat_interleave(6, 2).repeat_interleave(6, 3)
    options = {"pixels": pixels, "settings": ca.PictureSettings(steps=4)}
    both, alone = (ca.invert(loaded.module, some, "features.7", **options) for some in (images, images[1:]))
    for name in ("pictures", "value", "cosine", "kept_cosine", "probability"):
        np.testing.assert_array_equal(getattr(both, name)[1:], getattr(alone, name))


def test_growing_areas_of_one_image_stand_in_one_record() -> None:
    model, images = models.seeded(models.Plain), pictures(1)
    found = ca.per_image(model, images, "norm", areas=[1, 3, 6])
    made = ca.invert(model, images.expand(3, -1, -1, -1), "norm", pixels=PIXELS, mask=found.masks[0], settings=ca.PictureSettings(steps=2))
    assert made.areas.tolist() == [1, 3, 6]


@pytest.mark.parametrize(("build", "layer"), [(models.Tokens, "block"), (models.ChannelsLast, "wide"), (models.Twice, "act@2"),
                                              (models.Residual, "branch"), (models.Plain, "mix:input")])
def test_layers_of_every_kind(build: type[nn.Module], layer: str) -> None:
    model = models.seeded(build)
    made = ca.invert(model, pictures(1), layer, pixels=PIXELS, settings=ca.PictureSettings(steps=40, objective="match"))
    first = ca.invert(model, pictures(1), layer, pixels=PIXELS, settings=ca.PictureSettings(steps=1, objective="match"))
    assert made.value > first.value
    assert made.layer == layer


def test_only_what_leads_to_the_layer_runs() -> None:
    model = models.seeded(models.Plain)
    ran: list[str] = []
    handles = [module.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, module in model.named_modules()]
    with reaching(model, "norm") as read:
        activation = read(pictures(2))
    for handle in handles:
        handle.remove()
    assert ran == ["conv", "relu", "norm"]
    assert activation.shape == (2, 6, 16, 16)


def test_the_model_is_left_as_it_was() -> None:
    model = models.seeded(models.Plain).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ca.invert(model, pictures(1), "mix", pixels=PIXELS, settings=ca.PictureSettings(steps=2))
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_pixels_are_found_by_asking() -> None:
    found = pixels_of(ca.load_model("embedded").preprocess)
    assert found.size == (227, 227)
    np.testing.assert_allclose(found.mean, np.array([123, 117, 104]) / 255, rtol=1e-5)
    np.testing.assert_allclose(found.std, [1 / 255] * 3, rtol=1e-5)
    with pytest.raises(InputError, match="does more to colours than subtract and divide"):
        pixels_of(lambda picture: torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().square())
    with pytest.raises(InputError, match="preprocess gave tuple of a picture; expected a tensor"):
        pixels_of(lambda picture: (1, 2))


@pytest.mark.parametrize(("change", "message"), [
    ({"settings": PictureSettings(objective="channels")}, r"objective='channels'.; expected 'dot', 'cosine', 'match'; leave it out"),
    ({"settings": PictureSettings(steps=0)}, r"PictureSettings\(steps=0\); expected a whole number from 1"),
    ({"settings": PictureSettings(crop=0.0)}, r"PictureSettings\(crop=0.0\); expected a number above 0 to 1"),
    ({"settings": PictureSettings(parametrisation="wavelet")}, "parametrisation='wavelet'.; expected 'fourier', 'pixel', 'magnitude'"),
    ({"mask": [1, 0]}, r"mask of shape \(2,\) for 1 images at 'mix'; expected \[6\] or \[1, 6\] in \[0, 1\]; found.channel_mask"),
    ({"mask": [2.0, 0, 0, 0, 0, 0]}, "with values outside 0 to 1"),
    ({"mask": [0.0] * 6}, "image '0' has no finite activation other than 0 at 'mix' under its mask; expected something to look for"),
    ({"pixels": Pixels((0.5,), (0.5,), (16, 16))}, "for images of 3 colours; expected Pixels"),
    ({"pixels": Pixels((0.5,) * 3, (5.0,) * 3, (16, 16))}, "images become pixels from .* expected 0 to 1; take ca.pixels_of"),
    ({"batch_size": -1}, "batch_size=-1; expected a whole number from 1"),
    ({"targets": [4]}, "target 4 for a model with 4 classes; expected 0 to 3"),
])
def test_what_cannot_be_used_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ca.invert(models.seeded(models.Plain), pictures(1), "mix", **{"pixels": PIXELS, "settings": PictureSettings(steps=1), **change})


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(LayerError, match="no layer 'mixed' in Plain; did you mean 'mix'"):
        ca.invert(models.seeded(models.Plain), pictures(1), "mixed", pixels=PIXELS)


def test_settings_come_back_from_their_text() -> None:
    settings = resolved(PictureSettings(jitter=3), INVERSION, INVERSIONS)
    assert PictureSettings.from_json(settings.to_json()) == settings
    assert settings.digest() != resolved(None, INVERSION, INVERSIONS).digest()
    with pytest.raises(InputError, match="cannot be read"):
        PictureSettings.from_json('{"brightness": 1}')
