"""The package from outside: what it exports, what is in the wheel."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import lit_sdpo

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# A name that is added or removed here is a change that users see.
PUBLIC = [
    "ArtifactMonitor",
    "AveragedPolicy",
    "CISPO",
    "CollapseMonitor",
    "Completions",
    "ContinualDataModule",
    "DemoPSD",
    "EMATeacher",
    "ExportPolicy",
    "ForgettingMatrix",
    "GradientAlignment",
    "FrozenTeacher",
    "GRPO",
    "GSPO",
    "GatedTeacher",
    "GeoSD",
    "InitialEvaluation",
    "JsonlTask",
    "LikelihoodEvaluation",
    "LikelihoodTask",
    "MemoryBudget",
    "MicroDataModule",
    "MicroTask",
    "MicroWorld",
    "Mixture",
    "ModelTeacher",
    "MultipleChoiceLikelihood",
    "MuonAdamW",
    "NamedTask",
    "NativeEngine",
    "OnPolicyDistillation",
    "OnPolicyModule",
    "OnlineEWC",
    "ParameterDrift",
    "Reprompt",
    "ResponseDrift",
    "RestartTeacher",
    "Reward",
    "RolloutCallback",
    "RolloutEngine",
    "RolloutModule",
    "Rollouts",
    "RoutedTeacher",
    "Row",
    "SCSDPO",
    "SDPG",
    "SDPO",
    "SFT",
    "SRPO",
    "SampleLogger",
    "Sampling",
    "Share",
    "Source",
    "Stage",
    "StageCheckpoint",
    "StageMerge",
    "StageMethod",
    "StreamProgressBar",
    "Task",
    "TaskStream",
    "Teacher",
    "TensorBoardLayout",
    "TextLikelihood",
    "Tilt",
    "TrainOnly",
    "TrustRegionTeacher",
    "UserError",
    "Verdict",
    "WarmStartTask",
    "WarmupConstant",
    "WarmupLinearDecay",
    "WeightAnchor",
    "WeightedRewards",
]


def test_public_names_are_pinned():
    assert sorted(lit_sdpo.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", lit_sdpo.__all__)
def test_public_names_are_documented(name):
    found = getattr(lit_sdpo, name)
    # inspect.getdoc would go to the base class.
    assert inspect.isclass(found)
    assert (found.__doc__ or "").strip(), f"{name} has no docstring of its own"
    assert found.__module__.startswith("lit_sdpo."), f"{name} comes from {found.__module__}"


def test_version_is_the_projects():
    assert lit_sdpo.__version__ == PROJECT["version"]


@pytest.mark.slow
def test_import_of_the_main_names_in_a_fresh_process():
    program = "from lit_sdpo import SDPO, GRPO, SFT, ContinualDataModule"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_constraints_name_one_version_of_every_dependency():
    lines = [x for x in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not x.startswith("#")]
    names = [line.partition("==")[0] for line in lines]
    assert len(names) == len(set(names))
    assert all("==" in line and "+" not in line for line in lines)
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in (entry for group in groups for entry in group):
        name = requirement.split(">=")[0].split("[")[0].strip().lower()
        assert name in names, f"{name} is not in constraints.txt"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Names of the files in the wheel."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "configs", source / "configs")
    shutil.copytree(ROOT / "lit_sdpo", source / "lit_sdpo", ignore=shutil.ignore_patterns("__pycache__"))
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(target)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=300)
    (path,) = target.glob("*.whl")
    return set(zipfile.ZipFile(path).namelist())


@pytest.mark.slow
def test_wheel_holds_every_source_and_asset(wheel):
    files = (p for p in (ROOT / "lit_sdpo").rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    assert {"lit_sdpo/py.typed", "lit_sdpo/assets/micro/config.json"} <= expected
    assert expected <= wheel


@pytest.mark.slow
def test_wheel_holds_the_configurations(wheel):
    files = (p for p in (ROOT / "configs").rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    assert {f"lit_sdpo/shipped/{path.relative_to(ROOT / 'configs').as_posix()}" for path in files} <= wheel


@pytest.mark.slow
def test_wheel_holds_nothing_but_the_package(wheel):
    assert {name.split("/")[0] for name in wheel} == {"lit_sdpo", f"lit_sdpo-{PROJECT['version']}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_the_oldest_releases_are_those_of_the_bounds():
    lines = (ROOT / "floors.txt").read_text(encoding="utf-8").splitlines()
    floors = dict(line.split("==") for line in lines if not line.startswith("#"))
    asked = map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]])
    bounds = {(each.name, limit.version) for each in asked for limit in each.specifier if limit.operator == ">="}
    assert len(bounds) > 15
    assert {(name, Version(version)) for name, version in bounds} == {
        (name, Version(version)) for name, version in floors.items() if name not in ("pyparsing", "pytorch-lightning")
    }
