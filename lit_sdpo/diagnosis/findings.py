"""What a check has found, in one line for a reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lit_sdpo.credentials import without_secrets
from lit_sdpo.errors import UserError
from lit_sdpo.heartbeat import still_at
from lit_sdpo.messages import explain_building

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        part: What it is about, such as ``packages``.
        state: ``ok``; ``note``: a run works, but something is worth knowing; ``problem``: it stands in the way.
        text: What was found.
        fix: What the user can do about it.
        shown: Further lines, such as a rendered prompt.
    """

    part: str
    state: State
    text: str
    fix: str = ""
    shown: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The line.

        Example:
            >>> print(Finding("disk", "problem", "1.0 GiB free", "free some space"))
            problem  disk: 1.0 GiB free. Free some space.
        """
        said = f"{self.state:<7}  {self.part}: {self.text}"
        if self.fix:
            said = f"{said.rstrip('.')}. {self.fix[0].upper()}{self.fix[1:]}".rstrip(".") + "."
        return "\n".join([said, *(f"           {line}" for line in self.shown)])

    def record(self) -> dict[str, Any]:
        """Plain values, without credentials."""
        return {key: without_secrets(x) if isinstance(x, str) else x for key, x in asdict(self).items()}


Check = Callable[[], Iterable[Finding]]


def run_checks(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    """The findings of some checks, each as soon as it is known; a check that fails is a finding itself.

    Args:
        checks: Each with the part that it is about.
    """
    for part, check in checks:
        try:
            with still_at(f"looking at {part}"):
                yield from check()
        except Exception as error:
            yield of_error(part, error)


def of_error(part: str, error: Exception) -> Finding:
    """A finding for what a check has raised."""
    mistake = error if isinstance(error, UserError) else explain_building(error)
    if mistake is None:
        return Finding(part, "problem", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    said = f"{mistake.where}: {mistake.what}" if mistake.where else mistake.what
    return Finding(part, "problem", " ".join(said.split()), mistake.fix or "correct it")


def exit_code(findings: Iterable[Finding]) -> int:
    """0 when nothing stands in the way, 2 when the user can mend all that does, 1 otherwise.

    Example:
        >>> exit_code([Finding("disk", "problem", "full", "free some space"), Finding("cpu", "ok", "there")])
        2
    """
    problems = [finding for finding in findings if finding.state == "problem"]
    if not problems:
        return 0
    return 2 if all(problem.fix for problem in problems) else 1
