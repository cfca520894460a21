from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from lit_sdpo.commands.new import main
from lit_sdpo.configs import contents, expand
from lit_sdpo.data.jsonl import JsonlTask
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.combine import WeightedRewards
from lit_sdpo.rollouts.generate import rewarded
from lit_sdpo.shipped_configs import SHIPPED, shipped, shipped_names


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["micro/sdpo", "micro/sdpo.yaml", "configs/micro/sdpo.yaml"])
def test_shipped_files_are_found_by_name_from_any_folder(name):
    assert shipped(name) == SHIPPED / "micro" / "sdpo.yaml"
    given = yaml.safe_load(expand(["fit", "--config", name])[2])
    assert given["model"]["class_path"] == "SDPO"
    assert given["model"]["init_args"]["model_name"] == "micro"  # of what it extends


@pytest.mark.parametrize("name", ["../pyproject", "/etc/hostname", "micro/../micro/sdpo", "micro", ""])
def test_nothing_else_is(name):
    assert shipped(name) is None


def test_a_file_of_the_users_goes_first(tmp_path):
    (tmp_path / "micro").mkdir()
    (tmp_path / "micro" / "sdpo.yaml").write_text("seed_everything: 7\n")
    assert contents("micro/sdpo.yaml") == {"seed_everything": 7}
    assert contents("micro/sdpo")["seed_everything"] == 0


def test_own_rows_come_with_what_to_do_next(tmp_path, capsys):
    assert main(["mine"]) == 0
    written = yaml.safe_load((tmp_path / "mine" / "run.yaml").read_text())
    task = written["data"]["init_args"]["stages"][0]["task"]["init_args"]
    for split in ("train", "validation"):
        assert (tmp_path / "mine" / task[split]).is_file()
    printed = capsys.readouterr().out
    assert "cd mine" in printed
    assert "lit-sdpo fit --config run.yaml" in printed


@pytest.mark.parametrize("name", shipped_names())
def test_any_shipped_file_can_be_built_on(name, tmp_path, capsys):
    if {"runs", "grid"} & contents(name).keys():
        pytest.skip("a sweep")
    main(["mine", "--from", name])
    assert len(capsys.readouterr().out.splitlines()) == 6
    path = tmp_path / "mine" / "run.yaml"
    assert contents(str(path)) == contents(name)
    # What stands in comments is what it sets.
    commented = path.read_text().partition("keys above it.\n")[2].splitlines()
    assert yaml.safe_load("\n".join(line.removeprefix("# ") for line in commented)) == contents(name)


def test_nothing_is_overwritten(tmp_path):
    main(["mine"])
    with pytest.raises(UserError, match=r"there is a run\.yaml already"):
        main(["mine", "--from", "micro/sdpo"])


def test_a_name_that_is_none_is_answered_with_those_of_its_room():
    with pytest.raises(UserError, match=r"no configuration 'micro/none'.*micro/sdpo"):
        main(["mine", "--from", "micro/none"])


def test_no_second_copy_is_in_the_repository():
    tracked = subprocess.run(
        ["git", "ls-files", "lit_sdpo/shipped"], cwd=SHIPPED.parent, capture_output=True, text=True
    )
    assert tracked.stdout == ""


def test_a_project_with_rewards_of_ones_own(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    assert main(["mine", "--rewards"]) == 0
    printed = capsys.readouterr().out
    assert "my_rewards.py" in printed
    assert "lit-sdpo fit --config run.yaml" in printed
    monkeypatch.chdir(tmp_path / "mine")
    written = contents("run.yaml")
    arguments = written["data"]["init_args"]["stages"][0]["task"]["init_args"]
    rows = JsonlTask(**arguments).rows("train")
    rewards = WeightedRewards.of(written["rollout"]["rewards"])
    answers = [rows[0].columns["answer"], "none"]
    found = rewarded(rewards, [Verdict(None)] * 2, [rows[0]] * 2, answers, [[1], [2]])
    assert found.rewards.tolist() == [1.0, 0.0]
    with pytest.raises(UserError, match=r"there is a run\.yaml already"):
        main([".", "--rewards"])
