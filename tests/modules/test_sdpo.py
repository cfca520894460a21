from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch

from lit_sdpo.policies.load import load_policy, load_tokenizer, render
from lit_sdpo.policies.teachers import EMATeacher, FrozenTeacher
from lit_sdpo.rollouts.reprompt import Reprompt
from tests.modules.test_base import Record
from tests.training import (
    Toy,
    Watch,
    adamw,
    assert_close_gradients,
    assert_equal,
    fit,
    method,
    row_logits,
    step_gradient,
    toy_data,
    weights,
)


def kl(p, q):
    return sum(p[i] * (p[i].log() - q[i].log()) for i in range(len(p)))


def naive_divergence(student, teacher, alpha, top_k):
    """Of one token's distributions, written out; student and teacher are probabilities [V]."""
    if top_k is not None:
        kept = student.detach().topk(top_k).indices
        student, teacher = (torch.cat([x[kept], (1 - x[kept].sum())[None]]) for x in (student, teacher))
    if alpha == 0:
        return kl(teacher, student)
    if alpha == 1:
        return kl(student, teacher)
    middle = (student + teacher) / 2
    return (kl(student, middle) + kl(teacher, middle)) / 2


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize(("alpha", "top_k"), [(0.5, 3), (0.0, 3), (1.0, 3)])
def test_the_loss_is_the_naive_one(tmp_path, tiny, alpha, top_k, slots):
    """Row by row without padding, the teacher after a prompt that is written out here."""
    watch, record = Watch(), Record()
    options = {"alpha": alpha, "top_k": top_k}
    gradient, _ = step_gradient(tmp_path, "sdpo", tiny, watch, record, slots=slots, **options)
    rollouts = watch.seen[0]["rollouts"]
    student, teacher, tokenizer = load_policy(tiny).double(), load_policy(tiny).double(), load_tokenizer(tiny)
    lengths, rewards, losses = rollouts.completions.lengths.tolist(), rollouts.rewards.tolist(), []
    for n, text in enumerate(rollouts.texts):
        group = range(n // 4 * 4, n // 4 * 4 + 4)
        others = [rollouts.texts[m] for m in group if m != n and rewards[m] == 1 and rollouts.texts[m] != text]
        shown = next((other for other in others if other.strip()), None)
        if shown is None:
            continue
        question = rollouts.rows[n // 4].messages[0]["content"]
        content = f"{question}\n\nCorrect solution:\n\n{shown}\n\nCorrectly solve the original question."
        context = render(tokenizer, [{"role": "user", "content": content}])
        ids = rollouts.completions.ids[n, : lengths[n]].tolist()
        own = row_logits(student, rollouts.prompt_ids[n // 4], ids).softmax(-1)
        with torch.no_grad():
            target = row_logits(teacher, context, ids).softmax(-1)
        losses += [naive_divergence(own[t], target[t], alpha, top_k) for t in range(lengths[n])]
    assert 0 < len(losses) < sum(lengths)
    loss = torch.stack(losses).mean()
    loss.backward()
    assert record.logged[0]["train/loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert_close_gradients(gradient, {name: p.grad for name, p in student.named_parameters()}, rtol=1e-3)


class SameContext(Reprompt):
    """Tells the teacher nothing that the student does not know."""

    def messages(self, prompt, demonstration=None, feedback=None):
        return [dict(message) for message in prompt]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_teacher_that_knows_no_more_teaches_nothing(tmp_path, tiny, alpha):
    module, record = method("sdpo", tiny, reprompt=SameContext(allow_truncated=True), alpha=alpha), Record()
    module.configure_model()
    before = weights(module)
    fit(tmp_path, module, toy_data(), record, accumulate_grad_batches=2)
    assert record.logged[0]["sdpo/context_fraction"] > 0
    assert record.logged[0]["train/loss"] == pytest.approx(0, abs=1e-5)
    for name, value in weights(module).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-5)


class AtStageStart(pl.Callback):
    """The student's and the teacher's weights when the first batch of each stage is about to be rolled out."""

    def __init__(self):
        self.student, self.teacher = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.student.append(weights(pl_module))
            teacher = pl_module.teacher.weights.model
            self.teacher.append({name: p.detach().clone() for name, p in teacher.named_parameters()})


def teacher_of(module):
    return dict(module.teacher.weights.model.named_parameters())


@pytest.mark.parametrize("at_stage", ["reset_to_student", "keep", "reset_to_base"])
def test_a_frozen_teacher_at_the_second_stage(tmp_path, tiny, at_stage):
    module, seen = method("sdpo", tiny, optimizer=adamw, teacher=FrozenTeacher(at_stage)), AtStageStart()
    fit(tmp_path, module, toy_data(["a", "b"], steps=2), seen)
    base = dict(load_policy(tiny).named_parameters())
    assert_equal(seen.student[0], base)
    assert_equal(seen.teacher[0], base)
    assert not torch.equal(seen.student[1]["model.norm.weight"], base["model.norm.weight"])
    assert_equal(seen.teacher[1], seen.student[1] if at_stage == "reset_to_student" else base)
    assert_equal(teacher_of(module), seen.teacher[1])


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_c06_an_average_follows_at_its_rate(tmp_path, tiny, rate):
    module = method("sdpo", tiny, optimizer=adamw, teacher=EMATeacher(rate))
    module.configure_model()
    before = weights(module)
    fit(tmp_path, module, toy_data())
    after = weights(module)
    for name, value in teacher_of(module).items():
        expected = before[name] + rate * (after[name] - before[name])
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
    if rate in (0.0, 1.0):
        assert_equal(teacher_of(module), after if rate else before)
    assert int(module.teacher.ticks) == 1


def test_the_teacher_stays_out_of_training(tmp_path, tiny):
    module = method("sdpo", tiny)
    made = fit(tmp_path, module, toy_data())
    trained = {id(p) for group in made.optimizers[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in module.policy.parameters()}
    assert all(not part.training for part in module.teacher.weights.model.modules())
    assert all(p.grad is None for p in module.teacher.parameters())


def test_without_context_only_the_outcome_term_moves(tmp_path, tiny):
    """A success alone in its group has nobody to learn from, but an advantage."""
    calls = iter(range(10**6))
    data = toy_data([Toy(score=lambda text: float(next(calls) % 4 == 0))])
    alone, watch = Record(), Watch()
    module = method("sdpo", tiny, outcome_coefficient=1.0)
    fit(tmp_path, module, data, alone, watch)
    assert alone.logged[0]["sdpo/context_fraction"] == 0.75
    assert {"train/loss/distillation", "train/loss/policy_gradient"} <= set(alone.logged[0])
