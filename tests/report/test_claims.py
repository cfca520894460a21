from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from lit_sdpo.errors import UserError
from lit_sdpo.report.claims import (
    CLAIMS,
    PHASE_CLAIMS,
    Claim,
    Contrast,
    Crossing,
    check,
    check_claims,
    judge,
    phase_map,
)
from lit_sdpo.report.claims.phase import role_of
from lit_sdpo.report.claims.table import DOES_NOT, NOT_TESTED, REPLICATES, UNDECIDED, cast_of
from lit_sdpo.report.comparisons import Draws, Effect
from lit_sdpo.report.measures import MEASURES, Measure, own_score
from lit_sdpo.report.responses import Estimate, ResponseRow
from tests.report.made_runs import config, flat, in_memory, study_of

THREE = {0: 0.0, 1: 0.0, 2: 0.0}
ROLES = {"grpo", "sdpo", "sdpo_ema", "stable_sdpo", "sdpo_ema_mask", "sft"}


def number(name: str = "number", ratio: bool = False) -> Measure:
    """A measure that looks its value up in the run's configuration."""
    return Measure(name, name, "", 1, from_run=lambda run: run.config.get(name, math.nan), ratio=ratio)


def runs(method: str, *values: float, name: str = "number"):
    return [in_memory(method, seed, settings={name: value}) for seed, value in enumerate(values)]


def contrast(smallest: float = 0.5, more: str = "sdpo", less: str | None = "grpo", **options) -> Contrast:
    return Contrast(f"{more} has more", number(**options), more, less, smallest)


# ------------------------------------------------------------------------------------------------------------ verdicts
@pytest.mark.parametrize(
    ("low", "high", "null", "expected", "word"),
    [
        (0.6, 2.0, 0.0, REPLICATES, "lies above 0.5."),
        (0.5, 2.0, 0.0, REPLICATES, "lies above 0.5."),
        (0.1, 2.0, 0.0, UNDECIDED, "lies above 0 and holds less and more than 0.5"),
        (0.1, 0.4, 0.0, DOES_NOT, "excludes 0.5 or more"),
        (1e-6, 2e-6, 0.0, DOES_NOT, "excludes 0.5 or more"),
        (-1.0, -0.1, 0.0, DOES_NOT, "the other way round"),
        (-0.4, 0.4, 0.0, DOES_NOT, "excludes 0.5 or more"),
        (-0.4, 0.6, 0.0, UNDECIDED, "holds both 0 and 0.5"),
        (0.0, 2.0, 0.0, UNDECIDED, "holds both"),
        (1.6, 2.0, 1.0, REPLICATES, "lies above 1.5"),
        (1.1, 2.0, 1.0, UNDECIDED, "lies above 1 and holds less and more than 1.5"),
        (0.8, 1.2, 1.0, DOES_NOT, "excludes 1.5 or more"),
        (0.8, 1.6, 1.0, UNDECIDED, "holds both 1 and 1.5"),
        (math.nan, math.nan, 0.0, UNDECIDED, "there is no interval"),
    ],
)
def test_the_interval_alone_decides(low, high, null, expected, word):
    verdict, reason = judge(Effect(1.0, low, high, by_seed=THREE, null=null), 0.5)
    assert verdict == expected
    assert word in reason


def test_two_seeds_decide_nothing():
    assert judge(Effect(9.0, 8.9, 9.1, by_seed={0: 9.0, 1: 9.0}), 0.5) == (
        UNDECIDED,
        "Undecided: 2 seeds, and at least 3 are needed.",
    )


def test_what_was_not_measured_is_not_tested():
    assert judge(Effect(missing="drift was not measured"), 0.5) == (NOT_TESTED, "Drift was not measured.")


# -------------------------------------------------------------------------------------------------------------- claims
CAST = {"sdpo": runs("sdpo", 5.0, 5.1, 4.9), "grpo": runs("grpo", 1.0, 1.1, 0.9), "same": runs("same", 1.0, 1.101, 0.9)}


def test_a_claim_holds_where_all_its_parts_do():
    claim = Claim("C0", "s", "p", (contrast(), contrast(0.1, less=None)))
    found = check(claim, CAST, "here")
    assert (found.verdict, found.setting) == (REPLICATES, "here")
    assert [part.effect.value for part in found.parts] == pytest.approx([4.0, 5.0])


def test_one_part_that_does_not_decides_against_it():
    claim = Claim("C0", "s", "p", (contrast(), contrast(0.5, more="grpo", less="same")))
    found = check(claim, CAST, "")
    assert found.verdict == DOES_NOT
    assert found.reason.startswith("grpo has more: The interval -0.00")
    assert found.reason.endswith("excludes 0.5 or more.")
    assert [part.verdict for part in found.parts] == [REPLICATES, DOES_NOT]


