"""Weights that are not those of the model are refused by name, wherever they are loaded."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_sdpo.callbacks.weights.base import BaseWeights
from lit_sdpo.errors import UserError
from lit_sdpo.modules import SDPO, SFT
from lit_sdpo.policies.load import check_files, check_vocabulary, load_policy, load_tokenizer, resolve
from lit_sdpo.policies.teachers import FrozenTeacher

LAYER = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture
def changed(tmp_path):
    """The micro model with other tensors, or another configuration."""

    def make(change=lambda tensors: tensors, **config):
        folder = Path(shutil.copytree(resolve("micro"), tmp_path / "model"))
        file = next(folder.glob("*.safetensors"))
        save_file(change(load_file(file)), file, metadata={"format": "pt"})
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return str(folder)

    return make


def without(tensors):
    return {name: tensor for name, tensor in tensors.items() if name != LAYER}


CHANGES = {
    "missing": (without, {}, f"missing: {LAYER}"),
    "renamed": (lambda t: {**without(t), f"{LAYER}s": t[LAYER]}, {}, f"without a place in the model: {LAYER}s"),
    "shapes": (dict, {"intermediate_size": 64}, "of another shape: model.layers.0.mlp.down_proj.weight"),
    "fewer layers": (dict, {"num_hidden_layers": 1, "layer_types": ["full_attention"]}, "model.layers.1.input"),
    "untied": (dict, {"tie_word_embeddings": False}, "missing: lm_head.weight"),
    "nan": (lambda t: {**t, LAYER: t[LAYER] * float("nan")}, {}, f"weights are not finite: {LAYER}"),
    "inf": (lambda t: {**t, LAYER: t[LAYER] + float("inf")}, {}, f"weights are not finite: {LAYER}"),
    "contradiction": (dict, {"num_hidden_layers": 1}, "must be equal to the number of"),
    "no heads": (dict, {"num_key_value_heads": 0}, "integer division or modulo by zero"),
    "library": (dict, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "not installed"),
    "unknown quantisation": (dict, {"quantization_config": {"quant_method": "mine"}}, "does not know"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_g16_what_does_not_fit_is_named(changed, kind):
    change, config, text = CHANGES[kind]
    folder = changed(change, **config)
    with pytest.raises(UserError) as caught:
        load_policy(folder)
    assert caught.value.where == "model.model_name"
    assert text in caught.value.what
    assert "\n" not in str(caught.value)
    if kind not in ("nan", "inf"):  # numbers are not read
        with pytest.raises(UserError) as caught:
            check_files(folder)
        assert text in caught.value.what


def test_a_head_of_another_kind_is_left_aside_with_a_warning(changed):
    folder = changed(lambda t: {**t, "v_head.weight": torch.zeros(96)})
    with pytest.warns(UserWarning, match="v_head.weight"):
        load_policy(folder)


def test_names_without_the_prefix_of_the_whole_model_are_understood(changed):
    folder = changed(lambda t: {name.removeprefix("model."): tensor for name, tensor in t.items()})
    assert torch.equal(load_policy(folder).model.norm.weight, load_policy("micro").model.norm.weight)


def test_an_adapter_is_no_model(changed):
    folder = changed()
    Path(folder, "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds an adapter"):
        load_policy(folder)


@pytest.mark.parametrize("implementation", ["flash_attention_2", "nope"])
def test_attention_that_is_not_there(implementation):
    with pytest.raises(UserError) as caught:
        load_policy("micro", attn_implementation=implementation)
    assert caught.value.where == "model.attn_implementation"


def test_g17_a_padded_vocabulary_fits_and_a_short_one_does_not():
    tokenizer = load_tokenizer("micro")
    for rows, fits in ((len(tokenizer) + 200, True), (len(tokenizer), True), (len(tokenizer) - 1, False)):
        policy = load_policy(
            "micro", random_weights=True, config_overrides={"vocab_size": rows, "num_hidden_layers": 4}
        )
        if fits:
            check_vocabulary(policy, tokenizer)
        else:
            with pytest.raises(UserError, match="the tokenizer has"):
                check_vocabulary(policy, tokenizer)


@pytest.mark.parametrize(
    ("end", "text"), [(99_999, "outside"), (-1, "outside"), ("</s>", "no token id"), (True, "no token")]
)
def test_g17_end_tokens_are_tokens(end, text):
    policy, tokenizer = load_policy("micro"), load_tokenizer("micro")
    policy.generation_config.eos_token_id = [2, end]
    with pytest.raises(UserError, match=text):
        check_vocabulary(policy, tokenizer)


def test_g16_the_folder_of_a_teacher_is_looked_at_too(changed):
    module = SDPO("micro", teacher=FrozenTeacher(checkpoint=changed(without)))
    with pytest.raises(UserError, match=LAYER) as caught:
        module.configure_model()
    assert caught.value.where == "teacher.checkpoint"


def test_g16_a_checkpoint_with_nan_is_not_gone_on_from():
    module = SFT("micro")
    module.configure_model()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.on_load_checkpoint({"state_dict": state})
    name = next(name for name in state if "down_proj" in name)
    state[name][0] = float("nan")
    with pytest.raises(UserError, match="not finite") as caught:
        module.on_load_checkpoint({"state_dict": state})
    assert name in caught.value.what


def test_g16_kept_weights_are_compared_when_they_are_opened(tmp_path):
    weights = {"a": torch.ones(2), "b": torch.zeros(3)}
    base = BaseWeights("base.pt", "Owner")
    base.keep(weights, tmp_path)
    base.open([], weights)
    for wanted, text in (
        ({"a": weights["a"]}, "without a place in the model: b"),
        ({**weights, "c": weights["a"]}, "missing: c"),
        ({"a": torch.ones(4), "b": weights["b"]}, "of another shape: a"),
    ):
        with pytest.raises(UserError, match=text):
            base.open([], wanted)
    base.keep({"a": torch.tensor([1.0, float("inf")])}, tmp_path)
    with pytest.raises(UserError, match="not finite: a"):
        base.open([], {"a": torch.ones(2)})
    (tmp_path / "base.pt").write_bytes(b"no file of torch")
    with pytest.raises(UserError, match="cannot be read"):
        base.open([], weights)
    torch.save([1], tmp_path / "base.pt")
    with pytest.raises(UserError, match="holds no weights"):
        base.open([], weights)
