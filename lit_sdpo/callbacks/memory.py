"""How much memory a step will need, said before the first one, and a budget for it."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info

from lit_sdpo.callbacks.rollout.callback import RolloutCallback, rollouts_in
from lit_sdpo.callbacks.rollout.checks import check_module
from lit_sdpo.data.base import stream_of
from lit_sdpo.errors import UserError
from lit_sdpo.lightning_names import both
from lit_sdpo.modules.contract import RolloutModule
from lit_sdpo.policies.memory import UNCOUNTABLE, Placement, StepCount, StepMemory
from lit_sdpo.ranges import check_number

#: Dtype of each mixed precision of the trainer.
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class MemoryBudget(Callback):
    """Prints an estimate of a step's memory, and chooses ``accumulate_grad_batches`` so that it fits a budget.

    The estimate is that of ``lit-sdpo plan`` and ``lit-sdpo doctor`` (:mod:`lit_sdpo.policies.memory`): weights, copies
    such as a teacher, the optimizer, and the larger of two things that follow each other, the rollouts' keys and values
    or the gradients and activations of one slice. Both are counted for completions of full length after the longest
    prompt, so most steps need less. Of weights that are divided among processes it counts a process's part of all that,
    the layers that are gathered at a time in an update, and the whole weights in rollouts. The process itself,
    communication buffers, and what the allocator keeps come on top.

    Args:
        gib: Most GiB per process that an update may need; the window is cut into as many slices as that takes. ``None``
            leaves ``accumulate_grad_batches`` as it is.

    Raises:
        UserError: Not even a slice of the longest prompt and completion fits, ``accumulate_grad_batches`` is given
            too, or nothing samples completions.
    """

    def __init__(self, gib: float | None = None) -> None:
        self.gib = check_number("gib", gib, above=0, optional=True)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Estimate, cut, tell."""
        rollout = rollouts_in(trainer)
        if rollout is None:
            if self.gib is not None:
                raise UserError(
                    f"a step without rollouts cannot be estimated, and {type(pl_module).__name__} is trained without",
                    where="memory.gib",
                    fix="set trainer.accumulate_grad_batches instead, and leave MemoryBudget out",
                )
            rank_zero_info("MemoryBudget has nothing to estimate: there is no RolloutCallback.")
            return
        module = check_module(pl_module)
        if module.policy is None:
            return
        try:
            memory = self.memory(trainer, module, rollout)
        except UNCOUNTABLE as error:
            if self.gib is not None:
                raise UserError(
                    f"the memory of {type(module.policy).__name__} cannot be estimated ({error})",
                    where="memory.gib",
                    fix="set trainer.accumulate_grad_batches instead",
                ) from error
            return
        trainer.accumulate_grad_batches = memory.slices
        rank_zero_info(f"memory of a step, at most about {memory}")

    def memory(self, trainer: pl.Trainer, module: RolloutModule, rollout: RolloutCallback) -> StepMemory:
        """What a step of a process needs, cut as the trainer or the budget says.

        Args:
            trainer: Of the run.
            module: The method, with its policy.
            rollout: What samples; it has read the prompts.

        Raises:
            UserError: See the class.
        """
        window = rollout.window(stream_of(trainer), module, trainer.world_size, trainer.limit_val_batches != 0)
        count = StepCount(module, module.policy, window, placement_of(trainer), module.float32_masters)
        return count.of(slices_of(count, self.gib, trainer.accumulate_grad_batches))


def slices_of(count: StepCount, gib: float | None, given: int) -> int:
    """Slices of a step: as many as are given, or as a budget takes.

    Raises:
        UserError: Both are there, or not even one row fits the budget.
    """
    if gib is None:
        return given
    if given != 1:
        raise UserError(
            "a memory budget chooses accumulate_grad_batches itself", where="memory.gib", fix="give one of the two"
        )
    return count.slices(gib)


def placement_of(trainer: pl.Trainer) -> Placement:
    """Where a trainer's processes compute."""
    strategy = trainer.strategy
    buckets, shards = isinstance(strategy, both(DDPStrategy)), 1
    if isinstance(strategy, both(ModelParallelStrategy)):
        share = strategy._data_parallel_size
        shards = strategy.num_nodes if isinstance(share, str) else share
    return Placement(
        device=strategy.root_device.type,
        shards=shards,
        buckets=buckets,
        bucket_views=buckets and bool(strategy._ddp_kwargs.get("gradient_as_bucket_view")),  # type: ignore[attr-defined]
        autocast=AUTOCAST.get(str(trainer.precision)),
    )
