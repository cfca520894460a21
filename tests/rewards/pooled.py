"""Verifiers of the kinds that need a process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

from lit_sdpo.rewards.base import Verdict


def obedient(completion, row):
    """Do what the completion says."""
    word, _, rest = completion.partition(" ")
    if word == "sleep":
        time.sleep(float(rest))
    elif word == "hang":
        child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(60)  # {rest}"])
        child.wait()
    elif word == "crash":
        os.kill(os.getpid(), 9)
    elif word == "exit":
        sys.exit(0)
    elif word == "raise":
        raise KeyError(rest)
    elif word == "number":
        return 1.0
    elif word == "high":
        return Verdict(2.0)
    elif word == "torch":
        return Verdict(float("torch" in sys.modules or "transformers" in sys.modules))
    elif word == "pid":
        return Verdict(1.0, str(os.getpid()))
    return Verdict(1.0, row.id)


obedient.seconds = 2.0


def forever(completion, row):
    """Never come back: in Python, in a C function that lets nobody else run, or in a process of its own."""
    print(os.getpid(), flush=True)
    if completion == "regex":
        re.match(r"(a+)+$", "a" * 60 + "b")
    elif completion == "child":
        subprocess.Popen(
            [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
        ).wait()
    while True:
        pass


forever.seconds = 600.0


def trusted(completion, row):
    """Run in the process of the caller."""
    return Verdict(1.0, str(os.getpid()))


trusted.isolated = False
