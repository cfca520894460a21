"""Tasks of likelihood inside of runs: what is logged, the matrix, what they leave alone."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lit_sdpo.callbacks import ForgettingMatrix, InitialEvaluation, LikelihoodEvaluation
from lit_sdpo.callbacks.likelihood import readable
from lit_sdpo.errors import UserError
from lit_sdpo.likelihood.tasks import MultipleChoiceLikelihood, TextLikelihood
from lit_sdpo.policies.load import load_policy, load_tokenizer
from tests.training import assert_equal, fit, lively, method, rollout_callback, toy_data, trainer, weights

TEXTS = ["add 1 to 2", "the third of five is a longer text than the others", "x"]
CHOICES = [
    {"question": "What is 1 + 1?", "choices": ["2", "three", "11"], "answer": 0},
    {"messages": [{"role": "user", "content": "Which?"}], "choices": ["a", "bb"], "answer": [0, 1]},
]


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    for name, rows in (("texts", [{"text": text} for text in TEXTS]), ("choices", CHOICES)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    choices = MultipleChoiceLikelihood("choices", str(folder / "choices.jsonl"), measure="acc_norm")
    return [TextLikelihood("texts", str(folder / "texts.jsonl"), window=8), choices]


def losses(folder):
    """Loss of the model in a folder on the texts, each by itself in windows of 8 tokens."""
    policy, tokenizer = load_policy(str(folder)), load_tokenizer(str(folder))
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    total = count = 0
    for text in TEXTS:
        ids = [start, *tokenizer.encode(text, add_special_tokens=False)]
        for end in range(1, len(ids), 8):
            stop = min(end + 8, len(ids))
            part = torch.tensor([ids[max(0, stop - 9) : stop]])
            with torch.no_grad():
                logprobs = policy(part[:, :-1]).logits[0].log_softmax(-1).gather(1, part[0, 1:, None])[:, 0]
            total, count = total - float(logprobs[-(stop - end) :].sum()), count + stop - end
    return total / count


def run(tmp_path, tiny, likelihood, *callbacks, **options):
    module = method("grpo", tiny)
    data = toy_data(steps=2, likelihood=likelihood, **options)
    callbacks = (InitialEvaluation(), ForgettingMatrix(), *callbacks)
    made = fit(tmp_path, module, data, *callbacks, rollout=rollout_callback(rewards=lively()), limit_val_batches=1.0)
    return module, made


def test_they_enter_the_matrix_and_leave_training_alone(tmp_path, tiny, asked):
    plain, _ = run(tmp_path / "plain", tiny, None)
    module, made = run(tmp_path / "with", tiny, asked, LikelihoodEvaluation())
    assert_equal(weights(module), weights(plain))
    metrics = {name: float(value) for name, value in made.callback_metrics.items()}
    assert {"val/texts/bits_per_byte", "val/texts/token_perplexity", "time/likelihood"} < set(metrics)
    assert metrics["val/choices/accuracy"] == metrics["val/choices/acc_norm"]

    before, after = (json.loads((tmp_path / name / "matrix.json").read_text()) for name in ("plain", "with"))
    assert before["rows"][1]["scores"]["toy"] == after["rows"][1]["scores"]["toy"]
    assert (before["probes"], "losses" in before) == ([], False)
    assert (after["tasks"], after["probes"], after["losses"]) == (["toy"], ["texts", "choices"], ["texts"])
    scores = [row["scores"]["texts"] for row in after["rows"]]
    assert scores[0] == pytest.approx(losses(tiny), rel=1e-5)
    assert after["summary"]["loss_change"] == pytest.approx(scores[1] - scores[0])
    low, high = after["intervals"]["loss_change"]
    assert low < scores[1] - scores[0] < high
    assert "texts" not in after["detectable"]
    changed = after["rows"][1]["scores"]["choices"] - after["rows"][0]["scores"]["choices"]
    assert after["summary"]["ood_change"] == pytest.approx(100 * changed)

    items = [json.loads(line) for line in (tmp_path / "with" / "items.jsonl").read_text().splitlines()]
    own = next(line["scores"] for line in items if line["stage"] == 1 and line["task"] == "texts")
    assert list(own) == ["texts/1", "texts/2", "texts/3"]
    assert sum(own.values()) / 3 == pytest.approx(scores[1])
    assert "texts (loss)" in (tmp_path / "with" / "matrix.md").read_text()


@pytest.mark.parametrize("command", ["validate", "test"])
def test_validate_and_test_score_them_alone(tmp_path, tiny, asked, command):
    """Without anything that is generated for."""
    data = toy_data(likelihood=asked, evaluate_trained=False)
    made = trainer(tmp_path, data, rollout_callback(), LikelihoodEvaluation(), limit_val_batches=1.0)
    getattr(made, command)(method("grpo", tiny), data, verbose=False)
    prefix = {"validate": "val", "test": "test"}[command]
    assert float(made.callback_metrics[f"{prefix}/texts/loss"]) == pytest.approx(losses(tiny), rel=1e-5)


def test_a_row_that_does_not_fit_is_told_before_the_first_step(tmp_path, tiny, asked):
    texts = TextLikelihood("texts", asked[0].sources["validation"][0].path, window=10**6)
    with pytest.raises(UserError, match="window 1000000: the model reads"):
        run(tmp_path, tiny, [texts], LikelihoodEvaluation())
    assert not (tmp_path / "matrix.json").exists()


def test_nothing_is_left_unscored(tmp_path, tiny, asked):
    with pytest.raises(UserError, match="nothing scores the tasks of likelihood"):
        run(tmp_path, tiny, asked)


def test_names_are_one_of_a_kind(asked):
    with pytest.raises(UserError, match="share a name"):
        toy_data(likelihood=[asked[0], asked[0]])
    with pytest.raises(UserError, match=r"\['texts'\] are both trained and probes"):
        toy_data(["texts"], likelihood=asked)


def test_what_a_model_reads_at_once(tiny):
    policy, tokenizer = load_policy(tiny), load_tokenizer(tiny)
    assert readable(policy, tokenizer) == policy.config.max_position_embeddings
    tokenizer.model_max_length = 100
    assert readable(None, tokenizer) == 100
    tokenizer.model_max_length = int(1e30)
    assert readable(None, tokenizer) == 2048
    assert math.isfinite(losses(tiny))
