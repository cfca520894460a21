"""Runs programs that a model wrote, where they cannot reach anything."""

from __future__ import annotations

import contextlib
import marshal
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from lit_sdpo.errors import UserError
from lit_sdpo.ranges import MOST_BYTES, check_integer
from lit_sdpo.rewards.sandbox.inside.limits import landlock_version
from lit_sdpo.rewards.sandbox.inside.wire import send_to_program

#: The modules of ``inside`` that each of its tasks needs, in the order in which they import each other.
_NEEDS = {
    "program": ("limits", "wire", "values", "peer", "describe", "objects", "program"),
    "plain": ("limits", "wire", "plain"),
    "examiner": (
        "limits",
        "wire",
        "values",
        "peer",
        "forward",
        "mirrors",
        "words",
        "trust",
        "observer",
        "examiner",
    ),
}
Isolation = Literal["bubblewrap", "landlock", "rlimits"]

START_SECONDS = 30.0  # Interpreter and namespaces on a busy machine; not the program's time.
_INSIDE = Path(__file__).resolve().with_name("inside")
_BOOT = """
import marshal, os, sys
def read(size):
    data = b""
    while len(data) < size:
        data += os.read(0, size - len(data)) or sys.exit(1)
    return data
package = sys.modules["cell"] = type(sys)("cell")
for name, code in marshal.loads(read(int.from_bytes(read(8), "big"))):
    module = sys.modules["cell." + name] = type(sys)("cell." + name)
    module.__package__ = "cell"
    setattr(package, name, module)
    exec(code, module.__dict__)
module.main()
"""


