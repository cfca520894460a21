"""Contracts of tool calls, which are written as ``Action:`` and ``Action Input:`` lines."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.contract import Contract
from lit_sdpo.rewards.strict_json import loads
from lit_sdpo.rewards.thinking import final_text
from lit_sdpo.rewards.tool_calls.form import Call, loosened, read_calls, write_calls

_SEPARATORS = re.compile(r"[ ,./\-_*^]")


class ToolCalls(Contract):
    """What both contracts share: the form, and flags for calls that would be right but for it.

    Calls that are almost in the form score what the contract says, mostly 0; ``near_miss:bold_label`` and its like tell
    what was in the way.
    """

    markers = (r"(?m)^Action:", r"(?m)^Action Input:")
    form = "Write each call as two lines, 'Action: <tool name>' and 'Action Input: <one JSON object>'."

    def judge(self, text: str, ground_truth: str) -> Verdict:
        """Compare the calls, and look for what almost is in the form where they are wrong."""
        verdict = self.compare(text, ground_truth)
        if verdict.score == 0.0:
            almost, misses = loosened(text)
            if misses and self.compare(almost, ground_truth).score == 1.0:
                return replace(verdict, flags=(*verdict.flags, *(f"near_miss:{miss}" for miss in misses)))
        return verdict

    @abstractmethod
    def compare(self, text: str, ground_truth: str) -> Verdict:
        """Compare the calls of a text with the ground truth."""

    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """Calls that are right."""
        text = self.write(ground_truth)
        try:
            right = self.compare(final_text(text) or "", ground_truth).score == 1.0
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"its tools cannot be used ({type(error).__name__})") from error
        if not right:
            raise ValueError("its own calls are not right by it: look at the tools, their arguments and names")
        return text

    @abstractmethod
    def write(self, ground_truth: str) -> str:
        """Calls that are right by the ground truth.

        Raises:
            ValueError: It says nothing that could be right, or that could be wrong.
        """


class ReactCalls(ToolCalls):
    r"""The same calls with the same arguments, in any order (``tooluse_react``).

    Names are compared exactly, arguments as JSON: key order is free; types, list order and letter case count.

    Example:
        >>> truth = '[{"Action": "play", "Action_Input": "{\\"song\\": \\"Yes\\", \\"n\\": 1}"}]'
        >>> ReactCalls().judge('Action: play\nAction Input: {"n": 1, "song": "Yes"}', truth).score
        1.0
    """

    def compare(self, text: str, ground_truth: str) -> Verdict:
        """Compare the multisets of calls."""
        try:
            calls = read_calls(text)
        except ValueError as error:
            return self.malformed(str(error))
        expected = self._expected(ground_truth)
        if not calls and expected:
            return self.missing()
        if _multiset(calls) == _multiset(expected):
            return Verdict(1.0)
        if len(calls) != len(expected):
            return Verdict(0.0, "The number of calls is wrong.")
        if Counter(c.name for c in calls) != Counter(c.name for c in expected):
            return Verdict(0.0, "A wrong tool is called.")
        return Verdict(0.0, "The tools are right, but the arguments of a call are wrong.")

    def write(self, ground_truth: str) -> str:
        """The labelled calls."""
        if not (calls := self._expected(ground_truth)):
            raise ValueError("it names no call, so that every text without one would be right")
        return write_calls(calls)

    @staticmethod
    def _expected(ground_truth: str) -> list[Call]:
        label = 'it has to be JSON like [{"Action": "name", "Action_Input": "{...}"}]'
        try:
            calls = [Call(c["Action"], loads(c["Action_Input"])) for c in loads(ground_truth)]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{label} ({error})") from error
        if not all(isinstance(c.name, str) and c.name and isinstance(c.arguments, dict) for c in calls):
            raise ValueError(label)
        return calls


class FunctionCalls(ToolCalls):
    """Each call matches one possible answer of the Berkeley function calling leaderboard (``bfcl_ast``).

    Every argument has a list of accepted values; ``""`` in it means the argument may be left out.
    """

    def compare(self, text: str, ground_truth: str) -> Verdict:
        """Match calls and possible answers one to one."""
        try:
            calls = read_calls(text)
        except ValueError as error:
            return self.malformed(str(error))
        truth = loads(ground_truth)
        answers = truth["possible_answers"]
        schemas = {f["name"]: f["parameters"].get("properties", {}) for f in truth["functions"]}
        required = {f["name"]: f["parameters"].get("required", []) for f in truth["functions"]}
        if len(calls) != len(answers):
            return self.missing() if not calls else Verdict(0.0, "The number of calls is wrong.")
        unknown = next((c.name for c in calls if c.name not in schemas), None)
        if unknown is not None:
            return Verdict(0.0, "A tool is called that does not exist.")
        for call in calls:
            if absent := [name for name in required[call.name] if name not in call.arguments]:
                return Verdict(0.0, f"A call of {call.name} lacks the argument {absent[0]}.")
        accepted = [
            [i for i, answer in enumerate(answers) if _fits(call, answer, schemas[call.name])] for call in calls
        ]
        if _matchable(accepted):
            return Verdict(1.0)
        return Verdict(0.0, "A call names the wrong tool or has wrong arguments.")

    def write(self, ground_truth: str) -> str:
        """The first accepted value of every argument that may not be left out."""
        try:
            truth = loads(ground_truth)
            schemas = {f["name"]: f["parameters"] for f in truth["functions"]}
            answers = [pair for answer in truth["possible_answers"] for pair in answer.items()]
            calls = [
                Call(name, _first(values, schemas[name], schemas[name].get("required", []))) for name, values in answers
            ]
            relevant = not str(truth.get("category", "")).endswith("irrelevance")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise ValueError(f'it has to be JSON with "functions" and "possible_answers" ({error})') from error
        if not calls and relevant:
            raise ValueError("it accepts no call, so that every text without one would be right; only irrelevance does")
        return write_calls(calls) if calls else "None of the tools fits the question."


def _multiset(calls: Sequence[Call]) -> Counter[Any]:
    return Counter((call.name, _frozen(call.arguments)) for call in calls)


def _frozen(value: Any) -> Any:
    """A hashable copy that keeps JSON's types apart: ``true`` is not 1, ``1`` is ``1.0``."""
    if isinstance(value, dict):
        return "object", frozenset((key, _frozen(item)) for key, item in value.items())
    if isinstance(value, list):
        return "array", tuple(_frozen(item) for item in value)
    return ("number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__), value


def _fits(call: Call, answer: Mapping[str, Mapping[str, Any]], properties: Mapping[str, Any]) -> bool:
    return call.name in answer and _members(call.arguments, answer[call.name], properties)


def _members(value: Mapping[str, Any], options: Mapping[str, Any], properties: Mapping[str, Any]) -> bool:
    """Every member is accepted, and every member that is absent may be left out."""
    for key, accepted in options.items():
        choices = accepted if isinstance(accepted, list) else [accepted]
        if key not in value:
            if "" not in choices:
                return False
        elif not any(_accepts(value[key], choice, properties.get(key) or {}) for choice in choices):
            return False
    return all(key in options for key in value)


def _accepts(value: Any, option: Any, schema: Mapping[str, Any]) -> bool:
    """Whether ``value`` is the accepted value ``option`` under the declared type."""
    if isinstance(value, bool) or isinstance(option, bool):
        return value is option
    if isinstance(value, str) and isinstance(option, str):
        return value == option or (bool(option) and _loose(value) == _loose(option))
    if isinstance(value, int | float) and isinstance(option, int | float):
        return value == option and not (isinstance(value, float) and schema.get("type") == "integer")
    if isinstance(value, list) and isinstance(option, list):
        items = schema.get("items") or {}
        return len(value) == len(option) and all(_accepts(v, o, items) for v, o in zip(value, option, strict=True))
    if isinstance(value, dict) and isinstance(option, dict):
        return _members(value, option, schema.get("properties") or {})
    return value is None and option is None


def _loose(text: str) -> str:
    return _SEPARATORS.sub("", text).lower().replace("'", '"')


def _first(options: Mapping[str, Any], schema: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    """The first accepted values, without the members that may be left out."""
    properties = schema.get("properties") or {}
    choices = {key: accepted if isinstance(accepted, list) else [accepted] for key, accepted in options.items()}
    needed = {key: accepted for key, accepted in choices.items() if key in required or "" not in accepted}
    return {
        key: _plain(next((o for o in accepted if o != ""), ""), properties.get(key) or {})
        for key, accepted in needed.items()
    }


def _plain(option: Any, schema: Mapping[str, Any]) -> Any:
    """An accepted value as a value: objects hold lists of accepted values, and integers may stand as 1.0."""
    if isinstance(option, dict):
        return _first(option, schema)
    if isinstance(option, list):
        return [_plain(item, schema.get("items") or {}) for item in option]
    whole = isinstance(option, float) and schema.get("type") == "integer" and option.is_integer()
    return int(option) if whole else option


def _matchable(accepted: Sequence[Sequence[int]]) -> bool:
    """Whether every call can have a possible answer of its own (augmenting paths)."""
    owner: dict[int, int] = {}

    def place(call: int, tried: set[int]) -> bool:
        for answer in accepted[call]:
            if answer not in tried:
                tried.add(answer)
                if answer not in owner or place(owner[answer], tried):
                    owner[answer] = call
                    return True
        return False

    return all(place(call, set()) for call in range(len(accepted)))
