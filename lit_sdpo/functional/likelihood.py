"""Scores from log-probabilities alone, as lm-evaluation-harness computes them: multiple choice, loss on fixed texts."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from lit_sdpo.functional.precision import at_least_float32

#: What an option's log-probability is divided by, by the suffix of the results' names.
_LENGTHS = {"": lambda option: 1, "_norm": len, "_bytes": lambda option: len(option.encode())}


def multiple_choice_scores(
    loglikelihoods: Sequence[Sequence[float] | Tensor],
    choices: Sequence[Sequence[str]],
    gold: Sequence[int | Collection[int]],
) -> dict[str, Tensor]:
    """Which option of each question a model holds most likely, and how often that is the right one.

    With ``l[i][k]`` the log-probability of option k of question i, summed over its tokens, the prediction is the
    largest ``l[i][k]`` (``acc``), the largest ``l[i][k] / characters`` of the option (``acc_norm``) or the largest
    ``l[i][k] / bytes`` of it in UTF-8 (``acc_bytes``); of equals the first. These are lm-evaluation-harness 0.4.13's.

    Args:
        loglikelihoods: Of each question's options, N rows; their numbers of options may differ.
        choices: The options' texts, without the separator that stands before them.
        gold: Right option of each question, from 0; a list where several are.

    Returns:
        For each of the suffixes ``""``, ``_norm`` and ``_bytes``: ``predictions``, int64 [N]; ``correct``, bool [N];
        and their mean ``acc``, a scalar (nan without a question).

    Raises:
        ValueError: The three do not have one length, a question's numbers and options differ in theirs, a question has
            no options, or an option has no text.

    Example:
        >>> scores = multiple_choice_scores([[-3.0, -4.0]], [["no", "maybe"]], [1])
        >>> scores["acc"].item(), scores["acc_norm"].item()
        (0.0, 1.0)
    """
    if not len(loglikelihoods) == len(choices) == len(gold):
        lengths = f"{len(loglikelihoods)}, {len(choices)} and {len(gold)}"
        raise ValueError(f"loglikelihoods, choices and gold must have one length, got {lengths}")
    right = [{answer} if isinstance(answer, int) else set(answer) for answer in gold]
    rows = [at_least_float32(torch.as_tensor(row)) for row in loglikelihoods]
    for row, options in zip(rows, choices, strict=True):
        if len(row) != len(options) or not len(options) or not all(options):
            raise ValueError(f"a question needs one number for each of its options, got {row.tolist()} for {options}")
    results: dict[str, Tensor] = {}
    for suffix, length in _LENGTHS.items():
        found = [
            int((row / torch.tensor([length(option) for option in options]).to(row)).argmax())
            for row, options in zip(rows, choices, strict=True)
        ]
        correct = torch.tensor([k in answers for k, answers in zip(found, right, strict=True)], dtype=torch.bool)
        results[f"predictions{suffix}"] = torch.tensor(found, dtype=torch.int64)
        results[f"correct{suffix}"], results[f"acc{suffix}"] = correct, correct.double().mean()
    return results


def text_likelihood(
    token_logprobs: Sequence[Sequence[float] | Tensor], byte_counts: Sequence[int]
) -> dict[str, Tensor]:
    """Loss of a model on fixed texts, per token and per byte.

    Over all N texts together, with ``L = sum of log p``: ``loss_per_token = -L / tokens`` and ``loss_per_byte = -L /
    bytes``, their exponentials ``token_perplexity`` and ``byte_perplexity``, and ``bits_per_byte = loss_per_byte / ln
    2``. Tokens of different tokenizers are not comparable, bytes are. The numbers per byte are lm-evaluation-harness
    0.4.13's.

    Args:
        token_logprobs: Log-probabilities of each text's tokens.
        byte_counts: Bytes of each text in UTF-8.

    Returns:
        Scalars ``tokens``, ``bytes``, ``loglikelihood`` and the five above; ``bits_per_byte_by_text``, [N].

    Raises:
        ValueError: There are more of one than of the other.

    Example:
        >>> scores = text_likelihood([[-1.0, -2.0], [-3.0]], [4, 2])
        >>> scores["loss_per_token"].item(), scores["loss_per_byte"].item()
        (2.0, 1.0)
    """
    if len(token_logprobs) != len(byte_counts):
        raise ValueError(f"a number of bytes is needed for each text, got {len(byte_counts)} of {len(token_logprobs)}")
    sums = [float(torch.as_tensor(text, dtype=torch.float64).sum()) for text in token_logprobs]
    parts = (sums, [len(text) for text in token_logprobs], byte_counts)
    return text_likelihood_from_sums(*(torch.tensor(part, dtype=torch.float64) for part in parts))


def text_likelihood_from_sums(loglikelihoods: Tensor, tokens: Tensor, byte_counts: Tensor) -> dict[str, Tensor]:
    """:func:`text_likelihood` where the sums of each text are known already.

    Args:
        loglikelihoods: Sum of the log-probabilities of each text's tokens, [N].
        tokens: Tokens of each text, [N].
        byte_counts: Bytes of each text in UTF-8, [N].
    """
    sums, counts = at_least_float32(loglikelihoods), at_least_float32(byte_counts)
    total, size = sums.sum(), counts.sum()
    per_token, per_byte = -total / tokens.sum(), -total / size
    return {
        "tokens": tokens.sum().long(),
        "bytes": size.long(),
        "loglikelihood": total,
        "loss_per_token": per_token,
        "loss_per_byte": per_byte,
        "token_perplexity": per_token.exp(),
        "byte_perplexity": per_byte.exp(),
        "bits_per_byte": per_byte / math.log(2),
        "bits_per_byte_by_text": -sums / (counts * math.log(2)),
    }
