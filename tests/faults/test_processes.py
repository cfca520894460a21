"""F15, F16, F19 and ``ckpt_path: last``: real runs of the program, real signals."""

import json
import signal

import pytest
import torch

from lit_sdpo.checkpoints import SafeCheckpointIO
from tests.faults import programs
from tests.faults.programs import Program
from tests.faults.runs import assert_same

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def launcher():
    with programs.launcher() as process:
        yield process


def test_f15_once_saves_and_leaves_and_last_goes_on(launcher, tmp_path):
    program = Program(launcher, tmp_path).training().send(signal.SIGTERM)
    assert program.wait() == 143, program.output
    assert "SIGTERM: the run saves and ends after this step" in program.output
    assert "Traceback" not in program.output
    (saved,) = program.checkpoints()
    step = SafeCheckpointIO().load_checkpoint(saved)["global_step"]
    assert saved.name == f"step={step}.ckpt"
    assert not (program.folder / "run.lock").exists()

    again = Program(launcher, tmp_path).training().send(signal.SIGINT)
    assert again.wait() == 130, again.output
    newest, *_ = again.checkpoints()
    assert SafeCheckpointIO().load_checkpoint(newest)["global_step"] > step
    assert not (program.folder / "config_1.yaml").exists()  # the same command
    assert [path.name for path in program.folder.parent.iterdir()] == ["version_0"]
    lines = [json.loads(line) for line in (program.folder / "samples.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["split"] == "train"]
    assert steps == [step for step in range(max(steps) + 1) for _ in range(4)]  # prompts · completions


def test_f15_before_the_first_step_it_leaves_with_whole_files(launcher, tmp_path):
    options = {"data.eval_prompts": 8, "data.eval_batch_size": 1}
    program = Program(launcher, tmp_path, **options)
    samples = program.folder / "samples.jsonl"
    program.until(lambda: samples.exists() and samples.stat().st_size).send(signal.SIGTERM)
    assert program.wait() == 143, program.output
    names = [path.name for path in program.checkpoints()]
    assert names in ([], ["step=1.ckpt"])  # the first step may have begun
    assert ("Ended before a step was taken: there is nothing to save" in program.output) == (not names)
    assert not list(program.folder.rglob("*.tmp-*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_f15_twice_leaves_now_with_intact_files(launcher, tmp_path, number, code):
    program = Program(launcher, tmp_path, **{"checkpoint.every_n_steps": 1}).training()
    program.send(number)
    program.until(lambda: f"{number.name}: the run saves" in program.output).send(number)
    assert program.wait() == code, program.output
    for path in program.checkpoints():
        SafeCheckpointIO().load_checkpoint(path)
    assert not list(program.folder.rglob("*.tmp-*"))
    assert not list(program.folder.rglob("*.corrupt"))


def test_f16_notice_saves_and_goes_on(launcher, tmp_path):
    program = Program(launcher, tmp_path).training().send(signal.SIGUSR1)
    program.until(lambda: len(program.checkpoints()) == 1).training().send(signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    SafeCheckpointIO().load_checkpoint(program.checkpoints()[0])


def test_f19_a_second_process_is_refused_and_a_dead_one_is_not_in_the_way(launcher, tmp_path):
    first = Program(launcher, tmp_path, **{"checkpoint.every_n_steps": 1}).training()
    first.until(first.checkpoints)
    second = Program(launcher, tmp_path)
    assert second.wait() == 2
    assert f"another run is using this folder (process {first.pid} on" in second.output
    assert "Traceback" not in second.output
    first.training().send(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    third = Program(launcher, tmp_path).training().send(signal.SIGTERM)
    assert third.wait() == 143, third.output
    assert f"Process {first.pid} on" in third.output


def test_f22_the_saved_configuration_gives_the_same_run(launcher, tmp_path):
    first = Program(launcher, tmp_path / "first", **{"data.steps": 2})
    assert first.wait() == 0, first.output
    again = Program(launcher, tmp_path / "again", config=first.folder / "config.yaml")
    assert again.wait() == 0, again.output
    states = [torch.load(program.checkpoints()[0], weights_only=True) for program in (first, again)]
    for state in states:
        del state["lit_sdpo"]["configuration"]["trainer"]["logger"]  # each has a folder of its own
    for part in ("state_dict", "optimizer_states", "lit_sdpo"):
        assert_same(states[0][part], states[1][part])
    assert (first.folder / "samples.jsonl").read_bytes() == (again.folder / "samples.jsonl").read_bytes()


def test_f14_a_finished_run_exits_with_0(launcher, tmp_path):
    for _ in range(2):
        program = Program(launcher, tmp_path, **{"data.steps": 1})
        assert program.wait() == 0, program.output
    assert "Nothing left to train: all 1 stages were complete at step 1." in program.output


def test_f11_another_model_size_is_a_mistake_without_traceback(launcher, tmp_path):
    assert Program(launcher, tmp_path, **{"data.steps": 1}).wait() == 0
    other = {"model.random_weights": "true", "model.config_overrides": "{hidden_size: 32}"}
    program = Program(launcher, tmp_path, **{"data.steps": 1}, **other)
    assert program.wait() == 2, program.output
    assert "Traceback" not in program.output
    # What differs in the configuration says more than the shapes that follow from it.
    assert "model.config_overrides: checkpoint has null, this run has {hidden_size: 32}" in program.output
    assert "model.random_weights: checkpoint has false, this run has true" in program.output.lower()
