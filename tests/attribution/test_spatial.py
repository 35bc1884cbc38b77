"""Masks on the picture: planted regions found, areas held, games, perturbations, bad input; one file, for one network sees them all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
import chanattr.attribution.spatial_asking as asking_module
from chanattr.attribution.asking import Asking
from chanattr.attribution.perturbation import Lookup, blurred, perturbation_of, pyramid_of
from chanattr.attribution.spatial_asking import shifted
from chanattr.axes import equal
from chanattr.codes import level_sets, masks_of
from chanattr.search.objective import contrastive
from chanattr.search.pictures import Pictures, hardened

DRAFT = ca.ExactSearch(relaxed_steps=20)
SIDE = 64


class Sees(nn.Module):
    """A small convolution net whose class 1 is the mean of its features over one region of the picture, and class 0 over another."""

    def __init__(self, region: tuple[slice, slice], other: tuple[slice, slice] = (slice(0, 8), slice(0, 8))) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, padding=1)
        self.region, self.other = region, other
        with torch.no_grad():
            self.features.weight.zero_()
            self.features.bias.zero_()
            self.features.weight[:, :, 1, 1] = 1.0

    def forward(self, images: Tensor) -> Tensor:
        seen = self.features(images).relu().mean(1)
        return torch.stack([seen[(slice(None), *place)].mean((1, 2)) for place in (self.other, self.region)], 1)


def region_of(row: int, column: int, side: int = 16) -> tuple[slice, slice]:
    return slice(row, row + side), slice(column, column + side)


@pytest.fixture
def bright() -> Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) + 1


@pytest.mark.parametrize(("row", "column"), [(8, 36), (30, 12), (40, 40)])
def test_the_region_that_a_network_sees_is_found(row: int, column: int, bright: Tensor) -> None:
    found = ca.spatial(Sees(region_of(row, column)), bright[:1], targets=[1], areas=(0.0625, 0.15), perturbation="fade", flip=False)
    masks, planted = found.masks(), np.zeros((SIDE, SIDE))
    planted[row:row + 16, column:column + 16] = 1
    for mask in masks[:, 0]:
        middle = (mask[..., None] * np.stack(np.mgrid[:SIDE, :SIDE], -1)).sum((0, 1)) / mask.sum()
        assert np.abs(middle - (row + 7.5, column + 7.5)).max() < SIDE / 32 + 0.5  # within a cell of the grid
    assert (masks[:, 1] * planted).sum((1, 2)).min() / 256 > 0.97  # a region of 6 % lies within a mask of 15 %
    for hard in level_sets(masks[:, 0]):  # as large as the region; from edge to edge within a cell of it
        edges = [np.flatnonzero(hard.any(axis))[[0, -1]] for axis in (1, 0)]
        assert np.abs(np.array(edges) - [(row, row + 15), (column, column + 15)]).max() <= SIDE / 32
        assert (hard * planted).sum() / 256 > 0.9


class SeesTwo(Sees):
    """Its class 1 is seen in two places: where both count, or where either is enough."""

    def __init__(self, first: tuple[slice, slice], second: tuple[slice, slice], both: bool) -> None:
        super().__init__(first, second)
        self.both = both

    def forward(self, images: Tensor) -> Tensor:
        second, first = super().forward(images).unbind(1)
        seen = first + second if self.both else torch.maximum(first, second)
        return torch.stack([torch.zeros_like(seen), seen], 1)


@pytest.mark.parametrize("both", [True, False])
def test_two_objects_of_the_class(both: bool, bright: Tensor) -> None:
    """With room for one, a mask lies on one object where either is enough; where both count, it lies on objects, and on both with room."""
    places = region_of(6, 6), region_of(42, 42)
    found = ca.spatial(SeesTwo(*places, both), bright[:1], targets=[1], areas=(0.0625, 0.2), perturbation="fade", flip=False)
    masks = found.masks()
    covered = np.sort(np.stack([masks[(..., *place)].mean((2, 3)) for place in places], -1), -1)  # [N, A, 2], the fuller one last
    assert (covered[:, 0].sum(-1) > 0.8).all()  # of the most, 1: smooth masks leave the corners of a square
    if both:
        assert (covered[:, 1] > 0.9).all()
    else:
        assert (covered[:, 0, 0] < 0.1).all()


def test_areas_are_what_was_asked_at_several_sizes() -> None:
    for size in ((64, 64), (48, 80), (33, 57)):
        net = Sees((slice(8, 24), slice(8, 24)))
        images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
        areas = (0.02, 0.05, 0.1, 0.25, 0.6)
        found = ca.spatial(net, images, targets=[1], areas=areas, search=ca.ExactSearch(relaxed_steps=6), refine=False)
        assert np.abs(found.true_areas - np.array(areas)).max() <= 0.002
        assert np.abs(found.masks().mean((2, 3)) - found.true_areas).max() < 1e-5
        assert found.masks().shape == (1, 5, *size)


def test_figures_are_those_of_the_stored_codes(bright: Tensor) -> None:
    net = Sees(region_of(8, 36))
    found = ca.spatial(net, bright, targets=[1, 1], areas=(0.05, 0.2), search=DRAFT, refine=False)
    masks, pyramid = found.masks(), pyramid_of(bright)
    for row in range(2):
        for place in range(2):
            mask = torch.from_numpy(masks[row, place])
            by_hand = picture_under(pyramid[:, row], mask)
            hard = torch.from_numpy(level_sets(masks[row, place]).astype(np.float32))
            with torch.no_grad():
                plain, mirrored = net(by_hand[None])[0, 1].item(), net(by_hand.flip(-1)[None])[0, 1].item()
                level_set = net(picture_under(pyramid[:, row], hard)[None])[0, 1].item()
            assert found.scores[row, place] == pytest.approx(plain, abs=1e-4)
            assert found.view_scores[row, place] == pytest.approx((plain + mirrored) / 2, abs=1e-4)
            assert found.level_set_scores[row, place] == pytest.approx(level_set, abs=1e-3)
            grey = (4 * masks[row, place] * (1 - masks[row, place])).mean() / masks[row, place].mean()
            assert found.greyness[row, place] == pytest.approx(grey, abs=1e-4)
            assert found.peak[row, place] == pytest.approx(masks[row, place].max(), abs=1e-5)
    with torch.no_grad():
        assert found.original == pytest.approx(net(bright)[:, 1].numpy(), abs=1e-5)
        assert found.empty == pytest.approx(net(pyramid[0])[:, 1].numpy(), abs=1e-5)


def picture_under(pyramid: Tensor, mask: Tensor) -> Tensor:
    """Every pixel from the two levels around its height, by loops over levels."""
    height = mask.double() * (len(pyramid) - 1)
    made = torch.zeros_like(pyramid[0], dtype=torch.float64)
    for level in range(len(pyramid)):
        made += (1 - (height - level).abs()).clamp(min=0) * pyramid[level].double()
    return made.float()


def test_a_lookup_follows_its_slope(bright: Tensor) -> None:
    lookup = Lookup(pyramid_of(bright).double())
    masks = torch.rand(2, SIDE * SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    rows = torch.tensor([1, 0])
    weights = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (slopes,) = torch.autograd.grad((weights * lookup.perturbed(masks, rows)).sum(), masks)
    for place in (0, 500, 4095):
        step = torch.zeros_like(masks)
        step[0, place] = 1e-6
        ends = [(weights * lookup.perturbed((masks + sign * step).detach(), rows)).sum() for sign in (1, -1)]
        assert slopes[0, place].item() == pytest.approx(((ends[0] - ends[1]) / 2e-6).item(), rel=1e-4, abs=1e-6)


def test_a_blur_is_a_gaussian_with_nothing_beyond_the_border() -> None:
    point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    point[0, 0, 20, 20] = 1
    made = blurred(point, 3.0, 2.0)[0, 0]
    assert made[20, 23] / made[20, 20] == pytest.approx(np.exp(-9 / 8), rel=1e-6)
    assert made[23, 20] / made[20, 20] == pytest.approx(np.exp(-9 / 18), rel=1e-6)
    assert made.sum() == pytest.approx(1, abs=1e-3)
    assert blurred(torch.ones(1, 1, 41, 41), 3.0, 3.0)[0, 0, 0, 0] == pytest.approx(0.25, abs=0.15)  # a corner sees three quarters nothing


def test_what_lies_under_a_mask(bright: Tensor) -> None:
    assert pyramid_of(bright).shape == (8, 2, 3, SIDE, SIDE)
    assert torch.equal(pyramid_of(bright)[-1], bright)
    assert pyramid_of(bright, perturbation_of("fade"))[0].abs().max() == 0
    assert torch.allclose(pyramid_of(bright, perturbation_of("mean"))[0], bright.mean((2, 3), keepdim=True).expand_as(bright))
    noise = [pyramid_of(bright, perturbation_of("noise", seed=seed))[0] for seed in (0, 0, 1)]
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])
    assert torch.equal(pyramid_of(bright[1:], perturbation_of("noise"))[0, 0], noise[0][1])  # none depends on what is beside it
    colour = pyramid_of(bright, perturbation_of(np.array([0.1, 0.2, 0.3])))[0]
    assert torch.allclose(colour[1, :, 5, 7], torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(pyramid_of(bright, perturbation_of(bright.flip(0)))[0], bright.flip(0))


@pytest.mark.parametrize("game", ["preserve", "delete", "dual"])
def test_games_select_what_they_should(game: str, bright: Tensor) -> None:
    net = Sees(region_of(20, 20, 20))
    found = ca.spatial(net, bright, targets=[1, 1], areas=(0.15,), game=game, perturbation="fade", search=DRAFT, refine=False, flip=False)
    planted = np.zeros((SIDE, SIDE))
    planted[20:40, 20:40] = 1
    inside = (found.masks()[:, 0] * planted).sum((1, 2)) / found.masks()[:, 0].sum((1, 2))
    assert inside.min() > 0.55  # chance is 0.1
    with torch.no_grad():
        kept = torch.from_numpy(found.masks()[:, 0])[:, None]
        whole = {"preserve": net(bright * kept), "delete": net(bright * (1 - kept)), "dual": net(bright * kept) - net(bright * (1 - kept))}
    assert found.scores[:, 0] == pytest.approx(whole[game][:, 1].numpy(), abs=1e-4)


def test_the_smallest_area_reaches_and_is_measured(bright: Tensor) -> None:
    net = Sees(region_of(20, 20, 20))
    asked = {"targets": [1, 1], "areas": (0.05, 0.4), "perturbation": "fade", "level": 0.8, "search": DRAFT, "flip": False}
    found = ca.spatial(net, bright, **asked)
    level = found.empty + 0.8 * (found.original - found.empty)
    assert (found.smallest_area > 0.05).all()  # a region of 10 % needs at least 8 %
    assert (found.smallest_area < 0.4).all()
    assert found.smallest_area == pytest.approx(found.smallest_masks().mean((1, 2)), abs=1e-5)
    assert (found.smallest_score >= level - 1e-4).all()
    assert (found.refine_evaluations > 0).all()
    coarse = ca.spatial(net, bright, **asked, refine=False)
    assert coarse.smallest_area == pytest.approx(0.4, abs=0.002)


def test_where_no_area_reaches_the_whole_picture_is_the_upper_end(bright: Tensor) -> None:
    net = Sees(region_of(8, 8, 48))
    asked = {"targets": [1, 1], "areas": (0.05,), "perturbation": "fade", "level": 0.5, "search": DRAFT, "flip": False}
    found = ca.spatial(net, bright, **asked)
    assert (found.smallest_area > 0.05).all()
    assert (found.smallest_area < 0.9).all()
    unrefined = ca.spatial(net, bright, **asked, refine=False)
    assert unrefined.smallest_area.tolist() == [-1, -1]
    assert np.isnan(unrefined.smallest_score).all()
    assert not unrefined.smallest_code.any()


def test_an_empty_mask_that_reaches_is_zero() -> None:
    net = Sees(region_of(8, 8))
    black = torch.zeros(1, 3, SIDE, SIDE)
    assert ca.spatial(net, black, targets=[1], areas=(0.1,), search=DRAFT).smallest_area.tolist() == [0]


def test_a_mask_on_a_layers_grid(bright: Tensor) -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 256, 3))
    found = ca.spatial(net, bright, layer="1", areas=(0.1, 0.3), search=DRAFT, perturbation="fade")
    assert found.size == (16, 16)
    assert np.abs(found.true_areas - (0.1, 0.3)).max() < 0.002
    with torch.no_grad():
        masked = net[1](net[0](bright)) * torch.from_numpy(found.masks())[:, 1, None]
        logits = net[2:](masked)
    assert found.scores[:, 1] == pytest.approx(logits.gather(1, torch.from_numpy(found.targets).long()[:, None])[:, 0].numpy(), abs=1e-4)


def test_answers_do_not_hang_on_what_is_beside_them(bright: Tensor) -> None:
    net, asked = Sees(region_of(8, 36)), {"areas": (0.1,), "search": ca.ExactSearch(relaxed_steps=8, refine_steps=3), "jitter": 0.05}
    both = ca.spatial(net, bright, targets=[1, 1], keys=["a", "b"], **asked)
    alone = ca.spatial(net, bright[1:], targets=[1], keys=["b"], **asked)
    assert np.abs(both.codes[1].astype(int) - alone.codes[0]).max() <= 1
    again = ca.spatial(net, bright, targets=[1, 1], keys=["a", "b"], **asked)
    assert equal(both, again)


def test_a_mirrored_view_holds_masks_to_both_orientations(bright: Tensor) -> None:
    net = Sees(region_of(8, 4))  # on the left alone: a mirrored picture has the region on the right
    plain = ca.spatial(net, bright, targets=[1, 1], areas=(0.15,), perturbation="fade", search=DRAFT, flip=False, refine=False)
    both = ca.spatial(net, bright, targets=[1, 1], areas=(0.15,), perturbation="fade", search=DRAFT, refine=False)
    assert plain.view_scores == pytest.approx(plain.scores)  # no mirrored view was searched, and none is reported
    assert (plain.scores > both.scores).all()
    right = both.masks()[:, 0, :, SIDE // 2:].sum((1, 2)) / both.masks()[:, 0].sum((1, 2))
    assert (right > 0.2).all()


def test_a_shift_moves_pixels_and_repeats_the_border() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(shifted(1, -1)(image)[0, 0, 1:, :3], image[0, 0, :3, 1:])
    assert torch.equal(shifted(1, 0)(image)[0, 0, 0], image[0, 0, 0])


def test_the_papers_search_is_beside_ours(bright: Tensor) -> None:
    net = Sees(region_of(8, 36))
    found = ca.spatial(net, bright, targets=[1, 1], areas=(0.1,), search=ca.PenaltySearch(steps=40), samples=2)
    assert found.settings.search == ca.PenaltySearch(steps=40, learning_rate=0.01, penalty=300.0, ramp=0, momentum=0.9, dampening=0.9,
                                                     start=1.0, reduction="mean", growth=1.0035)
    assert found.true_areas.min() > 0.5  # forty steps leave most of the picture: the area is the schedule's
    assert found.evaluations.tolist() == [40, 40]


def test_the_papers_masks_are_refined_between_their_own_areas(bright: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Tensor] = []
    honest = asking_module.search_codes

    def noted(asking: Asking, areas: Tensor, rows: Tensor, start: asking_module.Start | None = None) -> Tensor:
        if start is not None:
            tried.append(areas)
        return honest(asking, areas, rows, start)

    monkeypatch.setattr(asking_module, "search_codes", noted)
    found = ca.spatial(Sees(region_of(8, 36)), bright[:1], targets=[1], areas=(0.05,), search=ca.PenaltySearch(steps=3),
                       perturbation="fade", refine=True, level=0.5)
    assert found.true_areas[0, 0] > 0.5  # after three steps the penalty holds nothing
    assert tried[0].item() == pytest.approx(found.true_areas[0, 0] / 2, rel=1e-5)
    assert found.smallest_area[0] < found.true_areas[0, 0]
    assert found.smallest_score[0] >= 0.5 * found.original[0] - 1e-5


@pytest.mark.parametrize("game", ["preserve", "delete"])
def test_of_several_starts_the_best_is_kept(game: str, bright: Tensor) -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(3, 8, 7, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 81, 4))
    asked = {"targets": [1, 2], "areas": (0.05, 0.15), "refine": False, "game": game}
    searches = [ca.ExactSearch(relaxed_steps=12, smoothing=smoothing, shifts=0) for smoothing in (4.0, 6.0)]
    apart = np.stack([ca.spatial(net, bright, **asked, search=search).view_scores for search in searches])
    both = ca.spatial(net, bright, **asked, search=ca.ExactSearch(relaxed_steps=12, starts=2, shifts=0))
    assert not np.allclose(apart[0], apart[1])
    assert both.view_scores == pytest.approx(apart.min(0) if game == "delete" else apart.max(0), abs=1e-5)
    assert both.evaluations.tolist() == pytest.approx([2 * (24 + 5 / 3)] * 2)


class SeesMoreBeside(Sees):
    """Class 1 is seen in one region, and far better in another beside it, of which no slope tells."""

    def forward(self, images: Tensor) -> Tensor:
        beside, seen = super().forward(images).unbind(1)
        return torch.stack([torch.zeros_like(seen), seen + 10 * (beside > 3.5).float()], 1)


def test_a_better_place_beside_a_small_mask_is_found(bright: Tensor) -> None:
    net = SeesMoreBeside(region_of(20, 20, 12), region_of(20, 28, 12))
    still, moved = (ca.spatial(net, bright, targets=[1, 1], areas=(0.05, 0.2), perturbation="fade", refine=False, flip=False,
                               search=ca.ExactSearch(relaxed_steps=20, shifts=cells)) for cells in (0, 4))
    assert (still.scores[:, 0] < 5).all()
    assert (moved.scores[:, 0] > 10).all()
    assert np.array_equal(still.codes[:, 1], moved.codes[:, 1])


@pytest.mark.parametrize("game", ["preserve", "delete"])
def test_a_small_mask_is_shifted_to_where_it_scores_higher(game: str, bright: Tensor) -> None:
    """As a plain loop over the eight ways by 4, 2 and 1 cells has it; larger masks stay. What it costs is told."""
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(3, 8, 7, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 81, 4))
    net[-1].weight.data *= 20
    asked = {"targets": [1, 2], "areas": (0.04, 0.15), "refine": False, "game": game, "precision": "float32"}
    still, moved = (ca.spatial(net, bright, **asked, search=ca.ExactSearch(relaxed_steps=4, shifts=cells)) for cells in (0, 4))
    sign = -1 if game == "delete" else 1
    assert np.array_equal(still.codes[:, 1], moved.codes[:, 1])
    assert (sign * (moved.view_scores - still.view_scores)).min() >= 0
    np.testing.assert_allclose(moved.true_areas, still.true_areas, atol=0.002)
    assert moved.evaluations.tolist() == pytest.approx((still.evaluations + 2 * (3 + 3 * 8) / 3).tolist())
    family, lookup = Pictures(SIDE, SIDE), Lookup(pyramid_of(bright))

    @torch.no_grad()
    def score(code: Tensor, row: int) -> float:
        mask = family.spread(code[None]).clamp(0, 1)
        picture = lookup.perturbed(1 - mask if game == "delete" else mask, torch.tensor([row]))
        return sign * float(sum(net(view)[0, still.targets[row]] for view in (picture, picture.flip(3)))) / 2

    for row in range(2):
        best = torch.from_numpy(still.codes[row, 0]).flatten().float() / 255
        for cells in (4, 2, 1):
            tried = [best]
            for down, right in itertools.product((-cells, 0, cells), repeat=2):
                plain = torch.zeros(96, 96)  # room enough that nothing comes in at the other side
                plain[32 + down:64 + down, 32 + right:64 + right] = best.view(32, 32)
                tried.append(family.project(plain[32:64, 32:64].reshape(1, -1), torch.tensor([0.04]))[0])
            best = max(tried, key=lambda code: score(code, row))
        assert np.abs(family.finish(best[None], torch.tensor([0.04])).view(32, 32).numpy() * 255 - moved.codes[row, 0]).max() <= 1


def test_steps_that_see_the_hardened_mask_are_taken_in_turn(bright: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third, in both orientations: six steps to a round. Without them, and at every step, there are as many views as ever."""
    rounds, hard = [], []
    real = asking_module.ascend
    monkeypatch.setattr(asking_module, "ascend", lambda scores, *rest, **more: rounds.append(len(scores)) or real(scores, *rest, **more))
    monkeypatch.setattr(asking_module, "hardened", lambda masks: hard.append(len(masks)) or hardened(masks))
    for every in (0, 1, 3):
        search = ca.ExactSearch(relaxed_steps=6, hard_every=every)
        ca.spatial(Sees(region_of(8, 36)), bright, targets=[1, 1], areas=(0.1,), search=search, refine=False)
    assert rounds == [2, 2, 6]
    assert len(hard) == 6 + 2