class Place:
    """Where one program runs.

    Attributes:
        connection: The stream to it.
    """

    def __init__(self, connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.connection, self._process = connection, process

    def signal(self) -> str:
        """The name of the signal that ended the process, if one did by now or does within a moment."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return ""
        return signal_name(-code if code < 0 else code - 128)  # Bubblewrap counts as a shell does.


def signal_name(number: int) -> str:
    """``SIGSEGV`` and the like, or an empty text.

    Example:
        >>> signal_name(11), signal_name(0)
        ('SIGSEGV', '')
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


class Sandbox:
    """A place for one Python program, which is gone with all its processes when the place is closed.

    Every program runs under limits on processor time, memory, file size and open files, and under a seccomp filter
    (x86-64, 64-bit ARM) that refuses new processes, network, signals to others, tracing, namespaces, mounts and the
    rarer parts of the kernel. Around that:

    - ``"bubblewrap"`` has namespaces of its own: no network, only the interpreter and the system libraries (read-only),
      a private ``/tmp`` in memory, none of the caller's environment, processes or files.
    - ``"landlock"`` (Linux 5.13, needs no privilege) leaves the interpreter and the system libraries for reading and
      one private folder for writing. The program sees that other files and processes exist.
    - ``"rlimits"`` has nothing around: the program can read and delete whatever the user can.

    The weaker two are never chosen unless named. Programs have the standard library and nothing else.

    Args:
        isolation: One of the three.
        memory: Address space in bytes.
        max_file: Bytes of the largest file a program may write, its output included.
    """

    def __init__(self, isolation: Isolation = "bubblewrap", *, memory: int = 1 << 30, max_file: int = 16 << 20) -> None:
        if isolation not in get_args(Isolation):
            raise UserError(
                f"no such isolation {isolation!r}", where="isolation", fix="use bubblewrap, landlock or rlimits"
            )
        self.isolation = isolation
        self.memory = check_integer("memory", memory, at_least=1, at_most=MOST_BYTES)
        self.max_file = check_integer("max_file", max_file, at_least=1, at_most=MOST_BYTES)

    @classmethod
    def from_environment(cls, isolation: Isolation | None = None) -> Sandbox:
        """The sandbox that ``LIT_SDPO_SANDBOX``, ``LIT_SDPO_SANDBOX_MEMORY`` and ``LIT_SDPO_SANDBOX_FILE`` describe.

        The limits are whole numbers of MiB; what is not set is the default.

        Args:
            isolation: Instead of what ``LIT_SDPO_SANDBOX`` says.

        Raises:
            UserError: One of them says nothing that is known, naming it.
        """
        limits: dict[str, int] = {}
        for option, name in (("memory", "LIT_SDPO_SANDBOX_MEMORY"), ("max_file", "LIT_SDPO_SANDBOX_FILE")):
            text = os.environ.get(name)
            if text is None:
                continue
            if not text.isascii() or not text.isdigit() or not 0 < int(text) <= MOST_BYTES >> 20:
                raise UserError(f"{text!r} is no number of MiB", where=name, fix="give a whole number of at least 1")
            limits[option] = int(text) << 20
        chosen = isolation or cast(Isolation, os.environ.get("LIT_SDPO_SANDBOX", "bubblewrap"))
        return cls(chosen, **limits)

    def prepare(self) -> None:
        """Check that programs can be isolated here.

        Raises:
            UserError: If what the isolation needs is missing on this machine.
        """
        if self.isolation == "bubblewrap":
            _check_bubblewrap()
        if self.isolation == "landlock" and (version := landlock_version()) < 1:
            raise UserError(
                f"this kernel has no Landlock (version {version})",
                where="code_tests",
                fix="use bubblewrap, or Linux 5.13 or later with Landlock enabled",
            )

    @contextlib.contextmanager
    def open(self, job: dict[str, Any], *, cpu_seconds: float) -> Iterator[Place]:
        """Start ``job["do"]``, a ``module.function`` of ``inside``, and give the place; kill what is there at the end.

        The connection's timeout is that of the start; the process says ``"started"`` when the program's time begins.
        """
        self.prepare()
        ours, theirs = socket.socketpair()
        bubblewrap = self.isolation == "bubblewrap"
        with tempfile.TemporaryDirectory(prefix="program-", ignore_cleanup_errors=True) as folder, ours:
            with theirs:
                process = subprocess.Popen(
                    _command(bubblewrap),
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": folder},
                    cwd=folder,
                    start_new_session=True,
                )
            limits = {
                "cpu": int(cpu_seconds) + 2,
                "memory": self.memory,
                "file": self.max_file,
                "open_files": 128,
                # Without a user namespace it would count the user's other processes; the filter forbids new ones.
                "processes": 64 if bubblewrap else None,
                "folder": folder if self.isolation == "landlock" else None,
            }
            try:
                ours.settimeout(START_SECONDS)
                parts = _compiled(*_NEEDS[job["do"].partition(".")[0]], "start")
                ours.sendall(len(parts).to_bytes(8, "big") + parts)
                send_to_program(ours, {**job, "limits": limits})
                yield Place(ours, process)
            finally:
                _kill(process, bubblewrap)


def _command(bubblewrap: bool) -> list[str]:
    interpreter = [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", _BOOT]
    return [*_bubblewrap(), *interpreter] if bubblewrap else interpreter


@cache
def _compiled(*names: str) -> bytes:
    """Modules of ``inside``, compiled: inside, there is no file of ours and no time to compile."""
    paths = [_INSIDE / f"{name}.py" for name in names]
    codes = [compile(path.read_bytes(), path.name, "exec", dont_inherit=True) for path in paths]
    return marshal.dumps(list(zip(names, codes, strict=True)))


@cache
def _bubblewrap() -> tuple[str, ...]:
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
    command += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    command += ["--size", str(64 << 20), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"]
    return tuple(command)


@cache
def _check_bubblewrap() -> None:
    # Failures raise and are not cached, so a later installation is seen.
    accept = "set LIT_SDPO_SANDBOX=landlock (weaker) or rlimits (the programs may do whatever your user may do)"
    if shutil.which("bwrap") is None:
        raise UserError(
            "programs written by a model run only inside bubblewrap, which is not installed",
            where="code_tests",
            fix=f"install it (apt-get install bubblewrap, or dnf install bubblewrap); {accept}",
        )
    interpreter = os.path.realpath(sys.executable)
    probe = subprocess.run(
        [*_bubblewrap(), interpreter, "-I", "-S", "-c", "pass"], capture_output=True, text=True, timeout=60, check=False
    )
    if probe.returncode:
        raise UserError(
            f"bubblewrap cannot isolate programs on this machine: {probe.stderr.strip()[:300]}",
            where="code_tests",
            fix=f"allow unprivileged user namespaces (in a container: its seccomp and AppArmor profile); {accept}",
        )


def _kill(process: subprocess.Popen[bytes], bubblewrap: bool) -> None:
    """Kill whatever is left of the run, and return when it is gone."""
    if not bubblewrap:
        process.kill()  # The filter let it start no other.
    try:
        # In bubblewrap the child is the first process of the namespace: it goes last, and bubblewrap after it.
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        process.wait(5)
    except (OSError, subprocess.TimeoutExpired):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
