"""What texts have that a base's texts did not: n-grams said more often, and text that compresses better."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lit_sdpo.functional.text import log_odds_of_counts, ngrams

_WORD = re.compile(r"\\?\w+|[^\w\s]")

#: Stands for all n-grams that were too rare to be kept one by one.
RARE = ""

#: Strength of the prior of the log-odds, as a share of the n-grams of both sets.
PRIOR = 0.1

#: Bytes of the shortest beginning of a text whose compression is compared.
SHORTEST = 32


def word_spans(text: str) -> Iterator[tuple[str, int, int]]:
    r"""Words, LaTeX commands and single punctuation marks with where they begin and end.

    Example:
        >>> [word for word, _, _ in word_spans(r"So \boxed{4}.")]
        ['So', '\\boxed', '{', '4', '}', '.']
    """
    return ((match.group(), *match.span()) for match in _WORD.finditer(text))


def words(text: str) -> list[str]:
    """The same without the places."""
    return _WORD.findall(text)


@dataclass(frozen=True)
class Amplified:
    """An n-gram that is said more often than by the base.

    Attributes:
        ngram: Its words, parted by blanks.
        order: n.
        z: Log-odds with a Dirichlet prior, in standard deviations (:func:`~lit_sdpo.functional.text.log_odds`).
        ratio: Frequency over the base's, with one added to either count.
        count: How often it occurred.
        base_count: How often in the base's texts.
        per_1000: Occurrences per 1,000 n-grams.
    """

    ngram: str
    order: int
    z: float
    ratio: float
    count: int
    base_count: int
    per_1000: float


@dataclass
class BaseTexts:
    """What has to be known of a base's texts to compare others with them.

    Attributes:
        counts: Order to how often each n-gram occurred.
        compression: Bytes to the mean compression ratio of the texts' beginnings of that length, and their number.
    """

    counts: dict[int, dict[str, int]] = field(default_factory=dict)
    compression: dict[int, tuple[float, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Sequence[str], orders: Sequence[int], most: int = 50_000) -> BaseTexts:
        """Count.

        Args:
            texts: The base's.
            orders: Lengths of the n-grams.
            most: N-grams of each order that are kept one by one, the most frequent ones; the others count as one.
        """
        counts = {}
        for order in orders:
            every = counted(texts, order)
            kept = dict(every.most_common(most))
            rest = every.total() - sum(kept.values())
            counts[order] = kept | ({RARE: rest} if rest else {})
        ratios: dict[int, list[float]] = {}
        for data in map(_bytes, texts):
            size = SHORTEST
            while size <= len(data):
                ratios.setdefault(size, []).append(_compression(data[:size]))
                size *= 2
        return cls(counts, {size: (sum(some) / len(some), len(some)) for size, some in ratios.items()})

    def amplified(self, texts: Sequence[str], most: int, *, least_count: int = 2) -> list[Amplified]:
        """The n-grams that distinguish ``texts`` from the base's, of all orders together, by falling z.

        Args:
            texts: Others.
            most: Longest list.
            least_count: What occurred more rarely is left out.
        """
        found = []
        for order, old in self.counts.items():
            new = counted(texts, order)
            if RARE in old:
                kept = {gram: n for gram, n in new.items() if gram in old or n >= least_count}
                new = Counter(kept | {RARE: new.total() - sum(kept.values())})
            old_size, new_size, distinct = sum(old.values()), new.total(), len(old.keys() | new.keys())
            scale = (old_size + distinct) / max(new_size + distinct, 1)
            for gram, z in log_odds_of_counts(old, new, PRIOR * (old_size + new_size)).items():
                count, before = new[gram], old.get(gram, 0)
                if z > 0 and count >= least_count and gram != RARE:
                    ratio = (count + 1) / (before + 1) * scale
                    found.append(Amplified(gram, order, z, ratio, count, before, 1000 * count / new_size))
        return sorted(found, key=lambda one: (-one.z, one.order, one.ngram))[:most]

    def relative_compression(self, texts: Sequence[str], least: int = 3) -> list[float]:
        """Compression ratio of each text over that of the base's texts at the same length.

        Both are cut to the same number of bytes: the largest power of two (from 32) which the text has and at least
        ``least`` of the base's had. Shorter texts are left out.
        """
        found = []
        for data in map(_bytes, texts):
            sizes = [size for size, (_, n) in self.compression.items() if size <= len(data) and n >= least]
            if sizes:
                found.append(_compression(data[: max(sizes)]) / self.compression[max(sizes)][0])
        return found

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"counts": self.counts, "compression": self.compression}

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Any]) -> BaseTexts:
        """The inverse."""
        return cls(dict(state_dict["counts"]), dict(state_dict["compression"]))


def counted(texts: Sequence[str], order: int) -> Counter[str]:
    """How often each n-gram of words occurs; none crosses from one text to the next.

    Args:
        texts: Any texts.
        order: n.

    Example:
        >>> counted(["a b a b", "b a"], 2)["b a"]
        2
    """
    return Counter(" ".join(gram) for text in texts for gram in ngrams(words(text), order))  # type: ignore[arg-type]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")


def _compression(data: bytes) -> float:
    return len(data) / len(zlib.compress(data, 9))
