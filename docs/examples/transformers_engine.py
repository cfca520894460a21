"""A rollout engine over Transformers' own ``generate``, written from the docstring of ``RolloutEngine`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from lit_sdpo import Completions, RolloutEngine, Sampling


class TransformersEngine(RolloutEngine):
    """Samples with ``policy.generate``: for architectures that bring a decoding of their own, and to compare with.

    Args:
        cache: Transformers' name of a kind of cache, such as ``static``; ``None`` lets the model choose.
    """

    # mismatched stays true: padded prompts and another cache change the last digits of a probability.
    # filter_order stays as it is: it is that of Transformers.

    def __init__(self, cache: str | None = None) -> None:
        self.cache = cache

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
        """See the base class. One seed serves all rows, so a row's tokens depend on the rows beside it."""
        width = max(map(len, prompts))
        rows = [pad(torch.tensor(prompt), (width - len(prompt), 0), value=pad_id) for prompt in prompts]
        real = [torch.arange(width) >= width - len(prompt) for prompt in prompts]
        options: dict[str, Any] = {"do_sample": False}
        if sampling.temperature:
            options = {"do_sample": True, "temperature": sampling.temperature, "top_k": sampling.top_k}
            options |= {"top_p": sampling.top_p, "min_p": sampling.min_p}
        with torch.random.fork_rng():
            torch.manual_seed(int(seeds[0]) % 2**63)
            found: Any = policy.generate(
                torch.stack(rows).repeat_interleave(num_generations, 0).to(seeds.device),
                attention_mask=torch.stack(real).repeat_interleave(num_generations, 0).to(seeds.device),
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=list(end_ids),
                pad_token_id=pad_id,
                cache_implementation=self.cache,
                return_dict_in_generate=True,
                output_scores=True,  # logits after temperature and filters
                **options,
            )
        ids = found.sequences[:, width:]
        logprobs = policy.compute_transition_scores(found.sequences, found.scores, normalize_logits=True)
        ended = torch.isin(ids, torch.tensor(list(end_ids), device=ids.device))
        finished = ended.any(1)
        lengths = torch.where(finished, ended.int().argmax(1) + 1, ids.shape[1])
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return Completions(
            ids=ids.masked_fill(~inside, pad_id),
            lengths=lengths,
            logprobs=logprobs.float().masked_fill(~inside, 0.0),
            finished=finished,
        )
