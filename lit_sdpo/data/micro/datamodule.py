"""The four-task stream of the micro world in one class: the knobs, the order, the length."""

from __future__ import annotations

from typing import Any

from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.data.micro.tasks import MicroTask
from lit_sdpo.data.micro.world import DomainName, MicroWorld
from lit_sdpo.data.task import Stage, StageMethod, Task
from lit_sdpo.errors import UserError
from lit_sdpo.ranges import check_integer


class MicroDataModule(ContinualDataModule):
    """Generated tasks for a laptop, after the paper's order of domains: math, science, tool use, coding.

    Args:
        order: Domain of each stage; may repeat, and may be shorter or longer than four.
        steps: Optimizer steps of each stage.
        prompts_per_step: Prompts of each step.
        world: The knobs: how far apart the tasks are, how strict the verifiers.
        ood: Also evaluate the out-of-distribution variant of each domain, never trained on.
        prior: Also evaluate the prior ability of the base model, never trained on.
        methods: What the stages that train on a domain change about the method; see
            :class:`~lit_sdpo.data.task.StageMethod`.
        **kwargs: Of :class:`ContinualDataModule`.

    Example:
        >>> MicroDataModule(order=["code", "math"], steps=5).stage_names
        ['code', 'math']
    """

    def __init__(
        self,
        order: list[DomainName] | None = None,
        steps: int = 75,
        prompts_per_step: int = 6,
        world: MicroWorld | None = None,
        ood: bool = True,
        prior: bool = True,
        methods: dict[DomainName, StageMethod] | None = None,
        **kwargs: Any,
    ) -> None:
        check_integer("steps", steps, at_least=1)
        check_integer("prompts_per_step", prompts_per_step, at_least=1)
        world = world or MicroWorld()
        order = order if order is not None else ["math", "sci", "tool", "code"]
        tasks = {domain: MicroTask(domain, world=world) for domain in order}
        probes: list[Task] = [MicroTask(domain, "ood", world=world) for domain in tasks] if ood else []
        if prior:
            probes.append(MicroTask("prior", world=world))
        methods = methods or {}
        if beyond := [domain for domain in methods if domain not in order]:
            text, fix = f"no stage trains on {beyond[0]!r}", f"leave it out; there are: {', '.join(order)}"
            raise UserError(text, where="data.methods", fix=fix)
        stages = [
            Stage(task=tasks[domain], steps=steps, prompts_per_step=prompts_per_step, method=methods.get(domain))
            for domain in order
        ]
        super().__init__(stages, probes, **kwargs)
