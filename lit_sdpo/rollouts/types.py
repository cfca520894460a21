"""The containers of one step: scored completions, and the batch a loss sees.

Letters in shapes: P prompts, G generations, N = P·G rows, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lit_sdpo.data.task import Row
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.scores import verifier_scores
from lit_sdpo.rollouts.engines.base import Completions as Completions
from lit_sdpo.rollouts.engines.base import RolloutEngine as RolloutEngine
from lit_sdpo.rollouts.engines.base import Sampling as Sampling
from lit_sdpo.rollouts.mismatch import Mismatch


@dataclass
class Rollouts:
    """Scored completions of one window (or of one evaluation batch) on this rank.

    Attributes:
        rows: The P task rows.
        prompt_ids: Token ids of the P prompts.
        num_generations: G; row n belongs to prompt ``n // G``.
        completions: The N completions.
        texts: Their texts without the tokens that frame a turn. From ``generate`` each is a
            :class:`~lit_sdpo.rewards.thinking.Completion`, which knows where its thinking ends.
        verdicts: What the task's verifier said of each; empty for reference answers, which nobody has judged.
        rewards: The weighted reward per row, float32 [N]; nan where every component abstained.
        seeds: The seeds that the rows were drawn with, int64 [N].
        temperature: The completions were drawn at this temperature.
        replayed: Rows whose prompts come from an earlier stage's task, bool [N]; ``None`` where there are none.
        taught: Whether the teacher has a context for a row, N values; ``None`` before that is known and for methods
            without a teacher.
        advantages: What a policy gradient made of the rewards, float32 [N], nan for rows that it leaves to another
            term; ``None`` before that is known and for methods without advantages.
        tasks: Name of each prompt's task, P of them; in a stage that trains on several they differ.
        told: What rewards have said of each completion besides (``log_extra``): N values by column.
    """

    rows: Sequence[Row]
    prompt_ids: list[list[int]]
    num_generations: int
    completions: Completions
    texts: list[str]
    verdicts: list[Verdict]
    rewards: Tensor
    seeds: Tensor
    temperature: float = 1.0
    replayed: Tensor | None = None
    taught: list[bool] | None = None
    advantages: Tensor | None = None
    tasks: Sequence[str] = ()
    told: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of completions, N."""
        return len(self.texts)

    @property
    def groups(self) -> Tensor:
        """Index of each row's prompt, int64 [N]."""
        return torch.arange(len(self), device=self.rewards.device) // self.num_generations

    @property
    def own(self) -> Tensor:
        """Rows of the current task, bool [N]: all that are not replayed."""
        return torch.ones_like(self.rewards, dtype=torch.bool) if self.replayed is None else ~self.replayed

    @property
    def scores(self) -> Tensor:
        """The verifier's own score per row, float32 [N]; nan where it abstained."""
        if not self.verdicts:
            return torch.full_like(self.rewards, torch.nan)
        return verifier_scores(self.verdicts, self.rewards.device)

    def successes(self, threshold: float = 1.0) -> Tensor:
        """Rows that the verifier, not the weighted reward, scored at least ``threshold``, bool [N]."""
        return self.scores >= threshold

    @property
    def flat(self) -> Tensor:
        """Prompts whose known rewards are all equal, bool [P]: no advantage, nothing to reinforce."""
        groups = self.rewards.view(-1, self.num_generations)
        unknown = groups.isnan()
        return groups.masked_fill(unknown, -torch.inf).amax(1) <= groups.masked_fill(unknown, torch.inf).amin(1)

    @property
    def completion_mask(self) -> Tensor:
        """True at sampled tokens, bool [N, T]; made from lengths, never from token values."""
        lengths = self.completions.lengths
        return torch.arange(self.completions.ids.shape[1], device=lengths.device) < lengths[:, None]

    def take(self, prompts: Sequence[int]) -> Rollouts:
        """The groups of the given prompts, in the given order."""
        g = self.num_generations
        rows = [p * g + k for p in prompts for k in range(g)]
        index = torch.as_tensor(rows, dtype=torch.long, device=self.rewards.device)
        return replace(
            self,
            rows=[self.rows[p] for p in prompts],
            prompt_ids=[self.prompt_ids[p] for p in prompts],
            completions=self.completions.select(index),
            texts=[self.texts[n] for n in rows],
            verdicts=[self.verdicts[n] for n in rows] if self.verdicts else [],
            rewards=self.rewards[index],
            seeds=self.seeds[index],
            replayed=None if self.replayed is None else self.replayed[index],
            taught=None if self.taught is None else [self.taught[n] for n in rows],
            advantages=None if self.advantages is None else self.advantages[index],
            tasks=[self.tasks[p] for p in prompts] if self.tasks else (),
            told={name: [values[n] for n in rows] for name, values in self.told.items()},
        )

    @classmethod
    def cat(cls, parts: Sequence[Rollouts]) -> Rollouts:
        """Several rollouts of the same number of generations, one after the other, before a method has seen them."""
        none = [torch.zeros(len(p), dtype=torch.bool, device=p.rewards.device) for p in parts]
        return replace(
            parts[0],
            rows=[row for part in parts for row in part.rows],
            prompt_ids=[ids for part in parts for ids in part.prompt_ids],
            completions=Completions.cat([part.completions for part in parts]),
            texts=[text for part in parts for text in part.texts],
            verdicts=[verdict for part in parts for verdict in part.verdicts],
            rewards=torch.cat([part.rewards for part in parts]),
            seeds=torch.cat([part.seeds for part in parts]),
            replayed=torch.cat([n if p.replayed is None else p.replayed for p, n in zip(parts, none, strict=True)]),
            taught=None,
            advantages=None,
            tasks=[name for part in parts for name in part.tasks],
            told={
                name: [value for part in parts for value in part.told.get(name, [None] * len(part))]
                for name in dict.fromkeys(name for part in parts for name in part.told)
            },
        )


