from __future__ import annotations

import pickle
import random
import time
from functools import partial

import pytest

from lit_sdpo.data.task import Row, Task
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.pool import verify_all
from lit_sdpo.rewards.registry import CONTRACTS, in_process, verifier
from lit_sdpo.rewards.thinking import TAGS, WORDS, Completion, Tags, final_text, left_open, spoken_text

THINK = TAGS[0]


@pytest.mark.parametrize(
    ("text", "opened", "answer", "spoken"),
    [
        ("plain", None, "plain", "plain"),
        ("plain", THINK, None, "plain"),
        ("a</think> b", THINK, " b", "b"),
        ("a</think> b", None, " b", "b"),
        ("a</think>b<think>c</think>d", THINK, "d", "bd"),
        ("a</think>b<think>c", THINK, None, "b<think>c"),
        ("<think>a</think>b", THINK, "b", "b"),
        ("<think>a<think>b</think>c", None, "c", "c"),
        ("a [THINK]b[/THINK]\nc", None, "\nc", "a c"),
        ("a [THINK]b</think>c", None, None, "a [THINK]b</think>c"),
        ("a</think>c", Tags("[THINK]", "[/THINK]"), None, "a</think>c"),
        ("a</reasoning>c", Tags("<reasoning>", "</reasoning>"), "c", "c"),
        ("<reason>data</reason>", None, "<reason>data</reason>", "<reason>data</reason>"),
        ("<|channel|>analysis<|message|>a<|channel|>final<|message|>b", None, "b", "b"),
        ("a</thin", THINK, None, "a</thin"),
        ("", THINK, None, ""),
        ("</think>", THINK, "", ""),
    ],
)
def test_blocks(text, opened, answer, spoken):
    completion = Completion(text, opened=opened)
    assert (completion.answer, completion.spoken) == (answer, spoken)
    assert final_text(completion) == answer
    if opened is None:
        assert (final_text(text), spoken_text(text)) == (answer, spoken)


def test_the_end_of_thinking_is_where_a_reader_who_goes_step_by_step_sees_it():
    draw = random.Random(0)
    for _ in range(2000):
        parts = [draw.choice(["x", " ", *THINK, *TAGS[1]]) for _ in range(draw.randrange(8))]
        opened = draw.choice([None, THINK, TAGS[1]])
        block, answer = opened, []
        for part in parts:
            pair = next((p for p in TAGS[:2] if part in p), None)
            if pair is None or (block is not None and (block != pair or part == pair.opening)):
                answer.append(part)
            elif part == pair.opening:
                block = pair
            else:
                block, answer = None, []
        expected = None if block else "".join(answer)
        assert Completion("".join(parts), opened=opened).answer == expected, (parts, opened)


@pytest.mark.parametrize(
    ("prompt", "question", "opening"),
    [
        ("<|user|>2 + 2?<|assistant|>", "2 + 2?", None),
        ("<|user|>2 + 2?<|assistant|><think>", "2 + 2?", "<think>"),
        ("<|user|>2 + 2?<|assistant|><think>\n", "2 + 2?", "<think>"),
        ("<|user|>2 + 2?<|assistant|><think>\n\n</think>\n\n", "2 + 2?", None),
        ("<|user|>2 + 2?<|assistant|><think>\nOkay,", "2 + 2?", "<think>"),
        ("<|user|>What does <think> mean?<|assistant|>", "What does <think> mean?", None),
        ("<|user|>Begin with <think><|assistant|>", "Begin with <think>", None),
        ("<|user|>Begin with <think><|assistant|><think>\n", "Begin with <think>", "<think>"),
        ("<|user|><think><|assistant|><think>\n", "<think>", "<think>"),
        ("<|user|>think<|assistant|><think>\n", "think", "<think>"),
        ("2 + 2? Let us think. <think>", "2 + 2? Let us think. <think>", "<think>"),  # nothing in between
        ("<|user|> 2 +  2? [/INST] [THINK]", "2 + 2?", "[THINK]"),  # the template changed the question
        ("<|system|>Use <think> and </think>.<|user|>2?<|assistant|>", "2?", None),
        ("<|user|>2?<|assistant|><reasoning>\n", "2?", "<reasoning>"),
        ("<|user|>2?<|assistant|><Think>\n", "2?", "<Think>"),
        ("<|user|>2?<|assistant|><longcat_think>\n", "2?", "<longcat_think>"),
        ("<|user|>2?<|assistant|><|reasoning|>", "2?", "<|reasoning|>"),
        ("<|user|>2?<|assistant|></my_think>\n", "2?", None),
        ("<|user|>2?<|assistant|><|thinking_end|>", "2?", None),
        ("<|user|>2?<|assistant|><answer>", "2?", None),
        ("<|user|>2?<assistant>", "2?", None),
        ("<|user|>2?<|assistant|><think></think>", "2?", None),
        ("", "", None),
    ],
)
def test_how_a_prompt_ends(prompt, question, opening):
    found = left_open(prompt, question, (*TAGS, *WORDS))
    assert (found.opening if found else None) == opening


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<longcat_think>", "</longcat_think>"),
        ("[REASONING]", "[/REASONING]"),
        ("<|thought|>", "<|/thought|>"),
        ("<|START_REASONING|>", "<|END_REASONING|>"),
        ("<|reason_begin|>", "<|reason_end|>"),
        ("◁ponder_think▷", "◁/ponder_think▷"),
    ],
)
def test_tags_that_nobody_has_listed(opening, closing):
    pair = left_open(f"<|user|>2?<|assistant|>{opening}\n", "2?")
    assert pair == (opening, closing)
    assert Completion(f"hm{closing}b", opened=pair).answer == "b"
    assert Completion("hm", opened=pair).answer is None


