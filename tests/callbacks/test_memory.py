from __future__ import annotations

import logging

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from lit_sdpo.callbacks.memory import MemoryBudget, placement_of
from lit_sdpo.callbacks.rollout.callback import RolloutCallback
from lit_sdpo.errors import UserError
from lit_sdpo.policies.memory import Block, Placement, StepCount
from lit_sdpo.rollouts.engines.native import NativeEngine
from lit_sdpo.units import GIB
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
    assert f": weights {weights:.1f} MiB, teacher and other copies {weights:.1f} MiB, optimizer" in said(caplog)
    assert "(the longest of the data)" in said(caplog)


def test_keys_and_values_are_those_of_the_rows_that_are_decoded_at_once(tmp_path, tiny):
    module, rollout = method("grpo", tiny), rollout_callback(engine=NativeEngine(max_rows=3))
    made = fit(tmp_path, module, toy_data(steps=2), rollout=rollout)
    window = rollout.window(made.datamodule, module, 1)
    assert window.rows == 4 * window.prompts
    assert window.blocks == (Block(1, 2, window.prompt, window.completion),)  # half a group


def test_a_server_holds_keys_and_values_itself(tiny):
    rollout = rollout_callback()
    rollout.engine.can_ask_ahead = True
    assert rollout.window(toy_data(), method("grpo", tiny), 1).blocks == ()


def test_of_divided_weights_a_process_has_its_part_and_what_it_gathers(tmp_path, tiny, caplog):
    """The strategy decides; here the weights are not divided, as where a run is only looked at."""
    module, rollout = method("sdpo", tiny), rollout_callback()
    made = fit(tmp_path, module, toy_data(steps=2), rollout=rollout)
    window = rollout.window(made.datamodule, module, 1)
    whole = StepCount(module, module.policy, window).of(1)
    memory = StepCount(module, module.policy, window, Placement(shards=4)).of(1)
    assert memory.resident == {name: size // 4 for name, size in whole.resident.items()}
    layers, outside = module.policy.model.layers, list(module.policy.get_input_embeddings().parameters())
    assert module.policy.get_output_embeddings().weight is outside[0]
    pieces = [*layers[:2].parameters(), *outside, module.policy.model.norm.weight]
    assert memory.update["layers gathered at a time"] == 4 * sum(p.numel() for p in pieces)
    assert memory.rollouts == {"whole weights, gathered": whole.resident["weights"], **whole.rollouts}

    made._accelerator_connector.strategy = ModelParallelStrategy(data_parallel_size=4, tensor_parallel_size=1)
    made.strategy.parallel_devices = [torch.device("cpu")]
    assert placement_of(made) == Placement(shards=4)


def test_a_budget_cuts_the_window_into_as_many_slices_as_it_takes(tmp_path, tiny, caplog):
    plain = method("grpo", tiny)
    rollout = rollout_callback()
    made = fit(tmp_path / "plain", plain, toy_data(steps=2), rollout=rollout)
    count = StepCount(plain, plain.policy, rollout.window(made.datamodule, plain, 1))
    budget = count.of(3).peak

    cut = method("grpo", tiny)
    made = run(tmp_path / "cut", cut, caplog, gib=budget / GIB)
    assert made.accumulate_grad_batches == 3
    assert "(1 of 3)" in said(caplog)
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
    data = toy_data()
    data.replay_share = 0.5
    data.stages[0].prompts_per_step = 5
    window = callback.window(data, method("grpo", tiny), 2)
    assert (window.prompts, window.rows) == (3 + 2, 20)
    assert (window.prompt, window.read) == (2048, False)  # nothing was read
    assert window.blocks[1].rows == 4 // 2 * 2  # an evaluation is divided too
