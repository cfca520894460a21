"""Sees a collapse coming, says why, and acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lit_sdpo.callbacks import loggers
from lit_sdpo.callbacks.clock import StreamClock
from lit_sdpo.checkpoints.position import evaluation_due, inside_stage
from lit_sdpo.errors import UserError
from lit_sdpo.folders import run_folder
from lit_sdpo.report.health import METRICS, STATES, Health, Watch

if TYPE_CHECKING:
    from lit_sdpo.modules.taught import Taught
    from lit_sdpo.rollouts.types import Completions, Rollouts

Action = Literal["warn", "save", "restart_teacher", "freeze_teacher", "stop"]
ACTIONS: tuple[Action, ...] = ("warn", "save", "restart_teacher", "freeze_teacher", "stop")
TeacherAction = Literal["restart_teacher", "freeze_teacher"]
TEACHER_ACTIONS: tuple[TeacherAction, ...] = ("restart_teacher", "freeze_teacher")
#: Repetition is the share of n-grams of this many tokens that stood before in the same completion.
ORDER = 4


class CollapseMonitor(pl.Callback):
    """Judge the run's health after every optimizer step from what is logged anyway, and act when it collapses.

    The judgement is that of :class:`~lit_sdpo.report.health.Watch`: medians over a window, each signal against its own
    early baseline of the stage. ``health/state`` (0 healthy, 1 suspicious, 2 collapsing) and ``health/points`` are
    logged. Where a :class:`~lit_sdpo.callbacks.RolloutCallback` samples, three more signals are, over all ranks:
    ``health/length_tail`` (longest over mean length), ``health/repetition`` (mean share of repeated 4-grams) and
    ``health/invalid`` (share of completions flagged ``no_answer``).

    Without an action that fires it changes nothing in training. It adds no forward pass and one transfer from the
    device per step.

    Args:
        actions: What to do when the run begins to collapse, in the order ``warn``, ``restart_teacher`` (the student's
            weights become the teacher's), ``freeze_teacher`` (it follows the student no more within a stage), ``save``
            (``checkpoints/collapse-step=<n>.ckpt`` in the run folder, at the next step that a run can go on from) and
            ``stop`` (after this step).
        metrics: Where each signal is logged; names of another project replace those of this package, ``None`` leaves
            a signal out. Signals: ``reward`` (from 0 to 1), ``entropy``, ``divergence``, ``length``, ``length_tail``,
            ``truncated``, ``repetition``, ``invalid``, ``leakage``, ``flat_groups``.
        window: Steps in a median.
        stage_per_epoch: An epoch is a stage with baselines of its own; ``False`` where epochs repeat the same data.

    Raises:
        UserError: An action needs a teacher that there is not, or would do nothing.

    Attributes:
        health: The latest judgement.
        alarms: Step, stage and reasons of each alarm so far.
    """

    def __init__(
        self,
        actions: Sequence[Action] = ("warn",),
        metrics: Mapping[str, str | None] | None = None,
        window: int = 9,
        stage_per_epoch: bool = True,
    ) -> None:
        if unknown := [str(action) for action in actions if action not in ACTIONS]:
            raise ValueError(f"actions are among {', '.join(ACTIONS)}, got {unknown[0]!r}")
        if unknown := [signal for signal in metrics or () if signal not in METRICS]:
            raise ValueError(f"metrics has no signal {unknown[0]!r}; there are {', '.join(METRICS)}")
        self.actions = [action for action in ACTIONS if action in actions]
        self.metrics = {signal: name for signal, name in {**METRICS, **(metrics or {})}.items() if name}
        self.stage_per_epoch = stage_per_epoch
        self.watch = Watch(window)
        self.health = Health()
        self.alarms: list[dict[str, Any]] = []
        self._stage, self._step, self._frozen, self._stopped = 0, 0, False, ""
        self._save_due = False
        self._clock = StreamClock()

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stopped = ""
        self._clock.start(trainer)
        for action in TEACHER_ACTIONS:
            if action in self.actions:
                _taught(action, pl_module)
        if self._frozen:
            _taught("freeze_teacher", pl_module).teacher.freeze()

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step = self._clock.step(trainer)  # of a resumed run it is restored by now

    def on_rollouts(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        rollouts: Rollouts,
        *,
        task: str,
        split: str,
        stage: int,
        step: int,
    ) -> None:
        """Measure and log what the completions of a training step look like; all ranks call it together.

        Args:
            trainer: Reduces over the ranks.
            pl_module: Logs.
            rollouts: The completions; reference answers, which have no verdicts, are passed over.
            task: Not used.
            split: Only ``train`` is looked at.
            stage: Not used.
            step: Not used.
        """
        if split != "train" or not rollouts.verdicts:
            return
        completions = rollouts.completions
        lengths = completions.lengths.float()
        own = torch.stack([lengths.sum(), repeated_share(completions, ORDER).sum()])
        invalid = sum("no_answer" in verdict.flags for verdict in rollouts.verdicts)
        counts = own.new_tensor([invalid, len(rollouts)])
        reduce = trainer.strategy.reduce
        tokens, repeated, unreadable, rows = reduce(torch.cat([own, counts]), reduce_op="sum").unbind()
        longest = reduce(lengths.max(), reduce_op="max")
        for name, value in (
            ("length_tail", longest * rows / tokens),
            ("repetition", repeated / rows),
            ("invalid", unreadable / rows),
        ):
            pl_module.log(f"health/{name}", value, on_step=True, on_epoch=False, batch_size=1)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.stage_per_epoch and self._clock.stage(trainer) != self._stage:
            self._stage = self._clock.stage(trainer)
            self.watch.start_stage()
            self.health = Health()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._clock.see(trainer)
        if self._clock.step(trainer) > self._step:  # a window's last slice
            self._judge(trainer, pl_module)
        if self._save_due and inside_stage(trainer) and not evaluation_due(trainer):
            self._save(trainer)

    def _judge(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step = self._clock.step(trainer)
        before = self.health.state
        self.health = self.watch.see(self._values(trainer, pl_module))
        for name, value in (("state", STATES.index(self.health.state)), ("points", self.health.points)):
            pl_module.log(f"health/{name}", float(value), on_step=True, on_epoch=False, batch_size=1)
        if self.health.state == "collapsing" != before:
            self._alarm(trainer, pl_module)

    def _values(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        """The signals that are logged, the same on every rank."""
        logged = trainer.callback_metrics
        names = [signal for signal, name in self.metrics.items() if name in logged]
        if not names:
            return {}
        values = torch.stack([logged[self.metrics[signal]].detach().float().to(module.device) for signal in names])
        return dict(zip(names, trainer.strategy.reduce(values, reduce_op="mean").tolist(), strict=True))

    def _alarm(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        reasons = list(self.health.reasons)
        self.alarms.append({"step": self._step, "stage": self._stage, "reasons": reasons})
        text = f"the run is collapsing at step {self._step} of stage {self._stage}: {'; '.join(reasons)}"
        loggers.log_text(trainer, "health/alarm", text, self._step)
        if "warn" in self.actions:
            rank_zero_warn(text)
        if "restart_teacher" in self.actions:
            taught = _taught("restart_teacher", module)
            taught.teacher.refresh(taught.policy, 1.0)
        if "freeze_teacher" in self.actions:
            self._frozen = True
            _taught("freeze_teacher", module).teacher.freeze()
        if set(TEACHER_ACTIONS) & set(self.actions):
            self.watch.forget_window()
            self.health = Health()
        if "stop" in self.actions:
            self._stopped = text
            trainer.should_stop = True
        self._save_due |= "save" in self.actions

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._save_due and inside_stage(trainer):
            self._save(trainer)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._save_due and trainer.is_last_batch:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        self._save_due = False
        if (folder := run_folder(trainer)) is not None:
            trainer.save_checkpoint(folder / "checkpoints" / f"collapse-step={self._step}.ckpt", weights_only=False)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._stopped and trainer.is_global_zero:
            print(f"training was stopped: {self._stopped}")

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "clock": self._clock.state_dict(),
            "watch": self.watch.state_dict(),
            "stage": self._stage,
            "state": self.health.state,
            "alarms": [dict(alarm) for alarm in self.alarms],
            "frozen": self._frozen,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._clock.load_state_dict(state_dict.get("clock"))
        self.watch.load_state_dict(state_dict["watch"])
        self.health = Health(state_dict["state"])
        self.alarms = [dict(alarm) for alarm in state_dict["alarms"]]
        self._stage, self._frozen = state_dict["stage"], state_dict["frozen"]


def repeated_share(completions: Completions, order: int) -> Tensor:
    """Share of n-grams that stood before in the same completion, ``1 - distinct / all``, on the device of the ids.

    It is :func:`lit_sdpo.functional.text.repetition_share` of every row at once; n-grams are compared by a hash of 64
    bits.

    Args:
        completions: N rows.
        order: n.

    Returns:
        float32 [N]; 0 for a completion shorter than an n-gram.

    Example:
        >>> from lit_sdpo import Completions
        >>> ids, lengths = torch.tensor([[7, 8, 7, 8, 7, 8], [1, 2, 3, 0, 0, 0]]), torch.tensor([6, 3])
        >>> repeated_share(Completions(ids, lengths, torch.zeros(2, 6), torch.ones(2).bool()), order=2)
        tensor([0.6000, 0.0000])
    """
    ids, lengths = completions.ids, completions.lengths
    grams = ids.shape[1] - order + 1
    if grams < 1:
        return torch.zeros(len(ids), device=ids.device)
    hashed = torch.zeros(len(ids), grams, dtype=torch.long, device=ids.device)
    for offset in range(order):
        # An odd factor loses no bit of a token; what overflows wraps around.
        hashed = (hashed ^ (ids[:, offset : offset + grams] + 1)) * 6364136223846793005 + 1442695040888963407
    counts = (lengths - order + 1).clamp(min=0)
    places = torch.arange(grams, device=ids.device)
    # Padded places are negative and all different: they repeat nothing.
    hashed = torch.where(places < counts[:, None], hashed & torch.iinfo(torch.long).max, -1 - places)
    hashed = hashed.sort(dim=1).values
    return (hashed[:, 1:] == hashed[:, :-1]).sum(1) / counts.clamp(min=1)


def _taught(action: TeacherAction, module: pl.LightningModule) -> Taught:
    """The module, whose teacher an action is about.

    Raises:
        UserError: It has none, or none to which it can be done.
    """
    from lit_sdpo.modules.taught import Taught  # where nothing is done to a teacher, no model is needed either

    where, fix = "CollapseMonitor.actions", f"leave {action!r} out"
    if not isinstance(module, Taught):
        text = f"the action {action!r} needs a module with a teacher; {type(module).__name__} has none"
        raise UserError(text, where=where, fix=fix)
    kind = type(module.teacher).__name__
    if action == "freeze_teacher" and not module.teacher.follows:
        text = f"{kind} does not follow the student within a stage: there is nothing to freeze"
        raise UserError(text, where=where, fix=fix)
    if action == "restart_teacher" and not module.teacher.copies_student:
        raise UserError(f"{kind} is no copy of the student, so it cannot become it again", where=where, fix=fix)
    return module
