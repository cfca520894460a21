"""How far what the policy says has moved from what its base says, on the task in training and on earlier ones."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lit_sdpo.callbacks import loggers
from lit_sdpo.callbacks.clock import StreamClock
from lit_sdpo.callbacks.responses.models import Weights, base_of, policy_of, tokenizer_of
from lit_sdpo.callbacks.responses.prompts import GivenPrompts, Prompts, evaluated_prompts, given_prompts
from lit_sdpo.callbacks.responses.scoring import Responses, prompt_features, respond, response_numbers
from lit_sdpo.callbacks.rollout.callback import rollouts_in
from lit_sdpo.callbacks.weights.base import BaseWeights, folders_above
from lit_sdpo.data.base import stream_of
from lit_sdpo.errors import UserError
from lit_sdpo.files import write_atomically
from lit_sdpo.folders import run_folder
from lit_sdpo.functional.intervals import mean_interval, ratio_interval, sum_of_intervals
from lit_sdpo.functional.response_drift import mmd_matrix
from lit_sdpo.policies.held import adapted
from lit_sdpo.policies.scoring import eval_mode
from lit_sdpo.policies.sharding import is_sharded
from lit_sdpo.ranges import check_integer, check_seed
from lit_sdpo.report.responses import (
    Estimate,
    ResponseRow,
    distance_map,
    distances_csv,
    responses_csv,
    responses_scalars,
    responses_table,
    similarities_csv,
)
from lit_sdpo.text import tasks_of


class ResponseDrift(pl.Callback):
    r"""Compare the policy's responses with those of its base, before training and at the end of every stage (epoch).

    A fixed set of prompts of each task is asked again and again; policy and base draw ``num_generations`` responses
    to each at temperature 1. Of each task, with 95 % intervals over prompts:

    * ``forward_kl``: :math:`KL(\pi_0‖\pi)` in nats per response, from the base's responses. Large where the policy no
      longer says what the base said; on the prompts of the task in training it goes along with forgetting
      (arXiv 2509.04259).
    * ``reverse_kl``: :math:`KL(\pi‖\pi_0)` in nats per response, from the policy's responses. Large where the policy
      says what the base would not.
    * ``forward_kl_per_token``, ``reverse_kl_per_token``: the same per token of those responses.
    * ``js``: Jensen-Shannon divergence per token, over the tokens of both.
    * ``entropy`` (nats per token), ``length`` (tokens) and ``truncated`` (share) of the policy's responses.
    * ``similarity``: mean cosine of all pairs of a response of the base and one of the policy to the same prompt.
      ``similarity_floor`` is that of two draws of the base, which is below 1: only what lies under it is drift.
    * ``excess_kl``, ``excess_kl_at_most``: ``reverse_kl`` less what the change of the success rate alone needs (arXiv
      2607.01763, section 5.3), in two estimates (:func:`~lit_sdpo.functional.excess_kl.excess_kl_bounds`): on average
      the excess is at least the first, which is 0 where there is none, and at most the second. They meet as responses
      per prompt grow. Needs tasks with a verifier.

    Divergences are exact sums over the vocabulary at every token. ``current`` and ``earlier`` are the task of the
    stage, and the mean over the tasks of earlier stages: they answer different questions. Loggers get
    ``drift/responses/<task, current or earlier>/<number>``, and ``_low`` and ``_high`` of the KLs;
    ``response_drift.csv`` in the run folder has everything, ``response_similarity.csv`` the ``similarity`` of every
    prompt, of which a task's is the mean. ``prompt_distance.csv`` and a picture, once, show the squared MMD between the
    prompts of every two tasks. ``time/response_drift`` is its own time in seconds.

    Features of responses and prompts are means of the base's last hidden states, so that they mean the same all along.

    The base under adapters is the model without them. Otherwise its weights lie in ``response_drift_base.pt`` in the
    run folder (in memory where there is none), and a second model exists only while it is measured. A resumed run
    needs that file. It has its own seeds and reads no global random state, so a run is the same with it and without.
    Only the first process measures; it needs whole weights there.

    It asks a LightningModule for ``policy`` or ``model``, a Hugging Face causal language model, and ``tokenizer``.

    Args:
        num_prompts: Prompts per task.
        num_generations: Responses per prompt, G.
        max_new_tokens: Longest response, where it is cut; ``None`` takes that of the evaluation's sampling, else 256.
        prompts: Task to its prompts, texts or lists of chat messages. Default: the validation prompts of everything
            that the data module evaluates.
        tasks: Which of the tasks to measure. Default: all.
        stages: The task of each stage. Default: ``stage_names`` of the data module, else the names in ``prompts``
            where there is one epoch for each. Without it nothing is ``current`` or ``earlier``.
        encoder: A module with ``encode(texts)``, such as ``sentence_transformers.SentenceTransformer``, that gives the
            features instead.
        distance_prompts: Prompts per task for the distances between tasks; 0 leaves them out.
        batch_size: Prompts, of whatever task, that are answered at once. Default: as many as cannot write more than
            32,768 tokens.
        seed: Of the choice of prompts and of the draws.

    Raises:
        UserError: A number is out of range, or prompts, model or tokenizer are missing.
        ValueError: The encoder has no method ``encode``.

    Example:
        >>> drift = ResponseDrift(prompts={"sums": ["1+1=", "2+3="], "words": ["one two", "red green"]})
    """

    file = "response_drift_base.pt"

    def __init__(
        self,
        num_prompts: int = 8,
        num_generations: int = 4,
        max_new_tokens: int | None = None,
        prompts: GivenPrompts | None = None,
        tasks: list[str] | None = None,
        stages: list[str] | None = None,
        encoder: torch.nn.Module | None = None,
        distance_prompts: int = 64,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        check_integer("num_prompts", num_prompts, at_least=2)
        check_integer("num_generations", num_generations, at_least=1)
        check_integer("batch_size", batch_size, at_least=1, optional=True)
        check_integer("max_new_tokens", max_new_tokens, at_least=1, optional=True)
        check_integer("distance_prompts", distance_prompts, at_least=0 if distance_prompts == 0 else 2)
        check_seed("seed", seed)
        if encoder is not None and not callable(getattr(encoder, "encode", None)):
            raise ValueError(f"encoder has to have a method encode(texts), which {type(encoder).__name__} lacks")
        self.num_prompts, self.num_generations, self.max_new_tokens = num_prompts, num_generations, max_new_tokens
        self.prompts, self.tasks, self.stages, self.encoder = prompts, tasks, stages, encoder
        self.distance_prompts, self.batch_size, self.seed = distance_prompts, batch_size, seed
        #: Everything measured so far.
        self.rows: list[ResponseRow] = []
        #: Tasks and the squared MMD between their prompts, [K, K].
        self.distances: tuple[list[str], Tensor] | None = None
        self._base = BaseWeights(self.file, "ResponseDrift")
        self._base_responses: dict[str, Responses] = {}
        self._asked: list[Prompts] = []
        self._clock = StreamClock()
        self._stages_given = stages is not None
        self._folder: Path | None = None

    # ------------------------------------------------------------------------------------------------------------ hooks
    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        loggers.say_what_is_not_shown(trainer)

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
        self._folder = run_folder(trainer)
        if is_sharded(policy_of(pl_module)):
            raise UserError(
                "the policy is divided among processes, and responses are drawn and scored by one",
                where="ResponseDrift",
                fix="use a strategy that keeps whole weights (auto, ddp), or compare exported policies",
            )
        if not trainer.is_global_zero:
            return
        policy, _ = policy_of(pl_module), tokenizer_of(pl_module)
        options = pl_module, max(self.num_prompts, self.distance_prompts), self.seed
        every = evaluated_prompts(trainer, *options) if self.prompts is None else given_prompts(self.prompts, *options)
        every = [task for task in every if self.tasks is None or task.task in self.tasks]
        if not every:
            raise UserError(
                "no prompts to ask", where="ResponseDrift.prompts", fix="give prompts, or a data module with tasks"
            )
        self._asked = [task.first(self.num_prompts) for task in every]
        self.stages = self._stages(trainer)
        self._base_responses = {}
        if self.rows:  # resumed, perhaps into a new folder, or after an earlier fit
            if not adapted(policy):
                self._base.open(folders_above(trainer.ckpt_path), policy.state_dict())
            self._write()
            return
        if self._clock.step(trainer) > 0:
            rank_zero_warn(
                f"ResponseDrift is new to this run: its base is the policy at step {self._clock.step(trainer)}."
            )
        if not adapted(policy):
            self._base.keep(policy.state_dict(), self._folder)
        with self._ready(trainer, policy):
            self._measure(trainer, pl_module, stage=self._clock.stage(trainer), base=Weights(policy))
            if self.distance_prompts:
                self._measure_distances(trainer, every, Weights(policy))

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or not trainer.is_last_batch:  # stopped inside the stage
            return
        if self.rows[-1].step == self._clock.step(
            trainer
        ):  # nothing was trained, or a resumed run ends its stage again
            return
        policy = policy_of(pl_module)
        with self._ready(trainer, policy):
            self._measure(
                trainer, pl_module, stage=self._clock.stage(trainer) + 1, base=base_of(policy, self._base.weights)
            )

    @contextmanager
    def _ready(self, trainer: pl.Trainer, policy: Any) -> Iterator[None]:
        with torch.no_grad(), eval_mode(policy), trainer.precision_plugin.forward_context():
            yield

    def _stages(self, trainer: pl.Trainer) -> list[str] | None:
        names, before = self.stages, self._clock.stages_before
        found = stream_of(trainer).stage_names
        if not self._stages_given and found:
            earlier = (names or [])[:before]
            names = [*earlier, *[""] * (before - len(earlier)), *found]
        if names is None and self.prompts is not None and trainer.max_epochs == len(self.prompts):
            names = list(self.prompts)
        return None if names is None else [str(name) for name in names]

    # ----------------------------------------------------------------------------------------------------- measurements
    def _measure(self, trainer: pl.Trainer, module: pl.LightningModule, *, stage: int, base: Weights) -> None:
        started = time.perf_counter()
        policy, tokenizer = Weights(policy_of(module)), tokenizer_of(module)
        rows: list[ResponseRow] = []
        options: dict[str, Any] = {
            "num_generations": self.num_generations,
            "max_new_tokens": self._longest(trainer),
            "seed": self.seed,
            "batch_size": self.batch_size,
        }
        if not self._base_responses:  # a resumed run draws them again: the same seeds give the same ones
            self._base_responses = respond(base, tokenizer, self._asked, stream="base", **options)
        answers = respond(policy, tokenizer, self._asked, stream="policy", **options)
        encode = self._encode if self.encoder is not None else None
        pairs = [(answers[prompts.task], self._base_responses[prompts.task]) for prompts in self._asked]
        found = response_numbers(policy, base, pairs, encode)
        for prompts, numbers in zip(self._asked, found, strict=True):
            estimates = {name: estimate(name, *pair) for name, pair in numbers.items()}
            by_prompt = torch.div(*numbers["similarity"]).tolist()
            rows.append(self._row(trainer, stage, prompts.task, self._role(stage, prompts.task), estimates, by_prompt))
        for role in ("current", "earlier"):
            chosen = [row.numbers for row in rows if row.role == role]
            if chosen:
                rows.append(self._row(trainer, stage, role, role, mean_over_tasks(chosen)))
        self.rows += rows
        self._log(trainer, rows, time.perf_counter() - started)
        self._write()

    def _measure_distances(self, trainer: pl.Trainer, every: Sequence[Prompts], base: Weights) -> None:
        chosen = [task.first(self.distance_prompts) for task in every if len(task.ids) > 1]
        if len(chosen) < 2:
            return
        names = [task.task for task in chosen]
        matrix, sigma = mmd_matrix(
            [self._encode(t.texts) if self.encoder is not None else prompt_features(base, t.ids) for t in chosen]
        )
        self.distances = names, matrix
        if self._folder is not None:
            write_atomically(self._folder / "prompt_distance.csv", distances_csv(names, matrix))
        title = f"squared MMD between prompts, bandwidth {float(sigma):.3g}"
        step = self._clock.step(trainer)
        loggers.log_figure(trainer, "drift/prompt_distance", lambda: distance_map(names, matrix, title=title), step)

    def _encode(self, texts: Sequence[str]) -> Tensor:
        encoder: Any = self.encoder
        return torch.as_tensor(encoder.encode(list(texts))).float().cpu()

    def _longest(self, trainer: pl.Trainer) -> int:
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        rollouts = rollouts_in(trainer)
        return 256 if rollouts is None else rollouts.evaluation_sampling.max_new_tokens

    def _role(self, stage: int, task: str) -> str:
        if not self.stages or not 0 < stage <= len(self.stages):
            return "other"
        trained = [task in tasks_of(label, [task]) for label in self.stages[:stage]]
        if trained[-1]:
            return "current"
        return "earlier" if any(trained) else "other"

    def _row(
        self,
        trainer: pl.Trainer,
        stage: int,
        task: str,
        role: str,
        numbers: dict[str, Estimate],
        similarities: Sequence[float] = (),
    ) -> ResponseRow:
        # Before training the policy is the base: what is measured then is the floor.
        before = next((row for row in self.rows if row.task == task), None)
        if before is not None and "similarity" in before.numbers and task not in ("current", "earlier"):
            numbers["similarity_floor"] = before.numbers["similarity"]
        return ResponseRow(self._clock.step(trainer), stage, task, role, numbers, similarities)

    # ---------------------------------------------------------------------------------------------------------- results
    def _log(self, trainer: pl.Trainer, rows: Sequence[ResponseRow], seconds: float) -> None:
        numbers = {"time/response_drift": seconds} | responses_scalars(rows)
        loggers.log_numbers(trainer, numbers, self._clock.step(trainer))
        loggers.log_table(trainer, "drift/responses", responses_table(rows), self._clock.step(trainer))

    def _write(self) -> None:
        if self._folder is not None and self.rows:
            write_atomically(self._folder / "response_drift.csv", responses_csv(self.rows))
            write_atomically(self._folder / "response_similarity.csv", similarities_csv(self.rows))

    # ----------------------------------------------------------------------------------------------------------- resume
    @override
    def state_dict(self) -> dict[str, Any]:
        rows = [row.plain() for row in self.rows]
        return {"rows": rows, "base": self._base.state_dict(), "clock": self._clock.state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._clock.load_state_dict(state_dict.get("clock"))
        self._base.load_state_dict(state_dict["base"])
        self.rows = [ResponseRow.from_plain(*row) for row in state_dict["rows"]]


#: Numbers that a response has a bounded amount of; the others are never negative and have no upper bound.
BOUNDED = ("truncated", "similarity")


def estimate(name: str, numerators: Tensor, denominators: Tensor) -> Estimate:
    """A ratio of sums over prompts with its interval; none (nan) where the prompts do not differ."""
    value = float(numerators.double().sum() / denominators.double().sum())
    found = mean_interval(numerators / denominators) if name in BOUNDED else ratio_interval(numerators, denominators)
    return Estimate(value, found.low, found.high)


def mean_over_tasks(several: Sequence[Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """Means over tasks of the numbers that all of them have."""
    if len(several) == 1:
        return dict(several[0])
    names = [name for name in several[0] if all(name in one for one in several)]
    found = {}
    for name in names:
        estimates = [one[name] for one in several]
        values, ends = [x.value for x in estimates], [(x.low, x.high) for x in estimates]
        low, high = sum_of_intervals(values, ends)
        found[name] = Estimate(*(x / len(values) for x in (sum(values), low, high)))
    return found
