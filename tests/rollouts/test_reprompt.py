from __future__ import annotations

import pytest
import torch

from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rollouts.reprompt import Reprompt
from lit_sdpo.rollouts.types import Completions, Rollouts

QUESTION = "What is {2} + 2? Use \\boxed{}."


class Words:
    """A tokenizer whose tokens are words, with a chat template of one word per turn and one for the answer."""

    def encode(self, text, add_special_tokens=True):
        assert not add_special_tokens
        return text.split()

    def decode(self, ids):
        return " ".join(ids)

    def apply_chat_template(self, messages, add_generation_prompt, tokenize, return_dict, **options):
        if messages and isinstance(messages[0], list):  # several chats at once, as a real tokenizer takes them
            return [
                self.apply_chat_template(m, add_generation_prompt, tokenize, return_dict, **options) for m in messages
            ]
        words = [w for m in messages for w in (f"<{m['role']}>", *m["content"].split())]
        return words + ["<assistant>"] * (2 if options.get("enable_thinking") else 1)


def rollouts(texts, scores, *, rewards=None, finished=None, feedback=None, generations=None, messages=None):
    n, g = len(texts), generations or len(texts)
    row = {"ground_truth": "4", "messages": messages or [{"role": "user", "content": QUESTION}]}
    return Rollouts(
        rows=[Row(id=str(p), **row) for p in range(n // g)],
        prompt_ids=[[0]] * (n // g),
        num_generations=g,
        completions=Completions(
            ids=torch.zeros(n, 1, dtype=torch.long),
            lengths=torch.ones(n, dtype=torch.long),
            logprobs=torch.zeros(n, 1),
            finished=torch.tensor(finished or [True] * n),
        ),
        texts=list(texts),
        verdicts=[Verdict(s, f) for s, f in zip(scores, feedback or [""] * n, strict=True)],
        rewards=torch.tensor(scores if rewards is None else rewards, dtype=torch.float32),
        seeds=torch.arange(n),
    )


def test_messages_keep_everything_but_the_last_user_turn():
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": QUESTION, "name": "ann"},
    ]
    got = Reprompt(use_feedback=True).messages(chat, "It is {feedback} \\boxed{4} {0}.", "{solution} was wrong")
    assert got[:3] == chat[:3]
    assert got[3]["name"] == "ann"
    text = got[3]["content"]
    assert text.startswith(QUESTION)
    assert "It is {feedback} \\boxed{4} {0}." in text
    assert "{solution} was wrong" in text
    assert text.endswith("Correctly solve the original question.")
    assert chat[3]["content"] == QUESTION


@pytest.mark.parametrize("chat", [[], [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]])
def test_a_prompt_must_end_with_a_user_turn(chat):
    with pytest.raises(UserError, match="user turn"):
        Reprompt().messages(chat, "x")


@pytest.mark.parametrize(("allow_own", "shown"), [(False, [None, 0, 0]), (True, [0, 0, 0])])
def test_a_success_shows_itself_only_where_that_is_asked_for(allow_own, shown):
    found = Reprompt(allow_own=allow_own).contexts(rollouts(["4", "5", "6"], [1, 0, 0], generations=3), Words())
    assert found.demonstrations == shown


def test_contexts():
    got = Reprompt(use_feedback=True).contexts(
        rollouts(
            ["plan</think> It is 4", "It is 5", "It is 4!", "no", "nothing", "again"],
            [1, 0, 1, 0, 0, 0],
            finished=[True, True, False, True, True, True],
            feedback=["", "too large", "", "", "not a number", " "],
            generations=3,
        ),
        Words(),
    )
    assert got.demonstrations == [None, 0, 0, None, None, None]
    assert got.uses_feedback == [False, False, False, False, True, False]
    assert [m is not None for m in got.messages] == [False, True, True, False, True, False]
    assert "plan" not in got.messages[1][-1]["content"]
    assert "It is 4" in got.messages[1][-1]["content"]
    assert "not a number" in got.messages[4][-1]["content"]
    assert got.truncated == 0


def test_only_the_verifier_says_what_is_a_correct_solution():
    """A wrong answer with a high reward of another kind, and a right one that a length penalty keeps below 1."""
    scores, rewards = [0.0, 0.0, 1.0, None], [1.6, 1.0, 0.9, 1.2]
    got = Reprompt().contexts(rollouts(["5", "6", "4", "7"], scores, rewards=rewards), Words())
    assert got.demonstrations == [2, 2, None, 2]
    assert all("Correct solution:\n\n4" in m[-1]["content"] for m in got.messages if m is not None)
    none = Reprompt().contexts(rollouts(["5", "6", "7"], [0.0, 0.0, None], rewards=[3.0, 1.0, 2.0]), Words())
    assert none.messages == [None] * 3


def test_graded_scores_succeed_from_the_threshold_on():
    batch = rollouts(["5", "4", "6"], [0.4, 0.5, 0.1], rewards=[0.9, -0.2, 1.0])
    assert Reprompt(success_threshold=0.5).contexts(batch, Words()).demonstrations == [1, None, 1]


def test_thinking_can_be_kept_and_truncated_demonstrations_allowed():
    batch = rollouts(["plan</think> 4", "5"], [1, 0], finished=[False, True])
    assert Reprompt().contexts(batch, Words()).messages == [None, None]
    kept = Reprompt(thinking="keep", allow_truncated=True).contexts(batch, Words())
    assert "plan</think> 4" in kept.messages[1][-1]["content"]


def test_a_demonstration_without_its_work_as_the_pattern_says():
    batch = rollouts(["3+1=4. <answer>4</answer>", "5"], [1, 0])
    got = Reprompt(thinking_pattern="^.*?(?=<answer>)").contexts(batch, Words())
    assert "Correct solution:\n\n<answer>4</answer>" in got.messages[1][-1]["content"]
    kept = Reprompt(thinking="keep", thinking_pattern="^.*?(?=<answer>)").contexts(batch, Words())
    assert "3+1=4." in kept.messages[1][-1]["content"]


def test_a_demonstration_of_white_space_is_none():
    batch = rollouts(["only thoughts</think>  ", "5"], [1, 0])
    assert Reprompt().contexts(batch, Words()).messages == [None, None]


def test_equal_copies_are_no_demonstrations():
    got = Reprompt().contexts(rollouts(["4", "4", "5"], [1, 1, 0]), Words())
    assert got.demonstrations == [None, None, 0]


@pytest.mark.parametrize("budget", range(12, 40))
def test_g04_only_the_demonstration_is_shortened(budget):
    words = [f"w{i}" for i in range(20)]
    tokenizer = Words()
    batch = rollouts([" ".join(words), "5"], [1, 0])
    got = Reprompt(max_context_tokens=budget).contexts(batch, tokenizer)
    whole = tokenizer.apply_chat_template(
        Reprompt().messages(batch.rows[0].messages, batch.texts[0]), True, True, False
    )
    fixed = len(whole) - 20
    left = min(20, budget - fixed)
    if left < 1:
        assert got.messages == [None, None]
        assert got.demonstrations == [None, None]
    else:
        text = got.messages[1][-1]["content"]
        assert len(tokenizer.apply_chat_template(got.messages[1], True, True, False)) == fixed + left <= budget
        assert text.startswith(QUESTION)
        assert text.endswith("Correctly solve the original question.")
        assert [w for w in text.split() if w in words] == words[20 - left :]
    assert got.truncated == (left < 20)


def test_the_chat_template_options_count():
    batch = rollouts([" ".join(f"w{i}" for i in range(20)), "5"], [1, 0])
    reprompt = Reprompt(max_context_tokens=25)
    plain, thinking = (reprompt.contexts(batch, Words(), o) for o in (None, {"enable_thinking": True}))
    assert len(plain.messages[1][-1]["content"].split()) == len(thinking.messages[1][-1]["content"].split()) + 1


def test_feedback_is_shortened_after_the_demonstration():
    batch = rollouts(["a b c d", "5"], [1, 0], feedback=["", " ".join(f"f{i}" for i in range(40))])
    reprompt = Reprompt(use_feedback=True, feedback_only_without_solution=False, max_context_tokens=40)
    got = reprompt.contexts(batch, Words())
    assert got.demonstrations == [None, None]
    assert got.uses_feedback == [False, True]
    assert "f39" in got.messages[1][-1]["content"]
    assert "f0 " not in got.messages[1][-1]["content"]
    assert got.truncated == 1


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"template": "{solution}"}, "template"),
        ({"template": "{prompt}"}, "template"),
        ({"template": "{prompt}{solution}", "use_feedback": True}, "template"),
        ({"solution_template": "x"}, "solution_template"),
        ({"feedback_template": "x"}, "feedback_template"),
        ({"max_context_tokens": 0}, "max_context_tokens"),
        ({"thinking_pattern": "("}, "thinking_pattern"),
    ],
)
def test_mistakes_are_named(options, where):
    with pytest.raises(UserError, match=where):
        Reprompt(**options)
