"""Each settled meaning, by name: areas, games, level, a*, ties, targets, evaluation, fill, rewards, classes, same numbers again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chanattr as ca
from chanattr.axes import equal
from tests.models import Plain, Tokens, images, seeded

AREAS = (1, 2, 4, 6)


class Sum(nn.Module):
    """Class c scores the sum of its own weights over the channels that are on: everything can be worked out by hand."""

    def __init__(self, weights: list[list[float]]) -> None:
        super().__init__()
        self.body = nn.Identity()
        self.head = nn.Linear(len(weights[0]), len(weights), bias=False)
        self.head.weight.data = torch.tensor(weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.mean((2, 3))))


def ones(channels: int, count: int = 1) -> Tensor:
    return torch.ones(count, channels, 2, 2)


def score_by_hand(model: nn.Module, x: Tensor, layer: str, mask: np.ndarray, target: int, *, fill: float = 0.0) -> float:
    with ca.inject(model, layer, mask, fill=fill), torch.no_grad():
        return float(model(x)[0, target])


def test_areas_none_is_the_grid() -> None:
    found = ca.per_image(seeded(Plain), images(1), "mix")
    assert tuple(found.areas) == ca.area_grid(6)
    assert found.masks.sum(-1).tolist() == [list(ca.area_grid(6))]


@pytest.mark.parametrize("area", [0, 7, -1, True])
def test_areas_that_are_no_counts_are_refused(area: object) -> None:
    with pytest.raises(ca.InputError, match=rf"area {area!r} for a layer of 6 channels; expected a whole number of channels from 1 to 6"):
        ca.per_image(seeded(Plain), images(1), "mix", areas=(2, area))  # type: ignore[arg-type]


@pytest.mark.parametrize("game", ["preserve", "delete", "dual"])
def test_a_mask_is_the_selected_set_in_every_game(game: str) -> None:
    model, x = seeded(Plain), images(3)
    found = ca.per_image(model, x, "mix", areas=AREAS, game=game)
    assert found.masks.sum(-1).tolist() == [list(AREAS)] * 3
    for row in range(3):
        target = int(found.targets[row])
        for a in range(len(AREAS)):
            mask = found.masks[row, a]
            kept = score_by_hand(model, x[row:row + 1], "mix", mask, target)
            dropped = score_by_hand(model, x[row:row + 1], "mix", ~mask, target)
            expected = {"preserve": kept, "delete": dropped, "dual": kept - dropped}[game]
            assert found.scores[row, a] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_delete_minimises_and_its_level_is_that_the_top_class_is_lost() -> None:
    model = Sum([[5.0, 3.0, 1.0, 0.0], [2.0, 2.0, 2.0, 0.5]])  # 9 against 6.5; without channel 0: 4 against 4.5
    found = ca.per_image(model, ones(4), "body", areas=(1, 2, 3, 4), game="delete")
    assert found.settings.level == "top1"
    assert found.masks[0].astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert found.scores[0].tolist() == [4, 1, 0, 0]
    assert (found.smallest_area[0], found.channels(0).tolist()) == (1, [0])
    assert found.top1[0].tolist() == [False, False, False, True]  # all dropped: a tie of zeros, which goes to class 0


def test_delete_with_a_level_brings_the_reward_to_it_or_below() -> None:
    model = Sum([[5.0, 3.0, 1.0, 0.0], [2.0, 2.0, 2.0, 0.5]])
    found = ca.per_image(model, ones(4), "body", areas=(1, 2, 3, 4), game="delete", level=0.2)  # 0.2 * 9 = 1.8
    assert (found.smallest_area[0], found.smallest_score[0]) == (2, 1.0)


def test_level_is_the_original_score() -> None:
    found = ca.per_image(Sum([[4.0, 3, 2, 1], [0, 0, 0, 0]]), ones(4), "body", areas=(1, 2, 3, 4))
    assert (found.original[0], found.empty[0]) == (10, 0)
    assert found.scores[0].tolist() == [4, 7, 9, 10]
    assert found.smallest_area[0] == 4


@pytest.mark.parametrize(("fraction", "smallest"), [(0.0, 0), (0.4, 1), (0.41, 2), (0.7, 2), (0.9, 3), (1.0, 4)])
def test_level_as_a_fraction_of_the_way_from_empty_to_original(fraction: float, smallest: int) -> None:
    found = ca.per_image(Sum([[4.0, 3, 2, 1], [0, 0, 0, 0]]), ones(4), "body", areas=(1, 2, 3, 4), level=fraction)
    assert found.smallest_area[0] == smallest


def test_level_top1_is_judged_on_logits() -> None:
    model = Sum([[3.5, 1.0, 0.0, 5.0], [4.0, 3.0, 2.0, 0.0], [0.0, 2.9, 0.0, 0.0]])
    found = ca.per_image(model, ones(4), "body", areas=(1, 2), targets=[1], level="top1", reward="log_probability")
    assert found.top1[0].tolist() == [True, True]
    assert found.smallest_area[0] == 1


@pytest.mark.parametrize("level", ["first", 1.5, -0.1])
def test_other_levels_are_refused(level: object) -> None:
    with pytest.raises(ca.InputError, match="expected 'original', 'top1' or a fraction from 0 to 1"):
        ca.per_image(seeded(Plain), images(1), "mix", areas=(2,), level=level)  # type: ignore[arg-type]


def test_reached_has_a_tolerance_of_a_hundred_thousandth() -> None:
    near, far = 1e-5 * 0.9 * 1000, 1e-5 * 1.5 * 1000
    for miss, expected in ((near, 1), (far, 2)):
        found = ca.per_image(Sum([[1000.0, miss], [0, 0]]), ones(2), "body", areas=(1, 2))
        assert found.smallest_area[0] == expected


def test_smallest_area_is_refined_between_grid_areas() -> None:
    model = Sum([[1.0] * 5 + [-0.2] * 15, [0.0] * 20])  # original 2: two of the five suffice
    coarse = ca.per_image(model, ones(20), "body", areas=(1, 16), refine=False)
    fine = ca.per_image(model, ones(20), "body", areas=(1, 16))
    assert coarse.smallest_area[0] == 16
    assert fine.smallest_area[0] == 2
    assert fine.smallest_mask.sum() == 2
    assert fine.smallest_score[0] == 2
    assert coarse.refine_evaluations[0] == 0
    assert 0 < fine.refine_evaluations[0] <= 10 * 4  # four halvings of 1..16, at most 10 evaluations each


def test_every_channel_is_the_implicit_upper_end() -> None:
    model = Sum([[1.0] * 8, [0.0] * 8])
    found = ca.per_image(model, ones(8), "body", areas=(1, 2))
    assert (found.smallest_area[0], found.smallest_score[0]) == (8, 8)
    coarse = ca.per_image(model, ones(8), "body", areas=(1, 2), refine=False)
    assert coarse.smallest_area[0] == -1
    assert not coarse.smallest_mask.any()
    assert np.isnan(coarse.smallest_score[0])
    assert coarse.channels(0).tolist() == []


def test_smallest_only_asks_for_a_star_alone() -> None:
    model = Sum([[1.0] * 5 + [-0.2] * 15, [0.0] * 20])
    found = ca.per_image(model, ones(20), "body", areas="smallest")
    assert found.masks.shape == (1, 0, 20)
    assert found.scores.shape == (1, 0)
    assert (found.smallest_area[0], found.smallest_score[0]) == (2, 2)


def test_the_empty_set_may_reach() -> None:
    found = ca.per_image(Sum([[-1.0, -1], [-2.0, -2]]), ones(2), "body", areas=(1, 2), targets=[0])
    assert found.smallest_area[0] == 0
    assert not found.smallest_mask.any()
    assert found.smallest_score[0] == 0


def test_ties_go_to_the_lower_channel_number() -> None:
    found = ca.per_image(Sum([[1.0] * 6, [0.0] * 6]), ones(6), "body", areas=(2, 4))
    assert found.masks[0].astype(int).tolist() == [[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]]


def test_targets_none_is_the_predicted_class() -> None:
    model, x = seeded(Plain), images(3)
    found = ca.per_image(model, x, "mix", areas=(2,))
    assert found.targets.tolist() == model(x).argmax(1).tolist() == found.predictions.tolist()


@pytest.mark.parametrize(("targets", "message"), [
    ([0, 1, 4], "target 4 for a model with 4 classes; expected 0 to 3"),
    ([0, -1, 1], "target -1 for a model with 4 classes"),
    ([0, 1], r"targets have shape \(2,\).*expected 3 whole numbers"),
    ([0.5, 1.0, 2.0], "expected 3 whole numbers"),
])
def test_targets_out_of_range_are_refused(targets: list[float], message: str) -> None:
    with pytest.raises(ca.InputError, match=message):
        ca.per_image(seeded(Plain), images(3), "mix", areas=(2,), targets=torch.tensor(targets))


def test_keys_are_row_numbers_and_duplicates_are_refused() -> None:
    assert ca.per_image(seeded(Plain), images(3), "mix", areas=(2,)).keys == ("0", "1", "2")
    with pytest.raises(ca.InputError, match="twice"):
        ca.per_image(seeded(Plain), images(3), "mix", areas=(2,), keys=["a", "b", "a"])


def test_an_evaluation_is_a_forward_and_a_backward() -> None:
    wide = seeded(lambda: Plain(channels=20))
    found = ca.per_image(wide, images(2), "mix", areas=(5, 9, 20))
    assert found.evaluations.tolist() == [2 * 40.0] * 2  # the full area is known
    counted = ca.per_image(seeded(Plain), images(2), "mix", areas=AREAS)
    assert counted.evaluations.tolist() == pytest.approx([(6 + 15 + 15) / 3] * 2)  # all sets of 1, 2 and 4 of 6 channels, forwards only
    paper = ca.per_image(seeded(Plain), images(2), "mix", areas=(2,), search=ca.PenaltySearch(steps=7))
    assert paper.evaluations.tolist() == pytest.approx([7 + 1 / 3] * 2)
    dual = ca.per_image(wide, images(2), "mix", areas=(5, 9, 20), game="dual")
    assert dual.evaluations.tolist() == [2 * 2 * 40.0] * 2


@pytest.mark.parametrize("fill", ["zero", "mean", "spatial_mean", 0.7, list(np.linspace(-1, 1, 6))])
def test_fill_is_what_a_dropped_channel_becomes(fill: str | float | list[float]) -> None:
    model, x = seeded(Plain), images(3)
    found = ca.per_image(model, x, "mix", areas=(2,), fill=fill)
    with ca.capture(model, ["mix"]) as seen, torch.no_grad():
        model(x)
    mean = seen["mix"].mean((0, 2, 3))
    values = {"zero": torch.zeros(3, 6), "mean": mean.expand(3, 6), "spatial_mean": seen["mix"].mean((2, 3))}
    rows = values[fill] if isinstance(fill, str) else torch.as_tensor(fill, dtype=torch.float32).expand(3, 6)
    for row in range(3):
        with ca.inject(model, "mix", found.masks[row, 0], fill=rows[row]), torch.no_grad():
            assert float(model(x[row:row + 1])[0, found.targets[row]]) == pytest.approx(float(found.scores[row, 0]), rel=1e-5)
    if fill == "spatial_mean":
        assert np.isnan(found.fill_values).all()
    else:
        np.testing.assert_allclose(found.fill_values, rows[0], rtol=1e-5, atol=1e-6)


def test_the_mean_fill_is_over_all_images_and_never_a_batch() -> None:
    model, x = seeded(Plain), images(20)  # two shards
    found = ca.per_image(model, x, "mix", areas=(2,), fill="mean")
    with ca.capture(model, ["mix"]) as seen, torch.no_grad():
        model(x)
    np.testing.assert_allclose(found.fill_values, seen["mix"].mean((0, 2, 3)), rtol=1e-5, atol=1e-6)


def test_a_mask_covers_all_positions_and_class_tokens() -> None:
    model, x = seeded(Tokens), images(1)
    found = ca.per_image(model, x, "block", areas=(3,))
    with ca.inject(model, "block", found.masks[0, 0]), ca.capture(model, ["block"]) as seen:
        model(x)
    assert seen["block"][0, :, ~found.masks[0, 0]].abs().max() == 0


def test_energy_is_the_root_mean_square_over_kept_channels() -> None:
    model, x = seeded(Plain), images(2)
    found = ca.per_image(model, x, "mix", areas=(2, 6), level=0.5)
    with ca.capture(model, ["mix"]) as seen, torch.no_grad():
        model(x)
    for mask, energy in ((found.smallest_mask, found.energy), (found.masks[:, 0], found.energy_by_area[:, 0])):
        kept = seen["mix"] * torch.from_numpy(mask)[:, :, None, None]
        np.testing.assert_allclose(energy, kept.square().mean(1).sqrt(), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("reward", ["logit", "contrastive", "log_probability"])
def test_rewards_by_name(reward: str) -> None:
    model, x = seeded(Plain), images(2)
    found = ca.per_image(model, x, "mix", areas=(3,), reward=reward)
    for row in range(2):
        with ca.inject(model, "mix", found.masks[row, 0]), torch.no_grad():
            logits = model(x[row:row + 1])[0].numpy().astype(float)
        target = int(found.targets[row])
        others = np.delete(logits, target)
        expected = {"logit": logits[target], "contrastive": logits[target] - others.max(),
                    "log_probability": logits[target] - np.log(np.exp(logits).sum())}[reward]
        assert found.scores[row, 0] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_reward_may_be_a_callable_and_is_named_in_the_settings() -> None:
    found = ca.per_image(seeded(Plain), images(2), "mix", areas=(3,), reward=halved_logit)
    plain = ca.per_image(seeded(Plain), images(2), "mix", areas=(3,))
    assert found.settings.reward == f"{__name__}:halved_logit"
    np.testing.assert_allclose(found.scores, plain.scores / 2, rtol=1e-5)
    with pytest.raises(ca.InputError, match="expected one of logit, contrastive, log_probability, or a callable"):
        ca.per_image(seeded(Plain), images(2), "mix", areas=(3,), reward="logits")


def halved_logit(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.gather(1, targets[:, None])[:, 0] / 2


def test_contrastive_needs_two_classes() -> None:
    with pytest.raises(ca.InputError, match="'contrastive' on a model with 1 class"):
        ca.per_image(Sum([[1.0, 2.0]]), ones(2), "body", areas=(1,), reward="contrastive")


def test_the_resolved_search_is_stored() -> None:
    found = ca.per_image(seeded(lambda: Plain(channels=20)), images(1), "mix", areas=(5,), search=ca.ExactSearch(binary_steps=5))
    assert found.settings.search.binary_steps == 5
    assert None not in found.settings.as_dict()["search"].values()
    assert found.evaluations[0] == found.settings.search.relaxed_steps + 5


@pytest.mark.parametrize("split", [1, 3, 64])
def test_same_numbers_again_whatever_the_batch(split: int) -> None:
    model, x = seeded(Plain), images(5)
    whole = ca.per_image(model, x, "mix", areas=AREAS)
    again = ca.per_image(model, x, "mix", areas=AREAS, batch_size=split)
    assert (whole.masks == again.masks).mean() >= 0.98
    np.testing.assert_allclose(again.scores, whole.scores, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("engine", ["tail", "replay", "injection"])
def test_same_numbers_again_whatever_the_order_and_the_neighbours(engine: str) -> None:
    model, x, order = seeded(Plain), images(5), [3, 0, 4, 2, 1]
    whole = ca.per_image(model, x, "mix", areas=AREAS, engine=engine)
    moved = ca.per_image(model, x[order], "mix", areas=AREAS, engine=engine)
    alone = [ca.per_image(model, x[row:row + 1], "mix", areas=AREAS, engine=engine) for row in range(5)]
    for row in range(5):
        for again, place in ((moved, order.index(row)), (alone[row], 0)):
            assert (again.masks[place] == whole.masks[row]).mean() >= 0.98
            same = (again.masks[place] == whole.masks[row]).all(1)
            np.testing.assert_allclose(again.scores[place][same], whole.scores[row][same], rtol=1e-5, atol=1e-6)  # of a given mask
            np.testing.assert_allclose(again.original[place], whole.original[row], rtol=1e-5)
            assert same.mean() >= 0.5


def test_the_same_call_is_bit_equal() -> None:
    model, x = seeded(Plain), images(5)
    assert equal(ca.per_image(model, x, "mix", areas=AREAS), ca.per_image(model, x, "mix", areas=AREAS))


@pytest.mark.parametrize("game", ["preserve", "delete", "dual"])
def test_tail_and_injection_agree(game: str) -> None:
    model, x = seeded(Plain), images(3)
    fast, slow = (ca.per_image(model, x, "mix", areas=AREAS, game=game, engine=engine) for engine in ("tail", "injection"))
    assert (fast.engine, slow.engine) == ("tail (export)", "injection")
    assert (fast.masks == slow.masks).mean() >= 0.98
    np.testing.assert_allclose(fast.original, slow.original, rtol=1e-5)
    np.testing.assert_allclose(fast.scores, slow.scores, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("where", ["images", "activations"])
def test_scores_that_are_not_finite_are_refused(where: str) -> None:
    model, x = seeded(Plain), images(3)
    if where == "images":
        x[1] = torch.nan
    else:
        model.mix.bias.data[2] = torch.inf
    with pytest.raises(ca.ModelError, match=r"not finite \(NaN or infinite\), first '(1|0)'"):
        ca.per_image(model, x, "mix", areas=(2,), keys=["0", "1", "2"])


@pytest.mark.parametrize("given", [torch.zeros(0, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8), [1, 2]])
def test_what_is_no_batch_of_images_is_refused(given: object) -> None:
    with pytest.raises((ca.InputError, TypeError), match=r"expected a floating tensor \[N, ...\]|Tensor|type"):
        ca.per_image(seeded(Plain), given, "mix")  # type: ignore[arg-type]
