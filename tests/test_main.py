"""What start-up imports: each command what it needs, and every name of the lazy packages where it says."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_sdpo.cli import LitSDPOCLI
from lit_sdpo.commands import COMMANDS
from lit_sdpo.main import RUNS, main
from tests.commands.test_samples import record
from tests.report.made_runs import flat, on_disk

ROOT = Path(__file__).parents[1]
LAZY = ("lit_sdpo", "lit_sdpo.callbacks", "lit_sdpo.checkpoints")

#: Runs commands one after the other and says which of the libraries are there behind each.
PROGRAM = """
import contextlib, io, json, sys

NAMES = ("torch", "lightning", "transformers", "torchmetrics", "jsonargparse", "peft", "matplotlib")

def there():
    return [name for name in NAMES if name in sys.modules]

import lit_sdpo
found = [["import lit_sdpo", 0, there()]]
from lit_sdpo.main import main
for arguments in json.loads(sys.argv[1]):
    if arguments == ["import"]:
        import lit_sdpo.functional
        code = 0
    else:
        with contextlib.redirect_stdout(io.StringIO()):
            code = main(arguments)
    found.append([" ".join(arguments), code, there()])
print(json.dumps(found))
"""


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Makes libraries raise when they are imported in processes that are started."""

    def make(*names):
        for name in names:
            folder = tmp_path / "broken" / name
            folder.mkdir(parents=True)
            (folder / "__init__.py").write_text(f"raise RuntimeError('{name} is broken')\n")
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'broken'}:{ROOT}")

    return make


def started(program, *arguments):
    """What a new process prints; the commands are in the folder of the repository."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_go_without_the_libraries_that_they_do_not_need(tmp_path, broken):
    """Broken ones stop nothing, and torch comes where numbers are computed."""
    broken("lightning", "transformers", "torchmetrics", "jsonargparse", "peft", "torchvision")
    (tmp_path / "samples.jsonl").write_text(json.dumps(record(0)) + "\n")
    sweep = tmp_path / "sweep.json"
    sweep.write_text(json.dumps({"name": "s", "runs": {"grpo": {"config": str(ROOT / "configs/micro/grpo.yaml")}}}))
    on_disk(tmp_path / "runs" / "mine" / "seed=0", [{"a": flat(x, 4), "b": flat(x, 4)} for x in (0.25, 0.5, 0.75)])
    plain = [
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in COMMANDS),
        ["data", "check", "tests/data/files/gsm8k_test.jsonl"],
        ["samples", str(tmp_path)],
        ["sweep", str(sweep), "--out", str(tmp_path / "out"), "--print-commands"],
    ]
    computing = [["import"], ["report", str(tmp_path / "runs"), "-o", str(tmp_path / "report")]]
    found = json.loads(started(PROGRAM, json.dumps([*plain, *computing])))
    assert [line for line in found if line[1] != 0] == []
    assert [line for line in found[: 1 + len(plain)] if line[2]] == []
    assert [line[2] for line in found[1 + len(plain) :]] == [["torch"], ["torch", "matplotlib"]]


@pytest.mark.slow
def test_a_run_finds_every_class_by_its_short_name(broken):
    """In a new process, where nobody has imported them before; nothing asks for adapters."""
    broken("peft")
    settings = ["--model.teacher=EMATeacher", "--trainer.callbacks+=CollapseMonitor", "--model.optimizer=MuonAdamW"]
    arguments = ["fit", "--config=configs/micro/sdpo.yaml", *settings, "--print_config"]
    shown = started(f"from lit_sdpo.main import main; raise SystemExit(main({arguments}))")
    assert [name for name in ("EMATeacher", "CollapseMonitor", "MuonAdamW") if f"lit_sdpo.{name}\n" not in shown] == []


def test_the_commands_of_runs_are_those_of_the_command_line():
    assert RUNS.keys() == LitSDPOCLI.subcommands().keys()


@pytest.mark.parametrize("package", LAZY)
def test_type_checkers_and_programs_find_the_same_names(package):
    """The imports for type checkers, the table for programs and ``__all__`` agree, and every name is there."""
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {(alias.name, node.module) for node in block.body for alias in node.names}
    table = {(name, home) for home, names in module._MODULES.items() for name in names.split()}
    assert typed == table
    assert sorted(name for name, _ in typed) == sorted(module.__all__)
    for name, home in typed:
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="has no attribute 'Nobody'"):
        _ = module.Nobody


def test_rooms_are_attributes_of_the_package():
    for room in importlib.import_module("lit_sdpo")._ROOMS:
        assert getattr(importlib.import_module("lit_sdpo"), room).__name__ == f"lit_sdpo.{room}"


@pytest.mark.parametrize("words", [["--help"], ["no-such-command"]])
def test_nobody_reads_on(words):
    """As under ``| head -1``: nothing is said, and the code is that of a program ended by a broken pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", "lit_sdpo", *words],
        stdout=subprocess.PIPE if words[0].startswith("no") else writing,
        stderr=writing if words[0].startswith("no") else subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert ended.returncode == 141
    assert not ended.stderr


def test_another_broken_pipe_is_a_failure(monkeypatch, capsys):
    def lost(arguments):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("lit_sdpo.main._dispatch", lost)
    assert main(["fit"]) == 1
    assert "BrokenPipeError" in capsys.readouterr().err
