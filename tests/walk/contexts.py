"""The runs in which options matter: one of each method, teacher, callback, task, optimizer and schedule."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import lit_sdpo
import lit_sdpo.optimizers
from lit_sdpo.cli import CALLBACKS, run
from lit_sdpo.dry_run import ParseOnly
from lit_sdpo.modules.weight_penalty import WeightPenalty
from tests.walk.options import Option, objects, options_of

FILES = Path(__file__).parents[1] / "data" / "files"

#: Two stages of two steps, in which as many options as possible have something to do.
BASE = """
seed_everything: 7
model:
  class_path: GRPO
  init_args:
    model_name: micro
    kl_beta: 0.1
    replay_coefficient: 1.0
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.003, weight_decay: 0.01}}
    scheduler: {class_path: WarmupConstant, init_args: {warmup_steps: 3}}
data:
  class_path: MicroDataModule
  init_args:
    order: [math, sci]
    steps: 2
    prompts_per_step: 3
    world: {}
    ood: false
    prior: true
    eval_prompts: 3
    eval_generations: 1
    replay_share: 0.3
    updates_per_rollout: 2
rollout: {num_generations: 4, sampling: {max_new_tokens: 40}}
samples: {every_n_steps: 1}
trainer:
  accelerator: cpu
  gradient_clip_val: 1.0
  enable_model_summary: false
  logger: {class_path: TensorBoardLogger, init_args: {save_dir: runs, name: walk}}
"""

SPLITS = {"train": str(FILES / "gsm8k_train.jsonl"), "validation": str(FILES / "gsm8k_test.jsonl")}

#: What classes need to be built, or to have something to do in so short a run.
ALIVE: dict[str, dict[str, Any]] = {
    "RestartTeacher": {"every": 1, "mix": 0.5},
    "GatedTeacher": {"check_every": 1, "min_age": 0, "reward_gain": 0.0, "window": 1},
    "ModelTeacher": {"model_name": "micro"},
    "RoutedTeacher": {
        "teachers": {"math": {"class_path": "EMATeacher"}},
        "default": {"class_path": "FrozenTeacher"},
    },
    "WarmupLinearDecay": {"total_steps": 4, "warmup_steps": 2},
    "GSPO": {"kl_beta": 0.1},
    "CISPO": {"kl_beta": 0.1},
    "SDPG": {"warmup_steps": 3, "decay_steps": 4},
    "GeoSD": {"anchor_every": 1},
    "ParameterDrift": {"every_n_steps": 1, "full_up_to": 0},
    "ResponseDrift": {"num_prompts": 2, "num_generations": 2, "distance_prompts": 2},
    "WeightedRewards": {"components": {"parity": "tests.training.parity"}},
    "JsonlTask": {"name": "sums", **SPLITS, "limit": 6},
    "NamedTask": {"task": "gsm8k", **SPLITS, "limit": 6},
    "MicroTask": {"domain": "math"},
    "Mixture": {
        "shares": [
            {"task": {"class_path": "MicroTask", "init_args": {"domain": domain}}, "share": 0.5}
            for domain in ("math", "sci")
        ]
    },
    "WarmStartTask": {"size": 64},
    "WeightAnchor": {"strength": 100.0},
    "TrainOnly": {"patterns": ["self_attn"]},
    "StageMerge": {"strength": 0.5},
    "AveragedPolicy": {"ema_rate": 0.3},
    "GradientAlignment": {"every_n_steps": 1, "prompts": 1},
}


#: What stands for a base class that says nothing itself.
CONCRETE: dict[type, type] = {lit_sdpo.RolloutEngine: lit_sdpo.NativeEngine, WeightPenalty: lit_sdpo.WeightAnchor}


@dataclass(frozen=True)
class Context:
    """A run without any of the values that are tried in it.

    Attributes:
        name: Of the run.
        config: Its configuration, as its file gives it.
        roots: Where the options begin that are tried in it.
    """

    name: str
    config: dict[str, Any]
    roots: tuple[tuple[str | int, ...], ...] = ((),)

    def resolved(self) -> dict[str, Any]:
        """With all defaults, as ``--print_config`` shows it."""
        made = run(["fit", *_as_file(self.config)], ParseOnly)
        parser = made._parser("fit")
        shown: dict[str, Any] = yaml.safe_load(parser.dump(made.config["fit"], skip_unset=False))
        shown.pop("config", None)
        return shown

    def options(self) -> list[Option]:
        """Every option of the run below the roots."""
        shown = self.resolved()
        found = [*_top(shown)]
        return [option for option in found if any(option.path[: len(root)] == root for root in self.roots)]


def _as_file(config: dict[str, Any]) -> list[str]:
    path = Path("context.yaml")
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return ["--config", str(path)]


def _top(shown: dict[str, Any]) -> Iterator[Option]:
    yield Option(("seed_everything",), "LightningCLI", bool | int | None, shown["seed_everything"])
    yield Option(("ckpt_path",), "LightningCLI", str | None, shown.get("ckpt_path"))
    yield from options_of(pl.Trainer, shown["trainer"], ("trainer",))
    for key, kind in CALLBACKS.items():
        yield from options_of(kind, shown[key], (key,))
    for key, base in (("model", pl.LightningModule), ("data", pl.LightningDataModule)):
        yield Option((key,), "LightningCLI", base, shown[key])
        kind = _named(shown[key]["class_path"])
        yield from options_of(kind, shown[key]["init_args"], (key, "init_args"))


def _named(path: str) -> type:
    found: type = lit_sdpo.rewards.registry.import_object(path)
    return found


def with_value(config: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A copy of a configuration with one value set; mappings on the way are made where they are missing."""
    made = copy.deepcopy(config)
    place: Any = made
    for key in path[:-1]:
        if isinstance(key, str) and place.get(key) is None:
            place[key] = {}
        place = place[key]
    place[path[-1]] = value
    return made


