"""Multiple choice: MMLU and MMLU-Redux, GPQA."""

from __future__ import annotations

import hashlib
from typing import Any

from lit_sdpo.data.layouts.layout import BOXED_LETTER, Layout, text
from lit_sdpo.data.records import BadRowError, kind

_LETTERS = "ABCDEFGHIJ"


def lettered(question: str, options: list[str]) -> str:
    r"""The question with its options, one a line.

    Example:
        >>> lettered("1+1?", ["1", "2"])
        '1+1?\n\nA. 1\nB. 2'
    """
    return (
        question + "\n\n" + "\n".join(f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=False))
    )


class MMLU(Layout):
    """``question``, ``choices`` and ``answer`` (a number from 0, or a letter); rows marked as faulty are left out.

    MMLU-Redux marks each question in ``error_type``; only those marked ``ok`` are used.
    """

    name, needs, family, task, asks = "mmlu", ("question", "choices", "answer"), "science", "mmlu", BOXED_LETTER

    def convert(self, record: dict[str, Any], index: int) -> dict[str, Any] | None:
        """The question with lettered options."""
        if str(record.get("error_type", "ok")).lower() != "ok":
            return None
        choices, answer = record["choices"], record["answer"]
        if not isinstance(choices, list) or not 2 <= len(choices) <= len(_LETTERS):
            raise BadRowError("choices", f"a list of 2 to 10 options is needed, not {kind(choices)}", "mend the row")
        place = _LETTERS.find(answer.strip()) if isinstance(answer, str) and len(answer.strip()) == 1 else answer
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(choices):
            raise BadRowError(
                "answer", f"{answer!r} is none of {len(choices)} options", "give a number from 0, or a letter"
            )
        subject = record.get("subject") or record.get("subset")
        options = [str(choice) for choice in choices]
        return {
            "id": f"{subject}/{index}" if subject else index,
            "messages": self.ask(lettered(text(record, "question"), options)),
            "ground_truth": _LETTERS[place],
            "verifier": "mcq_boxed",
            "extra": {"choices": options} | ({"subject": subject} if subject else {}),
        }


class GPQA(Layout):
    """``Question``, ``Correct Answer``, ``Incorrect Answer 1`` to ``3``, ``Record ID`` (Idavidrein/gpqa).

    The order of the options follows from a hash of the record's id, so it is the same everywhere.
    """

    _WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
    name, needs = "gpqa", ("Question", "Correct Answer", *_WRONG)
    family, task, asks = "science", "gpqa", BOXED_LETTER

    def convert(self, record: dict[str, Any], index: int) -> dict[str, Any]:
        """The question with its options in hashed order."""
        key = record.get("Record ID") or index
        right = text(record, "Correct Answer").strip()
        options = [right, *(text(record, field).strip() for field in self._WRONG)]
        order = sorted(range(4), key=lambda place: hashlib.md5(f"{key}/{place}".encode()).digest())
        return {
            "id": key,
            "messages": self.ask(lettered(text(record, "Question").strip(), [options[place] for place in order])),
            "ground_truth": _LETTERS[order.index(0)],
            "verifier": "mcq_boxed",
            "extra": {},
        }
