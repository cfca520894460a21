"""Two processes take the same steps as one. SGD: adaptive optimizers amplify rounding."""

from __future__ import annotations

import pytest
import torch

from lit_sdpo.callbacks import InitialEvaluation
from tests.training import Toy, assert_close_gradients, fit, method, rollout_callback, toy_data, weights

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


class Uneven(Toy):
    """One evaluation prompt for two processes."""

    def rows(self, split):
        return super().rows(split)[: 1 if split == "validation" else None]


def moved(tmp_path, tiny, kind, data, **options):
    module = method(kind, tiny)
    module.configure_model()
    before = weights(module)
    rollout = rollout_callback()
    made = fit(tmp_path, module, data, InitialEvaluation(), rollout=rollout, limit_val_batches=1.0, **options)
    after = weights(module)
    logged = {name: float(value) for name, value in made.callback_metrics.items()}
    return {name: before[name] - after[name] for name in before}, logged


@pytest.mark.parametrize("kind", ["grpo", "sdpo", "sft"])
def test_two_processes_take_the_steps_of_one(tmp_path, tiny, kind):
    """3 prompts are no even number, and neither are the rows of 2 slots."""

    def data():
        return toy_data([Toy("a"), Uneven("b")], steps=2)

    alone, expected = moved(tmp_path, tiny, kind, data(), accumulate_grad_batches=2)
    shared, logged = moved(tmp_path, tiny, kind, data(), accumulate_grad_batches=2, strategy="ddp_fork", devices=2)
    assert_close_gradients(shared, alone, rtol=1e-3)
    names = [name for name in expected if not name.startswith("time/") and "tokens_per_second" not in name]
    exact = [name for name in names if name.startswith(("val/", "rollout/", "train/loss"))]
    assert len(exact) > 8
    assert {n: logged[n] for n in exact} == pytest.approx({n: expected[n] for n in exact}, rel=1e-3, abs=1e-5)


def test_an_idle_window_is_idle_on_all_ranks(tmp_path, tiny):
    data = toy_data([Toy(score=lambda text: 1.0)], steps=2)
    shared, logged = moved(tmp_path, tiny, "grpo", data, strategy="ddp_fork", devices=2)
    assert all(torch.equal(value, torch.zeros_like(value)) for value in shared.values())
    assert logged["rollout/flat_groups"] == 1
