"""From prompts to scored completions: render, sample, decode, verify, reward."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_sdpo.data.task import Row, Task
from lit_sdpo.policies.load import end_token_ids, render_all
from lit_sdpo.policies.scoring import eval_mode
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.combine import GIVEN, Scores, WeightedRewards
from lit_sdpo.rewards.pool import verify_all
from lit_sdpo.rollouts.engines.base import Call, Completions, RolloutEngine, Sampling, checked
from lit_sdpo.rollouts.malloc import keep_freed_memory
from lit_sdpo.rollouts.sampling import sample_seeds
from lit_sdpo.rollouts.texts import completion_texts
from lit_sdpo.rollouts.types import Rollouts

if TYPE_CHECKING:
    from transformers import TrainerState  # brings half of Transformers with it


@dataclass(frozen=True)
class Generation:
    """Rollouts and how they came about.

    Attributes:
        rollouts: The scored completions.
        scores: What each component of the reward said.
        sampling_seconds: Time to render, sample and decode.
        reward_seconds: Time to verify and reward.
    """

    rollouts: Rollouts
    scores: Scores
    sampling_seconds: float
    reward_seconds: float


@dataclass(frozen=True)
class GenerationSettings:
    """How completions to some prompts are drawn.

    Attributes:
        num_generations: Completions per prompt, G.
        sampling: How tokens are drawn.
        seed: Seed of the run.
        stream: What sets these draws apart from others, such as ``("train", stage, step)``.
        names: Identity of each prompt within the stream; the same identity gets the same draws. ``None`` takes the
            rows' ids.
        template_options: Further arguments of the chat template.
    """

    num_generations: int
    sampling: Sampling
    seed: int
    stream: Sequence[str | int] = ()
    names: Sequence[str] | None = None
    template_options: Mapping[str, Any] | None = None


#: Its name in earlier releases.
Draw = GenerationSettings


def engine_request(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], draw: GenerationSettings
) -> Call:
    """What an engine is asked for some rows: its arguments after the policy."""
    ids = [row.id for row in rows] if draw.names is None else draw.names
    seeds = sample_seeds(draw.seed, *draw.stream, item_ids=ids, num_generations=draw.num_generations)
    return {
        "prompts": render_all(tokenizer, [row.messages for row in rows], draw.template_options),
        "num_generations": draw.num_generations,
        "sampling": draw.sampling,
        "seeds": seeds.to(policy.device),
        "end_ids": end_token_ids(policy, tokenizer),
        "pad_id": tokenizer.pad_token_id,
    }


def generate(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    rows: Sequence[Row],
    draw: GenerationSettings,
    *,
    engine: RolloutEngine,
    rewards: WeightedRewards,
    autocast: AbstractContextManager[Any] | None = None,
    trainer_state: TrainerState | None = None,
) -> Generation:
    """Sample completions for all prompts at once and score them.

    The policy is in eval mode meanwhile, and every submodule gets its own mode back. Global random states are neither
    read nor changed.

    Args:
        policy: The model that answers.
        tokenizer: With a chat template.
        task: Verifies the completions.
        rows: The P prompts.
        draw: How their completions are drawn.
        engine: What draws them.
        rewards: Combines the verdicts with further rewards.
        autocast: Context of the policy's forward passes.
        trainer_state: How far the run is, for rewards.
    """
    started = time.perf_counter()
    keep_freed_memory()
    asked = engine_request(policy, tokenizer, rows, draw)
    with eval_mode(policy), torch.no_grad(), autocast or nullcontext():
        completions = checked(engine, engine.generate(policy, **asked), asked)
    tokens = token_lists(completions)
    texts = completion_texts(
        tokenizer,
        asked["prompts"],
        [row.messages for row in rows],
        tokens,
        completions.finished.tolist(),
        end_ids=asked["end_ids"],
        template_options=draw.template_options,
    )
    sampled = time.perf_counter()
    repeated = [row for row in rows for _ in range(draw.num_generations)]
    verdicts = verify_all(task, texts, repeated)
    scores = rewarded(rewards, verdicts, repeated, texts, tokens, trainer_state)
    rollouts = Rollouts(
        rows=rows,
        tasks=[task.part_of(row).name for row in rows],
        prompt_ids=asked["prompts"],
        num_generations=draw.num_generations,
        completions=completions,
        texts=list(texts),
        verdicts=verdicts,
        rewards=scores.rewards.to(policy.device),
        seeds=asked["seeds"],
        temperature=draw.sampling.temperature,
        told=scores.told.columns,
    )
    return Generation(rollouts, scores, sampled - started, time.perf_counter() - sampled)


#: What rewards can ask for of any row; a column of the data that has such a name takes its place.
BUILT_IN = ("ground_truth", "id", "extra")


def rewarded(
    rewards: WeightedRewards,
    verdicts: Sequence[Verdict],
    rows: Sequence[Row],
    texts: Sequence[str],
    tokens: list[list[int]],
    trainer_state: TrainerState | None = None,
) -> Scores:
    """Ask the rewards about N completions, with everything that the rows say: as TRL would.

    Args:
        rewards: Combines the verdicts with further rewards.
        verdicts: The verifier's, N.
        rows: The row of each completion, N.
        texts: The completions.
        tokens: Their tokens.
        trainer_state: How far the run is.
    """
    columns = {name: [row.columns.get(name) for row in rows] for name in column_names(rows)}
    return rewards(
        verdicts,
        [list(row.messages) if row.conversational else row.messages[-1]["content"] for row in rows],
        [
            [{"role": "assistant", "content": text}] if row.conversational else text
            for row, text in zip(rows, texts, strict=True)
        ],
        tokens,
        trainer_state,
        **({name: [getattr(row, name) for row in rows] for name in BUILT_IN} | columns),
    )


def column_names(rows: Iterable[Row]) -> list[str]:
    """The columns of some rows that rewards can ask for by name, in their order."""
    names = dict.fromkeys(name for row in rows for name in row.columns)
    return [name for name in names if name not in GIVEN]


def token_lists(completions: Completions) -> list[list[int]]:
    """The sampled tokens of each row, without padding.

    Example:
        >>> drawn = Completions(torch.tensor([[5, 6], [7, 0]]), torch.tensor([2, 1]), torch.zeros(2, 2), torch.ones(2))
        >>> token_lists(drawn)
        [[5, 6], [7]]
    """
    return [row[:n] for row, n in zip(completions.ids.tolist(), completions.lengths.tolist(), strict=True)]
