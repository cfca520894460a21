"""Every benchmark runs at its smallest size, and what it compares is equal. Nothing here looks at a time."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks import (
    bounds,
    common,
    ddp,
    gpu,
    load,
    memory,
    plain,
    plan,
    profile,
    remedies,
    rollout,
    scaling,
    step,
    update,
)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a benchmark in this process; its last line."""
    threads = torch.get_num_threads()

    def call(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        module.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    yield call
    torch.set_num_threads(threads)


def test_a_power_law_is_found():
    assert scaling.exponent([1, 2, 4, 8], [5, 10, 20, 40]) == pytest.approx(1)
    assert scaling.exponent([1, 10], [1, 100]) == pytest.approx(2)


def test_sections_count_what_is_inside_them_once(monkeypatch):
    times = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr(profile.time, "process_time", lambda: next(times))
    sections = profile.Sections()
    with sections.inside("outer"), sections.inside("inner"):
        pass
    assert sections.stop() == {profile.REST: 1.0 + 5.0, "outer": 2.0 + 4.0, "inner": 3.0}


def test_a_bound_counts_shared_prompts_once():
    config = common.SHAPES["tiny"].config()
    bound = bounds.Bound(config, bounds.Step(8, 4, 50, 3, 90, 0.5), repeats=1)
    model = common.random_model("tiny")
    norms = sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    assert bound.parameters == sum(p.numel() for p in model.parameters()) - norms
    assert bound._rows(50, 8, 2) == (2 * 50 + 8 * 2, 2 * 50 * 51 / 2 + 8 * (51 + 52))
    assert bound.student(shared=True) < bound.student(shared=False)
    assert bound.seconds("grpo", True)[1] < bound.seconds("sdpo", True)[1]


def test_the_plain_divergence_is_the_definition():
    p, q = torch.tensor([0.5, 0.5, 0.0 + 1e-9]), torch.tensor([0.1, 0.2, 0.7])
    m = (p + q) / 2
    expected = ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2
    assert plain.jensen_shannon(p.log(), q.log()).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.slow
def test_rollout(run):
    found = run(rollout, "--tiny", "--repeats", "1")
    assert [row["ends"] for row in found["rows"]] == ["hazard", "fixed"]


@pytest.mark.slow
def test_update(run):
    with pytest.raises(SystemExit) as end:
        run(update, "--tiny", "--repeats", "1", "--only", "update", "teacher", "sampler")
    assert end.value.code == 0


@pytest.mark.slow
def test_update_fails_where_the_sides_differ(run, monkeypatch):
    monkeypatch.setattr(plain, "surrogate", lambda logprobs, advantages: -1.001 * logprobs * advantages)
    with pytest.raises(SystemExit) as end:
        run(update, "--tiny", "--repeats", "1", "--only", "update")
    assert end.value.code == 1


@pytest.mark.slow
def test_forwards():
    assert [row["count"] for row in update.forwards()] == ["1 (0)", "1 (0)"]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["grpo", "jsd"])
def test_head(loss):
    ours, theirs = (update.head_case(loss, side, 200, 40, 16) for side in ("ours", "plain"))
    for key in ("loss", "dW", "dh"):
        assert ours[key] == pytest.approx(theirs[key], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "sdpo"])
def test_memory(method):
    for side in ("ours", "plain"):
        found = memory.measure(side, method, "tiny", 97, 1, 3)
        assert found["estimate"] > 0


@pytest.mark.slow
def test_plan(run):
    (row,) = run(plan, "--tiny")["rows"]
    assert 0.8 < row["plan ÷ measured"] < 1.25
    assert row["throughout"] == pytest.approx(row["throughout: plan"], rel=0.1)


@pytest.mark.slow
def test_the_two_ways_of_memory_have_the_same_loss():
    policy, teacher = common.random_model("tiny"), common.random_model("tiny")
    with torch.no_grad():
        teacher.get_input_embeddings().weight.mul_(20)
    rows = common.random_rows(common.random_prompts([3, 5], 97), 2, 97, mean=3, most=5)
    advantages = torch.tensor([1.0, -0.5, 0.25, 2.0])
    for other in (None, teacher):
        losses = [way(policy, other, rows, rows, advantages) for way in (memory.losses_of_ours, memory.losses_of_plain)]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5, abs=1e-7)


@pytest.mark.slow
def test_load(run):
    (found,) = run(load, "--tiny")["rows"]
    assert (found["exit code"], found["processes left"]) == (0, 0)
    assert "2 .ckpt" in found["files"]


@pytest.mark.slow
def test_scaling(run):
    found = run(scaling, "--tiny", "--repeats", "1")
    assert [row["axis"] for row in found["rows"]] == list(scaling.AXES)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "sdpo"])
def test_profile(run, method):
    found = run(profile, "--tiny", "--method", method, "--max-completion-length", "4")
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(1, abs=0.02)
    parts = {"rollout: prefill", "rollout: decode", "student forward", "head and loss", "backward"}
    assert parts <= {row["part"] for row in found["rows"]}


@pytest.mark.slow
def test_bounds_of_a_measured_step(run, tmp_path):
    data = common.write_additions(tmp_path)
    line = ["--model", "micro", "--data", str(data), "--steps", "2", "--prompts-per-step", "2"]
    measured = run(step, *line, "--num-generations", "2", "--max-completion-length", "4")
    (tmp_path / "step.json").write_text(json.dumps(measured))
    found = run(bounds, "--tiny", "--against", str(tmp_path / "step.json"))
    assert [row["prompts"] for row in found["rows"]] == ["shared", "row by row"]
    assert all(row["step ÷ bound"] > 0 for row in found["rows"])


@pytest.mark.slow
@pytest.mark.distributed
def test_ddp(run):
    found = run(ddp, "--tiny")
    alone, both = found["rows"]
    assert alone["reward of the first step"] == pytest.approx(both["reward of the first step"], abs=1e-6)


@pytest.mark.slow
def test_gpu(run):
    found = run(gpu, "--device", "cpu", "--size", "tiny", "--repeats", "1")
    gaps = [row["gradient norms differ by"] for row in found["rows"] if "gradient norms differ by" in row]
    assert gaps == [pytest.approx(0, abs=1e-5)]


@pytest.mark.slow
def test_remedies(run):
    found = run(remedies, "--tiny")
    assert [row["remedy"] for row in found["rows"]] == list(remedies.REMEDIES)
    assert found["rows"][0]["ratio"] == 1
