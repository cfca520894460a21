"""A model behind the sampling loop: prompts forwarded once, then one token per slot and step."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lit_sdpo.policies.packing import Packing, Sequences
from lit_sdpo.rollouts.cache import SharedPromptCache


class Decoder(Protocol):
    """The model behind the sampling loop; slot n of ``start``'s logits is row n."""

    def start(self) -> Tensor:
        """Forward the prompts; logits of the first token of every row, [N, V]."""

    def step(self, tokens: Tensor) -> Tensor:
        """Forward one token per slot, [n]; logits of the next, [n, V]."""

    def compact(self, alive: Tensor) -> tuple[Tensor, Tensor] | None:
        """Drop finished slots, where ``alive`` [n] is false.

        Returns:
            Index of the slots that remain, and which of them live; the others only fill up. ``None`` for no change.
        """


class SharedPrompts:
    """Decodes on a :class:`SharedPromptCache`."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        num_generations: int,
        *,
        max_new_tokens: int,
        prefill_tokens: int,
        fullness: float,
    ) -> None:
        self.forward = _Forward(model)
        self.prompts, self.generations = prompts, num_generations
        self.prefill_tokens, self.fullness = prefill_tokens, fullness
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
        self.cache = SharedPromptCache(self.lengths, max_new_tokens)
        self.positions = self.lengths.repeat_interleave(num_generations)[:, None]

    def start(self) -> Tensor:
        """Forward the prompts."""
        first: Tensor | None = None
        for chunk in _chunks(self.prompts, self.prefill_tokens):
            packing = Packing(Sequences.of_prompts([self.prompts[i] for i in chunk], self.lengths.device))
            rows = torch.tensor(chunk, device=self.lengths.device)
            self.cache.begin_prefill(rows, packing)
            logits = self.forward(packing.ids[None], packing.positions[None], self.cache, kept=packing.last)[0]
            if first is None:
                first = logits.new_empty(len(self.prompts), logits.shape[-1])
            first[rows] = logits
        assert first is not None
        self.cache.begin_decoding(self.generations)
        return first.repeat_interleave(self.generations, 0)

    def step(self, tokens: Tensor) -> Tensor:
        """Forward one token per slot."""
        logits = self.forward(tokens[:, None], self.positions, self.cache)[:, -1]
        self.cache.advance()
        self.positions = self.positions + 1
        return logits

    def compact(self, alive: Tensor) -> tuple[Tensor, Tensor] | None:
        """Drop finished slots."""
        layout = self.cache.compact(alive, self.fullness)
        if layout is not None:
            self.positions = self.positions[layout[0]]
        return layout


class RepeatedPrompts:
    """Decodes on Transformers' own cache: prompts left-padded and forwarded once, then repeated."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], num_generations: int) -> None:
        self.forward = _Forward(model)
        self.generations = num_generations
        self.ids, self.mask, self.positions = _left_pad(prompts, model.device)
        self.cache = DynamicCache(config=model.config)

    def start(self) -> Tensor:
        """Forward the prompts."""
        logits = self.forward(self.ids, self.positions, self.cache, self.mask)[:, -1]
        self.cache.batch_repeat_interleave(self.generations)
        self.mask = self.mask.repeat_interleave(self.generations, 0)
        self.positions = self.positions[:, -1:].repeat_interleave(self.generations, 0)
        return logits.repeat_interleave(self.generations, 0)

    def step(self, tokens: Tensor) -> Tensor:
        """Forward one token per slot."""
        self.positions = self.positions + 1
        self.mask = torch.cat((self.mask, torch.ones_like(self.positions)), 1)
        return self.forward(tokens[:, None], self.positions, self.cache, self.mask)[:, -1]

    def compact(self, alive: Tensor) -> tuple[Tensor, Tensor] | None:
        """Drop finished slots."""
        kept = alive.nonzero().squeeze(-1)
        self.cache.batch_select_indices(kept)
        self.mask, self.positions = self.mask[kept], self.positions[kept]
        return kept, alive[kept]


class _Forward:
    """Calls the model for some positions' logits, with the argument names this model knows."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.known = inspect.signature(model.forward).parameters
        # Transformers calls the argument `cache` since 5.2x, `past_key_values` before.
        self.cache_name = "cache" if "cache" in self.known else "past_key_values"

    def __call__(
        self, ids: Tensor, positions: Tensor, cache: Any, mask: Tensor | None = None, kept: int | Tensor = 1
    ) -> Tensor:
        """Logits of the columns ``kept`` or of so many last ones, [B, k, V]."""
        arguments: dict[str, Any] = {
            self.cache_name: cache,
            "position_ids": positions,
            "attention_mask": mask,
            "logits_to_keep": kept,
            "use_cache": True,
        }
        given = {name: value for name, value in arguments.items() if name in self.known}
        found: Tensor = self.model(input_ids=ids, **given).logits
        if "logits_to_keep" in given:
            return found
        return found[:, -kept:] if isinstance(kept, int) else found[:, kept]


def _left_pad(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and positions [P, S] of prompts that end in the last column."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    positions = torch.arange(width, device=device) - (width - lengths)[:, None]
    return ids, (positions >= 0).long(), positions.clamp_(min=0)


def _chunks(prompts: Sequence[Sequence[int]], budget: int) -> Iterator[list[int]]:
    """As many prompts together as their tokens fit the budget."""
    chunk: list[int] = []
    tokens = 0
    for index, prompt in enumerate(prompts):
        if chunk and tokens + len(prompt) > budget:
            yield chunk
            chunk, tokens = [], 0
        chunk.append(index)
        tokens += len(prompt)
    yield chunk
