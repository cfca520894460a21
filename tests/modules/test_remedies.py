"""Terms and penalties against forgetting: gradients against the formulas in float64, resume, what is off."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml

from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.data.jsonl import JsonlTask
from lit_sdpo.data.task import Stage
from lit_sdpo.errors import UserError
from lit_sdpo.modules import GRPO, SDPO, SFT, OnlineEWC, Tilt
from lit_sdpo.modules.continual_mopd import kept_stages
from lit_sdpo.policies.copies import SecondModel
from lit_sdpo.policies.load import Lora
from lit_sdpo.policies.memory import StepCount, Window
from lit_sdpo.policies.train_only import TrainOnly
from lit_sdpo.rewards.base import Verdict
from tests.faults.runs import assert_same, final, model, stream, train
from tests.modules.test_variants import Run, Sample, check, distilled, double, jsd, kl, make, mean
from tests.training import Toy, adamw, assert_close_gradients, assert_equal, fit, toy_data, weights


class Unjudged(Toy):
    """Prompts whose verifier has nothing to say."""

    def verify(self, completion, row):
        return Verdict(math.nan)


# ------------------------------------------------------------------------------------------------------------------ EWC
def fisher(run, tiny, step, at):
    """Mean squared gradient of the log-probability of a window's completions at some weights."""
    policy, total = double(tiny, run.steps.weights[at]), {}
    own = run.rollouts(step).own.nonzero()[:, 0].tolist()
    for n in own:
        policy.zero_grad()
        sample = Sample(run, step, n, policy, None)
        sample.of_ids(sample.student).sum().backward()
        for name, p in policy.named_parameters():
            total[name] = total.get(name, 0) + p.grad**2 / len(own)
    return total


@pytest.mark.parametrize("replay", [False, True])
def test_online_ewc_holds_what_past_stages_depend_on(tmp_path, tiny, replay):
    more = {"replay_coefficient": 0.5} if replay else {}
    module = make(GRPO, tiny, weight_anchor=OnlineEWC(strength=0.05, gamma=0.7), **more)
    data = toy_data(["a", "b"], steps=2, replay_share=0.4 if replay else 0.0)
    run = Run(tmp_path, module, data, slots=2)
    assert [logged["train/penalty"] for logged in run.steps.logged[:3]] == [0, 0, 0]
    first = fisher(run, tiny, step=1, at=2)
    start, now = run.steps.weights[2], run.steps.weights[3]
    expected = 0.05 / 2 * sum((first[n] * (now[n] - start[n]).double() ** 2).sum() for n in first)
    assert run.steps.logged[3]["train/penalty"] == pytest.approx(float(expected), rel=1e-3)
    assert expected > 1e-4
    if not replay:
        policy = double(tiny, now)
        samples = [Sample(run, 3, n, policy, None) for n in range(len(run.rollouts(3)))]
        mean([(s.policy_gradient, None) for s in samples]).backward()
        moved = {name: p.grad + 0.05 * first[name] * (now[name] - start[name]) for name, p in policy.named_parameters()}
        assert_close_gradients(run.steps.gradient(3), moved)
    second = fisher(run, tiny, step=3, at=4)
    kept = {name: getattr(module.weight_anchor, f"fisher_{i}").double() for i, name in enumerate(first)}
    assert_close_gradients(kept, {name: 0.7 * first[name] + second[name] for name in first}, rtol=1e-3)


def test_online_ewc_takes_the_answers_that_sft_learns_from(tmp_path, tiny):
    module = make(SFT, tiny, weight_anchor=OnlineEWC(strength=0.1))
    fit(tmp_path, module, toy_data(["a", "b"], steps=2))
    assert float(module.trainer.callback_metrics["train/penalty"]) > 0


def test_importance_is_float32_of_weights_in_bfloat16(tmp_path, tiny):
    module = make(GRPO, tiny, weight_anchor=OnlineEWC(strength=0.1))
    fit(tmp_path, module, toy_data(["a", "b"], steps=2), precision="bf16-true")
    assert {b.dtype for b in module.weight_anchor.buffers()} == {torch.float32}
    assert float(module.trainer.callback_metrics["train/penalty"]) > 0


