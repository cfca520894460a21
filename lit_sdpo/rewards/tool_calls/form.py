"""The written form of tool calls: reading it, writing it, and telling what almost is it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lit_sdpo.rewards.strict_json import decoder

_LABEL = re.compile(r"^(Action Input|Action):[ \t]*", re.MULTILINE)


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
    json_at = decoder()
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
            arguments, at = json_at.raw_decode(text, start)
        except json.JSONDecodeError as error:
            raise ValueError("An Action Input is not valid JSON.") from error
        except ValueError as error:
            raise ValueError(f"An Action Input cannot be read: {error}.") from error
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


_LOOSE_LABEL = re.compile(
    r"^(?P<lead>[ \t]*(?:[>#][ \t]*|[-*+][ \t]+|\d{1,3}[.)][ \t]+)*)"
    r"(?P<before>[*_`]*)(?P<word>action(?:[ _]?input)?)(?P<inside>[*_`]*)(?P<space>[ \t]*):(?P<behind>[*_`]*)[ \t]*",
    re.MULTILINE | re.IGNORECASE,
)


def loosened(text: str) -> tuple[str, tuple[str, ...]]:
    r"""The text with everything that almost is the form brought into it, and what that was.

    Example:
        >>> loosened('**Action:** ping\n\nAction Input: {}')
        ('Action: ping\nAction Input: {}', ('bold_label', 'blank_line'))
    """
    text = text.replace("\r\n", "\n")
    found: dict[str, None] = {}

    def label(match: re.Match[str]) -> str:
        lead, word = match["lead"], match["word"]
        strict = "Action Input" if len(word) > len("action") else "Action"
        signs = {
            "quoted_label": ">" in lead,
            "heading_label": "#" in lead,
            "listed_label": bool(lead.strip(" \t>#")),
            "indented_label": bool(lead) and not lead.strip(),
            "bold_label": bool(match["before"] + match["inside"] + match["behind"]),
            "spelled_label": word != strict or bool(match["space"]),
        }
        found.update((name, None) for name, here in signs.items() if here)
        return f"{strict}: "

    def becomes(name: str, rest: str = r"\1") -> Callable[[re.Match[str]], str]:
        def replace(match: re.Match[str]) -> str:
            found[name] = None
            return match.expand(rest)

        return replace

    text = _LOOSE_LABEL.sub(label, text)
    text = re.sub(r"^(Action: [^\n]*\n)(?:[ \t]*\n)+(?=Action Input: )", becomes("blank_line"), text, flags=re.M)
    text = re.sub(r"^(Action Input: )\s*`{1,3}[A-Za-z0-9]*\s*(?=\{)", becomes("fenced_json"), text, flags=re.M)
    text = re.sub(r"(\})[ \t]*`{1,3}[ \t]*$", becomes("fenced_json"), text, flags=re.M)
    text = re.sub(r"^(Action: )([`*_\"]{1,3})([^`*\"\n]+)\2[ \t]*$", becomes("marked_name", r"\1\3"), text, flags=re.M)
    text = re.sub(r"^(Action: [^\s()]+)\(\)[ \t]*$", becomes("parentheses"), text, flags=re.M)
    return text, tuple(found)
