"""Runs every attack for real and prints what came of each as JSON: ``python attacks.py FOLDER PORT``.

It needs only the standard library, so any interpreter and any user can run it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

SECRET = "Taj-Mahal-918273"
HIDDEN = {
    "testtype": "code",
    "inputs": [
        "assert secret(3) == 918273645",
        "for n in range(3):\n    assert abs(secret(n + 4) - 918273645 * n) < 1e-6 and len([n]) == 1",
        "def check(f):\n    assert all(isinstance(f(n), int) and f(n) == n ** 5 + 7 for n in (8, 9))\ncheck(secret)",
    ],
    "outputs": ["", "", ""],
    "fn_name": "secret",
}
#: ptrace, keyctl, bpf, perf_event_open, userfaultfd, io_uring_setup, personality, mount, unshare, setns, kexec_load,
#: clock_settime
NUMBERS = {
    "x86_64": (101, 250, 321, 298, 323, 425, 135, 165, 272, 308, 246, 227),
    "aarch64": (117, 219, 280, 241, 282, 425, 92, 40, 97, 268, 104, 112),
}


@dataclass
class Result:
    """What came of an attack: score, feedback, time, and the traces that it left."""

    score: float | None
    feedback: str
    seconds: float
    traces: list[str]


def main(folder: str, port: str) -> None:
    """Run all attacks, some at a time because many of them only wait."""
    from lit_sdpo.rewards.programs.verifier import CodeTests
    from tests.rewards.attack_programs import ATTACKS, TRY

    check = CodeTests()
    check.sandbox.memory = 256 << 20  # Reached sooner than the usual 1 GiB.
    kept = Path(folder, "kept")
    kept.write_text(SECRET)
    os.environ["LIT_SDPO_SECRET"] = SECRET

    def run(number: int, name: str) -> Result:
        attack, mark = ATTACKS[name], f"a{os.getpid()}x{number}"
        program = TRY + attack.program if attack.kind == "script" else attack.program
        values = {"mark": mark, "folder": folder, "port": port, "secret": SECRET, "numbers": repr(NUMBERS)}
        for key, value in values.items():
            program = program.replace(f"<{key}>", value)
        expected = "held" if attack.kind == "script" else "x"
        tests = {"testtype": "stdin", "inputs": [""], "outputs": [expected]} if attack.kind != "score" else HIDDEN
        started = time.monotonic()
        verdict = check.judge(f"```python\n{program}\n```", json.dumps({"time_limit": attack.seconds, **tests}))
        seconds = time.monotonic() - started
        traces = [
            path for path in ("/usr/trace", "/trace", "/usr/lib/trace", f"{folder}/trace") if os.path.exists(path)
        ]
        if not kept.exists():
            traces.append("a file was deleted")
        while processes(mark) and time.monotonic() < started + seconds + 5:  # killed ones take a moment to go
            time.sleep(0.05)
        return Result(verdict.score, verdict.feedback, seconds, traces + processes(mark))

    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(run, range(len(ATTACKS)), ATTACKS))
    print(json.dumps({name: asdict(result) for name, result in zip(ATTACKS, results, strict=True)}))


def processes(mark: str) -> list[str]:
    """Processes of this machine that call themselves ``mark``."""
    found = []
    for name in Path("/proc").glob("[0-9]*/comm"):
        try:
            if name.read_text().strip() == mark:
                found.append(f"process {name.parent.name}")
        except OSError:
            continue
    return found


if __name__ == "__main__":
    # The package itself needs torch, which another user's interpreter may lack; its rewards do not.
    root = Path(__file__).resolve().parents[2]
    package = sys.modules["lit_sdpo"] = type(sys)("lit_sdpo")
    package.__path__ = [str(root / "lit_sdpo")]
    sys.path[0] = str(root)
    main(*sys.argv[1:])
