from __future__ import annotations

import time

import pytest

from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.base import Verdict, Verifier
from lit_sdpo.rewards.contract import Contract, last_boxed
from lit_sdpo.rewards.registry import CONTRACTS, in_process, verifier
from lit_sdpo.rewards.thinking import final_text


def row(ground_truth, name=""):
    return Row(id="r", messages=[], ground_truth=ground_truth, verifier=name)


class Broken(Contract):
    def judge(self, text, ground_truth):
        raise KeyError(ground_truth)

    def reference(self, ground_truth, extra):
        return None


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("plain", "plain"),
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("<think>never ends", None),
        ("<think>a</think>b<think>again", None),
        ("", ""),
    ],
)
def test_only_what_follows_the_thinking_counts(completion, text):
    assert final_text(completion) == text


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{8} then \boxed{9}", "9"),
        (r"\boxed{8} then \boxed{cut", "8"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"{ open \boxed{5}", "5"),
        (r"} closed \boxed{5}", "5"),
        (r"a \\ \boxed{5}", "5"),
        (r"\\boxed{5}", None),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed {5}", "5"),
        (r"\boxed{\begin{matrix}1\\{2}\end{matrix}}", r"\begin{matrix}1\\{2}\end{matrix}"),
        (r"\boxed{}", ""),
        ("no box 5", None),
    ],
)
def test_last_boxed(text, content):
    assert last_boxed(text) == content


@pytest.mark.parametrize("text", [r"\boxed{" * 50_000, r"\boxed{" + "{" * 200_000, r"\boxed{1}" * 50_000])
def test_boxes_are_found_in_linear_time(text):
    started = time.process_time()
    last_boxed(text)
    assert time.process_time() - started < 2


def test_a_failure_of_the_verifier_abstains():
    verdict = Broken()("text", row("secret"))
    assert verdict.score is None
    assert "verifier_failed" in verdict.flags
    assert "secret" not in verdict.feedback


@pytest.mark.parametrize("name", sorted(set(CONTRACTS) - {"code_tests"}))
def test_ground_truth_that_cannot_be_used_is_said(name):
    with pytest.raises(ValueError, match=r"\w"):
        verifier(name).reference("", {})


@pytest.mark.parametrize("name", sorted(set(CONTRACTS) - {"code_tests"}))
@pytest.mark.parametrize(
    "completion",
    ["", "<think>", "\x00\ud800", "{" * 30_000, "[" * 30_000, "<answer>" * 5000, "\\boxed{" * 5000, "Action:\n"],
)
def test_no_text_makes_a_verifier_fail(name, completion):
    truths = {
        "tooluse_react": '[{"Action": "a", "Action_Input": "{}"}]',
        "bfcl_ast": '{"functions": [{"name": "a", "parameters": {}}], "possible_answers": [{"a": {}}]}',
        "reasoning_gym": '{"dataset": "basic_arithmetic", "entry": {"answer": "B"}}',
        "zebra_json": '{"House 1": {"Name": "Eric"}}',
    }
    verdict = in_process(name)(completion, row(truths.get(name, "7" if name == "numeric_boxed" else "B")))
    assert verdict.score == 0.0
    assert verdict.flags in {("no_answer",), ("wrong_format",), ()}


def test_every_contract_is_a_verifier():
    assert all(isinstance(verifier(name), Verifier) for name in CONTRACTS)


def test_unknown_verifier_lists_the_known_ones():
    with pytest.raises(UserError, match="math_boxed, mcq_boxed"):
        verifier("mth_boxed")


def test_verifier_by_import_path():
    found = verifier("tests.rewards.test_contract.always_right")
    assert found("x", row("y")) == Verdict(1.0)
    with pytest.raises(UserError, match="no_such_function"):
        verifier("tests.rewards.test_contract.no_such_function")


def always_right(completion, row):
    return Verdict(1.0)
