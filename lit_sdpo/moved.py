"""Where modules are that had another place in an earlier release: their old paths go on working.

Class paths in users' configurations and in the ``config.yaml`` of runs name modules, and so does code outside.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: Old path to new path, both inside the package. A package that has kept its module's name is not here.
MOVED = {
    "callbacks.artifact_tables": "report.artifacts",
    "callbacks.artifacts": "callbacks.responses.artifacts",
    "callbacks.base_weights": "callbacks.weights.base",
    "callbacks.collapse": "callbacks.responses.collapse",
    "callbacks.evaluation": "callbacks.initial_evaluation",
    "callbacks.folder": "folders",
    "callbacks.loop_gain": "callbacks.responses.loop_gain",
    "callbacks.overlap": "callbacks.rollout.overlap",
    "callbacks.parameter_drift": "callbacks.weights.drift",
    "callbacks.prompt_budget": "callbacks.rollout.prompt_budget",
    "callbacks.response_drift": "callbacks.responses.drift",
    "callbacks.response_models": "callbacks.responses.models",
    "callbacks.response_prompts": "callbacks.responses.prompts",
    "callbacks.response_scoring": "callbacks.responses.scoring",
    "callbacks.rollout_checks": "callbacks.rollout.checks",
    "callbacks.rollout_evaluation": "callbacks.rollout.evaluation",
    "callbacks.rollout_log": "callbacks.rollout.log",
    "callbacks.rollout_training": "callbacks.rollout.window",
    "callbacks.trained_weights": "callbacks.weights.trained",
    "callbacks.window_weights": "callbacks.rollout.token_weights",
    "checkpoints.identity": "checkpoints.schema",
    "diagnosis.cells": "diagnosis.sandboxes",
    "functional.razor": "functional.excess_kl",
    "functional.support": "functional.top_k",
    "outside": "harnesses",
    "policies.fused": "policies.fused_layers",
    "rewards.cell": "rewards.sandbox.inside",
    "rewards.code": "rewards.programs.verifier",
    "rewards.code_output": "rewards.programs.output",
    "rewards.code_rows": "rewards.programs.rows",
    "rewards.examiner": "rewards.sandbox.examiner_pool",
    "rewards.gym_forms": "rewards.gym.forms",
    "rewards.gym_rules": "rewards.gym.rules",
    "rewards.math": "rewards.mathematics.boxed",
    "rewards.math_answer": "rewards.mathematics.answer",
    "rewards.math_compare": "rewards.mathematics.compare",
    "rewards.math_equal": "rewards.mathematics.equal",
    "rewards.math_expression": "rewards.mathematics.expression",
    "rewards.math_formula": "rewards.mathematics.formula",
    "rewards.math_kinds": "rewards.mathematics.kinds",
    "rewards.math_number": "rewards.mathematics.number",
    "rewards.math_relation": "rewards.mathematics.relation",
    "rewards.math_sets": "rewards.mathematics.sets",
    "rewards.math_text": "rewards.mathematics.text",
    "rewards.math_unit": "rewards.mathematics.unit",
    "rewards.math_value": "rewards.mathematics.value",
    "rewards.tool_call": "rewards.tool_calls.verifier",
    "rewards.tool_call_form": "rewards.tool_calls.form",
    "rollouts.allocation": "rollouts.malloc",
    "rollouts.engine": "rollouts.engines.base",
    "rollouts.native": "rollouts.engines.native",
    "rollouts.prompts": "data.batch",
    "rollouts.selection": "rollouts.dynamic_sampling",
    "rollouts.vllm": "rollouts.engines.vllm",
}


class _Alias(Loader):
    """Gives a module that is imported by another name already."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self.target)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has put the alias's there


class _Moved(MetaPathFinder):
    """Finds what the table names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        parent, _, leaf = name.rpartition(".")
        if package != "lit_sdpo" or not (name in MOVED or parent in MOVED):
            return None
        new = MOVED[name] if name in MOVED else f"{MOVED[parent]}.{leaf}"
        return ModuleSpec(fullname, _Alias(f"{package}.{new}"))


def install() -> None:
    """Let the import system ask the table, once; first, as a moved package has its files under both names."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Moved())
