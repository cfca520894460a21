"""Runs whose truth is known, in memory and on disk."""

from __future__ import annotations

import copy
import csv
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from tensorboard.compat.proto.event_pb2 import Event

from lit_sdpo.report.run import Run
from lit_sdpo.report.study import Study
from lit_sdpo.report.tables import Matrix, MatrixRow

CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "trainer": {"max_epochs": 2},
    "model": {
        "class_path": "lit_sdpo.SDPO",
        "init_args": {
            "teacher": {"class_path": "lit_sdpo.FrozenTeacher", "init_args": {"checkpoint": None}},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
        },
    },
    "data": {
        "class_path": "lit_sdpo.MicroDataModule",
        "init_args": {"order": ["a", "b"], "steps": 10, "prompts_per_step": 6, "world": {"strict": False}},
    },
}
#: Row of the matrix to column to the scores of each prompt's samples.
Scores = Sequence[Mapping[str, Mapping[str, Sequence[float]]]]


def config(**changes: Any) -> dict[str, Any]:
    """The configuration with other values; keys are paths with ``__`` for the dots."""
    made = copy.deepcopy(CONFIG)
    for path, value in changes.items():
        *parents, last = path.split("__")
        part = made
        for name in parents:
            part = part[name]
        part[last] = value
    return made


def matrix_of(scores: Scores, labels: Sequence[str], probes: Sequence[str] = (), steps: int = 10) -> Matrix:
    """The matrix of some prompts' scores, rows every ``steps`` steps."""
    rows = []
    for i, (label, columns) in enumerate(zip(["base", *labels], scores, strict=True)):
        means = {
            column: sum(sum(x) / len(x) for x in prompts.values()) / len(prompts) for column, prompts in columns.items()
        }
        rows.append(MatrixRow(i, label, i * steps, means))
    return Matrix(list(dict.fromkeys(labels)), list(probes), rows)


def in_memory(
    method: str,
    seed: int,
    scores: Scores = (),
    labels: Sequence[str] = ("a", "b"),
    probes: Sequence[str] = (),
    *,
    tags: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    settings: Mapping[str, Any] = CONFIG,
    **files: Any,
) -> Run:
    """A run that reads no file: what it would read is given."""
    run = Run(Path(f"/nowhere/{method}/seed={seed}"), method, seed, settings)
    empty = Matrix(list(labels), list(probes), [MatrixRow(i, x, 10 * i) for i, x in enumerate(["base", *labels])])
    vars(run)["matrix"] = matrix_of(scores, labels, probes) if scores else empty
    vars(run)["items"] = {i: dict(columns) for i, columns in enumerate(scores)}
    vars(run)["tags"] = {tag: list(points) for tag, points in (tags or {}).items()}
    for name in ("drift", "responses", "artifacts"):
        vars(run)[name] = files.get(name, [])
    vars(run)["distances"] = files.get("distances", {})
    return run


def study_of(*runs: Run) -> Study:
    return Study(list(runs))


def flat(value: float, prompts: int = 40) -> dict[str, list[float]]:
    """Prompts that all have one score."""
    return {f"p{i}": [value] for i in range(prompts)}


def on_disk(
    folder: Path,
    scores: Scores,
    labels: Sequence[str] = ("a", "b"),
    probes: Sequence[str] = (),
    *,
    seed: int | None = 0,
    tags: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    artifacts: Sequence[Mapping[str, Any]] = (),
    **changes: Any,
) -> Path:
    """A run as the callbacks leave it."""
    folder.mkdir(parents=True)
    settings = config(seed_everything=seed, **changes)
    (folder / "config.yaml").write_text("# lightning.pytorch==2.6.6\n" + yaml.safe_dump(settings))
    matrix = matrix_of(scores, labels, probes)
    rows = [{"stage": r.stage, "label": r.label, "step": r.step, "scores": dict(r.scores)} for r in matrix.rows]
    content = {"tasks": matrix.tasks, "probes": matrix.probes, "rows": rows}
    (folder / "matrix.json").write_text(json.dumps(content))
    lines = [
        json.dumps({"stage": i, "task": task, "scores": {k: x[0] if len(x) == 1 else x for k, x in prompts.items()}})
        for i, columns in enumerate(scores)
        for task, prompts in columns.items()
    ]
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
    for name, records in (tables or {}).items():
        with (folder / f"{name}.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    if artifacts:
        (folder / "artifacts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in artifacts))
    with (folder / "events.out.tfevents.1").open("wb") as stream:
        for tag, points in (tags or {}).items():
            for step, value in points:
                event = Event(step=step)
                event.summary.value.add(tag=tag, simple_value=value)
                record = event.SerializeToString()
                stream.write(struct.pack("<QI", len(record), 0) + record + b"\0\0\0\0")
    return folder
