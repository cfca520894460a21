"""At a stage's end, a step back towards where the stage began."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from typing_extensions import override

from lit_sdpo.callbacks.rollout.callback import rollouts_in
from lit_sdpo.callbacks.weights.handover import Handover, exact_copy
from lit_sdpo.data.base import stream_of
from lit_sdpo.data.stream import EvaluationLoader
from lit_sdpo.errors import UserError
from lit_sdpo.functional import lines_strengths, merge_weights
from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.policies.masters import trained
from lit_sdpo.policies.sharding import base_model, layers_of
from lit_sdpo.ranges import check_number


class StageMerge(Handover):
    r"""Keeps a share of what each stage has changed (WiSE-FT, arXiv:2109.01903; LiNeS, arXiv:2410.17146).

    .. math::
        \theta \leftarrow \theta_\text{prev} + c\, \lambda_l (\theta - \theta_\text{prev}),
        \qquad \lambda_l = \text{strength} + \text{rise}\, \frac{l - 1}{L - 1}

    in block :math:`l` of :math:`L`, with :math:`\theta_\text{prev}` what the stage began with; embeddings, last norm
    and head keep ``strength``. Without ``rise`` this is WiSE-FT between two ends of a stage, with it LiNeS: early
    blocks, which hold what is general, keep less. The factor :math:`c` is 1, or found by a search.

    It happens after the stage's last step and before its evaluation, so that the matrix and the checkpoint have the
    merged weights, and the next stage begins with them. A search samples completions to the validation prompts of the
    stream's tasks so far, once for each factor, and takes the factor with the highest mean accuracy, of equals the
    smallest; what is reported on the same prompts afterwards is a little too good, on the test split it is not.

    It holds a copy of the trained weights in float32 in the memory of the CPU, two more while it merges, and adds no
    forward pass without a search. Adapters and weights divided among processes are refused.

    Args:
        strength: Share of the change that the first block keeps; 1 keeps all of it, 0 none.
        rise: What the last block keeps on top.
        line_search: Factors to choose from; ``None`` takes 1.

    Raises:
        UserError: A number is out of range, there are no factors, or nothing can be merged or searched.

    Example:
        >>> callbacks = [StageMerge(strength=1.0, line_search=[0.25, 0.5, 0.75, 1.0])]
    """

    def __init__(self, strength: float = 0.5, rise: float = 0.0, line_search: list[float] | None = None) -> None:
        self.strength = check_number("strength", strength, at_least=0)
        self.rise = check_number("rise", rise, at_least=0)
        if line_search is not None and not line_search:
            raise UserError(
                "there is no factor to try", where="StageMerge.line_search", fix="give some, such as 0.5 and 1"
            )
        self.line_search = line_search and sorted(check_number("line_search", c, at_least=0) for c in line_search)
        #: The factor c of each stage so far.
        self.factors: list[float] = []
        self._previous: list[Tensor] = []

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        if self.line_search is not None and not (rollouts_in(trainer) and _loaders(trainer)):
            raise UserError(
                "a search compares the accuracy of the trained tasks, which nothing evaluates",
                where="StageMerge.line_search",
                fix="set data.evaluate_trained to true, or leave the search out",
            )

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, OnPolicyModule)
        if not self._previous:
            self.begin_late(trainer)
            self._keep(pl_module)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch:
            assert isinstance(pl_module, OnPolicyModule)
            factor = self._merge(trainer, pl_module)
            self.factors.append(factor)
            pl_module.log("merge/factor", factor, batch_size=1)
            self._keep(pl_module)

    def _keep(self, module: OnPolicyModule) -> None:
        self._previous = exact_copy(module, "cpu")

    def _merge(self, trainer: pl.Trainer, module: OnPolicyModule) -> float:
        current, strengths = exact_copy(module, "cpu"), self.strengths(module.policy)

        def take(factor: float) -> None:
            module.set_exact_weights(merge_weights(self._previous, current, [factor * x for x in strengths]))

        factors = self.line_search or [1.0]
        best, highest = factors[0], -math.inf
        for factor in factors if self.line_search else ():
            take(factor)
            if (found := _accuracy(trainer, module)) > highest:  # never of nan
                best, highest = factor, found
        take(best)
        return best

    def strengths(self, policy: nn.Module) -> list[float]:
        """The share of each trained parameter, without the factor."""
        layers = layers_of(base_model(policy))
        blocks = {id(p): number for number, layer in enumerate(layers, 1) for p in layer.parameters()}
        depths = [blocks.get(id(parameter)) for parameter in trained(policy)]
        return lines_strengths(self.strength, self.rise, max(len(layers), 1), depths)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"previous": self._previous, "factors": self.factors}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._previous, self.factors = state_dict["previous"], list(state_dict["factors"])


def _loaders(trainer: pl.Trainer) -> list[EvaluationLoader]:
    """Validation prompts of the tasks of all stages up to the one of now."""
    names = {task.name for stage in stream_of(trainer).stages[: trainer.current_epoch + 1] for task in stage.task.parts}
    loaders = trainer.datamodule.val_dataloader() if names else []  # type: ignore[attr-defined]
    return [each for each in loaders if isinstance(each, EvaluationLoader) and each.task.name in names]


def _accuracy(trainer: pl.Trainer, module: OnPolicyModule) -> float:
    rollouts = rollouts_in(trainer)
    assert rollouts is not None  # looked for before the first step
    return float(torch.tensor(rollouts.success_rates(trainer, module, _loaders(trainer))).nanmean())
