"""``lit-sdpo data check`` on files and configurations, in process."""

from __future__ import annotations

import gzip
import json

import pytest
import yaml

from lit_sdpo.cli import main
from lit_sdpo.data.check.overlap import OverlapFinder, words
from lit_sdpo.data.check.pairs import PairFinder
from lit_sdpo.data.check.pairs import _pair as pair_of
from lit_sdpo.data.check.report import Group
from lit_sdpo.data.task import Row
from lit_sdpo.policies.load import load_tokenizer, render
from lit_sdpo.rewards import registry
from lit_sdpo.rewards.registry import register_verifiers
from tests.data.test_readers import GOOD, write
from tests.data.test_records import parquet
from tests.tiny_model import FILES, save_tiny_model

LONG = "A farmer has 12 fields with 7 rows of 30 trees each, and every tree bears 5 apples a day."


@pytest.fixture
def check(capsys):
    """Runs the check; gives exit code and report."""

    def run(*arguments):
        capsys.readouterr()  # what made the files may have shown its progress
        code = main(["data", "check", *map(str, arguments), "--json"])
        captured = capsys.readouterr()
        # On a busy machine a comparison of pairs takes long enough to say how far it is.
        assert [line for line in captured.err.splitlines() if not line.endswith(" s left")] == []
        return code, json.loads(captured.out)

    return run


def row(number, prompt=None, **changes):
    messages = [{"role": "user", "content": prompt or f"What is {number}+1? Use \\boxed."}]
    return {**GOOD, "id": f"r{number}", "messages": messages, "ground_truth": str(number + 1)} | changes


def test_files_without_mistakes(tmp_path, check):
    train = write(tmp_path, row(1), row(2), name="train.jsonl")
    test = write(tmp_path, row(3, split="test"), name="test.jsonl")
    code, report = check(train, test)
    assert (code, report["ok"], report["findings"], report["notes"]) == (0, True, [], [])
    assert [(g["task"], g["split"], g["rows"], g["answers_checked"]) for g in report["groups"]] == [
        ("sums", "train", 2, 2),
        ("sums", "test", 1, 1),
    ]
    assert report["groups"][0]["layouts"] == {str(train): "rows (recognised)"}


