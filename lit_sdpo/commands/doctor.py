"""``lit-sdpo doctor``: what stands in the way of a run, on this machine and in a configuration."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from lit_sdpo.diagnosis.findings import Check, exit_code, run_checks
from lit_sdpo.errors import UserError
from lit_sdpo.text import said

OWN = ("--json", "--config-only", "--help", "-h")


def main(arguments: Sequence[str]) -> int:
    """Run ``lit-sdpo doctor``.

    Args:
        arguments: Those after ``doctor``.

    Returns:
        0 when nothing stands in the way, 2 when the user can mend what does, 1 otherwise.

    Raises:
        UserError: A configuration is asked for and none is given.
    """
    own, configs, further = split(arguments)
    options = _parser().parse_args(own)
    settings = [*(word for config in configs for word in ("--config", config)), *further]
    checks = [] if options.config_only else _of_machine()
    if settings:
        from lit_sdpo.diagnosis.configuration import checks_of

        checks += checks_of(settings)
    elif options.config_only:
        raise UserError("--config-only needs a configuration", fix="give the path of a YAML file")
    findings = []
    for finding in run_checks(checks):
        findings.append(finding)
        if not options.json:
            print(said(finding), flush=True)
    code = exit_code(findings)
    if options.json:
        print(json.dumps({"exit_code": code, "findings": [finding.record() for finding in findings]}, indent=1))
    else:
        count = sum(finding.state == "problem" for finding in findings)
        print(f"\n{count} problem{'s' * (count != 1)}" if count else "\nnothing stands in the way")
    return code


def split(arguments: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Our own options, the configuration files, and what ``fit`` would be given besides.

    Example:
        >>> split(["a.yaml", "--json", "--model.dtype", "float32", "b.yaml"])
        (['--json'], ['a.yaml', 'b.yaml'], ['--model.dtype', 'float32'])
    """
    own = [word for word in arguments if word in OWN]
    configs: list[str] = []
    further: list[str] = []
    takes_value = False
    for word in (word for word in arguments if word not in OWN):
        if takes_value or word.startswith("-"):
            further.append(word)
        else:
            configs.append(word)
        takes_value = not takes_value and word.startswith("-") and "=" not in word
    return own, configs, further


def _of_machine() -> list[tuple[str, Check]]:
    from lit_sdpo.diagnosis import behaviour, devices, machine, processes, sandboxes, versions

    return [
        ("packages", versions.packages),
        (behaviour.PART, behaviour.beside),
        ("cpu", machine.processor),
        ("memory", machine.memory),
        ("speed", devices.devices),
        ("process group", processes.groups),
        ("sandbox", sandboxes.sandboxes),
        ("disk", machine.storage),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lit-sdpo doctor",
        usage="lit-sdpo doctor [CONFIG.yaml ...] [--config-only] [--json] [arguments of fit]",
        description="Check this machine and, with a configuration, the run that it describes. Nothing is trained.",
        epilog="Further arguments are those of `lit-sdpo fit`, such as --model.model_name NAME.",
        allow_abbrev=False,
    )
    parser.add_argument("--config-only", action="store_true", help="leave out the checks of the machine")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
