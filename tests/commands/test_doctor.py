from __future__ import annotations

import json
import shutil
from collections import namedtuple
from importlib.metadata import version

import pytest
import torch

from lit_sdpo.cli import main
from lit_sdpo.commands.doctor import main as command
from lit_sdpo.diagnosis import machine, sandboxes, versions
from lit_sdpo.diagnosis.configuration import build
from lit_sdpo.diagnosis.costs import checkpoints
from lit_sdpo.diagnosis.devices import fastest, speeds
from lit_sdpo.diagnosis.findings import Finding, exit_code, run_checks
from lit_sdpo.diagnosis.processes import groups
from lit_sdpo.diagnosis.prompts import template_findings, visible
from lit_sdpo.diagnosis.scoring import reward_findings
from lit_sdpo.errors import UserError
from lit_sdpo.policies.load import load_policy, load_tokenizer, render
from lit_sdpo.rewards.combine import WeightedRewards
from tests.training import Toy

CONFIG = "configs/micro/sdpo.yaml"
#: The stream of one task, whose rows are made in no time.
SHORT = [CONFIG, "--data.order=[math]", "--data.ood=false", "--data.prior=false"]


def doctor(capsys, *arguments):
    code = main(["doctor", "--json", *map(str, arguments)])
    report = json.loads(capsys.readouterr().out)
    assert report["exit_code"] == code
    return code, report["findings"]


def of(findings, part):
    return [finding for finding in findings if finding["part"] == part]


def test_the_machine(capsys):
    code, findings = doctor(capsys)
    assert code == 0, findings
    for part in ("python", "packages", "cpu", "threads", "memory", "gpu", "process group", "sandbox", "disk"):
        assert of(findings, part), part
    assert f"torch {version('torch')}" in of(findings, "packages")[0]["text"]
    (speed,) = [finding for finding in findings if finding["part"] == "speed on cpu"]
    assert "float32" in speed["text"]


def test_a_configuration_is_built_and_not_run(capsys, tmp_path, tiny):
    options = ["--trainer.logger.init_args.save_dir", tmp_path / "runs", "--model.model_name", tiny]
    code, findings = doctor(capsys, "--config-only", *SHORT, *options, "--data.init_args.steps=3")
    assert code == 0, findings
    assert "math 3x6 (task" in of(findings, "configuration")[0]["text"]
    parameters = sum(p.numel() for p in load_policy(tiny).parameters())
    assert f"{parameters:,} parameters" in of(findings, "model")[0]["text"]
    assert len(of(findings, "rewards")) == 1
    first, taught = of(findings, "prompt")[:2]
    assert first["shown"][0].startswith("«<|user|>»")
    assert "Correct solution:⏎" in taught["shown"]
    assert not (tmp_path / "runs").exists()
    # 2 evaluations of 64 prompts x 4, against 3 steps of 6 prompts x 8
    assert "512 completions, 78%" in of(findings, "evaluation")[0]["text"]
    weights = 4 * parameters  # policy, teacher, two averages of the optimizer
    assert f"about {4 * weights / 2**20:.1f} MiB each, 1 kept" in of(findings, "checkpoints")[0]["text"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.yaml"], "absent.yaml"),
        ([*SHORT, "--model.aplha=1"], "perhaps you mean alpha"),
        ([*SHORT, "--model.model_name=./absent"], "no folder './absent'"),
        ([*SHORT, "--data.eval_every=7"], "does not divide"),
        ([*SHORT, "--rollout.max_prompt_tokens=16"], "longer"),
        ([*SHORT, "--rollout.sampling.max_new_tokens=5000"], "exceed the 1024 tokens"),
    ],
)
def test_mistakes_are_problems_that_the_user_can_mend(capsys, arguments, said):
    code, findings = doctor(capsys, "--config-only", *arguments)
    problems = [finding for finding in findings if finding["state"] == "problem"]
    assert code == 2
    assert said in " ".join(f"{p['text']} {p['fix']}" for p in problems)


def test_a_model_without_weights(capsys, tmp_path, tiny):
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    code, findings = doctor(capsys, "--config-only", *SHORT, "--model.model_name", tmp_path / "model")
    assert code == 2
    assert [f["part"] for f in findings if "holds no weights" in f["text"]] == ["model"]


def test_a_teacher_from_another_folder_is_not_read(tiny):
    run = build(["--config", CONFIG, f"--model.model_name={tiny}", f"--model.teacher.init_args.checkpoint={tiny}"])
    devices = {p.device.type for p in [*run.policy.parameters(), *run.module.teacher.parameters()]}
    assert devices == {"meta"}


def test_a_check_that_breaks_is_told_without_a_traceback():
    def breaks():
        yield Finding("a", "ok", "fine")
        raise RuntimeError("no such\nluck")

    found = list(run_checks([("a", breaks), ("b", lambda: [Finding("b", "ok", "fine")])]))
    assert [(f.part, f.state) for f in found] == [("a", "ok"), ("a", "problem"), ("b", "ok")]
    assert found[1].text == "RuntimeError: no such luck"
    assert exit_code(found) == 1


def test_versions_are_compared_with_what_is_allowed():
    found = list(versions.packages(["torch>=999", "no-such-package>=1", "numpy", 'zzz-none>=2; extra == "hub"']))
    problems = {f.text: f.fix for f in found if f.state == "problem"}
    assert problems == {
        f"torch is {version('torch')}, >=999 is needed": "pip install 'torch>=999'",
        "no-such-package is missing, >=1 is needed": "pip install 'no-such-package>=1'",
    }
    assert [f.text for f in found if f.part == "extras"] == ["not installed: hub (zzz-none)"]


