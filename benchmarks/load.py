"""A long run with a lot to do: does it end, and leave memory, files and processes as it should?

``python -m benchmarks.load`` trains twenty stages of fifty steps over fifty tasks, with 2,000 evaluation prompts in
all and 64 completions for each prompt of a step, on the micro world's model, in a process of its own. Its resident
memory is read every second. The numbers are the memory in each tenth of the time, the files that the run has left by
kind, and the processes that have not ended with it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.common import parser, report

TASKS, STAGES, STEPS, PROMPTS, GENERATIONS = 50, 20, 50, 2_000, 64


def write_tasks(folder: Path, count: int, prompts: int) -> list[dict[str, Any]]:
    """Tasks of sums, each with files of its own."""
    found = []
    for number in range(count):
        paths = {}
        for split, size in (("train", 64), ("validation", prompts // count)):
            path = folder / f"sums_{number}_{split}.jsonl"
            sums = [(17 * n % 90 + number, 31 * n % 90) for n in range(size)]
            rows = [
                {"id": f"{number}/{split}/{n}", "prompt": f"{a} + {b}", "answer": str(a + b)}
                for n, (a, b) in enumerate(sums)
            ]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            paths[split] = str(path)
        columns = {"prompt": "prompt", "answer": "answer"}
        options = {"name": f"sums_{number}", "verifier": "exact_text", "columns": columns, **paths}
        found.append({"class_path": "JsonlTask", "init_args": options})
    return found


def configuration(
    folder: Path, *, tasks: int, stages: int, steps: int, prompts: int, generations: int
) -> dict[str, Any]:
    """The run as its file gives it."""
    made = write_tasks(folder, tasks, prompts)
    stream = [{"task": task, "steps": steps, "prompts_per_step": 1} for task in made[:stages]]
    data = {"stages": stream, "probes": made[stages:], "eval_prompts": prompts, "eval_generations": 1}
    return {
        "seed_everything": 1,
        "model": {"class_path": "GRPO", "init_args": {"model_name": "micro"}},
        "data": {"class_path": "ContinualDataModule", "init_args": data},
        "rollout": {"num_generations": generations, "sampling": {"max_new_tokens": 8}},
        "checkpoint": {"keep": 2},
        "trainer": {
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "callbacks": [{"class_path": "ParameterDrift"}, {"class_path": "ArtifactMonitor"}],
            "logger": {
                "class_path": "TensorBoardLogger",
                "init_args": {"save_dir": str(folder / "runs"), "name": "load"},
            },
        },
    }


def resident(pid: int) -> float | None:
    """Resident memory of a process in MiB; ``None`` where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")]
    return sizes[0] if sizes else None


def left_over(session: int) -> list[str]:
    """Commands of the processes of a session that still run."""
    found = subprocess.run(["ps", "-o", "args=", "-s", str(session)], capture_output=True, text=True, check=False)
    return found.stdout.splitlines()


def run(folder: Path, config: dict[str, Any]) -> dict[str, object]:
    """Train, and say what was seen."""
    path = folder / "load.json"
    path.write_text(json.dumps(config))
    start, memory = time.monotonic(), []
    with (folder / "output.txt").open("w") as output:
        command = [sys.executable, "-m", "lit_sdpo", "fit", "--config", str(path)]
        child = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        while child.poll() is None:
            if (size := resident(child.pid)) is not None:
                memory.append(size)
            time.sleep(1)
    tenths = [memory[len(memory) * n // 10 : len(memory) * (n + 1) // 10] for n in range(10)]
    kept = next((folder / "runs").rglob("version_0"), folder)
    files = Counter(file.suffix or file.name for file in kept.rglob("*") if file.is_file())
    time.sleep(1)
    return {
        "exit code": child.returncode,
        "seconds": time.monotonic() - start,
        "MiB by tenths of the time": " ".join(f"{statistics.median(part):.0f}" for part in tenths if part),
        "files": ", ".join(f"{count} {kind}" for kind, count in sorted(files.items())),
        "bytes": sum(file.stat().st_size for file in kept.rglob("*") if file.is_file()),
        "processes left": len(left_over(child.pid)),
    }


def main() -> None:
    """Run, and print the table."""
    options = parser(__doc__)
    arguments = options.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    sizes = {"tasks": TASKS, "stages": STAGES, "steps": STEPS, "prompts": PROMPTS, "generations": GENERATIONS}
    if arguments.tiny:
        sizes = {"tasks": 3, "stages": 2, "steps": 2, "prompts": 6, "generations": 4}
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        folder = Path(name)
        found = run(folder, configuration(folder, **sizes))
        if found["exit code"] != 0:
            print((folder / "output.txt").read_text()[-2000:], file=sys.stderr)
    report("load", [{**sizes, **found}])


if __name__ == "__main__":
    main()
