"""What a stage hands on: merged with its beginning, or averaged; against the formulas in float64."""

from __future__ import annotations

import json

import lightning.pytorch as pl
import pytest
import torch

from lit_sdpo.callbacks import AveragedPolicy, RolloutCallback, StageMerge
from lit_sdpo.errors import UserError
from lit_sdpo.modules import WeightAnchor
from lit_sdpo.policies.load import Lora
from lit_sdpo.policies.teachers import EMATeacher
from tests.faults.runs import assert_same, final, model, stream, train
from tests.training import Toy, adamw, assert_equal, fit, lively, method, rollout_callback, sgd, toy_data, weights

CALLBACKS = {
    "wise_ft": lambda: StageMerge(strength=0.4),
    "lines": lambda: StageMerge(strength=0.2, rise=0.5),
    "search": lambda: StageMerge(strength=1.0, line_search=[0.3, 0.6]),
    "ema": lambda: AveragedPolicy(ema_rate=0.3),
    "bema": lambda: AveragedPolicy(lag=2.0, every=2),
    "student": lambda: AveragedPolicy(ema_rate=0.3, evaluate="student"),
}
#: The same, set so that nothing is handed on but the student.
OFF = {
    "merge": lambda: StageMerge(strength=1.0),
    "search": lambda: StageMerge(strength=1.0, line_search=[1.0]),
    "ema": lambda: AveragedPolicy(ema_rate=1.0),
    "bema": lambda: AveragedPolicy(ema_power=0.0, bias_power=None),
}


class Seen(pl.Callback):
    """Weights at the start, after each step before anybody else has changed them, in evaluations and at stage ends."""

    def __init__(self):
        self.start, self.steps, self.evaluated, self.ends = {}, [], [], []

    def on_train_start(self, trainer, pl_module):
        self.start = exact(pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append((trainer.current_epoch, exact(pl_module), bool(batch.contributing_rows)))

    def on_validation_epoch_start(self, trainer, pl_module):
        self.evaluated.append((trainer.global_step, weights(pl_module)))

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch:
            self.ends.append(exact(pl_module))

    def on_train_end(self, trainer, pl_module):
        self.ends.append(exact(pl_module))


def exact(module):
    names = [name for name, p in module.policy.named_parameters() if p.requires_grad]
    return dict(zip(names, [w.detach().double() for w in module.exact_weights], strict=True))


def merged(before, after, strength, rise=0.0, layers=2):
    """Of a model whose blocks are numbered in their names."""

    def share(name):
        parts = name.split(".")
        return strength + rise * int(parts[2]) / (layers - 1) if parts[1] == "layers" else strength

    return {name: before[name] + share(name) * (after[name] - before[name]) for name in before}


def close(found, expected, rtol=1e-6):
    for name in expected:
        torch.testing.assert_close(found[name].double(), expected[name], rtol=rtol, atol=rtol / 10, msg=name)


def run(folder, tiny, callback, kind="grpo", steps=2, **options):
    module, seen = method(kind, tiny, **({"optimizer": adamw} | options)), Seen()
    data = toy_data(["a", "b"], steps=steps, eval_every=1)
    rollout = rollout_callback(rewards=lively())
    trainer = fit(folder, module, data, seen, callback, rollout=rollout, limit_val_batches=1.0)
    return module, seen, trainer


# -------------------------------------------------------------------------------------------------------------- merging
@pytest.mark.parametrize("options", [{"strength": 0.4}, {"strength": 0.2, "rise": 0.5}, {"strength": 0.0}])
def test_a_stage_is_merged_with_its_beginning(tmp_path, tiny, options):
    module, seen, _ = run(tmp_path, tiny, StageMerge(**options))
    first = merged(seen.start, seen.steps[1][1], **options)
    close(seen.ends[0], first)
    second = merged(seen.ends[0], seen.steps[3][1], **options)
    close(seen.ends[1], second)
    close(weights(module), second)
    assert [step for step, _ in seen.evaluated] == [1, 2, 3, 4]
    close(seen.evaluated[1][1], first)  # the matrix's row is of the merged weights
    close(seen.evaluated[3][1], second)


def test_masters_and_weights_in_bfloat16_are_both_merged(tmp_path, tiny):
    module, seen, _ = run(tmp_path, tiny, StageMerge(strength=0.4), dtype="bfloat16", reset_optimizer=False)
    close(seen.ends[0], merged(seen.start, seen.steps[1][1], 0.4))
    close(seen.ends[1], merged(seen.ends[0], seen.steps[3][1], 0.4))
    for name, weight in weights(module).items():
        assert torch.equal(weight, seen.ends[1][name].to(torch.bfloat16)), name
    moved = [(seen.ends[1][n] - seen.ends[1][n].bfloat16().double()).abs().max() for n in seen.ends[1]]
    assert max(moved) > 0  # the masters are no rounded weights


@pytest.mark.parametrize("name", ["wise_ft", "ema"])
def test_teacher_and_anchor_begin_the_next_stage_with_what_is_handed_on(tmp_path, tiny, name):
    class Begins(pl.Callback):
        found = None

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == 1 and self.found is None:
                teacher = {n: p.clone() for n, p in pl_module.teacher.weights.model.named_parameters()}
                anchors = [b.clone() for n, b in pl_module.weight_anchor.named_buffers() if n.startswith("anchor")]
                Begins.found = teacher, anchors, weights(pl_module)

    module = method("sdpo", tiny, optimizer=adamw, weight_anchor=WeightAnchor())
    fit(tmp_path, module, toy_data(["a", "b"]), CALLBACKS[name](), Begins())
    teacher, anchors, student = Begins.found
    assert_equal(teacher, student)
    assert all(torch.equal(a, b) for a, b in zip(anchors, student.values(), strict=True))


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [([0.1, 0.3, 0.2], 0.5), ([0.3, 0.3, 0.3], 0.25), ([float("nan"), 0.1, 0.1], 0.5), ([float("nan")] * 3, 0.25)],
)
def test_a_search_takes_the_best_factor_and_of_equals_the_smallest(tmp_path, tiny, monkeypatch, rates, chosen):
    tried = []

    def success_rates(self, trainer, module, loaders):
        tried.append((exact(module), [loader.task.name for loader in loaders]))
        return [rates[(len(tried) - 1) % 3]] * len(loaders)

    monkeypatch.setattr(RolloutCallback, "success_rates", success_rates)
    callback = StageMerge(strength=0.8, line_search=[1.0, 0.25, 0.5])
    _, seen, trainer = run(tmp_path, tiny, callback)
    assert callback.factors == [chosen, chosen]
    assert [names for _, names in tried] == [["a"]] * 3 + [["a", "b"]] * 3
    for factor, (found, _) in zip([0.25, 0.5, 1.0], tried, strict=False):
        close(found, merged(seen.start, seen.steps[1][1], 0.8 * factor))
    close(seen.ends[0], merged(seen.start, seen.steps[1][1], 0.8 * chosen))
    assert trainer.callback_metrics["merge/factor"] == chosen


