"""The judgement of :mod:`lit_sdpo.report.health` on a recorded run: ``python -m lit_sdpo.report.replay RUN``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from lit_sdpo.report.events import scalars
from lit_sdpo.report.health import METRICS, RULES, Health, Rule, State, Watch


def replay(
    run: str | Path, metrics: Mapping[str, str] = METRICS, window: int = 9, rules: Sequence[Rule] = RULES
) -> list[tuple[int, int, Health]]:
    """Judge a recorded run.

    Args:
        run: Folder with its event files.
        metrics: Where each signal was logged.
        window: Steps in a median.
        rules: What gives points.

    Returns:
        Step, stage (the logged epoch) and judgement of every step at which a signal was logged.
    """
    logged = scalars(run)
    stages = dict(logged.get("epoch", ()))
    table: dict[int, dict[str, float]] = {}
    for signal, tag in metrics.items():
        for step, value in logged.get(tag, ()):
            table.setdefault(step, {})[signal] = value
    watch, judged, stage = Watch(window, rules), [], 0
    for step, values in sorted(table.items()):
        if (now := int(stages.get(step, stage))) != stage:
            stage = now
            watch.start_stage()
        judged.append((step, stage, watch.see(values)))
    return judged


def turns(judged: Iterable[tuple[int, int, Health]]) -> Iterator[tuple[int, int, Health]]:
    """Only the steps at which the state changes."""
    before: tuple[int, State] = (0, "healthy")
    for step, stage, health in judged:
        if (stage, health.state) != before and (health.state != "healthy" or before[1] != "healthy"):
            yield step, stage, health
        before = (stage, health.state)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print when the state of recorded runs changed, and why."""
    parser = argparse.ArgumentParser(prog="python -m lit_sdpo.report.replay", description=main.__doc__)
    parser.add_argument("run", nargs="+", help="folder of a run with TensorBoard's event files")
    parser.add_argument("--window", type=int, default=9, help="steps in a median (9)")
    options = parser.parse_args(arguments)
    for run in options.run:
        print(run)
        changes = list(turns(replay(run, window=options.window)))
        for step, stage, health in changes:
            print(f"  stage {stage}, step {step}: {health}")
        if not changes:
            print("  healthy throughout")


if __name__ == "__main__":
    main()
