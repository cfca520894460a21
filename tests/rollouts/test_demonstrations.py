from __future__ import annotations

import pytest
import torch

from lit_sdpo.rollouts.demonstrations import (
    allowed_demonstrations,
    choose_demonstrations,
    strip_thinking,
    uses_feedback,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><think>b</think>\n\nc", "c"),
        ("rest of it</think>\n\nThe answer </think> 4", "4"),
        ("opened in the prompt</think> 1 <think>again</think> 2", "1 2"),
        ("<think>never closed", "<think>never closed"),
        ("<think>a<think>b</think>c</think> d", "d"),
        ("a <thinking> b", "a <thinking> b"),
    ],
)
def test_strip_thinking(text, expected):
    assert strip_thinking(text) == expected
    assert strip_thinking(expected) == expected


def test_what_counts_as_thinking_can_be_said():
    pattern = r"^.*?(?=\\boxed|<answer>)"
    assert strip_thinking("3-3=0,\n0+1=1. \\boxed{1} <answer>1</answer>", pattern) == "\\boxed{1} <answer>1</answer>"
    assert strip_thinking("no answer", pattern) == "no answer"


def test_demonstrations_are_verified_finished_siblings_that_say_something_else():
    rewards = torch.tensor([1.0, 0.0, 1.0, torch.nan, 1.0, 1.0])
    groups = torch.tensor([5, 2, 5, 5, 2, 5])
    truncated = torch.tensor([False, False, False, False, False, True])
    assert allowed_demonstrations(rewards, groups, truncated=truncated) == [[2], [4], [0], [0, 2], [], [0, 2]]
    texts = ["same", "b", "same", "d", "e", "f"]
    assert allowed_demonstrations(rewards, groups, truncated=truncated, texts=texts)[0] == []
    everything = allowed_demonstrations(rewards, groups, truncated=truncated, allow_truncated=True, allow_own=True)
    assert everything[0] == [0, 2, 5]


def test_the_threshold_is_compared_in_the_dtype_of_the_rewards():
    rewards = torch.tensor([0.7, 0.0])
    assert allowed_demonstrations(rewards, torch.zeros(2), success_threshold=0.7) == [[], [0]]
    assert allowed_demonstrations(rewards, torch.zeros(2), success_threshold=0.71) == [[], []]


def test_random_choice_depends_on_the_texts_alone():
    texts = [f"answer {i}" for i in range(12)]
    allowed = allowed_demonstrations(torch.ones(12), torch.zeros(12), texts=texts)
    chosen = choose_demonstrations(allowed, "random", texts)
    assert len(set(chosen)) > 3
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [texts[i] for i in order]
    again = choose_demonstrations(allowed, "random", shuffled)
    assert {shuffled[n]: shuffled[c] for n, c in enumerate(again)} == {texts[n]: texts[c] for n, c in enumerate(chosen)}
    assert choose_demonstrations([[], [0]], "random", texts) == [None, 0]
    assert choose_demonstrations([[], [3, 4]]) == [None, 3]


def test_feedback_of_white_space_is_none():
    feedback = ["wrong", " \n", None, "wrong"]
    assert uses_feedback(feedback, [False, False, False, True]) == [True, False, False, False]
    both = uses_feedback(feedback, [False, False, False, True], only_without_demonstration=False)
    assert both == [True, False, False, True]
