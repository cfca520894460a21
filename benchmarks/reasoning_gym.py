"""Which wrong answers to puzzles of reasoning_gym are taken for right, by the package's scorers and by the contract.

``python -m benchmarks.reasoning_gym`` makes puzzles of every generator and tries constants, the right answer with
something before or behind it, and the answers to other puzzles. It prints the table of docs/reasoning_gym.md, what the
contract takes for right of it, and as its last line the same numbers as JSON. ``--only knights_knaves puzzle24`` takes
some generators, ``--puzzles`` more of each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

from lit_sdpo.rewards.gym.rules import DECIDED, GUARDS, UNSOUND
from lit_sdpo.rewards.gym.verifier import ReasoningGym

CONSTANTS = [
    *(
        "nan",
        "inf",
        "-inf",
        "1e999",
        "0",
        "1",
        "-1",
        "7",
        "24",
        "0.0",
        "1/0",
        "1*2*3*4",
        "0j",
        "x",
        "C",
        "A",
        "a",
        "?",
        ".",
    ),
    *(
        "None",
        "null",
        "True",
        "False",
        "yes",
        "No",
        "[]",
        "{}",
        "()",
        "[[]]",
        "[{}]",
        '""',
        "''",
        "_",
        "Q",
        "U",
        "up",
        "infeasible",
    ),
    *(
        "00:00",
        "0 days",
        "0 days, 00:00",
        "(P → P)",
        "¬(P ∧ ¬P)",
        "P",
        "I do not know",
        "=",
        "A=1",
        "A=1,B=2",
        "Move",
        "oo",
        "zoo",
    ),
]
BEHIND = [
    " or 7",
    " or x",
    " or a liar",
    "0",
    "1",
    ".0.0",
    "x",
    "ab",
    "\nx",
    " and more",
    " C",
    ")",
    "'",
    " # x",
    ", 7",
    ",",
    ":00",
]
BEFORE = ["-", "x", "not ", "It is ", "-0", "1", "7 or ", "["]
#: Where the right answer stands in entries that have none.
HIDDEN = {
    "graph_color": "possible_answer",
    "rubiks_cube": "example_correct_answer",
    "propositional_logic": "example_answer",
}


def right_answer(name: str, entry: dict[str, Any]) -> str | None:
    """A right answer to a puzzle as text, if the entry holds one."""
    answer = entry["answer"] if entry["answer"] is not None else entry["metadata"].get(HIDDEN.get(name, ""))
    return answer if answer is None or isinstance(answer, str) else json.dumps(answer)


def wrong_answers(right: str | None, others: list[str]) -> Iterator[str]:
    """Answers to a puzzle that are not right."""
    yield from CONSTANTS
    if right is None:
        return
    yield from (right + some for some in BEHIND)
    yield from (some + right for some in BEFORE)
    yield from (right + right, f"{right} {right}", f"{right}, {right}", right[:-1], right[1:])
    yield from others


def same(given: str, right: str | None) -> bool:
    """Whether it is the right answer after all: the same text, or the same number."""
    if right is None or given.strip().casefold() == right.strip().casefold():
        return right is not None
    try:
        return Decimal(given.replace(",", "")) == Decimal(right.replace(",", ""))
    except InvalidOperation:
        return False


@contextlib.contextmanager
def seconds(limit: int) -> Iterator[None]:
    """Raise a TimeoutError after so many seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def package_score(scorer: Any, answer: str, entry: dict[str, Any]) -> float:
    """What the package gives; 0 where its scorer raises."""
    try:
        with seconds(10):
            return float(scorer.score_answer(answer=answer, entry=json.loads(json.dumps(entry, default=str))))
    except Exception:
        return 0.0


def audit(name: str, puzzles: int, seed: int = 42) -> dict[str, Any]:
    """Counts for one generator."""
    import reasoning_gym

    data = reasoning_gym.create_dataset(name, size=puzzles, seed=seed)
    entries = [json.loads(json.dumps(data[n], default=str)) for n in range(puzzles)]
    rights = [right_answer(name, entry) for entry in entries]
    contract = ReasoningGym()
    counts: dict[str, Any] = {"generator": name, "puzzles": puzzles, "tried": 0, "package": 0, "here": 0, "above_1": 0}
    counts |= {"right_refused": 0, "judged": 0, "package_examples": {}, "here_examples": []}
    for n, (entry, right) in enumerate(zip(entries, rights, strict=True)):
        truth = json.dumps({"dataset": name, "entry": entry})
        if right and right.strip() and name not in UNSOUND:
            counts["judged"] += 1
            counts["right_refused"] += contract.judge(f"<answer>{right}</answer>", truth).score != 1.0
        others = [other for other in (rights[n - 1], rights[n - 2], rights[n - 3]) if other is not None]
        for given in dict.fromkeys(wrong_answers(right, others)):
            if same(given, right) or not given.strip():
                continue
            counts["tried"] += 1
            score = package_score(data, given, entry)
            counts["above_1"] += score > 1
            if score >= 1:
                counts["package"] += 1
                shown = "ANSWER".join(given.split(right)) if right and len(right) > 3 else given
                counts["package_examples"][shown] = counts["package_examples"].get(shown, 0) + 1
            if name not in UNSOUND:
                with seconds(20):
                    ours = contract.judge(f"<answer>{given}</answer>", truth).score
                if ours != 0.0:
                    counts["here"] += 1
                    counts["here_examples"].append([entry["question"][-300:], right, given, ours])
    return counts


def decided_by(name: str) -> str:
    """What decides in the contract."""
    if name in UNSOUND:
        return "refused"
    return "form, then the package" if name in GUARDS else "own rule" if name in DECIDED else "equality"


def row(counts: dict[str, Any]) -> str:
    """A row of the table."""
    often = sorted(counts["package_examples"].items(), key=lambda pair: -pair[1])[:3]
    shown = ", ".join(f"`{given[:24]!r}` {count}".replace("|", "¦").replace("\n", " ") for given, count in often)
    name = counts["generator"]
    here = "-" if name in UNSOUND else str(counts["here"])
    return f"| `{name}` | {decided_by(name)} | {counts['tried']} | {counts['package']} | {here} | {shown} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--puzzles", type=int, default=20, help="of each generator")
    parser.add_argument("--only", nargs="*", help="generators; all of the package")
    options = parser.parse_args()
    from reasoning_gym.factory import DATASETS

    print("| generator | decided by | tried | right by the package | right here | what the package accepts |")
    print("|---|---|--:|--:|--:|---|")
    every = []
    for name in options.only or sorted(set(DATASETS) - {"composite"}):
        every.append(audit(name, options.puzzles))
        print(row(every[-1]), flush=True)
    for counts in every:
        for question, right, given, score in counts["here_examples"]:
            print(f"{counts['generator']}: {given!r} scores {score}; right is {right!r}\n    {question[-120:]!r}")
    print(json.dumps(every, ensure_ascii=False))


if __name__ == "__main__":
    main()
