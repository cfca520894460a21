"""Rows in one sequence without padding, each distinct prompt once for all completions that follow it.

A prompt's tokens stand once in the packed sequence and every completion attends to them, with gradients. Attention runs
over blocks of rows of similar lengths, so that padding exists inside attention only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

PADDING = 1.25
"""Most padded over real attention products in a block."""

MASK_ELEMENTS = 2**24
"""Most entries of a block's mask; longer rows stand alone, which needs none."""


BATCH_TOKENS, CPU_BATCH_TOKENS = 16_384, 4_096
"""Most tokens in one forward pass without gradient; on a CPU what a layer makes of them should fit the cache."""


@dataclass(frozen=True)
class Sequences:
    """N prompts and the completion of each.

    Attributes:
        prompt_ids: N prompts, none empty.
        completion_ids: int64 [N, T], right-padded.
        completion_mask: True at the tokens of each completion, bool [N, T].
        routes: Which teacher each row is for, N names; empty where there is none.
    """

    prompt_ids: Sequence[Sequence[int]]
    completion_ids: Tensor
    completion_mask: Tensor
    routes: Sequence[str] = ()

    @classmethod
    def of_prompts(cls, prompt_ids: Sequence[Sequence[int]], device: torch.device) -> Sequences:
        """Prompts without a completion."""
        empty = torch.zeros(len(prompt_ids), 0, dtype=torch.long, device=device)
        return cls(prompt_ids, empty, empty.bool())

    def __len__(self) -> int:
        """Number of rows, N."""
        return len(self.prompt_ids)

    def select(self, rows: Sequence[int]) -> Sequences:
        """The given rows in the given order, cut to their longest completion."""
        index = torch.as_tensor(rows, device=self.completion_ids.device)
        mask = self.completion_mask[index]
        width = int(mask.sum(1).max())
        return Sequences(
            [self.prompt_ids[n] for n in rows],
            self.completion_ids[index, :width],
            mask[:, :width],
            [self.routes[n] for n in rows] if self.routes else (),
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its completion."""
        return max(len(p) + n for p, n in zip(self.prompt_ids, self.completion_mask.sum(1).tolist(), strict=True))


def batches(sequences: Sequences, tokens: int | None = None) -> Iterator[Sequences]:
    """Cut into runs of rows of at most so many tokens, a shared prompt counted once; a longer row stands alone."""
    if tokens is None:
        tokens = CPU_BATCH_TOKENS if sequences.completion_ids.device.type == "cpu" else BATCH_TOKENS
    lengths = sequences.completion_mask.sum(1).tolist()
    start, total, prompts = 0, 0, set[tuple[int, ...]]()
    for n, (prompt, length) in enumerate(zip(sequences.prompt_ids, lengths, strict=True)):
        size = length + (0 if tuple(prompt) in prompts else len(prompt))
        if n > start and total + size > tokens:
            yield sequences.select(range(start, n))
            start, total, size = n, 0, length + len(prompt)
            prompts.clear()
        total += size
        prompts.add(tuple(prompt))
    yield sequences.select(range(start, len(lengths)))


@dataclass(frozen=True)
class _Segment:
    """A run of tokens that attend to a prefix, which stands elsewhere, and causally to each other."""

    start: int
    length: int
    prefix_start: int = 0
    prefix_length: int = 0

    @property
    def products(self) -> int:
        return self.length * (self.prefix_length + self.length)


class Packing:
    """Some rows as one sequence of S tokens, and the attention that belongs to it.

    The last token of a completion predicts nothing that is asked for, so it is left out.

    Args:
        sequences: The rows; what stands beyond a completion's length is not read.
        mask_elements: Most entries of a block's mask.

    Attributes:
        ids: int64 [S].
        positions: Place of each token in its own row, int64 [S].
        last: Where the last token of each row's prompt stands, int64 [N].
        places: Where the token stands that predicts each completion token, int64 [M], in row-major order of the mask.
        attended: Layers that have attended through this packing.

    Example:
        >>> packing = Packing(Sequences([[1, 2], [1, 2]], torch.tensor([[3, 4], [5, 0]]),
        ...     torch.tensor([[True, True], [True, False]])))
        >>> packing.ids, packing.positions, packing.places
        (tensor([1, 2, 3]), tensor([0, 1, 2]), tensor([1, 2, 1]))
    """

    def __init__(self, sequences: Sequences, mask_elements: float = MASK_ELEMENTS) -> None:
        mask = sequences.completion_mask
        device = mask.device
        own = (mask.sum(1) - 1).clamp_(min=0).tolist()
        numbers: dict[tuple[int, ...], int] = {}
        owners = [numbers.setdefault(tuple(prompt), len(numbers)) for prompt in sequences.prompt_ids]
        prompts = sorted(numbers, key=len, reverse=True)
        starts, begin = {}, 0
        segments: list[_Segment] = []
        for prompt in prompts:
            starts[numbers[prompt]] = begin
            segments.append(_Segment(begin, len(prompt)))
            begin += len(prompt)
        row_starts = [0] * len(own)
        sizes = [len(prompt) for prompt in sequences.prompt_ids]
        rows = sorted((n for n in range(len(own)) if own[n]), key=lambda n: (own[n], sizes[n]), reverse=True)
        for n in rows:
            row_starts[n] = begin
            segments.append(_Segment(begin, own[n], starts[owners[n]], sizes[n]))
            begin += own[n]

        order = torch.tensor(rows, dtype=torch.long, device=device)
        column = torch.arange(mask.shape[1], device=device)
        fed = column < torch.tensor(own, device=device)[order, None]
        size = torch.tensor(sizes, device=device)
        flat = torch.tensor([token for prompt in prompts for token in prompt], dtype=torch.long, device=device)
        self.ids = torch.cat([flat, sequences.completion_ids[order][fed]])
        within = torch.tensor([place for prompt in prompts for place in range(len(prompt))], device=device)
        self.positions = torch.cat([within, (size[order, None] + column)[fed]])
        self.last = torch.tensor([starts[owner] for owner in owners], device=device) + size - 1
        follow = torch.tensor(row_starts, device=device)[:, None] + column - 1
        self.places = torch.where(column == 0, self.last[:, None], follow)[mask]
        parts = segments[: len(prompts)], segments[len(prompts) :]
        blocks = [block for part in parts for block in _blocks(part, mask_elements)]
        self._blocks = [_Block(block, device) for block in blocks]
        self._keys = torch.cat([block.keys for block in self._blocks])
        self.attended = 0

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attention of one layer, from [1, H, S, D] to [1, S, H, D]."""
        self.attended += 1
        query, key = query.to(value.dtype), key.to(value.dtype)  # autocast leaves normed ones in float32
        queries = query[0].transpose(0, 1)
        sizes = [len(block.keys) for block in self._blocks]
        keys, values = (x[0].transpose(0, 1).index_select(0, self._keys).split(sizes) for x in (key, value))
        return torch.cat(
            [block.attend(queries, k, v, scaling) for block, k, v in zip(self._blocks, keys, values, strict=True)]
        )[None]


class _Block:
    """Segments that follow each other, padded to the longest.

    Args:
        segments: n of them, up to R tokens after prefixes of up to P.
        device: Of the tokens.
    """

    def __init__(self, segments: Sequence[_Segment], device: torch.device) -> None:
        def column(name: str) -> Tensor:
            return torch.tensor([getattr(s, name) for s in segments], device=device)[:, None]

        start, length = column("start"), column("length")
        prefix_start, prefix_length = column("prefix_start"), column("prefix_length")
        self.count = len(segments)
        self.rows, prefix = int(length.max()), int(prefix_length.max())
        own, before = torch.arange(self.rows, device=device), torch.arange(prefix, device=device)
        # Padding repeats a real token: nothing that is read depends on it, and no gradient comes from it.
        queries = start + torch.minimum(own, length - 1)
        self.keys = torch.cat([prefix_start + torch.minimum(before, prefix_length - 1), queries], 1).flatten()
        self.span = slice(segments[0].start, segments[-1].start + segments[-1].length)
        self.real = None if bool((length == self.rows).all()) else (own < length).flatten().nonzero()[:, 0]
        self.queries = queries.flatten()
        self.mask: Tensor | None = None
        if not prefix:
            return
        if bool((prefix_length == prefix).all()):
            self.mask = causal_lower_right(self.rows, prefix + self.rows)
        else:
            known = (before < prefix_length)[:, None].expand(-1, self.rows, -1)
            causal = (own[:, None] >= own).expand(self.count, -1, -1)
            self.mask = torch.cat([known, causal], 2)[:, None]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """Attention of the block's real tokens, from [S, H, D] to [m, H, D]."""
        own = queries[self.span] if self.real is None else queries.index_select(0, self.queries)
        q, k, v = (x.view(self.count, -1, *x.shape[1:]).transpose(1, 2) for x in (own, keys, values))
        output = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=self.mask,
            is_causal=self.mask is None,
            scale=scaling,
            enable_gqa=queries.shape[1] != keys.shape[1],
        )
        flat = output.transpose(1, 2).flatten(0, 1)
        return flat if self.real is None else flat.index_select(0, self.real)


def _blocks(segments: Sequence[_Segment], mask_elements: float) -> list[list[_Segment]]:
    """Cut a sorted list of segments where padding to the longest would cost too much."""
    blocks: list[list[_Segment]] = []
    for segment in segments:
        if blocks:
            more = [*blocks[-1], segment]
            longest, prefix = max(s.length for s in more), max(s.prefix_length for s in more)
            padded = len(more) * longest * (prefix + longest)
            if padded <= PADDING * sum(s.products for s in more) and padded <= mask_elements:
                blocks[-1] = more
                continue
        blocks.append([segment])
    return blocks
