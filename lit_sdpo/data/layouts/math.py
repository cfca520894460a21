"""Mathematics: GSM8K, problem lists such as MATH-500 and AIME, DAPO, and verl's Parquet files."""

from __future__ import annotations

import re
from typing import Any

from lit_sdpo.data.layouts.layout import BOXED, Layout, kept, text, whole_text
from lit_sdpo.data.layouts.messages import checked
from lit_sdpo.data.records import BadRowError, find, kind

#: What others put round a problem; the paper's sentence takes its place, so that the prompt asks for a box.
_BEFORE = re.compile(
    r"\ASolve the following math problem step by step\. The last line of your response should be of the form"
    r" Answer: .{0,40}? where \$Answer is the answer to the problem\.\s+",
)
_BEHIND = re.compile(
    r'\s*(?:Remember to put your answer on its own line after "Answer:"\.'
    r"|Let's think step by step and output the final answer (?:within \\boxed\{\}|after \"####\")\.?"
    r"|Please reason step by step, and put your final answer within \\boxed\{\}\.?)\s*\Z"
)


def bare_problem(prompt: str) -> str:
    r"""The problem without the instructions that well-known data sets put round it.

    Example:
        >>> bare_problem("What is 1+1? Let's think step by step and output the final answer within \\boxed{}.")
        'What is 1+1?'
    """
    return _BEHIND.sub("", _BEFORE.sub("", prompt))


class GSM8K(Layout):
    """``question`` and ``answer``, the solution with the number behind ``####`` (openai/gsm8k)."""

    name, needs, family, task, asks = "gsm8k", ("question", "answer"), "math", "gsm8k", BOXED

    @classmethod
    def fits(cls, record: Any) -> bool:
        """The number's mark tells it from other questions and answers."""
        return super().fits(record) and "####" in str(record["answer"])

    def convert(self, record: dict[str, Any], index: int) -> dict[str, Any]:
        """Thousands commas and the calculator's notes ``<<...>>`` go."""
        solution, mark, answer = text(record, "answer").rpartition("####")
        if not mark or not answer.strip():
            raise BadRowError(
                "answer",
                "the answer has no number behind ####",
                "end it with a line '#### 42', or use layout: rows with columns: {prompt: question}",
            )
        return {
            "id": index,
            "messages": self.ask(text(record, "question")),
            "ground_truth": answer.strip().replace(",", ""),
            "verifier": "math_boxed",
            "extra": {"reference_solution": re.sub(r"<<[^<>]*>>", "", solution).rstrip("\n")},
        }


class Problems(Layout):
    """``problem`` and ``answer``, perhaps ``solution``, ``id`` and other facts (MATH-500, AIME)."""

    name, needs, family, task, asks = "problems", ("problem", "answer"), "math", "problems", BOXED

    def convert(self, record: dict[str, Any], index: int) -> dict[str, Any]:
        """The problem in the paper's words."""
        extra = kept(record, "subject", "level", "unique_id", "url", "year")
        if isinstance(record.get("solution"), str) and record["solution"].strip():
            extra["reference_solution"] = record["solution"]
        return {
            "id": record["id"] if record.get("id") is not None else index,
            "messages": self.ask(text(record, "problem")),
            "ground_truth": whole_text(record, "answer"),
            "verifier": "math_boxed",
            "extra": extra,
        }


class _Chat(Layout):
    """A chat prompt of one user message."""

    family, asks = "math", BOXED

    def _problem(self, record: dict[str, Any]) -> list[dict[str, str]]:
        prompt = record["prompt"]
        if not isinstance(prompt, list) or not all(
            isinstance(m, dict) and isinstance(m.get("content"), str) for m in prompt
        ):
            raise BadRowError("prompt", f"a list of messages is needed, not {kind(prompt)}", "mend it or leave it out")
        if not prompt or prompt[-1].get("role") != "user":
            raise BadRowError("prompt", "the prompt does not end in a user message", "mend it or leave it out")
        *before, last = checked(prompt, (self.source.columns or {}).get("prompt", "prompt"))
        problem = bare_problem(last["content"])
        asked = [last] if problem == last["content"] and self.source.prompt is None else self.ask(problem)
        return [*before, *asked]


class DAPO(_Chat):
    """``prompt`` (messages) and ``label`` (DAPO-Math-17k as slime lays it out)."""

    name, needs, task = "dapo", ("prompt", "label"), "dapo_math_17k"

    def convert(self, record: dict[str, Any], index: int) -> dict[str, Any]:
        """The problem in the paper's words in place of the last line ``Answer: ...``."""
        messages = self._problem(record)
        return {
            "id": index,
            "messages": messages,
            "ground_truth": whole_text(record, "label"),
            "verifier": "math_boxed",
            "extra": {},
        }


class Verl(_Chat):
    r"""``data_source``, ``prompt`` (messages), ``reward_model.ground_truth``, ``ability``, ``extra_info`` (verl).

    Rows of mathematics are scored by ``math_boxed``; where the prompt ends in a well-known instruction, the paper's
    sentence takes its place. Other rows need the verifier to be named and keep their prompt.
    """

    name, needs, task = "verl", ("data_source", "prompt", "reward_model"), "verl"

    def convert(self, record: dict[str, Any], index: int) -> dict[str, Any]:
        """The row, with what verl's reward function would compare with."""
        truth = record["reward_model"].get("ground_truth") if isinstance(record["reward_model"], dict) else None
        if isinstance(truth, list) and len(truth) == 1:
            truth = truth[0]
        ability = str(record.get("ability") or "").lower()
        about = record.get("extra_info") or {}
        if "math" not in ability and self.source.verifier is None:
            raise BadRowError(
                "ability", f"no verifier is known for ability {ability!r}", "name one: verifier: NAME beside the file"
            )
        return {
            "id": index if find(about, "index") is None else about["index"],
            "family": "math" if "math" in ability else ability or "other",
            "messages": self._problem(record),
            "ground_truth": whole_text({"reward_model.ground_truth": truth}, "reward_model.ground_truth"),
            "verifier": "math_boxed",
            "extra": {"data_source": record["data_source"]},
        }
