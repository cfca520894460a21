"""Writes the rows of the small world: `python configs/small/make_data.py FOLDER`.

FOLDER holds `bfcl_simple_python_train.jsonl.gz` and `sciknoweval_chemistry_train.jsonl` in the package's row format
(`docs/data.md`), with their sources in each row; `calls` and `choice` are taken from them. `sums`, `units` and
`functions` are drawn here. What is written is in `configs/small/data/` already; the script says how it came about.
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


#: Two things that a function of a list asks of its elements, what it makes of each, and what of them all; K, M and N
#: are numbers.
FILTERS = (
    ("divisible by N and greater than K", "i % N == 0 and i > K"),
    ("not divisible by N and less than K", "i % N != 0 and i < K"),
    ("greater than N or divisible by K", "i > N or i % K == 0"),
    ("greater than N and not equal to K", "i > N and i != K"),
    ("less than K and greater than N", "N < i < K"),
    ("divisible by N or by K", "i % N == 0 or i % K == 0"),
)
EACH = (("the squares", "i ** 2"), ("M times", "i * M"), ("M plus", "i + M"), ("the remainders by M", "i % M"))
ALL = (
    ("the sum", "sum({})"),
    ("the largest", "max([{}], default=0)"),
    ("a list", "[{}]"),
    ("a sorted list", "sorted({})"),
)
#: The same of the words of a text.
WORDS_OF = (
    ("the first N characters of each word of text, joined by '-'", "'-'.join(w[:N] for w in text.split())"),
    ("the words of text longer than N characters, as a list", "[w for w in text.split() if len(w) > N]"),
    ("the words of text in reverse order, each repeated N times, as a list", "[w * N for w in text.split()[::-1]]"),
    ("how many words of text have at least N characters", "sum(len(w) >= N for w in text.split())"),
    (
        "the N-th characters of the words of text longer than N, as a list",
        "[w[N - 1] for w in text.split() if len(w) > N]",
    ),
    ("the lengths of the words of text times N, as a list", "[len(w) * N for w in text.split()]"),
    ("the words of text without their first N characters, joined by a space", "' '.join(w[N:] for w in text.split())"),
    ("the last word of text repeated N times in upper case", "text.split()[-1].upper() * N"),
)
TEXTS = (
    "the quick brown fox jumps",
    "models forget what they learned",
    "a stream of four stages",
    "every teacher moves slowly",
    "rain fell on the old harbour",
)
NAMES = ("solve", "compute", "convert", "evaluate")


def functions(random_: random.Random) -> Iterator[dict[str, Any]]:
    """A function of one line, said in words and with one of its tests, as MBPP does."""
    kinds = [("text", words, body) for words, body in WORDS_OF]
    for taken, test in FILTERS:
        for made, value in EACH:
            for told, whole in ALL:
                of = f"{made} the elements" if made[0] == "M" else f"{made} of the elements"
                words = f"{told} of {of} of items that are {taken}"
                kinds.append(("items", words, whole.format(f"{value} for i in items if {test}")))
    numbered = [(kind, n) for kind in kinds for n in range(2, 8)]
    for (argument, words, body), n in sorted(numbered, key=_order):
        name, m, k = random_.choice(NAMES), random_.randrange(2, 10), n + random_.randrange(1, 8)
        for letter, number in (("N", n), ("M", m), ("K", k)):
            body, words = body.replace(letter, str(number)), words.replace(letter, str(number))
        solution = f"def {name}({argument}):\n    return {body}"
        asserts = [_assert(solution, name, _value(argument, random_)) for _ in range(4)]
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


#: From a unit to another: both with their symbols, the factor and what is added.
UNITS = (
    ("hours", "minutes", 60, 0),
    ("minutes", "seconds", 60, 0),
    ("days", "hours", 24, 0),
    ("weeks", "days", 7, 0),
    ("degrees Celsius", "kelvins (to whole numbers)", 1, 273),
    ("kilometres", "metres", 1000, 0),
    ("metres", "centimetres", 100, 0),
    ("litres", "millilitres", 1000, 0),
    ("kilograms", "grams", 1000, 0),
    ("dozens", "pieces", 12, 0),
)


def units(random_: random.Random) -> Iterator[dict[str, Any]]:
    """A quantity in another unit."""
    asked = [(unit, number) for unit in UNITS for number in range(2, 100)]
    for (before, after, factor, added), number in sorted(asked, key=_order):
        question = f"How many {after} are {number} {before}? Give only the number: <answer>number</answer>"
        yield _row("units", "science", question, question, str(number * factor + added), "exact_answer")


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
        "units": units(random.Random(3)),
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
        if name == "choice":  # a probe
            kept = kept[:EVALUATION]
        for split, chosen in (("test", slice(EVALUATION)), ("train", slice(EVALUATION, EVALUATION + TRAIN))):
            part = kept[chosen]
            if not part:
                continue
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


def _value(argument: str, random_: random.Random) -> Any:
    if argument == "text":
        return random_.choice(TEXTS)
    return [random_.randrange(1, 20) for _ in range(random_.randrange(5, 8))]


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
