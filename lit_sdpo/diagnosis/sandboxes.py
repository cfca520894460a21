"""Where programs that a model wrote could run: a real one is run in each sandbox."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from typing import get_args

from lit_sdpo.diagnosis.findings import Finding
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.programs.verifier import CodeTests
from lit_sdpo.rewards.sandbox.inside.limits import landlock_version, seccomp_program
from lit_sdpo.rewards.sandbox.sandbox import Isolation

#: Tries what a sandbox has to refuse, and says what happened.
PROGRAM = """
def attempt(path):
    import os, socket
    found = {}
    for name, try_it in (
        ("network", lambda: socket.socket()),
        ("processes", lambda: os.fork() or os._exit(0)),
        ("files", lambda: open(path, "rb").read(1)),
    ):
        try:
            try_it()
            found[name] = "open"
        except OSError:
            found[name] = "refused"
    return found
"""
INSTALL = "apt-get install bubblewrap, or dnf install bubblewrap"


def sandboxes() -> Iterator[Finding]:
    """Each sandbox: whether it can be had, and whether a program in it reaches anything."""
    chosen = os.environ.get("LIT_SDPO_SANDBOX", "bubblewrap")
    machine, version = platform.machine(), landlock_version()
    parts = "seccomp filter for " + machine if seccomp_program(machine, 1) else f"no seccomp filter for {machine}"
    landlock = f"Landlock version {version}" if version > 0 else "no Landlock in this kernel"
    yield Finding("sandbox", "ok", f"{parts}, {landlock}; programs run in {chosen}")
    if chosen not in get_args(Isolation):
        fix = f"use one of {', '.join(get_args(Isolation))}"
        yield Finding("sandbox", "problem", f"LIT_SDPO_SANDBOX is {chosen!r}", fix)
    for isolation in ("bubblewrap", "landlock"):
        yield sandbox(isolation, chosen)  # type: ignore[arg-type]
    if chosen == "rlimits":
        yield Finding("sandbox", "note", "rlimits: programs read and delete whatever your user can")


def sandbox(isolation: Isolation, chosen: str = "bubblewrap") -> Finding:
    """Run the program in one sandbox.

    Args:
        isolation: Which.
        chosen: The one that runs would use.
    """
    secret = os.path.abspath(__file__)  # a file of the user's, of no interest
    tests = {
        "testtype": "functional",
        "fn_name": "attempt",
        "inputs": [json.dumps(secret)],
        "outputs": [json.dumps({"network": "refused", "processes": "refused", "files": "refused"})],
        "time_limit": 10.0,
        "context": "",
    }
    started = time.perf_counter()
    try:
        verdict = CodeTests(isolation).judge(f"```python\n{PROGRAM}\n```", json.dumps(tests))
    except UserError as error:
        fix = f"only tasks with programs need it; {INSTALL}" if isolation == "bubblewrap" else ""
        return Finding("sandbox", "note", f"{isolation}: {error.what}", fix if isolation == chosen else "")
    seconds = time.perf_counter() - started
    if verdict.score == 1:
        text = f"{isolation} works: network, new processes and files of yours refused ({seconds:.2f} s a program)"
        return Finding("sandbox", "ok", text)
    text = f"{isolation}: a program was not held or did not run: {verdict.feedback or ', '.join(verdict.flags)}"
    return Finding("sandbox", "problem" if isolation == chosen else "note", text, "use the other sandbox")
