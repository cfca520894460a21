"""The native rollout engine: sample from a Transformers model in this process, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_sdpo.policies.attention import UnsupportedModelError, attending, obstacle, say_once
from lit_sdpo.policies.sharding import base_model, gathered
from lit_sdpo.ranges import check_integer, check_share
from lit_sdpo.rollouts.blocks import blocks, join, rows_of
from lit_sdpo.rollouts.decoders import Decoder, RepeatedPrompts, SharedPrompts
from lit_sdpo.rollouts.engines.base import Completions, RolloutEngine, Sampling
from lit_sdpo.rollouts.fused_decoder import FusedPrompts, fusible
from lit_sdpo.rollouts.sampling import BLOCK, sample, uniforms

UNIFORM_BLOCK = 64
"""Positions whose uniform numbers are computed at once."""


class NativeEngine(RolloutEngine):
    """Samples with the model's own forward; the same tokens for a row whatever rows are beside it.

    Each prompt is forwarded once and its keys and values are stored once for its G completions. Keys and values of the
    completions are written in place, finished rows are dropped, and the last sampled token is never fed. A model whose
    attention differs from plain causal attention (a sliding window shorter than the sequence, soft-capping, linear
    attention) is decoded with Transformers' own cache instead, which is slower; the log says so once per reason.

    Args:
        compact_below: Finished rows are dropped when fewer than this share of the rows would remain; 0 never drops any.
        share_prompts: Store each prompt once. ``False`` decodes every model with Transformers' own cache.
        prefill_tokens: Most prompt tokens in one forward.
        max_rows: Most completions decoded at once, so that their keys and values fit the device; more are decoded in
            blocks, one after the other, and draw the same tokens. ``None`` decodes all at once, which is fastest.

    Example:
        >>> from transformers import Qwen3Config, Qwen3ForCausalLM
        >>> config = Qwen3Config(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, head_dim=8,
        ...     num_attention_heads=2, num_key_value_heads=1)
        >>> drawn = NativeEngine().generate(Qwen3ForCausalLM(config).eval(), [[1, 2], [3]], num_generations=2,
        ...     sampling=Sampling(max_new_tokens=3), seeds=torch.arange(4), end_ids=[0], pad_id=0)
        >>> len(drawn.lengths)
        4
    """

    #: It runs the policy itself; what is left between sampling and an update is rounding.
    mismatched = False

    def __init__(
        self,
        compact_below: float = 0.8,
        share_prompts: bool = True,
        prefill_tokens: int = 8192,
        max_rows: int | None = None,
    ) -> None:
        self.compact_below = check_share("compact_below", compact_below)
        self.share_prompts = share_prompts
        self.prefill_tokens = check_integer("prefill_tokens", prefill_tokens, at_least=1)
        self.max_rows = check_integer("max_rows", max_rows, at_least=1, optional=True)

    def generate(
        self,
        policy: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        *,
        num_generations: int,
        sampling: Sampling,
        seeds: Tensor,
        end_ids: Sequence[int],
        pad_id: int,
    ) -> Completions:
        """Sample ``num_generations`` completions for each of P prompts.

        Args:
            policy: A causal language model in eval mode, bare or wrapped by PEFT.
            prompts: Token ids of the P prompts, none empty.
            num_generations: Completions per prompt, G.
            sampling: How tokens are drawn.
            seeds: One int64 seed per row, [P·G], row ``p * G + g``.
            end_ids: Tokens that end a completion; none for completions of full length.
            pad_id: Fills ``ids`` beyond a row's length.

        Raises:
            ValueError: If the policy is in training mode (its dropout and gradient checkpointing falsify sampling), a
                prompt is empty, or seeds and rows do not match.
            FloatingPointError: If the logits are not finite.
        """
        with self.holding(policy):
            return self._generate(policy, prompts, num_generations, sampling, seeds, end_ids, pad_id)

    def holding(self, policy: PreTrainedModel) -> AbstractContextManager[None]:
        """Inside, a sharded policy's weights are gathered once for all calls, however many each process makes."""
        return gathered(policy)

    def _generate(
        self,
        policy: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        num_generations: int,
        sampling: Sampling,
        seeds: Tensor,
        end_ids: Sequence[int],
        pad_id: int,
    ) -> Completions:
        model = base_model(policy)
        adapter: Any = getattr(policy, "active_peft_config", None)
        if adapter is not None and adapter.is_prompt_learning:
            raise ValueError("prompt-learning adapters are not supported: use LoRA or another weight adapter")
        rows = len(prompts) * num_generations
        if policy.training:
            raise ValueError("the policy is in training mode: call policy.eval() before generating")
        if tuple(seeds.shape) != (rows,):
            raise ValueError(f"seeds must have shape ({rows},), one per row, got {tuple(seeds.shape)}")
        if not all(len(prompt) for prompt in prompts):
            raise ValueError(f"prompt {[len(prompt) for prompt in prompts].index(0)} is empty")
        seeds = seeds.to(model.device)

        def draw(some: Sequence[Sequence[int]], generations: int, of_rows: Tensor, shared: bool) -> Completions:
            drawing = _DecodingLoop(sampling, of_rows, end_ids, pad_id, self.compact_below)
            if not shared:
                return drawing.run(RepeatedPrompts(model, some, generations))
            decoder = (FusedPrompts if fusible(model) else SharedPrompts)(
                model,
                some,
                generations,
                max_new_tokens=sampling.max_new_tokens,
                prefill_tokens=self.prefill_tokens,
                fullness=self.compact_below,
            )
            with attending(model, decoder.cache):
                return drawing.run(decoder)

        def draw_all(shared: bool) -> Completions:
            order, found = [], []
            for some, part in blocks(len(prompts), num_generations, self.max_rows):
                order.append(rows_of(some, part, num_generations, seeds.device))
                found.append(draw(prompts[some.start : some.stop], len(part), seeds[order[-1]], shared))
            return found[0] if len(found) == 1 else join(order, found, pad_id)

        if rows == 0:
            return _DecodingLoop(sampling, seeds, end_ids, pad_id, self.compact_below).completions()
        reason: str | None = "share_prompts is off"
        if self.share_prompts:
            reason = obstacle(model, max(map(len, prompts)) + sampling.max_new_tokens)
        if reason is None:
            try:
                return draw_all(shared=True)
            except UnsupportedModelError as error:
                reason = str(error)
        if self.share_prompts:
            say_once(f"{type(model).__name__} is decoded without shared prompts, which is slower: {reason}")
        return draw_all(shared=False)


