"""What a set of token sequences repeats, and what it says more often than another set.

A document is a sequence of hashable tokens (ids or words). No n-gram crosses from one document to the next.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

Document = Sequence[Hashable]
Key = TypeVar("Key", bound=Hashable)
NGram = tuple[Hashable, ...]


def ngrams(document: Document, order: int) -> list[NGram]:
    """The n-grams of one document, in order, with repetitions.

    Args:
        document: Tokens.
        order: n, at least 1.

    Example:
        >>> ngrams("abc", 2)
        [('a', 'b'), ('b', 'c')]
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    return [tuple(document[i : i + order]) for i in range(len(document) - order + 1)]


def ngram_counts(documents: Iterable[Document], order: int) -> Counter[NGram]:
    """How often each n-gram occurs in a set of documents.

    Args:
        documents: Sequences of tokens.
        order: n.
    """
    return Counter(gram for document in documents for gram in ngrams(document, order))


def ngram_ratio(
    before: Iterable[Document], after: Iterable[Document], order: int, smoothing: float = 1.0
) -> dict[NGram, float]:
    """How much more often each n-gram is said after than before: ``f_after / f_before``.

    ``f(g) = (count(g) + s) / (total + s U)`` with U distinct n-grams in both sets together (Laplace smoothing).

    Args:
        before: Documents before.
        after: Documents after.
        order: n.
        smoothing: s; above 0, or an n-gram that is new divides by 0.

    Example:
        >>> ngram_ratio(["ab"], ["aa"], order=1)
        {('a',): 1.5, ('b',): 0.5}
    """
    if smoothing <= 0:
        raise ValueError(f"smoothing must be above 0, got {smoothing}")
    old, new = ngram_counts(before, order), ngram_counts(after, order)
    union = list(dict.fromkeys([*old, *new]))
    scale = (old.total() + smoothing * len(union)) / (new.total() + smoothing * len(union)) if union else 1.0
    return {gram: (new[gram] + smoothing) / (old[gram] + smoothing) * scale for gram in union}


def log_odds(
    before: Iterable[Document], after: Iterable[Document], order: int, prior_strength: float | None = None
) -> dict[NGram, float]:
    """Which n-grams distinguish ``after`` from ``before``, as z-scores: positive is said more often after.

    Log-odds ratio with an informative Dirichlet prior (Monroe, Colaresi and Quinn 2008)::

        delta = log((y + a) / (n + A - y - a)) after - the same before
        z     = delta / sqrt(1 / (y_after + a) + 1 / (y_before + a))

    with y the count of an n-gram, n that of all, and the prior a proportional to the count in both sets together.

    Args:
        before: Documents before.
        after: Documents after.
        order: n.
        prior_strength: A, the sum of the prior counts; by default the size of both sets together.

    Returns:
        z-score of each n-gram of either set; empty where fewer than two distinct n-grams exist.
    """
    return log_odds_of_counts(ngram_counts(before, order), ngram_counts(after, order), prior_strength)


def log_odds_of_counts(
    before: Mapping[Key, int], after: Mapping[Key, int], prior_strength: float | None = None
) -> dict[Key, float]:
    """:func:`log_odds` from counts of anything.

    Args:
        before: How often each thing was counted before.
        after: And after.
        prior_strength: A, the sum of the prior counts; by default the size of both sets together.
    """
    totals = {key: before.get(key, 0) + after.get(key, 0) for key in [*before, *after]}
    old_size, new_size = sum(before.values()), sum(after.values())
    size = old_size + new_size
    if len(totals) < 2:
        return {}
    strength = size if prior_strength is None else prior_strength

    scores = {}
    for key, total in totals.items():
        prior = strength * total / size
        old, new = before.get(key, 0) + prior, after.get(key, 0) + prior
        delta = math.log(new / (new_size + strength - new)) - math.log(old / (old_size + strength - old))
        scores[key] = delta / math.sqrt(1 / new + 1 / old)
    return scores


def distinct_n(documents: Iterable[Document], order: int) -> float:
    """Distinct n-grams over all n-grams, in (0, 1] (arXiv 1510.03055); nan where there is none.

    Args:
        documents: Sequences of tokens.
        order: n.

    Example:
        >>> distinct_n(["abab"], order=2)
        0.6666666666666666
    """
    counts = ngram_counts(documents, order)
    return len(counts) / counts.total() if counts else math.nan


def repetition_share(document: Document, order: int) -> float:
    """Share of n-grams that stood before in the same document, ``1 - distinct / all``; 0 for a short document.

    Args:
        document: Tokens.
        order: n.

    Example:
        >>> repetition_share("xyxyxy", order=2)
        0.6
    """
    counts = ngram_counts([document], order)
    return 1 - len(counts) / counts.total() if counts else 0.0


def longest_repeated_suffix(document: Document) -> int:
    """Length of the longest ending that also occurs earlier in the document (the occurrences may overlap).

    A completion that ends in a loop repeats nearly all of the loop: its length less one period. Linear time.

    Args:
        document: Tokens.

    Example:
        >>> longest_repeated_suffix("startxyxyxy"), longest_repeated_suffix("abc")
        (4, 0)
    """
    return max(_matches_of_ending(document), default=0)


def ending_loop(document: Document, repeats: int = 4) -> int:
    """Tokens at the end that are one unit over and over, at least ``repeats`` times; 0 where there is no such loop.

    The loop may begin and end in the middle of its unit. Linear time.

    Args:
        document: Tokens.
        repeats: Times, at least 2.

    Example:
        >>> ending_loop("start" + "xyz" * 4 + "x"), ending_loop("xyzxyz")
        (13, 0)
    """
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2, got {repeats}")
    matches = _matches_of_ending(document)
    # What matches itself one period further on has that period; the period itself comes on top.
    return max((n + period for period, n in enumerate(matches) if n >= (repeats - 1) * period > 0), default=0)


def _matches_of_ending(document: Document) -> list[int]:
    """How many tokens before each place, counted from the end, equal those before the end."""
    # The Z-function of the reversed document: how far its start matches what begins at i.
    backward = list(document)[::-1]
    n = len(backward)
    z, left, right = [0] * n, 0, 0
    for i in range(1, n):
        if i < right:
            z[i] = min(right - i, z[i - left])
        while i + z[i] < n and backward[z[i]] == backward[i + z[i]]:
            z[i] += 1
        if i + z[i] > right:
            left, right = i, i + z[i]
    return z


def compression_ratio(text: str) -> float:
    """Bytes of a UTF-8 text over the bytes of its zlib compression (level 9); 1 for an empty text.

    Prose of some length has about 2 to 3, an endless loop far more; short texts have less than 1.

    Args:
        text: Any text.
    """
    data = text.encode("utf-8", errors="surrogatepass")
    return len(data) / len(zlib.compress(data, 9)) if data else 1.0
