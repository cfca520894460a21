"""Which completions and which feedback may be shown to whose teacher."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

from torch import Tensor

from lit_sdpo.rewards.thinking import spoken_text


def strip_thinking(text: str, pattern: str | None = None) -> str:
    r"""Remove the reasoning: closed blocks of thinking, with the white space behind them.

    If a lone ``</think>`` is left, everything up to it goes too: many chat templates open the block in the prompt, so
    that a completion holds the end of it only. An unclosed block stays. What counts as thinking is what it is to the
    verifiers, see :mod:`lit_sdpo.rewards.thinking`.

    Args:
        text: A completion.
        pattern: A regular expression of what to remove instead; its dot matches line ends too.

    Example:
        >>> strip_thinking("<think>2 + 2</think> The answer is 4"), strip_thinking("2 + 2</think> 4")
        ('The answer is 4', '4')
        >>> strip_thinking("(2 + 2) 4", r"\(.*?\) ")
        '4'
    """
    return spoken_text(text) if pattern is None else re.sub(pattern, "", text, flags=re.DOTALL)


def allowed_demonstrations(
    scores: Tensor,
    groups: Tensor,
    *,
    success_threshold: float = 1.0,
    truncated: Tensor | None = None,
    allow_truncated: bool = False,
    allow_own: bool = False,
    texts: Sequence[str] | None = None,
) -> list[list[int]]:
    """For each rollout the rollouts of its group that its teacher may see, in ascending order.

    These reached ``success_threshold`` and ended by themselves. A rollout's own completion is never among them, nor,
    where texts are given, a sibling that says the very same.

    Args:
        scores: Of the verifier, [N]; nan is no success.
        groups: Group of each rollout, integer [N]; need not be contiguous.
        success_threshold: Smallest score of a demonstration.
        truncated: Rollouts that were cut off, bool [N].
        allow_truncated: Also allow those.
        allow_own: Also allow a rollout's own completion, which tells its teacher what it was going to say.
        texts: The N completions.

    Example:
        >>> import torch
        >>> allowed_demonstrations(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 0]))
        [[2], [0, 2], [0]]
    """
    usable = scores >= success_threshold
    if truncated is not None and not allow_truncated:
        usable = usable & ~truncated.bool()
    group = groups.tolist()
    successes: dict[int, list[int]] = {}
    for n, good in enumerate(usable.tolist()):
        if good:
            successes.setdefault(group[n], []).append(n)

    def may_see(n: int, other: int) -> bool:
        return allow_own or not (n == other or (texts is not None and texts[n] == texts[other]))

    return [[other for other in successes.get(group[n], []) if may_see(n, other)] for n in range(len(group))]


def choose_demonstrations(
    allowed: Sequence[Sequence[int]],
    demonstration: Literal["first", "random"] = "first",
    texts: Sequence[str] = (),
) -> list[int | None]:
    """One demonstration for each rollout, or ``None``.

    The random choice ranks the candidates by a hash of both texts. It depends on them alone, so it is the same however
    a step is laid out and whenever a run is resumed.

    Args:
        allowed: Candidates of each rollout.
        demonstration: The first candidate, or any.
        texts: Completions of all rollouts; needed by ``random``.
    """
    if demonstration == "first":
        return [candidates[0] if candidates else None for candidates in allowed]

    def rank(n: int, candidate: int) -> bytes:
        both = f"{texts[n]}\0{texts[candidate]}".encode(errors="surrogatepass")
        return blake2b(both, digest_size=8).digest()

    return [max(c, key=lambda candidate, n=n: rank(n, candidate), default=None) for n, c in enumerate(allowed)]  # type: ignore[misc]


def uses_feedback(
    feedback: Sequence[str | None], has_demonstration: Sequence[bool], *, only_without_demonstration: bool = True
) -> list[bool]:
    """Whether each rollout's feedback is shown. White space alone is no feedback.

    Args:
        feedback: N texts or ``None``.
        has_demonstration: Whether each rollout has a demonstration.
        only_without_demonstration: Feedback only takes the place of a missing demonstration.
    """
    return [
        bool(text and text.strip()) and not (shown and only_without_demonstration)
        for text, shown in zip(feedback, has_demonstration, strict=True)
    ]
