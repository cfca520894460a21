"""``plan``, ``doctor`` and ``fit`` say the same of one configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lit_sdpo.callbacks.memory import MemoryBudget
from lit_sdpo.cli import run
from lit_sdpo.diagnosis import costs
from lit_sdpo.diagnosis.configuration import build
from lit_sdpo.planning.plan import plan

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

MICRO = Path(__file__).parents[2] / "configs" / "micro"
SMALL = {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}

CASES = {
    "grpo": ["grpo"],
    "sdpo": ["sdpo"],
    "sft": ["sft"],
    "lora": ["sdpo", "--model.lora={rank: 4}"],
    "bf16 weights": ["grpo", "--model.dtype=bfloat16"],
    "bf16-mixed": ["grpo", "--trainer.precision=bf16-mixed"],
    "ema": ["sdpo", "--model.teacher={class_path: EMATeacher, init_args: {update_rate: 0.1}}"],
    "two updates": ["grpo", "--data.updates_per_rollout=2", "--data.steps=76"],
    "checkpointing": ["grpo", "--model.gradient_checkpointing=true"],
    "slices": ["sdpo", "--trainer.accumulate_grad_batches=4"],
    "budget": ["grpo", "--memory.gib=0.03"],
    "rows at once": ["grpo", "--rollout.engine=lit_sdpo.NativeEngine", "--rollout.engine.max_rows=8"],
}


class Told(Exception):
    """Carries what a run says before its first step."""


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_three_commands_one_number(case, tmp_path, monkeypatch):
    method, *more = CASES[case]
    arguments = [
        f"--config={MICRO / method}.yaml",
        "--model.random_weights=true",
        f"--model.config_overrides={json.dumps(SMALL)}",
        "--data.order=[math]",
        "--trainer.logger=false",
        "--trainer.enable_checkpointing=false",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        f"--trainer.default_root_dir={tmp_path}",
        *more,
    ]
    planned = plan(arguments).memory
    assert planned.window.read
    (found,) = costs.memory(_checked(arguments))
    assert str(planned) in found.text

    count = MemoryBudget.memory

    def tell(self, *some):
        raise Told(count(self, *some))

    monkeypatch.setattr(MemoryBudget, "memory", tell)
    with pytest.raises(Told) as told:
        run(["fit", *arguments])
    assert told.value.args[0] == planned


def _checked(arguments):
    made = build(arguments)
    made.data.setup("fit")
    made.rollout.setup(made.trainer, made.module, "fit")
    return made
