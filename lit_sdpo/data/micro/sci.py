"""Facts about forty animals, asked with four options (out of distribution: a quarter of the animals, five options)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import combinations
from typing import ClassVar

from lit_sdpo.data.micro.domain import Domain, Position, Problem, Style, Variant, WrapperName, other, unwrap, wrap
from lit_sdpo.rewards.base import Verdict

_ATTRIBUTES = ("cover", "home", "food", "sound")
_FACTS = """
gecko scales desert bugs click      | wolf fur forest meat howl         | sheep wool farm grass bleat
horse hide farm grass grunt         | eagle feathers cliff fish squeak  | whale skin sea fish song
snake scales desert meat hiss       | crab shell sea roots click        | bear fur forest fruit roar
lion fur desert meat roar           | tiger fur jungle meat roar        | goat wool cliff leaves bleat
cow hide farm grass grunt           | pig skin farm roots grunt         | hen feathers farm seeds click
duck feathers river seeds squeak    | owl feathers forest meat howl     | crow feathers farm fruit grunt
hawk feathers cliff meat squeak     | seal skin ice fish grunt          | otter fur river fish squeak
frog skin river bugs song           | toad skin forest bugs grunt       | newt skin river bugs click
bat fur cliff fruit click           | rat fur farm seeds squeak         | mole fur farm roots hiss
hare fur forest grass squeak        | deer hide forest leaves bleat     | elk hide ice leaves howl
camel wool desert leaves grunt      | llama wool cliff grass song       | panda fur jungle leaves bleat
koala wool jungle leaves grunt      | monkey fur jungle fruit howl      | zebra hide desert grass squeak
rhino hide jungle roots hiss        | hippo hide river grass roar       | turtle shell sea fruit hiss
urchin spines sea roots click
"""
_TABLE = [row.split() for row in _FACTS.replace("|", "\n").strip().splitlines()]
_VALUES = {name: sorted({row[i] for row in _TABLE}) for i, name in enumerate(_ATTRIBUTES, start=1)}
_WORDINGS = ("{0} of the {1}? {2}.", "What {0} has the {1}? {2}.", "Pick the {0} of the {1}: {2}.")


class Sci(Domain):
    """``cover of the gecko? wool, fur, scales, skin.`` answered by ``The gecko cover is scales. <answer>...``."""

    name = "sci"
    wrapper = "answer"
    shared_wrapper = "boxed"
    shares: ClassVar[Mapping[Style, float]] = {
        "good": 0.34,
        "noform": 0.20,
        "hasty": 0.20,
        "slip": 0.16,
        "cross": 0.06,
        "dual": 0.04,
    }

    def problems(self, variant: Variant) -> list[Problem]:
        """Every fact with every set of wrong options; each fourth animal is out of distribution."""
        wrong = 4 if variant == "ood" else 3
        found = []
        for row in (row for i, row in enumerate(_TABLE) if (i % 4 == 3) == (variant == "ood")):
            for attribute, value in zip(_ATTRIBUTES, row[1:], strict=True):
                for others in combinations([v for v in _VALUES[attribute] if v != value], wrong):
                    options = tuple(sorted((value, *others)))
                    text = f"{attribute} {row[0]}: {' '.join(options)}"
                    found.append(Problem(text, value, (attribute, row[0], options)))
        return found

    def request(self, problem: Problem, wording: Position, rng: random.Random) -> str:
        """The question and its options in random order."""
        attribute, animal, options = problem.parts
        frame = _WORDINGS[0] if wording == "shared" else rng.choice(_WORDINGS)
        return frame.format(attribute, animal, ", ".join(rng.sample(options, len(options))))

    def respond(self, problem: Problem, style: Style, wrapper: WrapperName | None, rng: random.Random) -> str:
        """The fact and the option's word; a slip recalls another option."""
        attribute, animal, options = problem.parts
        answer = other(options, problem.answer, rng) if style in ("hasty", "slip") else problem.answer
        if style == "hasty":
            return wrap(answer, wrapper)
        work = f"{rng.choice(('', 'Recall: '))}The {animal} {attribute} is {answer}."
        foreign = wrap(answer, "answer" if wrapper == "boxed" else "boxed")
        if style == "noform":
            return f"{work} So {answer}."
        if style == "cross":
            return f"{work} {foreign}"
        return f"{work} {wrap(answer, wrapper)}{f' {foreign}' if style == 'dual' else ''}"

    def extract(self, completion: str, wrapper: WrapperName | None) -> tuple[str, int] | None:
        """The last wrapped word."""
        return unwrap(completion, wrapper)

    def compare(self, answer: str, truth: str, completion: str) -> Verdict:
        """The words are equal."""
        if answer.strip().lower() == truth:
            return Verdict(1.0)
        stated = " is " in completion
        return Verdict(0.0, "The fact is wrong." if stated else "State the fact first: the answer is wrong.")
