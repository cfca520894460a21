from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.multiprocessing as mp

from lit_sdpo.metrics.items import ItemAccuracy


def update(metric, rows):
    index, sample, score = zip(*rows, strict=True)
    metric.update(torch.tensor(index), torch.tensor(sample), torch.tensor(score))


def test_items_weigh_the_same_however_many_samples_they_have():
    metric = ItemAccuracy()
    update(metric, [(7, 0, 1.0), (7, 1, 0.0), (7, 2, 0.0), (7, 3, 0.0), (2, 0, 1.0)])
    assert metric.compute().item() == pytest.approx((0.25 + 1) / 2)
    assert metric.item_scores() == {2: 1.0, 7: 0.25}


def test_repetitions_count_once_and_the_first_is_kept():
    metric = ItemAccuracy()
    update(metric, [(0, 0, 1.0), (1, 0, 0.0), (0, 0, 0.0)])
    update(metric, [(1, 0, 1.0)])
    assert metric.item_scores() == {0: 1.0, 1: 0.0}


def test_seven_items_on_two_even_ranks_are_one_in_seven():
    """A sampler gives 7 items to 2 ranks as 8; the naive mean is 0.25 if the repeated one is the hit."""
    rows = [(i, 0, float(i == 0)) for i in [0, 2, 4, 6, 1, 3, 5, 0]]
    metric = ItemAccuracy()
    update(metric, rows)
    assert metric.compute().item() == pytest.approx(1 / 7)


def test_abstentions_are_not_scores():
    metric = ItemAccuracy()
    update(metric, [(0, 0, math.nan), (0, 1, 1.0), (1, 0, math.nan), (2, 0, 0.0)])
    assert metric.item_scores() == {0: 1.0, 2: 0.0}
    assert metric.compute().item() == pytest.approx(0.5)


def test_no_score_is_nan():
    metric = ItemAccuracy()
    metric.update(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long), torch.empty(0))
    assert math.isnan(metric.compute())
    assert metric.item_scores() == {}


def test_reset_forgets():
    metric = ItemAccuracy()
    update(metric, [(0, 0, 1.0)])
    metric.reset()
    update(metric, [(1, 0, 0.0)])
    assert metric.item_scores() == {1: 0.0}


def test_unequal_lengths_are_an_error():
    with pytest.raises(ValueError, match=r"must be \[B\], got \[\[2\], \[2\], \[1\]\]"):
        ItemAccuracy().update(torch.zeros(2), torch.zeros(2), torch.zeros(1))


def _rank(rank, address, results):
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    uneven, empty = ItemAccuracy(), ItemAccuracy()
    shares = [[(0, 0, 1.0), (1, 0, 0.0), (2**40, 0, 1.0)], [(1, 0, 0.0), (1, 1, 1.0)]]
    update(uneven, shares[rank])
    if rank == 0:
        update(empty, shares[0])
    warnings.simplefilter("ignore")  # torchmetrics: computed before it was updated, which is the case here
    before = len(uneven.index)
    results[rank] = [uneven.compute().item(), uneven.item_scores(), empty.compute().item(), empty.item_scores()]
    assert len(uneven.index) == before
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_give_the_numbers_of_one(tmp_path):
    context = mp.get_context("fork")
    results = context.Manager().dict()
    processes = [context.Process(target=_rank, args=(r, f"file://{tmp_path}/store", results)) for r in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    uneven = {0: 1.0, 1: 0.5, 2**40: 1.0}
    empty = {0: 1.0, 1: 0.0, 2**40: 1.0}
    for rank in (0, 1):
        assert results[rank] == [pytest.approx(2.5 / 3), uneven, pytest.approx(2 / 3), empty]