def test_a_completion_is_a_text_that_travels():
    completion = Completion("a</reasoning>b", opened=Tags("<reasoning>", "</reasoning>"), finished=False)
    again = pickle.loads(pickle.dumps(completion))
    assert (again, again.answer, again.spoken, again.finished) == (completion, "b", "b", False)
    assert type(str(completion)) is str


@pytest.mark.parametrize("text", ["<think>" * 100_000, "</think>" * 100_000, "<think></think>" * 50_000, "<" * 500_000])
def test_tags_are_found_in_linear_time(text):
    started = time.process_time()
    Completion(text)
    assert time.process_time() - started < 3


RIGHT = {
    "math_boxed": ("7", r"\boxed{7}"),
    "numeric_boxed": ("7", r"\boxed{7}"),
    "mcq_boxed": ("B", r"\boxed{B}"),
    "mcq_xml": ("B", "<answer>B</answer>"),
    "exact_answer": ("Oslo", "<answer>Oslo</answer>"),
    "exact_text": ("blue", "blue"),
    "tooluse_react": ('[{"Action": "a", "Action_Input": "{}"}]', "Action: a\nAction Input: {}"),
    "bfcl_ast": (
        '{"functions": [{"name": "a", "parameters": {}}], "possible_answers": [{"a": {}}]}',
        "Action: a\nAction Input: {}",
    ),
    "zebra_json": ('{"House 1": {"Name": "Eric"}}', '{"solution": {"House 1": {"Name": "Eric"}}}'),
    "reasoning_gym": ('{"dataset": "chain_sum", "entry": {"answer": "7", "metadata": {}}}', "<answer>7</answer>"),
    "code_tests": ("{}", "```python\nprint(7)\n```"),
}


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_no_contract_finds_an_answer_in_thinking_that_never_ended(name):
    truth, right = RIGHT[name]
    row = Row("r", [], truth, name)
    for check in (in_process(name), verifier(name)):
        for finished in (True, False):
            verdict = check(Completion(right, opened=THINK, finished=finished), row)
            assert (verdict.score, verdict.flags) == (0.0, ("no_answer",))
            assert ("cut off" in verdict.feedback) == (not finished)
            assert check.form in verdict.feedback
    if name not in ("code_tests", "reasoning_gym"):
        assert in_process(name)(Completion(f"hm</think>{right}", opened=THINK), row).score == 1.0


calls: list[str] = []


def judged(completion, row):
    calls.append(completion)
    return Verdict(1.0)


def third(completion, row, marks=1.0):
    return judged(completion, row) if marks == 1.0 else Verdict(0.0)


def anything(*arguments, **options):
    assert not options
    return judged(*arguments)


class Judge:
    def __call__(self, completion, row):
        return judged(completion, row)

    def method(self, completion, row):
        return judged(completion, row)


OWN = [judged, third, anything, Judge(), Judge().method, partial(third, marks=1.0), lambda c, row: judged(c, row)]


@pytest.mark.parametrize("own", OWN)
def test_verifiers_of_users_get_two_arguments_and_are_not_asked_about_unfinished_thinking(own):
    class Theirs(Task):
        def rows(self, split):
            return []

        def verify(self, completion, row):
            return own(completion, row)

    calls.clear()
    texts = [Completion("so 7", opened=THINK), Completion("a</think>b", opened=THINK), "<think>a", "plain"]
    verdicts = verify_all(Theirs("t"), texts, [Row("r", [], "7", "their own")] * 4)
    assert [v.score for v in verdicts] == [0.0, 1.0, 0.0, 1.0]
    assert [v.flags for v in verdicts] == [("no_answer",), (), ("no_answer",), ()]
    assert calls == ["a</think>b", "plain"]  # with the thinking, as the model wrote it


def test_neither_are_those_in_the_pool():
    check = verifier("tests.rewards.pooled.obedient")
    row = Row("fine", [], "", "tests.rewards.pooled.obedient")
    assert check(Completion("raise", opened=THINK), row) == Verdict(
        0.0, "No answer was given before the thinking ended.", ("no_answer",)
    )
    assert check(Completion("reads </think>well", opened=THINK), row).score == 1.0
