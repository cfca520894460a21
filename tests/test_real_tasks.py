"""The whole command line on a model folder and real rows, in process."""

import json
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_sdpo import JsonlTask
from lit_sdpo.cli import main
from lit_sdpo.policies.load import load_tokenizer, render
from tests.tiny_model import FILES, save_tiny_model

EXAMPLES = Path(__file__).parents[1] / "configs" / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def stage(name, data):
    files = {"train": str(FILES / f"{data}_train.jsonl"), "validation": str(FILES / f"{data}_test.jsonl")}
    task = {"class_path": "JsonlTask", "init_args": {"name": name, **files}}
    return {"task": task, "steps": 2, "prompts_per_step": 2}


def arguments(model, runs, config="real_tasks.yaml"):
    """The example with two stages and two steps, and no task that runs programs."""
    probe = {
        "class_path": "JsonlTask",
        "init_args": {"name": "math500", "validation": str(FILES / "math500_test.jsonl")},
    }
    small = {
        "model": {"init_args": {"model_name": str(model), "chat_template_options": {"enable_thinking": False}}},
        "data": {
            "init_args": {
                "stages": [stage("math", "gsm8k"), stage("science", "sciknoweval_chemistry")],
                "probes": [probe],
                "eval_prompts": 2,
                "eval_generations": 1,
            }
        },
        "rollout": {"num_generations": 2, "sampling": {"max_new_tokens": 6}},
        "trainer": {
            "accelerator": "cpu",
            "accumulate_grad_batches": 2,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": {"init_args": {"save_dir": str(runs), "name": "real"}},
        },
    }
    overlay = runs / f"small_{config}"
    overlay.write_text(yaml.safe_dump(small))
    return ["--config", str(EXAMPLES / config), "--config", str(overlay)]


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def fitted(model, tmp_path_factory):
    """Folder of all runs; the first one has gone through both stages."""
    runs = tmp_path_factory.mktemp("runs")
    assert main(["fit", *arguments(model, runs)]) == 0
    return runs


def test_the_chat_template_knows_system_turns_and_the_thinking_switch(model):
    tokenizer = load_tokenizer(str(model))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße, 世界 🌍?"}]
    thinking = tokenizer.decode(render(tokenizer, messages))
    silent = tokenizer.decode(render(tokenizer, messages, {"enable_thinking": False}))
    assert thinking == "<|start|>system\nBe brief.<|end|>\n<|start|>user\nGrüße, 世界 🌍?<|end|>\n<|start|>assistant\n"
    assert silent == thinking + "<think>\n\n</think>\n\n"


def test_a_run_leaves_everything_in_its_folder(fitted):
    folder = fitted / "real" / "version_0"
    matrix = json.loads((folder / "matrix.json").read_text())
    assert (matrix["tasks"], matrix["probes"]) == (["math", "science"], ["math500"])
    assert [(row["stage"], row["step"]) for row in matrix["rows"]] == [(0, 0), (1, 2), (2, 4)]
    assert all(0 <= score <= 1 for row in matrix["rows"] for score in row["scores"].values())
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    trained = [s for s in samples if s["split"] == "train"]
    assert [s["task"] for s in trained] == ["math"] * 8 + ["science"] * 8  # 2 steps of 2 prompts, 2 completions each
    assert {s["prompt"][0]["role"] for s in trained if s["task"] == "science"} == {"system"}
    environment = json.loads((folder / "environment.json").read_text())
    assert {"command", "seed", "versions"} <= set(environment)
    assert environment["seed"] == "0"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["data"]["init_args"]["eval_prompts"] == 2
    assert config["trainer"]["max_epochs"] == 2
    assert {"train/loss", "rollout/reward", "val/math/accuracy", "continual/average_accuracy"} <= scalars(folder)
    assert len(list((folder / "checkpoints").glob("stage=*.ckpt"))) == 2


