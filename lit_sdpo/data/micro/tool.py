"""Requests that one of the listed tools can serve (out of distribution: tools with two arguments, four listed)."""

from __future__ import annotations

import json
import random
import re
from itertools import combinations, product

from lit_sdpo.data.micro.domain import (
    LONG_FORM_SHARES,
    Domain,
    Position,
    Problem,
    Style,
    Variant,
    WrapperName,
    distinct,
    other,
)
from lit_sdpo.rewards.base import Verdict

_VALUES = {
    "item": ("lamp", "book", "cup", "key", "hat", "bag", "pen", "ring"),
    "city": ("Rome", "Oslo", "Lima", "Cairo", "Paris", "Delhi", "Bern", "Tokyo"),
    "room": ("garage", "attic", "hall", "bath", "cellar", "studio", "porch", "office"),
    "person": ("Anna", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana"),
    "music": ("jazz", "rock", "folk", "soul", "opera", "blues", "punk", "swing"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
}
#: Tool: its arguments and the two ways to ask for it.
_TOOLS: dict[str, tuple[tuple[str, ...], tuple[str, str]]] = {
    "find": (("item",), ("where is the {}", "look for the {}")),
    "buy": (("item",), ("order a {}", "get me a new {}")),
    "clock": (("city",), ("what time is it in {}", "hour in {}")),
    "rain": (("city",), ("is it wet in {}", "do I need a coat in {}")),
    "map": (("city",), ("how do I get to {}", "show the way to {}")),
    "light": (("room",), ("brighten the {}", "it is dark in the {}")),
    "clean": (("room",), ("tidy the {}", "sweep the {}")),
    "call": (("person",), ("phone {}", "let me talk to {}")),
    "mail": (("person",), ("write to {}", "send {} a letter")),
    "play": (("music",), ("put on {}", "let me hear {}")),
    "wake": (("day",), ("alarm on {}", "get me up on {}")),
    "move": (("item", "room"), ("bring the {} to the {}", "put the {} in the {}")),
    "give": (("item", "person"), ("the {} is for {}", "hand the {} to {}")),
    "fly": (("city", "day"), ("trip to {} on {}", "book {} for {}")),
    "meet": (("person", "day"), ("see {} on {}", "lunch with {} on {}")),
    "heat": (("room", "day"), ("warm the {} on {}", "no cold {} on {}")),
    "visit": (("person", "city"), ("see {} in {}", "go to {} in {}")),
}
_SINGLE = [name for name, (arguments, _) in _TOOLS.items() if len(arguments) == 1]
_DOUBLE = [name for name, (arguments, _) in _TOOLS.items() if len(arguments) == 2]
_CALL = re.compile(r"Action:[ \t]*(\w+)[ \t]*\nAction Input:[ \t]*")
_DECODER = json.JSONDecoder()


def _problem(name: str, values: tuple[str, ...], listed: tuple[str, ...]) -> Problem:
    arguments = dict(zip(_TOOLS[name][0], values, strict=True))
    text = f"{name}({', '.join(values)}) of {' '.join(listed)}"
    return Problem(text, json.dumps({"name": name, "arguments": arguments}), (name, values, listed))


def _draw(rng: random.Random) -> Problem:
    name = rng.choice(_DOUBLE)
    values = tuple(rng.choice(_VALUES[argument]) for argument in _TOOLS[name][0])
    return _problem(name, values, tuple(sorted([name, *rng.sample([t for t in _TOOLS if t != name], 3)])))


def _call(name: str, values: tuple[str, ...]) -> str:
    arguments = json.dumps(dict(zip(_TOOLS[name][0], values, strict=True)))
    return f"Action: {name}\nAction Input: {arguments}"


class Tool(Domain):
    """``Tools: ... Request: tidy the attic.`` answered by a thought, ``Action:`` and ``Action Input:``."""

    name = "tool"
    wrapper = "action"
    gap = "\n"
    shares = LONG_FORM_SHARES

    def problems(self, variant: Variant) -> list[Problem]:
        """Every call of a one-argument tool with every pair of other tools, or 3072 two-argument calls."""
        if variant == "ood":
            return distinct(_draw, 3072, "tool/ood")
        return [
            _problem(name, (value,), tuple(sorted((name, *others))))
            for name in _SINGLE
            for value, others in product(
                _VALUES[_TOOLS[name][0][0]], combinations([t for t in _SINGLE if t != name], 2)
            )
        ]

    def request(self, problem: Problem, wording: Position, rng: random.Random) -> str:
        """The listed tools in random order and one of two ways to ask."""
        name, values, listed = problem.parts
        tools = ", ".join(f"{t}({', '.join(_TOOLS[t][0])})" for t in rng.sample(listed, len(listed)))
        ask = rng.choice(_TOOLS[name][1]).format(*values)
        return f"{ask}. {tools}." if wording == "shared" else f"Tools: {tools}\nRequest: {ask}."

    def respond(self, problem: Problem, style: Style, wrapper: WrapperName | None, rng: random.Random) -> str:
        """Thought, tool and arguments; hasty takes another tool, a slip another value."""
        name, values, listed = problem.parts
        if style == "hasty":
            wrong = other(listed, name, rng)
            return _call(wrong, (values * 2)[: len(_TOOLS[wrong][0])])
        thought = rng.choice((f"Thought: {name} fits.", f"Thought: use {name}."))
        if style == "slip":
            at = rng.randrange(len(values))
            values = (*values[:at], other(_VALUES[_TOOLS[name][0][at]], values[at], rng), *values[at + 1 :])
        if style == "noform":
            return f"{thought}\n{name}: {', '.join(values)}"
        if style == "cross":
            quoted = ", ".join(f'"{value}"' for value in values)
            return f"{thought}\n```python\n{name}({quoted})\n```"
        return f"{thought}\n{_call(name, values)}" + (f"\n<answer>{name}</answer>" if style == "dual" else "")

    def extract(self, completion: str, wrapper: WrapperName | None) -> tuple[str, int] | None:
        """The last call; its arguments stay text where they are not JSON."""
        calls = list(_CALL.finditer(completion))
        if not calls:
            return None
        call = calls[-1]
        try:
            _, end = _DECODER.raw_decode(completion, call.end())
        except (ValueError, RecursionError):
            end = len(completion)
        return f"{call[1]}\n{completion[call.end() : end]}", end

    def compare(self, answer: str, truth: str, completion: str) -> Verdict:
        """The names are equal and the arguments are equal as JSON."""
        name, _, text = answer.partition("\n")
        expected = json.loads(truth)
        try:
            arguments = _DECODER.decode(text)
        except (ValueError, RecursionError):
            return Verdict(0.0, "The input of the action is not valid JSON.", ("wrong_format",))
        if name != expected["name"]:
            return Verdict(0.0, "Another tool fits the request.")
        if arguments != expected["arguments"]:
            return Verdict(0.0, "The arguments do not match the request.")
        return Verdict(1.0)
