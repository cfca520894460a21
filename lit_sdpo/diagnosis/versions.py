"""Versions of what is installed against what the package allows."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement

from lit_sdpo.diagnosis.findings import Finding
from lit_sdpo.versions import DISTRIBUTION, installed


def packages(requirements: list[str] | None = None) -> Iterator[Finding]:
    """Each required package with its version; the missing extras in one line.

    Args:
        requirements: As in ``pyproject.toml``; ``None`` takes those of the installed package.
    """
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    if requirements is None:
        try:
            requirements = requires(DISTRIBUTION) or []
        except PackageNotFoundError:
            yield Finding("packages", "note", "the package is not installed, so its requirements are unknown",
                          "install it (pip install -e .)")  # fmt: skip
            return
    fitting: list[str] = []
    extras: dict[str, list[str]] = {}
    for text in requirements:
        requirement = Requirement(text)
        extra = _extra(requirement)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        found = installed(requirement.name)
        if found is not None and requirement.specifier.contains(found, prereleases=True):
            if not extra:
                fitting.append(f"{requirement.name} {found}")
        elif extra:
            extras.setdefault(extra, []).append(requirement.name)
        else:
            has = f"is {found}" if found else "is missing"
            yield Finding(
                "packages",
                "problem",
                f"{requirement.name} {has}, {requirement.specifier or 'any version'} is needed",
                f"pip install '{requirement.name}{requirement.specifier}'",
            )
    if fitting:
        yield Finding("packages", "ok", ", ".join(fitting))
    extras.pop("dev", None)
    if extras:
        lacking = "; ".join(f"{extra} ({', '.join(names)})" for extra, names in extras.items())
        yield Finding("extras", "ok", f"not installed: {lacking}")


def _extra(requirement: Requirement) -> str:
    """The extra that a requirement belongs to; empty for none."""
    text = str(requirement.marker or "")
    _, found, rest = text.partition("extra == ")
    return rest.strip("\"' )").partition('"')[0].partition("'")[0] if found else ""
