from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from lit_sdpo.cli import main

MICRO = Path(__file__).parents[2] / "configs" / "micro"
SMALL = {
    "data.order": ["math"],
    "data.steps": 1,
    "data.prompts_per_step": 2,
    "data.eval_prompts": 1,
    "data.eval_generations": 1,
    "data.ood": False,
    "data.prior": False,
    "rollout.num_generations": 2,
    "rollout.sampling.max_new_tokens": 4,
}


@pytest.fixture
def sweep(tmp_path):
    """Runs the command on two small runs of the micro world; returns its exit code."""

    def command(*options, **changes):
        runs = {"grpo": {"config": str(MICRO / "grpo.yaml")}, "sdpo": {"config": str(MICRO / "sdpo.yaml")}}
        content = {"name": "small", "set": SMALL, "runs": runs, **changes}
        path = tmp_path / "small.yaml"
        path.write_text(json.dumps(content))
        return main(["sweep", str(path), "--out", str(tmp_path / "out"), *options])

    return command


def test_nothing_starts_with_a_mistake_in_any_configuration(sweep, tmp_path, capsys):
    runs = {"good": str(MICRO / "grpo.yaml"), "bad": {"config": str(MICRO / "sdpo.yaml"), "set": {"model.alhpa": 1}}}
    assert sweep(runs=runs) == 2
    message = capsys.readouterr().err
    assert [word for word in ("run bad", "alhpa", "alpha") if word not in message] == []
    assert not (tmp_path / "out").exists()


def test_a_logger_whose_folder_is_unknown(sweep, capsys):
    logger = {"trainer.logger": {"class_path": "lightning.pytorch.loggers.WandbLogger"}}
    assert sweep(set={**SMALL, **logger}) == 2
    assert "logger" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--jobs", "0"], ["--seeds", "x"], ["--dry-run", "--print-commands"]])
def test_wrong_arguments(sweep, options, tmp_path):
    assert sweep(*options) == 2
    assert not (tmp_path / "out").exists()


def test_dry_run(sweep, tmp_path, capsys):
    assert sweep("--dry-run", "--seeds", "0-1") == 0
    output = capsys.readouterr().out
    assert [line.split()[:3] for line in output.splitlines()[1:5]] == [
        [run, seed, "new"] for seed in "01" for run in ("grpo", "sdpo")
    ]
    assert "4 runs: 4 new" in output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_runs(sweep, tmp_path, capsys):
    """One by the sweep, the other by the command that it prints; then nothing is left, whatever is recorded."""
    assert sweep("--print-commands") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    subprocess.run(["sh", "-c", lines[0]], check=True, cwd="/")
    grpo, sdpo = (tmp_path / "out" / name / "seed=0" for name in ("grpo", "sdpo"))
    assert (grpo / "checkpoints" / "stage=0-step=1.ckpt").exists()
    assert "run folder" in (grpo / "log.txt").read_text()

    assert sweep("--print-commands") == 0
    assert capsys.readouterr().out.splitlines() == lines[1:]
    time = (grpo / "log.txt").stat().st_mtime_ns
    assert sweep() == 0
    assert "2 runs: 2 finished" in capsys.readouterr().out
    assert (grpo / "log.txt").stat().st_mtime_ns == time
    record = json.loads((sdpo / "sweep.json").read_text())
    assert (record["state"], record["exit_code"]) == ("finished", 0)
    assert sorted(path.parent.name for path in (tmp_path / "out").rglob("config.yaml")) == ["seed=0", "seed=0"]

    time = (sdpo / "sweep.json").stat().st_mtime_ns
    assert sweep() == 0
    assert (sdpo / "sweep.json").stat().st_mtime_ns == time
    capsys.readouterr()
    changed = {**SMALL, "model.optimizer.lr": 0.01}
    assert sweep("--dry-run", set=changed) == 0
    assert "2 changed" in capsys.readouterr().out
    assert sweep(set=changed) == 2
    assert "grpo: model.optimizer.lr: recorded 0.0003, now 0.01" in capsys.readouterr().err
    assert sweep("--print-commands", "--redo", set=changed) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert (tmp_path / "out" / ".replaced" / "sdpo" / "seed=0-1" / "sweep.json").exists()
