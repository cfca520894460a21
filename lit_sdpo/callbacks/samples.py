"""What the model actually writes: every completion to a file, a few to the loggers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from typing_extensions import override

from lit_sdpo.callbacks import loggers
from lit_sdpo.callbacks.clock import StreamClock
from lit_sdpo.callbacks.rollout.seen import say_if_nothing_samples
from lit_sdpo.callbacks.weights.base import folders_above
from lit_sdpo.files import set_aside
from lit_sdpo.folders import run_folder
from lit_sdpo.ranges import check_integer
from lit_sdpo.report.text_table import TextTable
from lit_sdpo.rollouts.types import Rollouts


class SampleLogger(pl.Callback):
    """Write sampled completions to ``samples.jsonl`` in the run folder and show a few in the loggers.

    Every line of the file is one completion: ``id, task, stage, step, split, prompt`` (chat messages), ``completion,
    reward`` (the weighted one; null where every reward abstained), ``advantage`` (what the loss multiplies its tokens
    by; null in evaluations, for methods without advantages, and where the loss has none for it: it has no reward, or is
    distilled instead), ``score`` (the verifier's alone, which decides what is a success), ``finished, length``
    (tokens), ``flags`` and, where it is asked for, ``ids`` (tokens). In training a method with a teacher adds
    ``teacher_context``: whether the teacher had one; what rewards have said with ``log_extra`` is in ``told``.
    ``step`` is the number of optimizer steps taken before the completion was sampled, over all fits of this callback.

    Loggers show the first completion of each of ``num_shown`` prompts per task and occasion as a table
    ``samples/<task>`` in which no text of the model can act as Markdown or HTML. Evaluations show the same prompts each
    time, next to what the model wrote at the first evaluation.

    Only rank zero writes, and only what was sampled on it. A run that goes on in the folder of its checkpoint, moved or
    not, first cuts the file back to where the checkpoint was.

    Args:
        every_n_steps: Training completions are kept at steps that are a multiple of this; evaluations always are.
        num_shown: Rows of a table; 0 shows none.
        max_characters: Longer prompts and completions lose their middle in the table; the file has them whole.
        token_ids: Keep the tokens of every completion in the file.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self, every_n_steps: int = 10, num_shown: int = 4, max_characters: int = 400, token_ids: bool = False
    ) -> None:
        check_integer("every_n_steps", every_n_steps, at_least=1)
        check_integer("num_shown", num_shown)
        check_integer("max_characters", max_characters, at_least=20)
        self.every_n_steps, self.num_shown, self.max_characters = every_n_steps, num_shown, max_characters
        self.token_ids = token_ids
        #: What was written at the first evaluation, by task and id.
        self._first: dict[str, dict[str, str]] = {}
        self._path: Path | None = None
        self._resumed: dict[str, Any] = {}
        self._shown: tuple[str, str, int] | None = None
        self._begins = False
        self._clock = StreamClock()

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        say_if_nothing_samples(trainer, self, "it writes nothing")
        loggers.say_what_is_not_shown(trainer)
        folder = run_folder(trainer)
        self._begins = stage == "fit"
        self._path = folder / "samples.jsonl" if folder is not None and trainer.is_global_zero else None

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock.start(trainer)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._clock.see(trainer)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        resumed, self._resumed = self._resumed, {}
        path = self._path
        if path is None or "size" not in resumed or not path.exists():
            return
        if path.parent.resolve() in map(Path.resolve, folders_above(trainer.ckpt_path)):
            with path.open("r+b") as file:
                file.truncate(min(resumed["size"], path.stat().st_size))

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
        """Keep some rollouts; the rollout callback calls this with everything that it sampled.

        Args:
            trainer: Gives the optimizer step, which is what the file and TensorBoard count in.
            pl_module: Not used.
            rollouts: The scored completions; replayed ones are left out.
            task: Name of their task, where the rollouts do not name it.
            split: ``train``, ``validation`` or ``test``.
            stage: Index of the stage in the stream.
            step: The sampler's own count; not used.
        """
        at, stage = self._clock.step(trainer), self._clock.stages_before + stage
        if not trainer.is_global_zero or trainer.sanity_checking or (split == "train" and at % self.every_n_steps):
            return
        if rollouts.replayed is not None:  # those belong to earlier tasks
            rollouts = rollouts.take(range(int(rollouts.own.sum()) // rollouts.num_generations))
        records = [
            {
                "id": r["id"],
                "task": r.get("task", task),
                "stage": stage,
                "step": at,
                "split": split,
                **r,
            }
            for r in _records(rollouts, token_ids=self.token_ids)
        ]
        if self._path is not None:
            begins, self._begins = self._begins and trainer.ckpt_path is None and at == 0, False
            if begins and self._path.exists():
                set_aside(self._path)  # of a run that has begun here and saved nothing
            _append(self._path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        if self.num_shown and self._shown != (occasion := (task, split, at)):
            self._shown = occasion
            shown = records[:: rollouts.num_generations][: self.num_shown]
            first = self._followed(task, shown) if split != "train" else None
            table = samples_table(shown, max_characters=self.max_characters, first=first)
            loggers.log_table(trainer, f"samples/{task}", table, at)

    def _followed(self, task: str, shown: Sequence[dict[str, Any]]) -> dict[str, str]:
        """What was first written for these prompts; an empty mapping at the first time."""
        known = self._first.get(task)
        if known is None:
            self._first[task] = {r["id"]: _shorten(r["completion"], self.max_characters) for r in shown}
        return known or {}

    @override
    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "clock": self._clock.state_dict(),
            "first": {task: dict(texts) for task, texts in self._first.items()},
        }
        if self._path is not None:
            state["size"] = self._path.stat().st_size if self._path.exists() else 0
        return state

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._clock.load_state_dict(state_dict.get("clock"))
        self._resumed = state_dict
        self._first = state_dict.get("first", {})


def _append(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # A lone surrogate has no UTF-8 form; its backslash form is also its JSON form.
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        error.filename = str(path)  # a disk that is full does not say of which file
        raise


def samples_table(
    records: Sequence[dict[str, Any]], *, max_characters: int = 400, first: Mapping[str, str] | None = None
) -> TextTable:
    """Prompt and completion as a table; texts are shortened, and escaped in Markdown.

    TensorBoard breaks the words of narrow columns, so reward and tokens stand before the completion, and the split is
    in the note below.

    Args:
        records: Lines of ``samples.jsonl``.
        max_characters: Longest text of a cell before escaping.
        first: What was once written for these prompts, by id, for a column of its own.

    Example:
        >>> record = {"prompt": [{"role": "user", "content": "1 | 2?"}], "completion": "<b>", "reward": 1.0}
        >>> record |= {"task": "math", "split": "train", "finished": True, "length": 3}
        >>> print(samples_table([record]).markdown())
        | prompt | completion |
        | --- | --- |
        | 1 &#124; 2? | reward 1.000, 3 tokens · &#60;b&#62; |
        <BLANKLINE>
        Split: train.
    """
    header = ["prompt", *(["at first"] if first else []), "completion"]
    rows = []
    for record in records:
        prompt = "\n".join(message["content"] for message in record["prompt"])
        before = [first.get(record["id"], "")] if first else []
        *texts, completion = (_shorten(text, max_characters) for text in (prompt, *before, record["completion"]))
        reward = "abstained" if record["reward"] is None else f"{record['reward']:.3f}"
        tokens = f"{record['length']} token{'s' * (record['length'] != 1)}" + (
            "" if record["finished"] else ", cut off"
        )
        rows.append([*texts, f"reward {reward}, {tokens} · {completion}"])
    splits = ", ".join(dict.fromkeys(record["split"] for record in records))
    return TextTable(header, rows, numbers=(), foreign=header, note=f"Split: {splits}.")


def _shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    tail = limit - head
    return f"{text[:head]} … {len(text) - limit} characters left out … {text[-tail:]}"


def _plain(value: Any) -> Any:
    """What a reward has said of a completion, as JSON can hold it."""
    if isinstance(value, torch.Tensor | np.generic) and value.ndim == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _records(rollouts: Rollouts, *, token_ids: bool) -> Iterator[dict[str, Any]]:
    g = rollouts.num_generations
    unknown = torch.full_like(rollouts.rewards, torch.nan)
    known = unknown if rollouts.advantages is None else rollouts.advantages
    advantages = known.masked_fill(rollouts.rewards.isnan(), torch.nan).tolist()
    rewards, ids = rollouts.rewards.tolist(), rollouts.completions.ids.tolist() if token_ids else []
    finished, lengths = rollouts.completions.finished.tolist(), rollouts.completions.lengths.tolist()
    for n, text in enumerate(rollouts.texts):
        row = rollouts.rows[n // g]
        # Reference answers have not been judged.
        verdict = rollouts.verdicts[n] if rollouts.verdicts else None
        record = {
            "id": row.id,
            **({"task": rollouts.tasks[n // g]} if rollouts.tasks else {}),
            "prompt": [dict(message) for message in row.messages],
            "completion": str(text),  # The text alone: a checkpoint keeps some of them.
            "reward": rewards[n] if math.isfinite(rewards[n]) else None,
            "advantage": advantages[n] if math.isfinite(advantages[n]) else None,
            "score": verdict.score if verdict else None,
            "finished": finished[n],
            "length": lengths[n],
            "flags": list(verdict.flags) if verdict else [],
        }
        if token_ids:
            record["ids"] = ids[n][: lengths[n]]
        if rollouts.taught is not None:
            record["teacher_context"] = bool(rollouts.taught[n])
        if rollouts.told:
            record["told"] = {name: _plain(values[n]) for name, values in rollouts.told.items()}
        yield record
