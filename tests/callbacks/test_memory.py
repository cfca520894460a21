from __future__ import annotations

import logging
import re

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from lit_sdpo.callbacks.memory import MemoryBudget, estimate
from lit_sdpo.callbacks.rollout.callback import RolloutCallback
from lit_sdpo.errors import UserError
from lit_sdpo.policies.memory import step_memory
from lit_sdpo.rollouts.engines.native import NativeEngine
from lit_sdpo.units import GIB, size
from tests.training import fit, method, rollout_callback, toy_data


def said(caplog):
    (text,) = [m for m in (record.getMessage() for record in caplog.records) if m.startswith("memory of a step")]
    return text


def run(tmp_path, module, caplog, gib=None, **options):
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        return fit(tmp_path, module, toy_data(steps=2), MemoryBudget(gib), **options)


def test_the_estimate_is_said_before_the_first_step(tmp_path, tiny, caplog):
    module = method("sdpo", tiny)
    run(tmp_path, module, caplog)
    weights = sum(p.numel() * 4 for p in module.policy.parameters()) / 2**20
    assert f"weights {weights:.1f} MiB, copies {weights:.1f} MiB, optimizer {2 * weights:.1f} MiB" in said(caplog)


def test_keys_and_values_are_those_of_the_rows_that_are_decoded_at_once(tmp_path, tiny, caplog):
    module, rollout = method("grpo", tiny), rollout_callback(engine=NativeEngine(max_rows=3))
    made = run(tmp_path, module, caplog, rollout=rollout)
    prompts, rows, prompt, completion = rollout.window(made, module)
    assert rows == 4 * prompts
    tokens = prompt + 2 * completion  # half a group
    assert f"keys and values of {tokens} tokens" in said(caplog)


def test_of_divided_weights_a_process_has_its_part_and_what_it_gathers(tmp_path, tiny, caplog):
    """The strategy decides; here the weights are not divided, as where a run is only looked at."""
    module, rollout = method("sdpo", tiny), rollout_callback()
    made = fit(tmp_path, module, toy_data(steps=2), rollout=rollout)
    whole = step_memory(module, module.policy)
    memory = step_memory(module, module.policy, 4)
    assert memory.resident == sum(n // 4 for n in (whole.weights, whole.copies, whole.optimizer))
    assert memory.gradients == whole.gradients // 4
    layers, outside = module.policy.model.layers, list(module.policy.get_input_embeddings().parameters())
    assert module.policy.get_output_embeddings().weight is outside[0]
    pieces = [*layers[:2].parameters(), *outside, module.policy.model.norm.weight]
    assert memory.gathered == 4 * sum(p.numel() for p in pieces)
    beside = memory.gathered + memory.gradients
    assert memory.update(10) == beside + whole.update(10) - whole.gradients
    assert memory.rollouts(10) == whole.weights + whole.rollouts(10)
    assert memory.tokens_within(memory.resident + memory.update(100)) == 100

    made._accelerator_connector.strategy = ModelParallelStrategy(data_parallel_size=4, tensor_parallel_size=1)
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        MemoryBudget(1.0).on_fit_start(made, module)
    need, parts = estimate(memory, rollout, rollout.window(made, module), 1)
    assert said(caplog) == f"memory of a step, at most about {size(need)}: {parts}"
    assert "layers gathered at a time" in parts
    assert "weights gathered for rollouts" in parts


def test_a_budget_cuts_the_window_into_as_many_slices_as_it_takes(tmp_path, tiny, caplog):
    plain = method("grpo", tiny)
    rollout = rollout_callback()
    made = fit(tmp_path / "plain", plain, toy_data(steps=2), rollout=rollout)
    prompts, rows, prompt, completion = rollout.window(made, plain)
    tokens = prompts * prompt + rows * completion
    memory = step_memory(plain, plain.policy)
    budget = memory.resident + memory.update(prompt + completion + tokens // 3)

    cut = method("grpo", tiny)
    made = run(tmp_path / "cut", cut, caplog, gib=budget / GIB)
    assert made.accumulate_grad_batches in (3, 4)
    assert f"(1 of {made.accumulate_grad_batches})" in said(caplog)
    found = re.search(r"activations of ([\d,]+) tokens", said(caplog))
    assert memory.resident + memory.update(int(found[1].replace(",", ""))) <= budget
    for a, b in zip(plain.policy.parameters(), cut.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_ample_memory_cuts_nothing(tmp_path, tiny, caplog):
    assert run(tmp_path, method("grpo", tiny), caplog, gib=64.0).accumulate_grad_batches == 1


def test_a_budget_that_holds_no_row_is_refused(tmp_path, tiny, caplog):
    with pytest.raises(UserError, match=r"needs [\d.]+ GiB"):
        run(tmp_path, method("grpo", tiny), caplog, gib=1e-3)


def test_a_budget_and_a_number_of_slices_do_not_go_together(tmp_path, tiny, caplog):
    with pytest.raises(UserError, match="accumulate_grad_batches itself"):
        run(tmp_path, method("grpo", tiny), caplog, gib=1.0, accumulate_grad_batches=2)


def test_a_window_counts_replayed_prompts_and_the_devices(tmp_path, tiny):
    callback = RolloutCallback(num_generations=4)

    class Trainer:
        world_size = 2
        datamodule = toy_data()

    Trainer.datamodule.replay_share = 0.5
    Trainer.datamodule.stages[0].prompts_per_step = 5
    prompts, rows, *_ = callback.window(Trainer(), method("grpo", tiny))
    assert (prompts, rows) == (3 + 2, 20)