# -------------------------------------------------------------------------------------------------------- prompt anchor
@pytest.mark.parametrize("kind", [GRPO, SDPO])
def test_a_prompt_anchor_holds_the_policy_on_earlier_prompts(tmp_path, tiny, kind):
    module = make(kind, tiny, prompt_anchor_coefficient=0.6)
    data = toy_data([Unjudged("a"), "b"], steps=2, prompts=4, replay_share=0.5)
    run = Run(tmp_path, module, data, slots=2)
    part, window = run.windows[3].parts["prompt_anchor"], run.windows[3]
    assert part.contributes.tolist() == [False] * 16 + [True] * 8
    share = float(window.completion_mask[16:].sum() / window.completion_mask.sum())
    assert run.steps.logged[3]["prompt_anchor/token_share"] == pytest.approx(share)
    assert run.steps.logged[0]["prompt_anchor/token_share"] == 0
    start = double(tiny, run.steps.weights[2])

    def loss(samples):
        now, others = samples[:16], samples[16:]
        own = distilled(now) if kind is SDPO else [(s.policy_gradient, None) for s in now]
        with torch.no_grad():
            before = [s.read(start, s.prompt) for s in others]
        anchor = mean([(kl(b, s.student), None) for b, s in zip(before, others, strict=True)])
        assert anchor > 1e-6
        return mean(own) + 0.6 * anchor

    check(run, tiny, loss, step=3, teacher=2)


def test_prompts_of_further_tasks_anchor_the_first_stage_too(tmp_path, tiny):
    module = make(GRPO, tiny, prompt_anchor_coefficient=2.0)
    further = Unjudged("further")
    run = Run(tmp_path, module, toy_data(steps=2, prompts=2, replay_share=1.0, replay_tasks=[further]))
    assert run.rollouts(1).replayed.tolist() == [False] * 8 + [True] * 8
    assert all(row.messages[0]["content"].startswith("further") for row in run.rollouts(1).rows[2:])
    start = double(tiny, run.steps.weights[0])

    def loss(samples):
        own = mean([(s.policy_gradient, None) for s in samples[:8]])
        with torch.no_grad():
            before = [s.read(start, s.prompt) for s in samples[8:]]
        return own + 2.0 * mean([(kl(b, s.student), None) for b, s in zip(before, samples[8:], strict=True)])

    check(run, tiny, loss, step=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"replay_tasks": [Toy("c")]}, "never drawn"),
        ({"replay_tasks": [Toy("a")], "replay_share": 0.5}, "trained or evaluated"),
        ({"replay_tasks": [Toy("c", size=0)], "replay_share": 0.5}, "no training rows"),
    ],
)
def test_tasks_that_cannot_be_replayed_are_refused(tmp_path, tiny, options, words):
    with pytest.raises(UserError, match=words):
        fit(tmp_path, make(GRPO, tiny, prompt_anchor_coefficient=1.0), toy_data(["a", "b"], **options))


def test_a_file_of_prompts_alone_can_be_the_anchor(tmp_path, tiny):
    """With the options of ``docs/remedies.md``."""
    page = (Path(__file__).parents[2] / "docs" / "remedies.md").read_text(encoding="utf-8")
    options = yaml.safe_load(page[page.index("{name: general") :].partition("\n")[0])
    file = tmp_path / "general.jsonl"
    file.write_text('{"prompt": "add 1"}\n{"prompt": "add 2"}\n')
    task = JsonlTask(**(options | {"train": str(file)}))
    module = make(GRPO, tiny, prompt_anchor_coefficient=1.0)
    run = Run(tmp_path, module, toy_data(steps=2, replay_share=0.5, replay_tasks=[task]))
    assert {row.messages[0]["content"] for row in run.rollouts().rows[3:]} == {"add 1", "add 2"}
    assert run.steps.logged[1]["train/loss/prompt_anchor"] > 0


def test_an_anchor_without_prompts_is_refused(tmp_path, tiny):
    with pytest.raises(UserError, match="replay_share"):
        fit(tmp_path, make(GRPO, tiny, prompt_anchor_coefficient=1.0), toy_data(["a", "b"]))


# ------------------------------------------------------------------------------------------------------- continual MOPD
def taught_by_specialists(tmp_path, tiny, tasks, steps=2, rollout=None, **options):
    module = make(GRPO, tiny, configure=False, continual_mopd_coefficient=0.6, **options)
    return Run(tmp_path, module, toy_data(tasks, steps=steps, prompts=4, replay_share=0.5), slots=2, rollout=rollout)


def earlier_rows(samples, run, step):
    """Rows that are not the stage's own, by their task."""
    rollouts, found = run.rollouts(step), {}
    for sample in samples:
        if not rollouts.own[sample.n]:
            found.setdefault(rollouts.tasks[sample.group], []).append(sample)
    return found


