"""Rows that are scored by likelihood: a question with its options, or a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from typing_extensions import TypeVar

from lit_sdpo.data.layouts.layout import text
from lit_sdpo.data.layouts.messages import checked
from lit_sdpo.data.records import BadRowError, find, kind, records
from lit_sdpo.data.source import Source
from lit_sdpo.errors import UserError

_LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class ChoiceRow:
    """A question and its options.

    Attributes:
        id: Unique within its task and stable between runs.
        asked: The question as text, or as the messages of a chat prompt.
        choices: The options, without the separator that stands before them.
        gold: The right ones, from 0.
    """

    id: str
    asked: str | Sequence[Mapping[str, Any]]
    choices: Sequence[str]
    gold: Sequence[int]

    @property
    def said(self) -> str:
        """The question as text."""
        return self.asked if isinstance(self.asked, str) else "\n".join(message["content"] for message in self.asked)


@dataclass(frozen=True)
class TextRow:
    """A text.

    Attributes:
        id: Unique within its task and stable between runs.
        text: The text.
    """

    id: str
    text: str

    @property
    def said(self) -> str:
        """The text."""
        return self.text


Row = TypeVar("Row", bound=ChoiceRow | TextRow, default=Any)
#: Makes a row from its id and its fields.
Parse = Callable[[str, Mapping[str, Any]], ChoiceRow | TextRow]


@dataclass(frozen=True)
class Entry(Generic[Row]):
    """One entry of a source: a row, or what is wrong with it.

    Attributes:
        place: Source and line, for messages.
        row: The row.
        problem: Why there is none.
    """

    place: str
    row: Row | None = None
    problem: BadRowError | None = None


def scan(source: Source, parse: Callable[[str, Mapping[str, Any]], Row]) -> Iterator[Entry[Row]]:
    """Read a source entry by entry; a row that does not fit is handed out as what is wrong with it.

    Args:
        source: Where the rows come from; ``columns`` may say where their fields stand.
        parse: Makes a row from its id and its fields.

    Raises:
        UserError: The source cannot be read at all, or is given what these rows do not have.
    """
    if lost := [name for name in ("layout", "prompt", "verifier") if getattr(source, name) is not None]:
        fix = "leave it out; columns says where the fields stand"
        raise UserError(f"rows that are scored by likelihood have no {lost[0]}", where=f"source {source}", fix=fix)
    name = source.name or str(source.path or source.hub).rpartition("/")[2].split(".")[0]
    seen: dict[str, str] = {}
    for number, place, value, _ in records(source):
        if isinstance(value, BadRowError):
            yield Entry(place, problem=value)
            continue
        fields = {**value, **{field: find(value, path) for field, path in (source.columns or {}).items()}}
        try:
            row = parse(_id(fields, f"{name}/{number}"), fields)
            if row.id in seen:
                fix = "give every row an id of its own"
                raise BadRowError("id", f"{row.id!r} stands at {seen[row.id]} too", fix)
        except BadRowError as problem:
            yield Entry(place, problem=problem)
            continue
        seen[row.id] = place
        yield Entry(place, row)


def _id(fields: Mapping[str, Any], otherwise: str) -> str:
    value = fields.get("id")
    if value is None:
        return otherwise
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        raise BadRowError("id", f"text or a whole number is needed, not {kind(value)}", "mend it, or leave ids out")
    return str(value)


def scored_row(id: str, fields: Mapping[str, Any]) -> ChoiceRow | TextRow:
    """A row of either kind; one with ``text`` and no ``choices`` is a text.

    Raises:
        BadRowError: What does not fit.
    """
    return text_row(id, fields) if "text" in fields and "choices" not in fields else choice_row(id, fields)


def text_row(id: str, fields: Mapping[str, Any]) -> TextRow:
    """A row with ``text``.

    Raises:
        BadRowError: It does not have one.
    """
    return TextRow(id, text(fields, "text"))


def choice_row(id: str, fields: Mapping[str, Any]) -> ChoiceRow:
    """A row with ``question`` (text) or ``messages``, ``choices`` and ``answer``.

    The answer is a number from 0, a letter, the text of an option, or a list of these where several are right. A text
    that is both a letter and an option is the option.

    Raises:
        BadRowError: What does not fit, with its field.
    """
    if (fields.get("question") is None) == (fields.get("messages") is None):
        have = "has both" if fields.get("question") is not None else "has neither"
        raise BadRowError("question", f"the row {have} of question and messages", "give it one of the two")
    messages = fields.get("messages")
    asked = text(fields, "question") if messages is None else checked(messages, "messages")
    choices = fields.get("choices")
    if not isinstance(choices, list) or len(choices) < 2:
        said = f"{len(choices)} option" if isinstance(choices, list) and choices else kind(choices)
        raise BadRowError("choices", f"a list of two options or more is needed, not {said}", 'write ["...", "..."]')
    for number, choice in enumerate(choices):
        if not isinstance(choice, str) or not choice.strip():
            said = "the option is empty" if isinstance(choice, str) else f"text is needed, not {kind(choice)}"
            raise BadRowError(f"choices[{number}]", said, "write the option as text")
    answer = fields.get("answer")
    answers = answer if isinstance(answer, list) and answer else [answer]
    return ChoiceRow(id, asked, tuple(choices), tuple(sorted({_place(each, choices) for each in answers})))


def _place(answer: Any, choices: Sequence[str]) -> int:
    """Which option an answer means."""
    fix = "give a number from 0, a letter, or the text of an option"
    if answer is None:
        raise BadRowError("answer", "the field is missing", fix)
    if isinstance(answer, str):
        if answer in choices:
            return choices.index(answer)
        place = _LETTERS.find(answer.strip()) if len(answer.strip()) == 1 else -1
    else:
        place = answer if isinstance(answer, int) and not isinstance(answer, bool) else -1
    if not 0 <= place < len(choices):
        raise BadRowError("answer", f"{answer!r} is none of {len(choices)} options", fix)
    return place
