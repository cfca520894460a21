"""Where the paper's claims hold: each judged in every cell of learning rate, world and length of stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_sdpo.report.claims.paper import CLAIMS
from lit_sdpo.report.claims.table import Claim, ClaimResult, check
from lit_sdpo.report.comparisons import Draws
from lit_sdpo.report.run import Run
from lit_sdpo.report.study import Study

#: Claims that are mapped.
PHASE_CLAIMS = ("C1", "C3", "C6", "C7", "C8", "C10")
#: How many times GRPO's learning rate SDPO has: one rate for both, and the paper's ratio.
RATIOS = (1, 10)
#: Role of a class of module and teacher.
ROLES = {
    ("GRPO", None): "grpo",
    ("SDPO", "FrozenTeacher"): "sdpo",
    ("SDPO", "EMATeacher"): "sdpo_ema",
    ("SDPO", "RestartTeacher"): "stable_sdpo",
    ("SFT", None): "sft",
}
#: Settings of a module that make it another method where they are set.
EXTRAS = ("weight_anchor", "replay_coefficient", "token_mask", "outcome_coefficient", "kl_coefficient", "lora")


@dataclass(frozen=True)
class PhaseCell:
    """One claim in one cell.

    Attributes:
        result: The claim, judged from the cell's runs.
        world: What the cell's world has different from others, as text; empty where all have one.
        stages: Order of the tasks.
        steps: Steps of a stage.
        lr: Learning rate of SDPO.
        ratio: How many times GRPO's that is; ``None`` for a claim about SDPO alone.
    """

    result: ClaimResult
    world: str
    stages: str
    steps: str
    lr: float
    ratio: int | None


@dataclass(frozen=True)
class PhaseMap:
    """The cells, and methods of the study that are in none.

    Attributes:
        cells: By claim, world, stages and rate.
        left_out: Method to why it is in no cell.
    """

    cells: Sequence[PhaseCell]
    left_out: Mapping[str, str]


#: World, stages and steps.
Place = tuple[str, str, str]


def phase_map(study: Study, ids: Sequence[str] = PHASE_CLAIMS, draws: Draws | None = None) -> PhaseMap:
    """Judge claims in every cell of a sweep over methods, learning rates and worlds.

    What a run is comes from its configuration, not from its name: its role from the module and its teacher, its cell
    from world, order and length of stages, and learning rate. Where a claim is about GRPO, too, its runs have the same
    rate (ratio 1) or a tenth of it (ratio 10), if there are such.

    Args:
        study: The runs of the sweep.
        ids: Claims to map.
        draws: Where values are kept.
    """
    draws = draws or Draws()
    grid: dict[Place, dict[tuple[str, float], Sequence[Run]]] = {}
    left_out: dict[str, str] = {}
    worlds = _worlds(study)
    for method in study.methods:
        runs = study.runs(method)
        settings, role = study.settings(runs[0]), role_of(runs[0])
        if role is None or settings["lr"] is None:
            left_out[method] = "it is none of the paper's methods" if role is None else "its learning rate is not known"
            continue
        cell = grid.setdefault((worlds[method], settings["stages"], str(settings["steps"])), {})
        if cell.setdefault((role, settings["lr"]), runs) is not runs:
            left_out[method] = f"{cell[role, settings['lr']][0].method} is {role} in the same cell"
    cells = [
        PhaseCell(check(claim, cast, _name(lr, ratio), draws), *place, lr, ratio)
        for claim in CLAIMS
        if claim.id in ids and claim.parts
        for place, runs_of in grid.items()
        for lr, ratio, cast in _casts(claim, runs_of)
    ]
    return PhaseMap(cells, left_out)


def role_of(run: Run) -> str | None:
    """The role of a run by its module and teacher; ``None`` for a method of its own.

    Args:
        run: Its configuration is looked at.
    """
    model = run.config.get("model") or {}
    arguments: Mapping[str, Any] = model.get("init_args") or {}
    teacher = arguments.get("teacher") or {}
    data = (run.config.get("data") or {}).get("init_args") or {}
    if any(arguments.get(name) for name in EXTRAS) or data.get("replay_share"):
        return None
    return ROLES.get((_last(model.get("class_path")) or "", _last(teacher.get("class_path"))))


def _casts(claim: Claim, runs_of: Mapping[tuple[str, float], Sequence[Run]]) -> list[tuple[float, int | None, Any]]:
    """Rate, ratio and cast of every way to play a claim with the runs of one place."""
    versus = "grpo" in claim.roles
    found: list[tuple[float, int | None, Any]] = []
    for lr in sorted({lr for role, lr in runs_of if role != "grpo" and role in claim.roles}):
        for ratio in RATIOS if versus else (None,):
            rates = {role: lr / ratio if role == "grpo" and ratio else lr for role in claim.roles}
            cast = {role: _at(runs_of, role, rate) for role, rate in rates.items()}
            if ratio in (None, 1) or cast["grpo"]:
                found.append((lr, ratio, cast))
    return found


def _at(runs_of: Mapping[tuple[str, float], Sequence[Run]], role: str, rate: float) -> Sequence[Run]:
    same = [runs for (r, lr), runs in runs_of.items() if r == role and abs(lr - rate) <= 1e-6 * rate]
    return same[0] if same else ()


def _name(lr: float, ratio: int | None) -> str:
    if ratio is None:
        return f"SDPO at {lr:g}"
    return f"both at {lr:g}" if ratio == 1 else f"SDPO at {lr:g}, GRPO at {lr / ratio:g}"


def _worlds(study: Study) -> dict[str, str]:
    """What the world of each method has that another method's has not."""
    data = {m: (study.runs(m)[0].config.get("data") or {}).get("init_args") or {} for m in study.methods}
    worlds = {method: arguments.get("world") or {} for method, arguments in data.items()}
    keys = dict.fromkeys(key for world in worlds.values() for key in world)
    varying = [key for key in keys if len({str(world.get(key)) for world in worlds.values()}) > 1]
    return {m: ", ".join(f"{key}={world.get(key)}" for key in varying) for m, world in worlds.items()}


def _last(class_path: str | None) -> str | None:
    return class_path.rpartition(".")[2] if class_path else None
