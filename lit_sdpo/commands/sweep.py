"""``lit-sdpo sweep``: runs configurations times seeds, each in a process and a folder of its own."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lit_sdpo.commands.arguments import positive
from lit_sdpo.errors import UserError
from lit_sdpo.sweep.execution import Execution, Outcome, duration, label, last_lines
from lit_sdpo.sweep.plan import Sweep, read_seeds, read_sweep
from lit_sdpo.sweep.resolved import folder_arguments, resolve
from lit_sdpo.sweep.state import LOG, Found, Job, look, set_aside
from lit_sdpo.text import printable_lines, said


def main(arguments: Sequence[str]) -> int:
    """Run ``lit-sdpo sweep SWEEP.yaml``.

    Args:
        arguments: Those after ``sweep``.

    Returns:
        0 when every run is finished, 1 when one is not, 130 or 143 after SIGINT or SIGTERM.

    Raises:
        UserError: A mistake in the arguments, the sweep or one of its configurations.
    """
    options = _parser().parse_args(arguments)
    sweep = read_sweep(Path(options.sweep)).only(options.only)
    output = Path(options.out) if options.out else sweep.output
    jobs = make_jobs(sweep, read_seeds(options.seeds), output, check=not options.print_commands)
    found = [look(job) for job in jobs]
    if options.dry_run:
        print(printable_lines(_plan(jobs, found)))
        return 0
    _mend_changed(jobs, found, redo=options.redo)
    if options.print_commands:
        states = [look(job).state for job in jobs]
        for job, state in zip(jobs, states, strict=True):
            if state not in ("finished", "running"):
                print(shell_line(job))
        if "new" in states:
            print("note: configurations of new runs are not checked here; --dry-run does", file=sys.stderr)
        return 0
    execution = Execution(jobs, options.jobs)
    outcomes = execution.run()
    print(_table(outcomes))
    if execution.ending:
        return 128 + execution.ending
    for outcome in outcomes:
        if outcome.state == "failed":
            path = outcome.job.folder / LOG
            lines = [f"\n{path} ends with", *(f"  {line}" for line in last_lines(path))]
            print(said("\n".join(lines)), file=sys.stderr)
    return 0 if all(outcome.state == "finished" for outcome in outcomes) else 1


def make_jobs(sweep: Sweep, seeds: Sequence[int], output: Path, *, check: bool = True) -> list[Job]:
    """Every run with every seed; all runs of the first seed come first, so that a half-done sweep compares them.

    Args:
        sweep: The sweep.
        seeds: Its seeds.
        output: Folder of the whole sweep.
        check: Read every configuration now; without, those that something is compared with.

    Raises:
        UserError: A configuration has a mistake.
    """
    configs = resolve(sweep.runs, output)
    if check:
        for config in configs.values():
            config.read()
    program = (sys.executable, "-m", "lit_sdpo", "fit")
    return [
        Job(
            run.name,
            seed,
            output,
            (*program, *run.arguments(), *folder_arguments(output, run.name, seed)),
            configs[run.name],
        )
        for seed in seeds
        for run in sweep.runs
    ]


def shell_line(job: Job) -> str:
    """What a shell is given to do a job elsewhere, from any folder."""
    folder = shlex.quote(str(job.folder))
    threads = "OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}"
    return (
        f"cd {shlex.quote(os.getcwd())} && mkdir -p {folder} && "
        f"{threads} {shlex.join(job.command)} >> {folder}/{LOG} 2>&1"
    )


def _mend_changed(jobs: Sequence[Job], found: Sequence[Found], *, redo: bool) -> None:
    """Move what another configuration has left out of the way, if that is wanted.

    Raises:
        UserError: It is not.
    """
    changed = [(job, each) for job, each in zip(jobs, found, strict=True) if each.state == "changed"]
    if changed and not redo:
        named = dict.fromkeys((job.run, each.changes) for job, each in changed)
        lines = [f"  {run}: {line}" for run, changes in named for line in changes[:5]]
        raise UserError(
            "\n".join([f"made with another configuration ({len(changed)} of {len(jobs)}):", *lines]),
            where=str(jobs[0].output),
            fix="give them other names or another --out, or repeat them with --redo",
        )
    for job, _ in changed:
        print(f"set aside   {label(job)}: now in {set_aside(job)}", file=sys.stderr)


def _plan(jobs: Sequence[Job], found: Sequence[Found]) -> str:
    rows = [
        (job.run, str(job.seed), each.state, str(job.folder), "; ".join(each.changes[:3]))
        for job, each in zip(jobs, found, strict=True)
    ]
    return "\n".join([_aligned([("run", "seed", "state", "folder", ""), *rows]), "", _count(e.state for e in found)])


def _table(outcomes: Sequence[Outcome]) -> str:
    rows = [
        (o.job.run, str(o.job.seed), o.state, *(f"{s:.0f}" if s else "-" for s in (o.wall_seconds, o.cpu_seconds)))
        for o in outcomes
    ]
    total = duration(sum(outcome.cpu_seconds for outcome in outcomes))
    count = f"{_count(outcome.state for outcome in outcomes)}; {total} of CPU time"
    return "\n".join(["", _aligned([("run", "seed", "state", "seconds", "CPU seconds"), *rows]), "", count])


def _count(states: object) -> str:
    counted = Counter(states)  # type: ignore[call-overload]
    number = sum(counted.values())
    return f"{number} run{'s' * (number != 1)}: " + ", ".join(f"{count} {state}" for state, count in counted.items())


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lit-sdpo sweep",
        description="Run configurations times seeds, each in a process and folder of its own; go on where it stopped.",
        allow_abbrev=False,
    )
    parser.add_argument("sweep", metavar="SWEEP.yaml", help="names the runs and their configuration files")
    parser.add_argument("--seeds", default="0", help="such as 0-4 or 0,3,7 (default: 0)")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="RUN", help="names or patterns such as 'sdpo*' (default: every run)"
    )
    parser.add_argument("--jobs", type=positive, metavar="N", default=_cores(), help="processes at once (all cores)")
    parser.add_argument("--out", metavar="DIR", help="folder of the sweep (default: the file's, or runs/<name>)")
    parser.add_argument("--redo", action="store_true", help="repeat runs whose configuration has changed")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="show the runs and how far each has come")
    what.add_argument("--print-commands", action="store_true", help="print a shell command for each run to be done")
    return parser


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
