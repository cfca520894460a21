"""Puts the answers of rows to each other's verifiers: those that differ should be judged different."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from math import isqrt

from lit_sdpo.data.task import Row
from lit_sdpo.rewards.pool import POOL
from lit_sdpo.rewards.registry import verifier as find_verifier

#: Pairs between two calls of ``progress``.
BATCH = 500


@dataclass(frozen=True)
class EqualPair:
    """Two different ground truths that are judged equal.

    Attributes:
        first: Where the row is whose answer was given.
        given: Its ground truth.
        second: Where the row is whose verifier judged.
        truth: Its ground truth.
    """

    first: str
    given: str
    second: str
    truth: str


@dataclass
class PairReport:
    """What the comparison of one source's answers has found.

    Attributes:
        source: Where the rows come from.
        verifier: Their verifier.
        answers: Different ground truths.
        possible: Pairs of them.
        compared: Pairs that were judged, all or drawn at random.
        abstained: Pairs of these on which the verifier abstained.
        equal: Those judged equal.
    """

    source: str
    verifier: str
    answers: int
    possible: int
    compared: int = 0
    abstained: int = 0
    equal: list[EqualPair] = field(default_factory=list)


@dataclass
class PairFinder:
    """Collects rows with different ground truths, by source and verifier, and compares them at the end.

    Args:
        most: Pairs to judge for each source and verifier; all where there are fewer, else as many at random.
        progress: Called with the pairs that are done and all that are to be done.
    """

    most: int
    progress: Callable[[int, int], None] = lambda done, total: None

    def __post_init__(self) -> None:
        self._rows: dict[tuple[str, str], dict[str, tuple[str, Row]]] = {}

    def add(self, source: str, place: str, row: Row) -> None:
        """Remember a row whose answer can be written down."""
        if row.reference is not None:
            self._rows.setdefault((source, row.verifier), {}).setdefault(row.ground_truth, (place, row))

    def find(self) -> Iterator[PairReport]:
        """A report for each source and verifier."""
        todo = [(source, name, list(rows.values())) for (source, name), rows in self._rows.items()]
        counts = [len(rows) * (len(rows) - 1) // 2 for _, _, rows in todo]
        total, done = sum(min(count, self.most) for count in counts), 0
        for (source, name, rows), possible in zip(todo, counts, strict=True):
            report = PairReport(source, name, len(rows), possible)
            drawn = range(possible)
            chosen = drawn if possible <= self.most else random.Random(0).sample(drawn, self.most)
            with ThreadPoolExecutor(POOL.size) as threads:
                for begin in range(0, len(chosen), BATCH):
                    batch = chosen[begin : begin + BATCH]
                    for index, score in zip(batch, threads.map(partial(_score, name, rows), batch), strict=True):
                        report.compared += 1
                        report.abstained += score is None
                        if score is not None and score >= 1.0:
                            (place, row), (other, truth) = (rows[at] for at in _pair(index))
                            report.equal.append(EqualPair(place, row.ground_truth, other, truth.ground_truth))
                    done += len(batch)
                    self.progress(done, total)
            yield report


def _score(name: str, rows: Sequence[tuple[str, Row]], index: int) -> float | None:
    """The verifier's score of the first row's answer in the place of the second's."""
    (_, given), (_, asked) = (rows[at] for at in _pair(index))
    return find_verifier(name)(given.reference or "", asked).score


def _pair(index: int) -> tuple[int, int]:
    """The pair of different numbers with this index: (1, 0), (2, 0), (2, 1), (3, 0), ..."""
    first = (1 + isqrt(1 + 8 * index)) // 2
    return first, index - first * (first - 1) // 2
