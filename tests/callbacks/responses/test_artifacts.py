from __future__ import annotations

import csv
import json
import math

import pytest
import torch

from lit_sdpo.callbacks import ArtifactMonitor, InitialEvaluation
from lit_sdpo.callbacks.responses.loop_gain import LoopGain, loop_gain, ngram_places
from lit_sdpo.errors import UserError
from lit_sdpo.policies.load import load_tokenizer, render_all
from lit_sdpo.report.artifacts import ArtifactRow, artifacts_jsonl, ngram_table
from tests.training import (
    Toy,
    Watch,
    assert_equal,
    fit,
    lively,
    method,
    rollout_callback,
    row_logits,
    toy_data,
    weights,
)


def tasks():
    """Two tasks whose markers are letters, so that a random model writes both."""
    a, b = Toy("a"), Toy("b")
    a.markers, b.markers = ("[aeiou]",), ("[bcdfg]", "[0-9]")
    return a, b


def run(folder, tiny, *callbacks, kind="sdpo", **options):
    module = method(kind, tiny)
    rollout = rollout_callback(rewards=lively())
    fit(folder, module, toy_data(tasks(), steps=2), *callbacks, rollout=rollout, limit_val_batches=1.0, **options)
    return module


def test_against_everything_that_was_sampled(tiny, tmp_path):
    monitor, watch = ArtifactMonitor(), Watch()
    run(tmp_path, tiny, monitor, InitialEvaluation(), watch)
    assert [(r.step, r.stage, r.task) for r in monitor.rows] == [
        (0, 0, "a"), (0, 0, "b"), (2, 1, "a"), (2, 1, "b"), (4, 2, "a"), (4, 2, "b"),
    ]  # fmt: skip
    texts: dict = {}
    for entry in watch.of("validation"):
        texts.setdefault((entry["step"], entry["task"]), []).extend(entry["rollouts"].texts)
    for row in monitor.rows:
        said = texts[row.step, row.task]
        foreign = "bcdfg0123456789" if row.task == "a" else "aeiou"
        assert row.numbers["responses"] == len(said)
        assert row.numbers["leakage"] == sum(any(c in foreign for c in text) for text in said) / len(said)
        assert row.numbers["foreign_markers"] == pytest.approx(sum(c in foreign for t in said for c in t) / len(said))
    assert {row.numbers["amplified_z"] for row in monitor.rows[:2]} == {0}
    with (tmp_path / "artifacts.csv").open() as file:
        assert [line["task"] for line in csv.DictReader(file)] == ["a", "b"] * 3