@pytest.mark.parametrize("aggregation", ["token_mean", "seq_mean_token_mean"])
def test_specialists_of_finished_stages_teach_their_own_prompts(tmp_path, tiny, aggregation):
    """The second step of the third stage: the sum over both earlier tasks of the mean KL from its own specialist."""
    run = taught_by_specialists(tmp_path, tiny, [Unjudged("a"), "b", "c"], aggregation=aggregation)
    specialists = {"a": double(tiny, run.steps.weights[2]), "b": double(tiny, run.steps.weights[4])}

    def of_rows(parts):
        if aggregation == "token_mean":
            return mean([(losses, None) for losses in parts])
        return torch.stack([losses.mean() for losses in parts]).mean()

    def loss(samples):
        earlier = earlier_rows(samples, run, 5)
        assert set(earlier) == {"a", "b"}
        own, total = of_rows([s.policy_gradient for s in samples[:16]]), 0.0
        for name, some in earlier.items():
            with torch.no_grad():
                before = [s.read(specialists[name], s.prompt) for s in some]
            total = total + of_rows([kl(b, s.student) for b, s in zip(before, some, strict=True)])
        assert total > 1e-6
        assert run.steps.logged[5]["train/loss/continual_mopd"] == pytest.approx(total.item(), rel=1e-3)
        return own + 0.6 * total

    check(run, tiny, loss, step=5)
    assert run.windows[0].parts["continual_mopd"].contributes.any().item() is False


def test_a_task_that_comes_back_gets_a_new_specialist(tmp_path, tiny):
    """a, b, a, c: in the last stage the specialist of a is the policy after its second stage."""
    task = Toy("a")
    stages = [Stage(task=t, steps=1, prompts_per_step=4) for t in (task, Toy("b"), task, Toy("c"))]
    data = ContinualDataModule(stages, eval_prompts=4, eval_generations=2, seed=3, replay_share=0.5)
    module = make(GRPO, tiny, configure=False, continual_mopd_coefficient=0.6)
    run = Run(tmp_path, module, data)
    assert list(module.terms["continual_mopd"].specialists) == ["0", "1", "2"]
    now, total = double(tiny, run.steps.weights[3]), 0.0
    samples = [Sample(run, 3, n, now, None) for n in range(len(run.rollouts(3)))]
    for name, at in (("a", 3), ("b", 2)):
        specialist, some = double(tiny, run.steps.weights[at]), earlier_rows(samples, run, 3)[name]
        with torch.no_grad():
            total = total + float(mean([(kl(s.read(specialist, s.prompt), s.student), None) for s in some]))
    assert run.steps.logged[3]["train/loss/continual_mopd"] == pytest.approx(total, rel=1e-3)
    assert total > 1e-6


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_specialists_of_adapters_are_adapters(tmp_path, tiny):
    options = {"lora": Lora(rank=2), "optimizer": adamw}
    module = make(SDPO, tiny, configure=False, continual_mopd_coefficient=0.6, **options)
    run = Run(tmp_path, module, toy_data(["a", "b"], steps=3, prompts=4, replay_share=0.5))
    assert [n for n, _ in module.named_parameters() if "specialist_0" in n]
    assert sum(isinstance(part, SecondModel) for part in module.modules()) == 0
    logged = [step.get("train/loss/continual_mopd", 0.0) for step in run.steps.logged]
    assert logged[:4] == pytest.approx([0, 0, 0, 0], abs=1e-6)  # where the stage begins both are the same
    assert min(logged[4:]) > 1e-7


def test_a_stage_whose_tasks_go_on_keeps_no_specialist():
    def stages(*names):
        return [Stage(task=Toy(name), steps=1, prompts_per_step=1) for name in names]

    assert kept_stages(stages("a", "a", "b", "c")) == [1, 2]
    assert kept_stages(stages("a")) == []


def test_specialists_are_counted_before_there_is_a_trainer(tiny):
    data = toy_data(["a", "b", "c"])
    sizes = []
    for stages in ((), data.stages):
        module = make(GRPO, tiny, configure=False, continual_mopd_coefficient=0.6, random_weights=True)
        module.expect(stages)
        with torch.device("meta"):
            module.configure_model()
        window = Window(prompts=6, rows=24, prompt=9, completion=6, read=True)
        sizes.append(StepCount(module, module.policy, window).of(1))
        held = sum(p.numel() for p in module.terms.parameters())
        assert held == len(data.stages[:-1]) * sum(p.numel() for p in module.policy.parameters()) * bool(stages)
    weights = 4 * sum(p.numel() for p in module.policy.parameters())
    assert sizes[1].peak - sizes[0].peak >= 2 * weights


def test_a_model_that_was_built_too_early_is_refused_at_the_first_stages_end(tmp_path, tiny):
    module = make(GRPO, tiny, continual_mopd_coefficient=0.6)
    with pytest.raises(UserError, match="before the stream was known"):
        fit(tmp_path, module, toy_data(["a", "b"], prompts=4, replay_share=0.5))


