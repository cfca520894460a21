"""Writes the rows of the small world: `python configs/small/make_data.py FOLDER`.

FOLDER holds `bfcl_simple_python_train.jsonl.gz` and `sciknoweval_chemistry_train.jsonl` in the package's row format
(`docs/data.md`), with their sources in each row; `calls` and `choice` are taken from them. `sums` and `functions` are
drawn here. What is written is in `configs/small/data/` already; the script says how it came about.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_sdpo.policies.load import load_tokenizer, render
from lit_sdpo.rewards.registry import verifier

TARGET = Path(__file__).parent / "data"
#: Rows of a training and of an evaluation file, at most.
TRAIN, EVALUATION = 400, 96
#: Tokens of SmolLM2: of a rendered prompt, and of an answer with its end token.
PROMPT, ANSWER = 250, 48
OWN = {"repo": "self-made", "commit": "", "path": "configs/small/make_data.py", "license": "CC0-1.0"}
Rows = list[dict[str, Any]]


def sums(random_: random.Random) -> Iterator[dict[str, Any]]:
    """Two numbers of two digits, or one of three and one of two."""
    firsts = [range(10, 100), range(10, 100), range(100, 1000)]
    pairs = {(random_.choice(random_.choice(firsts)), random_.randrange(10, 100)) for _ in range(600)}
    for a, b in sorted(pairs, key=_order):
        question = f"What is {a} + {b}? Give only the result, within \\boxed{{}}."
        yield _row("sums", "math", f"{a}+{b}", question, str(a + b), "math_boxed")


#: Bodies of one line over whole numbers, text or lists, with words for them; N and M are numbers from 2 to 9.
FUNCTIONS = (
    ("x", "x times N plus M", "x * N + M", "int"),
    ("x", "x plus N, times M", "(x + N) * M", "int"),
    ("x", "x minus N, divided by M and rounded down", "(x - N) // M", "int"),
    ("x", "the remainder of x divided by N, plus M", "x % N + M", "int"),
    ("x", "x squared minus N", "x ** 2 - N", "int"),
    ("x", "the larger of x and N, times M", "max(x, N) * M", "int"),
    ("x", "True if x is divisible by N, else False", "x % N == 0", "int"),
    ("x", "True if x times N is greater than M, else False", "x * N > M", "int"),
    ("text", "the first N characters of text, repeated M times", "text[:N] * M", "str"),
    ("text", "the last N characters of text in upper case", "text[-N:].upper()", "str"),
    ("text", "text without its first N characters, followed by them", "text[N:] + text[:N]", "str"),
    ("text", "the first N characters of text in reverse order", "text[:N][::-1]", "str"),
    ("text", "the length of text times N plus M", "len(text) * N + M", "str"),
    ("text", "every N-th character of text, beginning with the first", "text[::N]", "str"),
    ("text", "True if text is longer than N characters, else False", "len(text) > N", "str"),
    ("items", "the sum of the first N elements of items", "sum(items[:N])", "list"),
    ("items", "the largest of the first N elements of items", "max(items[:N])", "list"),
    ("items", "the N smallest elements of items in order", "sorted(items)[:N]", "list"),
    ("items", "how many elements of items are greater than N", "sum(i > N for i in items)", "list"),
    ("items", "the sum of items times N plus M", "sum(items) * N + M", "list"),
    ("items", "a list of the elements of items times N plus M", "[i * N + M for i in items]", "list"),
    ("items", "a list of the elements of items greater than N", "[i for i in items if i > N]", "list"),
    ("items", "a list of the elements of items divisible by N", "[i for i in items if i % N == 0]", "list"),
    ("items", "items without its last N elements, in reverse order", "items[:-N][::-1]", "list"),
)
WORDS = ("banana", "keyboard", "Tuesday", "continual", "mountain", "Paper plane", "umbrella")
NAMES = ("solve", "compute", "convert", "evaluate")


def functions(random_: random.Random) -> Iterator[dict[str, Any]]:
    """A function of one line, said in words and with one of its tests, as MBPP does."""
    kinds = [(template, n) for template in FUNCTIONS for n in range(2, 10)]
    kinds += [(template, n) for template in FUNCTIONS if "M" in template[2] for n in range(2, 10) for _ in range(2)]
    for (argument, words, body, kind), n in sorted(kinds, key=_order):
        name, m = random_.choice(NAMES), random_.randrange(2, 10)
        for letter, number in (("N", n), ("M", m)):
            body, words = body.replace(letter, str(number)), words.replace(letter, str(number))
        solution = f"def {name}({argument}):\n    return {body}"
        asserts = [_assert(solution, name, _value(kind, random_)) for _ in range(4)]
        question = (
            f"Write a Python function `{name}({argument})` that returns {words}. "
            f"Answer with the code in one ```python block.\nExample: {asserts[0]}"
        )
        tests = {
            "testtype": "code",
            "inputs": asserts,
            "outputs": [""] * len(asserts),
            "fn_name": name,
            "time_limit": 5.0,
            "context": "",
        }
        extra = {"reference_solution": solution}
        yield _row("functions", "coding", words, question, json.dumps(tests), "code_tests", extra)


def calls(folder: Path) -> Iterator[dict[str, Any]]:
    """BFCL, one tool a question; words, tool and label are the source's, the instruction is shorter."""
    for record in _read(folder / "bfcl_simple_python_train.jsonl.gz"):
        truth = json.loads(record["ground_truth"])
        question = record["messages"][0]["content"].rpartition("\n\nQuestion: ")[2]
        content = (
            f"Tool: {json.dumps(truth['functions'][0])}\n\nAnswer with one call of the tool, in two lines:\n"
            f"Action: <tool name>\nAction Input: <JSON object with the arguments>\n\nQuestion: {question}"
        )
        kept = {key: record[key] for key in ("family", "verifier", "ground_truth", "source")}
        key = record["id"].rpartition("/")[2]
        yield {"id": f"calls/{key}", "task": "calls", "messages": [{"role": "user", "content": content}], **kept}


