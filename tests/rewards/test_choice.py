from __future__ import annotations

import pytest

from lit_sdpo.rewards.choice import ChoiceBox, ChoiceTag, ExactAnswer


@pytest.mark.parametrize(
    ("text", "score", "flags"),
    [
        ("<answer>\nB\n</answer>", 1.0, ()),
        ("<answer>A</answer><answer>B</answer>", 1.0, ()),
        ("<answer><answer>B</answer></answer>", 1.0, ()),
        ("<answer>B</answer> <answer>C", 1.0, ()),
        ("<answer>C</answer>", 0.0, ()),
        ("<answer>B or C</answer>", 0.0, ("wrong_format",)),
        ("<answer>b</answer>", 0.0, ("wrong_format",)),
        ("<answer> </answer>", 0.0, ("no_answer",)),
        ("<answer>B", 0.0, ("no_answer",)),
        ("B", 0.0, ("no_answer",)),
    ],
)
def test_letter_in_a_tag(text, score, flags):
    verdict = ChoiceTag().judge(text, "B")
    assert (verdict.score, verdict.flags) == (score, flags)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (r"\boxed{C}", 1.0),
        (r"$\boxed{\text{C}}$", 1.0),
        (r"\boxed{\textbf{(C)}.}", 1.0),
        (r"\boxed{A}, no: \boxed{C}", 1.0),
        (r"\boxed{C}, no: \boxed{A}", 0.0),
        (r"\boxed{C, D}", 0.0),
        ("\\boxed{\u0421}", 0.0),  # Cyrillic Es
        (r"\boxed{\text{Carbon}}", 0.0),
        ("C", 0.0),
    ],
)
def test_letter_in_a_box(text, score):
    assert ChoiceBox().judge(text, "C").score == score


@pytest.mark.parametrize(("text", "score"), [("<answer> New York </answer>", 1.0), ("<answer>new york</answer>", 0.0)])
def test_exact_answer(text, score):
    assert ExactAnswer().judge(text, "New York").score == score


@pytest.mark.parametrize("contract", [ChoiceTag(), ChoiceBox()])
@pytest.mark.parametrize("ground_truth", ["", "b", "AB", "A "])
def test_a_choice_needs_a_letter(contract, ground_truth):
    with pytest.raises(ValueError, match="letter"):
        contract.reference(ground_truth, {})