@dataclass
class TermTokens:
    """What one term of an objective needs to know of the rows of a batch.

    Attributes:
        active: Tokens that count in the term's denominator, bool [N, T]; a subset of the completion mask.
        contributes: Rows that can have a gradient, bool [N]; the others count but need no forward pass.
        scale: Further weight of each row, float32 [N].
        values: Anything else that the term keeps per row or per token, [N, ...].
        weights: Weight of each token in the loss, float32 [N, T]; the term's loss of a step is their inner product with
            the tokens' losses over all slices and ranks. Set by the rollout callback, once the global counts are known.
    """

    active: Tensor
    contributes: Tensor
    scale: Tensor | None = None
    values: dict[str, Tensor] = field(default_factory=dict)
    weights: Tensor = field(default_factory=lambda: torch.empty(0))

    @classmethod
    def none(cls, batch: LossBatch) -> TermTokens:
        """Those of a term that has nothing to do with a batch."""
        nothing = torch.zeros_like(batch.completion_mask)
        return cls(active=nothing, contributes=nothing.any(1))

    def select(self, index: Tensor, width: int) -> TermTokens:
        """The given rows, cut to the given width."""
        return TermTokens(
            active=self.active[index, :width],
            contributes=self.contributes[index],
            scale=None if self.scale is None else self.scale[index],
            values={k: v[index, :width] if v.dim() > 1 else v[index] for k, v in self.values.items()},
            weights=self.weights[index, :width],
        )


