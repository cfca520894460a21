"""What a data module says of its tasks: the seam between a stream and everything that looks at one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # callbacks that need torch and Lightning alone ask here
    import lightning.pytorch as pl

    from lit_sdpo.data.task import Row, Split, Stage, Task
    from lit_sdpo.likelihood.tasks import LikelihoodTask


class TaskStream:
    """What callbacks and checkpoints ask of a data module; they ask for nothing else.

    :class:`~lit_sdpo.ContinualDataModule` gives all of it. A data module of one's own derives from this class beside
    Lightning's and gives what it knows: what is left out stays empty, and whatever needs it does nothing. One that does
    not derive from it is asked for the lists of names alone (:func:`stream_of`).
    """

    #: In their order; one is one Lightning epoch.
    stages: Sequence[Stage] = ()
    #: Tasks that are only evaluated.
    probes: Sequence[Task] = ()
    #: Tasks that are only evaluated, without generating.
    likelihood: Sequence[LikelihoodTask] = ()
    #: Whether the trained tasks are evaluated too.
    evaluate_trained: bool = True
    #: Completions per prompt, and prompts at once, in an evaluation.
    eval_generations: int = 1
    eval_batch_size: int = 1
    #: Optimizer steps between evaluations inside a stage.
    eval_every: int | None = None
    #: Optimizer steps on the same rollouts.
    updates_per_rollout: int = 1
    #: Prompts of earlier tasks along with each step's, as a share of these.
    replay_share: float = 0.0
    #: Tasks whose prompts are replayed though no stage trains them.
    replay_tasks: Sequence[Task] = ()
    #: Of the order of the training prompts.
    seed: int = 0

    @property
    def kind(self) -> str:
        """The name of its class, which tells two runs apart."""
        return type(self).__name__

    @property
    def tasks(self) -> list[Task]:
        """The trained tasks, in order of first appearance."""
        found = {task.name: task for stage in reversed(self.stages) for task in stage.task.parts}
        return [found[name] for name in dict.fromkeys(t.name for stage in self.stages for t in stage.task.parts)]

    @property
    def evaluated(self) -> list[Task]:
        """Everything that is generated for in an evaluation: trained tasks, then probes."""
        return [*(self.tasks if self.evaluate_trained else []), *self.probes]

    @property
    def task_names(self) -> list[str]:
        """Names of the trained tasks, in order of first appearance."""
        return [task.name for task in self.tasks]

    @property
    def probe_names(self) -> list[str]:
        """Names of what is only evaluated: the probes, then the tasks of likelihood."""
        return [*(probe.name for probe in self.probes), *(task.name for task in self.likelihood)]

    @property
    def loss_names(self) -> list[str]:
        """Names of those tasks of which less is better."""
        return [task.name for task in self.likelihood if task.loss]

    @property
    def stage_names(self) -> list[str]:
        """The task of each stage; of a mixture all names in one."""
        return [stage.task.name for stage in self.stages]

    def evaluation_rows(self, task: Task, split: Split = "validation") -> Sequence[Row]:
        """The rows of a task that are evaluated: all of them, where nothing else is said."""
        return task.rows(split)

    def row_sets(self, stage: str) -> Iterator[tuple[Task, Split, Callable[[], Sequence[Row]]]]:
        """Every set of rows that a run will use: task, split and what gives the rows; for checks before the first step.

        The rows are to be asked for again after a task has left some out.
        """
        split: Split = "test" if stage == "test" else "validation"
        if stage == "fit":
            for task in [*self.tasks, *self.replay_tasks]:
                yield task, "train", partial(task.rows, "train")
        for task in self.evaluated:
            yield task, split, partial(self.evaluation_rows, task, split)


class _NamesAlone(TaskStream):
    """A data module of another project, which may say what its tasks are called."""

    kind = ""
    task_names, probe_names, loss_names, stage_names = [], [], [], []  # type: ignore[assignment]

    def __init__(self, data: object) -> None:
        self.kind = type(data).__name__
        for name in ("task_names", "probe_names", "loss_names", "stage_names"):
            setattr(self, name, [str(each) for each in getattr(data, name, None) or ()])


def stream_of(trainer: pl.Trainer) -> TaskStream:
    """The stream of a trainer's data module; an empty one where it has none, or one that says nothing.

    Args:
        trainer: Of any project.
    """
    data = getattr(trainer, "datamodule", None)  # there is no such attribute without a data module
    return data if isinstance(data, TaskStream) else _NamesAlone(data)
