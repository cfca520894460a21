"""Paths of an earlier release."""

from importlib import import_module

import pytest

from lit_sdpo.moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_path_is_the_module_of_the_new_one(old):
    module = import_module(f"lit_sdpo.{old}")
    assert module is import_module(f"lit_sdpo.{MOVED[old]}")
    assert module.__name__ == f"lit_sdpo.{MOVED[old]}" == module.__spec__.name


def test_what_lies_in_a_package_that_moved():
    assert import_module("lit_sdpo.rollouts.vllm.weights") is import_module("lit_sdpo.rollouts.engines.vllm.weights")


def test_modules_that_became_packages_give_what_they_gave():
    from lit_sdpo.callbacks.rollout import RolloutCallback
    from lit_sdpo.rewards.sandbox import Sandbox

    assert RolloutCallback.__module__ == "lit_sdpo.callbacks.rollout.callback"
    assert Sandbox.__module__ == "lit_sdpo.rewards.sandbox.sandbox"


def test_class_paths_of_recorded_configurations():
    from jsonargparse import ArgumentParser

    from lit_sdpo.rollouts.engines.base import RolloutEngine

    parser = ArgumentParser()
    parser.add_argument("--engine", type=RolloutEngine)
    read = parser.parse_args(["--engine=lit_sdpo.rollouts.native.NativeEngine"])
    assert type(parser.instantiate(read).engine).__module__ == "lit_sdpo.rollouts.engines.native"


def test_no_module_is_found_by_accident():
    with pytest.raises(ModuleNotFoundError):
        import_module("lit_sdpo.rollouts.nothing")
