from __future__ import annotations

import math

import torch

from lit_sdpo.data.task import Row
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rollouts.types import Completions, LossBatch, Rollouts, TermTokens


def rollouts(lengths, generations=2, first=0, **options):
    """Rows with these lengths; everything about row n can be told from the number ``first + n``."""
    count = len(lengths)
    numbers = torch.arange(first, first + count)
    lengths = torch.tensor(lengths)
    width = int(lengths.max())
    inside = torch.arange(width) < lengths[:, None]
    prompts = range(first // generations, (first + count) // generations)
    return Rollouts(
        rows=[Row(id=f"p{p}", messages=[{"role": "user", "content": "?"}], ground_truth="") for p in prompts],
        prompt_ids=[[p] * (1 + p % 3) for p in prompts],
        num_generations=generations,
        completions=Completions(
            (100 * numbers[:, None] + torch.arange(width)) * inside,
            lengths,
            -(numbers[:, None] + torch.arange(width) / 100.0) * inside,
            numbers % 2 == 0,
        ),
        texts=[f"text {n}" for n in numbers.tolist()],
        verdicts=[Verdict(float(n)) for n in numbers.tolist()],
        rewards=numbers.float(),
        seeds=1000 + numbers,
        **options,
    )


def test_take_keeps_groups_whole_and_in_order():
    taken = rollouts([1, 4, 2, 3, 3, 1]).take([2, 0])
    assert [row.id for row in taken.rows] == ["p2", "p0"]
    assert taken.prompt_ids == [[2, 2, 2], [0]]
    assert taken.texts == ["text 4", "text 5", "text 0", "text 1"]
    assert [v.score for v in taken.verdicts] == taken.rewards.tolist() == [4, 5, 0, 1]
    assert taken.seeds.tolist() == [1004, 1005, 1000, 1001]
    assert taken.completions.lengths.tolist() == [3, 1, 1, 4]
    assert taken.completions.ids[0].tolist() == [400, 401, 402, 0]
    assert taken.completions.finished.tolist() == [True, False, True, False]
    assert taken.groups.tolist() == [0, 0, 1, 1]
    assert taken.replayed is None
    marked = rollouts([1, 1, 1, 1], replayed=torch.tensor([False, False, True, True]))
    assert marked.take([1]).replayed.tolist() == [True, True]
    assert len(rollouts([1, 1]).take([])) == 0


def test_scores_and_successes_are_the_verifiers_alone():
    batch = rollouts([1] * 6)
    batch.verdicts = [Verdict(s) for s in (1.0, 0.0, None, 0.5, math.inf, math.nan)]
    batch.rewards = torch.tensor([0.9, 2.0, 1.0, 1.0, 1.0, 1.0])
    torch.testing.assert_close(batch.scores, torch.tensor([1, 0, math.nan, 0.5, math.nan, math.nan]), equal_nan=True)
    assert batch.scores.dtype == torch.float32
    assert batch.successes().tolist() == [True, False, False, False, False, False]
    assert batch.successes(0.5).tolist() == [True, False, False, True, False, False]
    assert batch.take([1, 0]).successes(0.5).tolist() == [False, True, True, False]
    assert Rollouts.cat([batch, batch.take([0])]).successes().tolist() == [True, *[False] * 5, True, False]
    batch.verdicts = []
    assert batch.scores.isnan().all()
    assert not batch.successes(0.0).any()


def test_a_flat_group_has_no_two_rewards():
    batch = rollouts([1] * 10)
    batch.rewards = torch.tensor([1, 0, 1, 1, math.nan, 1, math.nan, math.nan, -1, -2])
    assert batch.flat.tolist() == [False, True, True, True, False]


def test_own_rows_are_not_replayed():
    assert rollouts([1, 1]).own.tolist() == [True, True]
    assert rollouts([1, 1, 1, 1], replayed=torch.tensor([False, False, True, True])).own.tolist() == [1, 1, 0, 0]


def test_cat_pads_to_the_longest_and_marks_what_is_replayed():
    parts = [rollouts([2, 1], temperature=0.7), rollouts([4, 3], first=2, replayed=torch.tensor([True, True]))]
    joined = Rollouts.cat(parts)
    assert len(joined) == 4
    assert joined.temperature == 0.7
    assert joined.completion_mask.sum(1).tolist() == joined.completions.lengths.tolist() == [2, 1, 4, 3]
    assert joined.completions.ids.tolist() == [[0, 1, 0, 0], [100, 0, 0, 0], [200, 201, 202, 203], [300, 301, 302, 0]]
    assert joined.completions.logprobs.shape == (4, 4)
    assert joined.completions.logprobs[0, 2:].tolist() == [0, 0]
    assert joined.seeds.tolist() == [1000, 1001, 1002, 1003]
    assert joined.replayed.tolist() == [False, False, True, True]
    assert [row.id for row in joined.rows] == ["p0", "p1"]
    assert joined.prompt_ids == [[0], [1, 1]]


def test_cat_undoes_take():
    whole = rollouts([1, 4, 2, 3, 3, 1])
    joined = Rollouts.cat([whole.take([0]), whole.take([1, 2])])
    assert torch.equal(joined.completions.ids, whole.completions.ids)
    assert joined.texts == whole.texts
    assert joined.rows == whole.rows


def batch(lengths, contributes):
    made = LossBatch.of(rollouts(lengths), teacher_prompt_ids=[[n] if n % 2 else None for n in range(len(lengths))])
    for number, name in enumerate(["one", "other"]):
        made.parts[name] = TermTokens(
            active=made.completion_mask,
            contributes=torch.tensor([number in c for c in contributes]),
            scale=torch.arange(len(lengths)) + 0.5,
            values={"row": torch.arange(len(lengths)), "token": made.old_logprobs * 2},
            weights=made.completion_mask * (1.0 + number),
        )
    return made


LENGTHS = [3, 1, 5, 2, 4, 2, 1, 6]
CONTRIBUTES = [{0}, {1}, set(), {0, 1}, {1}, set(), {0}, {0}]


def test_select_takes_everything_along_and_cuts_to_the_longest():
    whole = batch(LENGTHS, CONTRIBUTES)
    some = whole.select([3, 0])
    assert some.completion_ids.tolist() == [[300, 301, 0], [0, 1, 2]]
    assert some.prompt_ids == [whole.prompt_ids[3], whole.prompt_ids[0]]
    assert some.teacher_prompt_ids == [[3], None]
    assert torch.equal(some.old_logprobs, whole.old_logprobs[[3, 0], :3])
    assert some.completion_mask.sum(1).tolist() == [2, 3]
    part = some.parts["other"]
    assert part.contributes.tolist() == [True, False]
    assert part.scale.tolist() == [3.5, 0.5]
    assert part.values["row"].tolist() == [3, 0]
    assert torch.equal(part.values["token"], some.old_logprobs * 2)
    assert part.active.shape == part.weights.shape == (2, 3)


def test_slices_cover_each_contributing_row_once():
    whole = batch(LENGTHS, CONTRIBUTES)
    assert whole.contributes.tolist() == [bool(c) for c in CONTRIBUTES]
    for count in range(1, 10):
        slices = whole.slices(count)
        assert len(slices) == count
        live = [s for s in slices if any(bool(part.weights.any()) for part in s.parts.values())]
        rows = [int(ids[0]) // 100 for s in live for ids in s.completion_ids]
        assert sorted(rows) == [n for n, c in enumerate(CONTRIBUTES) if c]
        tokens = [len(whole.prompt_ids[n]) + LENGTHS[n] for n in rows]
        for some in live:
            prompts = {tuple(prompt) for prompt in some.prompt_ids}
            size = int(some.completion_mask.sum()) + sum(map(len, prompts))
            assert size <= sum(tokens) / count + 2 * max(tokens)
        for silent in (s for s in slices if not any(s is other for other in live)):
            assert len(silent) == 1
            assert silent.completion_mask.any()


def test_nothing_that_contributes_gives_silent_slices():
    whole = batch(LENGTHS, [set()] * len(LENGTHS))
    for silent in whole.slices(3):
        assert len(silent) == 1
        assert not any(part.weights.any() for part in silent.parts.values())
    assert whole.parts["one"].weights.sum() == sum(LENGTHS)
    assert not LossBatch.of(rollouts([1, 2])).contributes.any()


def test_slices_hold_equal_numbers_of_tokens_and_keep_a_prompt_together():
    lengths = [40, 3, 2, 1, 12, 11, 10, 9, 20, 1, 1, 1]
    whole = LossBatch.of(rollouts(lengths, generations=4))
    whole.parts["one"] = TermTokens(active=whole.completion_mask, contributes=torch.ones(12, dtype=torch.bool))
    whole.parts["one"].weights = whole.completion_mask.float()
    sizes = [int(s.completion_mask.sum()) for s in whole.slices(3)]
    assert max(sizes) - min(sizes) <= 12  # by rows it would be 46, 42, 23
    split = [len({tuple(p) for s in whole.slices(3) for p in s.prompt_ids if len(p) == size}) for size in (1, 2, 3)]
    assert split == [1, 1, 1]
    assert sum(len({tuple(p) for p in s.prompt_ids}) for s in whole.slices(3)) <= 3 + 2