def test_a_second_run_and_a_resumed_one_get_folders_of_their_own(fitted, model, capsys):
    first = fitted / "real" / "version_0"
    before = contents(first)
    checkpoint = str(first / "checkpoints" / "stage=0-step=2.ckpt")
    assert main(["fit", *arguments(model, fitted), "--ckpt_path", checkpoint]) == 0
    second = fitted / "real" / "version_1"
    printed = capsys.readouterr().out.splitlines()[-3:]
    assert printed == [
        f"run folder:  {second}",
        f"tensorboard: tensorboard --logdir {second}",
        f"samples:     {second / 'samples.jsonl'}",
    ]
    assert (second / "config.yaml").is_file()
    assert contents(first) == before
    matrices = [json.loads((folder / "matrix.json").read_text()) for folder in (first, second)]
    assert matrices[0]["rows"] == matrices[1]["rows"]  # resumed after stage 0, the same as never stopped


def test_resuming_into_the_same_folder_keeps_its_record(fitted, model):
    folder = fitted / "real" / "version_0"
    record = (folder / "config.yaml").read_bytes()
    checkpoint = str(folder / "checkpoints" / "stage=0-step=2.ckpt")
    same = ["--trainer.logger.init_args.version=0", "--ckpt_path", checkpoint]
    assert main(["fit", *arguments(model, fitted), *same]) == 0
    assert (folder / "config_1.yaml").read_bytes() == record
    assert yaml.safe_load((folder / "config.yaml").read_text())["ckpt_path"] == checkpoint


def scalars(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return set(events.Tags()["scalars"])


def latest(runs):
    return max((runs / "real").iterdir(), key=lambda folder: int(folder.name.removeprefix("version_")))


def test_a_stage_checkpoint_can_be_validated(fitted, model):
    checkpoint = str(fitted / "real" / "version_0" / "checkpoints" / "stage=1-step=4.ckpt")
    assert main(["validate", *arguments(model, fitted), "--ckpt_path", checkpoint]) == 0
    assert {f"val/{name}/accuracy" for name in ("math", "science", "math500")} <= scalars(latest(fitted))


def test_the_test_command_takes_the_test_files(fitted, model, capsys):
    checkpoint = str(fitted / "real" / "version_0" / "checkpoints" / "stage=1-step=4.ckpt")
    command = ["test", *arguments(model, fitted), "--ckpt_path", checkpoint]
    probe = {"name": "math500", "test": str(FILES / "math500_test.jsonl"), "limit": 2}
    task = {"class_path": "JsonlTask", "init_args": probe}
    only = [f"--data.init_args.probes={json.dumps([task])}", "--data.init_args.evaluate_trained=false"]
    assert main([*command, *only]) == 0
    assert "test/math500/accuracy" in scalars(latest(fitted))
    assert main(command) == 2  # the example has no files for it
    assert "no rows to evaluate in the test split" in capsys.readouterr().err


def test_grpo_is_a_small_overlay(model, tmp_path):
    small = arguments(model, tmp_path, "grpo_real_tasks.yaml")
    assert main(["fit", *small, "--trainer.max_epochs=1"]) == 0
    config = yaml.safe_load((tmp_path / "real" / "version_0" / "config.yaml").read_text())
    assert config["model"]["class_path"] == "lit_sdpo.GRPO"
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 1e-6


def test_the_example_as_it_stands_reads_all_its_files(monkeypatch):
    """Every task of the example is made, from the repository root, with its rows and verifiers."""
    monkeypatch.chdir(EXAMPLES.parents[1])
    monkeypatch.setattr("lit_sdpo.rewards.sandbox.sandbox.Sandbox.prepare", lambda self: None)
    data = yaml.safe_load((EXAMPLES / "real_tasks.yaml").read_text())["data"]["init_args"]
    tasks = [JsonlTask(**entry["task"]["init_args"]) for entry in data["stages"]]
    assert [(task.name, len(task.rows("train")) >= 4) for task in tasks] == [
        ("math", True),
        ("science", True),
        ("tooluse", True),
        ("coding", True),
    ]
    probes = [JsonlTask(**entry["init_args"]) for entry in data["probes"]]
    assert all(probe.rows("validation") for probe in probes)
