"""Exit codes, help, what a run prints; one start of the installed program."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import lit_sdpo
from lit_sdpo.cli import LitSDPOCLI, main, run
from lit_sdpo.commands import COMMANDS
from lit_sdpo.configs import expand, origin

ROOT = Path(__file__).parents[1]
SDPO = str(ROOT / "configs" / "micro" / "sdpo.yaml")


@pytest.fixture
def small(tmp_path):
    """The shortest useful run: one stage of one step on the micro model."""
    return [
        "--config",
        SDPO,
        "--data.order=[math]",
        "--data.steps=1",
        "--data.prompts_per_step=2",
        "--data.eval_prompts=1",
        "--data.eval_generations=1",
        "--data.ood=false",
        "--data.prior=false",
        "--rollout.num_generations=2",
        "--rollout.sampling.max_new_tokens=4",
        "--trainer.enable_model_summary=false",
        f"--trainer.logger.init_args.save_dir={tmp_path}",
    ]


def test_the_program_starts():
    command = [sys.executable, "-m", "lit_sdpo", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert lit_sdpo.__version__ in done.stdout


def test_help_names_the_keys_of_every_run(capsys):
    assert main(["fit", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"--{key}" in shown for key in ("model", "data", "rollout.num_generations", "samples.every_n_steps"))
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "{fit,validate,test}" in shown
    assert all(f"{name}: " in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_ours_has_help(name, capsys):
    assert main([name, "--help"]) == 0
    assert f"usage: lit-sdpo {name}" in capsys.readouterr().out


def test_an_unknown_command_is_a_mistake(capsys):
    assert main(["train"]) == 2
    assert "no command 'train'. One of fit, validate, test, " in capsys.readouterr().err


def test_a_run_prints_where_its_results_are_and_no_advertisement(small, tmp_path, capsys, caplog):
    assert main(["fit", *small]) == 0
    folder = tmp_path / "micro-sdpo" / "version_0"
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-3:] == [
        f"run folder:  {folder}",
        f"tensorboard: tensorboard --logdir {folder}",
        f"samples:     {folder / 'samples.jsonl'}",
    ]
    assert (folder / "samples.jsonl").is_file()
    assert "litlogger" not in printed.err + printed.out + caplog.text
    assert "litmodels" not in printed.err + printed.out + caplog.text


@pytest.mark.parametrize("switch", ["--trainer.enable_progress_bar=false", "--trainer.enable_checkpointing=false"])
def test_callbacks_that_the_trainer_switches_off(small, switch, monkeypatch):
    monkeypatch.setattr(LitSDPOCLI, "fit", lambda self, **kwargs: None, raising=False)
    built = run(["fit", *small, switch])
    names = {type(callback).__name__ for callback in built.trainer.callbacks}
    off = "StreamProgressBar" if "progress" in switch else "StageCheckpoint"
    assert off not in names
    assert {"StreamProgressBar", "StageCheckpoint"} - {off} <= names


@pytest.mark.parametrize("asks", ["--checkpoint.every_n_steps=1", "--ckpt_path=last"])
def test_checkpoints_that_are_asked_for_and_switched_off_are_refused(small, asks, capsys):
    assert main(["fit", *small, "--trainer.enable_checkpointing=false", asks]) == 2
    name = asks[2:].partition("=")[0]
    assert f"trainer.enable_checkpointing: it is false, and {name} is set" in capsys.readouterr().err


def test_an_error_inside_of_the_run_is_exit_code_1_with_a_traceback(small, monkeypatch, capsys):
    def fail(self, *args, **kwargs):
        raise ValueError("the weights have diverged")

    monkeypatch.setattr("lit_sdpo.rollouts.engines.native.NativeEngine.generate", fail)
    assert main(["fit", *small]) == 1
    assert "Traceback" in (errors := capsys.readouterr().err)
    assert "the weights have diverged" in errors


def test_a_defect_in_a_constructor_is_no_mistake_of_the_user(small, monkeypatch, capsys):
    monkeypatch.setattr("lit_sdpo.policies.teachers.base.check_share", None)
    assert main(["fit", *small]) == 1
    assert "'NoneType' object is not callable" in capsys.readouterr().err


def test_interruption_is_exit_code_130(small, monkeypatch):
    def interrupt(self, *args, **kwargs):
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("lit_sdpo.rollouts.engines.native.NativeEngine.generate", interrupt)
    try:
        assert main(["fit", *small]) == 130
    finally:
        signal.signal(signal.SIGINT, before)


def test_debug_shows_the_traceback_of_a_mistake(small, capsys):
    arguments = ["fit", *small, "--model.alpah=1", "--debug"]
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert "Traceback" in errors
    assert "mean alpha" in errors.splitlines()[-1]
    assert arguments[-1] == "--debug"  # the caller's list is left alone


def test_two_runs_in_one_process_share_no_callbacks(small, monkeypatch):
    monkeypatch.setattr(LitSDPOCLI, "fit", lambda self, **kwargs: None, raising=False)
    one, two = (run(["fit", *small]).trainer.callbacks for _ in range(2))
    assert not {id(callback) for callback in one} & {id(callback) for callback in two}


def test_files_are_expanded_in_order_and_values_traced_to_them(tmp_path):
    (tmp_path / "base.yaml").write_text("model: {init_args: {alpha: 0.5}}\ntrainer: {max_epochs: 1}\n")
    top = tmp_path / "top.yaml"
    top.write_text("extends: base.yaml\ntrainer: {max_epochs: 2}\n")
    arguments = ["fit", f"--config={top}", "--rollout.seed", "1"]
    assert expand(arguments) == [
        "fit",
        "--config",
        "model:\n  init_args:\n    alpha: 0.5\ntrainer:\n  max_epochs: 2\n",
        "--rollout.seed",
        "1",
    ]
    assert origin(arguments, "model.alpha") == tmp_path / "base.yaml"
    assert origin(arguments, "trainer.max_epochs") == top
    assert origin([*arguments, "--trainer.max_epochs=3"], "trainer.max_epochs") is None
    assert origin(arguments, "rollout.seed") is None
