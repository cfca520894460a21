from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lit_sdpo.errors import UserError
from lit_sdpo.functional import MatrixDrift
from lit_sdpo.report.study import Study
from tests.report.made_runs import flat, on_disk

ROWS = [{"a": flat(a, 4), "b": flat(b, 4)} for a, b in ((0.25, 0.5), (0.75, 0.5), (0.5, 1.0))]


def made(folder: Path, **options) -> Path:
    return on_disk(folder, ROWS, **options)


def test_a_sweep_has_methods_in_natural_order_and_seeds_in_order(tmp_path):
    for lr in ("1e-3", "1e-4"):
        for seed in (10, 2):
            made(tmp_path / "sdpo" / lr / f"seed={seed}", seed=seed)
    made(tmp_path / "grpo" / "seed=2", seed=2)
    study = Study.read([tmp_path])
    assert study.methods == ["grpo", "sdpo/1e-4", "sdpo/1e-3"]
    assert [run.seed for run in study.runs("sdpo/1e-3")] == [2, 10]
    assert study.seeds == [2, 10]
    assert study.runs("unknown") == []
    assert not study.left_out


@pytest.mark.parametrize("given", ["", "quickstart", "quickstart/version_0"])
def test_a_plain_run_has_the_name_of_its_logger(tmp_path, given):
    made(tmp_path / "quickstart" / "version_0", seed=3)
    (run,) = Study.read([tmp_path / given]).all_runs
    assert (run.method, run.seed) == ("quickstart", 3)


def test_a_run_of_another_name_is_its_own_method(tmp_path):
    made(tmp_path / "old" / "first", seed=0)
    made(tmp_path / "old" / "second", seed=0)
    assert Study.read([tmp_path]).methods == ["old/first", "old/second"]


def test_a_run_that_is_given_twice_counts_once(tmp_path):
    made(tmp_path / "grpo" / "seed=0")
    study = Study.read([tmp_path / "grpo", tmp_path / "grpo" / "seed=0"])
    assert len(study.all_runs) == 1
    assert not study.left_out


def test_what_is_left_out_is_kept_with_its_reason(tmp_path):
    made(tmp_path / "good" / "seed=0")
    made(tmp_path / "half" / "seed=0", trainer__max_epochs=4)
    made(tmp_path / "seedless" / "run", seed=None)
    broken = made(tmp_path / "broken" / "seed=0")
    (broken / "matrix.json").write_text('{"tasks": [')
    new = tmp_path / "new" / "seed=0"
    new.mkdir(parents=True)
    (new / "config.yaml").write_text("seed_everything: 0\n")
    for version in (0, 1):
        made(tmp_path / "twice" / f"version_{version}")
    hidden = tmp_path / ".replaced" / "seed=0"
    made(hidden)
    study = Study.read([tmp_path])
    assert study.methods == ["good", "twice"]
    assert study.runs("twice")[0].folder.name == "version_1"
    reasons = {folder.relative_to(tmp_path).as_posix(): reason for folder, reason in study.left_out}
    assert reasons["half/seed=0"] == "unfinished: 2 of 4 stages were evaluated"
    assert reasons["new/seed=0"] == "no matrix.json: nothing was evaluated yet"
    assert reasons["seedless/run"].startswith("its seed is not known")
    assert reasons["broken/seed=0"].startswith("cannot be read: JSONDecodeError")
    assert "version_1 has the same method and seed" in reasons["twice/version_0"]
    assert len(reasons) == 5


def test_the_seed_of_the_folder_counts_where_the_configuration_has_none(tmp_path):
    made(tmp_path / "grpo" / "seed=7", seed=None)
    assert Study.read([tmp_path]).seeds == [7]


def test_a_configuration_above_the_runs_hides_none(tmp_path):
    made(tmp_path / "grpo" / "seed=0")
    (tmp_path / "config.yaml").write_text("a: 1\n")
    study = Study.read([tmp_path])
    assert study.methods == ["grpo"]
    assert [folder for folder, _ in study.left_out] == [tmp_path]


