"""Tool calls written as ``Action:`` and ``Action Input:`` lines."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.contract import Contract

_LABEL = re.compile(r"^(Action Input|Action):[ \t]*", re.MULTILINE)
_SEPARATORS = re.compile(r"[ ,./\-_*^]")


class Call(NamedTuple):
    """A call of one tool."""

    name: str
    arguments: dict[str, Any]


def read_calls(text: str) -> list[Call]:
    r"""Read the calls of a text.

    Raises:
        ValueError: If an ``Action`` line is not followed by ``Action Input`` with one JSON object.

    Example:
        >>> read_calls('Action: maps.route\nAction Input: {"to": "Oslo"}')
        [Call(name='maps.route', arguments={'to': 'Oslo'})]
    """
    text = text.replace("\r\n", "\n")
    decoder = json.JSONDecoder(parse_constant=_refuse)
    calls: list[Call] = []
    at = 0
    while label := _LABEL.search(text, at):
        if label.group(1) != "Action":
            raise ValueError("An Action Input line has no Action line before it.")
        name, _, rest = text[label.end() :].partition("\n")
        at = len(text) - len(rest)
        argument = _LABEL.match(text, at)
        if argument is None or argument.group(1) != "Action Input":
            raise ValueError("An Action line has no Action Input line after it.")
        start = len(text) - len(text[argument.end() :].lstrip())
        try:
            arguments, at = decoder.raw_decode(text, start)
        except ValueError as error:
            raise ValueError("An Action Input is not valid JSON.") from error
        if not isinstance(arguments, dict):
            raise ValueError("An Action Input is not a JSON object.")
        if text[at:].partition("\n")[0].strip():
            raise ValueError("An Action Input is followed by more text on its line.")
        calls.append(Call(name.strip(), arguments))
    return calls


def write_calls(calls: Sequence[Call]) -> str:
    """Write calls in the form that ``read_calls`` reads."""
    lines = (f"Action: {c.name}\nAction Input: {json.dumps(c.arguments, ensure_ascii=False)}" for c in calls)
    return "\n".join(lines)


class _ToolCalls(Contract):
    markers = (r"(?m)^Action:", r"(?m)^Action Input:")
    form = "Write each call as two lines, 'Action: <tool name>' and 'Action Input: <one JSON object>'."


class ReactCalls(_ToolCalls):
    r"""The same calls with the same arguments, in any order (``tooluse_react``).

    Names are compared exactly, arguments as JSON: key order is free; types, list order and letter case count.

    Example:
        >>> truth = '[{"Action": "play", "Action_Input": "{\\"song\\": \\"Yes\\", \\"n\\": 1}"}]'
        >>> ReactCalls().judge('Action: play\nAction Input: {"n": 1, "song": "Yes"}', truth).score
        1.0
    """

    def judge(self, text: str, ground_truth: str) -> Verdict:
        """Compare the multisets of calls."""
        expected = self._expected(ground_truth)
        try:
            calls = read_calls(text)
        except ValueError as error:
            return self.malformed(str(error))
        if not calls and expected:
            return self.missing()
        if _multiset(calls) == _multiset(expected):
            return Verdict(1.0)
        if len(calls) != len(expected):
            return Verdict(0.0, "The number of calls is wrong.")
        if Counter(c.name for c in calls) != Counter(c.name for c in expected):
            return Verdict(0.0, "A wrong tool is called.")
        return Verdict(0.0, "The tools are right, but the arguments of a call are wrong.")

    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """The labelled calls."""
        return write_calls(self._expected(ground_truth))

    @staticmethod
    def _expected(ground_truth: str) -> list[Call]:
        label = 'it has to be JSON like [{"Action": "name", "Action_Input": "{...}"}]'
        try:
            calls = [Call(c["Action"], json.loads(c["Action_Input"])) for c in json.loads(ground_truth)]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(label) from error
        if not all(isinstance(c.name, str) and isinstance(c.arguments, dict) for c in calls):
            raise ValueError(label)
        return calls


class FunctionCalls(_ToolCalls):
    """Each call matches one possible answer of the Berkeley function calling leaderboard (``bfcl_ast``).

    Every argument has a list of accepted values; ``""`` in it means the argument may be left out.
    """

    def judge(self, text: str, ground_truth: str) -> Verdict:
        """Match calls and possible answers one to one."""
        truth = json.loads(ground_truth)
        answers = truth["possible_answers"]
        schemas = {f["name"]: f["parameters"].get("properties", {}) for f in truth["functions"]}
        required = {f["name"]: f["parameters"].get("required", []) for f in truth["functions"]}
        try:
            calls = read_calls(text)
        except ValueError as error:
            return self.malformed(str(error))
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

    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """The first accepted value of every argument that may not be left out."""
        try:
            truth = json.loads(ground_truth)
            required = {f["name"]: f["parameters"].get("required", []) for f in truth["functions"]}
            answers = [pair for answer in truth["possible_answers"] for pair in answer.items()]
            calls = [Call(name, _first(values, required[name])) for name, values in answers]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError('it has to be JSON with "functions" and "possible_answers"') from error
        return write_calls(calls) if calls else "None of the tools fits the question."


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


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


def _first(options: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    """The first accepted values, without the members that may be left out."""
    needed = {key: accepted for key, accepted in options.items() if key in required or "" not in accepted}
    return {key: _plain(next((o for o in accepted if o != ""), "")) for key, accepted in needed.items()}


def _plain(option: Any) -> Any:
    """An accepted value as a value: objects hold lists of accepted values."""
    if isinstance(option, dict):
        return _first({key: accepted if isinstance(accepted, list) else [accepted] for key, accepted in option.items()})
    return [_plain(item) for item in option] if isinstance(option, list) else option


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