def _public(base: type, module: Any = lit_sdpo) -> list[type]:
    every = [getattr(module, name) for name in dir(module)]  # not vars: names may come when they are asked for
    found = [each for each in every if isinstance(each, type) and issubclass(each, base)]
    unique = {each.__name__: each for each in found if not inspect.isabstract(each)}
    return [unique[name] for name in sorted(unique)]


def _of(kind: type) -> dict[str, Any]:
    return {
        "class_path": f"{kind.__module__}.{kind.__name__}",
        "init_args": copy.deepcopy(ALIVE.get(kind.__name__, {})),
    }


def _bases() -> tuple[dict[str, Any], dict[str, Any]]:
    """The configurations of GRPO and SDPO that the others are made of."""
    base: dict[str, Any] = yaml.safe_load(BASE)
    sdpo = copy.deepcopy(base)
    sdpo["model"]["class_path"] = "SDPO"
    del sdpo["model"]["init_args"]["kl_beta"]
    return base, sdpo


def contexts() -> Iterator[Context]:
    """All runs; the first has the options that every run has."""
    base, sdpo = _bases()
    yield Context("grpo", base)
    model = ("model", "init_args")
    for kind in _public(lit_sdpo.OnPolicyModule):
        if kind not in (lit_sdpo.GRPO, lit_sdpo.OnPolicyModule):
            config = copy.deepcopy(sdpo)
            config["model"]["class_path"] = kind.__name__
            config["model"]["init_args"] |= ALIVE.get(kind.__name__, {})
            if kind is lit_sdpo.SFT:
                del config["model"]["init_args"]["replay_coefficient"]
                config["data"]["init_args"]["replay_share"] = 0.0
            yield Context(kind.__name__, config, (model,))
    for kind in _public(lit_sdpo.Teacher):
        if kind is not lit_sdpo.Teacher:
            yield Context(kind.__name__, with_value(sdpo, (*model, "teacher"), _of(kind)), ((*model, "teacher"),))
    for key, root, start in (("optimizer", Optimizer, base), ("scheduler", LRScheduler, base)):
        for kind in _public(root, lit_sdpo.optimizers):
            if kind.__module__ == "lit_sdpo.optimizers":
                yield Context(kind.__name__, with_value(start, (*model, key), _of(kind)), ((*model, key),))
    for kind in _public(pl.Callback):
        if kind not in CALLBACKS.values() and len(inspect.signature(kind).parameters):
            where = ("trainer", "callbacks")
            yield Context(kind.__name__, with_value(base, where, [_of(kind)]), ((*where, 0),))
    for kind in _public(lit_sdpo.Task):
        stage = {"task": _of(kind), "steps": 2, "prompts_per_step": 2}
        data = {"stages": [stage], "eval_prompts": 2, "eval_generations": 1}
        config = copy.deepcopy(base)
        config["model"] = {"class_path": "SFT", "init_args": base["model"]["init_args"] | {}}
        for name in ("kl_beta", "replay_coefficient"):
            config["model"]["init_args"].pop(name)
        if kind is lit_sdpo.WarmStartTask:
            data |= {"evaluate_trained": False, "probes": [_of(lit_sdpo.MicroTask)]}
        config["data"] = {"class_path": "ContinualDataModule", "init_args": data}
        yield Context(kind.__name__, config, (("data", "init_args"),))


def parts() -> Iterator[Context]:
    """A run for each object of the package that a run does without unless it is asked for."""
    base, sdpo = _bases()
    runs = Context("grpo", base), Context("SDPO", sdpo, (("model", "init_args"),))
    seen: set[str] = set()
    for context in runs:
        for option in context.options():
            for kind in objects(option.hint) if option.base is None else ():
                kind = CONCRETE.get(kind, kind)
                if not kind.__module__.startswith("lit_sdpo") or option.key in seen or inspect.isabstract(kind):
                    continue
                seen.add(option.key)
                value = {} if is_dataclass(kind) else _of(kind)
                yield Context(
                    f"{context.name} with {option.name}", with_value(context.config, option.path, value), (option.path,)
                )
