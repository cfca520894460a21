from __future__ import annotations

import pytest

from lit_sdpo.data.stream import EvaluationLoader, PromptStream, WindowLoader
from lit_sdpo.data.task import Stage
from tests.training import Toy


def loader(index=0, steps=6, prompts=5, size=12, **options):
    return WindowLoader(Stage(task=Toy(size=size), steps=steps, prompts_per_step=prompts), index, **options)


def ids(batch):
    return [row.id for row in batch.rows]


def seen(batches):
    return [(b.step, b.slot, b.update, list(b.positions), ids(b)) for b in batches]


@pytest.mark.parametrize("stage", [0, 1])
def test_each_pass_is_a_new_permutation(stage):
    stream = PromptStream(list(range(7)), seed=(1, stage))
    passes = [[stream[7 * k + i] for i in range(7)] for k in range(4)]
    assert all(sorted(order) == list(range(7)) for order in passes)
    assert len({tuple(order) for order in passes}) == 4


def test_order_depends_on_seed_and_stage():
    orders = {tuple(PromptStream(list(range(9)), seed=s)[i] for i in range(9)) for s in [(0, 0), (0, 1), (1, 0)]}
    assert len(orders) == 3


def test_places_may_be_asked_for_in_any_order():
    stream = PromptStream(list(range(5)), seed=(0,))
    forward = [stream[i] for i in range(20)]
    assert [stream[i] for i in reversed(range(20))] == forward[::-1]


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_each_window_is_handed_out_once_per_slot(slots):
    batches = list(loader(slots=slots))
    assert len(batches) == len(loader(slots=slots)) == 6 * slots
    assert [(b.step, b.slot) for b in batches] == [(step, slot) for step in range(6) for slot in range(slots)]
    assert all(b.slots == slots and b.update == 0 for b in batches)
    windows = [ids(b) for b in batches]
    assert windows == [window for window in windows[::slots] for _ in range(slots)]
    assert windows[::slots] == [ids(b) for b in loader()]


def test_prompts_of_a_stage_are_the_stream_cut_into_windows():
    order = [row for batch in loader(steps=12) for row in ids(batch)]
    for k in range(5):
        assert sorted(order[12 * k : 12 * (k + 1)]) == sorted(row.id for row in Toy().rows("train"))


def test_two_updates_replay_the_window():
    batches = list(loader(updates_per_rollout=2, slots=2))
    assert [(b.step, b.slot, b.update) for b in batches[:8]] == [
        (step, slot, step % 2) for step in range(4) for slot in range(2)
    ]
    assert ids(batches[0]) == ids(batches[3]) != ids(batches[4])
    assert [ids(b) for b in batches[::4]] == [ids(b) for b in loader(steps=3)]


@pytest.mark.parametrize("after", [0, 1, 4, 5, 11, 12])
def test_a_restored_loader_goes_on_exactly(after):
    whole = seen(loader(slots=2))
    first = loader(slots=2)
    iterator = iter(first)
    begun = seen(next(iterator) for _ in range(after))
    second = loader(slots=2)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert begun + seen(second) == whole
    assert seen(second) == whole  # the pass after it is a whole one


def test_a_second_iterator_starts_at_the_beginning():
    stage = loader()
    next(iter(stage))
    assert seen(stage) == seen(loader())


@pytest.mark.parametrize(("prompts", "world_size"), [(5, 2), (6, 3), (4, 4)])
def test_ranks_share_the_prompts_of_a_step(prompts, world_size):
    whole = list(loader(prompts=prompts))
    parts = [list(loader(prompts=prompts, rank=r, world_size=world_size)) for r in range(world_size)]
    for step, batch in enumerate(whole):
        assert [row for part in parts for row in ids(part[step])] == ids(batch)
        assert [p for part in parts for p in part[step].positions] == list(range(prompts))
        assert all(len(part[step]) for part in parts)


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_every_evaluation_prompt_goes_to_one_rank(world_size):
    rows = Toy(size=8).rows("validation")
    loaders = [
        EvaluationLoader(Toy(), rows, num_generations=2, batch_size=3, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    batches = [batch for each in loaders for batch in each]
    assert sum(map(len, loaders)) == len(batches)
    assert all(b.num_generations == 2 and len(b) <= 3 for b in batches)
    found = {p: row.id for b in batches for p, row in zip(b.positions, b.rows, strict=True)}
    assert found == {i: row.id for i, row in enumerate(rows)}
    assert sum(map(len, batches)) == 8


def test_a_batch_stays_where_it_is():
    batch = next(iter(loader()))
    assert batch.to("cpu") is batch


@pytest.mark.parametrize("updates", [1, 2])
def test_the_following_window_is_the_one_that_comes_next(updates):
    batches = list(loader(steps=4, slots=2, updates_per_rollout=updates))
    for batch in batches:
        coming = batch.following()
        later = [b for b in batches if b.step == batch.step + 1 and b.slot == b.update == 0]
        assert (coming is None) == (later == [])
        if coming is not None:
            assert seen([coming]) == seen(later)
    assert [batch.step for batch in batches[::2] if batch.following()] == {1: [0, 1, 2], 2: [1]}[updates]
