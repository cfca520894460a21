from __future__ import annotations

import copy

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_sdpo.callbacks import StageCheckpoint
from lit_sdpo.modules import OnPolicyModule
from lit_sdpo.optimizers import MuonAdamW, WarmupConstant
from lit_sdpo.policies.teachers import EMATeacher
from lit_sdpo.rewards.combine import WeightedRewards
from lit_sdpo.rollouts.engines.native import NativeEngine
from tests.training import (
    Toy,
    adamw,
    assert_close_gradients,
    assert_equal,
    fit,
    method,
    rollout_callback,
    step_gradient,
    toy_data,
    weights,
)

KINDS = ["grpo", "sdpo", "sft"]
AGGREGATIONS = ["token_mean", "seq_mean_token_mean", "seq_mean_token_sum"]


class Record(pl.Callback):
    """What was logged at each optimizer step, and the optimizer after it."""

    def __init__(self):
        self.logged, self.states = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch.slot == batch.slots - 1:
            self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
            self.states.append(copy.deepcopy(trainer.optimizers[0].state_dict()["state"]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_g13_a_step_does_not_depend_on_how_it_is_cut(tmp_path, tiny, kind, aggregation):
    """2, 3 and 5 slots do not all divide the rows, nor what contributes, evenly; three references are three rows."""
    losses, gradients = [], []
    for slots in (1, 2, 3, 3 if kind == "sft" else 5):
        record = Record()
        gradient, _ = step_gradient(tmp_path, kind, tiny, record, slots=slots, aggregation=aggregation)
        gradients.append(gradient)
        losses.append(record.logged[0]["train/loss"])
    assert losses[1:] == pytest.approx([losses[0]] * 3, rel=1e-5, abs=1e-6)
    for gradient in gradients[1:]:
        assert_close_gradients(gradient, gradients[0])


@pytest.mark.parametrize("slots", [1, 2])
def test_gradients_do_not_lie_about_while_completions_are_drawn(tmp_path, tiny, slots):
    """They are as large as the weights, and the memory of a rollout is what is left."""
    held = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            held.append(any(p.grad is not None for p in pl_module.parameters()))

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch.slot == 0:
                held.append(any(p.grad is not None for p in pl_module.parameters()))

    fit(tmp_path, method("grpo", tiny), toy_data(steps=2), Watch(), accumulate_grad_batches=slots)
    assert held == [False, True, False, True]


def test_aggregations_differ(tmp_path, tiny):
    made = [step_gradient(tmp_path, "grpo", tiny, aggregation=each)[0] for each in AGGREGATIONS]
    for a, b in [(0, 1), (1, 2), (0, 2)]:
        assert any(not torch.allclose(made[a][n], made[b][n], rtol=1e-2, atol=1e-5) for n in made[a])


OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9, weight_decay=0.1),
    "muon": lambda parameters: MuonAdamW(parameters, lr=1e-2, weight_decay=0.1),
}
NOTHING = {
    "grpo": {"all alike": lambda text: 1.0, "all abstain": lambda text: None},
    "sdpo": {"no success": lambda text: 0.0, "all abstain": lambda text: None},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("kind", "case"), [(kind, case) for kind in NOTHING for case in NOTHING[kind]])
def test_g12_nothing_active_moves_nothing(tmp_path, tiny, kind, case, optimizer):
    module = method(kind, tiny, optimizer=OPTIMIZERS[optimizer], scheduler=WarmupConstant)
    module.configure_model()
    before, record = weights(module), Record()
    made = fit(tmp_path, module, toy_data([Toy(score=NOTHING[kind][case])], steps=2), record, accumulate_grad_batches=2)
    assert_equal(weights(module), before)
    assert not made.optimizers[0].state
    assert made.lr_scheduler_configs[0].scheduler.last_epoch == 2
    assert [logged["train/loss"] for logged in record.logged] == [0, 0]
    if kind == "sdpo":
        assert int(module.teacher.ticks) == 0


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_r02_a_step_without_anything_active_leaves_the_optimizer_alone(tmp_path, tiny, optimizer, slots):
    calls = []

    def first_time_only(prompts, completions, completion_ids, **columns):
        calls.append(1)
        return [float(sum(ids) % 2) if len(calls) in (1, 3) else 0.5 for ids in completion_ids]

    rewards = WeightedRewards({"sometimes": first_time_only}, {"verifier": 0.0})
    module, record = method("grpo", tiny, optimizer=OPTIMIZERS[optimizer]), Record()
    data, rollout = toy_data(steps=3), rollout_callback(rewards=rewards)
    fit(tmp_path, module, data, record, rollout=rollout, accumulate_grad_batches=slots)
    first, second, third = ([leaf for state in s.values() for leaf in state.values()] for s in record.states)
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(second, third, strict=True))
    assert [logged["train/grad_norm"] > 0 for logged in record.logged] == [True, False, True]