def test_a_role_without_runs_is_named():
    both = Claim("C0", "s", "p", (contrast(), contrast(more="stable_sdpo")))
    found = check(both, CAST, "")
    assert found.verdict == UNDECIDED
    assert found.reason == "stable_sdpo has more: No runs of stable_sdpo at these settings."
    alone = check(Claim("C0", "s", "p", (contrast(more="stable_sdpo", less="sft"),)), CAST, "")
    assert (alone.verdict, alone.reason) == (NOT_TESTED, "No runs of sft and stable_sdpo at these settings.")


def test_a_measure_that_is_missing_is_named():
    found = check(Claim("C0", "s", "p", (contrast(name="drift"),)), CAST, "")
    assert (found.verdict, found.reason) == (NOT_TESTED, "Drift was not measured.")


def test_seeds_that_agree_exactly_decide_nothing():
    cast = {"sdpo": runs("sdpo", 0.0, 0.0, 0.0), "grpo": runs("grpo", 0.0, 0.0, 0.0)}
    found = check(Claim("C0", "s", "p", (contrast(),)), cast, "")
    assert found.verdict == UNDECIDED
    assert "nothing is known of their spread" in found.reason


@pytest.mark.parametrize(
    ("sdpo", "grpo", "expected"),
    [
        (((3.0, 3.5), (3.1, 3.6), (2.9, 3.4)), ((0.1, 1.0), (0.2, 1.1), (0.15, 1.0)), REPLICATES),
        (((3.0, 9.0), (3.1, 9.1), (2.9, 9.2)), ((0.1, 4.0), (0.2, 4.1), (0.15, 4.2)), UNDECIDED),
        (((0.0, 0.01), (0.001, 0.012), (0.002, 0.011)), ((0.1, 1.0), (0.2, 1.1), (0.15, 1.0)), DOES_NOT),
    ],
)
def test_excess_divergence_is_judged_by_bounds_that_hold(sdpo, grpo, expected):
    """What SDPO has at least must exceed what GRPO has at most."""
    claim = next(claim for claim in CLAIMS if claim.id == "C13")
    cast = {}
    for name, seeds in (("sdpo", sdpo), ("grpo", grpo)):
        cast[name] = []
        for seed, ends in enumerate(seeds):
            numbers = {k: Estimate(x, x, x) for k, x in zip(("excess_kl", "excess_kl_at_most"), ends, strict=True)}
            cast[name].append(in_memory(name, seed, responses=[ResponseRow(20, 2, "a", "other", numbers)]))
    found = check(claim, cast, "")
    assert found.verdict == expected
    assert len(found.parts) == 2
    against = found.parts[1].effect
    least, most = (np.mean([x[end] for x in sdpo]) - np.mean([x[1 - end] for x in grpo]) for end in (0, 1))
    assert against.low < least <= against.value <= most < against.high


def crossing_runs(method: str, seed_of: int, scores: dict[str, float], spread: float = 0.05):
    """Three seeds whose scores on each task vary by ``spread`` between seeds."""
    generator = np.random.default_rng(seed_of)
    made = []
    for seed in range(3):
        row = {task: flat(score + spread * generator.standard_normal()) for task, score in scores.items()}
        made.append(in_memory(method, seed, [row] * (len(scores) + 1), labels=list(scores)))
    return made


CROSSING = Crossing("each leads", own_score, "sdpo", "sdpo_ema", 0.02)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"a": 0.9, "b": 0.2}, {"a": 0.4, "b": 0.7}, REPLICATES),
        ({"a": 0.9, "b": 0.7}, {"a": 0.4, "b": 0.2}, DOES_NOT),
        ({"a": 0.2, "b": 0.4}, {"a": 0.7, "b": 0.9}, DOES_NOT),
    ],
)
def test_a_crossing_needs_a_lead_of_both(one, other, expected):
    cast = {"sdpo": crossing_runs("sdpo", 1, one, 0.01), "sdpo_ema": crossing_runs("sdpo_ema", 2, other, 0.01)}
    found = check(Claim("C1", "s", "p", (CROSSING,)), cast, "")
    assert found.verdict == expected
    effect = found.parts[0].effect
    assert effect.low <= effect.value <= effect.high
    assert effect.value == pytest.approx(0.5 if expected == REPLICATES else -0.5, abs=0.03)


