"""Function calls: the Berkeley function-calling leaderboard."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from lit_sdpo.data.layouts.layout import Layout
from lit_sdpo.data.records import BadRowError, records
from lit_sdpo.data.source import Source
from lit_sdpo.errors import UserError

_FORM = (
    "Answer the user's question by calling the tools below. Tools (JSON schema, one a line):\n{tools}\n\n"
    "For every call write exactly two lines:\nAction: <tool name>\nAction Input: <one JSON object with the arguments>\n"
    "Several calls are written one after another. If no tool fits the question, say so and write no Action line.\n\n"
    "Question: {question}"
)


class BFCL(Layout):
    """``id``, ``question`` (turns of messages), ``function``; answers in ``possible_answer/`` beside the file.

    Questions of one user message are read; the category is the beginning of the id. Category ``irrelevance`` has no
    answers: right is to call nothing.
    """

    name, needs, family = "bfcl", ("id", "question", "function"), "tooluse"

    def __init__(self, source: Source, recognised: bool = False) -> None:
        super().__init__(source, recognised)
        self._answers: dict[str, Any] | None = None

    @property
    def _file(self) -> Path | None:
        if self.source.path is None:
            return None
        path = Path(self.source.path)
        return path.parent / "possible_answer" / path.name

    def convert(self, record: dict[str, Any], index: int) -> dict[str, Any]:
        """The question below its tools, and the accepted calls."""
        key, tools = str(record["id"]), record["function"]
        category = re.sub(r"_\d[\d-]*\Z", "", key)
        turns = record["question"]
        one_turn = isinstance(turns, list) and len(turns) == 1 and isinstance(turns[0], list)
        messages = turns[0] if one_turn else []
        if len(messages) != 1 or not isinstance(messages[0], dict) or messages[0].get("role") != "user":
            raise BadRowError("question", "only one turn of one user message is read", "leave the row out")
        if not isinstance(tools, list):
            raise BadRowError("function", "a list of tools is needed", "leave the row out")
        truth = {"category": category, "functions": tools, "possible_answers": self._possible(key, category)}
        prompt = _FORM.replace("{tools}", "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
        prompt = prompt.removesuffix("{question}") + str(messages[0].get("content", ""))
        return {
            "id": key,
            "task": f"bfcl_{category}",
            "messages": [{"role": "user", "content": prompt}],
            "ground_truth": json.dumps(truth, ensure_ascii=False),
            "verifier": "bfcl_ast",
            "extra": {"n_tools": len(tools)},
        }

    def _possible(self, key: str, category: str) -> Any:
        if category.endswith("irrelevance"):
            return []
        if self._answers is None:
            self._answers = self._read_answers()
        if key not in self._answers:
            raise BadRowError("id", f"{self._file} has no answer to {key!r}", "add it or leave the row out")
        return self._answers[key]

    def _read_answers(self) -> dict[str, Any]:
        if self._file is None or not self._file.is_file():
            raise UserError(
                f"the answers are missing: {self._file}", where=str(self.source), fix="keep possible_answer/ beside it"
            )
        found: dict[str, Any] = {}
        for entry in records(Source(path=str(self._file))):
            if isinstance(entry.value, BadRowError):
                raise entry.value.at(entry.place)
            if not isinstance(entry.value.get("id"), str) or not isinstance(entry.value.get("ground_truth"), list):
                raise UserError("the line has no id with a list ground_truth", where=entry.place, fix="mend the line")
            found[entry.value["id"]] = entry.value["ground_truth"]
        return found
