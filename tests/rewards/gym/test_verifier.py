from __future__ import annotations

import json
import sys
import time
from types import SimpleNamespace

import pytest

from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.gym import verifier as gym
from lit_sdpo.rewards.gym.forms import FORMS
from lit_sdpo.rewards.gym.rules import DECIDED, GUARDS, UNSOUND
from lit_sdpo.rewards.gym.verifier import ReasoningGym


def truth_of(dataset, answer, **metadata):
    return json.dumps({"dataset": dataset, "entry": {"question": "?", "answer": answer, "metadata": metadata}})


def score(dataset, truth, answer, **metadata):
    return ReasoningGym().judge(f"<answer>{answer}</answer>", truth_of(dataset, truth, **metadata)).score


@pytest.mark.parametrize(
    ("text", "score", "flags"),
    [
        ("<answer> 156\n</answer>", 1.0, ()),
        ("<answer>1560</answer>", 0.0, ()),
        ("<answer>7</answer>", 0.0, ()),
        ("<answer>it is 156</answer>", 0.0, ("wrong_format",)),
        ("156", 0.0, ("no_answer",)),
        ("<answer></answer>", 0.0, ("no_answer",)),
    ],
)
def test_answers_that_there_is_one_of(text, score, flags):
    verdict = ReasoningGym().judge(text, truth_of("chain_sum", "156"))
    assert (verdict.score, verdict.flags) == (score, flags)
    assert ReasoningGym().at_once(text, truth_of("chain_sum", "156")) == verdict
    assert "156" not in verdict.feedback


TIMES = "\u00d7"

RIGHT = [
    ("chain_sum", "1560", "+1,560.0"),
    ("knights_knaves", "Zoe is a sage, and Ben is an egoist.", "Ben is a egoist and Zoe is a sage"),
    ("fraction_simplification", "$\\frac{23}{131}$", "23/131"),
    ("complex_arithmetic", "-7.0 + 1.0i", "-7 + i"),
    ("complex_arithmetic", "0.0 - 2.0i", "(-2j)"),
    ("number_sorting", "['1.0', '-2']", '["1", "-2.0"]'),
    ("group_anagrams", '[["ab", "ba"], ["c"]]', '[["c"], ["ba", "ab"]]'),
    ("palindrome_partitioning", '[["a", "a"], ["aa"]]', '[["aa"],["a","a"]]'),
    ("prime_factorization", f"2 {TIMES} 2 {TIMES} 5", "5 x 2*2"),
    ("polynomial_equations", "-0.5, 2.0", "2, -0.5"),
    ("game_of_life", "[[0,1],[1,0]]", "[[0, 1],\n [1, 0]]"),
    ("word_sorting", "a, B, c", "a,B,c"),
    ("spell_backward", "Oslo", "oslo"),
    ("rotate_matrix", "1 2\n3 4", "1  2 \n3 4\n"),
    ("game_of_life_halting", "False", "False"),
    ("coin_flip", "0.0703125", "9/128"),
    ("coin_flip", "0.0703125", "0.07031"),
    ("power_function", "-0.0013674811612376526", "-1.37e-3"),
    ("pool_matrix", "4.5 4.75", "4.50 4.75"),
    ("self_reference", 4, "4"),
]

WRONG = [
    ("chain_sum", "1560", "nan"),
    ("chain_sum", "100", "1e400"),
    ("gsm_symbolic", "1687.5", "1687.5.0"),
    ("knights_knaves", "Zoe is a sage, and Ben is a fool.", "Zoe is a sage, and Ben is a fool or a sage."),
    ("knights_knaves", "Zoe is a sage, and Ben is a fool.", "Zoe is a sage, and Ben is a fool, or not."),
    ("fraction_simplification", "23/131", "23/131 or 7"),
    ("fraction_simplification", "23/131", "46/262"),
    ("complex_arithmetic", "-7.0 + 1.0i", "nan"),
    ("complex_arithmetic", "-7.0 + 1.0i", "-7.0 + 1.0i)"),
    ("number_sorting", "['1', '2']", "['1.9', '2.9']"),
    ("group_anagrams", '[["ab", "ba"], ["c"]]', '[["ab", "ba"], ["c"], ["c"]]'),
    ("prime_factorization", f"2 {TIMES} 2 {TIMES} 5", f"4 {TIMES} 5"),
    ("polynomial_equations", "-0.5, 2.0", "-0.5, 2.0, nan"),
    ("game_of_life", "[[0,1]]", "[[0,1,1],[1]]"),
    ("word_sorting", "a, b", "a, b, b"),
    ("spell_backward", "oslo", "osloa"),
    ("letter_jumble", "oslo", "osloa"),
    ("rotate_matrix", "1 2\n3 4", "1 2 3 4"),
    ("game_of_life_halting", "False", "True"),
    ("game_of_life_halting", "False", "x"),
    ("coin_flip", "0.0703125", "0"),
    ("coin_flip", "0.0001", "0.0"),
    ("coin_flip", "0.0703125", "0.07"),
    ("time_intervals", "3 days", "3 days or 4"),
    ("decimal_arithmetic", "6.32098837209", "6.32098837210"),
    ("base_conversion", "1e2", "100"),
    ("survo", "1 2\n3 4", "1 2\n3 4 or 5"),
]


