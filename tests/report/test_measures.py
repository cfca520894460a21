from __future__ import annotations

import math

import numpy as np
import pytest

from lit_sdpo.functional import MatrixDrift
from lit_sdpo.report.artifacts import ArtifactRow
from lit_sdpo.report.comparisons import effect
from lit_sdpo.report.drift import DriftRow
from lit_sdpo.report.measures import MEASURES, own_score, stages_of, steps_to_reward
from lit_sdpo.report.responses import Estimate, ResponseRow
from lit_sdpo.report.study import Study
from lit_sdpo.report.summary import summarize
from lit_sdpo.report.table_files import shown_effect
from tests.report.made_runs import flat, in_memory, on_disk

BASE = {"a": 0.25, "b": 0.5, "a_ood": 0.5, "prior": 1.0}
FIRST = {"a": 0.75, "b": 0.375, "a_ood": 0.625, "prior": 1.0}
LAST = {"a": 0.5, "b": 1.0, "a_ood": 0.25, "prior": 0.875}
DISTANCES = {
    "a": {"a": 0.0, "b": 0.3, "a_ood": 0.1, "prior": 0.6},
    "b": {"a": 0.31, "b": 0.0, "a_ood": 0.32, "prior": 0.7},
}


def run(**options):
    scores = [{column: flat(x, 4) for column, x in row.items()} for row in (BASE, FIRST, LAST)]
    return in_memory("sdpo", 0, scores, probes=("a_ood", "prior"), **options)


def empty():
    return in_memory("sdpo", 0)


@pytest.mark.parametrize(
    "name", ["average_accuracy", "learning_accuracy", "bwt", "forgetting", "relative_forgetting", "ood_change"]
)
def test_numbers_of_the_matrix_are_those_of_its_summary(name):
    assert MEASURES[name].value(run()) == pytest.approx(summarize(run().matrix)[name])


def test_changes_are_in_points():
    assert MEASURES["prior_change"].value(run()) == pytest.approx(-12.5)
    assert MEASURES["first_gain"].value(run()) == pytest.approx(50.0)
    assert own_score("b").value(run()) == 1.0
    assert math.isnan(own_score("c").value(run()))


def test_interference_compares_signed_changes_by_distance():
    # A third of the largest distance is .233. Near: a→a_ood. Intermediate: a→b, b→a, b→a_ood. Far: a→prior, b→prior.
    # Their losses in points: -12.5 | 12.5, 25, 37.5 | 0, 12.5.
    made = run(distances=DISTANCES)
    assert MEASURES["interference_near"].value(made) == pytest.approx(25 - -12.5)
    assert MEASURES["interference_far"].value(made) == pytest.approx(25 - 12.5 / 2)
    assert math.isnan(MEASURES["interference_near"].value(run()))
    two = {"a": {"b": 0.31, "a_ood": 0.32}, "b": {"a": 0.9}}  # nothing is near
    assert math.isnan(MEASURES["interference_near"].value(run(distances=two)))
    assert MEASURES["interference_far"].value(run(distances={"a": {"b": 0.5}, "b": {"a": 0.9}})) == pytest.approx(-12.5)


def test_evaluations_that_only_differ_by_draws_show_no_interference():
    """Losses that are cut off at 0 would."""
    generator = np.random.default_rng(0)
    rates = {"a": 0.5, "b": 0.9, "a_ood": 0.4, "prior": 0.99}
    found = []
    for seed in range(200):
        rows = [{c: {f"p{i}": [float(x)] for i, x in enumerate(generator.random(40) < p)} for c, p in rates.items()}]
        rows += [{c: {f"p{i}": [float(x)] for i, x in enumerate(generator.random(40) < p)} for c, p in rates.items()}]
        rows += [{c: {f"p{i}": [float(x)] for i, x in enumerate(generator.random(40) < p)} for c, p in rates.items()}]
        made = in_memory("sdpo", seed, rows, probes=("a_ood", "prior"), distances=DISTANCES)
        found.append([MEASURES[f"interference_{outer}"].value(made) for outer in ("near", "far")])
    mean, error = np.mean(found, 0), np.std(found, 0) / 200**0.5
    assert (np.abs(mean) < 3 * error).all()


def test_drift_is_the_mean_over_layers_at_the_last_measurement():
    def row(step, layer, x):
        return DriftRow(step, 1, "w", "q_proj", layer, MatrixDrift(*[x] * len(MatrixDrift._fields)))

    made = run(drift=[row(10, 0, 9.0), row(20, 0, 1.0), row(20, 1, 3.0), row(20, None, 50.0)])
    assert MEASURES["nss"].value(made) == 2.0
    assert MEASURES["mask_overlap"].value(made) == 2.0


