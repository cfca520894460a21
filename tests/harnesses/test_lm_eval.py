from __future__ import annotations

import csv
import hashlib
import io
import json
import math

import pytest

from lit_sdpo.cli import main
from lit_sdpo.errors import UserError
from lit_sdpo.harnesses.lm_eval import read_samples, transitions_between

#: Right (1) or wrong (0) before and after; by hand: lost 3 of 8, won 2 of 8.
BEFORE = [1, 1, 1, 1, 1, 0, 0, 0]
AFTER = [1, 1, 0, 0, 0, 1, 1, 0]


def hashed(text):
    return hashlib.sha256(text.encode()).hexdigest()


def choice(n, right, options=4, **changes):
    """A line as lm_eval 0.4.13 writes it for a question with options."""
    question = f"Which is {n}?"
    asked = {f"gen_args_{k}": {"arg_0": question, "arg_1": f" option {k}"} for k in range(options)}
    return {
        "doc_id": n,
        "doc": {"question": question, "answer": 1},
        "target": "1",
        "arguments": asked,
        "resps": [[["-1.5", "False"]]] * options,
        "filtered_resps": [["-1.5", "False"]] * options,
        "filter": "none",
        "metrics": ["acc", "acc_norm"],
        "doc_hash": hashed(question),
        "prompt_hash": hashed(question + "prompt"),
        "target_hash": hashed("1"),
        "acc": float(right),
        "acc_norm": 1.0 - right,
        **changes,
    }


def free(n, right, name, **changes):
    line = choice(n, right, options=1, filter=name, metrics=["exact_match"], exact_match=float(right))
    line["arguments"] = {"gen_args_0": {"arg_0": f"Which is {n}?", "arg_1": {"until": ["\n"], "do_sample": False}}}
    del line["acc"], line["acc_norm"]
    return {**line, **changes}


def write(folder, task, lines, date="2026-11-26T04-00-00.123456"):
    place = folder / "some__model"
    place.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (place / f"samples_{task}_{date}.jsonl").write_text(text)
    return folder


@pytest.fixture
def results(tmp_path):
    for side, scores in (("before", BEFORE), ("after", AFTER)):
        write(tmp_path / side, "quiz_a", [choice(n, x) for n, x in enumerate(scores)])
        lines = [free(n, x, "strict-match") for n, x in enumerate(scores)]
        lines += [free(n, 1 - x, "flexible-extract") for n, x in enumerate(scores)]
        write(tmp_path / side, "sums", lines)
    return tmp_path


def test_what_was_lost_and_won(results):
    before, after = read_samples(results / "before"), read_samples(results / "after")
    assert list(before) == ["quiz_a", "sums"]
    assert before["quiz_a"].choices == 4
    assert before["sums"].choices is None
    quiz, sums = transitions_between(before, after)
    for record in (quiz, sums):
        assert (record["items"], record["before"], record["after"]) == (8, 5 / 8, 4 / 8)
        assert (record["lost"], record["won"]) == (3 / 8, 2 / 8)
        # Wilson's interval by hand: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), z of Student's distribution and
        # n less one, since the variance comes from the questions themselves
        z, n, p = 2.364624, 7, 3 / 8
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        ends = [(p + z * z / (2 * n) + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
        assert [record["lost_low"], record["lost_high"]] == pytest.approx(ends, abs=1e-4)
        assert record["mcnemar"] == pytest.approx(1.0)  # 3 against 2
    # Guessing moves (1 - 5/8) (1 - 4/8) / (4 - 1) in each direction.
    assert quiz["by_guessing"] == pytest.approx(0.0625)
    assert quiz["lost_true"] == pytest.approx(3 / 8 - 0.0625)
    assert quiz["won_true"] == pytest.approx(2 / 8 - 0.0625)
    assert "lost_true" not in sums


def test_metric_and_filter_are_chosen(results):
    chosen = read_samples(results / "before" / "some__model", metric="acc_norm", filter="none", choices=2)
    assert chosen["sums"].metric == "exact_match"
    norm = chosen["quiz_a"]
    assert [norm.scores[str(n)] for n in range(8)] == [1 - x for x in BEFORE]
    assert norm.choices == 2
    (path,) = (results / "before").rglob("samples_sums_*")
    assert read_samples(path)["sums"].filter == "strict-match"
    other = read_samples(path, filter="flexible-extract")["sums"]
    assert [other.scores[str(n)] for n in range(8)] == [1 - x for x in BEFORE]


def test_the_latest_evaluation_of_a_task_counts(tmp_path):
    write(tmp_path, "quiz", [choice(0, 0)], "2026-11-26T04-00-00.1")
    write(tmp_path, "quiz", [choice(0, 1)], "2026-11-27T03-00-00.1")
    assert read_samples(tmp_path)["quiz"].scores == {"0": 1.0}


def test_options_after_an_empty_prompt_are_not_counted(tmp_path):
    line = choice(0, 1)
    line["arguments"] |= {f"gen_args_{k + 4}": {"arg_0": "", "arg_1": f" option {k}"} for k in range(4)}
    assert read_samples(write(tmp_path, "quiz", [line, choice(1, 1), choice(2, 1, options=3)]))["quiz"].choices == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"doc_hash": hashed("another question")}, "questions differ"),
        ({"doc_id": 99}, "no question is in both"),
        ({"metrics": ["f1"], "f1": 0.5}, "different metrics"),
    ],
)
def test_evaluations_that_do_not_compare(tmp_path, changes, said):
    before = read_samples(write(tmp_path / "a", "quiz", [choice(0, 1)]))
    after = read_samples(write(tmp_path / "b", "quiz", [choice(0, 1, **changes)]))
    with pytest.raises(UserError, match=said):
        transitions_between(before, after)
    with pytest.raises(UserError, match="no task is in both"):
        transitions_between(before, {"other": after["quiz"]})


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("", {}, "no samples in it"),
        ("{}\n", {}, "no doc_id"),
        ("{\n", {}, "line 1"),
        (json.dumps(choice(0, 1, acc=[1], acc_norm="x")), {}, "no metric"),
        (json.dumps(choice(0, 1)), {"metric": "bleu"}, "use one of: acc, acc_norm"),
        (json.dumps(choice(0, 1)), {"filter": "strict"}, "use one of: none"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, text, options, said):
    path = tmp_path / "samples_quiz_2026-11-26T04-00-00.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=f"(?i){said}"):
        read_samples(path, **options)


def test_the_command(results, capsys):
    arguments = ["transitions", str(results / "before"), str(results / "after")]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:6] == ["quiz_a", "acc", "8", "0.625", "0.500", "-0.125"]
    assert "0.375 [0.103, 0.758]" in lines[1]
    assert lines[2].split()[1] == "exact_match,strict-match"
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["won"] == 0.25
    assert main([*arguments, "--csv"]) == 0
    assert [row["task"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == ["quiz_a", "sums"]
    assert main(["transitions", str(results), str(results / "none")]) == 2
    assert "--log_samples" in capsys.readouterr().err


def test_other_renderings_and_single_tasks_are_noted(results, capsys):
    write(results / "after", "quiz_a", [choice(n, x, prompt_hash="other") for n, x in enumerate(AFTER)])
    write(results / "after", "more", [choice(0, 1)])
    assert main(["transitions", str(results / "before"), str(results / "after")]) == 0
    said = capsys.readouterr().err
    assert "8 of 8 prompts were rendered differently" in said
    assert "more is in one of the evaluations only" in said
