from __future__ import annotations

import itertools
import math

import pytest
import torch

from lit_sdpo.functional import (
    all_average_by_stage,
    anytime_accuracy,
    average_accuracy,
    backward_transfer,
    base_average,
    forgetting,
    forgetting_by_stage,
    forward_transfer,
    gain_and_loss,
    intransigence,
    learning_accuracy,
    ood_change,
    relative_change,
    seen_average_by_stage,
    transitions,
    unchanged_transitions,
)

# Table D.6 of arXiv 2607.01763, columns MATH (AIME), SCIENCE, TOOLUSE, CODING; the metrics were worked out by hand.
BASE = [32.71, 50.54, 48.90, 56.39]
STAGES = {
    "grpo": """
        44.67 51.33 50.48 60.73
        54.88 56.39 52.06 60.06
        56.21 60.64 58.71 60.49
        57.29 61.85 57.72 64.68""",
    "sdpo": """
        56.42 47.36 52.06 57.58
        49.29 65.70 48.49 58.35
        41.13 70.37 37.35 56.39
        34.38 70.71  9.93 61.77""",
    "sdpo_cot": """
        38.13 49.88 48.35 52.70
        27.71 70.89 42.83 47.28
        21.04 70.71 38.60 41.94
        14.17 68.69 23.35 30.01""",
    "sdpo_fast_ema": """
        34.38 45.00 53.31 52.37
        21.25 76.37 30.15 59.33
         0.00  0.18  0.00  0.00
         0.00  0.00  0.00  0.00""",
}
PUBLISHED = {
    "grpo": {"acc": 60.39, "bwt": 5.70, "fwt": 2.68, "forgetting": -0.43, "la": 56.11},
    "sdpo": {"acc": 44.20, "bwt": -14.82, "fwt": -1.20, "forgetting": 21.28, "la": 55.31},
    "sdpo_cot": {"acc": 34.05, "bwt": -13.80, "fwt": -7.06, "forgetting": 17.05, "la": 44.41},
    "sdpo_fast_ema": {"acc": 0.00, "bwt": -36.92, "fwt": -26.89, "forgetting": 54.69, "la": 27.69},
}
# MATH-500, GPQA, BFCL, LCB, ZebraLogic, MMLU-Redux after the last stage; change in percent, macro and of means.
OOD_BASE = [73.85, 62.94, 76.25, 46.73, 81.62, 86.02]
OOD = {
    "grpo": ([79.88, 64.58, 81.25, 53.56, 89.52, 88.70], 7.46, 7.04),
    "sdpo": ([77.40, 51.83, 11.25, 51.89, 72.15, 84.20], -16.79, -18.41),
    "sdpo_cot": ([69.53, 43.24, 13.54, 24.32, 59.95, 81.62], -33.17, -31.63),
    "sdpo_fast_ema": ([0.0, 0.0, 0.0, 0.0, 0.02, 0.18], -99.96, None),
}


@pytest.mark.parametrize("method", PUBLISHED)
def test_published_table(method):
    stages = [[float(x) for x in line.split()] for line in STAGES[method].strip().splitlines()]
    R = torch.tensor([BASE, *stages], dtype=torch.float64)
    got = {
        "acc": average_accuracy(R),
        "bwt": backward_transfer(R),
        "fwt": forward_transfer(R),
        "forgetting": forgetting(R),
        "la": learning_accuracy(R),
    }
    assert {k: v.item() for k, v in got.items()} == pytest.approx(PUBLISHED[method], abs=0.006)
    assert base_average(R).item() == pytest.approx(47.14, abs=0.006)


@pytest.mark.parametrize("method", OOD)
def test_published_ood_change(method):
    last, macro, of_means = OOD[method]
    base, score = torch.tensor(OOD_BASE), torch.tensor(last)
    assert ood_change(base, score).item() == pytest.approx(macro, abs=0.006)
    if of_means is not None:
        assert ood_change(base, score, of_means=True).item() == pytest.approx(of_means, abs=0.006)
    gain, loss = gain_and_loss(base, score)
    assert torch.equal(gain - loss, relative_change(base, score))
    assert (gain * loss == 0).all()


def test_a_base_of_zero_has_no_relative_change():
    assert relative_change(torch.tensor(0.0), torch.tensor(1.0)).isnan()


def test_a_worked_example():
    R = torch.tensor([[0.5, 0.4, 0.0], [0.6, 0.1, 0.2], [0.3, 0.9, 0.4], [0.2, 0.7, 0.8]], dtype=torch.float64)
    assert forgetting(R).item() == pytest.approx((0.4 + 0.2) / 2)
    assert forgetting(R, with_base=True).item() == pytest.approx((0.4 + 0.2) / 2)
    assert forgetting_by_stage(R).tolist() == pytest.approx([0.3, 0.3])
    R[0, 0] = 0.9
    assert forgetting(R, with_base=True).item() == pytest.approx((0.7 + 0.2) / 2)
    assert forgetting(R, from_own_stage=True).item() == pytest.approx(0.3)
    assert seen_average_by_stage(R).tolist() == pytest.approx([0.6, 0.6, 1.7 / 3])
    assert anytime_accuracy(R).item() == pytest.approx((0.6 + 0.6 + 1.7 / 3) / 3)
    assert all_average_by_stage(R).tolist() == pytest.approx([1.3 / 3, 0.3, 1.6 / 3, 1.7 / 3])
    assert intransigence(R, torch.tensor([0.7, 0.9, 0.9])).item() == pytest.approx(0.2 / 3)
    with pytest.raises(ValueError, match="exclude"):
        forgetting(R, with_base=True, from_own_stage=True)


