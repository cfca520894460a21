"""Which version of a package is here, also where one runs from its source."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import lit_sdpo

#: The name of this package's distribution.
DISTRIBUTION = "lit-sdpo"


def installed(name: str) -> str | None:
    """The version of a distribution; ``None`` where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def version_of(name: str) -> str:
    """The same for records: of this package run from its source the version that stands there, else ``unknown``.

    Example:
        >>> version_of("no-such-package")
        'unknown'
    """
    return installed(name) or (lit_sdpo.__version__ if name == DISTRIBUTION else "unknown")
