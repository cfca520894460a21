"""A mistake in the input is one clear message and exit code 2, before the first step."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from lit_sdpo.cli import main
from tests.tiny_model import FILES, save_tiny_model

ROOT = Path(__file__).parents[1]
MICRO = ["--config", str(ROOT / "configs" / "micro" / "quickstart.yaml")]


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch, tmp_path):
    """No test here may reach the first rollout, the network or the repository's own folders."""

    def generate(*args, **kwargs):
        pytest.fail("the run has begun")

    monkeypatch.setattr("lit_sdpo.rollouts.engines.native.NativeEngine.generate", generate)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def refused(capsys):
    """Runs a command that has to be refused, and gives its one-line message."""

    def run(*arguments):
        assert main(["fit", *arguments]) == 2
        errors = capsys.readouterr().err
        assert "Traceback" not in errors
        message = errors[errors.index("lit-sdpo: error: ") :].strip()
        assert "\n" not in message
        assert len(message) < 400
        return message.removeprefix("lit-sdpo: error: ")

    return run


@pytest.mark.parametrize(
    ("argument", "where", "what", "fix"),
    [
        ("--model.alpah=0.5", "model.alpah", "SDPO has no option 'alpah'", "mean alpha"),
        ("--model.init_args.alpah=0.5", "model.alpah", "SDPO has no option 'alpah'", "mean alpha"),
        ("--model.alpha=2", "model.alpha", "a number from 0 to 1", "got 2"),
        ("--model.alpha=nan", "model.alpha", "'nan' is not allowed", "Give a number"),
        ("--model.optimizer.init_args.lr=nan", "model.optimizer.lr", "'nan' is not allowed", "Give a number"),
        ("--model.replay_coefficient=-0.5", "model.replay_coefficient", "at least 0", "got -0.5"),
        ("--model.importance_clip=0", "model.importance_clip", "above 0", "got 0"),
        ("--data.seed=-1", "data.seed", "from 0 to 4294967295", "got -1"),
        ("--data.steps=99999999999999999999999", "data.steps", "from 1 to 2147483647", "got 99"),
        ("--rollout.sampling.temperature=1e-45", "rollout.sampling.temperature", "from 0.01 to 100", "got 1e-45"),
        ("--trainer.gradient_clip_val=-1", "trainer.gradient_clip_val", "above 0", "got -1"),
        ("--trainer.gradient_clip_val=0", "trainer.gradient_clip_val", "above 0", "null"),
        ("--trainer.accumulate_grad_batches=1000000", "trainer.accumulate_grad_batches", "a step has", "at most"),
        ("--rollout.correction=ratio", "rollout.correction", "NativeEngine samples with the policy", "a server"),
        ("--ckpt_path=", "--ckpt_path", "no checkpoint ''", "the path of a .ckpt file"),
        ("--model.top_k=0", "model.top_k", "at least 1", "got 0"),
        ("--model.alpha=high", "model.alpha", "'high' is not allowed", "Give a number"),
        ("--model.class_path=SDPOO", "model", "there is no class 'SDPOO'", "mean SDPO"),
        ("--model=SDPOO", "model", "there is no class 'SDPOO'", "mean SDPO"),
        ("--model.dtype=float31", "model.dtype", "'float31' is not allowed", "float32"),
        ("--model.teacher=EMATeachr", "model.teacher", "there is no class 'EMATeachr'", "mean EMATeacher"),
        ("--model.teacher.update_rate=1", "model.teacher.update_rate", "FrozenTeacher has no option", "at_stage"),
        ("--model.optimizer=AdmW", "model.optimizer", "there is no class 'AdmW'", "AdamW"),
        ("--model.optimizer.rate=1", "model.optimizer.rate", "AdamW has no option 'rate'", "lr"),
        ("--model.lora.rnk=3", "model.lora.rnk", "Lora has no option 'rnk'", "mean rank"),
        ("--data.order=[mth]", "data.order", "'mth' is not allowed", "mean math"),
        ("--data.world.wording=mine", "data.world.wording", "'mine' is not allowed", "own, shared"),
        ("--data.steps=0", "data.steps", "at least 1", "got 0"),
        ("--data.eval_every=7", "data.eval_every", "does not divide", "divisor"),
        ("--rollout.sampling.temprature=1", "rollout.sampling.temprature", "no option", "mean temperature"),
        ("--rollout.sampling.temperature=-1", "rollout.sampling.temperature", "from 0.01 to 100", "got -1"),
        ("--rollout.num_generations=0", "rollout.num_generations", "at least 1", "got 0"),
        ("--samples.every_n_steps=0", "samples.every_n_steps", "at least 1", "got 0"),
        ("--trainer.max_steps=5", "trainer.max_steps", "would cut a stage", "steps of the stages"),
        ("--trainer.max_stepz=5", "trainer.max_stepz", "no such key", "max_steps"),
        ("--trainer.precision=fp7", "trainer.precision", "'fp7' is not allowed", "bf16-mixed"),
        ("--seed_everything=-1", "seed_everything", "not in bounds", "from 0"),
        ("--trainer.devices=-3", "trainer.devices", "should be an int > 0", ""),
        ("--trainer.devices=many", "trainer.devices", "should be an int > 0", ""),
        ("--trainer.strategy=nope", "trainer.strategy", "invalid strategy name", "ddp"),
        ("--trainer.accelerator=abacus", "trainer.accelerator", "invalid accelerator", "cpu"),
        ("--trainer.callbacks+=ExportPolcy", "trainer.callbacks", "no class 'ExportPolcy'", "mean ExportPolicy"),
        ("--ckpt_path=gone.ckpt", "--ckpt_path", "no checkpoint 'gone.ckpt'", ".ckpt file"),
        ("--config=gone.yaml", "--config", "no configuration file 'gone.yaml'", "YAML file"),
        ("--model.model_name=./gone", "model.model_name", "no folder './gone'", "micro"),
        ("--model.model_name=nobody/nothing", "model.model_name", "'nobody/nothing'", "model_name"),
    ],
)
def test_f20_c09_argument(refused, argument, where, what, fix):
    message = refused(*MICRO, argument)
    assert message.startswith(where)
    assert what in message
    assert fix in message


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("model: {init_args: {alpah: 1}}", "bad.yaml: model.alpah", "mean alpha"),
        ("modle: {alpha: 1}", "bad.yaml: modle", "mean model"),
        ("trainer: {max_stps: 1}", "bad.yaml: trainer.max_stps", "max_steps"),
        ("rollout: {sampling: {temperature: hot}}", "bad.yaml: rollout.sampling.temperature", "'hot'"),
        ("model: [a\nb: c", "bad.yaml, line 2", "not valid YAML"),
        ("just words", "bad.yaml", "no keys"),
        ("extends: bad.yaml", "bad.yaml: extends", "extends itself"),
        ("extends: gone.yaml", "bad.yaml: extends", "no configuration file"),
    ],
)
def test_configuration_file(refused, text, where, what):
    Path("bad.yaml").write_text(text)
    message = refused(*MICRO, "--config", "bad.yaml")
    assert message.startswith(where)
    assert what in message