# ----------------------------------------------------------------------------------------------------------------- tilt
def tilted(reference, teacher, s):
    return ((1 - s) * reference + s * teacher).log_softmax(-1)


def furthest(reference, teacher, epsilon):
    """By halving, token by token."""
    low, high = torch.zeros(len(reference), 1).double(), torch.ones(len(reference), 1).double()
    for _ in range(60):
        middle = (low + high) / 2
        inside = kl(tilted(reference, teacher, middle), reference)[:, None] <= epsilon
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return low


@pytest.mark.parametrize(
    ("tilt", "share"),
    [
        (Tilt(beta=5.0, final_beta=1.0, steps=2), lambda reference, teacher: 1 / 3),
        (Tilt(beta=9.0, final_beta=2.0), lambda reference, teacher: 1 / 2),
        (Tilt(epsilon=0.02), lambda reference, teacher: furthest(reference, teacher, 0.02)),
    ],
    ids=["falling", "fixed", "budget"],
)
def test_the_target_is_tilted(tmp_path, tiny, tilt, share):
    """The second step of the second stage: reference and teacher are the policy of the stage's start."""
    run = Run(tmp_path, make(SDPO, tiny, tilt=tilt), toy_data(["a", "b"], steps=2), slots=2)
    start, found = double(tiny, run.steps.weights[2]), []

    def loss(samples):
        parts = []
        for s in (s for s in samples if s.teacher is not None):
            with torch.no_grad():
                reference = s.read(start, s.prompt)
                target = tilted(reference, s.teacher, share(reference, s.teacher))
                found.append((kl(target, reference), None))
            parts.append((jsd(s.student, target), None))
        return mean(parts)

    check(run, tiny, loss, step=3, teacher=2)
    logged = run.steps.logged[3]
    assert logged["sdpo/target_divergence"] == pytest.approx(float(mean(found)), rel=1e-3)
    assert 0 < logged["sdpo/inverse_beta"] < 1


def test_beta_falls_and_stays():
    tilt = Tilt(beta=5.0, final_beta=1.0, steps=4)
    assert [1 / tilt.inverse_beta(step) for step in (0, 1, 2, 4, 9)] == pytest.approx([5, 4, 3, 1, 1])
    assert Tilt(beta=5.0, final_beta=2.0).inverse_beta(0) == 0.5


# ------------------------------------------------------------------------------------------------------------------ all
REMEDIES = {
    "ewc": ("grpo", lambda: {"weight_anchor": OnlineEWC(strength=0.5)}, {}),
    "prompt_anchor": ("sdpo", lambda: {"prompt_anchor_coefficient": 1.0}, {"replay_share": 0.4}),
    "continual_mopd": ("sdpo", lambda: {"continual_mopd_coefficient": 1.0}, {"replay_share": 0.4}),
    "tilt": ("sdpo", lambda: {"tilt": Tilt(beta=3.0, steps=3)}, {}),
    "budget": ("sdpo", lambda: {"tilt": Tilt(epsilon=0.01)}, {}),
    "train_only": ("sdpo", lambda: {"train_only": TrainOnly(["self_attn"])}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REMEDIES)
def test_a_remedy_changes_the_result_and_resumes_bit_for_bit(tmp_path, tiny, name):
    kind, options, data = REMEDIES[name]
    module = model(tiny, kind, **options())
    whole = final(train(tmp_path / "run", module, stream(**data)), module)
    for checkpoint in ("stage=0-step=4", "step=6"):
        again = model(tiny, kind, **options())
        path = tmp_path / "run" / "checkpoints" / f"{checkpoint}.ckpt"
        assert_same(final(train(tmp_path / "run", again, stream(**data), ckpt_path=path), again), whole)
    plain = model(tiny, kind)
    train(tmp_path / "plain", plain, stream())
    assert any(not torch.equal(a, b) for a, b in zip(weights(plain).values(), weights(module).values(), strict=True))


@pytest.mark.parametrize(
    "options",
    [{"weight_anchor": OnlineEWC(strength=0.0)}, {"train_only": TrainOnly(["."])}, {"continual_mopd_coefficient": 0.0}],
    ids=["ewc", "train_only", "continual_mopd"],
)
def test_switched_off_it_changes_nothing(tmp_path, tiny, options):
    ends = []
    for some in ({}, options):
        module = make(GRPO, tiny, **some)
        fit(tmp_path, module, toy_data(["a", "b"], steps=2))
        ends.append(weights(module))
    assert_equal(*ends)
