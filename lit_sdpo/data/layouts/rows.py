"""The package's own rows, and plain ones of a question and an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lit_sdpo.data.layouts.layout import Layout, whole_text
from lit_sdpo.data.layouts.messages import checked
from lit_sdpo.data.records import BadRowError, find, kind

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
    """``id``, ``messages``, ``ground_truth``, ``verifier``; or ``prompt`` (text), perhaps ``system``, and ``answer``.

    ``prompt`` becomes one user message, ``answer`` (text or a whole number) is another name of ``ground_truth``. Rows
    with ``prompt``, and those with a column mapping, may lack ids: file and line stand in.
    """

    name = "rows"
    needs = ()
    asks = "{question}"

    @classmethod
    def view(cls, record: Mapping[str, Any], columns: Mapping[str, str] | None) -> dict[str, Any]:
        """Only the fields that rows have; mapped columns under their names."""
        columns = columns or {}
        seen = {field: find(record, columns[field]) if field in columns else record.get(field) for field in FIELDS}
        if seen["messages"] is None and isinstance(seen["prompt"], list):
            seen["messages"], seen["prompt"] = seen["prompt"], None
        return seen

    @classmethod
    def fits(cls, record: Mapping[str, Any]) -> bool:
        """Whether it says what only rows say, or has a prompt and an answer."""
        answered = record.get("answer") is not None or isinstance(record.get("ground_truth"), str | int | float)
        asked = isinstance(record.get("prompt"), str) or record.get("messages") is not None
        return record.get("verifier") is not None or (asked and answered)

    def identified(self, fields: dict[str, Any], split: str) -> dict[str, Any]:
        """The fields as they are; nothing is added to ids."""
        return fields

    def convert(self, record: dict[str, Any], index: int) -> dict[str, Any]:
        """The fields, checked, with what stands in for those that plain rows may lack."""
        plain = record["messages"] is None and record["prompt"] is not None
        if record["id"] is None and (plain or self.source.columns):
            name = (self.source.path or self.source.hub or "").rpartition("/")[2]
            record["id"] = f"{self.source.name or name.split('.')[0]}/{index + 1}"
        elif isinstance(record["id"], int) and (plain or self.source.columns):
            record["id"] = str(record["id"])
        if record["ground_truth"] is None and record["answer"] is not None:
            record["ground_truth"] = whole_text(record, "answer")
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