def test_a_search_sees_what_the_evaluation_will_say(tmp_path, tiny, monkeypatch):
    rates = []
    measure = RolloutCallback.success_rates

    def success_rates(self, trainer, module, loaders):
        rates.append(measure(self, trainer, module, loaders))
        return rates[-1]

    monkeypatch.setattr(RolloutCallback, "success_rates", success_rates)
    _, _, trainer = run(tmp_path, tiny, StageMerge(strength=1.0, line_search=[0.5]))
    assert [len(found) for found in rates] == [1, 2]
    logged = [float(trainer.callback_metrics[f"val/{task}/accuracy"]) for task in "ab"]
    assert rates[-1] == pytest.approx(logged)
    assert 0 < min(logged) < 1


# ------------------------------------------------------------------------------------------------------------ averaging
def averages(start, steps, result):
    """EMA and BEMA from the weights after each of the stage's steps, in float64."""
    average = start
    for t, (now, counts) in enumerate(steps, 1):
        assert counts
        average, found = result(average, now, start, t)
    return found


def ema(average, now, start, t):
    average = {n: 0.7 * average[n] + 0.3 * now[n] for n in now}
    return average, average


def bema(average, now, start, t):
    beta, alpha = (4.0 + t) ** -0.7, (4.0 + t) ** -0.3
    average = {n: (1 - beta) * average[n] + beta * now[n] for n in now}
    return average, {n: average[n] + alpha * (now[n] - start[n]) for n in now}


@pytest.mark.parametrize(
    ("make", "formula"),
    [
        (lambda: AveragedPolicy(ema_rate=0.3), ema),
        (lambda: AveragedPolicy(ema_power=0.7, bias_power=0.3, lag=4.0), bema),
    ],
    ids=["ema", "bema"],
)
def test_the_average_is_evaluated_and_handed_on(tmp_path, tiny, make, formula):
    module, seen, _ = run(tmp_path, tiny, make(), steps=3)
    begins = [seen.start, seen.ends[0]]
    for stage, begin in enumerate(begins):
        steps = [(now, counts) for epoch, now, counts in seen.steps if epoch == stage]
        close(seen.ends[stage], averages(begin, steps, formula))
        for t, (_, found) in enumerate(seen.evaluated[3 * stage : 3 * stage + 3], 1):
            close(found, averages(begin, steps[:t], formula))
    close(weights(module), seen.ends[1])