def test_running_counts_of_training(tiny, tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    watch = Watch()
    run(tmp_path, tiny, ArtifactMonitor(), watch, kind="grpo", logger=CSVLogger(tmp_path, "", ""))
    said = [text for entry in watch.of("train") if entry["task"] == "a" for text in entry["rollouts"].texts]
    expected = sum(any(c in "bcdfg0123456789" for c in text) for text in said) / len(said)
    with (tmp_path / "metrics.csv").open() as file:
        logged = [x for line in csv.DictReader(file) if (x := line.get("artifacts/a/train/leakage"))]
    assert [float(x) for x in logged] == [pytest.approx(expected)]


@pytest.mark.parametrize("kind", ["grpo", "sdpo"])
def test_weights_are_the_same_with_and_without(tiny, tmp_path, kind):
    plain = run(tmp_path / "without", tiny, kind=kind)
    watched = run(tmp_path / "with", tiny, ArtifactMonitor(), kind=kind)
    assert_equal(weights(plain), weights(watched))


def test_teacher_less_student_token_by_token(tiny, tmp_path):
    """One forward per row and side, without packing, padding or chunks."""
    watch = Watch()
    module = run(tmp_path, tiny, watch)
    with torch.no_grad():
        for p in module.teacher.parameters():
            p.mul_(1.1)
    rollouts = watch.of("train")[-1]["rollouts"]
    messages = module.reprompt.contexts(rollouts, module.tokenizer, None).messages
    module.policy.eval()
    gains, pieces = [], []
    with torch.no_grad():
        for n, said in enumerate(messages):
            if said is None:
                continue
            ids = rollouts.completions.ids[n, : rollouts.completions.lengths[n]].tolist()
            prompt = rollouts.prompt_ids[n // rollouts.num_generations]
            (told,) = render_all(module.tokenizer, [said])
            both = [
                row_logits(model, context, ids).log_softmax(-1)[range(len(ids)), ids]
                for model, context in ((module.teacher.weights.model, told), (module.policy, prompt))
            ]
            gains += (both[0] - both[1]).tolist()
            pieces += [module.tokenizer.decode([i], skip_special_tokens=True) for i in ids]
    word = max({p.strip() for p in pieces if p.strip().isalpha() and p.isascii()}, key=len)
    found = loop_gain(module, rollouts, [word])
    assert isinstance(found, LoopGain)
    total = found.share * found.amplified + (1 - found.share) * found.other if found.of_ngram else found.other
    assert total == pytest.approx(sum(gains) / len(gains), rel=1e-3, abs=1e-4)
    nothing = loop_gain(module, rollouts, [])
    assert math.isnan(nothing.amplified)
    assert nothing.other == pytest.approx(sum(gains) / len(gains), rel=1e-3, abs=1e-4)


def test_the_gain_of_the_stages_task_is_logged(tiny, tmp_path):
    monitor = ArtifactMonitor()
    run(tmp_path, tiny, monitor, InitialEvaluation())
    asked = {(row.stage, row.task) for row in monitor.rows if "loop_gain_other" in row.numbers}
    assert asked <= {(1, "a"), (2, "b")}
    assert asked
    without = ArtifactMonitor()
    run(tmp_path / "grpo", tiny, without, InitialEvaluation(), kind="grpo")
    assert not any("loop_gain_other" in row.numbers for row in without.rows)


def test_tokens_of_an_ngram(tiny):
    tokenizer = load_tokenizer(tiny)
    ids = tokenizer.encode(r"so \boxed{4} and \boxed{5}", add_special_tokens=False)
    places = ngram_places(tokenizer, ids, [r"\boxed {", "never"])
    assert set(places) == {r"\boxed {"}
    text = "".join(tokenizer.decode([ids[n]]) for n in sorted(places[r"\boxed {"]))
    assert text.replace(" ", "").count(r"\boxed{") == 2
    assert len(places[r"\boxed {"]) < len(ids)


def test_a_tokenizer_that_drops_leading_blanks():
    class Dropping:
        def decode(self, ids, skip_special_tokens):
            return "".join([" go", " on", "!"][i] for i in ids).lstrip()

    assert ngram_places(Dropping(), [0, 1, 2, 0, 1], ["go on"]) == {"go on": {0, 1, 3, 4}}


def test_loops_and_resume_mid_stage():
    monitor = ArtifactMonitor()
    monitor._count("t", ["go on " * 6, "fine", r"\boxed{1} \boxed{2}"])
    state = monitor.state_dict()
    again = ArtifactMonitor()
    again.load_state_dict(state)
    assert again._train == {"t": {"responses": 3, "leakage": 0, "boxed": 2, "loops": 1}}


def test_what_the_sanity_check_saw_does_not_count(tiny, tmp_path):
    monitor = ArtifactMonitor()
    run(tmp_path, tiny, monitor, num_sanity_val_steps=1)
    assert [row.stage for row in monitor.rows] == [1, 1, 2, 2]
    assert {row.numbers["responses"] for row in monitor.rows} == {8}


def test_tables_hold_any_text():
    row = ArtifactRow(1, 1, "t", {"x": math.nan}, [{"ngram": "<b> |", "z": 2.0, "ratio": 1.5, "per_1000": 3.0}])
    assert json.loads(artifacts_jsonl([row]))["numbers"] == {"x": None}
    assert ngram_table(row).markdown().splitlines()[-1] == "| &#60;b&#62; &#124; | 2.0 | 1.5 | 3 | - |"


@pytest.mark.parametrize("options", [{"max_order": 0}, {"num_shown": 0}, {"markers": {"math": ["("]}}])
def test_bad_arguments_are_refused(options):
    with pytest.raises(UserError, match=r"has to be a whole number of at least 1|no regular expression"):
        ArtifactMonitor(**options)


@pytest.mark.distributed
def test_two_processes_see_all_responses(tmp_path):
    from tests.reuse.test_artifacts import MARKERS
    from tests.reuse.test_artifacts import fit as speak

    speak(tmp_path, ArtifactMonitor(MARKERS), strategy="ddp_fork", devices=2)
    with (tmp_path / "artifacts.csv").open() as file:
        assert [line["responses"] for line in csv.DictReader(file)] == ["6.0", "6.0", "4.0", "8.0"]
