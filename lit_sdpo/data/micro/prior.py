"""Small abilities that reinforcement learning never trains: repeating, reversing, opposites, sorting."""

from __future__ import annotations

import random
from itertools import combinations, permutations

from lit_sdpo.data.micro.domain import Domain, Position, Problem, Style, Variant, WrapperName
from lit_sdpo.rewards.base import Verdict

_WORDS = ("cup", "tree", "bell", "sun", "door", "fish", "road", "milk", "star", "boat", "leaf", "wind")
_PAIRS = "hot cold|near far|big small|up down|old new|dark bright|wet dry|fast slow|full empty|hard soft"
_OPPOSITES = {a: b for pair in _PAIRS.split("|") for a, b in (pair.split(), pair.split()[::-1])}
_LETTERS = "abcdefghij"
#: Of the abilities with very many problems, so many are kept: each then has about the same weight.
_KEPT = 800


def _most(problems: list[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: problem.digest)[:_KEPT]


def _problem(ability: str, words: tuple[str, ...], answer: str) -> Problem:
    return Problem(f"{ability} {' '.join(words)}", answer, (ability, words))


class Prior(Domain):
    """``Say: cup tree bell`` answered by ``cup tree bell``; the whole completion is the answer."""

    name = "prior"
    variants = ("train",)

    def problems(self, variant: Variant) -> list[Problem]:
        """Problems of the four abilities."""
        triples = list(permutations(_WORDS, 3))
        opposite = [pair for pair in permutations(_OPPOSITES, 2) if _OPPOSITES[pair[0]] != pair[1]]
        letters = [order for four in combinations(_LETTERS, 4) for order in permutations(four) if order != four]
        return [
            *_most([_problem("Say:", words, " ".join(words)) for words in triples]),
            *_most([_problem("Backwards:", words, " ".join(words[::-1])) for words in triples]),
            *(_problem("Opposites of:", pair, " ".join(_OPPOSITES[word] for word in pair)) for pair in opposite),
            *_most([_problem("Sort:", order, " ".join(sorted(order))) for order in letters]),
        ]

    def request(self, problem: Problem, wording: Position, rng: random.Random) -> str:
        """The ability and its words."""
        ability, words = problem.parts
        return f"{ability[:-1].lower() if wording == 'shared' else ability} {' '.join(words)}"

    def respond(self, problem: Problem, style: Style, wrapper: WrapperName | None, rng: random.Random) -> str:
        """The words; this domain has one style."""
        return problem.answer

    def extract(self, completion: str, wrapper: WrapperName | None) -> tuple[str, int] | None:
        """The whole completion."""
        return (completion, len(completion)) if completion.strip() else None

    def compare(self, answer: str, truth: str, completion: str) -> Verdict:
        """The texts are equal but for space around them."""
        return Verdict(1.0) if answer.strip() == truth else Verdict(0.0, "That is not what was asked.")
