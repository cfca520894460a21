"""What a checkpoint says of the run that wrote it, and whether another run may go on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

import lit_sdpo
from lit_sdpo.checkpoints.differences import Difference, between
from lit_sdpo.data.base import stream_of
from lit_sdpo.errors import UserError
from lit_sdpo.likelihood.rows import ChoiceRow, TextRow
from lit_sdpo.policies.held import tokenizer_in

#: Version of what this package keeps in a checkpoint; a release reads the versions from OLDEST to SCHEMA.
SCHEMA = 1
OLDEST = 1
#: Where it is kept.
KEY = "lit_sdpo"
#: Rows of a split that its fingerprint covers, evenly spaced where there are more.
FINGERPRINT_ROWS = 20_000
#: Numbers of each weight that its fingerprint covers, evenly spaced.
FINGERPRINT_NUMBERS = 64


def describe(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    """What has to be the same when a run goes on: method, tokenizer, tasks and data.

    Of a data module without ``stages`` nothing is known but its class.
    """
    data = stream_of(trainer)
    found: dict[str, Any] = {"method": type(module).__name__, "data": data.kind}
    tokenizer = tokenizer_in(module)
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        found[TOKENIZER] = tokenizer_fingerprint(tokenizer)
    for number, stage in enumerate(data.stages):
        rows = fingerprint(stage.task.rows("train"))
        found[f"stage {number}"] = f"{stage.task}, {stage.steps} steps of {stage.prompts_per_step} prompts, data {rows}"
        if stage.method is not None:
            found[f"method of stage {number}"] = str(stage.method)
    for task in data.evaluated:
        found[f"evaluation of {task.name}"] = f"data {fingerprint(data.evaluation_rows(task))}"
    for task in data.replay_tasks:
        found[f"replay of {task.name}"] = f"data {fingerprint(task.rows('train'))}"
    for scored in data.likelihood:
        found[f"evaluation of {scored.name}"] = f"data {fingerprint(scored.rows('validation'))}"
    if data.stages:
        found["data.seed"] = data.seed
        found["data.updates_per_rollout"] = data.updates_per_rollout
        found["data.replay_share"] = data.replay_share
        found["data.eval_every"] = data.eval_every
        found["data.eval_generations"] = data.eval_generations
    return found


def fingerprint(rows: Sequence[Any]) -> str:
    """Number of rows and the first digits of a SHA-256 over what they say, in their order."""
    digest = hashlib.sha256()
    step = max(1, -(-len(rows) // FINGERPRINT_ROWS))
    for index in range(0, len(rows), step):
        row = rows[index]
        if isinstance(row, ChoiceRow | TextRow):
            content = list(astuple(row))
        else:
            content = [row.id, [dict(m) for m in row.messages], row.ground_truth, row.verifier, row.reference]
            content += [dict(some) for some in (row.extra, row.columns) if some]  # rewards may look at them
        digest.update(json.dumps(content, ensure_ascii=True, default=str).encode() + b"\n")
    return f"{len(rows)} rows {digest.hexdigest()[:12]}"


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Number of tokens and the first digits of a SHA-256 over the vocabulary, the template and the special tokens."""
    vocabulary = tokenizer.get_vocab()
    content = [sorted(vocabulary.items()), tokenizer.chat_template, tokenizer.special_tokens_map]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    return f"{len(vocabulary)} tokens {digest[:12]}"


#: The entries of a description that hold :func:`weights_fingerprint` and :func:`tokenizer_fingerprint`.
BASE_WEIGHTS, TOKENIZER = "base weights", "tokenizer"


def weights_fingerprint(model: nn.Module) -> str:
    """Number of weights and the first digits of a SHA-256 over their names, shapes and some numbers of each.

    With adapters it covers the frozen weights alone, as adapters begin at random. Numbers are rounded to bfloat16, so
    it does not matter whether the precision of the run has been applied.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> _ = nn.init.ones_(model.weight), nn.init.zeros_(model.bias)
        >>> weights_fingerprint(model)
        '2 weights 07f177d3dd4e'
    """
    weights = dict(model.named_parameters())
    frozen = {name: weight for name, weight in weights.items() if not weight.requires_grad}
    digest = hashlib.sha256()
    numbers = []
    for name, weight in (frozen or weights).items():
        digest.update(f"{name} {list(weight.shape)}\n".encode())
        flat = weight.detach().flatten()
        numbers.append(flat[:: max(1, -(-len(flat) // FINGERPRINT_NUMBERS))].bfloat16().cpu())
    digest.update(torch.cat(numbers).view(torch.int16).numpy().tobytes())
    return f"{len(numbers)} weights {digest.hexdigest()[:12]}"


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


def compare(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What differs between two descriptions.

    Base weights and tokenizers are compared where both sides know theirs: weights that are divided among processes have
    no fingerprint.

    Example:
        >>> print(*compare({"stage 0": "math", "seed": 1}, {"stage 0": "code", "seed": 1}))
        stage 0: checkpoint has math, this run has code
    """
    unknown = [name for name in (BASE_WEIGHTS, TOKENIZER) if name not in saved or name not in now]
    sides = ({name: x for name, x in side.items() if name not in unknown} for side in (saved, now))
    return list(between(*sides))
