from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import warnings
from importlib.metadata import version

import pytest
import torch
import torch.distributed as dist
import yaml
from peft import PeftModel
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from lit_sdpo.callbacks import ExportPolicy, ForgettingMatrix, InitialEvaluation, StageCheckpoint
from lit_sdpo.checkpoints import SafeCheckpointIO
from lit_sdpo.checkpoints.manifest import Contents
from lit_sdpo.cli import main
from lit_sdpo.commands import exported
from lit_sdpo.errors import UserError
from lit_sdpo.policies import exporting
from lit_sdpo.policies.load import Lora, load_policy, load_tokenizer
from lit_sdpo.policies.sharding import shard
from lit_sdpo.policies.teachers import EMATeacher
from tests.training import fit, lively, method, rollout_callback, toy_data

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

PROMPT = [{"role": "user", "content": "What is 3 + 4? Use \\boxed{}."}]
SAMPLING = {"max_new_tokens": 6, "temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.1}


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    """Folder of a random Llama with a head of its own, without a generation configuration."""
    folder = tmp_path_factory.mktemp("models") / "untied"
    tokenizer = load_tokenizer("micro")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    return str(folder)


def trained(folder, model, lora=None, dtype="float32"):
    """A run of two stages, and its module."""
    options = {"teacher": EMATeacher(0.3), "lora": lora, "dtype": dtype}
    module = method("sdpo", model, **options)
    callbacks = [InitialEvaluation(), ForgettingMatrix(), StageCheckpoint()]
    settings = {"limit_val_batches": 1.0, "enable_checkpointing": True, "plugins": [SafeCheckpointIO()]}
    fit(folder, module, toy_data(("a", "b")), *callbacks, rollout=rollout_callback(rewards=lively()), **settings)
    given = {"model_name": model, "dtype": dtype, "lora": vars(lora) if lora else None}
    config = {"model": {"class_path": "lit_sdpo.SDPO", "init_args": given}, "rollout": {"sampling": SAMPLING}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return module


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny, untied):
    made = {
        "tied": (tiny, None, "float32"),
        "untied": (untied, None, "float32"),
        "lora": (untied, Lora(rank=3), "float32"),
        "bfloat16": (tiny, None, "bfloat16"),
    }
    folders = {name: tmp_path_factory.mktemp(name) for name in made}
    return {name: (folders[name], trained(folders[name], *arguments)) for name, arguments in made.items()}


def ids(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer.apply_chat_template(PROMPT, add_generation_prompt=True, return_tensors="pt", return_dict=False)


@torch.no_grad()
def logits(model, prompt):
    return model.float().eval()(input_ids=prompt).logits


@pytest.mark.parametrize("name", ["tied", "untied", "lora", "bfloat16"])
def test_an_exported_model_is_the_trained_one(runs, tmp_path, capsys, name):
    folder, module = runs[name]
    out = tmp_path / "deep" / "out"
    assert main(["export", str(folder), str(out)]) == 0
    said = capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert model.dtype == (torch.bfloat16 if name == "bfloat16" else torch.float32)
    assert not any("lora" in key for key in model.state_dict())
    prompt = ids(out)
    wanted = logits(module.policy, prompt)
    torch.testing.assert_close(logits(model, prompt), wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
    assert "same most likely token at 100.0%" in said
    if name != "lora":
        assert "largest difference of logits 0 " in said
    base = AutoModelForCausalLM.from_pretrained(module.policy.config._name_or_path or out, dtype=torch.float32)
    assert not torch.equal(logits(base, prompt), wanted)  # training has changed it
    assert not list(out.glob("*.bin"))
    assert {path.name for path in out.parent.iterdir()} == {"out"}
    assert stat.S_IMODE((out / "model.safetensors").stat().st_mode) == stat.S_IMODE((out / "README.md").stat().st_mode)


def test_an_adapter_is_read_by_peft(runs, tmp_path, untied):
    folder, module = runs["lora"]
    out = tmp_path / "out"
    assert main(["export", str(folder), str(out), "--adapter"]) == 0
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(untied), str(out))
    assert list(model.peft_config) == ["default"]  # the teacher's adapter stays behind
    assert torch.equal(logits(model, ids(out)), logits(module.policy, ids(out)))
    assert not (out / "model.safetensors").exists()
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == untied
    assert "library_name: peft" in (out / "README.md").read_text()


@pytest.mark.parametrize(("name", "dtype"), [("tied", "bfloat16"), ("lora", "float16")])
def test_rounded_weights_are_close(runs, tmp_path, name, dtype):
    folder, module = runs[name]
    assert main(["export", str(folder), str(tmp_path / "out"), "--dtype", dtype]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == getattr(torch, dtype)
    wanted = logits(module.policy, ids(tmp_path / "out"))
    difference = (logits(model, ids(tmp_path / "out")) - wanted).abs().max() / wanted.abs().max()
    assert 0 < difference < exporting.ROUNDED[getattr(torch, dtype)]


def test_generation_begins_as_the_run_sampled(runs, tmp_path, tiny):
    assert main(["export", str(runs["tied"][0]), str(tmp_path / "out")]) == 0
    config = GenerationConfig.from_pretrained(tmp_path / "out")
    assert config.eos_token_id == sorted(GenerationConfig.from_pretrained(tiny).eos_token_id)
    assert (config.do_sample, config.max_new_tokens, config.temperature) == (True, None, 0.7)
    assert (config.top_k, config.top_p, config.min_p) == (0, 1.0, 0.1)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    prompt = ids(tmp_path / "out")
    assert model.generate(prompt, max_length=prompt.shape[1] + 6).shape[1] <= prompt.shape[1] + 6
    greedy = exporting.generation_config(model, load_tokenizer("micro"), {**SAMPLING, "temperature": 0.0})
    assert (greedy.do_sample, greedy.temperature, greedy.min_p) == (False, None, None)
    greedy.validate(strict=True)


def test_the_card_says_what_was_trained_and_what_it_scores(runs, tmp_path, tiny):
    folder, _ = runs["tied"]
    checkpoint = folder / "checkpoints" / "stage=0-step=1.ckpt"
    assert main(["export", str(checkpoint), str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "transformers"
    assert Contents.of(checkpoint).sha256 in card
    assert f"trained with SDPO from `{tiny}`, 1 optimizer steps, stored in float32" in card
    assert "1. a, 1 steps of 3 prompts" in card
    assert "at most 6 tokens" in card
    assert "| 1 a |" in card
    assert "| 2 b |" not in card  # the run has gone on, this checkpoint has not
    assert re.search(r"\| base \| \d\.\d{3} \[\d\.\d\d, \d\.\d\d\]", card)
    assert "| forgetting |" in card
    assert f"torch {version('torch')}" in card
    # No heading without content.
    assert not re.search(r"\n#+ [^\n]*\n+(#|$)", card.replace("# out\n", ""))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{run}", "{full}"], "not empty"),
        (["{run}", "{run}", "--overwrite"], "something else than a model"),
        (["{run}", "{model}", "--overwrite"], "folder of the base model"),
        (["{run}", "{file}"], "a file of this name"),
        (["{run}", "{out}", "--adapter"], "trained all parameters"),
        (["{run}/absent.ckpt", "{out}"], "no such checkpoint"),
        (["{empty}", "{out}"], "no *.ckpt in it"),
        (["{file}", "{out}", "--config", "{run}/config.yaml"], "no checkpoint"),
        (["{run}", "{out}", "--config", "{other}/config.yaml"], "of another model"),
    ],
)
def test_c14_mistakes(runs, tmp_path, tiny, capsys, arguments, said):
    places = {name: tmp_path / name for name in ("full", "empty", "out", "file")}
    places["full"].mkdir()
    (places["full"] / "config.json").write_text("{}")
    places["empty"].mkdir()
    places["file"].write_text("no zip")
    places |= {"run": runs["tied"][0], "other": runs["lora"][0], "model": tiny}
    assert main(["export", *(word.format(**places) for word in arguments)]) == 2
    assert said in capsys.readouterr().err
    assert not places["out"].exists()


def test_a_damaged_checkpoint_is_refused(runs, tmp_path, capsys):
    folder = shutil.copytree(runs["tied"][0], tmp_path / "run")
    checkpoint = folder / "checkpoints" / "stage=1-step=2.ckpt"
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    assert main(["export", str(checkpoint), str(tmp_path / "out")]) == 2
    assert "use another one: stage=0-step=1.ckpt" in capsys.readouterr().err.lower()
    assert checkpoint.exists()


def test_other_weights_than_the_checkpoints_are_not_left(runs, tmp_path, capsys, monkeypatch):
    def wrong(folder, base=None):
        model, tokenizer = exporting.reload(folder, base)
        model.get_input_embeddings().weight.data[:, 0] += 0.1
        return model, tokenizer

    monkeypatch.setattr(exported, "reload", wrong)
    assert main(["export", str(runs["tied"][0]), str(tmp_path / "out")]) == 2
    assert "not the checkpoint's" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def die_while_writing(out, moment):
    """Overwrite a model in a process that kills itself; returns the signal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # forks beside threads
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        replace = os.replace

        def then_die(a, b):
            replace(a, b)
            os.kill(os.getpid(), signal.SIGKILL)

        with exporting.whole_folder(out, overwrite=True) as folder:
            (folder / "config.json").write_text("new")
            if moment == "writing":
                os.kill(os.getpid(), signal.SIGKILL)
            os.replace = then_die
    finally:
        os._exit(1)


@pytest.mark.parametrize("moment", ["writing", "moving"])
def test_c14_a_killed_export_leaves_the_old_model(tmp_path, moment):
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("old")
    assert die_while_writing(out, moment) == -signal.SIGKILL
    assert any(path.name.startswith(".out.") for path in tmp_path.iterdir())
    with pytest.raises(UserError, match="not empty"):  # the old one is back
        exporting.whole_folder(out).__enter__()
    assert (out / "config.json").read_text() == "old"
    with exporting.whole_folder(out, overwrite=True) as folder:
        (folder / "config.json").write_text("new")
    assert (out / "config.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_callback_writes_the_trained_policy(tmp_path, tiny, dtype):
    module = method("grpo", tiny)
    fit(tmp_path, module, toy_data(), ExportPolicy(dtype), rollout=rollout_callback(rewards=lively()))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype="auto")
    assert model.dtype == getattr(torch, dtype or "float32")
    for name, weight in module.policy.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.to(model.dtype)), name
    assert module.policy.dtype == torch.float32


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_a_divided_policy_is_written_whole(tmp_path, tiny, lora):
    policy = load_policy(tiny, lora=lora)
    wanted = {name: weight.clone() for name, weight in policy.state_dict().items()}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        shard(policy, init_device_mesh("cpu", (1,)))
        state = exporting.whole_state(policy)
        exporting.write_policy(policy, load_tokenizer("micro"), tmp_path, state=state)
    finally:
        dist.destroy_process_group()
    model, _ = exporting.reload(tmp_path, tiny if lora else None)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, wanted[name]), name


@pytest.mark.slow
def test_a_run_of_the_micro_model(tmp_path, capsys):
    short = ["--data.order=[math]", "--data.steps=1", "--data.ood=false", "--data.prior=false", "--data.eval_prompts=4"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    logger = [f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.logger.init_args.name=run"]
    lora = ["--model.lora.rank=2", "--model.random_weights=true", "--model.config_overrides={intermediate_size: 64}"]
    assert main(["fit", "--config", "configs/micro/sdpo.yaml", *short, *quiet, *logger, *lora]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert "over 4 prompts" in capsys.readouterr().out  # one of them is the task's
    assert json.loads((tmp_path / "out" / "config.json").read_text())["intermediate_size"] == 64
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "adapter"), "--adapter"]) == 2
    assert "base had random weights" in capsys.readouterr().err