METRICS = {
    average_accuracy: {(3, 0), (3, 1), (3, 2)},
    learning_accuracy: {(1, 0), (2, 1), (3, 2)},
    base_average: {(0, 0), (0, 1), (0, 2)},
    backward_transfer: {(3, 0), (1, 0), (3, 1), (2, 1)},
    forward_transfer: {(1, 1), (0, 1), (2, 2), (0, 2)},
    forgetting: {(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (3, 1)},
}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
@pytest.mark.parametrize("cell", list(itertools.product(range(4), range(3))))
def test_a_cell_that_was_not_measured_matters_only_where_it_is_needed(metric, cell):
    R = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    before = metric(R)
    R[cell] = math.nan
    after = metric(R)
    assert after.isnan() if cell in METRICS[metric] else after == before


CHANGES = [backward_transfer, forward_transfer, forgetting, forgetting_by_stage]


@pytest.mark.parametrize("metric", CHANGES, ids=lambda metric: metric.__name__)
def test_losses_are_scores_with_the_other_sign(metric):
    R = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(metric(R, mode="min"), metric(-R))
    assert not torch.equal(metric(R, mode="min"), metric(R))
    R[2, 0] = math.nan
    torch.testing.assert_close(metric(R, mode="min"), metric(-R), equal_nan=True)


def test_a_loss_by_hand():
    R = torch.tensor([[3.0, 2.5], [1.0, 2.4], [1.6, 0.9]])
    assert forgetting(R, mode="min").item() == pytest.approx(0.6)
    assert forgetting(R, with_base=True, mode="min").item() == pytest.approx(0.6)
    assert backward_transfer(R, mode="min").item() == pytest.approx(-0.6)
    assert forward_transfer(R, mode="min").item() == pytest.approx(0.1)
    assert intransigence(R, torch.tensor([0.9, 0.8]), mode="min").item() == pytest.approx(0.1)
    with pytest.raises(ValueError, match="unknown mode"):
        forgetting(R, mode="less")


def test_c01_one_task_has_averages_only():
    R = torch.tensor([[0.2], [0.7]])
    assert average_accuracy(R) == learning_accuracy(R) == R[1, 0]
    assert all(metric(R).isnan() for metric in (backward_transfer, forward_transfer, forgetting))
    assert forgetting_by_stage(R).shape == (0,)


@pytest.mark.parametrize("shape", [(3, 3), (2, 3), (4,)])
def test_a_matrix_without_its_base_row(shape):
    with pytest.raises(ValueError, match="row 0"):
        average_accuracy(torch.zeros(shape))


@pytest.mark.parametrize("choices", [2, 4])
def test_two_random_guessers_forget_nothing_truly(choices):
    before, after = torch.rand(2, 200_000, generator=torch.Generator().manual_seed(0)) < 1 / choices
    got = transitions(before, after, choices)
    assert got["forgetting"].item() == pytest.approx((1 - 1 / choices) / choices, abs=0.005)
    for name in ("forgetting_true", "backward_transfer_true", "forgetting_max"):
        assert 0 <= got[name].item() < 0.01


def test_knowing_some_and_guessing_the_rest():
    """Half known before, 30 % after, independently; the rest guessed among 4. Truly lost: known, then guessed wrong."""
    n = 400_000
    u = torch.rand(4, n, generator=torch.Generator().manual_seed(1))
    before, after = (u[0] < 0.5) | (u[1] < 0.25), (u[2] < 0.3) | (u[3] < 0.25)
    got = transitions(before, after, choices=4)
    assert got["forgetting_true"].item() == pytest.approx(0.5 * 0.7 * 0.75, abs=0.005)
    assert got["backward_transfer_true"].item() == pytest.approx(0.5 * 0.75 * 0.3, abs=0.005)
    assert got["forgetting_max"].item() == pytest.approx(0.5, abs=0.005)


def test_shares_of_several_answers():
    before, after = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.5, 0.5, 1.0])
    got = transitions(before, after)
    assert got["forgetting"].item() == pytest.approx((0.5 + 0.25 + 0) / 3)
    assert got["backward_transfer"].item() == pytest.approx((0 + 0.25 + 1) / 3)
    assert sum(got[k] for k in ("forgetting", "backward_transfer", "kept", "never")).item() == pytest.approx(1)
    assert "chance" not in got


def test_c03_transitions_that_cannot_be():
    assert transitions(torch.zeros(2), torch.ones(2))["forgotten_share"].isnan()
    with pytest.raises(ValueError, match="same items"):
        transitions(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="choices"):
        transitions(torch.zeros(2), torch.zeros(2), choices=1)


def test_what_sampling_alone_moves_is_unbiased():
    """Items of chance 0.3 in 8 draws: the same model loses 0.3 * 0.7 of them between two single draws."""
    drawn = torch.rand(50_000, 8, generator=torch.Generator().manual_seed(0)) < 0.3
    eight = torch.full((50_000,), 8)
    assert unchanged_transitions(drawn.float().mean(1), eight).item() == pytest.approx(0.21, abs=0.002)
    assert unchanged_transitions(torch.tensor([0.5, 1.0]), torch.tensor([2, 1])) == 0.5
    assert unchanged_transitions(torch.tensor([1.0, 0.0]), torch.tensor([1, 1])).isnan()
