"""Every configuration file parses and builds a run; mistakes in one are explained."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lit_sdpo.cli import LitSDPOCLI, main, run
from lit_sdpo.sweep.plan import read_sweep
from lit_sdpo.sweep.resolved import fingerprint, folder_arguments, resolve

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
YAMLS = [path for path in sorted(CONFIGS.rglob("*.yaml")) if "paper" not in path.parts]  # test_paper_configs.py
SWEEPS = [path for path in YAMLS if {"runs", "grid"} & set(yaml.safe_load(path.read_text(encoding="utf-8")))]
FILES = [path for path in YAMLS if path not in SWEEPS]
SDPO = str(CONFIGS / "micro" / "sdpo.yaml")


def name(path):
    return path.relative_to(CONFIGS).as_posix()


def arguments(path):
    """``fit`` with this file; an overlay is put behind another one, and who needs a model gets one."""
    overlay = path.parent.name in ("worlds", "prior", "streams") or path.name in ("measure.yaml", "fsdp.yaml")
    base = ["--config", SDPO] if overlay else []
    base = ["--config", str(path.with_name("grpo.yaml"))] if path.name == "two_stages.yaml" else base
    return ["fit", *base, "--config", str(path), *model(path)]


def model(path):
    """A model in the place of the user's, or of one that has to be made first."""
    return ["--model.init_args.model_name", "micro"] if path.parent.name in ("examples", "small") else []


class BuiltInsteadOfFitted(Exception):
    """Carries what was built."""


@pytest.fixture
def build(monkeypatch):
    """Run the command line up to the point where fitting would begin."""

    def stop(command_line):
        raise BuiltInsteadOfFitted(command_line)

    monkeypatch.setattr(LitSDPOCLI, "before_fit", stop, raising=False)
    monkeypatch.chdir(ROOT)  # configurations name files relative to it

    def built(args):
        with pytest.raises(BuiltInsteadOfFitted) as caught:
            run(args)
        return caught.value.args[0]

    return built


@pytest.mark.parametrize("path", FILES, ids=name)
def test_configuration_parses(path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as left:
        run([*arguments(path), "--print_config"])
    assert left.value.code in (0, None)
    shown = yaml.safe_load(capsys.readouterr().out)
    assert {"model", "data", "trainer", "rollout", "forgetting", "samples", "checkpoint"} <= set(shown)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_configuration_builds(path, build):
    built = build(arguments(path))
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert built.trainer.max_epochs == len(built.datamodule.stages)
    assert built.trainer.reload_dataloaders_every_n_epochs == 1
    callbacks = {type(callback).__name__ for callback in built.trainer.callbacks}
    assert {"RolloutCallback", "ForgettingMatrix", "SampleLogger", "StageCheckpoint"} <= callbacks
    wanted = written.get("model", {}).get("class_path")
    assert wanted is None or type(built.model).__name__ == wanted


@pytest.mark.parametrize("path", SWEEPS, ids=name)
def test_runs_of_a_sweep_parse(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = read_sweep(path)
    chosen, seen = [], set()
    for each in sweep.runs:  # of a grid enough that every value of every axis is there
        if not seen.issuperset(parts := each.name.split("/")):
            chosen.append(each)
            seen.update(parts)
    configs = resolve(chosen, sweep.output)
    assert list(configs) == [each.name for each in chosen]
    assert len({fingerprint(config) for config in configs.values()}) == len(configs)  # no two are the same run


# The files of all of them are built above; the last one has values of its own and, in a grid, several files.
@pytest.mark.parametrize("path", SWEEPS, ids=name)
def test_run_of_a_sweep_builds(path, build):
    chosen = read_sweep(path).runs[-1]
    built = build(["fit", *chosen.arguments(), *folder_arguments(Path("out"), chosen.name, 3), *model(path)])
    assert Path(built.trainer.log_dir) == Path("out", chosen.name, "seed=3")


def test_later_files_and_arguments_win(build):
    world = str(CONFIGS / "micro" / "worlds" / "unnamed.yaml")
    built = build(["fit", "--config", SDPO, "--config", world, "--data.init_args.steps", "7"])
    assert built.datamodule.tasks[0].world.format_named == "never"
    assert [stage.steps for stage in built.datamodule.stages] == [7, 7, 7, 7]
    assert built.trainer.gradient_clip_val == 1.0  # from common.yaml


MISTAKES = {
    # arguments: words that the message must have
    "--model.init_args.alhpa=1": ["model", "alhpa", "alpha"],
    "--data.init_args.steps=many": ["data", "steps", "many", "whole number"],
    "--model.init_args.teacher=Techer": ["teacher", "Techer"],
    "--model.class_path=lit_sdpo.SPDO": ["model", "SPDO", "SDPO"],
    "--data.init_args.world.format_named=perhaps": ["format_named", "perhaps", "always", "sometimes", "never"],
    "--data.init_args.steps=0": ["steps", "0", "at least 1"],
    "--data.init_args.order=[math,art]": ["order", "art", "math", "sci", "tool", "code"],
    "--data.init_args.eval_every=7": ["eval_every", "7", "divi"],
    "--rollout.generations=4": ["rollout", "generations"],
    "--trainer.max_stepps=4": ["trainer", "max_stepps", "max_steps"],
    "--nonsense=1": ["nonsense"],
    "--model.init_args.model_name=./nowhere": ["model_name", "./nowhere", "micro"],
}


@pytest.mark.parametrize("argument", MISTAKES)
def test_mistake_is_explained(argument, capsys, build):
    code = main(["fit", "--config", SDPO, argument])
    captured = capsys.readouterr()
    assert code == 2
    assert "Traceback" not in captured.err
    assert captured.err.startswith("lit-sdpo: error: ")
    assert [word for word in MISTAKES[argument] if word.lower() not in captured.err.lower()] == []


def test_mistake_in_a_file_is_explained(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("modle: {class_path: SDPO}\n", encoding="utf-8")
    assert main(["fit", "--config", SDPO, "--config", str(path)]) == 2
    assert "modle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("extends: mine.yaml\n", ["extends", "itself"]),
        ("extends: absent.yaml\n", ["absent.yaml"]),
        ("[1, 2]\n", ["mine.yaml", "mapping"]),
        ("a: [\n", ["mine.yaml", "YAML"]),
    ],
)
def test_unusable_file_is_explained(content, words, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(content, encoding="utf-8")
    assert main(["fit", "--config", str(path)]) == 2
    message = capsys.readouterr().err
    assert [word for word in words if word not in message] == []


def test_missing_file_is_explained(capsys):
    assert main(["fit", "--config", "absent.yaml"]) == 2
    assert "absent.yaml" in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys):
    assert main(["fit", "--config", "absent.yaml", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
