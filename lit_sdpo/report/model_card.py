"""The README of an exported model: where it comes from, how it was trained, what it scores and what it forgot."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_sdpo.checkpoints.trained import TrainedRun
from lit_sdpo.policies.load import resolve
from lit_sdpo.report.items import known, means, score_records
from lit_sdpo.report.summary import summarize, summary_intervals, undefined
from lit_sdpo.report.tables import Matrix, MatrixRow, summary_markdown
from lit_sdpo.versions import version_of

#: Parts of the configuration that say how the model was trained.
SETTINGS = ("seed_everything", "model", "rollout", "data")
TRAINER = ("precision", "devices", "num_nodes", "strategy", "accumulate_grad_batches", "gradient_clip_val")
PACKAGES = ("lit-sdpo", "torch", "transformers", "peft")


def model_card(run: TrainedRun, name: str, *, adapter: bool, dtype: str, check: str) -> str:
    """The text of the card, as Markdown with the header that the Hub reads.

    Args:
        run: The checkpoint and its run.
        name: Title.
        adapter: Whether the folder holds an adapter only.
        dtype: Of the written weights.
        check: What comparing the reloaded model with the checkpoint gave.
    """
    return "\n".join(_lines(run, name, adapter, dtype, check)) + "\n"


def _lines(run: TrainedRun, name: str, adapter: bool, dtype: str, check: str) -> Iterator[str]:
    base = str(run.model["model_name"])
    header: dict[str, Any] = {"library_name": "peft" if adapter else "transformers", "pipeline_tag": "text-generation"}
    if not Path(resolve(base)).exists():  # on the Hub
        header["base_model"] = base
    header["tags"] = ["lit-sdpo", run.method.lower(), *(["lora"] if run.model.get("lora") else [])]
    yield f"---\n{yaml.safe_dump(header, sort_keys=False).strip()}\n---\n"
    kind = (
        "A LoRA adapter" if adapter else "A model with its LoRA update merged" if run.model.get("lora") else "A model"
    )
    step = run.checkpoint.get("global_step")
    yield f"# {name}\n"
    yield f"{kind} trained with {run.method} from `{base}`, {step} optimizer steps, stored in {dtype}.\n"
    yield from _use(run)
    yield "## Training\n"
    if stages := [value for key, value in run.described.items() if key.startswith("stage ")]:
        yield "\n".join(f"{number}. {stage}" for number, stage in enumerate(stages, 1)) + "\n"
    yield f"```yaml\n{yaml.safe_dump(_settings(run.config), sort_keys=False, allow_unicode=True).strip()}\n```\n"
    yield from _scores(run)
    yield "## Provenance\n"
    yield f"- checkpoint: `{run.path.name}`, {run.contents.size:,} bytes, SHA-256 `{run.contents.sha256}`"
    yield f"- check after writing: {check}"
    recorded = run.json("environment.json") or {}
    if versions := recorded.get("versions"):
        told = ", ".join(f"{package} {number}" for package, number in versions.items())
        yield f"- trained with Python {recorded.get('python')}, {told}"
    told = ", ".join(f"{package} {version_of(package)}" for package in PACKAGES)
    yield f"- exported with Python {platform.python_version()}, {told}"


def _use(run: TrainedRun) -> Iterator[str]:
    options = run.model.get("chat_template_options") or {}
    told = "".join(f", {key}={value!r}" for key, value in options.items())
    yield "Prompts were chats, rendered in training as"
    yield f"`tokenizer.apply_chat_template(messages, add_generation_prompt=True{told})`."
    if run.sampling is not None:
        yield f"Completions had at most {run.sampling['max_new_tokens']:,} tokens."
    yield ""


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {key: config[key] for key in SETTINGS if config.get(key) is not None}
    trainer = {key: config["trainer"][key] for key in TRAINER if dict(config.get("trainer") or {}).get(key) is not None}
    cleaned = _without_empty(chosen | ({"trainer": trainer} if trainer else {}))
    return dict(cleaned)


def _without_empty(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_empty(entry) for key, entry in value.items() if entry is not None}
    return [_without_empty(entry) for entry in value] if isinstance(value, list) else value


def _scores(run: TrainedRun) -> Iterator[str]:
    matrix, items = scores_of(run)
    if not matrix.rows:
        return
    records = score_records(matrix, items)
    yield "## Scores\n"
    yield "After each stage, on the validation prompts of each task; in brackets the 95 % interval over prompts.\n"
    yield f"| stage | {' | '.join(map(_plain, matrix.headings))} |"
    yield f"| --- |{' ---: |' * len(matrix.columns)}"
    for i, row in enumerate(matrix.rows):
        cells = [_cell(r, matrix.trained(i, r["task"])) for r in records if r["stage"] == row.stage]
        yield f"| {_plain(row.title)} | {' | '.join(cells)} |"
    yield ""
    yield "## Learned and forgotten\n"
    shares = {i: {task: means(scores) for task, scores in tasks.items()} for i, tasks in items.items()}
    intervals = summary_intervals(matrix, shares) if any(items.values()) else {}
    yield summary_markdown(summarize(matrix), intervals, undefined(matrix)) + "\n"


def scores_of(run: TrainedRun) -> tuple[Matrix, dict[int, dict[str, dict[str, list[float]]]]]:
    """The retention matrix at the checkpoint, and the scores of its prompts by row and task."""
    callbacks: Mapping[str, Any] = run.checkpoint.get("callbacks") or {}
    state: Mapping[str, Any] = next(
        (value for key, value in callbacks.items() if key.startswith("ForgettingMatrix")), {}
    )
    rows: Sequence[Mapping[str, Any]] = sorted(state.get("rows", ()), key=lambda row: row["stage"])
    written = run.json("matrix.json") or {}
    found = list(state.get("found", ()))
    trained = list(dict.fromkeys(row["label"] for row in rows if row["label"] in found))
    tasks = written.get("tasks") or trained or found
    probes = written.get("probes") or [name for name in found if name not in tasks]
    stages = {row["stage"]: MatrixRow(row["stage"], row["label"], row["step"], dict(row["scores"])) for row in rows}
    last = max(stages, default=-1)
    made = [stages.get(i) or MatrixRow(i, "stage", None) for i in range(last + 1)]
    matrix = Matrix(tasks, probes, made, written.get("losses", ()))
    items = {row["stage"]: {task: known(scores) for task, scores in row["items"].items()} for row in rows}
    return matrix, items


def _cell(record: Mapping[str, Any], trained: bool) -> str:
    if record["undefined"]:
        return "-"
    text = f"{record['score']:.3f}"
    text = f"**{text}**" if trained else text
    return f"{text} [{record['low']:.2f}, {record['high']:.2f}]" if "low" in record else text


def _plain(text: str) -> str:
    return text.replace("|", "\\|")
