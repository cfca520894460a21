"""What a checkpoint says of the run that wrote it, and whether another run may go on from there."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

import lit_sdpo
from lit_sdpo.errors import UserError

#: Version of what this package keeps in a checkpoint; a release reads the versions from OLDEST to SCHEMA.
SCHEMA = 1
OLDEST = 1
#: Where it is kept.
KEY = "lit_sdpo"
#: Rows of a split that its fingerprint covers, evenly spaced where there are more.
FINGERPRINT_ROWS = 20_000


def describe(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    """What has to be the same when a run goes on: method, tasks and data.

    Of a data module without ``stages`` nothing is known but its class.
    """
    data: Any = getattr(trainer, "datamodule", None)
    found: dict[str, Any] = {"method": type(module).__name__, "data": type(data).__name__}
    for number, stage in enumerate(getattr(data, "stages", ())):
        rows = fingerprint(stage.task.rows("train"))
        found[f"stage {number}"] = (
            f"{stage.task.name}, {stage.steps} steps of {stage.prompts_per_step} prompts, data {rows}"
        )
    if hasattr(data, "evaluation_rows"):
        for task in data.evaluated:
            found[f"evaluation of {task.name}"] = f"data {fingerprint(data.evaluation_rows(task))}"
    for name in ("seed", "updates_per_rollout", "replay_share", "eval_every", "eval_generations"):
        if hasattr(data, name):
            found[f"data.{name}"] = getattr(data, name)
    return found


def fingerprint(rows: Sequence[Any]) -> str:
    """Number of rows and the first digits of a SHA-256 over what they say, in their order."""
    digest = hashlib.sha256()
    step = max(1, -(-len(rows) // FINGERPRINT_ROWS))
    for index in range(0, len(rows), step):
        row = rows[index]
        content = [row.id, [dict(m) for m in row.messages], row.ground_truth, row.verifier, row.reference]
        digest.update(json.dumps(content, ensure_ascii=True, default=str).encode() + b"\n")
    return f"{len(rows)} rows {digest.hexdigest()[:12]}"


def stamp(description: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of a checkpoint."""
    return {"schema": SCHEMA, "release": lit_sdpo.__version__, "run": dict(description)}


def check_schema(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint whose entry this release cannot read.

    Raises:
        UserError: It was written by a newer release, or by one that is too old.
    """
    entry = checkpoint.get(KEY)
    if entry is None or OLDEST <= entry["schema"] <= SCHEMA:
        return
    age = "newer" if entry["schema"] > SCHEMA else "older"
    raise UserError(
        f"the checkpoint has schema {entry['schema']}, {age} than the {SCHEMA} of lit-sdpo {lit_sdpo.__version__}",
        where=str(path),
        fix=f"use lit-sdpo {entry['release']}, which wrote it",
    )


def compare(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """One line for each difference, both sides named; empty if there is none.

    Example:
        >>> print(compare({"stage 0": "math", "seed": 1}, {"stage 0": "code", "seed": 1}))
          stage 0: checkpoint has math, this run has code
    """
    names = [*saved, *(name for name in now if name not in saved)]
    lines = [
        f"  {name}: checkpoint has {saved.get(name, 'nothing')}, this run has {now.get(name, 'nothing')}"
        for name in names
        if saved.get(name) != now.get(name)
    ]
    return "\n".join(lines)


def explain_loading(error: BaseException) -> UserError | None:
    """What a user can make of torch's complaint that a checkpoint does not fit the model, if it is one."""
    text = str(error)
    if not isinstance(error, RuntimeError) or "Error(s) in loading state_dict" not in text:
        return None
    sizes = re.findall(r"size mismatch for (\S+): .*?torch.Size\((\[.*?\])\).*?torch.Size\((\[.*?\])\)", text)
    found = [f"{name}: checkpoint has {old}, this model has {new}" for name, old, new in sizes]
    for label, side in (("Missing", "this model alone has"), ("Unexpected", "the checkpoint alone has")):
        for names in re.findall(rf"{label} key\(s\) in state_dict: (.*?)\. *$", text, re.MULTILINE):
            found += [f"{side} {name}" for name in re.findall(r'"(.*?)"', names)]
    shown = "\n".join(f"  {line}" for line in found[:5])
    more = f"\n  and {len(found) - 5} more" if len(found) > 5 else ""
    return UserError(
        f"the checkpoint is of another model; {len(found)} entries differ:\n{shown}{more}",
        where="ckpt_path",
        fix="use the model that the run began with",
    )
