"""Our own commands beside those of LightningCLI: one file each, with ``main(arguments) -> exit code``."""

from __future__ import annotations

from importlib import import_module

#: What each command is for, by the name of its module here.
COMMANDS: dict[str, str] = {
    "consolidate": "make one file of a checkpoint that is divided among processes",
    "data": "check task data before a run",
    "doctor": "check this machine and a configuration",
    "export": "write a checkpoint as a model folder, and check it",
    "new": "begin a project: a configuration with comments, and rows to replace",
    "plan": "say what a run would do and need",
    "report": "compare runs on one page, with figures and the paper's claims",
    "samples": "show what a model wrote during a run",
    "sweep": "run configurations times seeds, each in a process of its own",
    "transitions": "say which questions of an outside evaluation were lost and won",
}


def run_command(name: str, arguments: list[str]) -> int:
    """Run one of :data:`COMMANDS`.

    Args:
        name: Its name.
        arguments: Those after the name.

    Returns:
        The exit code.

    Raises:
        UserError: A mistake in the arguments or in what they name.
    """
    return int(import_module(f"{__name__}.{name}").main(arguments))
