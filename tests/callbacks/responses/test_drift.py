from __future__ import annotations

import csv
import json
import math

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from lit_sdpo.callbacks import ResponseDrift, response_scoring
from lit_sdpo.callbacks.responses.prompts import Prompts
from lit_sdpo.callbacks.responses.scoring import Weights, compare, prompt_features, respond
from lit_sdpo.callbacks.weights.base import BaseWeights
from lit_sdpo.errors import UserError
from lit_sdpo.policies.load import Lora, load_policy, load_tokenizer
from lit_sdpo.report.responses import (
    Estimate,
    ResponseRow,
    responses_csv,
    responses_scalars,
    responses_table,
    similarities_csv,
)
from tests.training import Toy, assert_equal, fit, lively, method, rollout_callback, toy_data, weights

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

KEY = ("step", "stage", "task", "role")
PROMPTS = Prompts("toy", ["a", "b"], [[5, 6, 7], [8, 9]], ["", ""])


def drift(**options):
    return ResponseDrift(**({"num_prompts": 3, "num_generations": 2, "max_new_tokens": 5} | options))


@pytest.fixture
def pair(tiny):
    """The small model, and itself with other weights in the head and the last layer."""
    base, policy = load_policy(tiny).eval(), load_policy(tiny).eval()
    with torch.no_grad():
        for p in [*policy.model.layers[-1].parameters(), policy.lm_head.weight]:
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(p))))
    return policy, base


def test_sums_against_a_plain_forward(tiny, pair, monkeypatch):
    policy, base = pair
    monkeypatch.setattr(response_scoring, "default_chunk_size", lambda vocabulary, device: 3)
    drawn = respond(
        Weights(policy), load_tokenizer(tiny), [PROMPTS], num_generations=3, max_new_tokens=6, seed=1, stream="x"
    )["toy"]
    with torch.no_grad():
        sums, features = compare(Weights(policy), Weights(base), drawn.sequences)
        for n, prompt in enumerate(drawn.sequences.prompt_ids):
            length = int(drawn.lengths[n])
            ids = torch.tensor([[*prompt, *drawn.sequences.completion_ids[n, :length].tolist()]])
            p, q = (m(ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1) for m in pair)
            assert sums[n, 0].item() == pytest.approx((q.exp() * (q - p)).sum().item(), rel=1e-3, abs=1e-5)
            assert sums[n, 1].item() == pytest.approx((p.exp() * (p - q)).sum().item(), rel=1e-3, abs=1e-5)
            assert sums[n, 3].item() == pytest.approx(-(p.exp() * p).sum().item(), rel=1e-3)
            hidden = base.model(ids).last_hidden_state[0, len(prompt) - 1 : -1]
            torch.testing.assert_close(features[n], hidden.mean(0), rtol=1e-3, atol=1e-4)
        together = prompt_features(Weights(base), PROMPTS.ids)
        for prompt, feature in zip(PROMPTS.ids, together, strict=True):
            hidden = base.model(torch.tensor([prompt])).last_hidden_state[0]
            torch.testing.assert_close(feature, hidden.mean(0), rtol=1e-3, atol=1e-4)


def test_responses_do_not_depend_on_who_is_asked_at_once(tiny, pair):
    more = Prompts("more", ["a"], [[10, 11]], [""])
    options = {"num_generations": 3, "max_new_tokens": 6, "seed": 1, "stream": "x"}
    ask = [Weights(pair[0]), load_tokenizer(tiny)]
    together, one = respond(*ask, [PROMPTS, more], **options), respond(*ask, [more], batch_size=1, **options)
    assert together["more"].texts == one["more"].texts
    assert together["toy"].lengths.tolist() != one["more"].lengths.tolist()
    assert len(together["toy"].texts) == 6


