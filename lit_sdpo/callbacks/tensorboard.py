"""One page of charts that answers: does it learn, does it forget, is it well, where does the time go."""

from __future__ import annotations

import os
import re

import lightning.pytorch as pl
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard.summary import hparams
from typing_extensions import override

from lit_sdpo.callbacks.loggers import event_writer
from lit_sdpo.callbacks.rollout.callback import rollouts_in
from lit_sdpo.data.base import stream_of
from lit_sdpo.modules.taught import Taught
from lit_sdpo.policies.held import policy_in

#: Curves whose last value stands on the HParams page.
RESULTS = ("continual/average_accuracy", "continual/forgetting", "continual/bwt", "continual/ood_change")

Layout = dict[str, dict[str, list[str | list[str]]]]


class TensorBoardLayout(pl.Callback):
    """Arrange TensorBoard's Custom Scalars page and fill its HParams page, once at the start of ``fit``.

    Groups: ``learning``, ``forgetting``, ``drift``, ``artifacts``, ``health`` and ``time``. Tasks and probes are taken
    from the data module's ``task_names`` and ``probe_names``; without these, one chart shows every
    ``val/<task>/accuracy``. Other loggers are left alone. TensorBoard smooths these charts by 0.6 unless its slider is
    set to 0.

    The HParams page shows :func:`settings` next to the latest :data:`RESULTS`, which are read from the run's own
    curves: nothing is written to them, and no second run appears.

    A resumed run that goes on in its folder first takes back what was logged after its checkpoint, so that no curve
    goes back in time.
    """

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        data = stream_of(trainer)
        arranged = layout(data.task_names or None, data.probe_names, data.loss_names)
        for writer in filter(None, map(event_writer, trainer.loggers)):
            writer.add_custom_scalars(arranged)
            file = writer._get_file_writer()
            if trainer.global_step:
                # Evaluations of the checkpoint's own step stay: they are not done again.
                start = SessionLog(status=SessionLog.START)
                file.add_event(Event(step=trainer.global_step + 1, session_log=start))
            for summary in hparams(settings(trainer, pl_module), dict.fromkeys(RESULTS, 0.0)):
                file.add_summary(summary)


def layout(tasks: list[str] | None = None, probes: list[str] | None = None, losses: list[str] | None = None) -> Layout:
    """The page: group to chart to tags, where tags are regular expressions.

    Args:
        tasks: Names of the trained tasks; ``None`` matches all.
        probes: Names of the probes.
        losses: Names of those probes whose score is a loss.

    Example:
        >>> layout(["math"])["learning"]["accuracy of tasks"]
        ['Multiline', ['^val/math/accuracy$']]
    """
    every = ".*" if tasks is None else "|".join(map(re.escape, tasks))
    learning = {
        "reward": _lines("rollout/reward"),
        "accuracy of tasks": _lines(*_of_tasks("accuracy", tasks)),
        "loss": _lines("train/loss"),
    }
    forgetting = {
        "transfer and forgetting": _lines("continual/bwt", "continual/fwt", "continual/forgetting"),
        "average accuracy": _lines("continual/average_accuracy"),
        "change of probes (points)": _lines("continual/ood_change"),
        "cosine with gradients of earlier tasks": _lines("alignment/(?!tokens$).*"),
    }
    if scored := [name for name in probes or () if name not in (losses or ())]:
        forgetting["accuracy of probes"] = _lines(*_of_tasks("accuracy", scored))
    if losses:
        forgetting["loss on fixed texts"] = _lines(*_of_tasks("loss", losses))
    drift = {
        "parameters": _lines("drift/parameters/relative_norm"),
        "parameters by type": _lines("drift/parameters/[^/]+/relative_norm"),
        "KL of responses, current and earlier tasks": _lines("drift/responses/(current|earlier)/(forward|reverse)_kl"),
        "reverse KL per token, by task": _lines("drift/responses/[^/]+/reverse_kl_per_token"),
        "Jensen-Shannon": _lines("drift/responses/[^/]+/js"),
        "entropy of responses": _lines("drift/responses/[^/]+/entropy"),
        "likeness of responses": _lines("drift/responses/[^/]+/similarity"),
    }
    artifacts = {
        "another task's format": _lines("artifacts/[^/]+/leakage"),
        "boxed per response": _lines("artifacts/[^/]+/boxed"),
        "loops, repetition": _lines("artifacts/[^/]+/(loops|repetition)"),
        "compression": _lines("artifacts/[^/]+/compression"),
        "loop gain": _lines("artifacts/[^/]+/loop_gain(_other)?"),
    }
    health = {
        "state (0 healthy, 1 suspicious, 2 collapsing)": _lines("health/state"),
        "repetition, answers that cannot be read": _lines("health/repetition", "health/invalid"),
        "length tail": _lines("health/length_tail"),
        "entropy": _lines("rollout/entropy"),
        "length": _lines("rollout/length", f"val/({every})/length"),
        "truncated": _lines("rollout/truncated", f"val/({every})/truncated"),
        "gradient norm": _lines("train/grad_norm"),
        "divergence": _lines("sdpo/divergence"),
        "distance of the teacher": _lines("teacher/distance"),
        "importance weight": _lines("sdpo/importance_weight"),
        "flat groups": _lines("rollout/flat_groups"),
    }
    times = ("rollout", "reward", "teacher", "update", "evaluation", "alignment")
    time = {
        "seconds": _lines(*(f"time/{name}" for name in times)),
        "tokens per second": _lines("rollout/tokens_per_second"),
    }
    return {
        "learning": learning,
        "forgetting": forgetting,
        "drift": drift,
        "artifacts": artifacts,
        "health": health,
        "time": time,
    }


def settings(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, str | float]:
    """What tells runs apart, read from the objects themselves; the same keys in every run, empty where unknown.

    Args:
        trainer: Gives the stages, the optimizer and how completions are drawn.
        module: Gives the method, its teacher and its model.
    """
    teacher = module.teacher if isinstance(module, Taught) else None
    numbers = {} if teacher is None else teacher.hyperparameters
    policy, stages = policy_in(module), stream_of(trainer).stages
    rollout = rollouts_in(trainer)
    group = trainer.optimizers[0].param_groups[0] if trainer.optimizers else {}
    found = {
        "method": type(module).__name__,
        "model": getattr(getattr(policy, "config", None), "name_or_path", None),
        "teacher": type(teacher).__name__ if teacher is not None else None,
        "teacher_update_rate": numbers.get("update_rate"),
        "teacher_restart_every": numbers.get("restart_every"),
        "optimizer": type(trainer.optimizers[0]).__name__ if trainer.optimizers else None,
        "learning_rate": group.get("initial_lr", group.get("lr")),
        "weight_decay": group.get("weight_decay"),
        "gradient_clip": trainer.gradient_clip_val,
        "stages": ", ".join(f"{stage.task.name} {stage.steps}" for stage in stages),
        "prompts_per_step": stages[0].prompts_per_step if stages else None,
        "num_generations": rollout.num_generations if rollout else None,
        "max_new_tokens": rollout.sampling.max_new_tokens if rollout else None,
        "temperature": rollout.sampling.temperature if rollout else None,
        "seed": os.environ.get("PL_GLOBAL_SEED"),
    }
    return {key: "" if value is None else value for key, value in found.items()}


def _of_tasks(metric: str, names: list[str] | None) -> list[str]:
    return [f"val/{name}/{metric}" for name in ([".*"] if names is None else map(re.escape, names))]


def _lines(*tags: str) -> list[str | list[str]]:
    return ["Multiline", [f"^{tag}$" for tag in tags]]