class Dirty(NativeEngine):
    """Leaves garbage behind the end of every completion."""

    def generate(self, *args, **options):
        drawn = super().generate(*args, **options)
        beyond = torch.arange(drawn.ids.shape[1]) >= drawn.lengths[:, None]
        assert bool(beyond.any())
        drawn.ids[beyond] = torch.randint(4, 700, (int(beyond.sum()),))
        drawn.logprobs[beyond] = torch.tensor([torch.nan, torch.inf, -torch.inf]).repeat(len(beyond) * 9)[
            : int(beyond.sum())
        ]
        return drawn


@pytest.mark.parametrize("kind", ["grpo", "sdpo", "gspo", "cispo"])
def test_what_stands_behind_a_completion_changes_nothing(tmp_path, tiny, kind):
    ends = []
    for engine in (NativeEngine(), Dirty()):
        module = method(kind, tiny)
        rollout = rollout_callback(engine=engine)
        data = toy_data(steps=2, updates_per_rollout=2)
        fit(tmp_path, module, data, rollout=rollout, accumulate_grad_batches=2)
        ends.append(weights(module))
    assert_equal(*ends)


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("slots", [1, 2])
def test_a_stage_begins_with_a_new_optimizer_on_request(tmp_path, tiny, reset, slots):
    module = method(
        "grpo", tiny, optimizer=adamw, scheduler=lambda o: WarmupConstant(o, warmup_steps=4), reset_optimizer=reset
    )
    record = Record()
    fit(tmp_path, module, toy_data(["a", "b"], steps=2), record, accumulate_grad_batches=slots)
    rates = [logged["train/lr"] / 1e-2 for logged in record.logged]
    steps = [int(next(iter(state.values()))["step"]) for state in record.states]
    assert rates == pytest.approx([0.25, 0.5, 0.25, 0.5] if reset else [0.25, 0.5, 0.75, 1.0])
    assert steps == ([1, 2, 1, 2] if reset else [1, 2, 3, 4])


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize(
    ("kind", "step", "reset"),
    [
        *((kind, step, reset) for kind in ("grpo", "sdpo") for step in (1, 2, 3) for reset in (True, False)),
        *((kind, 2, True) for kind in ("gspo", "cispo")),
    ],
)
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, tiny, kind, step, reset):
    """Step 2 is the end of the first stage, 1 and 3 are in the middle of one."""
    end = step == 2

    def make():
        options = {"teacher": EMATeacher(0.3)} if kind == "sdpo" else {}
        schedule = {"scheduler": lambda o: WarmupConstant(o, warmup_steps=3), "reset_optimizer": reset}
        return method(kind, tiny, optimizer=adamw, **schedule, **options)

    def saving(folder):
        return StageCheckpoint() if end else ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)

    def run(folder, module, ckpt_path=None):
        data = toy_data(["a", "b"], steps=2, eval_every=1)
        options = {"accumulate_grad_batches": 2, "limit_val_batches": 1.0, "enable_checkpointing": True}
        fit(folder, module, data, saving(folder), ckpt_path=ckpt_path, **options)
        return {name: value.clone() for name, value in module.state_dict().items()}

    whole = run(tmp_path / "whole", make())
    (path,) = [p for p in tmp_path.rglob("*.ckpt") if p.name.endswith(f"step={step}.ckpt")]
    assert_equal(run(tmp_path / "resumed", make(), path), whole)


def test_the_base_has_no_objective(tiny):
    module = OnPolicyModule(tiny)
    module.configure_model()
    policy = module.policy
    module.configure_model()
    assert module.policy is policy
    assert policy.training
    assert not module.terms