def test_equal_teachers_rarely_seem_to_cross():
    """No task differs: with four tasks one is ahead on each side by chance, and the interval knows it."""
    tasks = dict.fromkeys("abcd", 0.5)
    verdicts = []
    for repeat in range(40):
        cast = {
            "sdpo": crossing_runs("sdpo", 2 * repeat, tasks),
            "sdpo_ema": crossing_runs("sdpo_ema", 2 * repeat + 1, tasks),
        }
        verdicts.append(check(Claim("C1", "s", "p", (CROSSING,)), cast, "", Draws(500)).verdict)
    assert verdicts.count(REPLICATES) <= 2


# --------------------------------------------------------------------------------------------------- the paper's claims
def stream_runs(method: str, first: float, last: float, spread: float = 0.01, seeds: int = 3, start: int = 0):
    """Base .3 everywhere; the first task reaches ``first`` in its stage, everything ends at ``last``."""
    generator = np.random.default_rng([start, *method.encode()])
    made = []
    for seed in range(seeds):
        noise = spread * generator.standard_normal(2)
        columns = ("a", "b", "a_ood", "prior")
        rows = [
            {column: flat(0.3) for column in columns},
            {column: flat(first + noise[0] if column == "a" else 0.3) for column in columns},
            {column: flat(last + noise[1]) for column in columns},
        ]
        rate = 1e-4 if method.endswith("grpo") else 1e-3
        made.append(in_memory(method, seed, rows, probes=("a_ood", "prior"), settings=at_rate(rate)))
    return made


def at_rate(lr: float):
    return config(model__init_args__optimizer__init_args__lr=lr)


def verdict_of(results, claim: str, setting: str, nth: int = 0):
    return [r for r in results if r.claim.id == claim and r.setting in (setting, "")][nth].verdict


def test_the_papers_world_gives_the_papers_verdict_and_the_opposite_its_opposite():
    study = study_of(
        *stream_runs("grpo", 0.5, 0.8),
        *stream_runs("sdpo", 0.7, 0.4),
        *stream_runs("grpo_matched", 0.7, 0.4),
        *stream_runs("sdpo_matched", 0.5, 0.8),
    )
    results = check_claims(study)
    assert verdict_of(results, "C7", "paper's ratio") == REPLICATES
    assert verdict_of(results, "C7", "paper's ratio", 1) == REPLICATES
    assert verdict_of(results, "C7", "matched rate") == DOES_NOT
    assert verdict_of(results, "C5", "paper's ratio") == REPLICATES
    assert verdict_of(results, "C8", "paper's ratio") == NOT_TESTED
    assert verdict_of(results, "C4", "") == NOT_TESTED


def test_other_rates_than_a_setting_is_named_for_are_told():
    study = study_of(*stream_runs("one", 0.5, 0.8), *stream_runs("other", 0.7, 0.4))  # both at 0.001
    results = check_claims(study, {"grpo": "one", "sdpo": "other"})
    for claim, statements in (("C7", 2), ("C6", 1)):  # C6 is about sdpo alone
        found = [r.setting for r in results if r.claim.id == claim]
        assert found == ["grpo at 0.001, sdpo at 0.001", "matched rate"] * statements


def test_two_seeds_or_much_noise_leave_it_undecided():
    few = study_of(*stream_runs("grpo", 0.5, 0.8, seeds=2), *stream_runs("sdpo", 0.7, 0.4, seeds=2))
    assert verdict_of(check_claims(few), "C7", "paper's ratio") == UNDECIDED
    noisy = study_of(*stream_runs("grpo", 0.5, 0.5, 0.2), *stream_runs("sdpo", 0.5, 0.5, 0.2))
    assert verdict_of(check_claims(noisy), "C7", "paper's ratio") == UNDECIDED


def test_all_fourteen_claims_are_there_with_known_roles():
    assert list(dict.fromkeys(claim.id for claim in CLAIMS)) == [f"C{i}" for i in range(1, 15)]
    for claim in CLAIMS:
        assert bool(claim.parts) != bool(claim.untested)
        assert set(claim.roles) <= ROLES
        for part in claim.parts:
            assert part.smallest > 0
            assert part.measure.name in MEASURES or isinstance(part, Crossing)


def test_another_method_can_play_a_role():
    study = study_of(*stream_runs("base/grpo", 0.5, 0.8), *stream_runs("my_sdpo", 0.7, 0.4))
    assert verdict_of(check_claims(study), "C7", "paper's ratio") == NOT_TESTED
    assert verdict_of(check_claims(study, {"sdpo": "my_sdpo"}), "C7", "paper's ratio") == REPLICATES
    with pytest.raises(UserError, match="no role 'spdo'"):
        check_claims(study, {"spdo": "my_sdpo"})
    with pytest.raises(UserError, match="no method 'mine'"):
        check_claims(study, {"sdpo": "mine"})


