"""Programs whose tests come packed: LiveCodeBench and Dolci.

Their tests may be base64 text of compressed data, and the data a pickled string. Pickles are never loaded: the one
string in them is read from the stream of opcodes, which runs nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import zlib
from typing import Any

from lit_sdpo.data.layouts.layout import BOXED, PROGRAM, Layout, text
from lit_sdpo.data.layouts.programs import write_tests
from lit_sdpo.data.records import BadRowError, kind

#: Nothing that unpacks to more is read.
MAX_UNPACKED = 256 * 2**20
_STRINGS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"}
_HARMLESS = _STRINGS | {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}


def unpack(packed: str, field: str) -> Any:
    """The JSON value in a text that holds it plainly, or compressed in base64, perhaps as a pickled string.

    Raises:
        BadRowError: It holds anything else.
    """
    try:
        return json.loads(packed)
    except ValueError:
        pass
    try:
        machine = zlib.decompressobj()
        data = machine.decompress(base64.b64decode(packed, validate=True), MAX_UNPACKED)
        if machine.unconsumed_tail:
            raise BadRowError(field, f"the tests unpack to more than {MAX_UNPACKED >> 20} MiB", "leave the row out")
        return json.loads(_pickled_string(data) if data[:1] == b"\x80" else data.decode())
    except (ValueError, binascii.Error, zlib.error) as error:
        raise BadRowError(field, "the tests are neither JSON nor packed JSON", "leave the row out") from error


def _pickled_string(data: bytes) -> str:
    """The string of a pickle that holds nothing but one string."""
    steps = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(data)]
    found = [argument for name, argument in steps if name in _STRINGS]
    if len(found) != 1 or any(name not in _HARMLESS for name, _ in steps):
        raise ValueError("the pickle holds more than a string")
    return str(found[0])


def _pairs(tests: Any, field: str) -> tuple[list[str], list[str]]:
    """Inputs and outputs of a list of tests."""
    good = (
        isinstance(tests, list)
        and tests
        and all(isinstance(t, dict) and {"input", "output"} <= t.keys() for t in tests)
    )
    if not good:
        raise BadRowError(
            field, f"a list of tests with input and output is needed, not {kind(tests)}", "leave the row out"
        )
    return [str(test["input"]) for test in tests], [str(test["output"]) for test in tests]


class LiveCodeBench(Layout):
    """``question_id``, ``question_content``, ``starter_code``, ``public_test_cases``, ``private_test_cases``."""

    name, needs, family = "livecodebench", ("question_id", "question_content", "public_test_cases"), "coding"
    task, asks = "livecodebench", PROGRAM
    held = ("public_test_cases", "private_test_cases")

    def convert(self, record: dict[str, Any], index: int) -> dict[str, Any]:
        """Public and private tests together; starter code makes it a function, else it is a script."""
        tests = unpack(text(record, "public_test_cases"), "public_test_cases")
        if record.get("private_test_cases"):
            tests = [*tests, *unpack(record["private_test_cases"], "private_test_cases")]
        inputs, outputs = _pairs(tests, "public_test_cases")
        starter = str(record.get("starter_code") or "").rstrip()
        about = unpack(record["metadata"], "metadata") if record.get("metadata") else {}
        if starter:
            task = f"Complete this starter code. Return the whole program.\n```python\n{starter}\n```"
        else:
            task = "Input is read from standard input, output goes to standard output."
        return {
            "id": record["question_id"],
            "messages": self.ask(f"{text(record, 'question_content').strip()}\n\n{task}"),
            "ground_truth": write_tests(
                "functional" if starter else "stdin",
                inputs,
                outputs,
                fn_name=str(about.get("func_name") or ""),
                checker="livecodebench",
            ),
            "verifier": "code_tests",
            "extra": {key: record[key] for key in ("platform", "difficulty") if record.get(key)},
        }


class Dolci(Layout):
    """``prompt`` (text that begins with ``user:``), ``ground_truth`` and ``dataset`` (allenai/Dolci-Think-RL-7B).

    The rows of ``code`` (asserts), ``code_stdio`` (inputs and outputs) and ``math`` are used; instruction following and
    chat have no verifier here and are left out.
    """

    name, needs, family, task = "dolci", ("prompt", "ground_truth", "dataset"), "coding", "dolci"
    asks, held = PROGRAM, ("ground_truth",)

    @classmethod
    def fits(cls, record: Any) -> bool:
        """The data sets of a row are a list."""
        return super().fits(record) and isinstance(record["dataset"], list)

    def convert(self, record: dict[str, Any], index: int) -> dict[str, Any] | None:
        """The task without its speaker's name."""
        names, truth = record["dataset"], record["ground_truth"]
        sort = str(names[0]) if isinstance(names, list) and names else str(names)
        if sort not in ("code", "code_stdio", "math"):
            return None
        truth = truth[0] if isinstance(truth, list) and len(truth) == 1 else truth
        question = text(record, "prompt").removeprefix("user:").strip()
        row: dict[str, Any] = {"id": record.get("custom_id") or record.get("id") or index, "extra": {"dataset": sort}}
        if sort == "math":
            asked = [{"role": "user", "content": BOXED.replace("{question}", question)}]
            return row | {"family": "math", "messages": asked, "ground_truth": str(truth), "verifier": "math_boxed"}
        tests = unpack(truth, "ground_truth") if isinstance(truth, str) else truth
        if sort == "code_stdio":
            written = write_tests("stdin", *_pairs(tests, "ground_truth"), checker="livecodebench")
            question += "\n\nInput is read from standard input, output goes to standard output."
        elif isinstance(tests, list) and tests and all(isinstance(test, str) for test in tests):
            written = write_tests("code", tests)
        else:
            raise BadRowError("ground_truth", f"a list of asserts is needed, not {kind(tests)}", "leave the row out")
        return row | {"messages": self.ask(question), "ground_truth": written, "verifier": "code_tests"}
