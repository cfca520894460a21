"""Configurations side by side: every difference counts once, by its key, and lands where it belongs."""

import pytest

from lit_sdpo.checkpoints.differences import Difference, Differences, between, check_keys, names, plain_keys, show
from lit_sdpo.errors import UserError


def method(name="EMATeacher", **options):
    return {"class_path": f"lit_sdpo.{name}", "init_args": options}


@pytest.mark.parametrize(
    ("saved", "now", "expected"),
    [
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": float("nan")}, {"a": float("nan")}, []),
        ({"a": (0.9, 0.99)}, {"a": [0.9, 0.99]}, []),
        ({"a": [1, 2]}, {"a": [1, 3]}, ["a.1: checkpoint has 2, this run has 3"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a: checkpoint has [1, 2], this run has [1]"]),
        ({"a": None}, {"a": {"b": 1}}, ["a: checkpoint has null, this run has {b: 1}"]),
        ({"a": 1}, {}, ["a: checkpoint has 1, this run has nothing"]),
        ({}, {"a": False}, ["a: checkpoint has nothing, this run has False"]),
        ({"t": method(rate=0.1)}, {"t": method(rate=0.2)}, ["t.rate: checkpoint has 0.1, this run has 0.2"]),
        (
            {"t": method(rate=0.1)},
            {"t": method("FrozenTeacher", at_stage="keep")},
            ["t: checkpoint has EMATeacher(rate=0.1), this run has FrozenTeacher(at_stage=keep)"],
        ),
    ],
)
def test_what_differs(saved, now, expected):
    assert list(map(str, between(saved, now))) == expected


def test_an_option_of_another_release_is_no_difference():
    assert not list(between({"a": 1, "b": 2}, {"a": 1, "c": 3}, same_release=False))
    assert list(between({"a": 1, "b": 2}, {"a": 2, "c": 3}, same_release=False)) == [Difference("a", 1, 2)]


@pytest.mark.parametrize(
    ("key", "where"),
    [
        ("model.alpha", "refused"),
        ("seed_everything", "refused"),
        ("trainer.gradient_clip_val", "refused"),
        ("trainer.precision", "refused"),
        ("trainer.some_option_of_a_later_lightning", "refused"),
        ("rollout.engine", "refused"),
        ("rollout.engine.max_rows", "said"),
        ("trainer.callbacks.0.window", "said"),
        ("trainer.max_epochs", "said"),
        ("trainer.logger.save_dir", None),
        ("samples.every_n_steps", None),
        ("checkpoint.keep", None),
    ],
)
def test_where_a_difference_belongs(key, where):
    found = Differences()
    found.add(Difference(key, 1, 2), [])
    assert {name for name in ("refused", "allowed", "said") if getattr(found, name)} == ({where} if where else set())


def test_keys_that_may_change_cover_those_below():
    for key in ("model", "model.optimizer", "model.optimizer.lr"):
        found = Differences()
        found.add(Difference("model.optimizer.lr", 1, 2), [key])
        assert found.allowed
    found = Differences()
    found.add(Difference("model.optimizer.lr", 1, 2), ["model.optimizer.l", "model.opt", "data"])
    assert found.refused


def test_a_key_that_there_is_not_is_refused():
    configuration = {"model": method(optimizer={"init_args": {"lr": 1.0}}), "data": {"stages": [{"steps": 3}]}}
    known = set(names(configuration))
    keys = ["model.init_args.optimizer.init_args.lr", "data.stages[0].steps", "model.class_path"]
    check_keys(plain_keys(keys), known)
    with pytest.raises(UserError, match=r"no key 'model.optimizer.rl'. Perhaps you mean model.optimizer.lr"):
        check_keys(["model.optimizer.rl"], known)


def test_values_are_shown_on_one_line():
    assert show({"a": [1, None], "b": method(x={"y": True})}) == "{a: [1, null], b: EMATeacher(x={y: True})}"