def test_batches_do_not_matter(tiny, pair, monkeypatch):
    policy, base = pair
    drawn = respond(
        Weights(base), load_tokenizer(tiny), [PROMPTS], num_generations=3, max_new_tokens=6, seed=1, stream="x"
    )["toy"]
    with torch.no_grad():
        whole = compare(Weights(policy), Weights(base), drawn.sequences)
        parts = list(response_scoring.batches(drawn.sequences, 12))
        assert len(parts) > 1
        assert sum(map(len, parts)) == 6
        cut = [compare(Weights(policy), Weights(base), part) for part in parts]
    torch.testing.assert_close(torch.cat([sums for sums, _ in cut]), whole[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.cat([f for _, f in cut]), whole[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
@pytest.mark.parametrize("kind", ["grpo", "sdpo"])
def test_weights_are_the_same_with_and_without(tiny, tmp_path, kind, lora):
    runs = []
    for number, extra in enumerate([[], [drift()]]):
        torch.manual_seed(0)
        module = method(kind, tiny, lora=lora)
        rollout = rollout_callback(rewards=lively())
        fit(
            tmp_path / str(number),
            module,
            toy_data(("a", "b"), steps=2),
            *extra,
            rollout=rollout,
            limit_val_batches=1.0,
        )
        runs.append(module)
    assert_equal(*map(weights, runs))
    trained = [{n for n, p in module.policy.named_parameters() if p.requires_grad} for module in runs]
    assert trained[0] == trained[1]
    assert extra[0].rows[-1].numbers["forward_kl"].value > 0


def test_an_adapter_needs_no_file(tiny, tmp_path):
    callback = drift()
    fit(tmp_path, method("sft", tiny, lora=Lora(rank=2)), toy_data(steps=2), callback, limit_val_batches=1.0)
    assert callback.rows[0].numbers["forward_kl"].value == 0
    assert callback.rows[-1].numbers["forward_kl"].value > 1e-5
    assert not (tmp_path / ResponseDrift.file).exists()


def test_tasks_roles_and_excess(tiny, tmp_path):
    never, always = Toy("never", score=lambda text: 0.0), Toy("always", score=lambda text: 1.0)
    callback = drift()
    fit(tmp_path, method("sft", tiny), toy_data((never, always), steps=2), callback, limit_val_batches=1.0)
    assert [(r.stage, r.task, r.role) for r in callback.rows] == [
        (0, "never", "other"),
        (0, "always", "other"),
        (1, "never", "current"),
        (1, "always", "other"),
        (1, "current", "current"),
        (2, "never", "earlier"),
        (2, "always", "current"),
        (2, "current", "current"),
        (2, "earlier", "earlier"),
    ]
    for row in callback.rows:
        assert 0 <= row.numbers["excess_kl"].value <= row.numbers["excess_kl_at_most"].value
    last = callback.rows[-1].numbers
    assert last["excess_kl_at_most"].value > 0
    assert math.isnan(callback.rows[0].numbers["reverse_kl"].low)  # the policy is the base: no prompt differs
    assert last["reverse_kl"].low < last["reverse_kl"].value < last["reverse_kl"].high
    with (tmp_path / "response_drift.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {line["number"] for line in table} >= {"forward_kl", "reverse_kl", "js", "similarity_floor", "truncated"}
    measured = {tuple(x[k] for k in KEY): float(x["value"]) for x in table if x["number"] == "similarity"}
    by_prompt = {}
    with (tmp_path / "response_similarity.csv").open() as file:
        for line in csv.DictReader(file):
            by_prompt.setdefault(tuple(line[k] for k in KEY), {})[line["prompt"]] = float(line["similarity"])
    assert by_prompt.keys() == {key for key in measured if key[2] not in ("current", "earlier")}
    for key, prompts in by_prompt.items():
        assert list(prompts) == ["0", "1", "2"]
        assert len(set(prompts.values())) > 1
        assert sum(prompts.values()) / 3 == pytest.approx(measured[key], rel=1e-12)
    names, matrix = callback.distances
    assert names == ["never", "always"]
    assert matrix.diagonal().tolist() == [0, 0]


def test_a_success_rate_that_changes_explains_some(tiny, tmp_path):
    """Base: none right, policy: all right. How much of the KL success needs cannot be told."""
    seen = []

    def first_never_then_always(text):
        seen.append(text)
        return 0.0

    task = Toy("toy", score=first_never_then_always)

    class Switch(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            task.score = lambda text: 1.0

    callback = drift()
    fit(tmp_path, method("sft", tiny), toy_data((task,), steps=1), callback, Switch(), limit_val_batches=1.0)
    last = callback.rows[-1].numbers
    assert 0 < last["excess_kl"].value < last["excess_kl_at_most"].value


def test_the_evaluations_length_is_taken(tiny, tmp_path):
    callback = drift(max_new_tokens=None, num_generations=16)
    fit(tmp_path, method("sft", tiny), toy_data(), callback, rollout=rollout_callback(), limit_val_batches=1.0)
    assert max(int(r.lengths.max()) for r in callback._base_responses.values()) == 6


def test_from_yaml_beside_the_callbacks_of_every_run(tmp_path, tiny):
    from lit_sdpo.cli import run

    options = {"num_prompts": 2, "num_generations": 1, "max_new_tokens": 4, "distance_prompts": 0}
    config = {
        "model": {"class_path": "GRPO", "init_args": {"model_name": tiny}},
        "data": {
            "class_path": "ContinualDataModule",
            "init_args": {
                "stages": [{"task": {"class_path": "MicroTask", "init_args": {"domain": "math"}}, "steps": 1}],
                "eval_prompts": 2,
                "eval_generations": 1,
            },
        },
        "rollout": {"num_generations": 2, "sampling": {"max_new_tokens": 4}},
        "trainer": {
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "default_root_dir": str(tmp_path),
            "logger": {"class_path": "tests.loggers.InFolder", "init_args": {"folder": str(tmp_path)}},
            "callbacks": [{"class_path": "lit_sdpo.callbacks.ResponseDrift", "init_args": options}],
        },
    }
    config["data"]["init_args"]["stages"][0]["prompts_per_step"] = 2
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    done = run(["fit", "--config", str(path)])
    kinds = {type(callback).__name__ for callback in done.trainer.callbacks}
    assert kinds >= {"ResponseDrift", "InitialEvaluation", "TensorBoardLayout", "ForgettingMatrix"}
    assert (tmp_path / "response_drift.csv").read_text().count("forward_kl,") == 3


@pytest.mark.parametrize(
    "options", [{"num_prompts": 1}, {"num_generations": 0}, {"max_new_tokens": 0}, {"distance_prompts": 1}]
)
def test_bad_numbers_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        ResponseDrift(**options)


def test_what_is_missing_is_named(tiny, tmp_path):
    with pytest.raises(UserError, match="no prompts"):
        fit(tmp_path, method("sft", tiny), toy_data(), drift(tasks=["law"]))
    with pytest.raises(UserError, match="empty"):
        fit(tmp_path, method("sft", tiny), toy_data(), drift(prompts={"law": []}))


def test_the_file_of_the_base_is_found_beside_a_moved_checkpoint(tmp_path):
    kept = BaseWeights("base.pt", "Test")
    kept.keep({"w": torch.arange(3.0)}, tmp_path / "old")
    moved = BaseWeights("base.pt", "Test")
    moved.load_state_dict(kept.state_dict())
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(UserError, match=r"base\.pt of the first run"):
        moved.open([], {"w": torch.zeros(3)})
    moved.open([tmp_path / "new"], {"w": torch.zeros(3)})
    assert moved.weights["w"].tolist() == [0, 1, 2]
    other = BaseWeights("base.pt", "Test")
    other.load_state_dict({"path": None, "token": "another run"})
    with pytest.raises(UserError, match="are not in"):
        other.open([tmp_path / "new"], {"w": torch.zeros(3)})


def test_tables():
    numbers = {"js": Estimate(0.25, 0.125, 0.5), "x": Estimate(*[math.nan] * 3)}
    rows = [ResponseRow(3, 1, "a", "current", numbers, [0.5, math.nan]), ResponseRow(3, 1, "current", "current", {})]
    assert responses_csv(rows).splitlines() == [
        "step,stage,task,role,number,value,low,high",
        "3,1,a,current,js,0.25,0.125,0.5",
        "3,1,a,current,x,,,",
    ]
    assert similarities_csv(rows).splitlines() == [
        "step,stage,task,role,prompt,similarity",
        "3,1,a,current,0,0.5",
        "3,1,a,current,1,",
    ]
    assert responses_scalars(rows) == {"drift/responses/a/js": 0.25}
    assert responses_table(rows).markdown().splitlines()[2] == "| a | current | 0.25 [0.125, 0.5] | - |"


def test_a_row_comes_back_from_plain_values():
    row = ResponseRow(3, 1, "a", "current", {"js": Estimate(0.25, 0.125, 0.5)}, [0.5, 0.75])
    assert json.loads(json.dumps(row.plain())) == row.plain()
    assert ResponseRow.from_plain(*row.plain()) == row
    assert ResponseRow.from_plain(*row.plain()[:5]).similarities == ()  # as older checkpoints have it


def test_an_encoder_that_cannot_encode_is_refused():
    with pytest.raises(ValueError, match=r"encode\(texts\), which Identity lacks"):
        ResponseDrift(encoder=torch.nn.Identity())