class _DecodingLoop:
    """The sampling loop: which rows live, and what they drew."""

    def __init__(
        self, sampling: Sampling, seeds: Tensor, end_ids: Sequence[int], pad_id: int, compact_below: float
    ) -> None:
        self.sampling, self.pad_id, self.compact_below = sampling, pad_id, compact_below
        self.count = len(seeds)
        # One row more than asked for: slots that only fill up a decoder's grid draw there.
        self.seeds = torch.nn.functional.pad(seeds, (0, 1))
        self.end_ids = torch.tensor(list(end_ids), dtype=torch.long, device=seeds.device)
        self.lengths = torch.zeros_like(self.seeds)
        self.finished = torch.zeros_like(self.seeds, dtype=torch.bool)
        self.ids: list[Tensor] = []
        self.logprobs: list[Tensor] = []
        self.masses: list[Tensor] = []

    def run(self, decoder: Decoder) -> Completions:
        """Draw until every row has ended or reached ``max_new_tokens``."""
        with torch.inference_mode():
            self._draw(decoder)
        return self.completions()

    def _draw(self, decoder: Decoder) -> None:
        logits = decoder.start()
        living, last = self.count, self.sampling.max_new_tokens - 1
        rows = torch.arange(living, device=self.seeds.device)
        alive = torch.ones_like(rows, dtype=torch.bool)
        size = living * (-(-logits.shape[-1] // BLOCK)) * BLOCK
        scratch = torch.empty(size, dtype=torch.float32, device=rows.device)
        for position in range(last + 1):
            offset = position % UNIFORM_BLOCK
            if offset == 0:
                block = torch.arange(position, position + UNIFORM_BLOCK, device=rows.device)
                numbers = uniforms(self.seeds, block[:, None])
            tokens, logprobs, log_kept_mass = sample(logits, self.sampling, numbers[offset][rows], scratch=scratch)
            # Finished slots write too: beyond their row's length, where `completions` clears.
            self.ids.append(torch.zeros_like(self.seeds).index_copy_(0, rows, tokens))
            self.logprobs.append(scratch.new_zeros(len(self.seeds)).index_copy_(0, rows, logprobs))
            if self.sampling.filtered:
                self.masses.append(scratch.new_zeros(len(self.seeds)).index_copy_(0, rows, log_kept_mass))
            ended = torch.isin(tokens, self.end_ids).logical_and_(alive)
            if bool(ended.any()):
                self.lengths[rows[ended]] = position + 1
                self.finished[rows[ended]] = True
                alive &= ~ended
                living = int(alive.sum())
                if living == 0:
                    break
                if position < last and living < self.compact_below * len(rows):
                    layout = decoder.compact(alive)
                    if layout is not None:
                        kept, alive = layout
                        rows, tokens = rows[kept].masked_fill_(~alive, self.count), tokens[kept]
            if position < last:
                logits = decoder.step(tokens)
        self.lengths.masked_fill_(~self.finished, len(self.ids))

    def completions(self) -> Completions:
        """What was drawn so far, in tensors that a loss may use."""
        lengths = self.lengths[: self.count]
        beyond = torch.arange(len(self.ids), device=lengths.device) >= lengths[:, None]
        ids, logprobs = (
            lengths.new_zeros(self.count, 0),
            torch.zeros(self.count, 0, dtype=torch.float32, device=lengths.device),
        )
        if self.ids:
            ids = torch.stack(self.ids, 1)[: self.count].masked_fill_(beyond, self.pad_id)
            logprobs = torch.stack(self.logprobs, 1)[: self.count].masked_fill_(beyond, 0.0)
        log_kept_mass = torch.zeros_like(logprobs)
        if self.masses:
            log_kept_mass = torch.stack(self.masses, 1)[: self.count].masked_fill_(beyond, 0.0)
        return Completions(ids, lengths, logprobs, self.finished[: self.count], log_kept_mass)
