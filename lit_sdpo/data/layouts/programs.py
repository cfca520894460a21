"""Programs with tests: HumanEval, MBPP."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from lit_sdpo.data.layouts.layout import PROGRAM, Layout, text
from lit_sdpo.data.records import BadRowError

#: Seconds for a test where the source does not say.
TIME_LIMIT = 5.0
_ASSERTED = re.compile(r"\bassert\s+(?:[\w.]+\()*?([A-Za-z_]\w*)\(")


def write_tests(
    testtype: str,
    inputs: Sequence[str],
    outputs: Sequence[str] = (),
    *,
    fn_name: str = "",
    time_limit: float = TIME_LIMIT,
    context: str = "",
    checker: str = "",
) -> str:
    """The ground truth of ``code_tests``."""
    tests = {
        "testtype": testtype,
        "inputs": list(inputs),
        "outputs": list(outputs) or [""] * len(inputs),
        "fn_name": fn_name,
        "time_limit": time_limit,
        "context": context,
    }
    if checker:
        tests["checker"] = checker
    return json.dumps(tests, ensure_ascii=False)


def tests_text(raw: str) -> str:
    """Tests in the paper repository's layout, with what they leave out filled in."""
    try:
        tests = json.loads(raw)
        limit = tests.get("time_limit")
        if not isinstance(tests["inputs"], list) or not isinstance(tests.get("outputs") or [], list):
            raise ValueError("no lists")
        return write_tests(
            tests["testtype"],
            tests["inputs"],
            tests.get("outputs") or (),
            fn_name=tests.get("fn_name") or "",
            time_limit=TIME_LIMIT if limit is None else float(limit),
            context=tests.get("context") or "",
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRowError(
            "tests", "the tests are not JSON with testtype and lists of inputs and outputs", "mend the row"
        ) from error


class HumanEval(Layout):
    """``task_id``, ``prompt``, ``entry_point``, ``canonical_solution``, ``test`` (openai/openai_humaneval)."""

    name, needs, family, task = "humaneval", ("task_id", "prompt", "entry_point", "test"), "coding", "humaneval"
    asks = PROGRAM

    def convert(self, record: dict[str, Any], index: int) -> dict[str, Any]:
        """The function to complete; its tests are one block of asserts."""
        prompt, name = text(record, "prompt"), text(record, "entry_point")
        question = "Complete the following function. Return the whole program: imports, signature and body."
        extra = {"prompt_prefix": prompt}
        if isinstance(record.get("canonical_solution"), str):
            extra["reference_solution"] = prompt + record["canonical_solution"]
        return {
            "id": str(record["task_id"]).rpartition("/")[2],
            "messages": self.ask(f"{question}\n```python\n{prompt.rstrip()}\n```"),
            "ground_truth": write_tests("code", [f"{text(record, 'test').strip()}\n\ncheck({name})\n"], fn_name=name),
            "verifier": "code_tests",
            "extra": extra,
        }


class MBPP(Layout):
    """``task_id``, ``text`` or ``prompt``, ``code``, ``test_list`` and set-up code (google-research-datasets/mbpp).

    The prompt shows the first assert and keeps the others back.
    """

    name, needs, family, task, asks = "mbpp", ("task_id", "code", "test_list"), "coding", "mbpp", PROGRAM

    def convert(self, record: dict[str, Any], index: int) -> dict[str, Any]:
        """The task with the name of what it asks for; set-up code goes in front of each test."""
        tests = record["test_list"]
        if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
            raise BadRowError("test_list", "a list of asserts is needed", "mend it or leave the row out")
        defined = re.findall(r"^(?:def|class)\s+(\w+)", text(record, "code"), re.MULTILINE)
        named = [name for name in defined if re.search(rf"\b{name}\b", tests[0])]
        guessed = _ASSERTED.search(tests[0])
        name = named[0] if named else guessed[1] if guessed else ""
        question = text(record, "text" if record.get("text") else "prompt").strip()
        imports = record.get("test_imports") or []
        setup = "\n".join(part for part in [*imports, record.get("test_setup_code") or ""] if part)
        shown = f"Name the function (or class) `{name}`. Example of a test it has to pass:\n{tests[0]}"
        return {
            "id": record["task_id"],
            "messages": self.ask(f"{question}\n\n{shown}"),
            "ground_truth": write_tests("code", [f"{setup}\n{t}" if setup else t for t in tests], fn_name=name),
            "verifier": "code_tests",
            "extra": {"reference_solution": record["code"].replace("\r\n", "\n")},
        }
