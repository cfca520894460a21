"""How much memory a step will need, said before the first one, and a budget for it."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from lightning.pytorch.utilities import rank_zero_info

from lit_sdpo.callbacks.rollout.callback import RolloutCallback
from lit_sdpo.errors import UserError
from lit_sdpo.policies.memory import UNCOUNTABLE, StepMemory, step_memory
from lit_sdpo.ranges import check_number
from lit_sdpo.rollouts.blocks import at_once
from lit_sdpo.units import GIB, size


class MemoryBudget(Callback):
    """Prints an estimate of a step's memory, and chooses ``accumulate_grad_batches`` so that it fits a budget.

    The estimate counts weights, copies such as a teacher, the optimizer's averages, and the larger of two things that
    follow each other: the rollouts' keys and values, or the gradients and activations of one slice. Both are counted
    for completions of full length, so most steps need less. Of weights that are divided among processes it counts a
    process's part of all that, the layers that are gathered at a time in an update, and the whole weights in rollouts.
    The process itself, communication buffers, and what the allocator keeps come on top.

    Args:
        gib: Most GiB per process that a step may need; the window is cut into as many slices as that takes. ``None``
            leaves ``accumulate_grad_batches`` as it is.

    Raises:
        UserError: Not even a slice of the longest prompt and completion fits, or ``accumulate_grad_batches`` is given
            too.
    """

    def __init__(self, gib: float | None = None) -> None:
        self.gib = check_number("gib", gib, above=0, optional=True)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Estimate, cut, tell."""
        module: Any = pl_module
        rollout = next((c for c in trainer.callbacks if isinstance(c, RolloutCallback)), None)  # type: ignore[attr-defined]
        if rollout is None or getattr(module, "policy", None) is None:
            return
        try:
            masters = getattr(module, "float32_masters", False)
            memory = step_memory(module, module.policy, shards_of(trainer.strategy), masters)
        except UNCOUNTABLE as error:
            if self.gib is not None:
                raise UserError(
                    f"the memory of {type(module.policy).__name__} cannot be estimated ({error})",
                    where="memory.gib",
                    fix="set trainer.accumulate_grad_batches instead",
                ) from error
            return
        window = prompts, rows, prompt, completion = rollout.window(trainer, pl_module)
        tokens, longest = prompts * prompt + rows * completion, prompt + completion
        if self.gib is not None:
            trainer.accumulate_grad_batches = self._slices(trainer, memory, tokens, longest)
        need, parts = estimate(memory, rollout, window, trainer.accumulate_grad_batches)
        rank_zero_info(f"memory of a step, at most about {size(need)}: {parts}")

    def _slices(self, trainer: pl.Trainer, memory: StepMemory, tokens: int, longest: int) -> int:
        assert self.gib is not None
        if trainer.accumulate_grad_batches != 1:
            raise UserError(
                "a memory budget chooses accumulate_grad_batches itself", where="memory.gib", fix="give one of the two"
            )
        room = memory.tokens_within(int(self.gib * GIB))
        # A slice is cut at whole rows, so it may exceed its share by one row and its prompt.
        if room <= longest:
            need = (memory.resident + memory.update(longest + 1)) / GIB
            raise UserError(
                f"a slice of the longest prompt and completion ({longest} tokens) needs {need:.3g} GiB",
                where="memory.gib",
                fix="raise it, lower rollout.sampling.max_new_tokens, or set model.gradient_checkpointing",
            )
        return max(1, -(-tokens // (room - longest))) if tokens > room else 1


def shards_of(strategy: Strategy) -> int:
    """Among how many processes a strategy divides the weights; 1 if it does not."""
    if not isinstance(strategy, ModelParallelStrategy):
        return 1
    size = strategy._data_parallel_size
    return strategy.num_nodes if isinstance(size, str) else size


def estimate(
    memory: StepMemory, rollout: RolloutCallback, window: tuple[int, int, int, int], slices: int
) -> tuple[int, str]:
    """Most bytes that a process needs, and what they are, in words.

    Args:
        memory: Of the method.
        rollout: What samples.
        window: What a process holds of a step, as ``rollout.window`` gives it.
        slices: Slices that a step is cut into.
    """
    prompts, rows, prompt, completion = window
    share = max(prompt + completion, -(-(prompts * prompt + rows * completion) // slices))
    held, decoded = at_once(prompts, rows // prompts, rollout.engine.max_rows)
    cached = held * prompt + decoded * completion
    update = memory.update(share, slices)
    parts = {
        "weights": memory.weights,
        "copies": memory.copies,
        "optimizer": memory.optimizer,
        "float32 masters": memory.masters,
        "layers gathered at a time": memory.gathered,
        f"gradients and activations of {share:,} tokens (1 of {slices})": update - memory.gathered,
        "weights gathered for rollouts": memory.whole,
        f"keys and values of {cached:,} tokens": cached * memory.cache,
    }
    told = ", ".join(f"{name} {size(count)}" for name, count in parts.items() if count)
    return memory.resident + max(update, memory.rollouts(cached)), told
