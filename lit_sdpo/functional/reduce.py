"""From losses per token to one number, so that slices of a step add up to the whole step.

Every aggregation is a weighted sum over tokens. The weights need the counts of the whole step (all slices, all ranks)
and nothing else, so ``loss = sum over slices of (weights * per_token).sum()`` for any way of slicing the rows.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_sdpo.functional.precision import fill_masked

Aggregation = Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "fixed_length"]


class Totals(NamedTuple):
    """Counts over a whole step. Counts of slices and of ranks add up.

    Attributes:
        active_tokens: Tokens that carry loss.
        active_rows: Rows with at least one such token.
        rows: All rows.
    """

    active_tokens: Tensor | int
    active_rows: Tensor | int
    rows: Tensor | int


def count(mask: Tensor) -> Totals:
    """The counts of one slice.

    Args:
        mask: True at active tokens, [N, T].

    Example:
        >>> tokens, active, rows = count(torch.tensor([[True, True], [False, False]]))
        >>> int(tokens), int(active), rows
        (2, 1, 2)
    """
    mask = mask.bool()
    return Totals(mask.sum(), mask.any(1).sum(), mask.shape[0])


def token_weights(
    mask: Tensor,
    aggregation: Aggregation = "token_mean",
    *,
    totals: Totals | None = None,
    fixed_length: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Weights whose weighted sum is the aggregated loss.

    With n_i active tokens in row i::

        token_mean            1 / active tokens
        seq_mean_token_mean   1 / (n_i * active rows)       rows without an active token do not count
        seq_mean_token_sum    1 / active rows
        fixed_length          1 / (rows * fixed_length)     all rows count (Dr. GRPO, arXiv 2503.20783)

    ``token_mean`` is DAPO's (arXiv 2503.14476), ``seq_mean_token_mean`` GRPO's (arXiv 2402.03300).

    Args:
        mask: True at active tokens, [N, T]. Rows are whole: a row is never cut over slices.
        aggregation: See above.
        totals: Counts of the whole step; by default those of ``mask``.
        fixed_length: The constant length of ``fixed_length``, in tokens.
        dtype: Of the result.

    Returns:
        [N, T], 0 outside the mask; all 0 where nothing is active.

    Raises:
        ValueError: Unknown aggregation, or ``fixed_length`` given without need or missing.

    Example:
        >>> token_weights(torch.tensor([[True, True], [True, False]]), "seq_mean_token_mean")
        tensor([[0.2500, 0.2500],
                [0.5000, 0.0000]])
    """
    if (aggregation == "fixed_length") != (fixed_length is not None):
        raise ValueError(
            f"fixed_length belongs to aggregation 'fixed_length' alone, got {aggregation!r}, {fixed_length}"
        )
    mask = mask.bool()
    totals = count(mask) if totals is None else totals
    weights = mask.to(dtype)

    def positive(n: Tensor | int) -> Tensor:
        return torch.as_tensor(n, dtype=dtype, device=mask.device).clamp(min=1)

    if aggregation == "token_mean":
        return weights / positive(totals.active_tokens)
    if aggregation == "seq_mean_token_mean":
        return weights / positive(mask.sum(1, keepdim=True)) / positive(totals.active_rows)
    if aggregation == "seq_mean_token_sum":
        return weights / positive(totals.active_rows)
    if aggregation == "fixed_length":
        assert fixed_length is not None
        return weights / (positive(totals.rows) * fixed_length)
    raise ValueError(f"unknown aggregation {aggregation!r}")


def aggregate(
    per_token: Tensor,
    mask: Tensor,
    aggregation: Aggregation = "token_mean",
    *,
    totals: Totals | None = None,
    fixed_length: int | None = None,
) -> Tensor:
    """The loss of one slice: ``sum(token_weights * per_token)`` over the active tokens.

    With the totals of the whole step, the losses and gradients of its slices add up to those of the step.

    Args:
        per_token: [N, T].
        mask: True at active tokens, [N, T].
        aggregation: See :func:`token_weights`.
        totals: Counts of the whole step; by default those of ``mask``.
        fixed_length: The constant length of ``fixed_length``, in tokens.

    Returns:
        A scalar; 0 with gradient 0 where nothing is active.

    Example:
        >>> aggregate(torch.tensor([[1.0, 3.0], [5.0, torch.nan]]), torch.tensor([[True, True], [True, False]]))
        tensor(3.)
    """
    weights = token_weights(mask, aggregation, totals=totals, fixed_length=fixed_length, dtype=per_token.dtype)
    return (weights * fill_masked(per_token, mask)).sum()