def test_mistakes_are_the_users(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        Study.read([tmp_path / "nothing"])
    with pytest.raises(UserError, match="no finished run"):
        Study.read([tmp_path])
    made(tmp_path / "half" / "seed=0", trainer__max_epochs=4)
    with pytest.raises(UserError, match="unfinished: 2 of 4"):
        Study.read([tmp_path])


def test_everything_that_a_run_wrote_is_read(tmp_path):
    numbers = dict.fromkeys((name for name in MatrixDrift._fields if name != "stable_rank"), 0.5)
    head = {"step": 20, "stage": 2, "name": "w", "type": "q_proj"}
    drift = [
        {**head, "layer": 3, **numbers, "stable_rank": ""},
        {**head, "layer": "", **numbers, "stable_rank": 2.0},
    ]
    responses = [
        {"step": 20, "stage": 2, "task": "a", "role": "earlier", "number": name, "value": 0.5, "low": "", "high": 0.75}
        for name in ("forward_kl", "entropy")
    ]
    artifact = {"step": 20, "stage": 2, "task": "a", "numbers": {"leakage": 0.5, "loop_gain": None}}
    made(
        tmp_path / "seed=0",
        tags={"rollout/reward": [(0, 0.25), (1, 0.5)], "rollout/length": [(0, 8.0)]},
        tables={
            "drift": drift,
            "response_drift": responses,
            "prompt_distance": [{"task": "a", "a": 0.0, "b": 0.25}, {"task": "b", "a": 0.25, "b": 0.0}],
        },
        artifacts=[{**artifact, "ngrams": [{"ngram": "x"}], "markers": {"!": 1.0}}],
    )
    (run,) = Study.read([tmp_path]).all_runs
    assert run.scalars("rollout/reward") == ([0, 1], [0.25, 0.5])
    assert run.scalars("unknown") == ([], [])
    assert [(row.kind, row.layer, row.drift.gap) for row in run.drift] == [("q_proj", 3, 0.5), ("q_proj", None, 0.5)]
    assert math.isnan(run.drift[0].drift.stable_rank)
    (row,) = run.responses
    assert (row.task, row.role, set(row.numbers)) == ("a", "earlier", {"forward_kl", "entropy"})
    assert row.numbers["forward_kl"].high == 0.75
    assert math.isnan(row.numbers["forward_kl"].low)
    (found,) = run.artifacts
    assert found.numbers["leakage"] == 0.5
    assert math.isnan(found.numbers["loop_gain"])
    assert found.markers == {"!": 1.0}
    assert run.distances["a"] == {"a": 0.0, "b": 0.25}
    assert run.matrix.score(2, "b") == 1.0
    assert run.items[1]["a"]["p0"] == [0.75]
    assert run.summary["average_accuracy"] == pytest.approx(0.75)


def test_older_drift_files_have_the_update_of_the_mask_by_its_older_name(tmp_path):
    names = [name for name in MatrixDrift._fields if name != "mask_update_absolute"]
    drift = [{"step": 4, "stage": 1, "name": "w", "type": "q_proj", "layer": 3, **dict.fromkeys(names, 0.1)}]
    made(tmp_path / "seed=0", tables={"drift": drift})
    (row,) = Study.read([tmp_path]).all_runs[0].drift
    assert row.drift.mask_update_absolute == 0.1
    assert math.isnan(row.drift.mask_update)


def test_a_run_without_extras_is_empty_there(tmp_path):
    made(tmp_path / "seed=0")
    (run,) = Study.read([tmp_path]).all_runs
    assert (run.drift, run.responses, run.artifacts, run.distances, dict(run.tags)) == ([], [], [], {}, {})


def test_abstentions_are_left_out_of_the_items(tmp_path):
    folder = made(tmp_path / "seed=0")
    lines = [{"stage": 0, "task": "a", "scores": {"p": [1.0, None], "q": None, "r": 0.5}}]
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run,) = Study.read([tmp_path]).all_runs
    assert run.items == {0: {"a": {"p": [1.0], "r": [0.5]}}}


def test_settings_tell_methods_apart(tmp_path):
    made(tmp_path / "sdpo" / "seed=0")
    teacher = {"class_path": "lit_sdpo.EMATeacher", "init_args": {"update_rate": 0.05, "checkpoint": None}}
    made(tmp_path / "ema" / "seed=0", model__init_args__teacher=teacher, data__init_args__steps=25)
    made(tmp_path / "grpo" / "seed=0", model={"class_path": "lit_sdpo.GRPO", "init_args": {}})
    study = Study.read([tmp_path])
    settings = {method: study.settings(study.runs(method)[0]) for method in study.methods}
    assert settings["sdpo"]["lr"] == 1e-3
    assert settings["ema"]["teacher"] == "EMATeacher(update_rate=0.05)"
    assert settings["grpo"]["lr"] is None
    assert settings["grpo"]["class"] == "GRPO"
    assert settings["sdpo"]["stages"] == "a → b"
    assert study.differing()["ema"] == {
        "class": "SDPO",
        "lr": 1e-3,
        "teacher": "EMATeacher(update_rate=0.05)",
        "steps": 25,
    }
