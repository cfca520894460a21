"""Each method's gradient against its formula, written out row by row; each option changes the result."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import pytest
import torch

from lit_sdpo.errors import UserError
from lit_sdpo.modules import (
    CISPO,
    GRPO,
    GSPO,
    SCSDPO,
    SDPG,
    SDPO,
    SFT,
    SRPO,
    DemoPSD,
    GeoSD,
    WeightAnchor,
)
from lit_sdpo.policies.load import load_policy
from lit_sdpo.policies.teachers import EMATeacher, GatedTeacher
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rollouts.reprompt import Reprompt
from tests.training import Toy, Watch, assert_close_gradients, fit, rollout_callback, sgd, toy_data, weights

LR = 0.5
GENERATIONS = 4


def make(kind, model, configure=True, **options):
    options = {"optimizer": lambda parameters: sgd(parameters, LR), "scheduler": None} | options
    if issubclass(kind, SDPO):
        options = {"reprompt": Reprompt(allow_truncated=True)} | options
        options = options if kind is GeoSD else {"top_k": None} | options
    module = kind(model, **options)
    if configure:
        module.configure_model()
    return module


class Steps(pl.Callback):
    """Weights before each step, and what was logged."""

    def __init__(self):
        self.weights, self.logged = [], []

    def on_train_start(self, trainer, pl_module):
        self.weights.append(weights(pl_module))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch.slot == batch.slots - 1:
            self.weights.append(weights(pl_module))
            self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def gradient(self, step):
        before, after = self.weights[step : step + 2]
        return {name: (before[name] - after[name]).double() / LR for name in before}


class Run:
    """A fitted module with its steps, its rollouts and what its terms prepared."""

    def __init__(self, tmp_path, module, data=None, slots=1, rollout=None):
        self.module, self.windows = module, []
        self.steps, self.watch = Steps(), Watch()
        prepare = module.prepare_rollouts

        def keep(rollouts):
            self.windows.append(prepare(rollouts))
            return self.windows[-1]

        module.prepare_rollouts = keep
        self.fit(
            tmp_path, module, data or toy_data(), self.steps, self.watch, rollout=rollout, accumulate_grad_batches=slots
        )

    def fit(self, *arguments, **options):
        fit(*arguments, **options)

    def rollouts(self, step=0):
        return self.watch.of("train")[step]["rollouts"]


class Sample:
    """One completion: the student's and the teacher's log-probabilities at each of its tokens, [T, V] in float64."""

    def __init__(self, run, step, n, policy, teacher):
        rollouts = run.rollouts(step)
        self.n, self.group = n, n // rollouts.num_generations
        self.ids = rollouts.completions.ids[n, : rollouts.completions.lengths[n]]
        self.reward = float(rollouts.rewards[n])
        others = rollouts.rewards.view(-1, rollouts.num_generations)[self.group]
        self.advantage = 0.0 if math.isnan(self.reward) else self.reward - float(others.nanmean())
        self.prompt = rollouts.prompt_ids[self.group]
        self.student = self.read(policy, self.prompt)
        prompts = run.windows[step].teacher_prompt_ids
        with torch.no_grad():
            self.teacher = None if not prompts or prompts[n] is None else self.read(teacher, prompts[n])

    def read(self, model, prompt):
        row = torch.tensor([[*prompt, *self.ids.tolist()]])
        return model(row).logits[0, len(prompt) - 1 : -1].log_softmax(-1)

    def of_ids(self, logprobs):
        return logprobs.gather(-1, self.ids[:, None])[:, 0]

    @property
    def policy_gradient(self):
        return -self.advantage * self.of_ids(self.student)


def double(model, values):
    policy = load_policy(model)
    policy.load_state_dict({**policy.state_dict(), **values})
    return policy.double()


def mean(parts):
    """Sum over all tokens of [(losses, active or None)], by the number of active ones."""
    count = sum(len(losses) if active is None else int(active.sum()) for losses, active in parts)
    total = sum((losses if active is None else losses[active]).sum() for losses, active in parts)
    return total / count if count else torch.zeros(())


def check(run, tiny, loss, step=0, teacher=0):
    """The step's gradient is that of ``loss(samples)`` at the weights before it; the teacher's weights may be older."""
    policy, reads = double(tiny, run.steps.weights[step]), double(tiny, run.steps.weights[teacher])
    samples = [Sample(run, step, n, policy, reads) for n in range(len(run.rollouts(step)))]
    loss(samples).backward()
    expected = {name: p.grad for name, p in policy.named_parameters()}
    assert_close_gradients(run.steps.gradient(step), expected)
    return samples


def kl(p, q):
    return (p.exp() * (p - q)).sum(-1)


def jsd(student, teacher, alpha=0.5):
    middle = ((1 - alpha) * student.exp() + alpha * teacher.exp()).log()
    return (1 - alpha) * kl(student, middle) + alpha * kl(teacher, middle)


def distilled(samples, wanted=lambda s: True):
    return [(jsd(s.student, s.teacher), None) for s in samples if s.teacher is not None and wanted(s)]


# ------------------------------------------------------------------------------------------------------------ SDPO
def test_sdpo_is_the_mean_divergence_of_rows_with_a_context(tmp_path, tiny):
    run = Run(tmp_path, make(SDPO, tiny), slots=2)
    samples = check(run, tiny, lambda samples: mean(distilled(samples)))
    assert 0 < sum(s.teacher is not None for s in samples) <= len(samples)


def test_a_random_mask_leaves_tokens_out_of_the_loss_and_the_denominator(tmp_path, tiny):
    run = Run(tmp_path, make(SDPO, tiny, token_mask=0.5))
    part, mask = run.windows[0].parts["distillation"], run.windows[0].completion_mask
    known = torch.tensor([prompt is not None for prompt in run.windows[0].teacher_prompt_ids])
    assert bool((part.active <= (mask & known[:, None])).all())
    assert 0 < int(part.active.sum()) < int((mask & known[:, None]).sum())
    assert float(part.weights.sum()) == pytest.approx(1.0)

    def loss(samples):
        return mean(
            [(jsd(s.student, s.teacher), part.active[s.n, : len(s.ids)]) for s in samples if s.teacher is not None]
        )

    check(run, tiny, loss)
    cut = Run(tmp_path, make(SDPO, tiny, token_mask=0.5), slots=3)
    assert torch.equal(cut.windows[0].parts["distillation"].active, part.active)
    assert_close_gradients(cut.steps.gradient(0), run.steps.gradient(0))


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_a_random_mask_keeps_the_share_it_should(tmp_path, tiny, share):
    data = toy_data(prompts=12)
    run = Run(tmp_path, make(SDPO, tiny, token_mask=share), data=data, rollout=rollout_callback(num_generations=16))
    window = run.windows[0]
    known = torch.tensor([prompt is not None for prompt in window.teacher_prompt_ids])
    total = int((window.completion_mask & known[:, None]).sum())
    kept = int(window.parts["distillation"].active.sum())
    assert abs(kept - (1 - share) * total) < 4 * math.sqrt(total * share * (1 - share))


def test_another_step_masks_other_tokens(tmp_path, tiny):
    run = Run(
        tmp_path, make(SDPO, tiny, token_mask=0.5, optimizer=lambda p: sgd(p, 0.0)), toy_data([Toy(size=3)], steps=2)
    )
    a, b = (window.parts["distillation"].active for window in run.windows)
    assert a.shape != b.shape or not torch.equal(a, b)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_mask_is_a_share(tiny, share):
    with pytest.raises(ValueError, match="token_mask"):
        SDPO(tiny, token_mask=share)


def test_an_outcome_term_has_its_own_denominator(tmp_path, tiny):
    run = Run(tmp_path, make(SDPO, tiny, outcome_coefficient=0.7))

    def loss(samples):
        return mean(distilled(samples)) + 0.7 * mean([(s.policy_gradient, None) for s in samples])

    samples = check(run, tiny, loss)
    assert any(s.teacher is None for s in samples)


@pytest.mark.parametrize("shown", [False, True])
def test_reference_answers_stand_in_for_missing_siblings_on_request(tmp_path, tiny, shown):
    reprompt = Reprompt(dataset_demonstrations=shown)
    run = Run(tmp_path, make(SDPO, tiny, reprompt=reprompt), toy_data([Toy(score=lambda text: 0.0)]))
    assert all((prompt is not None) == shown for prompt in run.windows[0].teacher_prompt_ids)
    if shown:
        check(run, tiny, lambda samples: mean(distilled(samples)))
        prompts = run.module.tokenizer.batch_decode(run.windows[0].teacher_prompt_ids)
        rows = run.rollouts().rows
        assert all(rows[n // GENERATIONS].reference in prompt for n, prompt in enumerate(prompts))
    else:
        assert run.steps.gradient(0)["model.norm.weight"].abs().max() == 0


# ------------------------------------------------------------------------------------------------------------ variants
@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_srpo_distils_failures_and_reinforces_the_rest(tmp_path, tiny, beta):
    run = Run(tmp_path, make(SRPO, tiny, entropy_beta=beta), slots=2)

    def failed(sample):
        return sample.reward < 1 and sample.teacher is not None

    def loss(samples):
        sure = [
            (jsd(s.student, s.teacher) * (-beta * -(s.teacher.exp() * s.teacher).sum(-1)).exp(), None)
            for s in samples
            if failed(s)
        ]
        return mean(sure) + mean([(s.policy_gradient, None) for s in samples if not failed(s)])

    samples = check(run, tiny, loss)
    assert {failed(s) for s in samples} == {True, False}
    parts = run.windows[0].parts
    assert not bool((parts["distillation"].active & parts["policy_gradient"].active).any())


def scores(pattern):
    """A task whose completions get these scores in the order in which they are judged."""
    calls = iter(range(10**9))
    return Toy(score=lambda text: pattern[next(calls) % len(pattern)])


def test_sc_sdpo_weighs_questions_by_how_undecided_they_are(tmp_path, tiny):
    pattern = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    run = Run(tmp_path, make(SCSDPO, tiny), toy_data([scores(pattern)], prompts=4), slots=2)
    rates = [0.75, 0.5, 0.0, 1.0]
    raw = [math.sqrt(p * (1 - p)) for p in rates]
    weight = [2 * w / sum(raw) for w in raw]
    assert sum(weight[:2]) / 2 == pytest.approx(1)

    def loss(samples):
        rows = [s for s in samples if s.teacher is not None and weight[s.group] > 0]
        return sum(weight[s.group] * jsd(s.student, s.teacher).sum() for s in rows) / sum(len(s.ids) for s in rows)

    check(run, tiny, loss)


def test_sc_sdpo_leaves_abstentions_out_of_the_rate(tmp_path, tiny):
    pattern = [1, 0, None, None, 1, 1, 1, 0, 1, 1, 1, None]
    run = Run(tmp_path, make(SCSDPO, tiny), toy_data([scores(pattern)]))
    raw = [0.5, math.sqrt(0.75 * 0.25), 0.0]
    scale = run.windows[0].parts["distillation"].scale.view(3, GENERATIONS)
    assert scale[:, 0].tolist() == pytest.approx([2 * w / sum(raw) for w in raw])


def test_sdpg_distils_what_succeeded(tmp_path, tiny):
    module = make(SDPG, tiny, distillation_coefficient=3.0, warmup_steps=4, kl_beta=2.0)
    run = Run(tmp_path, module, toy_data(steps=2), slots=2)

    def loss(factor, base=None):
        def total(samples):
            good = [s for s in samples if s.advantage > 0 and s.teacher is not None]
            out = factor * mean([(kl(s.student, s.teacher), None) for s in good])
            out = out + mean([(s.policy_gradient, None) for s in samples])
            if base is not None:
                out = out + 2.0 * mean([(penalty(s, base, "k3"), None) for s in samples])
            return out

        return total

    samples = check(run, tiny, loss(3.0 / 4))
    assert any(s.teacher is not None and s.advantage <= 0 for s in samples)
    check(run, tiny, loss(3.0 * 2 / 4, double(tiny, run.steps.weights[0])), step=1)


def test_sdpg_anneals():
    from lit_sdpo.modules.sdpg import OutcomeGated

    term = OutcomeGated(coefficient=2.0)
    term.warmup_steps, term.decay_steps = 4, 10
    assert [term.factor(k) for k in (0, 1, 3, 4, 9, 14, 100)] == pytest.approx([0.5, 1.0, 2.0, 2.0, 1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="decay_steps"):
        SDPG("micro", decay_steps=0)
    term.warmup_steps = 0
    assert [term.factor(k) for k in (0, 5, 10)] == pytest.approx([2.0, 1.0, 0.0])


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_demo_psd_keeps_a_share_of_the_student(tmp_path, tiny, alpha):
    run = Run(tmp_path, make(DemoPSD, tiny, share_max=0.8, sharpness=6.0, alpha=alpha))
    shares = []

    def loss(samples):
        parts = []
        for s in samples:
            if s.teacher is None:
                continue
            own = s.student.detach()
            share = 2 * 0.8 * (torch.sigmoid(6.0 * jsd(own, s.teacher)) - 0.5)
            shares.extend(share.tolist())
            target = (s.teacher.exp() ** (1 - share[:, None])) * (own.exp() ** share[:, None])
            target = (target / target.sum(-1, keepdim=True)).log()
            parts.append((kl(s.student, target) if alpha == 1 else jsd(s.student, target), None))
        return mean(parts)

    check(run, tiny, loss)
    assert 0 <= min(shares) < max(shares) < 0.8


def test_demo_psd_without_a_share_is_sdpo(tmp_path, tiny):
    a = Run(tmp_path, make(DemoPSD, tiny, share_max=0.0)).steps.gradient(0)
    assert_close_gradients(a, Run(tmp_path, make(SDPO, tiny)).steps.gradient(0))


def hellinger(a, b):
    return 1 - ((a + b) / 2).exp().sum(-1)


def test_geo_sd_pulls_to_the_teacher_and_holds_to_the_anchor(tmp_path, tiny):
    run = Run(tmp_path, make(GeoSD, tiny, anchor_coefficient=0.6, anchor_every=10), toy_data(steps=2), slots=2)

    def loss(anchor):
        def total(samples):
            known = [s for s in samples if s.teacher is not None]
            out = mean([(hellinger(s.student, s.teacher), None) for s in known])
            if anchor is not None:
                with torch.no_grad():
                    held = [s.read(anchor, s.prompt) for s in known]
                angle = [
                    4 * (1 - hellinger(s.student, a)).clamp(max=1 - 1e-15).arccos().square()
                    for s, a in zip(known, held, strict=True)
                ]
                out = out + 0.6 * mean([(d, None) for d in angle])
            return out

        return total

    check(run, tiny, loss(None))  # at the anchor itself it says nothing
    assert run.steps.logged[0]["train/loss/anchor"] == pytest.approx(0, abs=1e-9)
    assert run.steps.logged[1]["train/loss/anchor"] > 1e-5
    check(run, tiny, loss(double(tiny, run.steps.weights[0])), step=1)


def test_geo_sd_takes_a_new_anchor_every_so_often(tmp_path, tiny):
    module = make(GeoSD, tiny, anchor_every=2)
    run = Run(tmp_path, module, toy_data(steps=5))
    anchor = dict(module.terms["anchor"].copy.model.named_parameters())
    assert all(torch.equal(anchor[name], value) for name, value in run.steps.weights[4].items())
    assert int(module.terms["anchor"].steps) == 5


# ------------------------------------------------------------------------------------------------------------ penalties
def penalty(sample, base, estimator):
    with torch.no_grad():
        before = sample.of_ids(sample.read(base, sample.prompt))
    d = sample.of_ids(sample.student) - before
    return {"k1": d, "k2": d**2 / 2, "k3": torch.exp(-d) - 1 + d}[estimator]


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_base_stays_the_model_before_the_first_stage(tmp_path, tiny, estimator):
    module = make(GRPO, tiny, kl_beta=1.5, kl_estimator=estimator)
    run = Run(tmp_path, module, toy_data(["a", "b"]), slots=2)
    base = double(tiny, run.steps.weights[0])

    def loss(samples):
        pull = 1.5 * mean([(penalty(s, base, estimator), None) for s in samples])
        return mean([(s.policy_gradient, None) for s in samples]) + pull

    check(run, tiny, loss, step=0)
    check(run, tiny, loss, step=1)
    kept = dict(module.terms["base_kl"].base.model.named_parameters())
    assert all(torch.equal(kept[name], value) for name, value in run.steps.weights[0].items())


class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.zeros(2, 5))
        self.b = torch.nn.Parameter(torch.zeros(3))
        self.c = torch.nn.Parameter(torch.zeros(3), requires_grad=False)


def test_a_weight_anchor_holds_what_moved_most_in_any_past_stage():
    policy, anchor = Two(), WeightAnchor(strength=10.0, share=0.2)
    anchor.attach(policy)

    def move(a, b):
        with torch.no_grad():
            policy.a.view(-1)[:] += torch.tensor(a)
            policy.b += torch.tensor(b)

    move([9.0, -8, 0, 0, 0, 0, 0, 0, 0, 1], [0.1, 0.3, 0.2])
    assert anchor.penalty(policy).item() == 0
    anchor.start_stage(policy)
    assert anchor.mask_0.view(-1).nonzero()[:, 0].tolist() == [0, 1]
    assert anchor.mask_1.tolist() == [False, True, False]
    assert anchor.penalty(policy).item() == 0
    move([1.0, 0, -5, 0, 0, 0, 0, 0, 0, 2], [1.0, 0.5, 0.0])
    # held: a[0] and a[1], b[1]
    assert anchor.penalty(policy).item() == pytest.approx(10 / 3 * (1 + 0.5))
    anchor.penalty(policy).backward()
    torch.testing.assert_close(policy.a.grad.view(-1), torch.tensor([10 / 3, *[0.0] * 9]))
    torch.testing.assert_close(policy.b.grad, torch.tensor([0.0, 10 / 3, 0.0]))
    anchor.start_stage(policy)
    assert anchor.mask_0.view(-1).nonzero()[:, 0].tolist() == [0, 1, 2, 9]
    assert anchor.mask_1.tolist() == [True, True, False]
    assert torch.equal(anchor.anchor_0, policy.a)
    assert policy.c.grad is None


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_weight_anchor_holds_a_share(share):
    with pytest.raises(ValueError, match="share"):
        WeightAnchor(share=share)


@pytest.mark.parametrize("slots", [1, 3])
def test_a_weight_anchor_counts_once_per_step(tmp_path, tiny, slots):
    module = make(GRPO, tiny, weight_anchor=WeightAnchor(strength=30.0, share=0.1))
    run = Run(tmp_path, module, toy_data(["a", "b"], steps=2), slots=slots)
    assert [logged["train/penalty"] for logged in run.steps.logged[:3]] == [0, 0, 0]
    start, now = run.steps.weights[2], run.steps.weights[3]
    changed = {name: (value - run.steps.weights[0][name]).abs() for name, value in start.items()}
    held = {
        name: torch.zeros(c.numel()).scatter(0, c.flatten().topk(round(0.1 * c.numel())).indices, 1.0).view_as(c)
        for name, c in changed.items()
    }
    count = sum(h.sum() for h in held.values())
    expected = 30.0 * sum(((now[n] - start[n]).abs() * held[n]).sum() for n in held) / count
    assert run.steps.logged[3]["train/penalty"] == pytest.approx(float(expected), rel=1e-4)

    policy = double(tiny, now)
    samples = [Sample(run, 3, n, policy, None) for n in range(len(run.rollouts(3)))]
    mean([(s.policy_gradient, None) for s in samples]).backward()
    wanted = {
        name: p.grad + 30.0 / count * held[name] * (now[name] - start[name]).sign()
        for name, p in policy.named_parameters()
    }
    assert_close_gradients(run.steps.gradient(3), wanted)


# ------------------------------------------------------------------------------------------------------------ prompts
@pytest.mark.parametrize("kind", [GRPO, SDPO])
def test_replay_learns_from_verified_completions_to_earlier_prompts(tmp_path, tiny, kind):
    module = make(kind, tiny, replay_coefficient=0.4)
    run = Run(tmp_path, module, toy_data(["a", "b"], prompts=4, replay_share=0.5), slots=2)
    first, second = run.rollouts(0), run.rollouts(1)
    assert not run.windows[0].parts["replay"].contributes.any()
    assert first.replayed is None or not first.replayed.any()
    assert second.replayed.tolist() == [False] * 16 + [True] * 8
    assert all(row.messages[0]["content"].startswith("b") for row in second.rows[:4])
    assert all(row.messages[0]["content"].startswith("a") for row in second.rows[4:])
    verified = second.replayed & (second.rewards >= 1)
    assert torch.equal(run.windows[1].parts["replay"].contributes, verified)
    assert 0 < int(verified.sum()) < 8

    def loss(samples):
        now, old = samples[:16], [s for s in samples[16:] if s.reward >= 1]
        own = distilled(now) if kind is SDPO else [(s.policy_gradient, None) for s in now]
        return mean(own) + 0.4 * mean([(-s.of_ids(s.student), None) for s in old])

    check(run, tiny, loss, step=1, teacher=1)


@pytest.mark.parametrize(("coefficient", "share"), [(0.0, 0.1), (0.5, 0.0)])
def test_replay_needs_both_its_options(tmp_path, tiny, coefficient, share):
    module = make(GRPO, tiny, replay_coefficient=coefficient)
    with pytest.raises(UserError, match="replay"):
        fit(tmp_path, module, toy_data(["a", "b"], replay_share=share))


@pytest.mark.parametrize(("share", "rounds"), [(0.5, 0), (0.0, 2)])
def test_reference_answers_are_neither_replayed_nor_resampled(tmp_path, tiny, share, rounds):
    module = make(SFT, tiny, replay_coefficient=share)
    with pytest.raises(UserError, match="reference answers"):
        fit(tmp_path, module, toy_data(replay_share=share), rollout=rollout_callback(resample_rounds=rounds))


def test_replayed_rows_have_no_teacher_and_do_not_count_in_statistics(tmp_path, tiny):
    module = make(SDPO, tiny, replay_coefficient=0.4, outcome_coefficient=1.0, teacher=GatedTeacher(window=1))
    module.terms["policy_gradient"].advantage = "batch_std"
    run = Run(tmp_path, module, toy_data(["a", "b"], prompts=4, replay_share=0.5))
    rewards, window = run.rollouts(1).rewards, run.windows[1]
    assert window.teacher_prompt_ids[16:] == [None] * 8
    assert any(window.teacher_prompt_ids[:16])
    assert float(module.teacher.rewards[-1]) == pytest.approx(float(rewards[:16].mean()))
    groups = rewards[:16].view(4, 4)
    expected = (groups - groups.mean(1, keepdim=True)) / (rewards[:16].std() + 1e-6)
    advantages = window.parts["policy_gradient"].values["advantages"]
    torch.testing.assert_close(advantages, torch.cat([expected.flatten(), torch.zeros(8)]))


class Mixed(Toy):
    """Completions to odd rows are right or wrong, those to even rows all right."""

    def verify(self, completion, row):
        return Verdict(float(len(completion) % 2) if int(row.ground_truth) % 2 else 1.0)


def uneven(rollouts):
    groups = rollouts.rewards.view(-1, GENERATIONS)
    return int((groups.amax(1) > groups.amin(1)).sum())


def test_dynamic_sampling_replaces_flat_groups(tmp_path, tiny):
    def run(rounds, slots=1):
        rollout = rollout_callback(resample_rounds=rounds)
        return Run(tmp_path, make(GRPO, tiny), toy_data([Mixed()], prompts=6), slots=slots, rollout=rollout)

    plain, more = run(0), run(4)
    assert uneven(plain.rollouts()) < uneven(more.rollouts()) <= 6
    assert len(more.rollouts()) == len(plain.rollouts()) == 6 * GENERATIONS
    kept = {
        row.id
        for row, group in zip(plain.rollouts().rows, plain.rollouts().rewards.view(6, -1), strict=True)
        if group.std() > 0
    }
    assert kept <= {row.id for row in more.rollouts().rows}
    check(more, tiny, lambda samples: mean([(s.policy_gradient, None) for s in samples]))
    cut = run(4, slots=3)
    assert torch.equal(cut.rollouts().completions.ids, more.rollouts().completions.ids)
    assert_close_gradients(cut.steps.gradient(0), more.steps.gradient(0))


# ------------------------------------------------------------------------------------------------------------ options
OPTIONS = {
    "alpha": (SDPO, {}, {"alpha": 0.3}),
    "top_k": (SDPO, {"top_k": 20}, {"top_k": 10}),
    "tail": (SDPO, {"top_k": 20}, {"top_k": 20, "tail": False}),
    "importance_clip": (SDPO, {}, {"importance_clip": 0.5}),
    "token_mask": (SDPO, {}, {"token_mask": 0.25}),
    "outcome_coefficient": (SDPO, {"outcome_coefficient": 0.5}, {"outcome_coefficient": 0.6}),
    "teacher": (SDPO, {}, {"teacher": EMATeacher(0.5)}),
    "entropy_beta": (SRPO, {}, {"entropy_beta": 2.0}),
    "distillation_coefficient": (SDPG, {}, {"distillation_coefficient": 2.0}),
    "warmup_steps": (SDPG, {}, {"warmup_steps": 5}),
    "decay_steps": (SDPG, {"warmup_steps": 0}, {"warmup_steps": 0, "decay_steps": 2}),
    "sdpg_kl_beta": (SDPG, {}, {"kl_beta": 1.0}),
    "share_max": (DemoPSD, {}, {"share_max": 0.3}),
    "sharpness": (DemoPSD, {}, {"sharpness": 3.0}),
    "anchor_coefficient": (GeoSD, {}, {"anchor_coefficient": 0.5}),
    "anchor_every": (GeoSD, {}, {"anchor_every": 1}),
    "advantage": (GRPO, {}, {"advantage": "loo"}),
    "clip_eps_low": (GRPO, {}, {"clip_eps_low": 0.99}),
    "clip_eps_high": (GRPO, {}, {"clip_eps_high": 1e-3}),
    "gspo_clip_eps_low": (GSPO, {}, {"clip_eps_low": 0.99}),
    "gspo_clip_eps_high": (GSPO, {}, {"clip_eps_high": 9.0}),
    "gspo_aggregation": (GSPO, {}, {"aggregation": "token_mean"}),
    "ratio_min": (CISPO, {}, {"ratio_min": 0.99}),
    "ratio_max": (CISPO, {}, {"ratio_max": 1.01}),
    "cispo_advantage": (CISPO, {}, {"advantage": "std"}),
    "cispo_kl_beta": (CISPO, {}, {"kl_beta": 0.5}),
    "kl_beta": (GRPO, {"kl_beta": 0.5}, {"kl_beta": 1.0}),
    "kl_estimator": (GRPO, {"kl_beta": 1.0}, {"kl_beta": 1.0, "kl_estimator": "k2"}),
    "anchor_strength": (GRPO, {"weight_anchor": WeightAnchor()}, {"weight_anchor": WeightAnchor(strength=50.0)}),
    "anchor_share": (GRPO, {"weight_anchor": WeightAnchor()}, {"weight_anchor": WeightAnchor(share=0.5)}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_changes_the_result(tmp_path, tiny, name):
    kind, one, other = OPTIONS[name]
    ends = []
    for options in (one, other):
        module = make(kind, tiny, **options)
        fit(tmp_path, module, toy_data(["a", "b"], steps=2, updates_per_rollout=2))
        ends.append(weights(module))
    assert max(float((a - b).abs().max()) for a, b in zip(*(e.values() for e in ends), strict=True)) > 1e-5


@pytest.mark.parametrize("kind", [SRPO, SDPG])
def test_a_term_that_would_replace_another_is_a_mistake(tiny, kind):
    with pytest.raises(UserError, match="policy_gradient"):
        kind(tiny, outcome_coefficient=0.5)
