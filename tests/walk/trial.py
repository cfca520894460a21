"""One input in a process of its own, which is forked from one that has imported everything."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lit_sdpo.cli import main
from tests.walk.results import digests

#: Set in processes of the walk, so that one that a strategy starts does not walk again.
MARK = "LIT_SDPO_WALK"
ERROR = "lit-sdpo: error: "
#: Address space that an input may take on top of what the imports have, in bytes.
ROOM = 8 * 2**30


@dataclass
class Ended:
    """How an input ended.

    Attributes:
        code: Exit code; ``None`` where the time was up.
        errors: Standard error.
        results: Digests of what it has produced, after exit code 0.
        seconds: Wall time.
    """

    code: int | None
    errors: str
    seconds: float
    results: dict[str, str] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """The line of the mistake, else the last line."""
        lines = [line for line in self.errors.splitlines() if line.strip()]
        told = [line for line in lines if line.startswith(ERROR)]
        return (told or lines or [""])[-1][:300]

    @property
    def refused(self) -> bool:
        """Exit code 2 with one line, which is the last one."""
        _, found, rest = self.errors.rpartition(ERROR)
        return self.code == 2 and bool(found) and "\n" not in rest.strip() and "Traceback" not in self.errors


class Trial:
    """A running input.

    Args:
        config: Its configuration.
        seconds: Wall time that it may take.
    """

    def __init__(self, config: dict[str, Any], seconds: float) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="walk-"))
        (self.folder / "input.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        self.log = self.folder.with_suffix(".log")
        self.began, self.seconds = time.monotonic(), seconds
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            self._run()

    def _run(self) -> None:
        code = 70
        try:
            os.setsid()
            os.chdir(self.folder)
            for descriptor, suffix in ((1, ".log"), (2, ".err")):
                file = os.open(self.folder.with_suffix(suffix), os.O_WRONLY | os.O_CREAT, 0o600)
                os.dup2(file, descriptor)
            os.environ[MARK] = "1"
            held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (held + ROOM, held + ROOM))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            code = main(["fit", "--config", "input.yaml"])
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)

    def ended(self) -> Ended | None:
        """How it ended, or ``None`` while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        took = time.monotonic() - self.began
        if not pid and took < self.seconds:
            return None
        code: int | None = os.waitstatus_to_exitcode(status) if pid else None
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if not pid:
            os.waitpid(self.pid, 0)
        errors_file = self.folder.with_suffix(".err")
        errors, printed = (p.read_text(errors="replace") for p in (errors_file, self.log))
        results = digests(self.folder, printed + errors) if code == 0 else {}
        shutil.rmtree(self.folder, ignore_errors=True)
        errors_file.unlink()
        self.log.unlink()
        return Ended(code, errors, took, results)