def choice(folder: Path) -> Iterator[dict[str, Any]]:
    """SciKnowEval, chemistry: reactants and products, four options; the instruction is shorter."""
    for record in _read(folder / "sciknoweval_chemistry_train.jsonl"):
        asked = record["messages"][-1]["content"].removesuffix("\nPlease reason step by step.")
        if not any(word in asked for word in ("reactant", "resultant product")):
            continue
        content = f"{asked}\n\nAnswer with the letter of the right option: <answer>letter</answer>"
        kept = {key: record[key] for key in ("family", "verifier", "ground_truth", "source")}
        key = record["id"].rpartition("/")[2]
        yield {"id": f"choice/{key}", "task": "choice", "messages": [{"role": "user", "content": content}], **kept}


def main(folder: Path) -> None:
    """Write all files."""
    tokenizer = load_tokenizer("smollm2")
    made = {
        "sums": sums(random.Random(1)),
        "functions": functions(random.Random(2)),
        "calls": calls(folder),
        "choice": choice(folder),
    }
    TARGET.mkdir(exist_ok=True)
    for name, rows in made.items():
        kept: Rows = []
        lengths: list[tuple[int, int]] = []
        seen: set[str] = set()
        for row in sorted(rows, key=lambda row: _order(row["id"])):
            reference = verifier(row["verifier"]).reference(row["ground_truth"], json.loads(row.get("extra", "{}")))
            if row["id"] in seen:
                continue
            seen.add(row["id"])
            prompt = len(render(tokenizer, row["messages"]))
            answer = len(tokenizer.encode(reference, add_special_tokens=False)) + 1
            if prompt <= PROMPT and answer <= ANSWER:
                kept.append(row)
                lengths.append((prompt, answer))
        for split, chosen in (("test", slice(EVALUATION)), ("train", slice(EVALUATION, EVALUATION + TRAIN))):
            part = kept[chosen]
            with (TARGET / f"{name}_{split}.jsonl").open("w", encoding="utf-8") as file:
                for row in part:
                    file.write(json.dumps(row | {"split": split}, ensure_ascii=False) + "\n")
            prompts, answers = zip(*lengths[chosen], strict=True)
            print(name, split, len(part), "rows; tokens of prompts", sorted(prompts)[len(part) // 2], max(prompts),
                  "of answers", sorted(answers)[len(part) // 2], max(answers))  # fmt: skip


def _row(
    task: str, family: str, key: str, question: str, truth: str, contract: str, extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    digest = hashlib.md5(key.encode()).hexdigest()[:10]
    return {
        "id": f"{task}/{digest}",
        "task": task,
        "messages": [{"role": "user", "content": question}],
        "family": family,
        "verifier": contract,
        "ground_truth": truth,
        "extra": json.dumps(extra or {}),
        "source": OWN,
    }


def _order(thing: object) -> str:
    """A place that depends on the thing alone."""
    return hashlib.md5(repr(thing).encode()).hexdigest()


def _value(kind: str, random_: random.Random) -> Any:
    if kind == "int":
        return random_.randrange(0, 40)
    if kind == "str":
        return random_.choice(WORDS)
    return [random_.randrange(1, 12) for _ in range(random_.randrange(4, 8))]


def _assert(solution: str, name: str, value: Any) -> str:
    space: dict[str, Any] = {}
    exec(solution, space)  # our own line of above
    return f"assert {name}({value!r}) == {space[name](value)!r}"


def _read(path: Path) -> Iterator[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for line in text.decode("utf-8").rstrip("\n").split("\n"):
        yield json.loads(line)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
