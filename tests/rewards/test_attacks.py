from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.rewards.attack_programs import ATTACKS

RUNNER = Path(__file__).with_name("attacks.py")
NOBODY = 65534


def interpreter_for_everybody():
    """A Python that users without a home can run, or None."""
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        path = shutil.which(name, path="/usr/bin:/usr/local/bin")
        command = [path, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if path and subprocess.run(command, check=False).returncode == 0:
            return path
    return None


@cache
def results(user):
    """What came of all attacks, run as root or whoever runs the tests, or as a user without any rights."""
    command, options = [sys.executable], {}
    if user == "nobody":
        python = interpreter_for_everybody()
        if os.getuid() != 0 or python is None:
            pytest.skip("needs root and an interpreter that everybody may run")
        command, options = [python], {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    folder = Path("/tmp") / f"attacks-{user}-{os.getpid()}"
    folder.mkdir()
    try:
        if user == "nobody":
            os.chown(folder, NOBODY, NOBODY)
        with socket.create_server(("127.0.0.1", 0)) as service:  # The network attack finds somebody at home.
            port = service.getsockname()[1]
            environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LIT_SDPO_SECRET_TOO": "Taj-Mahal-918273"}
            done = subprocess.run(
                [*command, "-B", str(RUNNER), str(folder), str(port)],
                capture_output=True, text=True, env=environment, timeout=300, check=False, **options,
            )  # fmt: skip
    finally:
        shutil.rmtree(folder)
    if "Permission denied" in done.stderr and user == "nobody":
        pytest.skip("the package lies where nobody else may read it")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("user", ["caller", "nobody"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_v03_attack(bubblewrap, attack, user):
    result = results(user)[attack]
    assert result["traces"] == []
    assert result["seconds"] < 60
    if ATTACKS[attack].kind == "script":
        assert result["score"] == 1.0, result["feedback"]
    else:
        assert result["score"] == 0.0, result["feedback"]
        assert "918273645" not in result["feedback"]


def test_there_are_enough_attacks_and_all_are_documented():
    page = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text(encoding="utf-8")
    assert len(ATTACKS) >= 25
    assert [name for name in ATTACKS if f"| {name} |" not in page] == []