@pytest.mark.parametrize(("dataset", "truth", "answer"), RIGHT)
def test_other_ways_to_write_the_answer(dataset, truth, answer):
    assert score(dataset, truth, answer) == 1.0
    assert score(dataset, truth, str(truth)) == 1.0


@pytest.mark.parametrize(("dataset", "truth", "answer"), WRONG)
def test_constants_paddings_and_neighbours(dataset, truth, answer):
    assert score(dataset, truth, answer) == 0.0
    assert score(dataset, truth, truth) == 1.0


@pytest.mark.parametrize(
    ("dataset", "answer", "right"),
    [
        ("puzzle24", "(6 - 2) * (7 - 1)", 1.0),
        ("puzzle24", "1*2*3*4", 0.0),
        ("puzzle24", "6*7*2 - 60", 0.0),
        ("puzzle24", "(6 - 2) * (7 - 1) # ok", 0.0),
        ("puzzle24", "6**2 - 7 - 1", 0.0),
        ("countdown", "(6 - 2) * (7 - 1)", 1.0),
        ("countdown", "6 / (2 - 2)", 0.0),
        ("countdown", "(6 - 2) * (7 - 1) or x", 0.0),
        ("countdown", "__import__('os')", 0.0),
    ],
)
def test_expressions_are_evaluated_exactly_and_use_the_puzzles_numbers(dataset, answer, right):
    assert score(dataset, None, answer, numbers=[7, 1, 6, 2], target=24) == right


def test_queens():
    boards = ["_ Q\nQ _", "Q _\n_ Q"]
    assert score("n_queens", boards[0], "Q _ \n_ Q", valid_answers=boards) == 1.0
    assert score("n_queens", boards[0], "[['Q', '_'], ['_', 'Q']]", valid_answers=boards) == 0.0


@pytest.fixture
def package(monkeypatch):
    """A package whose scorer gives full marks to whatever it is asked about."""
    asked = []

    def create_dataset(name, size, seed):
        return SimpleNamespace(score_answer=lambda answer, entry: asked.append(answer) or 1.0)

    monkeypatch.setitem(sys.modules, "reasoning_gym", SimpleNamespace(create_dataset=create_dataset))
    gym._dataset.cache_clear()
    yield asked
    gym._dataset.cache_clear()


MOVE = "Move disk 1 from Peg 1 to Peg 2"
NO_FORMULA = ["x or 7", "f(x)", "9**9**9*x", "x**99999", "z", "x.diff", "nan", "1e9*x", "x # 1", "x**(2)**9", "2x", "y"]


@pytest.mark.parametrize(
    ("dataset", "good", "bad", "metadata"),
    [
        ("sokoban", "UDLR", ["UDLR or U", "udlr", "x"], {}),
        ("quantum_lock", "A → B", ["A or B", "A → B → D", "abc"], {}),
        ("kakurasu", "1 0\n0 1", ["-1 0\n0 1", "1 0\n0 1 or 7", "1.0 0\n0 1"], {}),
        ("tower_of_hanoi", MOVE, [f"-{MOVE}", f"{MOVE}x", f"{MOVE}\n{MOVE}0x"], {}),
        ("cryptarithm", "A=1,B=2", ["A=1,B=2, A=1,B=2", "A=1", "A=1,B=2,C=3", "A=12,B=2"], {"letters": ["A", "B"]}),
        ("graph_color", '{"0": 1}', ["{}", '{"0": 1, "0": 2}', '{"7": 1}', "[]"], {"puzzle": {"vertices": [0]}}),
        ("word_ladder", "CAT,COT,DOT", ["CAT,COT,CAT,COT,DOT", "CAT,C0T"], {}),
        ("jugs", '["fill A"]', ["{}", "fill A", "[1]"], {}),
        ("knight_swap", '["w,A1,B3"]', ["none", "[1]"], {}),
        ("rush_hour", "A+1 B-2", ["A+1 or B-2", "A+1;"], {}),
        ("shortest_path", "up down", ["up down x", "sideways"], {}),
        ("palindrome_generation", "abba", ["ab ba", "1"], {}),
        ("rubiks_cube", "U R' F", ["U R' or F", "U1"], {}),
        ("simple_integration", "-3*x**2/2 + sin(x) + C", NO_FORMULA, {"variable": "x"}),
        ("polynomial_multiplication", "-928774*x**7 - 6272*x*y", NO_FORMULA[:5], {"variables": ["x", "y"]}),
        ("boxnet", "[{}]", ["nothing", "[{},]"], {}),
    ],
)
def test_the_package_is_asked_about_answers_in_the_right_form_only(package, dataset, good, bad, metadata):
    assert score(dataset, None, good, **metadata) == 1.0
    assert [score(dataset, None, answer, **metadata) for answer in bad] == [0.0] * len(bad)
    assert package == [good]


