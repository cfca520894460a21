"""An average of the student, handed on in its place."""

from __future__ import annotations

from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lit_sdpo.callbacks.weights.handover import Handover, exact_copy
from lit_sdpo.errors import UserError
from lit_sdpo.functional import bema_update_, ema_update_
from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.policies.masters import trained
from lit_sdpo.ranges import check_integer, check_number, check_share

Evaluated = Literal["average", "student"]


class AveragedPolicy(Handover):
    r"""Hands on an average of the student over the stage: a plain EMA, or BEMA (arXiv:2508.00180).

    With :math:`t` the stage's optimizer steps so far, :math:`n_t = \text{lag} + t` and :math:`\theta_0` what the stage
    began with:

    .. math::
        \bar\theta_t = (1 - \beta_t)\, \bar\theta_{t-1} + \beta_t \theta_t, \qquad
        \hat\theta_t = \bar\theta_t + \alpha_t (\theta_t - \theta_0)

    BEMA has :math:`\beta_t = n_t^{-\text{ema\_power}}` and :math:`\alpha_t = n_t^{-\text{bias\_power}}`, the form of
    TRL's callback; an EMA has a constant :math:`\beta` and no correction. The student trains undisturbed. After the
    evaluation of a stage's end :math:`\hat\theta` takes its place: it is what the checkpoint holds, and what the next
    stage begins with. A window that takes no step does not count.

    The average is kept in float32 beside the weights (4 bytes a weight; with BEMA 12, for :math:`\theta_0` and
    :math:`\hat\theta`); an evaluation of it takes one more copy. No forward pass is added. Adapters and weights divided
    among processes are refused.

    Args:
        ema_rate: Share of the student that is mixed in at each step; ``None`` is BEMA.
        ema_power: How fast BEMA's share falls; 0 copies the student.
        bias_power: How fast BEMA's correction falls; ``None`` has none.
        lag: Age of BEMA before the first step.
        every: BEMA changes at steps of the stage that are a multiple of it.
        evaluate: What evaluations measure, ``average`` or ``student``.

    Raises:
        UserError: A number is out of range, or nothing can be averaged.

    Example:
        >>> callbacks = [AveragedPolicy(ema_rate=0.05)]
    """

    def __init__(
        self,
        ema_rate: float | None = None,
        ema_power: float = 0.5,
        bias_power: float | None = 0.2,
        lag: float = 10.0,
        every: int = 1,
        evaluate: Evaluated = "average",
    ) -> None:
        self.ema_rate = None if ema_rate is None else check_share("ema_rate", ema_rate)
        self.ema_power = check_number("ema_power", ema_power, at_least=0)
        self.bias_power = check_number("bias_power", bias_power, at_least=0, optional=True)
        self.lag = check_number("lag", lag, at_least=0)
        self.every = check_integer("every", every, at_least=1)
        if evaluate not in get_args(Evaluated):
            fix = "use average or student"
            raise UserError(f"there is no {evaluate!r} to evaluate", where="AveragedPolicy.evaluate", fix=fix)
        self.evaluate = evaluate
        self._step = 0
        self._average: list[Tensor] = []
        self._start: list[Tensor] = []
        self._result: list[Tensor] = []
        self._student: list[Tensor] = []

    # ------------------------------------------------------------------------------------------------------ the average
    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, OnPolicyModule)
        if not self._average:
            self.begin_late(trainer)
            self._begin(pl_module)
            return
        weights = trained(pl_module.policy)
        for kept in (self._average, self._start, self._result):  # of a checkpoint
            kept[:] = [tensor.to(weight.device) for tensor, weight in zip(kept, weights, strict=False)]

    def _begin(self, module: OnPolicyModule) -> None:
        """A stage begins with the weights of now."""
        self._step, self._average = 0, exact_copy(module)
        self._start, self._result = [], []
        if self.ema_rate is None:
            self._start = exact_copy(module)
            self._result = exact_copy(module)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch.slot < batch.slots - 1 or not batch.contributing_rows:
            return
        assert isinstance(pl_module, OnPolicyModule)
        self._step += 1
        current = [weight.detach() for weight in pl_module.exact_weights]
        if self.ema_rate is not None:
            ema_update_(self._average, current, self.ema_rate)
            return
        corrected = bema_update_(
            self._average,
            current,
            self._start,
            self._step,
            ema_power=self.ema_power,
            bias_power=self.bias_power,
            lag=self.lag,
            frequency=self.every,
        )
        self._result = self._result if corrected is None else corrected

    @property
    def averaged(self) -> list[Tensor]:
        """The average as it would be handed on now, float32 or better, one tensor for each trained parameter."""
        return self._average if self.ema_rate is not None else self._result

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_last_batch:  # else it was stopped inside the stage
            assert isinstance(pl_module, OnPolicyModule)
            pl_module.set_exact_weights(self.averaged)
            self._begin(pl_module)

    # ------------------------------------------------------------------------------------------------------- evaluation
    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.evaluate == "average" and self._average:
            assert isinstance(pl_module, OnPolicyModule)
            weights = trained(pl_module.policy)
            self._student = [weight.detach().clone() for weight in weights]
            _put(weights, self.averaged)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._student:
            assert isinstance(pl_module, OnPolicyModule)
            _put(trained(pl_module.policy), self._student)
            self._student = []

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.on_validation_end(trainer, pl_module)

    # ----------------------------------------------------------------------------------------------------------- resume
    @override
    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step, "average": self._average, "start": self._start, "result": self._result}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._step, self._average = state_dict["step"], list(state_dict["average"])
        self._start, self._result = list(state_dict["start"]), list(state_dict["result"])


@torch.no_grad()
def _put(weights: list[torch.nn.Parameter], values: list[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)
