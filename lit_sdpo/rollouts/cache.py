"""Keys and values of a rollout: each prompt's once for all its completions, each completion's own beside them.

It attends to both parts in the model's place (:mod:`lit_sdpo.policies.attention`), so an unmodified model runs on it.
Slots form a grid of P prompts by S slots; a slot holds one completion, or a finished one that is carried along until
the next compaction.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from lit_sdpo.policies.attention import UnsupportedModelError
from lit_sdpo.policies.packing import Packing

FIRST_CAPACITY = 64
"""Tokens per completion that storage is made for at first; it doubles when full."""


class SharedPromptCache(Cache):
    """Key-value storage written in place, with each prompt stored once.

    Args:
        lengths: Tokens of each of P prompts, int64 [P], on the policy's device.
        max_new_tokens: Longest completion.
    """

    def __init__(self, lengths: Tensor, max_new_tokens: int) -> None:
        super().__init__(layers=[])
        self.prompts = len(lengths)
        self.slots = 1
        self.owners = list(range(self.prompts))
        self.width = int(lengths.max())
        self.tokens = 0
        self.max_tokens = max_new_tokens
        self.prompt_keys: dict[int, Tensor] = {}
        self.prompt_values: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        padding = torch.arange(self.width, device=lengths.device) < (self.width - lengths)[:, None]
        self.padding = padding if bool(padding.any()) else None
        self.bias: Tensor | None = None
        self.lengths = lengths
        self.packing: Packing | None = None
        self.filled: tuple[Tensor, Tensor] | None = None
        self.pending: int | None = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen, padding included."""
        return 0 if self.filled is not None else self.width + self.tokens

    def begin_prefill(self, rows: Tensor, packing: Packing) -> None:
        """Let the next forward fill the prompts ``rows``, which are packed."""
        self.packing = packing
        first = packing.last - self.lengths[rows] + 1
        back = torch.arange(self.width - 1, -1, -1, device=rows.device)
        # Left-padded; padding repeats the first token and is masked.
        self.filled = rows, torch.maximum(packing.last[:, None] - back, first[:, None])

    def begin_decoding(self, slots: int) -> None:
        """Open ``slots`` completions for every prompt.

        Raises:
            UnsupportedModelError: If some layer's attention did not go through this cache.
        """
        layers = len(self.prompt_keys)
        if not layers or self.pending is not None or self.packing is None or self.packing.attended != layers:
            raise UnsupportedModelError("its attention does not go through Transformers' attention interface")
        self.filled = self.packing = None
        self.slots = slots

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Store the keys and values [B, H, T, D] of a layer; the attention function reads them from here."""
        if self.filled is not None:
            rows, places = self.filled
            for storage, states in ((self.prompt_keys, key_states), (self.prompt_values, value_states)):
                _, heads, _, size = states.shape
                if layer_idx not in storage:
                    storage[layer_idx] = states.new_empty(self.prompts, heads, self.width, size)
                found = states[0].transpose(0, 1).index_select(0, places.flatten())
                storage[layer_idx][rows] = found.view(*places.shape, heads, size).transpose(1, 2)
        else:
            self._append(self.keys, layer_idx, key_states)
            self._append(self.values, layer_idx, value_states)
        self.pending = layer_idx
        return key_states, value_states

    def _append(self, storage: dict[int, Tensor], layer: int, states: Tensor) -> None:
        """Write one token per slot, [P·S, H, 1, D], into storage [P·H·S, capacity, D]."""
        rows, heads, _, size = states.shape
        own = storage.get(layer)
        if own is None or self.tokens == own.shape[1]:
            capacity = min(FIRST_CAPACITY if own is None else 2 * own.shape[1], self.max_tokens)
            larger = states.new_empty(rows * heads, capacity, size)
            if own is not None:
                larger[:, : self.tokens] = own
            storage[layer] = own = larger
        new = states.view(self.prompts, self.slots, heads, size).transpose(1, 2)
        own.view(self.prompts, heads, self.slots, -1, size)[:, :, :, self.tokens] = new

    def advance(self) -> None:
        """Count the token that the last forward stored."""
        self.tokens += 1

    def compact(self, alive: Tensor, fullness: float) -> tuple[Tensor, Tensor] | None:
        """Lay the living slots out anew, in a smaller grid.

        Prompts may need different numbers of slots. The grid takes the most slots per prompt with which at least the
        share ``fullness`` of it lives; a prompt that needs more gets several rows of the grid, each with a copy of
        its keys.

        Args:
            alive: Slots whose completion goes on, bool [P·S].
            fullness: Least share of living slots in the new grid.

        Returns:
            For each new slot [P'·S'], its index among the old slots, and whether it lives: the others repeat a living
            one. ``None`` if no smaller grid was found.
        """
        slots_of: dict[int, list[int]] = {}
        for slot in alive.nonzero().squeeze(-1).tolist():
            slots_of.setdefault(self.owners[slot // self.slots], []).append(slot)
        living = sum(map(len, slots_of.values()))

        def size(slots: int) -> int:
            return sum(-(-len(own) // slots) * slots for own in slots_of.values())

        slots = next(s for s in range(self.slots, 0, -1) if s == 1 or living >= fullness * size(s))
        if size(slots) >= alive.numel():
            return None
        grid, lives, self.owners = [], [], []
        for owner, own in slots_of.items():
            for start in range(0, len(own), slots):
                part = own[start : start + slots]
                grid.append(part + part[:1] * (slots - len(part)))
                lives.append([True] * len(part) + [False] * (slots - len(part)))
                self.owners.append(owner)
        index = torch.tensor(grid, device=alive.device)
        self._select(index)
        self.prompts, self.slots = index.shape
        return index.flatten(), torch.tensor(lives, device=alive.device).flatten()

    def _select(self, index: Tensor) -> None:
        """Move keys and values to a grid whose slots were at ``index`` [P', S']."""
        prompt = index[:, 0] // self.slots
        old = self.prompts * self.slots
        for storage in (self.keys, self.values):
            for layer, own in storage.items():
                heads = own.shape[0] // old
                head = torch.arange(heads, device=index.device)[:, None]
                rows = ((index // self.slots)[:, None] * heads + head) * self.slots + (index % self.slots)[:, None]
                storage[layer] = own.index_select(0, rows.flatten())
        if torch.equal(prompt, torch.arange(self.prompts, device=index.device)):
            return
        for storage in (self.prompt_keys, self.prompt_values):
            for layer, shared in storage.items():
                storage[layer] = shared.index_select(0, prompt)
        self.padding = None if self.padding is None else self.padding[prompt]
        self.bias = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attention of the pending layer for queries [B, H, T, D]; gives [B, T, H, D]."""
        layer, self.pending = self.pending, None
        if layer is None:
            raise UnsupportedModelError("a layer attends without keys of its own")
        if self.packing is not None:
            return self.packing.attend(query, key, value, scaling)
        return self._attend_decoding(layer, query, scaling)

    def _attend_decoding(self, layer: int, query: Tensor, scaling: float) -> Tensor:
        """One softmax over [prompt | own] scores; the prompt's products serve all slots of a prompt at once."""
        rows, query_heads, _, size = query.shape
        prompt_keys, prompt_values = self.prompt_keys[layer].flatten(0, 1), self.prompt_values[layer].flatten(0, 1)
        heads = prompt_keys.shape[0] // self.prompts
        group = query_heads // heads
        # [P, S, heads, group, D] to [P·heads, S·group, D]
        grid = query.view(self.prompts, self.slots, heads, group, size).transpose(1, 2)
        queries = grid.reshape(self.prompts * heads, -1, size) * scaling
        own_keys = self.keys[layer][:, : self.tokens + 1]
        own_values = self.values[layer][:, : self.tokens + 1]
        if self.padding is None:
            prompt_scores = torch.bmm(queries, prompt_keys.transpose(1, 2))
        else:
            prompt_scores = torch.baddbmm(self._bias(heads, queries), queries, prompt_keys.transpose(1, 2))
        own_scores = torch.bmm(queries.view(-1, group, size), own_keys.transpose(1, 2))
        scores = torch.cat((prompt_scores, own_scores.view(*queries.shape[:2], -1)), dim=-1)
        weights = scores.softmax(-1, dtype=torch.float32).to(own_values.dtype)
        of_prompt = torch.bmm(weights[..., : self.width], prompt_values)
        of_own = torch.bmm(weights[..., self.width :].reshape(-1, group, self.tokens + 1), own_values)
        output = (of_prompt.view_as(of_own) + of_own).view(self.prompts, heads, self.slots, group, -1)
        return output.transpose(1, 2).reshape(rows, 1, query_heads, -1)

    def _bias(self, heads: int, queries: Tensor) -> Tensor:
        """Zero, or ``-inf`` at a prompt's padding, [P·heads, 1, width]."""
        if self.bias is None or self.bias.shape[0] != self.prompts * heads or self.bias.dtype != queries.dtype:
            assert self.padding is not None
            bias = torch.zeros_like(self.padding, dtype=queries.dtype).masked_fill_(self.padding, -torch.inf)
            self.bias = bias.repeat_interleave(heads, 0)[:, None]
        return self.bias
