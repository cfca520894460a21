from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import lit_sdpo
from lit_sdpo import versions


def test_a_package_run_from_its_source_has_the_version_that_stands_there(monkeypatch):
    def lost(name):
        raise PackageNotFoundError(name)

    assert versions.version_of("torch") == version("torch")
    monkeypatch.setattr(versions, "version", lost)
    assert versions.version_of("lit-sdpo") == lit_sdpo.__version__
    assert versions.version_of("torch") == "unknown"
    assert versions.installed("torch") is None