def test_a_reward_of_ones_own(bright: Tensor) -> None:
    net = Sees(region_of(8, 36))
    named = ca.spatial(net, bright, targets=[1, 1], areas=(0.1,), search=DRAFT, reward="contrastive")
    given = ca.spatial(net, bright, targets=[1, 1], areas=(0.1,), search=DRAFT, reward=contrastive)
    assert np.array_equal(named.codes, given.codes)
    assert given.settings.reward == "chanattr.search.objective:contrastive"


def test_rows_xarray_and_codes_at_other_sizes(bright: Tensor) -> None:
    found = ca.spatial(Sees(region_of(8, 36)), bright, targets=[1, 1], areas=(0.05, 0.1), search=DRAFT, refine=False, keys=["a", "b"])
    assert found[1].keys == ("b",)
    assert found.heat((32, 48)).shape == (2, 32, 48)
    assert np.abs(found.masks((128, 128)) - masks_of(found.codes, (128, 128))).max() == 0
    pytest.importorskip("xarray")
    data = found.to_xarray()
    assert data["codes"].sel(image="b", area=data.area[0]).shape == (32, 32)


WRONG = {
    "areas": ({"areas": (0.1, 1.5)}, "area 1.5; expected a number above 0 to 1; areas are shares of the picture"),
    "no areas": ({"areas": ()}, "expected a list of shares of the picture"),
    "perturbation": ({"perturbation": "smear"}, "perturbation='smear'; expected one of blur, fade, mean, noise"),
    "colour": ({"perturbation": np.zeros(2)}, "perturbation has shape .2,. for images .* expected a colour .3. or images"),
    "one picture in a batch": ({"perturbation": np.zeros((1, 3, SIDE, SIDE))}, "perturbation has shape .1, .* for 2 images; expected one"),
    "levels": ({"levels": 1}, "levels=1; expected a whole number from 2"),
    "jitter": ({"jitter": 0.9}, "jitter=0.9; expected a number from 0 to 0.5"),
    "flip at a layer": ({"layer": "features", "flip": True}, "flip=True, jitter=0 at layer 'features'; expected neither"),
    "target": ({"targets": [5, 5]}, "target 5 for a model with 2 classes"),
    "game": ({"game": "win"}, "game='win'; expected one of preserve, delete, dual"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_used_is_refused(case: str, bright: Tensor) -> None:
    given, message = WRONG[case]
    with pytest.raises(ca.InputError, match=message):
        ca.spatial(Sees(region_of(8, 36)), bright, **given)


def test_a_picture_each_is_refused_for_other_images() -> None:
    """A shard's worth of them once lay under the masks of every shard."""
    under = perturbation_of(torch.zeros(16, 3, 2, 2))
    assert under.of(slice(4, 6), 16).given.shape == (2, 3, 2, 2)
    with pytest.raises(ca.InputError, match=r"shape \(16, 3, 2, 2\) for 32 images; expected one picture .* \[32, C, H, W\]"):
        under.of(slice(0, 16), 32)


def test_a_layer_without_a_grid_is_refused(bright: Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ca.LayerError, match="no channels on a grid of two sides; expected one that gives"):
        ca.spatial(net, bright, layer="2")


def test_not_finite_pictures_are_named(bright: Tensor) -> None:
    bright[1, 0, 0, 0] = torch.nan
    with pytest.raises(ca.ModelError, match="first 'b'"):
        ca.spatial(Sees(region_of(0, 0)), bright, keys=["a", "b"], search=DRAFT)