def test_a_role_is_found_below_a_folder_if_there_is_only_one():
    study = study_of(*runs("x/grpo", 1.0), *runs("y/sdpo", 1.0), *runs("z/sdpo", 1.0))
    cast = cast_of(study, ["grpo", "sdpo"])
    assert [run.method for run in cast["grpo"]] == ["x/grpo"]
    assert cast["sdpo"] == []


# ----------------------------------------------------------------------------------------------------------- phase map
EMA = {"class_path": "lit_sdpo.EMATeacher", "init_args": {"update_rate": 0.05}}
GRPO = {"class_path": "lit_sdpo.GRPO", "init_args": {"optimizer": {"class_path": "AdamW", "init_args": {"lr": 1e-3}}}}


def settings(method: str, lr: float, strict: bool = False, **changes):
    model = copy.deepcopy(GRPO) if method == "grpo" else config()["model"]
    made = config(model=model, data__init_args__world={"strict": strict, "seed": 0}, **changes)
    made["model"]["init_args"]["optimizer"]["init_args"]["lr"] = lr
    return made


def grid(strict: bool, winner: str):
    made = []
    for method in ("grpo", "sdpo"):
        for lr in (1e-4, 1e-3):
            first, last = (0.7, 0.4) if method == "sdpo" else (0.5, 0.8 if winner == "grpo" else 0.2)
            for run in stream_runs(f"{method}/{lr:g}/{strict}", first, last):
                made.append(in_memory(run.method, run.seed, settings=settings(method, lr, strict)))
                vars(made[-1]).update(matrix=run.matrix, items=run.items)
    return made


def test_the_map_says_where_a_claim_holds():
    found = phase_map(study_of(*grid(False, "grpo"), *grid(True, "sdpo")), ids=["C6", "C7"])
    table = {
        (cell.world, cell.lr, cell.ratio): cell.result.verdict
        for cell in found.cells
        if cell.result.claim.sentence.startswith("SDPO wins early")
    }
    assert table == {
        ("strict=False", 1e-4, 1): REPLICATES,
        ("strict=False", 1e-3, 1): REPLICATES,
        ("strict=False", 1e-3, 10): REPLICATES,
        ("strict=True", 1e-4, 1): DOES_NOT,
        ("strict=True", 1e-3, 1): DOES_NOT,
        ("strict=True", 1e-3, 10): DOES_NOT,
    }
    alone = [cell for cell in found.cells if cell.result.claim.id == "C6"]
    assert {(cell.world, cell.lr, cell.ratio) for cell in alone} == {
        (f"strict={strict}", lr, None) for strict in (True, False) for lr in (1e-4, 1e-3)
    }
    assert {cell.result.setting for cell in found.cells if cell.ratio == 10} == {"SDPO at 0.001, GRPO at 0.0001"}
    assert not found.left_out


def test_methods_of_their_own_and_doubles_are_left_out_with_a_reason():
    made = [
        in_memory("sdpo", 0, settings=settings("sdpo", 1e-3)),
        in_memory("again", 0, settings=settings("sdpo", 1e-3)),
        in_memory("masked", 0, settings=config(model__init_args__token_mask=0.5)),
        in_memory("unknown", 0, settings={}),
    ]
    found = phase_map(study_of(*made))
    assert found.left_out == {
        "again": "sdpo is sdpo in the same cell",
        "masked": "it is none of the paper's methods",
        "unknown": "it is none of the paper's methods",
    }


@pytest.mark.parametrize(
    ("changes", "role"),
    [
        ({}, "sdpo"),
        ({"model__init_args__teacher": EMA}, "sdpo_ema"),
        ({"model__init_args__teacher": {"class_path": "lit_sdpo.RestartTeacher"}}, "stable_sdpo"),
        ({"model": GRPO}, "grpo"),
        ({"model": {"class_path": "lit_sdpo.SFT"}}, "sft"),
        ({"model": {"class_path": "lit_sdpo.SRPO"}}, None),
        ({"model__init_args__token_mask": 0.0}, "sdpo"),
        ({"model__init_args__lora": {"r": 8}}, None),
        ({"data__init_args__replay_share": 0.1}, None),
    ],
)
def test_a_role_comes_from_the_configuration(changes, role):
    assert role_of(in_memory("m", 0, settings=config(**changes))) == role


def test_the_mapped_claims_exist():
    assert set(PHASE_CLAIMS) <= {claim.id for claim in CLAIMS if claim.parts}
