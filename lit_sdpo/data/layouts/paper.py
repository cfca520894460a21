"""The files of the paper's repository: multiple choice, tool use and programs in one shape."""

from __future__ import annotations

import re
from typing import Any

from lit_sdpo.data.layouts.layout import Layout, kept, text
from lit_sdpo.data.layouts.programs import tests_text
from lit_sdpo.data.records import BadRowError

_OPTION = re.compile(r"^([A-Z]): ", re.MULTILINE)


#: Family and contract of each kind.
_KINDS = {"mcq": ("science", "mcq_xml"), "tooluse": ("tooluse", "tooluse_react"), "code": ("coding", "code_tests")}


class PaperRepository(Layout):
    """``kind``, ``dataset``, ``idx``, ``system``, ``prompt``, ``answer``, ``tests``; JSON lines in a ``.json`` file.

    ``kind`` decides the contract: ``mcq`` is ``mcq_xml``, ``tooluse`` is ``tooluse_react``, ``code`` is ``code_tests``.
    Prompts stay as they are.
    """

    name, needs = "paper", ("kind", "dataset", "prompt", "idx")

    def convert(self, record: dict[str, Any], index: int) -> dict[str, Any]:
        """System message, if any, and prompt; the answer, or the tests of a program."""
        if record["kind"] not in _KINDS:
            raise BadRowError("kind", f"there is no kind {record['kind']!r}", f"use one of: {', '.join(_KINDS)}")
        family, verifier = _KINDS[record["kind"]]
        prompt = text(record, "prompt")
        system = [{"role": "system", "content": record["system"]}] if record.get("system") else []
        extra = kept(record, "elo")
        if family == "science":
            extra["labels"] = "".join(dict.fromkeys(_OPTION.findall(prompt)))
        return {
            "id": record["idx"],
            "family": family,
            "task": "toolalpaca" if record["dataset"] == "tooluse" else record["dataset"],
            "messages": [*system, {"role": "user", "content": prompt}],
            "ground_truth": tests_text(text(record, "tests")) if family == "coding" else text(record, "answer"),
            "verifier": verifier,
            "extra": extra,
        }
