"""The base model of the micro world: its recipe learns, what it writes loads elsewhere, the shipped one can learn."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_sdpo.cli import run
from lit_sdpo.data.micro.tasks import MicroTask
from lit_sdpo.policies.load import load_policy, load_tokenizer, resolve
from lit_sdpo.rewards.combine import WeightedRewards
from lit_sdpo.rollouts.engines.native import NativeEngine
from lit_sdpo.rollouts.generate import GenerationSettings, generate
from lit_sdpo.rollouts.types import Sampling

BASE = Path(__file__).parents[2] / "configs" / "micro" / "base.yaml"
SHORT = f"""\
extends: {BASE}
model:
  init_args:
    scheduler: {{class_path: WarmupLinearDecay, init_args: {{total_steps: 40, warmup_steps: 4, decay_share: 0.7}}}}
data:
  init_args:
    stages:
      - steps: 40
        prompts_per_step: 32
        task: {{class_path: WarmStartTask}}
    probes: [{{class_path: MicroTask, init_args: {{domain: math}}}}]
    eval_prompts: 2
    eval_generations: 1
    eval_every: null
trainer:
  enable_model_summary: false
  accumulate_grad_batches: 1
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The recipe, cut to 40 steps of 32 examples."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "short.yaml").write_text(SHORT, encoding="utf-8")
    return run(["fit", f"--config={folder / 'short.yaml'}", f"--trainer.logger.init_args.save_dir={folder}"])


@pytest.mark.slow
def test_the_recipe_learns(made):
    events = EventAccumulator(made.trainer.log_dir)
    events.Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    assert len(losses) == 40
    assert losses[0] == pytest.approx(torch.tensor(800.0).log().item(), rel=0.1)
    assert sum(losses[-5:]) / 5 < losses[0] / 3


@pytest.mark.slow
def test_what_it_writes_loads_elsewhere(made):
    folder = Path(made.trainer.log_dir) / "policy"
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert loaded.dtype == torch.bfloat16
    chat = [{"role": "user", "content": "What is 2 + 2?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    assert ids.tolist()[0] == made.model.tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=False
    )
    policy = copy.deepcopy(made.model.policy).eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(parameter.bfloat16())
        wide = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        assert torch.equal(wide(ids).logits, policy(ids).logits)
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = list(file.keys())
    assert sum("embed_tokens" in name for name in names) == 1
    assert not any("lm_head" in name for name in names)
    assert loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()


def test_the_shipped_model_is_small_and_loads_in_bfloat16():
    folder = Path(resolve("micro"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert sum(p.numel() for p in model.parameters()) < 600_000
    assert (folder / "model.safetensors").stat().st_size < 1_200_000
    assert load_policy("micro").dtype == torch.float32


TOKENIZER = load_tokenizer("micro")


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_the_shipped_tokenizer_reads_any_text(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["math", "sci", "tool", "code"])
def test_the_shipped_model_has_something_to_learn(domain):
    task = MicroTask(domain)
    made = generate(
        load_policy("micro"),
        TOKENIZER,
        task,
        task.rows("validation")[:64],
        GenerationSettings(2, Sampling(max_new_tokens=64), seed=0, stream=("validation", domain)),
        engine=NativeEngine(),
        rewards=WeightedRewards(),
    )
    assert 0.2 <= made.rollouts.rewards.nanmean() <= 0.8
    assert made.rollouts.completions.finished.float().mean() > 0.9
