from __future__ import annotations

import json

import pytest

from benchmarks import startup


def test_what_is_chosen_is_started_and_told(capsys):
    startup.main(["--only", "version", "--repeats", "1"])
    line, numbers = capsys.readouterr().out.splitlines()
    assert line.startswith("--version")
    assert json.loads(numbers)["here"].keys() == {"--version"}


def test_shares_are_of_what_the_bar_names(tmp_path):
    entries = startup.entries(tmp_path)
    here, older = {startup.TORCH: 2.0, "--help": 0.1, "import lit_sdpo.functional": 2.1}, {"--help": 5.0}
    share = {name: startup.share(entries[name], name, here, older) for name in here}
    assert share == {startup.TORCH: None, "--help": 0.02, "import lit_sdpo.functional": pytest.approx(1.05)}


def test_a_command_that_fails_is_no_figure(tmp_path):
    with pytest.raises(SystemExit, match="ended with 1"):
        startup.cpu_seconds("raise SystemExit(1)", tmp_path)