@pytest.mark.parametrize(
    ("rows", "kind", "place", "message"),
    [
        ([row(1), "{broken"], "row", "line 2", "not JSON"),
        ([row(1), row(2, ground_truth=None)], "row", "line 2, field 'ground_truth'", "missing"),
        ([row(1), row(2, verifier="mth")], "row", "line 2, field 'verifier'", "no such verifier 'mth'"),
        ([row(1), row(2), row(1, "Other? \\boxed")], "id", "line 3", "stands at"),
        ([{"a": 1}], "source", "line 1", "no known layout"),
        (
            [row(1, verifier="never")],
            "answer",
            "line 1",
            "refuses the row's own answer (no, never)",
        ),
        ([row(1, verifier="always")], "answer", "line 1", "takes an empty answer for right"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, check, rows, kind, place, message):
    path = write(tmp_path, *rows)
    code, report = check(path)
    assert code == 2
    (finding,) = report["findings"]
    assert (finding["kind"], finding["where"]) == (kind, f"{path}, {place}")
    assert message in finding["what"]
    assert finding["fix"]
    assert report["counts"] == {kind: 1}


@pytest.fixture(autouse=True)
def never(monkeypatch):
    monkeypatch.setattr(registry, "REGISTERED", {})
    register_verifiers({"never": "tests.data.test_check.Never", "always": "tests.data.test_check.always"})


class Never:
    """A verifier that no answer is right for."""

    isolated = False  # it needs no process of its own

    def __call__(self, completion, row):
        from lit_sdpo import Verdict

        return Verdict(0.0, "no, never")

    def reference(self, ground_truth, extra):
        return ground_truth


def always(completion, row):
    from lit_sdpo import Verdict

    return Verdict(1.0)


always.isolated = False


def test_all_mistakes_are_found_and_the_rest_goes_on(tmp_path, check):
    bad, good = write(tmp_path, "{", row(1), "[]", name="a.jsonl"), write(tmp_path, row(2), name="b.jsonl")
    code, report = check(bad, tmp_path / "gone.jsonl", good)
    assert code == 2
    assert [finding["kind"] for finding in report["findings"]] == ["row", "row", "source"]
    assert report["groups"][0]["rows"] == 2


def test_answers_can_be_left_unchecked(tmp_path, check):
    path = write(tmp_path, row(1, verifier="never"))
    assert check(path, "--skip_answers")[0] == 0
    nothing_to_check = write(tmp_path, {"id": 1, "prompt": "Write f.", "answer": TESTS}, name="code.jsonl")
    code, report = check(nothing_to_check, "--verifier", "code_tests")
    assert code == 0
    assert "1 answers not checked: the rows hold no correct completion" in report["notes"][0]


TESTS = json.dumps({"testtype": "code", "inputs": ["assert f()"], "outputs": [""], "time_limit": 1})


def test_prompts_that_do_not_ask_for_the_format_are_noted(tmp_path, check):
    code, report = check(write(tmp_path, row(1, "What is 1+1?")))
    assert code == 0
    assert report["notes"] == ["1 prompts do not name the answer format of math_boxed (\\boxed)"]


def test_plain_rows_with_columns_and_a_prompt(tmp_path, check):
    path = write(tmp_path, {"q": "1+1?", "meta": {"a": 2}}, {"q": "1+2?", "meta": {"a": 3}}, name="mine.jsonl")
    columns = "{prompt: q, answer: meta.a}"
    code, report = check(
        path, "--columns", columns, "--verifier", "math_boxed", "--prompt", "{question} Use \\boxed{}."
    )
    assert (code, report["notes"]) == (0, [])
    assert report["groups"][0]["lengths"]["max"] == len("1+1? Use \\boxed{}.")


def test_lengths_in_tokens(tmp_path, check):
    model = save_tiny_model(tmp_path / "model")
    lines = [row(1), row(2, "word " * 100 + "\\boxed")]
    path = write(tmp_path, *lines)
    tokenizer = load_tokenizer(str(model))
    lengths = [len(render(tokenizer, line["messages"])) for line in lines]
    code, report = check(path, "--model", model, "--max_prompt_tokens", lengths[1] - 1)
    assert code == 2
    (finding,) = report["findings"]
    assert (finding["kind"], finding["where"]) == ("length", f"{path}, line 2")
    assert f"{lengths[1]} tokens, more than max_prompt_tokens = {lengths[1] - 1}" in finding["what"]
    found = report["groups"][0]["lengths"]
    assert (found["unit"], found["min"], found["max"]) == ("tokens", *lengths)
    assert check(path, "--model", model, "--max_prompt_tokens", lengths[1])[0] == 0


def test_the_text_says_the_same(tmp_path, capsys):
    path = write(tmp_path, row(1), "{", row(2, "x" * 200 + "\\boxed"), *("{" for _ in range(30)))
    assert main(["data", "check", str(path)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "task",
        "split",
        "rows",
        "answers",
        "min",
        "median",
        "p95",
        "max",
        *["(characters", "of", "a", "prompt)"],
    ]
    assert lines[1].split() == ["sums", "train", "2", "2", "24", "24", "206", "206"]
    assert any(line.split() == ["0", "-", "63", "#" * 40, "1"] for line in lines)
    assert f"{path}: layout rows (recognised)" in lines
    assert any(line.startswith(f"  {path}, line 2: the line is not JSON") for line in lines)
    assert "rows that do not fit: 31" in lines
    assert next(line for line in lines if "not JSON" in line).endswith("So 30 more.")
    assert len([line for line in lines if "not JSON" in line]) == 1
    assert lines[-1] == "2 rows, 31 findings"


def test_training_rows_that_are_evaluated(tmp_path, check):
    train = write(tmp_path, row(1), row(2, LONG + " How many? \\boxed"), row(3), name="train.jsonl")
    same = row(8, "what  is 1+1 -- use \\boxed", split="test")
    other = row(9, LONG + " Compute all of the apples of one day. \\boxed", split="test")
    test = write(tmp_path, row(7, "What is \uff11+\uff11 ?  USE \\boxed", split="test"), other, same, name="test.jsonl")
    code, report = check(train, "--test", test, "--share", 0.5)
    assert code == 2
    assert [(f["kind"], f["where"]) for f in report["findings"]] == [
        ("duplicate", f"{train}, line 1"),
        ("alike", f"{train}, line 2"),
    ]
    assert f"{test}, line 1" in report["findings"][0]["what"]
    assert f"{test}, line 2" in report["findings"][1]["what"]
    assert report["rule"] == "the same words, or 50% of the 8-grams"
    assert check(train, "--test", test, "--share", 0)[1]["counts"] == {"duplicate": 1}


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_writing_without_duplicates(tmp_path, check, name):
    train = write(tmp_path, row(1), "{broken", row(2), row(3, split="test"), row(4), name="train.jsonl")
    test = write(tmp_path, row(2, id="x", split="test"), name="test.jsonl")
    code, report = check(train, "--test", test, "--write-deduplicated", tmp_path / name)
    assert code == 2
    assert report["notes"][-1] == f"{tmp_path / name}: 4 entries written, 1 left out"
    content = (tmp_path / name).read_bytes()
    lines = (gzip.decompress(content) if name.endswith("gz") else content).splitlines()
    assert lines == [line for n, line in enumerate(train.read_bytes().splitlines()) if n != 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "test.jsonl", "train.jsonl"])


def test_writing_parquet_without_duplicates(tmp_path, check):
    lines = [{"prompt": f"What is {n}+1? \\boxed", "answer": n + 1} for n in range(4)]
    train, test = parquet(tmp_path / "train.parquet", lines), parquet(tmp_path / "test.parquet", lines[1:3])
    code, _ = check(train, "--test", test, "--verifier", "math_boxed", "--write_deduplicated", tmp_path / "o.parquet")
    assert code == 2
    read = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "o.parquet").to_pylist()
    assert read == [lines[0], lines[3]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["A", "B", "--write-deduplicated", "new.jsonl"], "one training file is needed"),
        (["A", "--write-deduplicated", "A"], "the file exists"),
        (["A", "--write-deduplicated", "new.parquet"], "the kind of file would change"),
        (["A", "--model", "./nowhere"], "no folder './nowhere'"),
        (["A", "--layout", "gsm9k"], "there is no layout 'gsm9k'"),
        (["none.yaml"], "no configuration file 'none.yaml'"),
    ],
)
def test_mistakes_in_the_arguments(tmp_path, capsys, arguments, message):
    files = {name: str(write(tmp_path, row(n), name=f"{name}.jsonl")) for n, name in enumerate("AB")}
    arguments = [files.get(word, str(tmp_path / word) if word.startswith("new") else word) for word in arguments]
    assert main(["data", "check", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err + captured.out
    assert "Traceback" not in captured.err


def test_help_names_the_options(capsys):
    assert main(["data", "check", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(option in text for option in ("--write-deduplicated", "--columns", "--json", "--test", "--model"))


def config(folder, *stages, probes=(), **model):
    content = {
        "model": {"class_path": "SDPO", "init_args": {"model_name": "micro", **model}},
        "data": {
            "class_path": "ContinualDataModule",
            "init_args": {"stages": [{"task": task, "steps": 1} for task in stages], "probes": list(probes)},
        },
        "rollout": {"max_prompt_tokens": 60},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def task(name, class_path="JsonlTask", **init_args):
    return {"class_path": class_path, "init_args": {"name": name, **init_args}}


def test_a_configuration_is_checked_over_all_its_tasks(tmp_path, check):
    train = write(tmp_path, row(1), row(2, "z" * 90), name="train.jsonl")
    probe = write(tmp_path, row(1, id="p"), "{", name="probe.jsonl")
    source = {"path": str(probe), "name": "p"}
    path = config(tmp_path, task("sums", train=str(train)), probes=[task("probe", validation=[source])])
    code, report = check(path)
    assert code == 2
    assert [(g["task"], g["split"], g["rows"]) for g in report["groups"]] == [
        ("sums", "train", 2),
        ("probe", "validation", 1),
    ]
    assert [(f["kind"], f["where"]) for f in report["findings"]] == [
        ("row", f"{probe}, line 2"),
        ("length", f"{train}, line 2"),
        ("duplicate", f"{train}, line 1"),
    ]
    assert "max_prompt_tokens = 60" in report["findings"][1]["what"]
    overlay = tmp_path / "over.yaml"
    overlay.write_text(f"extends: {path.name}\nrollout: {{max_prompt_tokens: 200}}\n")
    assert [f["kind"] for f in check(overlay)[1]["findings"]] == ["row", "duplicate"]


def test_rows_that_are_scored_by_likelihood(tmp_path, check):
    """Each mistake with file, row and field, and training prompts that hold an evaluated text; nothing is verified."""
    train = write(tmp_path, row(1), row(2, LONG), name="train.jsonl")
    texts = write(tmp_path, {"text": LONG}, {"text": ""}, name="texts.jsonl")
    choice = {"question": "Which?", "choices": ["a", "b"]}
    choices = write(tmp_path, choice | {"answer": 1}, choice | {"answer": 2}, name="choices.jsonl")
    path = config(tmp_path, task("sums", train=str(train)))
    content = yaml.safe_load(path.read_text())
    content["data"]["init_args"]["likelihood"] = [
        task("texts", "TextLikelihood", validation=str(texts)),
        task("choices", "MultipleChoiceLikelihood", validation=[{"path": str(choices)}]),
    ]
    path.write_text(yaml.safe_dump(content))
    code, report = check(path)
    bad = [(f"{texts}, line 2, field 'text'"), f"{choices}, line 2, field 'answer'"]
    assert code == 2
    assert [f["where"] for f in report["findings"]] == [*bad, f"{train}, line 2"]
    assert report["findings"][-1]["kind"] == "duplicate"
    assert [(g["task"], g["split"], g["rows"]) for g in report["groups"]][1:] == [
        ("texts", "validation", 1),
        ("choices", "validation", 1),
    ]
    code, report = check("--likelihood", texts, choices, "--model", "micro")
    assert [f["where"] for f in report["findings"]] == bad
    assert report["groups"][0]["lengths"]["max"] > 5


def test_named_tasks_in_a_configuration(tmp_path, check):
    raw = FILES / "layouts"
    science = {"task": "science", "train": str(raw / "sciknoweval.json"), "validation": [str(raw / "sciknoweval.json")]}
    path = config(tmp_path, {"class_path": "NamedTask", "init_args": science})
    code, report = check(path, "--max_prompt_tokens", 5000)
    assert code == 2
    assert report["counts"] == {"duplicate": 3}
    assert {g["layouts"][str(raw / "sciknoweval.json")] for g in report["groups"]} == {"paper (recognised)"}


def test_a_source_may_be_a_mapping(tmp_path, check):
    train = write(tmp_path, row(1), name="train.jsonl")
    code, report = check(config(tmp_path, task("sums", train={"path": str(train)})))
    assert (code, [(g["task"], g["split"], g["rows"]) for g in report["groups"]]) == (0, [("sums", "train", 1)])


def test_generated_tasks_are_checked_too(check, tmp_path):
    path = tmp_path / "micro.yaml"
    content = {"class_path": "MicroDataModule", "init_args": {"order": ["math"], "steps": 1}}
    path.write_text(yaml.safe_dump({"data": content}))
    _, report = check(path, "--share", 0)
    assert {g["split"] for g in report["groups"] if g["task"] == "math"} == {"train", "validation", "test"}
    assert "row" not in report["counts"]


def test_a_mistake_in_a_configuration(tmp_path, capsys):
    assert main(["data", "check", str(config(tmp_path, task("sums", trian="a.jsonl")))]) == 2
    error = capsys.readouterr().err
    assert "no option 'trian'" in error
    assert "train" in error


def test_words_keep_what_tells_problems_apart():
    assert words("Straße — \uff21B, c?") == ["strasse", "—", "ab", "c"]
    assert words("1-2") != words("1+2")


def test_what_all_prompts_share_does_not_make_them_alike():
    frame = "Please answer the following question with care and write nothing but the final number at the end."
    finder = OverlapFinder(ngram=8, share=0.5)
    for n in range(6):
        finder.add(f"{frame} {n} apples", evaluated=True)
    finder.add(f"{frame} seven pears", evaluated=False)
    assert list(finder.find()) == []


def test_shares_are_counted_by_hand():
    """11 words are 4 n-grams of 8; the training prompt has all of them, or lacks the last."""
    text = "one two three four five six seven eight nine ten eleven"
    finder = OverlapFinder(ngram=8, share=0.7)
    finder.add(f"{text} twelve", evaluated=True)  # 5 n-grams
    finder.add(f"zero {text}", evaluated=False)  # 4 of them
    finder.add("zero " + text.removesuffix(" eleven"), evaluated=False)  # 3 of them, fewer than count
    assert [(found.train, found.share, found.same) for found in finder.find()] == [(0, 0.8, False)]


def test_quantiles_and_classes():
    group = Group("t", "train", lengths=[*range(1, 101)])
    assert [group.quantile(share) for share in (0.0, 0.5, 0.95, 1.0)] == [1, 50, 95, 100]
    assert group.histogram() == [(0, 64, 63), (64, 128, 37)]
    assert Group("t", "train").histogram() == []


def test_pairs_of_different_answers(tmp_path, check, capsys):
    truths = ["1/2", "0.5", "2", "(1,2)", "(2,1)", "2"]
    path = write(tmp_path, *(row(n, ground_truth=truth) for n, truth in enumerate(truths)))
    code, report = check(path, "--pairs", 100)
    assert code == 0, report["findings"]
    (found,) = report["pairs"]
    assert (found["answers"], found["possible"], found["compared"], found["abstained"]) == (5, 10, 10, 0)
    assert [{pair["given"], pair["truth"]} for pair in found["equal"]] == [{"1/2", "0.5"}]
    assert (found["equal"][0]["first"], found["equal"][0]["second"]) == (f"{path}, line 2", f"{path}, line 1")
    _, drawn = check(path, "--pairs", 3)
    assert drawn["pairs"][0]["compared"] == 3
    assert check(path)[1]["pairs"] == []
    main(["data", "check", str(path), "--pairs", "100"])
    assert (
        "5 different answers, 10 pairs put to math_boxed, 1 judged equal\n  '0.5'  =  '1/2'" in capsys.readouterr().out
    )


def test_every_pair_has_one_index():
    pairs = [pair_of(index) for index in range(45)]
    assert sorted(pairs) == [(first, second) for first in range(10) for second in range(first)]


def test_pairs_tell_how_far_they_are():
    finder, seen = PairFinder(1000), []
    finder.progress = lambda done, total: seen.append((done, total))
    for number in range(40):
        truth = {"ground_truth": str(number), "reference": rf"\boxed{{{number}}}", "verifier": "numeric_boxed"}
        finder.add("file", f"line {number}", Row(id=str(number), messages=[], **truth))
    assert [len(report.equal) for report in finder.find()] == [0]
    assert seen == [(500, 780), (780, 780)]


def test_rows_that_no_verifier_judges_need_rewards(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1?", "hint": "two"}\n')
    task = {"class_path": "JsonlTask", "init_args": {"name": "sums", "validation": str(tmp_path / "rows.jsonl")}}
    run = {"data": {"class_path": "ContinualDataModule", "init_args": {"stages": [], "probes": [task]}}}
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    assert main(["data", "check", str(tmp_path / "rows.jsonl")]) == 0
    assert "1 rows have no verifier: rewards judge them" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "run.yaml")]) == 2
    assert "rows.jsonl, line 1: 1 rows have no verifier, and there are no rewards" in capsys.readouterr().out
    (tmp_path / "run.yaml").write_text(json.dumps(run | {"rollout": {"rewards": "my_rewards.brevity"}}))
    assert main(["data", "check", str(tmp_path / "run.yaml")]) == 0
