"""What all classes have in common: their function's numbers, two processes, checkpoints."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.multiprocessing as mp
from torchmetrics import MetricCollection

from lit_sdpo import functional as F
from lit_sdpo.metrics import (
    AverageMinAccuracy,
    ItemAccuracy,
    LearningCurveArea,
    MinAccuracy,
    PassAtK,
    RepetitionShare,
    RetentionMatrix,
    SequenceKL,
    StabilityGap,
    TransitionShares,
    WindowedForgetting,
    WindowedPlasticity,
    WorstCaseAccuracy,
)


def generator():
    return torch.Generator().manual_seed(0)


def log_softmax(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)[..., 0]


SCORES = (torch.rand(12, generator=generator()) < 0.5).float()
INDEX, SAMPLE = torch.arange(12) // 4, torch.arange(12) % 4
BEFORE, AFTER = torch.rand(2, 12, generator=generator())
IDS = torch.randint(3, (6, 9), generator=generator())
LENGTHS = torch.tensor([9, 0, 1, 5, 9, 3])
P, Q = log_softmax(6, 9, 5, seed=1), log_softmax(6, 9, 5, seed=2)
MASK = torch.arange(9) < LENGTHS[:, None]
CORRECT = SCORES.view(3, 4).sum(1)

STAGES, STEPS = [0, 1, 1, 2, 2, 3], [0, 5, 10, 15, 20, 30]
#: Four prompts of each of three tasks at six evaluations; their order of arrival is of no matter.
CURVES = torch.rand(3, 6, 4, generator=generator(), dtype=torch.float64)
EVALUATED = [
    (STAGES[e], STEPS[e], task, CURVES[task, e, part])
    for e in (3, 0, 5, 4, 2, 1)
    for task in range(3)
    for part in (slice(0, 1), slice(1, 4))
]
MEANS, WHEN = CURVES.mean(-1), (torch.tensor(STAGES), torch.tensor(STEPS))
OVER_TIME = {
    "minimum": (lambda: MinAccuracy(3), F.min_accuracy(MEANS, WHEN[0])),
    "average minimum": (lambda: AverageMinAccuracy(3), F.average_min_accuracy(MEANS, WHEN[0])),
    "worst case": (lambda: WorstCaseAccuracy(3, "min"), F.worst_case_accuracy(MEANS, WHEN[0], "min")),
    "gap": (lambda: StabilityGap(3), F.stability_gap(MEANS, WHEN[0])),
    "area": (lambda: LearningCurveArea(3), F.learning_curve_area(MEANS, *WHEN)),
    "window's loss": (lambda: WindowedForgetting(3, window=2), F.windowed_forgetting(MEANS, 2)),
    "window's gain": (lambda: WindowedPlasticity(3, window=3), F.windowed_plasticity(MEANS, 3)),
}

# A class, what two ranks see of it, and its value over both.
CASES = {
    "accuracy": (
        ItemAccuracy,
        [(INDEX[:5], SAMPLE[:5], SCORES[:5]), (INDEX[4:], SAMPLE[4:], SCORES[4:])],
        SCORES.view(3, 4).mean(),
    ),
    "pass": (
        lambda: PassAtK(k=2),
        [(INDEX[:7], SAMPLE[:7], SCORES[:7]), (INDEX[6:], SAMPLE[6:], SCORES[6:])],
        F.pass_at_k(CORRECT, torch.full((3,), 4), 2).mean(),
    ),
    "matrix": (
        lambda: RetentionMatrix(2),
        [(1, INDEX[:6] // 2, BEFORE[:6]), (1, INDEX[6:] // 2, BEFORE[6:])],
        torch.tensor([[math.nan] * 2, [BEFORE[:8].mean(), BEFORE[8:].mean()], [math.nan] * 2]).double(),
    ),
    "transitions": (
        lambda: TransitionShares(choices=4),
        [(BEFORE[:3], AFTER[:3]), (BEFORE[3:], AFTER[3:])],
        F.transitions(BEFORE.double(), AFTER.double(), 4),
    ),
    "repetition": (
        lambda: RepetitionShare(order=2),
        [(IDS[:2], LENGTHS[:2]), (IDS[2:], LENGTHS[2:])],
        torch.tensor(
            [F.repetition_share(row[:n], 2) for row, n in zip(IDS.tolist(), LENGTHS.tolist(), strict=True)]
        ).mean(),
    ),
    "k1": (
        SequenceKL,
        [(P[:1], Q[:1], MASK[:1]), (P[1:], Q[1:], MASK[1:])],
        torch.where(MASK, P - Q, 0).sum(1).mean(),
    ),
    "k3": (
        lambda: SequenceKL(kind="k3"),
        [(P[:1], Q[:1], MASK[:1]), (P[1:], Q[1:], MASK[1:])],
        torch.where(MASK, (Q - P).exp() - (Q - P) - 1, 0).sum(1).mean(),
    ),
}


def same(actual, expected):
    torch.testing.assert_close(actual, expected, equal_nan=True, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_updates_add_up_to_the_functions_number(name):
    make, shares, expected = CASES[name]
    metric = make()
    for share in shares:
        metric.update(*share)
    same(metric.compute(), expected)
    metric.reset()
    warnings.simplefilter("ignore")  # torchmetrics: computed before it was updated
    value = metric.compute()
    numbers = value.values() if isinstance(value, dict) else [value]
    assert all(x.isnan().all() for x in numbers)


@pytest.mark.parametrize("name", CASES)
def test_the_state_survives_a_checkpoint(name, tmp_path):
    make, shares, expected = CASES[name]
    holder = torch.nn.ModuleDict({"metric": make()})
    holder["metric"].update(*shares[0])
    torch.save(holder.state_dict(), tmp_path / "state.pt")
    again = torch.nn.ModuleDict({"metric": make()})
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    again["metric"].update(*shares[1])
    same(again["metric"].compute(), expected)


@pytest.mark.parametrize("name", ["matrix", "transitions", "k1"])
def test_half_precision_modules_keep_exact_sums(name):
    make, shares, expected = CASES[name]
    metric = torch.nn.ModuleDict({"metric": make()}).half()["metric"]
    for share in shares:
        metric.update(*share)
    same(metric.compute(), expected)


def _rank(rank, address):
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    warnings.simplefilter("ignore")  # torchmetrics: computed before it was updated, where a rank has nothing
    for make, shares, expected in CASES.values():
        metric, alone = make(), make()
        metric.update(*shares[rank])
        same(metric.compute(), expected)
        if rank == 1:
            for share in shares:
                alone.update(*share)
        same(alone.compute(), expected)
    for make, expected in OVER_TIME.values():
        metric, alone = make(), make()
        for scores in EVALUATED[rank::2]:
            metric.update(*scores)
        torch.testing.assert_close(metric.compute(), expected)
        for scores in EVALUATED if rank == 1 else ():
            alone.update(*scores)
        torch.testing.assert_close(alone.compute(), expected)
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_give_the_numbers_of_one(tmp_path):
    context = mp.get_context("fork")
    processes = [context.Process(target=_rank, args=(r, f"file://{tmp_path}/store")) for r in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


@pytest.mark.parametrize("name", OVER_TIME)
def test_measures_of_curves_are_their_functions_through_a_checkpoint_and_half_precision(name):
    make, expected = OVER_TIME[name]
    first = torch.nn.ModuleDict({"metric": make()}).half()
    for scores in EVALUATED[:11]:
        first["metric"].update(*scores)
    again = torch.nn.ModuleDict({"metric": make()})
    again.load_state_dict(first.state_dict())
    for scores in EVALUATED[11:]:
        again["metric"].update(*scores)
    torch.testing.assert_close(again["metric"].compute(), expected, rtol=1e-12, atol=0)


def test_measures_of_curves_in_a_collection_and_without_scores():
    collection = MetricCollection({name: make() for name, (make, _) in OVER_TIME.items() if "worst" not in name})
    warnings.simplefilter("ignore")  # torchmetrics: computed before it was updated
    nothing = collection.compute()
    assert all(value.isnan().all() for name, value in nothing.items() if "window" not in name)
    for stage, step, task, scores in EVALUATED:
        collection.update(stage, step, torch.full((len(scores),), task), scores)
    collection.update(1, 10, 0, torch.tensor([math.nan]))
    for name, value in collection.compute().items():
        torch.testing.assert_close(value, OVER_TIME[name][1])


@pytest.mark.parametrize("when", [(3, 0, 0), (-1, 0, 0), (0, 0, 2), (0, 0, -1)])
def test_an_evaluation_of_a_stage_or_task_that_there_is_not(when):
    with pytest.raises(IndexError, match="among 2"):
        MinAccuracy(2).update(*when, torch.ones(1))


def test_what_stands_at_masked_places_does_not_matter():
    metric = SequenceKL()
    metric.update(torch.where(MASK, P, math.nan), torch.where(MASK, Q, -math.inf), MASK)
    same(metric.compute(), CASES["k1"][2])


@pytest.mark.parametrize("update", [(4, 0), (-1, 0), (0, 3), (0, -1)])
def test_a_cell_that_the_matrix_does_not_have(update):
    with pytest.raises(IndexError, match="among 3"):
        RetentionMatrix(3).update(*update, torch.ones(1))


def test_abstentions_leave_a_cell_undefined():
    matrix = RetentionMatrix(1)
    matrix.update(0, 0, torch.tensor([math.nan, 1.0, 0.0]))
    matrix.update(1, 0, torch.tensor([math.nan]))
    same(matrix.compute(), torch.tensor([[0.5], [math.nan]]).double())


def test_arguments_that_cannot_be():
    for make, text in [
        (lambda: PassAtK(0), "k has to be"),
        (lambda: TransitionShares(choices=1), "choices"),
        (lambda: RepetitionShare(0), "order"),
        (lambda: MinAccuracy(0), "tasks"),
        (lambda: WindowedForgetting(2, 0), "window"),
        (lambda: SequenceKL("k2"), "kind"),
        (lambda: TransitionShares().update(torch.ones(2), torch.ones(3)), "same items"),
    ]:
        with pytest.raises(ValueError, match=text):
            make()
    metric = PassAtK(3)
    metric.update(torch.zeros(2, dtype=torch.long), torch.arange(2), torch.ones(2))
    with pytest.raises(ValueError, match="pass@3"):
        metric.compute()


def test_scores_of_samples():
    metric = ItemAccuracy()
    metric.update(torch.tensor([3, 1, 3, 1]), torch.tensor([1, 0, 0, 1]), torch.tensor([0.25, 1.0, 0.5, math.nan]))
    assert metric.sample_scores() == {1: [1.0], 3: [0.5, 0.25]}
    assert metric.item_scores() == {1: 1.0, 3: 0.375}
