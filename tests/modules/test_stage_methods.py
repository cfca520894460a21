"""A method per stage: what a stage leaves out is as if it had never been there."""

from __future__ import annotations

import pytest

from lit_sdpo.callbacks import StageCheckpoint
from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.data.micro.datamodule import MicroDataModule
from lit_sdpo.data.task import Stage, StageMethod
from lit_sdpo.errors import UserError
from lit_sdpo.modules import SRPO
from lit_sdpo.optimizers import WarmupConstant
from lit_sdpo.policies.teachers import EMATeacher, FrozenTeacher, RoutedTeacher
from lit_sdpo.rollouts.reprompt import Reprompt
from tests.modules.test_base import Record
from tests.training import Toy, Watch, adamw, assert_equal, fit, method, sgd, toy_data, weights

ONLY_REWARDS, ONLY_TEACHER = {"distillation": 0.0}, {"policy_gradient": 0.0}


def stream(*methods, steps=2):
    stages = [
        Stage(task=Toy(name), steps=steps, prompts_per_step=3, method=changes)
        for name, changes in zip("abc", methods, strict=False)
    ]
    return ContinualDataModule(stages, eval_prompts=4, eval_generations=2, seed=3)


def both(tiny, **options):
    return method("sdpo", tiny, **({"optimizer": adamw, "outcome_coefficient": 1.0} | options))


@pytest.mark.parametrize(("terms", "kind"), [(ONLY_REWARDS, "grpo"), (ONLY_TEACHER, "sdpo")])
def test_a_stage_without_a_term_is_a_run_without_it(tmp_path, tiny, terms, kind):
    changed, record, plain = both(tiny), Record(), method(kind, tiny, optimizer=adamw)
    fit(tmp_path / "changed", changed, stream(StageMethod(terms=terms)), record, accumulate_grad_batches=2)
    fit(tmp_path / "plain", plain, stream(None), accumulate_grad_batches=2)
    assert_equal(weights(changed), weights(plain))
    whole = both(tiny)
    fit(tmp_path / "both", whole, stream(None), accumulate_grad_batches=2)
    assert any((p != weights(changed)[name]).any() for name, p in weights(whole).items())
    (absent,) = terms
    assert not any(f"train/loss/{absent}" in entry for entry in record.logged)
    assert ("sdpo/context_fraction" in record.logged[0]) == (kind == "sdpo")


def test_stages_that_change_nothing_change_nothing(tmp_path, tiny):
    plain, empty, factors = both(tiny), both(tiny), both(tiny, outcome_coefficient=0.5)
    fit(tmp_path / "plain", plain, stream(None, None))
    fit(tmp_path / "empty", empty, stream(StageMethod(), StageMethod(terms={"distillation": 1.0})))
    doubled = StageMethod(terms={"policy_gradient": 2.0})
    fit(tmp_path / "factors", factors, stream(doubled, doubled))
    assert_equal(weights(plain), weights(empty))
    assert_equal(weights(plain), weights(factors))


def test_each_stage_has_its_rate(tmp_path, tiny):
    module, record = both(tiny, optimizer=lambda p: sgd(p, 0.5)), Record()
    module.scheduler = lambda optimizer: WarmupConstant(optimizer, warmup_steps=2)
    fit(tmp_path, module, stream(StageMethod(lr=0.1), None, StageMethod(lr=0.2)), record)
    assert [entry["train/lr"] for entry in record.logged if "train/lr" in entry] == pytest.approx(
        [0.05, 0.1, 0.25, 0.5, 0.1, 0.2]
    )


@pytest.mark.parametrize("inside", [False, True], ids=["between stages", "inside a stage"])
def test_a_resumed_run_is_the_same(tmp_path, tiny, inside):
    def make():
        return both(tiny, teacher=EMATeacher(0.5)), stream(
            StageMethod(terms=ONLY_REWARDS, lr=0.02), StageMethod(terms=ONLY_TEACHER, lr=0.005), steps=4
        )

    whole, data = make()
    saving = StageCheckpoint(every_n_steps=2 if inside else None, keep_steps=9)
    fit(tmp_path / "whole", whole, data, saving, enable_checkpointing=True)
    paths = sorted((tmp_path / "whole").rglob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    assert len(paths) == (4 if inside else 2)
    for path in paths[:-1]:
        again, data = make()
        fit(tmp_path / path.stem, again, data, ckpt_path=path)
        assert_equal(weights(again), weights(whole))


def test_a_stage_names_its_teacher(tmp_path, tiny):
    teacher = RoutedTeacher({"slow": FrozenTeacher("keep"), "b": EMATeacher(0.5)})
    asked = {name: [] for name in teacher.names}
    for name, each in zip(teacher.names, teacher._all, strict=True):
        each.scorer = lambda policy, rows, own=each, name=name: (
            asked[name].append(rows.routes),
            type(own).scorer(own, policy, rows),
        )[1]
    fit(tmp_path, both(tiny, teacher=teacher), stream(StageMethod(teacher="slow"), None))
    assert set(map(tuple, map(set, asked["slow"]))) == {("slow",)}
    assert set(map(tuple, map(set, asked["b"]))) == {("b",)}


def test_a_term_that_looks_at_another_finds_it_empty(tmp_path, tiny):
    """SRPO's policy gradient takes what is not distilled: here everything, as GRPO does."""
    module = SRPO(tiny, optimizer=adamw, scheduler=None, reprompt=Reprompt(allow_truncated=True))
    fit(tmp_path / "srpo", module, stream(StageMethod(terms=ONLY_REWARDS)))
    plain = method("grpo", tiny, optimizer=adamw)
    fit(tmp_path / "grpo", plain, stream(None))
    assert_equal(weights(module), weights(plain))


@pytest.mark.parametrize(
    ("changes", "options", "what"),
    [
        (StageMethod(terms={"distilation": 0.0}), {}, "has no term 'distilation'"),
        (StageMethod(terms=ONLY_REWARDS | ONLY_TEACHER), {}, "without a term learns nothing"),
        (StageMethod(lr=0.1), {"reset_optimizer": False}, "a learning rate of its own"),
        (StageMethod(teacher="slow"), {"teacher": RoutedTeacher({"a": FrozenTeacher()})}, "no teacher for 'slow'"),
        (StageMethod(teacher="slow"), {}, "has no teachers with names"),
    ],
)
def test_changes_that_cannot_be_are_refused(tmp_path, tiny, changes, options, what):
    watch = Watch()
    with pytest.raises(UserError, match=what):
        fit(tmp_path, both(tiny, **options), stream(changes), watch)
    assert not watch.seen


def test_a_domain_without_a_stage_is_refused():
    assert MicroDataModule(order=["math"], methods={"math": StageMethod(lr=0.1)}).stages[0].method.lr == 0.1
    with pytest.raises(UserError, match="no stage trains on 'code'"):
        MicroDataModule(order=["math"], methods={"code": StageMethod()})


def test_a_teacher_named_for_a_method_without_one_is_refused(tmp_path, tiny):
    with pytest.raises(UserError, match="has no teacher"):
        fit(tmp_path, method("grpo", tiny), stream(StageMethod(teacher="a")))


def test_the_prompts_per_step_that_are_overridden_keep_the_method():
    changes = StageMethod(lr=0.1)
    data = toy_data()
    stages = [Stage(task=Toy(), method=changes)]
    assert type(data)(stages, override_prompts_per_step=2).stages[0].method is changes
