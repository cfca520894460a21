"""Rows of each layout against the raw files, parsed by hand here."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import re
import zlib

import pytest

from lit_sdpo.data.layouts import LAYOUTS
from lit_sdpo.data.readers import read_rows, scan
from lit_sdpo.data.source import Source
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.registry import verifier
from tests.data.test_readers import write
from tests.tiny_model import FILES

RAW = FILES / "layouts"
BOXED = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
LETTER = "\n\nPlease reason step by step, and put only the letter of the correct choice within \\boxed{}."
PROGRAM = (
    "You are given a programming task. Write a correct Python 3 program for it. You may think first; finish with the"
    " complete code in one ```python code block.\n\n"
)


def raw(name):
    opened = gzip.open if name.endswith(".gz") else open
    with opened(RAW / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read(file, **options):
    source = Source(path=str(RAW / file), **options)
    entries = list(scan(source))
    assert all(entry.layout.recognised for entry in entries)
    rows, skipped = read_rows(source)
    assert skipped == 0
    assert [entry.row for entry in entries] == rows
    return rows, entries[0].layout.name


def user(row):
    (message,) = row.messages
    assert message["role"] == "user"
    return message["content"]


def test_gsm8k():
    rows, layout = read("gsm8k.jsonl")
    assert (layout, len(rows)) == ("gsm8k", 3)
    for index, (row, line) in enumerate(zip(rows, raw("gsm8k.jsonl"), strict=True)):
        assert (row.id, row.verifier) == (f"math/gsm8k/train/{index}", "math_boxed")
        assert user(row) == line["question"] + BOXED
        assert row.ground_truth == line["answer"].split("#### ")[1]
    assert rows[0].extra["reference_solution"] == (
        "Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips altogether in April and May."
    )


def test_thousands_commas_and_signs_of_gsm8k(tmp_path):
    path = write(tmp_path, {"question": "How much?", "answer": "So -1,000 * 2.\n#### -2,000"})
    assert read_rows(path)[0][0].ground_truth == "-2000"


def test_math500():
    rows, layout = read("math500.jsonl")
    assert layout == "problems"
    for row, line in zip(rows, raw("math500.jsonl"), strict=True):
        assert (user(row), row.ground_truth) == (line["problem"] + BOXED, line["answer"])
        assert {key: row.extra[key] for key in ("subject", "level", "unique_id")} == {
            key: line[key] for key in ("subject", "level", "unique_id")
        }
        assert row.extra["reference_solution"] == line["solution"]


def test_dapo_is_asked_in_the_papers_words():
    rows, layout = read("dapo.jsonl")
    assert layout == "dapo"
    for row, line in zip(rows, raw("dapo.jsonl"), strict=True):
        _, problem, _ = line["prompt"][0]["content"].split("\n\n")
        assert user(row) == problem + BOXED
        assert (row.ground_truth, row.verifier) == (line["label"], "math_boxed")


def test_verl():
    parquet = pytest.importorskip("pyarrow.parquet")
    rows, layout = read("verl.parquet", name="dsr_sub")
    assert layout == "verl"
    for row, line in zip(rows, parquet.read_table(RAW / "verl.parquet").to_pylist(), strict=True):
        problem = line["prompt"][0]["content"].partition(" Let's think step by step")[0]
        assert user(row) == problem + BOXED
        assert row.ground_truth == line["reward_model"]["ground_truth"]
        assert row.id == f"math/dsr_sub/train/{line['extra_info']['index']}"


def test_a_prompt_without_known_instructions_is_kept_and_other_abilities_need_a_verifier(tmp_path):
    chat = [{"role": "user", "content": "Solve x+1=2. Box it."}]
    line = {"data_source": "mine", "prompt": chat, "ability": "math", "reward_model": {"ground_truth": ["1"]}}
    path = write(tmp_path, line)
    (row,), _ = read_rows(path)
    assert (row.messages, row.ground_truth) == (chat, "1")
    path = write(tmp_path, {**line, "ability": "poetry"})
    with pytest.raises(UserError, match=r"line 1, field 'ability'.*no verifier is known.*verifier: NAME"):
        read_rows(path)
    assert read_rows(path, verifier="exact_text")[0][0].id == "poetry/verl/train/0"


def test_bfcl():
    rows, layout = read("bfcl/BFCL_v4_multiple.json")
    assert layout == "bfcl"
    answers = {line["id"]: line["ground_truth"] for line in raw("bfcl/possible_answer/BFCL_v4_multiple.json")}
    for row, line in zip(rows, raw("bfcl/BFCL_v4_multiple.json"), strict=True):
        assert (row.id, row.verifier) == (f"tooluse/bfcl_multiple/train/{line['id']}", "bfcl_ast")
        assert json.loads(row.ground_truth) == {
            "category": "multiple",
            "functions": line["function"],
            "possible_answers": answers[line["id"]],
        }
        tools, _, question = user(row).partition("\n\nFor every call write exactly two lines:")
        assert [json.loads(tool) for tool in tools.split("\n")[1:]] == line["function"]
        assert question.endswith("\n\nQuestion: " + line["question"][0][0]["content"])


def test_bfcl_without_its_answers(tmp_path):
    lines = raw("bfcl/BFCL_v4_multiple.json")
    path = write(tmp_path, *lines, name="BFCL_v4_multiple.json")
    with pytest.raises(UserError, match=r"answers are missing: .*possible_answer/BFCL_v4_multiple.json"):
        read_rows(path)
    (tmp_path / "possible_answer").mkdir()
    answers = {line["id"]: line for line in raw("bfcl/possible_answer/BFCL_v4_multiple.json")}
    write(tmp_path / "possible_answer", answers[lines[0]["id"]], name="BFCL_v4_multiple.json")
    with pytest.raises(UserError, match=rf"line 2, field 'id': .* has no answer to '{lines[1]['id']}'"):
        read_rows(path)
    nothing = [{**line, "id": f"live_irrelevance_{n}-0-0"} for n, line in enumerate(lines)]
    rows, _ = read_rows(write(tmp_path, *nothing, name="irrelevance.json"))
    assert rows[0].id == "tooluse/bfcl_live_irrelevance/train/live_irrelevance_0-0-0"
    assert json.loads(rows[0].ground_truth)["possible_answers"] == []


def test_humaneval():
    rows, layout = read("humaneval.jsonl.gz")
    assert layout == "humaneval"
    for row, line in zip(rows, raw("humaneval.jsonl.gz"), strict=True):
        assert row.id == f"coding/humaneval/train/{line['task_id'].removeprefix('HumanEval/')}"
        assert user(row) == (
            PROGRAM + "Complete the following function. Return the whole program: imports, signature and body.\n"
            f"```python\n{line['prompt'].rstrip()}\n```"
        )
        assert json.loads(row.ground_truth) == {
            "testtype": "code",
            "inputs": [line["test"].strip() + f"\n\ncheck({line['entry_point']})\n"],
            "outputs": [""],
            "fn_name": line["entry_point"],
            "time_limit": 5.0,
            "context": "",
        }
        assert row.extra["reference_solution"] == line["prompt"] + line["canonical_solution"]


@pytest.mark.slow
def test_solutions_of_humaneval_pass(bubblewrap):
    rows, _ = read("humaneval.jsonl.gz")
    assert [verifier("code_tests")(row.reference, row).score for row in rows] == [1.0] * 3


def test_sciknoweval():
    rows, layout = read("sciknoweval.json", name="sciknoweval_chemistry")
    assert layout == "paper"
    for row, line in zip(rows, raw("sciknoweval.json"), strict=True):
        assert row.id == f"science/sciknoweval_chemistry/train/{line['idx']}"
        assert row.messages == [
            {"role": "system", "content": line["system"]},
            {"role": "user", "content": line["prompt"]},
        ]
        assert (row.ground_truth, row.verifier) == (line["answer"], "mcq_xml")
        assert row.extra == {"elo": 1500, "labels": "ABCD"}


def test_tooluse():
    rows, layout = read("tooluse.json")
    assert layout == "paper"
    for row, line in zip(rows, raw("tooluse.json"), strict=True):
        assert (row.id, row.verifier) == (f"tooluse/toolalpaca/train/{line['idx']}", "tooluse_react")
        assert (user(row), row.ground_truth) == (line["prompt"], line["answer"])


def test_programs_of_the_papers_repository(tmp_path):
    tests = {"testtype": "stdin", "inputs": ["1\n"], "outputs": ["2\n"], "time_limit": 3}
    line = {"kind": "code", "dataset": "dolci", "idx": 4, "system": None, "prompt": "Add one.", "answer": None}
    (row,), _ = read_rows(write(tmp_path, {**line, "tests": json.dumps(tests)}))
    assert (row.id, row.verifier) == ("coding/dolci/train/4", "code_tests")
    assert json.loads(row.ground_truth) == {**tests, "fn_name": "", "context": ""}
    with pytest.raises(UserError, match="field 'tests': the tests are not JSON"):
        read_rows(write(tmp_path, {**line, "tests": "-"}))
    with pytest.raises(UserError, match=r"there is no kind 'essay'\. Use one of: mcq, tooluse, code"):
        read_rows(write(tmp_path, {**line, "tests": "-", "kind": "essay"}))


def test_mbpp(tmp_path):
    line = {
        "task_id": 2,
        "text": "Write a function to double. ",
        "code": "import math\r\ndef helper(x):\r\n  return x\r\ndef twice(x):\r\n  return 2*helper(x)",
        "test_list": ["assert twice(2) == 4", "assert twice(0) == 0"],
        "test_setup_code": "ONE = 1",
        "challenge_test_list": [],
    }
    (row,), _ = read_rows(write(tmp_path, line))
    assert user(row) == (
        PROGRAM + "Write a function to double.\n\nName the function (or class) `twice`."
        " Example of a test it has to pass:\nassert twice(2) == 4"
    )
    truth = json.loads(row.ground_truth)
    assert truth["inputs"] == ["ONE = 1\nassert twice(2) == 4", "ONE = 1\nassert twice(0) == 0"]
    assert "\r" not in row.extra["reference_solution"]


def test_mmlu_leaves_faulty_questions_out(tmp_path):
    line = {"question": "Which?", "choices": ["w", "x", "y", "z"], "answer": 2, "error_type": "ok"}
    path = write(tmp_path, line, {**line, "error_type": "wrong_groundtruth"}, {**line, "answer": "D", "subject": "art"})
    entries = list(scan(Source(path=str(path), name="mmlu_redux"), "test"))
    assert [entry.row and entry.row.id for entry in entries] == [
        "science/mmlu_redux/test/0",
        None,
        "science/mmlu_redux/test/art/2",
    ]
    assert all(entry.problem is None for entry in entries)
    first = entries[0].row
    assert user(first) == "Which?\n\nA. w\nB. x\nC. y\nD. z" + LETTER
    assert (first.ground_truth, entries[2].row.ground_truth, first.verifier) == ("C", "D", "mcq_boxed")
    with pytest.raises(UserError, match="7 is none of 4 options"):
        read_rows(write(tmp_path, {**line, "answer": 7}))


def test_gpqa_shuffles_the_same_way_everywhere(tmp_path):
    wrong = {f"Incorrect Answer {n}": f"wrong {n}" for n in (1, 2, 3)}
    lines = [{"Record ID": f"rec{n}", "Question": "Why?\n", "Correct Answer": "right", **wrong} for n in range(40)]
    rows, _ = read_rows(write(tmp_path, *lines))
    for row in rows:
        options = dict(re.findall(r"^([A-D])\. (.*)$", user(row), re.MULTILINE))
        assert options[row.ground_truth] == "right"
        assert sorted(options.values()) == ["right", "wrong 1", "wrong 2", "wrong 3"]
    assert {row.ground_truth for row in rows} == set("ABCD")
    assert read_rows(write(tmp_path, *lines[::-1]))[0] == rows[::-1]


PAIRS = [{"input": "1\n", "output": "2\n"}, {"input": "3\n", "output": "4\n"}]


def packed(value, pickled):
    data = pickle.dumps(json.dumps(value)) if pickled else json.dumps(value).encode()
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize("pickled", [True, False])
def test_livecodebench(tmp_path, pickled):
    line = {
        "question_id": "abc1",
        "question_content": "Add one.",
        "starter_code": "",
        "platform": "atcoder",
        "public_test_cases": json.dumps([{**PAIRS[0], "testtype": "stdin"}]),
        "private_test_cases": packed(PAIRS[1:], pickled),
        "metadata": "{}",
    }
    (row,), _ = read_rows(write(tmp_path, line))
    truth = json.loads(row.ground_truth)
    assert (truth["testtype"], truth["inputs"], truth["outputs"]) == ("stdin", ["1\n", "3\n"], ["2\n", "4\n"])
    function = {"starter_code": "class Solution:\n  def f(self, x):", "metadata": '{"func_name": "f"}'}
    (row,), _ = read_rows(write(tmp_path, {**line, **function}))
    truth = json.loads(row.ground_truth)
    assert (truth["testtype"], truth["fn_name"]) == ("functional", "f")
    assert "class Solution:" in user(row)


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle was run')",))


@pytest.mark.parametrize("value", [Trap(), ["a", "b"], {"a": 1}])
def test_pickles_are_never_run(tmp_path, value):
    blob = base64.b64encode(zlib.compress(pickle.dumps(value))).decode()
    line = {"question_id": "1", "question_content": "?", "public_test_cases": json.dumps(PAIRS)}
    with pytest.raises(UserError, match="field 'private_test_cases': the tests are neither JSON nor packed JSON"):
        read_rows(write(tmp_path, {**line, "private_test_cases": blob}))


def test_a_small_text_cannot_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_sdpo.data.layouts.packed.MAX_UNPACKED", 1000)
    line = {"question_id": "1", "question_content": "?", "public_test_cases": packed(PAIRS * 100, False)}
    with pytest.raises(UserError, match="unpack to more than"):
        read_rows(write(tmp_path, line))


def test_dolci(tmp_path):
    lines = [
        {"prompt": "user: Add.", "ground_truth": [packed(PAIRS, True)], "dataset": ["code_stdio"], "custom_id": "a"},
        {"prompt": "user: Add.", "ground_truth": ['["assert f(1) == 2"]'], "dataset": ["code"], "custom_id": "b"},
        {"prompt": "user: 1+1?", "ground_truth": ["2"], "dataset": ["math"], "custom_id": "c"},
        {"prompt": "user: Sing.", "ground_truth": ["la"], "dataset": ["ifeval"], "custom_id": "d"},
    ]
    rows, skipped = read_rows(write(tmp_path, *lines))
    assert skipped == 0
    assert [(row.id, row.verifier) for row in rows] == [
        ("coding/dolci/train/a", "code_tests"),
        ("coding/dolci/train/b", "code_tests"),
        ("math/dolci/train/c", "math_boxed"),
    ]
    assert json.loads(rows[0].ground_truth)["inputs"] == ["1\n", "3\n"]
    assert json.loads(rows[1].ground_truth)["inputs"] == ["assert f(1) == 2"]
    assert user(rows[2]) == "1+1?" + BOXED


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        ({"a": 1, "b": 2}, {}, "line 1: the columns a, b are of no known layout. Name the columns"),
        ({"question": "1+1?", "answer": "2"}, {}, "the columns question, answer are of no known layout"),
        ({"question": "1+1?", "answer": "2"}, {"layout": "gsm8k"}, "line 1, field 'answer': .* no number behind ####"),
        ({"problem": "1+1?", "label": "2"}, {"layout": "problems"}, "field 'answer': .*missing, which layout problems"),
        ({"problem": "1+1?", "answer": "2"}, {"layout": "gsm9k"}, "no layout 'gsm9k'. Use one of: paper, rows"),
        ({"problem": "1+1?", "answer": "2"}, {"columns": {"anser": "x"}}, "no such field 'anser'. Map some of"),
        ({"problem": "1+1?", "answer": " "}, {}, "field 'answer': the text is empty"),
        ({"problem": 3, "answer": "2"}, {}, "field 'problem': text is needed, not a number"),
        (
            {"kind": "mcq", "dataset": "s", "prompt": "a", "idx": 1, "answer": "A"},
            {"prompt": "{question}!"},
            "finished",
        ),
    ],
)
def test_a_wrong_layout_says_what_would_be_right(tmp_path, line, options, message):
    with pytest.raises(UserError, match=message):
        read_rows(Source(path=str(write(tmp_path, line)), **options))


def test_the_first_row_decides_and_later_ones_are_named(tmp_path):
    path = write(tmp_path, {"problem": "1+1?", "answer": 2}, {"question": "1+2?", "answer": "3"})
    with pytest.raises(
        UserError, match=r"line 2, field 'problem': .*layout problems \(recognised from the first row\)"
    ):
        read_rows(path)


def test_own_columns_and_prompt_for_any_layout(tmp_path):
    path = write(tmp_path, {"q": {"text": "1+1?"}, "meta": {"answers": [{"final": "2"}]}})
    columns = {"problem": "q.text", "answer": "meta.answers.0.final"}
    source = Source(path=str(path), layout="problems", columns=columns, prompt="Box it: {question} {not a field}")
    (row,), _ = read_rows(source)
    assert (user(row), row.ground_truth) == ("Box it: 1+1? {not a field}", "2")


def test_every_layout_has_a_name_of_its_own_and_says_what_it_is():
    assert list(LAYOUTS) == [layout.name for layout in LAYOUTS.values()]
    assert all((layout.__doc__ or "").startswith("``") for layout in LAYOUTS.values())
