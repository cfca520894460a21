"""CPU seconds until a command has answered or an import is ready, beside another checkout or the libraries alone.

Each entry runs in a new interpreter, once to fill the caches and then ``--repeats`` times, taking turns; the figures
are medians of user plus system time. Prints a table and, as its last line, the same numbers as JSON.

    python -m benchmarks.startup                        # commands and imports of this checkout
    python -m benchmarks.startup --against ../older     # the same of another checkout
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.report.made_runs import flat, on_disk

TORCH, LIGHTNING = "import torch", "import lightning.pytorch, jsonargparse"
OLDER = "the other checkout"


@dataclass(frozen=True)
class Entry:
    """What is started.

    Attributes:
        program: An import, or the words of a command.
        most: What it may take at most: a number of seconds, or a share of what ``of`` takes.
        of: Another entry, or the same of the other checkout; empty for seconds.
    """

    program: str | tuple[str, ...]
    most: float | None = None
    of: str = ""


def entries(folder: Path) -> dict[str, Entry]:
    """All of them by name; the files that commands read are made in a folder."""
    sample = {"id": "a/0", "task": "a", "stage": 1, "step": 1, "split": "train", "prompt": [], "completion": "1"}
    (folder / "samples.jsonl").write_text(json.dumps({**sample, "reward": 1.0, "length": 1, "flags": []}) + "\n")
    configs = "configs/micro"  # of each checkout its own, in whose folder it is started
    on_disk(folder / "runs" / "mine" / "seed=0", [{"a": flat(x, 4), "b": flat(x, 4)} for x in (0.25, 0.5, 0.75)])
    rows = str(Path(__file__).resolve().parents[1] / "tests" / "data" / "files" / "gsm8k_test.jsonl")
    sweep = ("sweep", f"{configs}/claims.yaml", "--seeds", "0", "--out", f"{folder}/out", "--print-commands")
    return {
        TORCH: Entry(TORCH),
        LIGHTNING: Entry(LIGHTNING),
        "import lit_sdpo": Entry("import lit_sdpo", 0.1),
        "import lit_sdpo.functional": Entry("import lit_sdpo.functional", 1.1, TORCH),
        "--help": Entry(("--help",), 0.15, OLDER),
        "--version": Entry(("--version",), 0.15, OLDER),
        "samples --help": Entry(("samples", "--help"), 0.15, OLDER),
        "report --help": Entry(("report", "--help"), 0.15, OLDER),
        "samples RUN": Entry(("samples", str(folder))),
        "report RUNS": Entry(("report", f"{folder}/runs", "-o", f"{folder}/report")),
        "data check FILE": Entry(("data", "check", rows)),
        "sweep --print-commands": Entry(sweep),
        "fit --help": Entry(("fit", "--help"), 1.1, LIGHTNING),
        "fit --print_config": Entry(("fit", f"--config={configs}/grpo.yaml", "--print_config"), 1.1, LIGHTNING),
    }


def cpu_seconds(program: str | tuple[str, ...], checkout: Path) -> float:
    """User and system time of an interpreter that runs a program with the package of a checkout.

    Raises:
        SystemExit: It has failed.
    """
    words = ["-m", "lit_sdpo", *program] if isinstance(program, tuple) else ["-c", program]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], cwd=checkout, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{program} in {checkout} ended with {done.returncode}: {done.stderr[-500:]}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def share(entry: Entry, name: str, here: Mapping[str, float], older: Mapping[str, float]) -> float | None:
    """What an entry takes of what it is compared with; ``None`` where nothing is."""
    compared = older.get(name) if entry.of in ("", OLDER) else here.get(entry.of)
    return None if compared is None else here[name] / compared


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="folder of another checkout")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], help="entries whose name holds one of these")
    options = parser.parse_args(arguments)
    here = Path(__file__).resolve().parents[1]
    sides = {"here": here, **({"older": options.against.resolve()} if options.against else {})}
    with tempfile.TemporaryDirectory() as folder:
        every = entries(Path(folder))
        chosen = {name: e for name, e in every.items() if not options.only or any(x in name for x in options.only)}
        # Of the other checkout what is compared with it, and what is no more than an import.
        shared = {name for name, entry in chosen.items() if entry.of == OLDER or isinstance(entry.program, str)}
        taken: dict[str, dict[str, list[float]]] = {
            side: {name: [] for name in chosen if side == "here" or name in shared} for side in sides
        }
        for repeat in range(options.repeats + 1):
            for name, entry in chosen.items():
                for side in [side for side in sides if name in taken[side]]:
                    checkout = sides[side]
                    seconds = cpu_seconds(entry.program, checkout)
                    if repeat:  # the first one compiles and reads from disk
                        taken[side][name].append(seconds)
    medians = {
        side: {name: statistics.median(values) for name, values in found.items()} for side, found in taken.items()
    }
    mine, older = medians["here"], medians.get("older", {})
    for name, entry in chosen.items():
        told = "" if name not in older else f"{older[name]:8.3f} s older"
        ratio = share(entry, name, mine, older)
        part = "" if ratio is None else f"{ratio:6.3f} of {entry.of or OLDER}"
        bar = "" if entry.most is None else f"at most {entry.most}{'' if entry.of else ' s'}"
        print(f"{name:42} {mine[name]:8.3f} s  {told:18} {part:50} {bar}")
    print(json.dumps({side: {name: round(x, 3) for name, x in found.items()} for side, found in medians.items()}))


if __name__ == "__main__":
    main()
