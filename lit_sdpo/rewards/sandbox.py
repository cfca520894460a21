"""Runs programs that a model wrote, where they cannot reach anything."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from lit_sdpo.errors import UserError

Isolation = Literal["bubblewrap", "rlimits"]

_HARNESS = Path(__file__).with_name("sandbox_harness.py")
_START_SECONDS = 20.0  # Interpreter and namespaces on a busy machine; not the program's time.


@dataclass(frozen=True)
class Outcome:
    """What came of one run.

    Attributes:
        output: What was written to standard output, at most ``max_output`` bytes.
        exit_code: The exit code; negative or above 128 for a signal, ``None`` if it was killed from here.
        ended_by: Why it was killed from here: ``"time"``, ``"output"``, or ``""``.
    """

    output: bytes
    exit_code: int | None
    ended_by: Literal["", "time", "output"] = ""


class Sandbox:
    """Runs one Python program per call in a fresh process that is gone when the call returns.

    With ``"bubblewrap"`` the program has its own namespaces: no network, only the interpreter and the system libraries
    (read-only), a private ``/tmp`` in memory, none of the caller's environment, processes or files. With ``"rlimits"``
    it is an ordinary process of the user with limits on processor time, memory, file size and processes: it can read
    and delete whatever the user can. That is never chosen unless named.

    Args:
        isolation: ``"bubblewrap"``, or ``"rlimits"`` if you accept that.
        memory: Address space in bytes.
        max_output: Bytes of standard output after which the program is killed.
    """

    def __init__(
        self, isolation: Isolation = "bubblewrap", *, memory: int = 1 << 30, max_output: int = 1 << 20
    ) -> None:
        if isolation not in ("bubblewrap", "rlimits"):
            raise UserError(f"no such isolation {isolation!r}", where="isolation", fix="use bubblewrap or rlimits")
        self.isolation, self.memory, self.max_output = isolation, memory, max_output

    def prepare(self) -> None:
        """Check that programs can be isolated here.

        Raises:
            UserError: If bubblewrap is missing or may not make namespaces on this machine.
        """
        if self.isolation == "bubblewrap":
            _check_bubblewrap()

    def run(self, job: dict[str, Any], stdin: bytes = b"", *, seconds: float) -> Outcome:
        """Run ``job`` in the harness with ``stdin`` behind it.

        Args:
            job: What the harness is to do, see ``sandbox_harness``.
            stdin: The program's standard input.
            seconds: Wall time of the program, counted from the moment it starts.
        """
        self.prepare()
        limits = {"cpu": int(seconds) + 2, "memory": self.memory, "file": 16 << 20, "processes": 64}
        message = json.dumps({**job, "limits": limits}).encode()
        with subprocess.Popen(
            self._command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            cwd="/",
            start_new_session=True,
        ) as process:
            try:
                output, ended_by = self._exchange(process, b"%d\n" % len(message) + message + stdin, seconds)
            finally:
                _kill_group(process)
        return Outcome(output, None if ended_by else process.returncode, ended_by)

    def _exchange(
        self, process: subprocess.Popen[bytes], message: bytes, seconds: float
    ) -> tuple[bytes, Literal["", "time", "output"]]:
        """Write the message and read the output side by side, so that neither pipe can block the other."""
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + _START_SECONDS
        output, rest, started = bytearray(), memoryview(message), False
        os.set_blocking(process.stdin.fileno(), False)
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdin, selectors.EVENT_WRITE)
            ready.register(process.stdout, selectors.EVENT_READ)
            while process.stdout in (key.fileobj for key in ready.get_map().values()):
                left = deadline - time.monotonic()
                if left <= 0:
                    return bytes(output), "time"
                for key, _ in ready.select(left):
                    if key.fileobj is process.stdout:
                        chunk = os.read(process.stdout.fileno(), 65536)
                        if chunk and not started:  # The harness writes one byte when it hands over to the program.
                            started, chunk, deadline = True, chunk[1:], time.monotonic() + seconds
                            if not chunk:
                                continue
                        output += chunk
                        if len(output) > self.max_output:
                            return bytes(output[: self.max_output]), "output"
                        if not chunk:
                            ready.unregister(process.stdout)
                    else:
                        try:
                            rest = rest[os.write(process.stdin.fileno(), rest[:65536]) :]
                        except BrokenPipeError:
                            rest = rest[:0]
                        if not rest:
                            ready.unregister(process.stdin)
                            _close(process)
        # A program may close its output and go on: the end of the output is not the end of the program.
        try:
            process.wait(timeout=max(deadline - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            return bytes(output), "time"
        return bytes(output), ""

    def _command(self) -> list[str]:
        interpreter = os.path.realpath(sys.executable)
        if self.isolation == "rlimits":
            return [interpreter, "-I", "-B", str(_HARNESS)]
        return [*_bubblewrap(), interpreter, "-I", "-B", "/harness.py"]


def _bubblewrap() -> list[str]:
    """The command in front of the interpreter."""
    command = ["bwrap", "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
    command += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    command += ["--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8"]
    command += ["--ro-bind", "/usr", "/usr"]
    for folder in ("/lib", "/lib64", "/bin", "/etc/ld.so.cache"):
        command += ["--ro-bind-try", folder, folder]
    for folder in {os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)}:
        if not folder.startswith("/usr/") and folder != "/usr":
            command += ["--ro-bind", folder, folder]
    command += ["--ro-bind", str(_HARNESS.resolve()), "/harness.py"]
    command += ["--proc", "/proc", "--dev", "/dev", "--size", str(64 << 20), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    return [*command, "--remount-ro", "/"]


@cache
def _check_bubblewrap() -> None:
    # Failures raise and are not cached, so a later installation is seen.
    accept = "set LIT_SDPO_SANDBOX=rlimits only if the programs may do whatever your user may do"
    if shutil.which("bwrap") is None:
        raise UserError(
            "programs written by a model run only inside bubblewrap, which is not installed",
            where="code_tests",
            fix=f"install it (apt-get install bubblewrap, or dnf install bubblewrap); {accept}",
        )
    interpreter = os.path.realpath(sys.executable)
    probe = subprocess.run(
        [*_bubblewrap(), interpreter, "-I", "-c", "pass"], capture_output=True, text=True, timeout=60, check=False
    )
    if probe.returncode:
        raise UserError(
            f"bubblewrap cannot isolate programs on this machine: {probe.stderr.strip()[:300]}",
            where="code_tests",
            fix=f"allow unprivileged user namespaces (in a container: its seccomp and AppArmor profile); {accept}",
        )


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever is left of the run; bubblewrap takes its whole process namespace with it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    _close(process)
    process.wait()


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None and not process.stdin.closed:
        process.stdin.close()