def test_the_student_may_be_evaluated_and_the_average_handed_on(tmp_path, tiny):
    _, seen, _ = run(tmp_path, tiny, CALLBACKS["student"]())
    for (_, found), (_, student, _) in zip(seen.evaluated, seen.steps, strict=True):
        close(found, student, rtol=1e-12)
    assert max(float((seen.ends[0][n] - seen.steps[1][1][n]).abs().max()) for n in seen.start) > 1e-4


def test_a_window_without_a_step_does_not_count(tmp_path, tiny):
    callback, counter = AveragedPolicy(ema_rate=0.3), Counter()
    fit(tmp_path, method("grpo", tiny), toy_data([Toy(score=lambda text: 1.0)], steps=3), callback, counter)
    assert counter.steps == [0, 0, 0]


class Counter(pl.Callback):
    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        (callback,) = (c for c in trainer.callbacks if isinstance(c, AveragedPolicy))
        self.steps.append(callback.state_dict()["step"])


def test_an_average_of_bfloat16_goes_into_the_masters(tmp_path, tiny):
    module, seen, _ = run(tmp_path, tiny, AveragedPolicy(ema_rate=0.3), dtype="bfloat16", reset_optimizer=False)
    steps = [(now, counts) for epoch, now, counts in seen.steps if epoch == 1]
    close(seen.ends[1], averages(seen.ends[0], steps, ema))
    for name, weight in weights(module).items():
        assert torch.equal(weight, seen.ends[1][name].to(torch.bfloat16)), name


# ----------------------------------------------------------------------------------------------------------------- both
@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    module = model(tiny)
    return final(train(folder, module, stream()), module)


@pytest.mark.parametrize("name", OFF)
def test_switched_off_it_changes_nothing(tmp_path, tiny, plain, name):
    module = model(tiny)
    assert_same(final(train(tmp_path, module, stream(), OFF[name]()), module), plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CALLBACKS if name != "wise_ft"])
def test_it_changes_the_result_and_resumes_bit_for_bit(tmp_path, tiny, plain, name):
    module = model(tiny)
    whole = final(train(tmp_path, module, stream(), CALLBACKS[name]()), module)
    matrix = json.dumps(whole["matrix"])
    assert not all(torch.equal(w, plain["weights"][n]) for n, w in whole["weights"].items())
    for checkpoint in ("step=3", "stage=0-step=4"):
        again = model(tiny)
        path = tmp_path / "checkpoints" / f"{checkpoint}.ckpt"
        found = final(train(tmp_path, again, stream(), CALLBACKS[name](), ckpt_path=path), again)
        assert_same(found, whole)
    assert json.loads(matrix) == whole["matrix"]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("make", [lambda: StageMerge(), lambda: AveragedPolicy()], ids=["merge", "average"])
def test_what_cannot_be_handed_on_is_refused(tmp_path, tiny, make):
    with pytest.raises(UserError, match="adapters"):
        fit(tmp_path, method("grpo", tiny, lora=Lora(rank=2)), toy_data(), make())
    with pytest.raises(UserError, match="decides too"):
        fit(tmp_path, method("grpo", tiny), toy_data(), StageMerge(), AveragedPolicy())


def test_a_search_without_evaluation_is_refused(tmp_path, tiny):
    callback = StageMerge(line_search=[0.5])
    with pytest.raises(UserError, match="nothing evaluates"):
        fit(tmp_path, method("grpo", tiny), toy_data(), callback)
    with pytest.raises(UserError, match="no factor"):
        StageMerge(line_search=[])
    with pytest.raises(ValueError, match="line_search"):
        StageMerge(line_search=[-1.0])


def test_only_two_things_can_be_evaluated():
    with pytest.raises(UserError, match="median"):
        AveragedPolicy(evaluate="median")


def test_a_run_that_gets_one_later_is_told(tmp_path, tiny):
    train(tmp_path, model(tiny), stream())
    path = tmp_path / "checkpoints" / "step=5.ckpt"
    with pytest.warns(UserWarning, match="StageMerge is new to this run: it takes step 5 as its start"):
        train(tmp_path, model(tiny), stream(), StageMerge(), ckpt_path=path)


def test_a_teacher_that_goes_on_keeps_its_own_average(tmp_path, tiny):
    teacher = EMATeacher(0.0)
    module = method("sdpo", tiny, teacher=teacher, optimizer=sgd)
    fit(tmp_path, module, toy_data(["a", "b"]), StageMerge(strength=0.5))
    fresh = method("sdpo", tiny)
    fresh.configure_model()
    assert_equal(dict(teacher.weights.model.named_parameters()), dict(fresh.policy.named_parameters()))
