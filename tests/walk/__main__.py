"""Runs the walk, or a part of it, and tells what was wrong; ``python -m tests.walk --help``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch.utils.tensorboard._utils import figure_to_image

from lit_sdpo.cli import run
from lit_sdpo.dry_run import BuildOnly
from tests.walk.contexts import Context, contexts, parts
from tests.walk.inputs import Input, inputs, judge, shuffled
from tests.walk.trial import MARK, Ended, Trial

#: Runs of the sample that continuous integration walks through.
FEW = ("grpo", "DemoPSD", "EMATeacher")


class Walk:
    """Inputs that are run a few at a time, each judged by the run without it.

    Args:
        workers: How many run at once.
        seconds: Wall time that an input may take.
        record: File that keeps what was found; what is in it, of the same code, is not run again.
    """

    def __init__(self, workers: int = 2, seconds: float = 600, record: Path | None = None) -> None:
        self.workers, self.seconds, self.record = workers, seconds, record
        #: What was wrong with an input, by its name; nothing where it was right.
        self.found: dict[str, str] = {}
        self._results: dict[str, dict[str, str]] = {}  # of the runs without an input, by their names
        self._unjudged: list[tuple[Input, Ended]] = []
        for line in record.read_text().splitlines() if record and record.exists() else ():
            self._keep(json.loads(line))

    def run(self, tried: Sequence[Input]) -> None:
        """Run all inputs that are not in the record, with progress on standard error."""
        queue = [each for each in tried if each.name not in self.found]
        total, done = len(queue), 0
        running: list[tuple[Input, Trial]] = []
        while queue or running:
            while queue and len(running) < self.workers:
                running.append((queue[0], Trial(queue[0].config, self.seconds)))
                del queue[0]
            for each, trial in list(running):
                if (ended := trial.ended()) is None:
                    continue
                running.remove((each, trial))
                if self._needs_comparison(each, ended):
                    queue.insert(0, Input(each.context, each.context.name, (), each.context.config))
                self._see(each, ended)
                done += bool(each.keys)
                print(f"{done} of {total}", end="\r", file=sys.stderr, flush=True)
            time.sleep(0.02)

    def _needs_comparison(self, tried: Input, ended: Ended) -> bool:
        """Whether the run without an input has to be run, which only what ends well is compared with."""
        name = tried.context.name
        asked = any(each.context.name == name for each, _ in self._unjudged)
        return bool(tried.keys) and ended.code == 0 and name not in self._results and not asked

    def _see(self, tried: Input, ended: Ended) -> None:
        if not tried.keys:
            if ended.code != 0:
                raise RuntimeError(f"the run {tried.name} fails without an input:\n{ended.errors}")
            self._note({"run": tried.name, "results": ended.results})
        else:
            self._unjudged.append((tried, ended))
        for each, end in list(self._unjudged):
            name = each.context.name
            if end.code == 0 and name not in self._results:
                continue
            self._unjudged.remove((each, end))
            wrong, took = judge(each, end, self._results.get(name, {})), round(end.seconds, 1)
            self._note({"name": each.name, "wrong": wrong, "code": end.code, "message": end.message, "seconds": took})

    def _note(self, line: dict[str, Any]) -> None:
        self._keep(line)
        if self.record is not None:
            with self.record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _keep(self, line: dict[str, Any]) -> None:
        if "run" in line:
            self._results[line["run"]] = line["results"]
        else:
            self.found[line["name"]] = line["wrong"]


def warm_up(context: Context) -> None:
    """Do here what every run does once, such as late imports, so that no input pays for it."""
    Path("context.yaml").write_text(json.dumps(context.config))
    made = run(["fit", "--config", "context.yaml"], BuildOnly)
    made.datamodule.setup("fit")
    made.model.configure_model()
    figure_to_image(plt.figure())
    os.environ.pop("PL_GLOBAL_SEED", None)  # an input without a seed would have this one


def main() -> int:
    """Returns 0 where everything was right."""
    parser = argparse.ArgumentParser(prog="python -m tests.walk", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="every input")
    which.add_argument("--sample", type=int, metavar="N", help="N inputs of a few runs, the same ones each time")
    which.add_argument("--only", metavar="TEXT", help="inputs whose name holds this text")
    parser.add_argument("--first", type=int, metavar="N", help="N of them, the same ones each time")
    parser.add_argument("--list", action="store_true", help="say what would be tried")
    parser.add_argument("--record", type=Path, help="file that keeps what was found; a walk goes on from it")
    parser.add_argument("--workers", type=int, default=2, help="how many run at once")
    parser.add_argument("--seconds", type=float, default=600, help="time that one input may take")
    arguments = parser.parse_args()
    walk = Walk(arguments.workers, arguments.seconds, arguments.record and arguments.record.absolute())
    warnings.simplefilter("ignore")
    os.chdir(tempfile.mkdtemp(prefix="walk-"))
    chosen = [each for each in contexts() if not arguments.sample or each.name in FEW]
    tried = shuffled(inputs(chosen if arguments.sample else [*chosen, *parts()]))
    tried = [each for each in tried if not arguments.only or arguments.only in each.name]
    tried = tried[: arguments.sample or arguments.first]
    if arguments.list:
        print("\n".join(each.name for each in tried))
        return 0
    warm_up(chosen[0])
    walk.run(tried)
    wrong = [each.name for each in tried if walk.found[each.name]]
    for name in wrong:
        print(f"{name}\n    {walk.found[name]}")
    print(f"{len(tried) - len(wrong)} right, {len(wrong)} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    if MARK in os.environ:
        sys.exit("a process of the walk does not walk")
    torch.set_num_threads(1)
    sys.exit(main())
