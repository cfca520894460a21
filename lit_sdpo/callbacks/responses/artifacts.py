"""What creeps into the responses: other tasks' formats, phrases that grow, loops."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from lit_sdpo.callbacks import loggers
from lit_sdpo.callbacks.clock import StreamClock
from lit_sdpo.callbacks.responses.loop_gain import LoopGain, has_teacher, loop_gain
from lit_sdpo.callbacks.rollout.seen import say_if_nothing_samples
from lit_sdpo.data.base import stream_of
from lit_sdpo.errors import UserError
from lit_sdpo.files import write_atomically
from lit_sdpo.folders import run_folder
from lit_sdpo.functional.artifacts import Amplified, BaseTexts, words
from lit_sdpo.functional.text import distinct_n, ending_loop, repetition_share
from lit_sdpo.ranges import check_integer
from lit_sdpo.report.artifacts import ArtifactRow, artifacts_csv, artifacts_jsonl, ngram_table
from lit_sdpo.rollouts.types import Rollouts

BOXED = r"\\boxed\s*\{"

#: Prompts of the last training window whose completions the teacher is asked about.
GAIN_PROMPTS = 4

#: A loop is a unit that stands at the end at least so many times and fills at least so many words.
LOOP_REPEATS, LOOP_WORDS = 4, 8


class ArtifactMonitor(pl.Callback):
    r"""Watch what the responses of every task contain, in each evaluation, against the base's own responses.

    The responses of a task's first evaluation are the base's: with
    :class:`~lit_sdpo.callbacks.initial_evaluation.InitialEvaluation` those before training. Words are runs of letters
    and digits, LaTeX commands and single punctuation marks. Of each task:

    * ``leakage``: share of responses with a marker of another task that is not one of its own (format leakage);
      ``format`` the share with one of its own.
    * ``boxed``, ``foreign_markers``: occurrences of ``\boxed{`` and of other tasks' markers per response.
    * ``repetition``: mean share of 4-grams that stood before in the same response; ``loops``: share of responses that
      end in a unit repeated 4 times or more, of 8 words or more; ``distinct_2``: distinct over all bigrams.
    * ``compression``: mean over responses of the compression ratio over that of the base's responses, both cut to the
      same length; above 1 is more monotonous. 1 in the first evaluation.
    * ``amplified_z``, ``amplified_per_1000``: of the n-grams of 1 to ``max_order`` words that distinguish the responses
      from the base's, by log-odds with a Dirichlet prior, the highest z-score, and the words of the listed ones with z
      above 2 per 1,000 words, a word counted once for each n-gram it is in.
    * ``loop_gain``: log-probability under the teacher less that under the student, mean over the tokens of those
      n-grams in the last training window; ``loop_gain_other`` over all other tokens, ``loop_share`` the share of
      tokens in them. Above 0 the teacher asks for more of them. Only for the task of the stage, and for modules with a
      teacher, as SDPO is (:class:`~lit_sdpo.modules.taught.Taught`).

    Loggers get them as ``artifacts/<task>/<number>``; ``artifacts.csv`` in the run folder has them all, and
    ``artifacts.jsonl`` the n-grams and the matches of each marker too; loggers get a table of the n-grams. Of
    training, means over the completions of the stage: ``artifacts/<task>/train/leakage``, ``boxed``, ``loops``; of each
    step ``artifacts/leakage``. ``time/artifacts`` is its own time in seconds, since it was last logged. It draws
    nothing at random, so a run is the same with it and without.

    The rollout callback feeds it. In any other project call :meth:`observe` in the validation step; results come at the
    end of the validation, or of the epoch where there is none.

    Args:
        markers: Task to regular expressions that find its answer format. Default: the ``markers`` of the data module's
            tasks.
        max_order: Words of the longest n-grams.
        num_shown: N-grams in lists and tables.

    Raises:
        UserError: A number is out of range, or a marker is no regular expression.

    Example:
        >>> monitor = ArtifactMonitor(markers={"math": [r"\\boxed"], "code": ["```"]})
        >>> monitor.observe("math", [r"It is \boxed{3}.", "```3```"])
    """

    def __init__(self, markers: dict[str, list[str]] | None = None, max_order: int = 3, num_shown: int = 8) -> None:
        check_integer("max_order", max_order, at_least=1)
        check_integer("num_shown", num_shown, at_least=1)
        self.markers, self.max_order, self.num_shown = markers, max_order, num_shown
        #: Everything measured so far.
        self.rows: list[ArtifactRow] = []
        self._patterns: dict[str, list[re.Pattern[str]]] = _compiled(markers or {})
        self._bases: dict[str, BaseTexts] = {}
        self._seen: dict[str, list[str]] = {}
        self._train: dict[str, dict[str, float]] = {}
        self._last: tuple[str, Rollouts] | None = None
        self._seconds = 0.0
        self._clock = StreamClock()
        self._folder: Path | None = None

    # ------------------------------------------------------------------------------------------ what there is to see
    def observe(self, task: str, responses: Sequence[str]) -> None:
        """Look at responses of the evaluation that is under way.

        Args:
            task: Name of their task.
            responses: Their texts, without the prompts.
        """
        self._seen.setdefault(task, []).extend(responses)

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
        """Look at rollouts; the rollout callback calls this with everything that it sampled.

        Args:
            trainer: Tells the sanity check, which does not count.
            pl_module: Its teacher is asked later.
            rollouts: The scored completions; replayed ones are left out.
            task: Name of their task.
            split: ``train`` or ``validation``; others do not count.
            stage: Not used.
            step: Not used.
        """
        if trainer.sanity_checking or split not in ("train", "validation") or not rollouts.verdicts:
            return  # reference answers, which nobody has judged, are not the policy's
        started = time.perf_counter()
        if split == "validation":
            self.observe(task, rollouts.texts)
        else:
            if rollouts.replayed is not None:  # those belong to earlier tasks
                rollouts = rollouts.take(range(int((~rollouts.replayed).sum()) // rollouts.num_generations))
            leaked = self._count(rollouts.tasks or [task], rollouts.texts)
            options: dict[str, Any] = {"on_step": True, "on_epoch": False, "batch_size": 1}
            pl_module.log("artifacts/leakage", leaked, sync_dist=trainer.world_size > 1, **options)
            if has_teacher(pl_module):
                self._last = task, rollouts.take(range(min(GAIN_PROMPTS, len(rollouts.rows))))
        self._seconds += time.perf_counter() - started

    def _count(self, tasks: Sequence[str], texts: Sequence[str]) -> float:
        """Count, and give the share of responses with another task's marker; each task has equally many in a row."""
        foreign = {task: self._foreign(task) for task in dict.fromkeys(tasks)}
        total = 0
        for n, text in enumerate(texts):
            task = tasks[n * len(tasks) // len(texts)]
            sums = self._train.setdefault(task, dict.fromkeys(("responses", "leakage", "boxed", "loops"), 0.0))
            leaked = any(pattern.search(text) for pattern in foreign[task])
            sums["boxed"] += len(re.findall(BOXED, text))
            sums["loops"] += ending_loop(words(text), LOOP_REPEATS) >= LOOP_WORDS
            sums["responses"] += 1
            sums["leakage"] += leaked
            total += leaked
        return total / max(len(texts), 1)

    def _foreign(self, task: str) -> list[re.Pattern[str]]:
        own = self._patterns.get(task, [])
        others = (p for other, some in self._patterns.items() if other != task for p in some)
        return [p for p in dict.fromkeys(others) if p not in own]

    # ------------------------------------------------------------------------------------------ hooks
    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        say_if_nothing_samples(trainer, self, "it sees what its observe() is given")
        loggers.say_what_is_not_shown(trainer)
        self._folder = run_folder(trainer)
        if self.markers is None:
            data = stream_of(trainer)
            self._patterns = _compiled({task.name: task.markers for task in [*data.tasks, *data.evaluated]})

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock.start(trainer)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._clock.see(trainer)

    @override
    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._seen = {}

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self._write()  # resumed, perhaps into a new folder

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if trainer.state.fn == TrainerFn.FITTING:
            self._report(trainer, pl_module)
        self._seen = {}

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_last_batch:  # stopped inside the stage
            return
        self._report(trainer, pl_module)
        self._report_training(trainer)
        self._train, self._last = {}, None

    # ------------------------------------------------------------------------------------------ measurements
    def _report(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        started = time.perf_counter()
        mine, self._seen = self._seen, {}
        if not trainer.global_step and self._clock.stages_before:
            return  # the fit before has ended with these weights
        seen: dict[str, list[str]] = {}
        for part in _of_all_ranks(mine):
            for task, texts in part.items():
                seen.setdefault(task, []).extend(texts)
        if not trainer.is_global_zero or not any(seen.values()):
            return
        step = self._clock.step(trainer)
        stage = self._clock.stage(trainer) + 1 if trainer.global_step else self._clock.stages_before
        rows = [self._row(step, stage, task, texts, module) for task, texts in seen.items() if texts]
        self.rows += rows
        self._seconds += time.perf_counter() - started
        numbers = {f"artifacts/{row.task}/{name}": x for row in rows for name, x in row.numbers.items()}
        _log(trainer, numbers | {"time/artifacts": self._seconds}, step)
        self._seconds = 0.0
        for row in rows:
            if row.ngrams:
                loggers.log_table(trainer, f"artifacts/{row.task}", ngram_table(row), step)
        self._write()

    def _row(self, step: int, stage: int, task: str, texts: list[str], module: pl.LightningModule) -> ArtifactRow:
        if task not in self._bases:
            self._bases[task] = BaseTexts.of(texts, range(1, self.max_order + 1))
        base = self._bases[task]
        numbers, markers = self._contents(task, texts)
        numbers["compression"] = _mean(base.relative_compression(texts))
        amplified = base.amplified(texts, self.num_shown)
        certain = [one for one in amplified if one.z > 2]
        numbers["amplified_z"] = max((one.z for one in amplified), default=0.0)
        numbers["amplified_per_1000"] = 1000 * sum(one.count * one.order for one in certain) / max(numbers["words"], 1)
        numbers["words"] /= len(texts)
        gain = self._gain(module, task, certain)
        if gain is not None:
            numbers |= {"loop_gain": gain.amplified, "loop_gain_other": gain.other, "loop_share": gain.share}
        asked = gain.of_ngram if gain is not None else {}
        ngrams = [asdict(one) | ({"gain": asked[one.ngram]} if one.ngram in asked else {}) for one in amplified]
        return ArtifactRow(step, stage, task, numbers, ngrams, markers)

    def _contents(self, task: str, texts: list[str]) -> tuple[dict[str, float], dict[str, float]]:
        """What the responses contain, and the matches of each marker per response."""
        own, foreign = self._patterns.get(task, []), self._foreign(task)
        counts = {pattern: [len(pattern.findall(text)) for text in texts] for pattern in [*own, *foreign]}
        documents = [words(text) for text in texts]

        def share(patterns: Sequence[re.Pattern[str]]) -> float:
            return _mean([any(counts[p][n] for p in patterns) for n in range(len(texts))]) if patterns else math.nan

        numbers = {
            "responses": float(len(texts)),
            "words": float(sum(map(len, documents))),
            "leakage": share(foreign),
            "format": share(own),
            "foreign_markers": _mean([sum(counts[p][n] for p in foreign) for n in range(len(texts))]),
            "boxed": _mean([len(re.findall(BOXED, text)) for text in texts]),
            "repetition": _mean([repetition_share(document, 4) for document in documents]),
            "loops": _mean([ending_loop(document, LOOP_REPEATS) >= LOOP_WORDS for document in documents]),
            "distinct_2": distinct_n(documents, 2),
        }
        return numbers, {pattern.pattern: _mean(found) for pattern, found in counts.items()}

    def _gain(self, module: pl.LightningModule, task: str, certain: Sequence[Amplified]) -> LoopGain | None:
        if self._last is None or self._last[0] != task or not has_teacher(module):
            return None
        return loop_gain(module, self._last[1], [one.ngram for one in certain])

    def _report_training(self, trainer: pl.Trainer) -> None:
        sums: dict[str, dict[str, float]] = {}
        for part in _of_all_ranks(self._train):
            for task, some in part.items():
                so_far = sums.setdefault(task, dict.fromkeys(some, 0.0))
                sums[task] = {name: so_far[name] + x for name, x in some.items()}
        if trainer.is_global_zero:
            names = ("leakage", "boxed", "loops")
            means = {t: {name: some[name] / max(some["responses"], 1) for name in names} for t, some in sums.items()}
            found = {f"artifacts/{t}/train/{name}": x for t, some in means.items() for name, x in some.items()}
            _log(trainer, found, self._clock.step(trainer))

    def _write(self) -> None:
        if self._folder is not None and self.rows:
            write_atomically(self._folder / "artifacts.csv", artifacts_csv(self.rows))
            write_atomically(self._folder / "artifacts.jsonl", artifacts_jsonl(self.rows))

    # ------------------------------------------------------------------------------------------ resume
    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "clock": self._clock.state_dict(),
            "bases": {task: base.state_dict() for task, base in self._bases.items()},
            "rows": [asdict(row) for row in self.rows],
            "train": {task: dict(some) for task, some in self._train.items()},
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._clock.load_state_dict(state_dict.get("clock"))
        self._bases = {task: BaseTexts.from_state_dict(base) for task, base in state_dict["bases"].items()}
        self.rows = [ArtifactRow(**row) for row in state_dict["rows"]]
        self._train = {task: dict(some) for task, some in state_dict["train"].items()}


def _compiled(markers: Mapping[str, Sequence[str]]) -> dict[str, list[re.Pattern[str]]]:
    found: dict[str, list[re.Pattern[str]]] = {}
    for task, some in markers.items():
        for marker in some:
            try:
                found.setdefault(task, []).append(re.compile(marker))
            except re.error as error:
                raise UserError(
                    f"marker {marker!r} of task {task!r} is no regular expression: {error}",
                    where="ArtifactMonitor.markers",
                    fix="escape special characters with a backslash",
                ) from error
    return found


def _of_all_ranks(mine: dict[str, Any]) -> list[dict[str, Any]]:
    """What every rank has; all call it together."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, mine)
    return parts


def _log(trainer: pl.Trainer, numbers: Mapping[str, float], step: int) -> None:
    known = {name: x for name, x in numbers.items() if math.isfinite(x)}
    loggers.log_numbers(trainer, known, step)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
