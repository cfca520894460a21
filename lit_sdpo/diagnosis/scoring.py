"""Rewards scored twice: a reference answer is right, an empty one is not, and neither changes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lit_sdpo.data.task import Row, Task
from lit_sdpo.diagnosis.findings import Finding
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.combine import Scores, WeightedRewards
from lit_sdpo.rewards.pool import verify_all
from lit_sdpo.rollouts.generate import rewarded

if TYPE_CHECKING:
    from lit_sdpo.diagnosis.configuration import Run

#: Rows of each task that are scored.
ROWS = 8


def rewards(run: Run) -> Iterator[Finding]:
    """Each task's verifier, with the further rewards of the run."""
    imitated = run.module.learns_from == "reference"
    seen: set[str] = set()
    for where, task, rows in run.sets:
        if task.name not in seen:
            seen.add(task.name)
            try:
                yield from reward_findings(where, task, rows[:ROWS], run.rollout.rewards, imitated)
            except UserError as error:
                yield Finding("rewards", "problem", f"{where}: {error.what}", error.fix or "correct it")


def reward_findings(
    where: str, task: Task, rows: Sequence[Row], combined: WeightedRewards, imitated: bool = False
) -> Iterator[Finding]:
    """Score reference answers and empty ones, twice each.

    Args:
        where: Names the rows.
        task: Judges.
        rows: Some of its rows.
        combined: The verifier with further rewards.
        imitated: Reference answers are trained on, right or wrong, and nothing else is.
    """
    with_reference = [row for row in rows if row.reference is not None]
    answers = [*(row.reference or "" for row in with_reference), *("" for _ in rows)]
    asked = [*with_reference, *rows]
    first, _ = _score(task, answers, asked, combined)  # starts what has to be started
    second, seconds = _score(task, answers, asked, combined)
    each = f"{1000 * seconds / len(answers):.1f} ms an answer"
    fine = True
    for name in first.components:
        a, b = first.components[name], second.components[name]
        changed = [
            row.id for row, x, y in zip(asked, a.tolist(), b.tolist(), strict=True) if x != y and (x == x or y == y)
        ]
        if changed:
            fine = False
            text = f"{where}: {name} scores the same answer differently ({changed[0]})"
            yield Finding("rewards", "problem", text, "remove what is random or depends on time in it")
    scores = first.components["verifier"].tolist()
    of_reference, of_nothing = scores[: len(with_reference)], scores[len(with_reference) :]
    wrong = [(row, x) for row, x in zip(with_reference, of_reference, strict=True) if x != 1]
    if wrong:
        fine = False
        row, score = wrong[0]
        got = "no score" if score != score else f"{score:g}"
        text = f"{where}: {len(wrong)} of {len(with_reference)} reference answers do not score 1 (row {row.id}: {got})"
        fix = "look at the row, its verifier and the answer's format"
        yield Finding("rewards", "note" if imitated else "problem", text, fix)
    lucky = [(row, x) for row, x in zip(rows, of_nothing, strict=True) if x == x and x > 0]
    if lucky:
        fine = False
        row, score = lucky[0]
        text = f"{where}: an empty answer scores {score:g} (row {row.id})"
        yield Finding("rewards", "problem", text, "a verifier has to give 0 for it")
    silent = sum(x != x for x in of_nothing)
    if silent:
        fine = False
        yield Finding("rewards", "note", f"{where}: {silent} of {len(rows)} empty answers get no score rather than 0")
    if not with_reference:
        yield Finding(
            "rewards", "note", f"{where}: rows have no reference answer to score; an empty one scores 0, {each}"
        )
    elif fine:
        text = f"{where}: {len(with_reference)} reference answers score 1, empty ones 0, the same twice; {each}"
        yield Finding("rewards", "ok", text)


def _score(task: Task, answers: list[str], rows: list[Row], combined: WeightedRewards) -> tuple[Scores, float]:
    started = time.perf_counter()
    verdicts = verify_all(task, answers, rows)
    scores = rewarded(combined, verdicts, rows, answers, [[] for _ in answers])
    return scores, time.perf_counter() - started