def test_the_smallest_limit_of_the_control_groups_counts(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("0::/outer/inner\n")
    inner = tmp_path / "fs" / "outer" / "inner"
    inner.mkdir(parents=True)
    for folder, most, now, cpu in ((inner, "max", "5", "max 100000"), (inner.parent, "2048", "1024", "150000 100000")):
        (folder / "memory.max").write_text(most + "\n")
        (folder / "memory.current").write_text(now + "\n")
        (folder / "cpu.max").write_text(cpu + "\n")
    assert machine.memory_limit(tmp_path / "fs", own) == (2048, 1024)
    assert machine.cpu_quota(tmp_path / "fs", own) == 1.5
    assert machine.memory_limit(tmp_path / "none", own) == (None, 0)


def test_speeds_are_measured():
    found = speeds(torch.device("cpu"))
    assert all(speed > 0 for pair in found.values() for speed in pair)
    assert fastest(found) in found


def test_a_group_of_two_can_be_made():
    assert next(groups()).state == "ok"


def test_a_sandbox_that_holds_nothing_is_a_problem(monkeypatch, bubblewrap):
    assert sandboxes.sandbox("bubblewrap").state == "ok"
    monkeypatch.setattr(sandboxes, "PROGRAM", 'def attempt(path):\n    return {"network": "open"}')
    assert sandboxes.sandbox("bubblewrap").state == "problem"


CHAT = [{"role": "user", "content": "What is 1 + 1?"}]


def templated(change):
    tokenizer = load_tokenizer("micro")
    tokenizer.chat_template = change(tokenizer.chat_template)
    return [f for f in template_findings(tokenizer, CHAT, "2", [tokenizer.eos_token_id], {}) if f.state != "ok"]


def test_g09_a_template_is_checked():
    assert templated(lambda template: template) == []
    (open_end,) = templated(lambda template: template.replace("<|end|>", ""))
    assert "no end token" in open_end.text
    (other,) = templated(lambda t: t + "{%- if add_generation_prompt -%}So: {%- endif -%}")
    assert "finished turn begins otherwise" in other.text


@pytest.mark.parametrize(("start", "found"), [("", 0), ("<|user|>", 1)])
def test_only_a_beginning_that_stands_twice_is_broken(start, found):
    """In ChatML the token that begins the text may begin every turn."""
    tokenizer = load_tokenizer("micro")
    tokenizer.bos_token = "<|user|>"
    tokenizer.chat_template = start + tokenizer.chat_template
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    findings = list(template_findings(tokenizer, chat, "2", [tokenizer.eos_token_id], {}))
    assert len([f for f in findings if f.state == "problem" and "begins with <|user|> twice" in f.text]) == found


def test_special_tokens_and_line_ends_are_visible():
    tokenizer = load_tokenizer("micro")
    ids = render(tokenizer, [{"role": "user", "content": "a b\nc"}])
    assert visible(tokenizer, ids) == ("«<|user|>»a b⏎", "c«<|assistant|>»")


class Draws:
    def __init__(self):
        self.calls = 0.0

    def __call__(self, prompts, completions, **columns):
        self.calls += 1
        return [self.calls] * len(completions)


@pytest.mark.parametrize(
    ("score", "further", "said"),
    [
        (lambda text: float(bool(text)), {}, None),
        (lambda text: 0.0, {}, "8 of 8 reference answers do not score 1"),
        (lambda text: 1.0, {}, "an empty answer scores 1"),
        (lambda text: 1.0 if text else None, {}, "empty answers get no score"),
        (lambda text: float(bool(text)), {"draws": Draws()}, "draws scores the same answer differently"),
    ],
)
def test_r11_rewards_are_scored_twice(score, further, said):
    task = Toy(score=score)
    found = list(reward_findings("toy", task, task.rows("train")[:8], WeightedRewards(further)))
    if said is None:
        assert [f.state for f in found] == ["ok"]
    else:
        assert said in found[0].text
        assert found[0].state == ("note" if "no score" in said else "problem")


def test_references_that_are_imitated_may_be_wrong():
    task = Toy(score=lambda text: 0.0)
    (finding,) = reward_findings("toy", task, task.rows("train")[:8], WeightedRewards(), imitated=True)
    assert finding.state == "note"


def test_too_little_disk_for_the_checkpoints(monkeypatch, tiny, tmp_path):
    run = build(["--config", CONFIG, "--model.model_name", tiny, "--trainer.logger.init_args.save_dir", str(tmp_path)])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 100))
    (finding,) = checkpoints(run)
    assert finding.state == "problem"
    assert str(tmp_path) in finding.text


def test_only_a_configuration_needs_one():
    with pytest.raises(UserError, match="needs a configuration"):
        command(["--config-only"])


def test_slow_precision_is_told(capsys, tiny):
    found = speeds(torch.device("cpu"))
    if found["bfloat16"][0] > 0.7 * found["float32"][0]:
        pytest.skip("bfloat16 is not clearly slower here")
    _, findings = doctor(capsys, "--config-only", *SHORT, "--model.model_name", tiny, "--model.dtype=bfloat16")
    assert "times slower than float32" in " ".join(f["text"] for f in of(findings, "model"))
