"""Processes: some at once, each with its log, all of them told when the sweep is to end."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from lit_sdpo.sweep.record import write_record
from lit_sdpo.sweep.state import LOG, Found, Job, has_checkpoint, look, set_aside

ENDING = (signal.SIGINT, signal.SIGTERM)
#: Exit codes of a process that a signal has ended.
_INTERRUPTED = tuple(code for number in ENDING for code in (128 + number, -number))
#: Seconds between two looks at the processes.
_PAUSE = 0.1


@dataclass(frozen=True)
class Outcome:
    """How a run stands when the sweep ends: finished, failed, interrupted, running (elsewhere) or not started."""

    job: Job
    state: str
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    exit_code: int | None = None


@dataclass
class _Process:
    job: Job
    before: Found
    popen: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)


class Execution:
    """Runs jobs, ``slots`` at once.

    The first SIGINT or SIGTERM is passed on to the processes, which save and leave, and no others are started; each
    further one is passed on too.

    Args:
        jobs: In the order in which they are to start.
        slots: Processes at once.
    """

    def __init__(self, jobs: Sequence[Job], slots: int) -> None:
        self.jobs, self.slots = jobs, slots
        self.outcomes: dict[int, Outcome] = {}
        self.ending = 0
        self._running: dict[int, _Process] = {}
        self._began = time.monotonic()
        self._live = sys.stdout.isatty()

    def run(self) -> list[Outcome]:
        """Run what is not finished yet and return how every job stands."""
        waiting = list(enumerate(self.jobs))
        numbers = {id(job): index for index, job in waiting}
        with _Signals(self._pass_on):
            try:
                while self._running or (waiting and not self.ending):
                    while waiting and len(self._running) < self.slots and not self.ending:
                        index, job = waiting.pop(0)
                        if (outcome := self._start(job)) is not None:
                            self.outcomes[index] = outcome
                    for outcome in self._ended():
                        self.outcomes[numbers[id(outcome.job)]] = outcome
                        self._say(_ended_line(outcome))
                    self._status()
                    time.sleep(_PAUSE if self._running else 0)
            finally:
                for pid in self._running:  # an error of the sweep itself
                    os.kill(pid, signal.SIGTERM)
        for index, job in waiting:
            found = look(job)
            self.outcomes[index] = Outcome(job, "not started" if found.state == "new" else found.state, *found.seconds)
        return [self.outcomes[index] for index in range(len(self.jobs))]

    def _start(self, job: Job) -> Outcome | None:
        """Start a process; the outcome where there is nothing to do."""
        found = look(job)  # another sweep may have been here meanwhile
        if found.state in ("finished", "running"):
            return Outcome(job, found.state, *found.seconds)
        if (
            found.state in ("unfinished", "failed")
            and (job.folder / "config.yaml").exists()
            and not has_checkpoint(job)
        ):
            set_aside(job)  # it begins again: what the first try has logged is not part of it
        job.folder.mkdir(parents=True, exist_ok=True)
        environment = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **os.environ}
        with (job.folder / LOG).open("ab") as log:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            log.write(f"# {now}\n$ {shlex.join(job.command)}\n".encode())
            log.flush()
            # In a session of its own: Ctrl-C reaches it once, through the sweep.
            popen = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self._running[popen.pid] = _Process(job, found, popen)
        if self.ending:  # the signal came while it started
            self._send(popen.pid)
        self._say(f"{'goes on' if has_checkpoint(job) else 'starts':<11} {label(job)}")
        return None

    def _ended(self) -> list[Outcome]:
        outcomes = []
        for pid, process in list(self._running.items()):
            found, status, usage = os.wait4(pid, os.WNOHANG)
            if not found:
                continue
            del self._running[pid]
            code = process.popen.returncode = os.waitstatus_to_exitcode(status)
            wall, cpu = process.before.seconds
            wall += time.monotonic() - process.began
            cpu += usage.ru_utime + usage.ru_stime
            state = "finished" if code == 0 else "interrupted" if code in _INTERRUPTED else "failed"
            write_record(process.job, state, code, wall, cpu)
            outcomes.append(Outcome(process.job, state, wall, cpu, code))
        return outcomes

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.ending = self.ending or number
        if self._running:
            count = len(self._running)
            self._say(f"{signal.Signals(number).name}: {count} running, each saves and leaves; once more ends them now")
        for pid in self._running:
            self._send(pid)

    def _send(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, self.ending)

    # ------------------------------------------------------------------------------------------------------- messages
    def _say(self, line: str) -> None:
        print(f"{_CLEAR if self._live else ''}{line}   [{self._total()}]", flush=True)

    def _status(self) -> None:
        if self._live:
            print(f"{_CLEAR}{self._total()}", end="", flush=True)

    def _total(self) -> str:
        states = [outcome.state for outcome in self.outcomes.values()]
        parts = [f"{states.count('finished')}/{len(self.jobs)} finished"]
        parts += [f"{states.count('failed')} failed"] if "failed" in states else []
        parts += [f"{len(self._running)} running", duration(time.monotonic() - self._began)]
        left = self._remaining()
        return ", ".join(parts + ([] if not left else [f"about {duration(left)} left"]))

    def _remaining(self) -> float | None:
        """Seconds until the end, from the runs of the same name or all of them; ``None`` before the first one ends."""
        done = [outcome for outcome in self.outcomes.values() if outcome.state == "finished" and outcome.wall_seconds]
        if not done:
            return None
        now = time.monotonic()
        running = {
            id(process.job): now - process.began + process.before.seconds[0] for process in self._running.values()
        }
        left = []
        for index, job in enumerate(self.jobs):
            if index in self.outcomes:
                continue
            same = [outcome.wall_seconds for outcome in done if outcome.job.run == job.run]
            seconds = same or [outcome.wall_seconds for outcome in done]
            left.append(max(sum(seconds) / len(seconds) - running.get(id(job), 0.0), 0.0))
        return max(sum(left) / self.slots, max(left, default=0.0))


_CLEAR = "\r\x1b[2K"


class _Signals:
    """Answers signals while it is open."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in ENDING:
            self._before[number] = signal.signal(number, self._answer)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def label(job: Job) -> str:
    """Run and seed."""
    return f"{job.run}/seed={job.seed}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    Example:
        >>> duration(3671.2), duration(59)
        ('1:01:11', '0:59')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def last_lines(path: Path, count: int = 10) -> list[str]:
    """The last lines of a log, empty ones left out."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 20_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


def _ended_line(outcome: Outcome) -> str:
    code = f" with exit code {outcome.exit_code}" if outcome.state == "failed" else ""
    seconds = f"{outcome.wall_seconds:.0f} s, {outcome.cpu_seconds:.0f} s CPU"
    return f"{outcome.state:<11} {label(outcome.job)}{code}: {seconds}"
