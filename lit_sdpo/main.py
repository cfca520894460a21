"""The entry point of ``lit-sdpo``: finds the command, imports what it needs, and says how it ended.

Lightning takes seconds to import, so nothing here does; ``fit``, ``validate`` and ``test`` go on to
:mod:`lit_sdpo.cli`, the others to their file in :mod:`lit_sdpo.commands`.
"""

from __future__ import annotations

import gc
import os
import select
import sys
import traceback
from importlib import import_module
from typing import TextIO

import lit_sdpo
from lit_sdpo.commands import COMMANDS, run_command
from lit_sdpo.errors import UserError
from lit_sdpo.text import said

#: What each command of :class:`~lit_sdpo.cli.LitSDPOCLI` does.
RUNS: dict[str, str] = {
    "fit": "train through the stream of tasks, and evaluate along it",
    "validate": "evaluate once on the validation rows",
    "test": "evaluate once on the test rows",
}

_HELP = """\
usage: lit-sdpo [-c CONFIG] {{{choices}}} ...
       lit-sdpo {{{others}}} ...

Trains language models through a stream of tasks and measures what they forget.

runs, from configuration files and arguments:
{runs}

further commands:
{commands}

options:
  -h, --help              Show this help message and exit; behind a command, its own.
  --version               Print version and exit.
  -c, --config CONFIG     Configuration file with the options of a run below its name, such as fit.
  --print_config[=flags]  Print the configuration and exit; flags are skip_default and skip_unset.
  --debug                 Show the traceback of a mistake too.
"""


def main(args: list[str] | None = None) -> int:
    """Run ``lit-sdpo``.

    Args:
        args: Arguments after the program's name; ``--debug`` among them shows the traceback of a user's mistake too.

    Returns:
        0 done, 1 the run failed, 2 a mistake that the user can mend, 130 interrupted, 141 nobody reads on, 143
        terminated.
    """
    try:
        code = _main(args)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BrokenPipeError:
        for stream in filter(_nobody_reads, (sys.stdout, sys.stderr)):  # Python would write to them at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 141
    return code


def _main(args: list[str] | None) -> int:
    arguments = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        return 130
    except SystemExit as leave:  # of a parser; Lightning leaves with 1 after Ctrl-C
        return 130 if isinstance(leave.__context__, KeyboardInterrupt) else int(leave.code or 0)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and any(map(_nobody_reads, (sys.stdout, sys.stderr))):
            raise
        return _explain(error, debug=debug)


def _nobody_reads(stream: TextIO) -> bool:
    """Whether what is printed there goes into a closed pipe, as under ``| head``."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):  # no file, such as what catches output in a test
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _dispatch(arguments: list[str]) -> int:
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        print(help_text(), end="")
        return 0
    if first == "--version":
        print(f"lit-sdpo {lit_sdpo.__version__}")
        return 0
    known = [*RUNS, *COMMANDS]
    if not first:
        raise UserError("no command given", fix=f"one of {', '.join(known)}")
    if not first.startswith("-") and first not in known:
        raise UserError(f"no command {first!r}", fix=f"one of {', '.join(known)}")
    from lit_sdpo.quiet import be_quiet

    be_quiet()
    if first in COMMANDS:
        return run_command(first, arguments[1:])
    if "lit_sdpo.cli" not in sys.modules:
        _import_the_command_line()
    from lit_sdpo.cli import train

    return train(arguments)


def _import_the_command_line() -> None:
    """Import it without looking for garbage, then or later: all of it stays, and looking takes a fifth of the time."""
    gc.disable()
    try:
        import_module("lit_sdpo.cli")
        gc.freeze()
    finally:
        gc.enable()


def _explain(error: Exception, *, debug: bool) -> int:
    """Say what went wrong; the exit code."""
    from lit_sdpo.failures import explain_failure, explain_loading, explain_running, interruption

    if (hidden := interruption(error)) is not None:
        return int(hidden.code or 0) if isinstance(hidden, SystemExit) else 130
    mistake = error if isinstance(error, UserError) else explain_loading(error) or explain_running(error)
    message = mistake or explain_failure(error)
    if message is None or debug:
        print(said(traceback.format_exc()), file=sys.stderr, end="")
    if message is not None:
        print(f"lit-sdpo: error: {said(message)}", file=sys.stderr)
    return 1 if mistake is None else 2


def help_text() -> str:
    """What ``lit-sdpo --help`` says."""
    runs, commands = ("\n".join(f"  {name}: {does}" for name, does in table.items()) for table in (RUNS, COMMANDS))
    return _HELP.format(choices=",".join(RUNS), others=",".join(COMMANDS), runs=runs, commands=commands)
