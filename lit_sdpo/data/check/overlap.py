"""Finds training prompts that are evaluated too: the same text, or much of it.

Two prompts are *the same* when they have the same words, case, punctuation and width aside. They are *alike* when at
least ``share`` of the evaluated prompt's n-grams of words stand in the training prompt, and at least four of them. An
n-gram that stands in more than 2 % of the evaluated prompts, and in at least three, belongs to the frame that they are
put in and does not count.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from lit_sdpo.ranges import check_integer, check_number

_WORDS = re.compile(r"\w+|[^\w\s]")
#: N-grams in more than this share of the evaluated prompts are part of the frame.
FRAME = 0.02
#: Fewer n-grams in common say nothing.
LEAST = 4


def words(text: str) -> list[str]:
    """The words of a prompt, with their signs; the unit of comparison.

    Example:
        >>> words("What is  ２+2?") == words("what is 2+2")
        True
        >>> words("What is 2-2?") == words("What is 2+2?")
        False
    """
    found = _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())
    return [word for word in found if word not in ".,;:!?\"'`"]


@dataclass(frozen=True)
class Overlap:
    """A training row and the evaluated row that it repeats.

    Attributes:
        train: Index of the training row, in the order of adding.
        test: Index of the evaluated row.
        share: Share of the evaluated row's n-grams that the training row has; 1 for the same words.
        same: Whether the words are the same.
    """

    train: int
    test: int
    share: float
    same: bool


class OverlapFinder:
    """Collects prompts as hashes and compares them at the end.

    Args:
        ngram: Words in an n-gram.
        share: From which share of n-grams on prompts are alike; ``None`` compares whole prompts only.

    Example:
        >>> finder = OverlapFinder()
        >>> finder.add("How many legs have three cats and a bird?", evaluated=True)
        >>> finder.add("How many legs have 3 dogs?", evaluated=False)
        >>> finder.add("how many legs have three cats and a bird", evaluated=False)
        >>> [(found.train, found.test, found.same) for found in finder.find()]
        [(1, 0, True)]
    """

    def __init__(self, ngram: int = 8, share: float | None = 0.8) -> None:
        self.ngram = check_integer("ngram", ngram, at_least=1)
        self.share = check_number("share", share, at_least=0, at_most=1, optional=True)
        self._train: list[array] = []
        self._test: list[array] = []

    def add(self, text: str, *, evaluated: bool) -> None:
        """Add one prompt."""
        found = words(text)
        grams = dict.fromkeys(hash(tuple(found[i : i + self.ngram])) for i in range(len(found) - self.ngram + 1))
        if self.share is None:
            grams = {}
        (self._test if evaluated else self._train).append(array("q", [hash(tuple(found)), *grams]))

    def find(self) -> Iterator[Overlap]:
        """For each training row that repeats an evaluated one, the evaluated row it is closest to."""
        whole = {row[0]: index for index, row in reversed(list(enumerate(self._test)))}
        counts = Counter(gram for row in self._test for gram in row[1:])
        most = max(2, FRAME * len(self._test))
        telling = [[gram for gram in row[1:] if counts[gram] <= most] for row in self._test]
        holders: dict[int, list[int]] = defaultdict(list)
        for index, grams in enumerate(telling):
            for gram in grams:
                holders[gram].append(index)
        for index, row in enumerate(self._train):
            if row[0] in whole:
                yield Overlap(index, whole[row[0]], 1.0, same=True)
                continue
            shared = Counter(test for gram in row[1:] for test in holders.get(gram, ()))
            alike = [(n / len(telling[test]), -test) for test, n in shared.items() if n >= LEAST]
            best, test = max(alike, default=(0.0, 0))
            if self.share is not None and best >= self.share:
                yield Overlap(index, -test, best, same=False)
