"""Where model-written programs may run."""

from __future__ import annotations

import pytest

from lit_sdpo.errors import UserError
from lit_sdpo.rewards.sandbox import Sandbox


@pytest.fixture(scope="session")
def bubblewrap():
    """A sandbox in bubblewrap; tests that need it are skipped where it cannot run."""
    sandbox = Sandbox("bubblewrap")
    try:
        sandbox.prepare()
    except UserError as error:
        pytest.skip(str(error))
    return sandbox
