"""Whether a step pulls against what earlier tasks need: the early sign of forgetting."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lit_sdpo.callbacks import loggers
from lit_sdpo.callbacks.likelihood import LikelihoodEvaluation
from lit_sdpo.callbacks.responses.prompts import chosen
from lit_sdpo.callbacks.rollout.callback import RolloutCallback, rollouts_in
from lit_sdpo.callbacks.rollout.checks import learns_from_references
from lit_sdpo.callbacks.rollout.token_weights import set_token_weights
from lit_sdpo.callbacks.weights.trained import check_whole
from lit_sdpo.data.base import stream_of
from lit_sdpo.data.task import Row, Task
from lit_sdpo.errors import UserError
from lit_sdpo.functional import gradient_cosine, token_logprobs_from_logits
from lit_sdpo.likelihood.scoring import as_sequences
from lit_sdpo.likelihood.tasks import LikelihoodTask
from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.policies.masters import trained
from lit_sdpo.policies.packing import batches
from lit_sdpo.policies.scoring import completion_hidden, weighted_loss
from lit_sdpo.ranges import check_integer
from lit_sdpo.rollouts.types import Rollouts, TermTokens

NAME = "GradientAlignment"
#: What is logged beside the tasks.
MEAN, TOKENS = "mean", "tokens"


class GradientAlignment(pl.Callback):
    r"""Cosine between a step's gradient and that of each earlier task, over all trained parameters together.

    .. math::
        \cos(g, g_j) = \frac{\langle g, g_j \rangle}{\|g\|\,\|g_j\|}, \qquad
        g = \nabla_\theta L_\text{step}(\theta), \quad g_j = \nabla_\theta L_j(\theta)

    Below 0 the step raises, to first order and for plain gradient descent, the loss of task j. The source of the
    comparison is GEM (arXiv:1706.08840), which projects where it is negative; here nothing is changed.

    :math:`g` is what the optimizer is about to get, before clipping: all terms, replayed rows and penalties on weights
    included. :math:`L_j` is the module's own objective as the last stage that trained on task j had it (its terms,
    their factors, its teacher), on completions that the policy of now draws for a few of the task's training prompts;
    terms about other prompts than the stage's and penalties are no part of it. A method that learns from reference
    answers takes those. For each of the data module's ``likelihood`` tasks :math:`L_j` is minus the mean
    log-probability of its first texts, or of the right options: prior ability, from the first stage on.

    Logged are ``alignment/<task>``, their mean over the earlier tasks as ``alignment/mean``, the tokens that were
    sampled for it by all processes as ``alignment/tokens``, and ``time/alignment``. Where a gradient is zero, as with
    groups whose rewards are all equal, a task has no cosine and is left out. In a stage without an earlier task and
    without ``likelihood`` nothing is computed.

    The prompts of a task are the same in the whole run; what is drawn for one depends on the run's seed, the step and
    the row alone. No random state, weight, gradient or teacher is changed, so a run ends bit for bit as without it. A
    measurement takes the sampling, the teacher's pass, the forward and the backward pass of ``prompts`` prompts for
    each earlier task, and the memory of one gradient more.

    Args:
        every_n_steps: Measure before every so many optimizer steps, the first of the run included.
        prompts: Of each task, over all processes, with as many completions as in training; rows of a ``likelihood``
            task.

    Raises:
        UserError: An argument makes no sense. Before the first step: the module is none of this package, its weights
            are divided among processes, nothing samples or something samples ahead, a task has fewer prompts than
            there are processes, or has a name of what is logged beside the tasks.
    """

    def __init__(self, every_n_steps: int = 10, prompts: int = 4) -> None:
        self.every_n_steps = check_integer("every_n_steps", every_n_steps, at_least=1)
        self.prompts = check_integer("prompts", prompts, at_least=1)
        self._rows: dict[str, list[Row]] = {}

    # ------------------------------------------------------------------------------------------------- before the run
    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(pl_module, OnPolicyModule):
            text = f"{type(pl_module).__name__} does not say what its objective makes of other prompts"
            raise UserError(text, where=NAME, fix="give it a method of this package")
        check_whole(pl_module, NAME, "and a gradient is taken of whole ones", ", or leave it out")
        rollout = rollouts_in(trainer)
        if rollout is None:
            raise UserError("there is no RolloutCallback to sample with", where=NAME, fix="add one")
        if rollout.asks_ahead:
            fix = f"set rollout.overlap to false, or leave {NAME} out"
            raise UserError("the engine draws the next window's completions meanwhile", where=NAME, fix=fix)
        data = stream_of(trainer)
        if self.prompts < trainer.world_size:
            text = f"{self.prompts} prompts for {trainer.world_size} processes"
            raise UserError(text, where=f"{NAME}.prompts", fix="give at least one for each process")
        self._rows = {}
        for name in [*data.task_names, *(task.name for task in data.likelihood)]:
            if name in (MEAN, TOKENS):
                raise UserError(
                    f"a task is called {name!r}, as what is logged beside tasks", where=NAME, fix="rename it"
                )
        for task in data.tasks if len(data.stages) > 1 else ():
            rows = {row.id: row for row in task.rows("train")}
            if len(rows) < trainer.world_size:
                text = f"task {task.name!r} has {len(rows)} training prompts for {trainer.world_size} processes"
                raise UserError(text, where=NAME, fix="use fewer processes, or leave it out")
            self._rows[task.name] = [rows[name] for name in chosen(list(rows), self.prompts, rollout.seed)]

    # ---------------------------------------------------------------------------------------------------- measurements
    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        assert isinstance(pl_module, OnPolicyModule)
        rollout, data = rollouts_in(trainer), stream_of(trainer)
        earlier = self._earlier(trainer)
        if trainer.global_step % self.every_n_steps or not (earlier or data.likelihood):
            return
        step = [parameter.grad for parameter in trained(pl_module.policy)]
        if all(gradient is None for gradient in step):  # a window without a row that learns
            return
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained(pl_module.policy)]
        assert rollout is not None
        started, tokens, found = time.perf_counter(), 0, {}
        with isolate_rng(), trainer.precision_plugin.forward_context():
            for task, stage in earlier:
                rollouts = self._rollouts(trainer, pl_module, rollout, task)
                tokens += 0 if learns_from_references(pl_module) else int(rollouts.completions.lengths.sum())
                found[task.name] = cosine(trainer, own, objective_gradient(trainer, pl_module, rollouts, stage))
            means = [value for value in found.values() if math.isfinite(value)]
            for scored in data.likelihood:
                gradient = likelihood_gradient(pl_module, self._requests(trainer, scored), scored.batch_tokens)
                found[scored.name] = cosine(trainer, own, gradient)
        if means:
            found[MEAN] = sum(means) / len(means)
        numbers = {f"alignment/{name}": value for name, value in found.items() if math.isfinite(value)}
        drawn = torch.tensor(tokens, device=pl_module.device)
        numbers[f"alignment/{TOKENS}"] = float(trainer.strategy.reduce(drawn, reduce_op="sum"))
        numbers["time/alignment"] = time.perf_counter() - started
        loggers.log_numbers(trainer, numbers, trainer.global_step)

    def _earlier(self, trainer: pl.Trainer) -> list[tuple[Task, int]]:
        """The tasks of earlier stages that the current one does not train on, each with its last stage."""
        stages, now = stream_of(trainer).stages, trainer.current_epoch
        own = {task.name for stage in stages[now : now + 1] for task in stage.task.parts}
        parts = [(task, index) for index, stage in enumerate(stages[:now]) for task in stage.task.parts]
        return list({task.name: (task, index) for task, index in parts if task.name not in own}.values())

    def _rollouts(self, trainer: pl.Trainer, module: OnPolicyModule, rollout: RolloutCallback, task: Task) -> Rollouts:
        """This process's share of what is drawn for a task."""
        rows = self._rows[task.name][trainer.global_rank :: trainer.world_size]
        return rollout.apart(trainer, module, task, rows, "alignment", trainer.global_step, task.name)

    def _requests(self, trainer: pl.Trainer, task: LikelihoodTask[Any]) -> list[Any]:
        """This process's share of what a good model finds likely, as an evaluation has encoded it."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        encoded = next(each for each in callbacks if isinstance(each, LikelihoodEvaluation)).requests[task.name]
        rows = list(zip(task.rows("validation"), encoded, strict=True))[: self.prompts]
        own = rows[trainer.global_rank :: trainer.world_size]
        return [request for row, requests in own for request in task.wanted(row, requests)]


def cosine(trainer: pl.Trainer, step: Sequence[Tensor], other: Sequence[Tensor] | None) -> float:
    """Cosine of a step's gradient and another of which each process has a part; all processes call it together.

    Returns:
        nan where one of them is zero.
    """
    if other is None:
        return math.nan
    whole = [trainer.strategy.reduce(gradient, reduce_op="sum") for gradient in other]
    return float(gradient_cosine(step, whole).cosine)


def objective_gradient(
    trainer: pl.Trainer, module: OnPolicyModule, rollouts: Rollouts, stage: int
) -> list[Tensor] | None:
    """This process's part of the gradient of a stage's objective on some rollouts; the module stays as it is.

    Args:
        trainer: Of the run; its processes call it together.
        module: The method.
        rollouts: Scored completions to prompts of one task.
        stage: Index of the stage whose terms, factors and teacher count.

    Returns:
        One tensor for each trained parameter; ``None`` where no row of any process has a gradient.
    """
    with module.as_in_stage(stage):
        window = module.loss_batch(rollouts)
        for name, term in module.terms.items():
            asked = module.takes_part(name) and not term.replays
            window.parts[name] = term.prepare(rollouts, window, module) if asked else TermTokens.none(window)
        if not set_token_weights(trainer, module, window):
            return None
        slices = window.slices(trainer.accumulate_grad_batches)
        return _gradient(module, (lambda rows=rows: module.slice_loss(rows) for rows in slices))  # type: ignore[misc]


def likelihood_gradient(
    module: OnPolicyModule, requests: Sequence[Any], batch_tokens: int | None = None
) -> list[Tensor]:
    """Gradient of minus the log-probability of given tokens, summed, one tensor for each trained parameter.

    Args:
        module: Has the policy.
        requests: :class:`~lit_sdpo.likelihood.encoding.Scored` contexts with their tokens; none gives zeros.
        batch_tokens: Most tokens in one forward pass.
    """
    policy = module.policy

    def losses() -> Iterable[Callable[[], Tensor]]:
        for part in batches(as_sequences(requests, policy.device), batch_tokens) if requests else ():
            ids = part.completion_ids[part.completion_mask]

            def loss(part: Any = part, ids: Tensor = ids) -> Tensor:
                hidden = completion_hidden(policy, part)
                return weighted_loss(policy, hidden, lambda x, span: -token_logprobs_from_logits(x, ids[span]))

            yield loss

    return _gradient(module, losses())


def _gradient(module: OnPolicyModule, losses: Iterable[Callable[[], Tensor]]) -> list[Tensor]:
    """Sum of the gradients of some losses, one in memory at a time; ``grad`` of the parameters is left alone."""
    parameters = trained(module.policy)
    total = [torch.zeros_like(parameter) for parameter in parameters]
    with torch.enable_grad():
        for loss in losses:
            found = torch.autograd.grad(loss(), parameters, materialize_grads=True)
            torch._foreach_add_(total, list(found))
    return total
