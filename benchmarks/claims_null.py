"""How often a claim replicates where nothing differs: ``python -m benchmarks.claims_null``.

Studies in which all methods are one are given to the rule that a report uses (:func:`~lit_sdpo.report.check_claims`):
every role's runs are drawn from the same law, and no evaluation changes from stage to stage. Seeds vary, prompts differ
in difficulty and are the same for all runs, and signals through a stage are a random walk. A claim should replicate in
3 % of the studies or less.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator

from benchmarks.made_runs import Array, made_run
from lit_sdpo.functional import MatrixDrift
from lit_sdpo.report.artifacts import ArtifactRow
from lit_sdpo.report.claims import CLAIMS, check_claims
from lit_sdpo.report.claims.table import REPLICATES, Claim, Verdict
from lit_sdpo.report.comparisons import Draws
from lit_sdpo.report.drift import DriftRow
from lit_sdpo.report.responses import Estimate, ResponseRow
from lit_sdpo.report.run import Run
from lit_sdpo.report.study import Study

SEEDS = (3, 5)
TASKS, PROBES = ("math", "sci", "tool", "code"), ("math_ood", "sci_ood", "tool_ood", "code_ood", "prior")
COLUMNS = (*TASKS, *PROBES)
#: Base scores; difficulty of prompts, and what seeds and single evaluations add, on the logit's scale.
RATES = {"math": 0.3, "sci": 0.5, "tool": 0.4, "code": 0.6, "prior": 0.95} | {f"{t}_ood": 0.3 for t in TASKS}
DIFFICULTY, BY_SEED, BY_EVALUATION = 1.0, 0.3, 0.1
STEPS = 25
ROLES = ("grpo", "sdpo", "sdpo_ema", "stable_sdpo", "sdpo_ema_mask", "sft")


def study(generator: Generator, seeds: int, prompts: int) -> Study:
    """All roles at one setting, without any difference between them."""
    difficulty = {column: DIFFICULTY * generator.standard_normal(prompts) for column in COLUMNS}
    distances = _distances(generator)
    runs = [_run(generator, role, seed, difficulty, distances) for role in ROLES for seed in range(seeds)]
    return Study(runs)


def _run(
    generator: Generator, role: str, seed: int, difficulty: Mapping[str, Array], distances: Mapping[str, Any]
) -> Run:
    own = {column: BY_SEED * generator.standard_normal() for column in COLUMNS}
    rows = []
    for _ in range(1 + len(TASKS)):
        row = {}
        for column in COLUMNS:
            logit = np.log(RATES[column] / (1 - RATES[column])) + own[column]
            logit = logit + BY_EVALUATION * generator.standard_normal() + difficulty[column]
            row[column] = generator.binomial(4, 1 / (1 + np.exp(-logit))) / 4
        rows.append(row)
    stage, step = len(TASKS), STEPS * len(TASKS)
    return made_run(
        role,
        seed,
        rows,
        TASKS,
        PROBES,
        steps=STEPS,
        tags=_signals(generator),
        distances=distances,
        responses=[_responses(generator, stage, step, task) for task in TASKS],
        drift=[_drift(generator, stage, step, layer) for layer in range(4)],
        artifacts=[_artifacts(generator, stage, step, task) for task in TASKS],
    )


def _distances(generator: Generator) -> dict[str, dict[str, float]]:
    """Every task's own probe is near, the others anywhere."""
    return {
        task: {c: 0.05 if c == f"{task}_ood" else float(generator.uniform(0.1, 0.8)) for c in COLUMNS if c != task}
        for task in TASKS
    }


def _signals(generator: Generator) -> dict[str, list[tuple[int, float]]]:
    """What is logged in every step, around levels that seeds share; the norm of all weights once."""
    size = STEPS * len(TASKS)
    tags = {}
    for tag, level in (("rollout/entropy", 0.4), ("sdpo/divergence", 0.01), ("rollout/length", 40.0)):
        walk = 0.02 * generator.standard_normal(size).cumsum() + 0.1 * generator.standard_normal(size)
        tags[tag] = [(k, float(x)) for k, x in enumerate(level * np.exp(walk))]
    tags["drift/parameters/relative_norm"] = [(size, 0.04 * float(np.exp(0.05 * generator.standard_normal())))]
    return tags


def _responses(generator: Generator, stage: int, step: int, task: str) -> ResponseRow:
    excess = 0.3 * float(np.exp(0.5 * generator.standard_normal()))
    numbers = {"similarity": 0.95 + 0.01 * float(generator.standard_normal()), "excess_kl": excess}
    numbers["excess_kl_at_most"] = 1.2 * excess  # as tight as many responses make it
    estimates = {name: Estimate(x, x, x) for name, x in numbers.items()}
    return ResponseRow(step, stage, task, "other", estimates)


def _drift(generator: Generator, stage: int, step: int, layer: int) -> DriftRow:
    size, overlap = np.exp(0.05 * generator.standard_normal()), 0.99 + 0.001 * generator.standard_normal()
    numbers = dict.fromkeys(MatrixDrift._fields, 0.1) | {"spectrum_shift": 5e-5 * size, "mask_overlap": overlap}
    return DriftRow(step, stage, f"v_proj.{layer}", "v_proj", layer, MatrixDrift(**numbers))


def _artifacts(generator: Generator, stage: int, step: int, task: str) -> ArtifactRow:
    numbers = {name: float(generator.beta(1, 50)) for name in ("leakage", "repetition")}
    return ArtifactRow(step=step, stage=stage, task=task, numbers=numbers, ngrams=[])


def verdicts(seeds: int, studies: int, prompts: int = 32, draws: int = 1000) -> dict[Claim, Counter[Verdict]]:
    """How often each claim got which verdict."""
    generator = np.random.default_rng(seeds)
    tested = [claim for claim in CLAIMS if claim.parts]
    found: dict[Claim, Counter[Verdict]] = {claim: Counter() for claim in tested}
    for _ in range(studies):
        made = study(generator, seeds, prompts)
        for result in check_claims(made, draws=Draws(draws), claims=tested):
            if result.setting != "matched rate":  # nobody plays there
                found[result.claim][result.verdict] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    options = parser.parse_args()
    started = time.perf_counter()
    counted = {seeds: verdicts(seeds, options.studies) for seeds in SEEDS}
    header = [f"{verdict}, {seeds} seeds, %" for seeds in SEEDS for verdict in ("replicates", "does not", "undecided")]
    print(f"| claim | {' | '.join(header)} |\n|---|{'---:|' * len(header)}")
    worst = 0.0
    for claim in counted[SEEDS[0]]:
        cells = []
        for seeds in SEEDS:
            found = counted[seeds][claim]
            total = found.total()
            worst = max(worst, found[REPLICATES] / total)
            cells += [f"{100 * found[verdict] / total:.1f}" for verdict in ("replicates", "does not", "undecided")]
        print(f"| {claim.id}. {claim.sentence} | {' | '.join(cells)} |")
    seconds = time.perf_counter() - started
    print(f"\n{options.studies} studies each; at most {100 * worst:.1f} % replicate; {seconds:.0f} s")


if __name__ == "__main__":
    main()
