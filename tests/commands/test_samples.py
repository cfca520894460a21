from __future__ import annotations

import json

import pytest

from lit_sdpo.cli import main
from lit_sdpo.commands.samples import read
from lit_sdpo.errors import UserError


def record(number, **changes):
    made = {
        "id": f"math/{number % 2}",
        "task": "math",
        "stage": number // 4,
        "step": number,
        "split": "train" if number % 2 else "validation",
        "prompt": [{"role": "user", "content": f"question {number}"}],
        "completion": f"answer {number} " + "word " * 60,
        "reward": number / 8,
        "finished": number != 3,
        "length": 5,
        "flags": ["no_answer"] if number == 0 else [],
    }
    return {**made, **changes}


@pytest.fixture
def run(tmp_path):
    records = [record(n) for n in range(8)] + [record(8, reward=None, task="law")]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return tmp_path


def steps(capsys):
    return [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], list(range(9))),
        (["--worst", "3"], [0, 1, 2]),
        (["--best", "2"], [7, 6]),
        (["--task", "math", "--split", "train", "--worst", "2"], [1, 3]),
        (["--stage", "1"], [4, 5, 6, 7]),
        (["--step", "5"], [5]),
        (["--id", "math/1"], [1, 3, 5, 7]),
        (["--task", "law"], [8]),
    ],
)
def test_what_is_asked_for_is_shown(run, capsys, options, expected):
    assert main(["samples", str(run), "--json", *options]) == 0
    assert steps(capsys) == expected


def test_a_terminal_gets_wrapped_text_and_the_facts(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["samples", str(run), "--worst", "1"]) == 0
    out = capsys.readouterr().out
    assert "math/0 · math · validation · stage 0 · step 0" in out
    assert "no_answer" in out
    assert "question 0" in out
    assert max(map(len, out.splitlines())) <= 60
    assert out.count("word") == 60


def test_control_characters_do_not_reach_the_terminal(run, capsys):
    with (run / "samples.jsonl").open("a") as file:
        file.write(json.dumps(record(9, completion="\x1b[2J\u202e")) + "\n")
    assert main(["samples", str(run), "--step", "9"]) == 0
    assert capsys.readouterr().out.isprintable() is False  # newlines only
    main(["samples", str(run), "--step", "9"])
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())


def test_a_line_that_is_being_written_is_left_out(run, capsys):
    with (run / "samples.jsonl").open("a") as file:
        file.write('{"id": "half')
    assert main(["samples", str(run), "--json"]) == 0
    assert len(steps(capsys)) == 9


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "poems"], "task math, law"),
        (["--stage", "7"], "stage 0, 1, 2"),
    ],
)
def test_nothing_found_says_what_there_is(run, capsys, options, said):
    assert main(["samples", str(run), *options]) == 2
    assert said in capsys.readouterr().err


def test_mistakes_are_explained(tmp_path, run, capsys):
    assert main(["samples", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: there are no samples" in capsys.readouterr().err
    folder = tmp_path / "runs" / "version_0"
    folder.mkdir(parents=True)
    file = (run / "samples.jsonl").rename(folder / "samples.jsonl")
    assert main(["samples", str(folder.parent)]) == 2
    assert str(folder) in capsys.readouterr().err
    assert main(["samples", str(folder), "--worst", "0"]) == 2
    file.write_text("{\n" + file.read_text())
    assert main(["samples", str(file)]) == 2
    assert "line 1" in capsys.readouterr().err


GOOD = {"id": "a", "task": "t", "split": "train", "stage": 0, "step": 1, "reward": 1.0, "length": 2, "flags": []}
GOOD |= {"prompt": [{"role": "user", "content": "?"}], "completion": "!"}


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (5, "no object"),
        ([], "no object"),
        ({"id": "a"}, "it has no task"),
        (GOOD | {"id": 3}, "its id is something else"),
        (GOOD | {"stage": True}, "its stage is something else"),
        (GOOD | {"prompt": "text"}, "its prompt is something else"),
        (GOOD | {"prompt": [1]}, "no list of messages"),
        (GOOD | {"prompt": [{"role": "user"}]}, "no list of messages"),
        (GOOD | {"flags": [1]}, "its flags are no texts"),
    ],
)
def test_lines_that_are_no_samples_are_refused(tmp_path, record, text):
    path = tmp_path / "samples.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{json.dumps(record)}\n")
    with pytest.raises(UserError, match=text) as caught:
        list(read(path))
    assert caught.value.where == f"{path}, line 2"
