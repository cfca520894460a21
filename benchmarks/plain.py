"""What a trainer without these levers does: padded rows, the logits of all of them, Transformers' ``generate``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from lit_sdpo.policies.packing import Sequences


def left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask of prompts that end in the last column, [N, S]."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    return ids, (torch.arange(width, device=device) >= width - lengths[:, None]).long()


def completion_logits(model: PreTrainedModel, sequences: Sequences) -> Tensor:
    """Logits that predict the completion tokens, float32 [N, T, V]: prompts padded left, completions right."""
    completions, mask = sequences.completion_ids, sequences.completion_mask
    prompts, prompt_mask = left_padded(sequences.prompt_ids, completions.device)
    attention = torch.cat([prompt_mask, mask.long()], 1)
    logits: Tensor = model(
        input_ids=torch.cat([prompts, completions], 1),
        attention_mask=attention,
        position_ids=(attention.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=completions.shape[1] + 1,
        use_cache=False,
    ).logits
    return logits[:, :-1].float()


def logprobs_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of each token, through the log-softmax of all logits."""
    return torch.log_softmax(logits, -1).gather(-1, ids[..., None])[..., 0]


def surrogate(logprobs: Tensor, advantages: Tensor, low: float = 0.2, high: float = 0.2) -> Tensor:
    """GRPO's clipped surrogate of on-policy tokens."""
    ratio = (logprobs - logprobs.detach()).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def jensen_shannon(student: Tensor, teacher: Tensor) -> Tensor:
    """Jensen-Shannon divergence over the whole vocabulary from two tensors of logits [..., V]."""
    p, q = torch.log_softmax(student, -1), torch.log_softmax(teacher, -1)
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0))
    return (
        F.kl_div(middle, p, log_target=True, reduction="none").sum(-1)
        + F.kl_div(middle, q, log_target=True, reduction="none").sum(-1)
    ) / 2


class EndHazard(LogitsProcessor):
    """Gives token 0 a fixed probability, for either engine."""

    def __init__(self, hazard: float) -> None:
        self.log_odds = torch.tensor(hazard / (1 - hazard)).log()

    def __call__(self, input_ids: object, scores: Tensor) -> Tensor:
        """Set the score of token 0 in place."""
        scores[:, 0] = scores[:, 1:].logsumexp(-1) + self.log_odds.to(scores)
        return scores


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    generations: int,
    tokens: int,
    end: EndHazard | None = None,
) -> int:
    """Sample with Transformers, each prompt repeated and left-padded; the number of useful tokens."""
    ids, mask = (x.repeat_interleave(generations, 0) for x in left_padded(prompts, model.device))
    sample = model.generate  # type: ignore[operator]
    drawn: Tensor = sample(  # type: ignore[operator]
        ids,
        attention_mask=mask,
        do_sample=True,
        max_new_tokens=tokens,
        top_k=0,
        pad_token_id=0,
        eos_token_id=None if end is None else 0,
        logits_processor=LogitsProcessorList([] if end is None else [end]),
    )[:, ids.shape[1] :]
    if end is None:
        return drawn.numel()
    ended = (drawn == 0).int()
    return int((ended.cumsum(1) - ended == 0).sum())
