"""How much memory a step will need, said before the first one, and a budget for it."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from lit_sdpo.callbacks.rollout import RolloutCallback
from lit_sdpo.errors import UserError
from lit_sdpo.policies.memory import StepMemory, step_memory
from lit_sdpo.rollouts.blocks import at_once
from lit_sdpo.units import GIB, size


class MemoryBudget(Callback):
    """Prints an estimate of a step's memory, and chooses ``accumulate_grad_batches`` so that it fits a budget.

    The estimate counts weights, copies such as a teacher, gradients, the optimizer's averages, and the larger of two
    things that follow each other: the rollouts' keys and values, or the activations of one slice. Both are counted for
    completions of full length, so most steps need less. The process itself, and what the allocator keeps, come on top.

    Args:
        gib: Most GiB per process that a step may need; the window is cut into as many slices as that takes. ``None``
            leaves ``accumulate_grad_batches`` as it is.

    Raises:
        UserError: Not even a slice of the longest prompt and completion fits, or ``accumulate_grad_batches`` is given
            too.
    """

    def __init__(self, gib: float | None = None) -> None:
        if gib is not None and gib <= 0:
            raise ValueError(f"gib must be positive, got {gib}")
        self.gib = gib

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Estimate, cut, tell."""
        module: Any = pl_module
        rollout = next((c for c in trainer.callbacks if isinstance(c, RolloutCallback)), None)  # type: ignore[attr-defined]
        if rollout is None or getattr(module, "policy", None) is None:
            return
        try:
            memory = step_memory(module, module.policy)
        except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
            if self.gib is not None:
                raise UserError(
                    f"the memory of {type(module.policy).__name__} cannot be estimated ({error})",
                    where="memory.gib",
                    fix="set trainer.accumulate_grad_batches instead",
                ) from error
            return
        prompts, rows, prompt, completion = rollout.window(trainer, pl_module)
        tokens, longest = prompts * prompt + rows * completion, prompt + completion
        if self.gib is not None:
            trainer.accumulate_grad_batches = self._slices(trainer, memory, tokens, longest)
        share = max(longest, -(-tokens // trainer.accumulate_grad_batches))
        held, decoded = at_once(prompts, rows // prompts, getattr(rollout.engine, "max_rows", None))
        cache = (held * prompt + decoded * completion) * memory.cache
        rank_zero_info(_said(memory, share, trainer.accumulate_grad_batches, cache))

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


def _said(memory: StepMemory, share: int, slices: int, cache: int) -> str:
    update = memory.update(share)
    parts = {
        "weights": memory.weights,
        "copies": memory.copies,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        f"activations of {share:,} tokens (1 of {slices})": update,
        "rollouts": cache,
    }
    told = ", ".join(f"{name} {size(count)}" for name, count in parts.items() if count)
    return f"memory of a step, at most about {size(memory.resident + max(update, cache))}: {told}"
