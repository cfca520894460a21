"""One page of charts that answers: does it learn, does it forget, is it well, where does the time go."""

from __future__ import annotations

import re

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from typing_extensions import override

Layout = dict[str, dict[str, list[str | list[str]]]]


class TensorBoardLayout(pl.Callback):
    """Arrange the scalars on TensorBoard's Custom Scalars page, once at the start of ``fit``.

    Groups: ``learning``, ``forgetting``, ``health`` and ``time``. Tasks and probes are taken from the data module's
    ``task_names`` and ``probe_names``; without these, one chart shows every ``val/<task>/accuracy``. Other loggers are
    left alone. TensorBoard smooths these charts by 0.6 unless its slider is set to 0.
    """

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        data = getattr(trainer, "datamodule", None)
        arranged = layout(getattr(data, "task_names", None), getattr(data, "probe_names", None))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(arranged)


def layout(tasks: list[str] | None = None, probes: list[str] | None = None) -> Layout:
    """The page: group to chart to tags, where tags are regular expressions.

    Args:
        tasks: Names of the trained tasks; ``None`` matches all.
        probes: Names of the probes.

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
    }
    if probes:
        forgetting["accuracy of probes"] = _lines(*_of_tasks("accuracy", probes))
    health = {
        "entropy": _lines("rollout/entropy"),
        "length": _lines("rollout/length", f"val/({every})/length"),
        "truncated": _lines("rollout/truncated", f"val/({every})/truncated"),
        "gradient norm": _lines("train/grad_norm"),
        "divergence": _lines("sdpo/divergence"),
        "importance weight": _lines("sdpo/importance_weight"),
        "flat groups": _lines("rollout/flat_groups"),
    }
    times = ("rollout", "reward", "teacher", "update", "evaluation")
    time = {
        "seconds": _lines(*(f"time/{name}" for name in times)),
        "tokens per second": _lines("rollout/tokens_per_second"),
    }
    return {"learning": learning, "forgetting": forgetting, "health": health, "time": time}


def _of_tasks(metric: str, names: list[str] | None) -> list[str]:
    return [f"val/{name}/{metric}" for name in ([".*"] if names is None else map(re.escape, names))]


def _lines(*tags: str) -> list[str | list[str]]:
    return ["Multiline", [f"^{tag}$" for tag in tags]]
