"""Adapters, tied weights, sharded parameters, and the key in a configuration."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lit_sdpo.callbacks.weights.drift import ParameterDrift, measure
from lit_sdpo.callbacks.weights.trained import TrainedWeight, check_whole, trained_parameters, trained_weights
from lit_sdpo.cli import run
from lit_sdpo.errors import UserError
from lit_sdpo.policies.load import Lora, load_policy
from lit_sdpo.policies.teachers import EMATeacher
from tests.training import fit, method, toy_data

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def random(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def moved(module, size=0.01):
    """What the trained parameters were, before all of them moved."""
    before = {name: p.detach().clone() for name, p in trained_parameters(module).items()}
    with torch.no_grad():
        for i, p in enumerate(trained_parameters(module).values()):
            p += size * random(p.shape, i)
    return before


@pytest.mark.parametrize("start", ["zero", "trained"])
def test_an_adapter_is_measured_as_the_merged_weight(tiny, start):
    policy = load_policy(tiny, lora=Lora(rank=3, alpha=6))
    if start == "trained":
        moved(policy, 0.1)
    merged = load_policy(tiny, lora=Lora(rank=3, alpha=6))
    merged.load_state_dict(policy.state_dict())
    first = dict(merged.merge_and_unload().named_parameters())
    before = moved(policy)
    _, rows = measure(policy, before.__getitem__, rank=2)
    last = dict(policy.merge_and_unload().named_parameters())
    assert len(rows) == 2 * 7
    assert {row.kind for row in rows} == {f"{x}_proj" for x in ("q", "k", "v", "o", "gate", "up", "down")}
    for row in rows:
        name = row.name.removeprefix("base_model.model.")
        expected = ((last[name] - first[name]).norm() / first[name].norm()).item()
        assert row.drift.relative_norm == pytest.approx(expected, rel=1e-4)
        assert row.drift.stable_rank <= 6.01
        assert row.layer in (0, 1)


def test_adapters_of_another_kind_are_measured_as_they_stand():
    module = get_peft_model(nn.Sequential(nn.Linear(6, 5)), LoraConfig(r=2, target_modules=["0"], use_dora=True))
    assert {w.name.rsplit(".", 2)[-2] for w in trained_weights(module)} == {"default"}


def test_a_transposed_layer_is_merged_the_right_way():
    transformers = pytest.importorskip("transformers.pytorch_utils")
    layer = nn.Sequential(transformers.Conv1D(5, 4))
    module = get_peft_model(layer, LoraConfig(r=2, target_modules=["0"], fan_in_fan_out=True))
    moved(module)
    (weight,) = trained_weights(module)
    parameters = trained_parameters(module)
    value = weight.value(lambda name: parameters[name].detach())
    torch.testing.assert_close(value, module.merge_and_unload()[0].weight.detach())


def test_tied_weights_count_once_and_frozen_ones_not(tiny):
    policy = load_policy(tiny)
    assert policy.config.tie_word_embeddings
    policy.model.layers[0].mlp.requires_grad_(False)
    _, rows = measure(policy, moved(policy).__getitem__)
    kinds = [row.kind for row in rows]
    assert kinds.count("embed_tokens") == 1
    assert "lm_head" not in kinds
    assert [kinds.count(name) for name in ("q_proj", "up_proj")] == [2, 1]


@pytest.mark.parametrize(
    ("name", "kind", "layer"),
    [
        ("policy.model.layers.3.self_attn.q_proj.weight", "q_proj", 3),
        ("policy.model.layers.0.mlp.base_layer.weight", "mlp", 0),
        ("weight", "weight", None),
        ("encoder.attention.in_proj_weight", "in_proj_weight", None),
    ],
)
def test_type_and_layer_of_a_name(name, kind, layer):
    weight = TrainedWeight(name, (name,), lambda get: get(name))
    assert (weight.kind, weight.layer) == (kind, layer)


@pytest.mark.parametrize("mark", ["full_tensor", "_is_flat_param", "ds_id"])
def test_sharded_parameters_are_refused(mark):
    module = nn.Linear(2, 2)
    check_whole(module)
    setattr(module.weight, mark, True)
    with pytest.raises(UserError, match="'weight' is sharded"):
        check_whole(module)


@pytest.mark.parametrize(
    "option", [{"every_n_steps": 0}, {"rank": 0}, {"share": 0.0}, {"share": 2.0}, {"threshold": 0}, {"full_up_to": -1}]
)
def test_arguments_that_cannot_be(option):
    with pytest.raises(UserError, match=rf"^{next(iter(option))} has to be"):
        ParameterDrift(**option)


def test_a_file_of_another_model_is_refused(tmp_path):
    torch.save({"token": "1", "weights": {"weight": torch.zeros(3)}}, tmp_path / "base.pt")
    with pytest.raises(UserError, match="not those of the model"):
        fit(
            tmp_path,
            method("grpo", "micro"),
            toy_data(),
            ParameterDrift(base=str(tmp_path / "base.pt")),
        )


def test_a_teachers_copy_is_not_measured(tmp_path, tiny):
    module = method("sdpo", tiny, teacher=EMATeacher(0.1))
    drift = ParameterDrift()
    fit(tmp_path, module, toy_data(), drift)
    assert len(drift.rows) == 2 * 7 + 1
    assert all(row.name.startswith("policy.") for row in drift.rows)
    with (tmp_path / "drift.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 15


def test_it_is_switched_on_by_a_configuration(tmp_path):
    overlay = tmp_path / "measure.yaml"
    overlay.write_text("trainer: {callbacks: [{class_path: ParameterDrift, init_args: {rank: 4}}]}\n")
    base = Path(__file__).parents[3] / "configs" / "micro" / "grpo.yaml"
    settings = ["order=[math]", "steps=1", "prompts_per_step=1", "eval_prompts=1", "eval_generations=1", "ood=false"]
    arguments = ["fit", "--config", str(base), "--config", str(overlay), *(f"--data.{x}" for x in settings)]
    arguments += ["--data.prior=false", "--rollout.num_generations=2", "--rollout.sampling.max_new_tokens=2"]
    run([*arguments, f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.logger.init_args.name=run"])
    with (tmp_path / "run" / "version_0" / "drift.csv").open() as file:
        assert {row["type"] for row in csv.DictReader(file)} >= {"q_proj", "down_proj", "embed_tokens"}
