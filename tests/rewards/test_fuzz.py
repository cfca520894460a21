"""Whatever a completion holds: a verdict, in time, and never the answer in the feedback."""

from __future__ import annotations

import json
import random
import time
from types import SimpleNamespace

import pytest

from lit_sdpo.data.task import Row
from lit_sdpo.rewards.registry import CONTRACTS, in_process
from lit_sdpo.rewards.sandbox.examiner_pool import Report

CALLS = json.dumps([{"Action": "find.city", "Action_Input": json.dumps({"name": "Zanzibar-77", "n": [4, 31]})}])
SCHEMA = {"properties": {"name": {"type": "string"}, "n": {"type": "array", "items": {"type": "integer"}}}}
TRUTHS = {
    "math_boxed": (r"\frac{7131}{4}", ["7131"]),
    "mcq_xml": ("C", ["option C", "is C", "(C)"]),
    "mcq_boxed": ("C", ["choice C", "is C", "(C)"]),
    "exact_answer": ("Zanzibar-77", ["Zanzibar"]),
    "exact_text": ("Zanzibar-77", ["Zanzibar"]),
    "numeric_boxed": ("7131.25", ["7131"]),
    "tooluse_react": (CALLS, ["Zanzibar", "find.city"]),
    "bfcl_ast": (
        json.dumps({
            "category": "simple",
            "functions": [{"name": "find.city", "parameters": {**SCHEMA, "required": ["name"]}}],
            "possible_answers": [{"find.city": {"name": ["Zanzibar-77"], "n": [[4, 31], ""]}}],
        }),
        ["Zanzibar"],
    ),
    "reasoning_gym": (
        json.dumps({"dataset": "sums", "entry": {"answer": "Zanzibar-77", "metadata": {}}}), ["Zanzibar"],
    ),
    "zebra_json": (json.dumps({"House 1": {"Name": "Zanzibar-77", "Pet": "owl31"}}), ["Zanzibar", "owl31"]),
    "code_tests": (
        json.dumps({
            "testtype": "stdin",
            "inputs": ["5\n"], "outputs": ["7131\n"], "fn_name": "", "time_limit": 1.0, "context": "",
        }),
        ["7131"],
    ),
}  # fmt: skip
LATEX = r"""
\boxed{ \boxed \frac{ \sqrt{ \text{ \left( \right) \{ \} { } ( ) [ ] $ \( \) \\ \begin{pmatrix} \end{pmatrix} & , ; =
< > \le \in \cup \pm \cdot \times ^ _ ^{ _{ / % \% \circ \pi \infty x y e i 0 1 2 12 0.5 .5 1e9 1/2 \frac12 - + ! 9^{9}
"""
OTHER = """
<think> </think> <answer> </answer> <answer>C</answer> Action: find.city {" "name": "n":
null true NaN -0 [[ ]] "solution": {"solution": ``` ```python ```text A B C D
"""
RARE = ["\n", " ", "\t", "\r\n", "\x00", "\ud800", "\u00b2", "\u0661", "\U0001f600", "\u2028", "\u2212", "\u221a"]
PIECES = [*LATEX.split(), *OTHER.split(), *RARE, "Action Input: ", '{"solution": {"House 1": {', "}" * 9]
REPEATED = [
    "x",
    "{",
    r"\boxed{",
    "<answer>",
    "Action: a\n",
    '{"a":',
    "1,",
    "```\n",
    " ",
    r"\text{",
    "(",
    '{"solution": {}} ',
]


@pytest.fixture(autouse=True)
def puzzles(monkeypatch):
    scorer = SimpleNamespace(score_answer=lambda answer, entry: float(answer == entry["answer"]))
    monkeypatch.setattr("lit_sdpo.rewards.gym.verifier._dataset", lambda name: scorer)


def completions(name, count, draw):
    """Random completions: pieces put together, right answers with a wound, bytes, and repetition."""
    right = in_process(name).reference(TRUTHS[name][0], {"reference_solution": "print(7131)"}) or ""
    for _ in range(count):
        kind = draw.random()
        if kind < 0.45:
            yield "".join(draw.choice(PIECES) for _ in range(draw.randrange(1, 40)))
        elif kind < 0.85:
            text = list(right)
            for _ in range(draw.randrange(1, 4)):
                at = draw.randrange(len(text) + 1)
                text[at : at + draw.randrange(3)] = draw.choice(
                    [draw.choice(PIECES), "", chr(draw.randrange(1, 0x500))]
                )
            yield "".join(text)
        elif kind < 0.95:
            yield "".join(chr(draw.randrange(0x11000)) for _ in range(draw.randrange(60)))
        else:
            yield draw.choice(PIECES) * draw.randrange(1, 400) + right


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TRUTHS))
def test_ten_thousand_completions(name, monkeypatch):
    truth, secrets = TRUTHS[name]
    row, draw, check = Row("r", [], truth, name), random.Random(name), in_process(name)
    if name == "code_tests":  # What reaches a sandbox is tested with the attacks; here the reading of completions.
        monkeypatch.setattr(check, "_scripts", lambda program, tests: [Report("wrong")])
    slowest, failures = 0.0, []
    for completion in completions(name, 10_000, draw):
        started = time.process_time()
        verdict = check(completion, row)
        slowest = max(slowest, time.process_time() - started)
        if verdict.score not in (0.0, 1.0):
            failures.append((completion, verdict))
        shown = verdict.feedback
        assert not [secret for secret in secrets if secret in shown and secret not in completion], (completion, shown)
    assert failures == []
    assert slowest < 2.0


@pytest.mark.slow
def test_computer_algebra_survives_fuzzing():
    """Some hundred wounded expressions, each in time, through the worker that can be killed."""
    from lit_sdpo.rewards.registry import verifier

    row, draw = Row("r", [], r"\frac{x^2+3}{\sqrt{2}}", "math_boxed"), random.Random(3)
    for _ in range(300):
        text = list(r"\boxed{\frac{x^2+3}{2}\sqrt{2}}")
        for _ in range(draw.randrange(3)):
            at = draw.randrange(7, len(text))
            text[at : at + draw.randrange(2)] = draw.choice(PIECES)
        started = time.monotonic()
        verdict = verifier("math_boxed")("".join(text), row)
        assert verdict.score in (0.0, 1.0), text
        assert time.monotonic() - started < 60


@pytest.mark.parametrize("name", sorted(TRUTHS))
def test_v01_a_million_characters(name):
    row = Row("r", [], TRUTHS[name][0], name)
    check = in_process(name)
    for piece in (
        "x",
        "{",
        r"\boxed{",
        "<answer>",
        "Action: a\n",
        '{"a":',
        "1,",
        "```\n",
        " ",
        r"\text{",
        "(",
        '{"solution": {}} ',
    ):
        started = time.process_time()
        verdict = check(piece * (1_000_000 // len(piece)), row)
        assert verdict.score == 0.0, (piece, verdict)
        assert time.process_time() - started < 20, piece


def test_every_contract_is_fuzzed():
    assert set(TRUTHS) == set(CONTRACTS)