def test_responses_are_those_of_the_streams_tasks_at_the_end():
    def row(stage, task, x):
        return ResponseRow(10 * stage, stage, task, "other", {"forward_kl": Estimate(x, x, x)})

    made = run(
        responses=[row(1, "a", 9.0), row(2, "a", 1.0), row(2, "b", 2.0), row(2, "prior", 7.0), row(2, "current", 5.0)]
    )
    assert MEASURES["forward_kl"].value(made) == 1.5


def test_artifacts_are_those_of_the_streams_tasks_in_the_last_evaluation():
    def row(step, task, x):
        return ArtifactRow(step, 1, task, {"leakage": x, "repetition": 2 * x})

    made = run(artifacts=[row(10, "a", 0.9), row(20, "a", 0.1), row(20, "b", 0.3), row(20, "prior", 1.0)])
    assert MEASURES["leakage"].value(made) == pytest.approx(0.2)
    assert MEASURES["repetition"].value(made) == pytest.approx(0.4)


def test_alignment_is_the_mean_of_all_measurements():
    made = run(tags={"alignment/mean": [(10, 0.5), (20, -0.1)]})
    assert MEASURES["alignment"].value(made) == pytest.approx(0.2)
    assert math.isnan(MEASURES["alignment"].value(run(tags={})))


def test_stages_count_their_own_steps():
    made = run(tags={"x": [(9, 1.0), (10, 2.0), (12, 3.0), (20, 4.0)]})
    assert [tuple(stage) for stage in stages_of(made, "x")] == [([9], [1.0]), ([0, 2], [2.0, 3.0])]


def test_steps_to_a_reward_are_a_mean_over_stages():
    first = [0.5, 0.5, 0.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]  # running mean of 5: .74 at 5, .82 at 6
    later = [0.8] * 10
    made = run(tags={"rollout/reward": list(enumerate(first + later))})
    assert steps_to_reward(made) == (6 + 0) / 2
    assert steps_to_reward(made, reward=0.4) == 0
    penalised = {
        "rollout/reward": [(n, -1.0) for n in range(20)],
        "rollout/reward/verifier": made.tags["rollout/reward"],
    }
    assert steps_to_reward(run(tags=penalised)) == (6 + 0) / 2
    assert math.isnan(steps_to_reward(empty()))


def test_a_reward_that_a_stage_never_reaches_takes_no_number_of_steps():
    reached, never = [0.9] * 10, [0.5] * 10
    tags = [{"rollout/reward": list(enumerate(reached + end))} for end in (reached, never)]
    runs = [in_memory("sdpo", seed, tags=each) for seed, each in enumerate(tags)]
    assert steps_to_reward(runs[1]) == math.inf
    found = effect(MEASURES["steps_to_reward"], runs)
    assert found.missing == "not reached by 1 of 2 runs"
    assert shown_effect(found, MEASURES["steps_to_reward"]) == "not reached by 1 of 2 runs"
    assert effect(MEASURES["steps_to_reward"], runs[:1]).value == 0


def test_cost_is_what_the_sweep_wrote_down(tmp_path):
    folder = on_disk(tmp_path / "m" / "seed=0", [{"a": flat(0.5), "b": flat(0.5)}] * 3)
    (folder / "sweep.json").write_text('{"state": "finished", "cpu_seconds": 12.5}')
    (made,) = Study.read([tmp_path]).all_runs
    assert MEASURES["cpu_seconds"].value(made) == 12.5


def test_a_late_rise_is_measured_from_the_lowest_of_the_stage():
    falling = [0.4, 0.4, 0.4, 0.4, 0.4, 0.2, 0.2, 0.2, 0.2, 0.2]
    rising = [0.2, 0.2, 0.2, 0.2, 0.2, 0.8, 0.8, 0.8, 0.8, 0.8]
    made = run(
        tags={"rollout/entropy": list(enumerate(falling + rising)), "rollout/length": list(enumerate(falling * 2))}
    )
    assert MEASURES["entropy_rise"].value(made) == pytest.approx(math.sqrt(1 * 4))
    assert MEASURES["length_change"].value(made) == pytest.approx(0.5)
    assert MEASURES["entropy"].value(made) == 0.8
    assert MEASURES["length"].value(made) == 0.2


@pytest.mark.parametrize("name", MEASURES)
def test_what_a_run_does_not_have_is_nan(name):
    assert math.isnan(MEASURES[name].value(empty()))


def test_every_measure_has_one_source_and_a_title():
    for name, measure in MEASURES.items():
        assert measure.name == name
        assert (measure.from_scores is None) != (measure.from_run is None)
        assert measure.title
