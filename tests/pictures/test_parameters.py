"""Parametrisations: their statistics at the start, what they undo, and moves against slow ways to do the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chanattr.picture_settings import CHANNEL, CHANNELS, PictureSettings, resolved
from chanattr.pictures import making, parameters
from chanattr.pictures.making import Move, draw_move, moved


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (15, 17), (12, 31)])
def test_frequencies_are_those_of_the_full_spectrum(height: int, width: int) -> None:
    fy, fx = np.fft.fftfreq(height), np.fft.fftfreq(width)
    full = np.sqrt(fy[:, None] ** 2 + fx[None] ** 2)
    np.testing.assert_allclose(parameters.frequencies(height, width), full[:, :width // 2 + 1], atol=1e-7)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (63, 65)])
@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5])
def test_a_start_has_the_deviation_that_is_asked(height: int, width: int, decay: float) -> None:
    picture = parameters.by_fourier(0.1 * noise(200, 1, height, width), decay)  # one component: no colours
    before = torch.logit(picture.draw().detach())
    assert float(before.std()) == pytest.approx(0.1, rel=0.05)
    spectrum = torch.fft.rfft2(before, norm="ortho").abs().square().mean((0, 1))
    low, high = spectrum[2, 0], spectrum[16, 0]
    assert float((low / high).log2() / 6) == pytest.approx(decay, abs=0.15)  # from frequency 2 to 16: three octaves, squared


@pytest.mark.parametrize("make", [parameters.by_pixel, lambda start: parameters.by_fourier(start, 1.0)])
def test_every_picture_can_be_made(make) -> None:
    picture = make(noise(1, 3, 8, 9))
    wanted = torch.sigmoid(noise(1, 3, 8, 9, seed=1))
    optimiser = torch.optim.LBFGS(picture.free, max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = (picture.draw() - wanted).square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    torch.testing.assert_close(picture.draw(), wanted, atol=2e-3, rtol=0)


def test_colours_are_decorrelated_and_back() -> None:
    colours = noise(2, 3, 5, 4)
    torch.testing.assert_close(parameters.correlated(parameters.decorrelated(colours)), colours)
    covariance = parameters.colour_basis() @ parameters.colour_basis().T
    published = np.array(parameters.DIRECTIONS) @ np.diag(parameters.VARIANCES) @ np.array(parameters.DIRECTIONS).T
    np.testing.assert_allclose(covariance / covariance[0, 0], published / published[0, 0], rtol=1e-4)
    grey = noise(2, 1, 5, 4)
    assert parameters.correlated(grey) is grey


def test_magnitudes_are_kept_whatever_the_phases() -> None:
    natural = torch.sigmoid(noise(5, 3, 12, 13, seed=3))
    magnitude = parameters.magnitude_of(natural)
    picture = parameters.by_magnitude(noise(2, 3, 12, 13), magnitude)
    with torch.no_grad():
        picture.free[0].add_(noise(*picture.free[0].shape, seed=4))
    found = torch.fft.rfft2(parameters.decorrelated(torch.logit(picture.draw().detach())), norm="ortho").abs()
    inner = (slice(None), slice(None), slice(None), slice(1, None))  # the first column must be its own mirror image
    torch.testing.assert_close(found[inner], magnitude.abs().expand(found.shape)[inner], atol=1e-3, rtol=1e-3)
    assert picture.free[0].shape == (2, 3, 12, 7)


def slow_spectrum(part: np.ndarray) -> np.ndarray:
    """Coefficients of one component, frequency by frequency."""
    height, width = part.shape
    rows, columns = np.mgrid[:height, :width]
    return np.array([[(part * np.exp(-2j * np.pi * (v * rows / height + u * columns / width))).sum() for u in range(width // 2 + 1)]
                     for v in range(height)]) / np.sqrt(height * width)


def test_the_mean_colour_keeps_its_sign() -> None:
    """The pictures of given magnitudes have the natural mean of each component, by numpy alone."""
    shift = parameters.correlated(torch.tensor([-0.4, 1.5, -2.0]).view(1, 3, 1, 1))
    natural = torch.sigmoid(0.2 * noise(4, 3, 6, 7, seed=3) + shift)
    parts = np.log(natural.double().numpy().clip(0.02, 0.98) / (1 - natural.double().numpy().clip(0.02, 0.98)))
    parts = np.einsum("rc,nchw->nrhw", np.linalg.inv(parameters.colour_basis().double().numpy()), parts)
    spectra = np.array([[slow_spectrum(part) for part in one] for one in parts])
    mean = parts.mean((0, 2, 3))
    assert mean.min() < -0.1 < 0.1 < mean.max()
    magnitude = parameters.magnitude_of(natural).numpy()
    np.testing.assert_allclose(magnitude[:, 0, 1:], np.abs(spectra).mean(0)[:, 0, 1:], rtol=1e-4)
    np.testing.assert_allclose(magnitude[:, 0, 0], mean * np.sqrt(42), rtol=1e-4)
    picture = parameters.by_magnitude(noise(2, 3, 6, 7), torch.from_numpy(magnitude))
    for _ in range(2):
        shown = picture.draw()
        made = parameters.decorrelated(torch.logit(shown.detach().double())).numpy()
        np.testing.assert_allclose(made.mean((2, 3)), np.stack([mean] * 2), rtol=1e-3)
        (slope,) = torch.autograd.grad(shown.square().sum(), picture.free)
        picture.free[0].data += 10 * slope  # no ascent takes it away


def test_magnitudes_of_the_shipped_pictures_fall() -> None:
    magnitude = parameters.natural_magnitude(3, 33, 32)
    assert magnitude.shape == (3, 33, 17)
    assert bool((magnitude[:, 2, 0] > 3 * magnitude[:, 14, 0]).all())
    assert bool((magnitude[0, 1:, 1:] > magnitude[1, 1:, 1:]).all())  # brightness has more of it than colour


def test_no_move_changes_nothing() -> None:
    shown = torch.rand(2, 3, 9, 7)
    assert moved(shown, Move()) is shown
    torch.testing.assert_close(moved(shown, Move(turn=360.0)), shown)


def test_whole_pixels_are_moved_exactly() -> None:
    shown = torch.rand(1, 3, 9, 7)
    found = moved(shown, Move(right=2, down=-3))
    torch.testing.assert_close(found[..., :6, 2:], shown[..., 3:, :5])
    torch.testing.assert_close(found[..., :6, 1], shown[..., 3:, 0])  # what lies outside is the mirror image


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    shown = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(moved(shown, Move(turn=90)), torch.rot90(shown, 1, (2, 3)), atol=1e-5, rtol=0)


def test_turning_keeps_lengths_where_sides_differ() -> None:
    shown = torch.zeros(1, 1, 41, 81)
    shown[..., 20, 40:55] = 1  # a bar to the right from the middle
    found = moved(shown, Move(turn=90))
    assert found[0, 0, 7:20, 40].min() > 0.9
    assert found[0, 0, :4, 40].max() < 0.1
    assert found[0, 0, 21:, 40].max() < 0.6


def test_a_crop_is_that_part_enlarged() -> None:
    shown = torch.rand(1, 3, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)  # flat squares: enlarging keeps their middles
    found = moved(shown, Move(crop=0.5, across=1, along=-1))
    torch.testing.assert_close(found[..., 4::8, 4::8], shown[..., 2:16:4, 18::4])
    bigger = moved(shown, Move(zoom=2.0))
    torch.testing.assert_close(bigger[..., 4::8, 4::8], shown[..., 10:24:4, 10:24:4])


def test_moves_stay_within_their_settings_and_repeat() -> None:
    settings = resolved(PictureSettings(jitter=3, scale=0.2, rotation=5, crop=0.5), CHANNEL, (CHANNELS,))

    def drawn() -> list[Move]:
        generator = torch.Generator().manual_seed(7)
        return [draw_move(settings, generator) for _ in range(300)]

    moves = np.array(drawn())
    low, high = np.array([-3, -3, 1 / 1.2, -5, 0.5, -1, -1]), np.array([3, 3, 1.2, 5, 1, 1, 1])
    assert (moves >= low).all()
    assert (moves <= high).all()
    assert (np.ptp(moves, axis=0) > 0.9 * (high - low)).all()
    np.testing.assert_array_equal(moves, np.array(drawn()))


def test_total_variation_is_the_sum_over_neighbours() -> None:
    shown = torch.rand(2, 3, 4, 5)
    slow = [sum(abs(float(p[c, y + 1, x] - p[c, y, x])) for c in range(3) for y in range(3) for x in range(5)) / 45
            + sum(abs(float(p[c, y, x + 1] - p[c, y, x])) for c in range(3) for y in range(4) for x in range(4)) / 48 for p in shown]
    assert making.total_variation(shown).tolist() == pytest.approx(slow)


@pytest.mark.parametrize("parametrisation", ["fourier", "pixel"])
def test_a_given_picture_can_be_the_start(parametrisation: str) -> None:
    settings = resolved(PictureSettings(parametrisation=parametrisation, decay=1.5), CHANNEL, (CHANNELS,))
    shown = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(0)).clamp(0.1, 0.9)
    torch.testing.assert_close(making.parametrise(making.start_of(shown, settings), settings).draw(), shown, atol=1e-4, rtol=0)


def test_starts_do_not_depend_on_how_many_there_are() -> None:
    torch.testing.assert_close(making.noise(3, (3, 4, 4), 5)[:2], making.noise(2, (3, 4, 4), 5))
    assert not torch.equal(making.noise(1, (3, 4, 4), 5), making.noise(1, (3, 4, 4), 6))
    assert float(making.smoothed(noise(100, 1, 32, 32), 4.0, 1.0).std()) == pytest.approx(4, rel=0.1)