@dataclass
class LossBatch:
    """What a loss needs to know of some rows: the whole window first, then one slice of it per micro-batch.

    Attributes:
        prompt_ids: The student's prompt of each row, N lists.
        completion_ids: int64 [N, T].
        completion_mask: bool [N, T].
        old_logprobs: What the policy's ratios are against, float32 [N, T]: its log-probabilities before the window's
            first update, under the whole distribution at the temperature; filled in by the first update, the sampler's
            own until then.
        parts: One for each term of the objective, by name.
        teacher_prompt_ids: The teacher's prompt of each row, or ``None`` for a row without context; absent for methods
            without a teacher.
        teacher_sources: Where what the teacher's prompt of each row tells comes from, N words; as above.
        routes: Which teacher each row is for, N names; empty for methods without a teacher.
        temperature: The completions were drawn at this temperature, and losses score them at it.
        fresh: This is the window's first update: the policy is the one that its ratios are against.
        reused: The window has more than one update.
        sampled_logprobs: Log-probabilities as the engine reported them, under what its filters kept, float32 [N, T].
        engine_weights: Weight of each token for the difference between engine and policy, float32 [N, T]; filled in by
            the first update.
        mismatch: Compares engine and policy; ``None`` where the policy itself sampled, and then the two above are of
            no use.
    """

    prompt_ids: list[list[int]]
    completion_ids: Tensor
    completion_mask: Tensor
    old_logprobs: Tensor
    parts: dict[str, TermTokens] = field(default_factory=dict)
    teacher_prompt_ids: list[list[int] | None] | None = None
    teacher_sources: Sequence[str] = ()
    routes: Sequence[str] = ()
    temperature: float = 1.0
    fresh: bool = True
    reused: bool = False
    sampled_logprobs: Tensor = field(default_factory=lambda: torch.empty(0))
    engine_weights: Tensor = field(default_factory=lambda: torch.empty(0))
    mismatch: Mismatch | None = None

    @classmethod
    def of(cls, rollouts: Rollouts, teacher_prompt_ids: list[list[int] | None] | None = None) -> LossBatch:
        """All rows of some rollouts, without a term yet."""
        drawn = rollouts.completions
        return cls(
            prompt_ids=[rollouts.prompt_ids[n // rollouts.num_generations] for n in range(len(rollouts))],
            completion_ids=drawn.ids,
            completion_mask=rollouts.completion_mask,
            old_logprobs=drawn.logprobs if drawn.log_kept_mass is None else drawn.logprobs + drawn.log_kept_mass,
            sampled_logprobs=drawn.logprobs,
            engine_weights=torch.ones_like(drawn.logprobs),
            teacher_prompt_ids=teacher_prompt_ids,
            temperature=rollouts.temperature,
        )

    def __len__(self) -> int:
        """Number of rows, N."""
        return len(self.prompt_ids)

    @property
    def sequences(self) -> Sequences:
        """The rows as the student reads them."""
        return Sequences(self.prompt_ids, self.completion_ids, self.completion_mask, self.routes)

    @property
    def advantages(self) -> Tensor | None:
        """The advantages in the parts, [N], nan where another term has the row; ``None`` where no part has any."""
        for part in self.parts.values():
            found = part.values.get("advantages")
            if found is not None and found.dim() == 1:
                # Dropped flat groups count nowhere either, and their advantages are the 0 that they look like.
                return found.masked_fill(~part.active.any(1) & (found != 0), torch.nan)
        return None

    @property
    def contributes(self) -> Tensor:
        """Rows to which any term gives a gradient, bool [N]."""
        nobody = torch.zeros(len(self), dtype=torch.bool, device=self.completion_ids.device)
        return torch.stack([nobody, *(part.contributes for part in self.parts.values())]).any(0)

    def select(self, rows: Sequence[int]) -> LossBatch:
        """The given rows in the given order, cut to their longest completion."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.completion_ids.device)
        width = int(self.completion_mask[index].sum(1).max()) if len(rows) else 0
        return replace(
            self,
            prompt_ids=[self.prompt_ids[i] for i in rows],
            completion_ids=self.completion_ids[index, :width],
            completion_mask=self.completion_mask[index, :width],
            old_logprobs=self.old_logprobs[index, :width],
            sampled_logprobs=self.sampled_logprobs[index, :width],
            engine_weights=self.engine_weights[index, :width],
            parts={name: part.select(index, width) for name, part in self.parts.items()},
            teacher_prompt_ids=None if self.teacher_prompt_ids is None else [self.teacher_prompt_ids[i] for i in rows],
            teacher_sources=[self.teacher_sources[i] for i in rows] if self.teacher_sources else (),
            routes=[self.routes[i] for i in rows] if self.routes else (),
        )

    def slices(self, count: int) -> list[LossBatch]:
        """Cut the rows that contribute into ``count`` slices of as equal numbers of tokens as whole rows allow.

        Rows of one prompt stay together where they can, as they share its forward pass. A slice without a row would
        leave a rank without a backward pass, so it gets one row at weight 0.
        """
        lengths = self.completion_mask.sum(1).tolist()
        groups: dict[tuple[int, ...], list[int]] = {}
        for n, contributes in enumerate(self.contributes.tolist()):
            if contributes:
                groups.setdefault(tuple(self.prompt_ids[n]), []).append(n)
        rows, tokens = [], []
        for prompt, members in groups.items():
            members.sort(key=lambda n: lengths[n], reverse=True)
            rows += members
            tokens += [lengths[n] + (0 if n != members[0] else len(prompt)) for n in members]
        chosen: list[list[int]] = [[] for _ in range(count)]
        middle, total = 0.0, sum(tokens)
        for n, size in zip(rows, tokens, strict=True):
            chosen[int(count * (middle + size / 2) / total)].append(n)
            middle += size
        return [self.select(some) if some else self._silent() for some in chosen]

    def _silent(self) -> LossBatch:
        lengths = self.completion_mask.sum(1).tolist()
        row = self.select([min(range(len(self)), key=lambda n: len(self.prompt_ids[n]) + lengths[n])])
        for part in row.parts.values():
            part.weights = torch.zeros_like(part.weights)
        return row
