"""A layout turns the records of one kind of file into fields of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from lit_sdpo.data.records import BadRowError, find, kind
from lit_sdpo.data.source import Source
from lit_sdpo.errors import UserError

#: The sentence that the paper (arXiv:2607.01763) puts behind a question.
BOXED = "{question}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
#: The same for lettered options.
BOXED_LETTER = (
    "{question}\n\nPlease reason step by step, and put only the letter of the correct choice within \\boxed{}."
)
PROGRAM = (
    "You are given a programming task. Write a correct Python 3 program for it. You may think first; finish with the"
    " complete code in one ```python code block.\n\n{question}"
)


class Layout(ABC):
    """How records of one shape become rows.

    Args:
        source: Where the records come from, with the column mapping and the prompt.
        recognised: Whether the layout was found from the columns and not named.
    """

    name: ClassVar[str]
    #: What a record has to have.
    needs: ClassVar[tuple[str, ...]]
    family: ClassVar[str] = ""
    #: Name of the data set in ids.
    task: ClassVar[str] = ""
    #: Columns that no reward is shown: the prompt, what rows hold in fields of their own, packed tests.
    held: ClassVar[tuple[str, ...]] = ()
    #: How a question is put; ``None`` where the records hold finished prompts.
    asks: ClassVar[str | None] = None

    def __init__(self, source: Source, recognised: bool = False) -> None:
        self.source, self.recognised = source, recognised
        if source.prompt is not None and self.asks is None:
            raise UserError(
                f"layout {self.name} has finished prompts", where=f"{source}, prompt", fix="leave prompt out"
            )

    @classmethod
    def view(cls, record: Mapping[str, Any], columns: Mapping[str, str] | None) -> dict[str, Any]:
        """The record with the mapped columns under the layout's own names."""
        return {**record, **{field: find(record, path) for field, path in (columns or {}).items()}}

    @classmethod
    def fits(cls, record: Mapping[str, Any]) -> bool:
        """Whether a record looks like this layout."""
        return all(record.get(need) is not None for need in cls.needs)

    def read(self, record: Mapping[str, Any], index: int, split: str) -> dict[str, Any] | None:
        """The fields of a row, or ``None`` for a record that is not meant to be used.

        Args:
            record: The record.
            index: Its place in the source, from 0; the key of rows that have none.
            split: ``"train"`` or ``"test"``, for the id.

        Raises:
            BadRowError: What does not fit the layout.
        """
        seen = self.view(record, self.source.columns)
        if missing := [need for need in self.needs if seen.get(need) is None]:
            found = "recognised from the first row" if self.recognised else "chosen"
            raise BadRowError(
                (self.source.columns or {}).get(missing[0], missing[0]),
                f"the field is missing, which layout {self.name} ({found}) needs",
                f"add it, or name the column that holds it in columns: {{{missing[0]}: ...}}, or another layout",
            )
        fields = self.convert(seen, index)
        if fields is None:
            return None
        fields["columns"] = self.columns(record)
        return self.identified(fields, split)

    def columns(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What rewards are shown of a record: its columns as they stand, and mapped ones under their names too."""
        mapped = {field: find(record, path) for field, path in (self.source.columns or {}).items()}
        held = {"prompt", "messages", *self.held}
        return {name: value for name, value in (mapped | dict(record)).items() if name not in held}

    def identified(self, fields: dict[str, Any], split: str) -> dict[str, Any]:
        """The fields with family, task and split, also in the id."""
        family, task = fields.setdefault("family", self.family), self.source.name or fields.get("task") or self.task
        fields |= {"task": task, "split": fields.get("split") or split, "id": f"{family}/{task}/{split}/{fields['id']}"}
        return fields

    @abstractmethod
    def convert(self, record: dict[str, Any], index: int) -> dict[str, Any] | None:
        """``id`` (the key within the data set), ``messages``, ``ground_truth``, ``verifier`` and ``extra``.

        ``conversational`` is false where the prompt was one text; see :class:`~lit_sdpo.data.task.Row`.
        """

    def ask(self, question: str) -> list[dict[str, str]]:
        """The chat prompt of a question."""
        return [
            {
                "role": "user",
                "content": (self.source.prompt or self.asks or "{question}").replace("{question}", question),
            }
        ]


def text(record: Mapping[str, Any], field: str) -> str:
    """A field that has to be text."""
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        said = "the text is empty" if isinstance(value, str) else f"text is needed, not {kind(value)}"
        raise BadRowError(field, said, "fill it or leave the row out")
    return value


def whole_text(record: Mapping[str, Any], field: str) -> str:
    """A field that has to be text, where a whole number counts as its digits."""
    value = record.get(field)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text(record, field)


def kept(record: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    """Those of the fields that the record has."""
    return {field: record[field] for field in fields if record.get(field) is not None}