def stream(task_class="JsonlTask", **init_args):
    stages = [{"steps": 1, "prompts_per_step": 1, "task": {"class_path": task_class, "init_args": init_args}}]
    data = {"class_path": "ContinualDataModule", "init_args": {"stages": stages}}
    model = {"class_path": "SDPO", "init_args": {"model_name": "micro"}}
    Path("stream.yaml").write_text(yaml.safe_dump({"model": model, "data": data, "trainer": {"accelerator": "cpu"}}))
    return ["--config", "stream.yaml"]


def row(**changes):
    return json.loads((FILES / "gsm8k_train.jsonl").read_text().splitlines()[0]) | changes


@pytest.mark.parametrize(
    ("task_class", "init_args", "parts"),
    [
        ("JsonlTask", {"name": "a", "train": "gone.jsonl"}, ["task a", "train", "gone.jsonl", "Give the path"]),
        ("JsnlTask", {"name": "a"}, ["data.stages.task", "no class 'JsnlTask'", "mean JsonlTask"]),
        ("JsonlTask", {"nme": "a"}, ["data.stages.task.nme", "no option 'nme'", "mean name"]),
        ("JsonlTask", {"train": "a.jsonl"}, ["data.stages.task", "JsonlTask lacks name", "Add name"]),
        ("MicroTask", {"domain": "mth"}, ["data.stages.task.domain", "'mth' is not allowed", "mean math"]),
    ],
)
def test_task(refused, task_class, init_args, parts):
    message = refused(*stream(task_class, **init_args))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"ground_truth": None}, ["rows.jsonl, line 2", "field 'ground_truth'", "missing"]),
        ({"messages": "hello"}, ["rows.jsonl, line 2", "field 'messages'", "list of messages"]),
        ({"verifier": "math_boxd"}, ["math_boxd", "math_boxed"]),
    ],
)
def test_row(refused, change, parts):
    rows = [row(), row(id="other", **change)]
    Path("rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    message = refused(*stream(name="a", train="rows.jsonl"))
    assert all(part in message for part in parts), message


def test_line_that_is_no_json(refused):
    Path("rows.jsonl").write_text(json.dumps(row()) + "\n{oops\n")
    assert refused(*stream(name="a", train="rows.jsonl")).startswith("rows.jsonl, line 2: the line is not JSON")


def test_unknown_verifier_of_a_task(refused):
    message = refused(*stream(name="a", train=str(FILES / "gsm8k_train.jsonl"), verifier="math_boxd"))
    assert "no such verifier 'math_boxd'" in message
    assert "math_boxed" in message


@pytest.mark.parametrize(
    ("argument", "what", "fix"),
    [
        ("--rollout.max_prompt_tokens=3", "more than max_prompt_tokens = 3", "Raise"),
        ("--rollout.sampling.max_new_tokens=9999", "exceed the 1024 tokens", "Lower"),
    ],
)
def test_budget(refused, argument, what, fix):
    files = {"train": str(FILES / "gsm8k_train.jsonl"), "validation": str(FILES / "gsm8k_test.jsonl")}
    message = refused(*stream(name="a", **files), argument)
    assert message.startswith("a (train)") or message.startswith("a (validation)")
    assert "math/gsm8k/" in message
    assert what in message
    assert fix in message


def test_programs_without_bubblewrap(refused, monkeypatch):
    monkeypatch.setenv("PATH", "")
    from lit_sdpo.rewards.sandbox import sandbox

    getattr(sandbox._check_bubblewrap, "cache_clear", lambda: None)()
    message = refused(*stream(name="code", train=str(FILES / "mbpp_train.jsonl")))
    assert "bubblewrap" in message or "bwrap" in message


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("no tokenizer", "has no tokenizer"),
        ("no end token", "has no end token"),
        ("no template", "has no chat template"),
        ("no config", "has no config.json"),
        ("cut weights", "cannot load"),
    ],
)
def test_model_folder(refused, model, tmp_path, damage, what):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    if damage == "no tokenizer":
        for path in folder.glob("*token*"):
            path.unlink()
    elif damage == "no end token":
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": None}))
    elif damage == "no template":
        (folder / "chat_template.jinja").unlink()
    elif damage == "cut weights":
        (weights,) = folder.glob("*.safetensors")
        weights.write_bytes(weights.read_bytes()[:500])
    else:
        (folder / "config.json").unlink()
    message = refused(*MICRO, f"--model.model_name={folder}")
    assert message.startswith("model.model_name")
    assert what in message


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "cannot be read"),
        (b"", "damaged, and there is no good one"),
        (bytes(range(256)) * 20, "damaged, and there is no good one"),
        ({"epoch": 1}, "not the checkpoint of a run"),
        ("best", "no checkpoint 'best'"),
        ("hpc", "no checkpoint of a preempted job"),
    ],
    ids=["folder", "empty", "other bytes", "other content", "best", "hpc"],
)
@pytest.mark.filterwarnings("ignore:.*is damaged or no checkpoint|.*has no manifest")
def test_checkpoint(refused, content, what):
    path = Path("some.ckpt")
    if content is None:
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        torch.save(content, path)
    assert what in refused(*MICRO, f"--ckpt_path={content if isinstance(content, str) else path}")
    assert isinstance(content, str) or path.exists()  # it may be anybody's file


@pytest.mark.parametrize(
    ("argument", "where"),
    [
        ("--model.teacher.update_rate=0.1", "model.teacher.update_rate"),
        ("--model.config_overrides={hidden_size: 32}", "model"),
    ],
)
def test_f21_what_would_have_no_effect_is_refused(refused, argument, where):
    assert refused(*MICRO, argument).startswith(where)


def test_no_configuration_at_all(refused):
    assert "no data, model given" in refused()


def test_nothing_is_left_behind(refused, tmp_path):
    refused(*MICRO, "--rollout.max_prompt_tokens=3", "--trainer.logger.init_args.save_dir=runs")
    assert not list(tmp_path.rglob("config.yaml"))
