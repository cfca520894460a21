"""The package's own rows, and plain ones of a question and an answer."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from lit_sdpo.data.layouts.layout import Layout, whole_text
from lit_sdpo.data.layouts.messages import checked
from lit_sdpo.data.records import BadRowError, find, kind
from lit_sdpo.data.source import Source

FIELDS = (
    "id",
    "family",
    "task",
    "split",
    "verifier",
    "messages",
    "ground_truth",
    "extra",
    "source",
    "prompt",
    "system",
    "answer",
)


class Rows(Layout):
    """``id``, ``messages``, ``ground_truth``, ``verifier``; or ``prompt`` (text, perhaps with ``system``; or messages).

    A text becomes one user message, ``answer`` (text or a whole number) is another name of ``ground_truth``. Rows with
    ``prompt`` may lack a verifier, and then an answer too: rewards judge them. They, and rows with a column mapping,
    may lack ids: file and line stand in, and for messages a digest of the row.
    """

    name = "rows"
    needs = ()
    asks = "{question}"
    held = ("extra",)

    def __init__(self, source: Source, recognised: bool = False) -> None:
        super().__init__(source, recognised)
        self._digests: Counter[str] = Counter()

    @classmethod
    def view(cls, record: Mapping[str, Any], columns: Mapping[str, str] | None) -> dict[str, Any]:
        """Only the fields that rows have; mapped columns under their names."""
        columns = columns or {}
        seen = {field: find(record, columns[field]) if field in columns else record.get(field) for field in FIELDS}
        seen["by_prompt"] = seen["messages"] is None and isinstance(seen["prompt"], list)
        if seen["by_prompt"]:
            seen["messages"], seen["prompt"] = seen["prompt"], None
        return seen

    @classmethod
    def fits(cls, record: Mapping[str, Any]) -> bool:
        """Whether it says what only rows say, or has a prompt and an answer."""
        answered = record.get("answer") is not None or isinstance(record.get("ground_truth"), str | int | float)
        asked = isinstance(record.get("prompt"), str) or record.get("messages") is not None
        return record.get("verifier") is not None or (asked and answered)

    @classmethod
    def asks_only(cls, record: Mapping[str, Any]) -> bool:
        """Whether it has a prompt, and what it says besides is for rewards; any other layout goes first."""
        return isinstance(record.get("prompt"), str) or bool(record.get("by_prompt"))

    def columns(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Those of rows with ``prompt``: all; of the package's own rows what they say beside their fields."""
        found = super().columns(record)
        return {name: value for name, value in found.items() if record.get("messages") is None or name not in FIELDS}

    def identified(self, fields: dict[str, Any], split: str) -> dict[str, Any]:
        """Nothing is added to ids; rows of messages that have none get a digest of what they say.

        Rows that say the very same are told apart by their number.
        """
        if fields["id"] is None and fields["by_prompt"]:
            said = json.dumps([fields["messages"], fields["ground_truth"], fields["columns"]], default=str)
            digest = hashlib.sha256(said.encode()).hexdigest()[:12]
            self._digests[digest] += 1
            number = self._digests[digest]
            fields["id"] = f"{self._name}/{digest}" + (f"-{number}" if number > 1 else "")
        return fields

    @property
    def _name(self) -> str:
        return self.source.name or (self.source.path or self.source.hub or "").rpartition("/")[2].split(".")[0]

    def convert(self, record: dict[str, Any], index: int) -> dict[str, Any]:
        """The fields, checked, with what stands in for those that rows with ``prompt`` may lack."""
        plain = record["messages"] is None and record["prompt"] is not None
        by_prompt = plain or record["by_prompt"]
        if record["id"] is None and (plain or self.source.columns):
            record["id"] = f"{self._name}/{index + 1}"
        elif isinstance(record["id"], int) and (by_prompt or self.source.columns):
            record["id"] = str(record["id"])
        record["judged"] = not by_prompt or (self.source.verifier or record["verifier"]) is not None
        if not record["judged"]:
            record["ground_truth"] = _as_text(record["ground_truth"], record["answer"])
        elif record["ground_truth"] is None and record["answer"] is not None:
            record["ground_truth"] = whole_text(record, "answer")
        record["by_prompt"], record["conversational"] = by_prompt, not plain
        if plain:
            record["messages"] = self._chat(record)
        elif self.source.prompt is not None:
            raise BadRowError("messages", "the row has a finished prompt", "leave the option prompt out")
        record["messages"] = checked(record["messages"], self._column("messages"))
        record["extra"] = self._extra(record["extra"])
        return record

    def _column(self, field: str) -> str:
        return (self.source.columns or {}).get(field, field)

    def _chat(self, fields: Mapping[str, Any]) -> list[dict[str, str]]:
        for field in ("prompt", "system"):
            value = fields[field]
            if not isinstance(value, str) and not (field == "system" and value is None):
                raise BadRowError(self._column(field), f"text is needed, not {kind(value)}", "write it as text")
        if not fields["prompt"].strip():
            raise BadRowError(self._column("prompt"), "the text is empty", "fill it or leave the row out")
        system = [] if fields["system"] is None else [{"role": "system", "content": fields["system"]}]
        return [*system, *self.ask(fields["prompt"])]

    def _extra(self, value: Any) -> Mapping[str, Any]:
        if isinstance(value, str):
            try:
                value = json.loads(value) if value.strip() else {}
            except ValueError as error:
                raise BadRowError("extra", f"the text is not JSON: {error}", "write a JSON object") from error
        if value is not None and not isinstance(value, dict):
            raise BadRowError("extra", f"an object is needed, not {kind(value)}", "write a JSON object")
        return value or {}


def _as_text(*answers: Any) -> str:
    """The first answer that there is, as text; no verifier reads it."""
    answer = next((answer for answer in answers if answer is not None), "")
    return answer if isinstance(answer, str) else json.dumps(answer, default=str)
