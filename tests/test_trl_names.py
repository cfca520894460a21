"""What is said of names that TRL's options have: in files, on the command line, and in the documentation."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from transformers import TrainerState

from lit_sdpo.cli import main
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.combine import WeightedRewards
from lit_sdpo.trl_names import NAMES, answer

PAGE = Path(__file__).parents[1] / "docs" / "coming-from-trl.md"
BASE = ["fit", "--config", "micro/grpo"]


def said(arguments, capsys):
    assert main(arguments) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max_completion_length", "512"],
        ["--max-completion-length=512"],
        ["--rollout.max_completion_length", "512"],
        ["--rollout.sampling.max_completion_length", "512"],
        ["--model.max_completion_length", "512"],
        ["--trainer.max_completion_length=512"],
    ],
)
def test_wherever_it_is_typed(arguments, capsys):
    message = said([*BASE, *arguments], capsys)
    assert "TRL's max_completion_length is rollout.sampling.max_new_tokens here." in message


@pytest.mark.parametrize("switch", ["--use_vllm", "--bf16", "--gradient_checkpointing"])
def test_a_switch_without_a_value(switch, capsys):
    assert f"TRL's {switch[2:]} is {NAMES[switch[2:]].option} here" in said([*BASE, switch], capsys)


@pytest.mark.parametrize(
    "content",
    [{"loss_type": "dr_grpo"}, {"model": {"init_args": {"loss_type": "dapo"}}}, {"rollout": {"loss_type": "grpo"}}],
)
def test_in_files(content, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"extends": "micro/grpo", **content}))
    message = said(["fit", "--config", str(tmp_path / "run.yaml")], capsys)
    assert "TRL's loss_type is model.aggregation here (grpo: seq_mean_token_mean" in message


def test_nothing_is_said_of_other_names():
    assert answer("max_new_tokens") == answer("temperture") == ""


def test_every_option_is_one(capsys):
    assert main(["fit", "--config", "examples/grpo_real_tasks", "--model.lora", "{}", "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)

    def has(content, keys):
        if not keys:
            return True
        inside = content.get("init_args", content) if isinstance(content, dict) else {}
        return keys[0] in inside and has(inside[keys[0]], keys[1:])

    missing = [here.option for here in NAMES.values() if here.option and not has(printed, here.option.split("."))]
    assert missing == []


def test_the_page_s_run_is_one_and_its_rewards_work(tmp_path, monkeypatch, capsys):
    page = PAGE.read_text(encoding="utf-8")
    script = re.search(r"```python\n# train.py\n(.*?)```", page, re.DOTALL)[1]
    functions = script[script.index("def correct") : script.index("GRPOTrainer(")]
    (tmp_path / "my_rewards.py").write_text(functions)
    (tmp_path / "run.yaml").write_text(re.search(r"```yaml\n(seed_everything.*?)```", page, re.DOTALL)[1])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    assert main(["fit", "--config", str(tmp_path / "run.yaml"), "--print_config"]) == 0
    rollout = yaml.safe_load(capsys.readouterr().out)["rollout"]
    rewards = WeightedRewards.of(rollout["rewards"], rollout["reward_weights"])
    completions = [[{"role": "assistant", "content": text}] for text in ("It is 4.", "It is 5.")]
    for step, expected in ((0, [1.0, 0.0]), (21, [1.0 - 0.5 * 0.02, -0.5 * 0.01])):
        state = TrainerState(global_step=step)
        found = rewards([Verdict(None)] * 2, ["?"] * 2, completions, [[1, 2], [3]], state, solution=["4", "4"])
        assert found.rewards.tolist() == pytest.approx(expected)
        assert found.told.columns == {"gold": ["4", "4"]}


def test_the_page_has_the_same_table():
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", PAGE.read_text(encoding="utf-8").partition("## Names")[2], re.M
    )
    table = {name: (option.strip("`").replace("-", ""), note) for name, option, note in rows}
    assert table == {name: (here.option, here.note) for name, here in NAMES.items()}
