"""What the tasks of a run's configuration read, found by the parser of runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentError, ArgumentParser

import lit_sdpo
from lit_sdpo.data.check.checker import Part
from lit_sdpo.data.datamodule import ContinualDataModule, verifiers_of
from lit_sdpo.data.jsonl import plain_arguments, planned
from lit_sdpo.data.mixture import parts_of
from lit_sdpo.data.task import Row
from lit_sdpo.likelihood.rows import Parse
from lit_sdpo.likelihood.tasks import LikelihoodTask
from lit_sdpo.messages import explain_parsing
from lit_sdpo.overrides import import_named_classes
from lit_sdpo.rewards.registry import import_object, register_verifiers


class Configured(NamedTuple):
    """What the tasks of a configuration read.

    Attributes:
        parts: The sources of tasks that are answered.
        rows: Name, split and rows of such tasks that read none.
        scored: The sources of tasks that are scored by likelihood, and what makes their rows.
    """

    parts: list[Part]
    rows: list[tuple[str, str, Sequence[Row]]]
    scored: list[tuple[Part, Parse]]


def sources_and_rows(contents: Iterable[Mapping[str, Any]]) -> Configured:
    """What a configuration's tasks read.

    Args:
        contents: The files that make up the configuration, in order.

    Raises:
        UserError: A mistake in the configuration.
    """
    import_named_classes()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(ContinualDataModule, "data", required=True)
    words: list[str] = []
    for content in contents:
        if "data" in content:
            words += ["--config", yaml.safe_dump({"data": content["data"]})]
    try:
        parsed = parser.parse_args(words)
    except ArgumentError as error:
        raise explain_parsing(str(error), namespaces=(lit_sdpo,)) from error
    register_verifiers(verifiers_of(parsed.data))
    scored = _scored_by_likelihood(parsed.data.init_args)
    arguments = parsed.data.init_args
    trained = [spec for stage in arguments.get("stages") or [] for spec in parts_of(stage["task"])]
    specs = [*trained, *(arguments.get("probes") or []), *(arguments.get("replay_tasks") or [])]
    if not specs or not all(hasattr(import_object(spec["class_path"]), "plan") for spec in specs):
        data = parser.instantiate(parsed).data
        rows = [
            (task.name, split, task.rows(split))
            for task in {task.name: task for task in (*data.tasks, *data.probes, *data.replay_tasks)}.values()
            for split in ("train", "validation", "test")
            if len(task.rows(split))
        ]
        return Configured([], rows, scored)
    parts: dict[Part | str, Part] = {}
    for spec in specs:
        plan = planned(spec)
        for split, sources in plan.sources.items():
            for source in sources:
                parts.setdefault(f"{plan.name}/{split}/{source}", Part(source, plan.name, split))
    return Configured(list(parts.values()), [], scored)


def _scored_by_likelihood(arguments: Any) -> list[tuple[Part, Parse]]:
    found: dict[str, tuple[Part, Parse]] = {}
    for spec in arguments.get("likelihood") or []:
        task: LikelihoodTask = import_object(spec["class_path"])(**plain_arguments(spec))
        for split, sources in task.sources.items():
            for source in sources:
                found.setdefault(f"{task.name}/{source}", (Part(source, task.name, split), type(task).parse))
    return list(found.values())