@pytest.mark.parametrize(("marks", "right"), [(0.99, 0.0), (1.0, 1.0)])
def test_only_full_marks_of_the_package_count(monkeypatch, marks, right):
    scorer = SimpleNamespace(score_answer=lambda answer, entry: marks)
    monkeypatch.setattr(gym, "_dataset", lambda name: scorer)
    assert score("sokoban", None, "UD") == right


@pytest.mark.parametrize("dataset", sorted({*FORMS, *DECIDED, *GUARDS, "arc_1d"}))
@pytest.mark.parametrize(
    "answer", ["(" * 5000, "1" * 20_000, "1," * 10_000, "a is a " * 5000, "- " * 20_000, "[" * 20_000]
)
def test_long_answers_take_no_time(package, dataset, answer):
    started = time.process_time()
    verdict = ReasoningGym()(f"<answer>{answer}</answer>", Row("r", [], truth_of(dataset, "0", numbers=[1], target=1)))
    assert verdict.score in (0.0, None) or dataset in GUARDS
    assert time.process_time() - started < 2


def test_references():
    check = ReasoningGym()
    assert check.reference(truth_of("arc_1d", "1 2"), {}) == "<answer>\n1 2\n</answer>"
    assert check.reference(json.dumps({"dataset": "rush_hour", "entry": {"answer": None, "metadata": {}}}), {}) is None
    unsolved = {"dataset": "simple_integration", "entry": {"answer": "Integral(x, x)", "metadata": {"variable": "x"}}}
    assert check.reference(json.dumps(unsolved), {}) is None
    for name in UNSOUND:
        with pytest.raises(ValueError, match="cannot be judged"):
            check.reference(truth_of(name, "156"), {})
        assert check.judge("<answer>156</answer>", truth_of(name, "156")).score is None


@pytest.mark.parametrize(
    "truth",
    [
        "156",
        "[]",
        "{}",
        json.dumps({"dataset": "sokoban", "entry": {"answer": "U"}}),
        truth_of("chain_sum", None),
        truth_of("chain_sum", "nan"),
        truth_of("chain_sum", ""),
        truth_of("polynomial_equations", ""),
        truth_of("arc_1d", "a <answer>"),
    ],
)
def test_entries_that_cannot_be_used_are_refused(truth):
    with pytest.raises(ValueError, match=r"\w"):
        ReasoningGym().reference(truth, {})


def test_an_answer_that_takes_forever_is_wrong():
    verdict = ReasoningGym().unfinished("timed_out")
    assert (verdict.score, verdict.flags) == (0.0, ("timed_out",))


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match="pip install reasoning-gym"):
        ReasoningGym().prepare()


SOME = [
    "knights_knaves",
    "complex_arithmetic",
    "puzzle24",
    "sokoban",
    "simple_integration",
    "kakurasu",
    "spell_backward",
]


@pytest.mark.slow
def test_the_real_package():
    pytest.importorskip("reasoning_gym")
    from benchmarks.reasoning_gym import audit, row

    fooled = 0
    for name in SOME:
        counts = audit(name, 3)
        assert counts["right_refused"] == 0
        assert counts["judged"] == 3
        fooled += counts["package"]
        # Other constants of integration are right, and so is going on after the puzzle is solved.
        if name not in ("simple_integration", "sokoban"):
            assert not [example for example in counts["here_examples"] if example[2] != example[1].rstrip(".")]
        assert f"| `{name}` |" in row(counts)
    assert fooled > 100
