"""The base class of engines: its defaults, what is refused, and an engine that was written from its docstring."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import lit_sdpo
from lit_sdpo.cli import run
from lit_sdpo.errors import UserError
from lit_sdpo.rollouts.engines import base as engines
from lit_sdpo.rollouts.engines.base import Completions, RolloutEngine, Sampling, checked
from lit_sdpo.rollouts.engines.native import NativeEngine
from lit_sdpo.rollouts.engines.vllm import VLLMEngine
from lit_sdpo.rollouts.sampling import sample_seeds
from tests.training import Watch, fit, lively, method, rollout_callback, step_gradient, toy_data

EXAMPLE = Path(lit_sdpo.__file__).parents[1] / "docs" / "examples" / "transformers_engine.py"
PROMPTS = [[5, 9, 11, 2, 30], [7]]


def example():
    spec = importlib.util.spec_from_file_location("transformers_engine", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TransformersEngine


class Least(RolloutEngine):
    """Nothing but what has to be there."""

    def generate(self, policy, prompts, **call):
        return NativeEngine().generate(policy, prompts, **call)


def test_an_engine_that_says_nothing_is_on_the_safe_side():
    least = Least()
    assert least.mismatched
    assert not least.can_ask_ahead
    assert (least.max_rows, least.sleep_level) == (None, None)
    with least.holding(None):
        pass
    least.leave()
    with pytest.raises(NotImplementedError, match="Least"):
        least.ahead(None, [])
    with pytest.raises(TypeError, match="generate"):
        RolloutEngine()


def test_what_the_engines_of_the_package_say():
    assert (NativeEngine.mismatched, NativeEngine.can_ask_ahead) == (False, False)
    assert (VLLMEngine.mismatched, VLLMEngine.can_ask_ahead) == (True, True)
    assert VLLMEngine.filter_order == ("min_p", "top_k", "top_p")


def test_names_from_before_the_base_class_lead_to_the_same_objects():
    from lit_sdpo.rollouts import types

    assert engines.NativeEngine is lit_sdpo.NativeEngine is NativeEngine
    assert types.RolloutEngine is lit_sdpo.RolloutEngine
    assert (types.Sampling, types.Completions) == (lit_sdpo.Sampling, lit_sdpo.Completions)
    with pytest.raises(AttributeError, match="OtherEngine"):
        engines.OtherEngine  # noqa: B018


class OnlyTheMethod:
    generate = Least.generate


def test_a_class_with_the_method_alone_is_refused():
    with pytest.raises(UserError, match=r"rollout\.engine: OnlyTheMethod is no rollout engine\. Derive it"):
        rollout_callback(engine=OnlyTheMethod())


def test_orders_and_corrections_that_there_are_not():
    engine = Least()
    engine.filter_order = ("top_p",)
    with pytest.raises(UserError, match=r"filter_order of Least is \['top_p'\]\. Name each of top_k, top_p"):
        rollout_callback(engine=engine)
    with pytest.raises(ValueError, match="weight, ratio"):
        rollout_callback(correction="both")


FIT = ["fit", "--config", "configs/micro/sdpo.yaml"]


def test_a_configuration_with_such_a_class_is_refused():
    with pytest.raises(UserError, match=r"rollout\.engine: .* RolloutEngine"):
        run([*FIT, "--rollout.engine=tests.rollouts.engines.test_base.OnlyTheMethod"])


def test_a_configuration_may_name_the_native_engine_as_before(capsys):
    with pytest.raises(SystemExit):
        run(
            [
                *FIT,
                "--rollout.engine=lit_sdpo.rollouts.engines.base.NativeEngine",
                "--rollout.engine.max_rows=8",
                "--print_config",
            ]
        )
    assert "max_rows: 8" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["grpo", "sdpo"])
def test_an_engine_with_one_method_trains_as_the_native_one_does(tiny, tmp_path, kind):
    wanted, _ = step_gradient(tmp_path, kind, tiny, rollout=rollout_callback(rewards=lively()))
    found, _ = step_gradient(tmp_path, kind, tiny, rollout=rollout_callback(rewards=lively(), engine=Least()))
    scale = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-4 * scale)


def call(**options):
    seeds = sample_seeds(0, item_ids=["a", "b"], num_generations=3)
    return {
        "prompts": PROMPTS,
        "num_generations": 3,
        "sampling": Sampling(max_new_tokens=5),
        "seeds": seeds,
        "end_ids": [3, 4, 17],
        "pad_id": 2,
    } | options


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=5),
        Sampling(max_new_tokens=5, temperature=0),
        Sampling(max_new_tokens=5, temperature=1.3, top_k=9, top_p=0.8, min_p=0.02),
    ],
    ids=["plain", "greedy", "filtered"],
)
def test_the_example_draws_from_the_distribution_that_it_claims(tiny, sampling):
    policy = AutoModelForCausalLM.from_pretrained(tiny).eval()
    asked, state = call(sampling=sampling), torch.get_rng_state()
    engine = example()()
    drawn = checked(engine, engine.generate(policy, **asked), asked)
    assert torch.equal(torch.get_rng_state(), state)
    for row, length in enumerate(drawn.lengths.tolist()):
        prompt, ids = PROMPTS[row // 3], drawn.ids[row, :length]
        with torch.no_grad():
            logits = policy(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        probabilities = (logits / (sampling.temperature or 1)).softmax(-1)
        if sampling.top_k:
            probabilities[probabilities < probabilities.topk(9).values[:, -1:]] = 0
            probabilities /= probabilities.sum(-1, keepdim=True)
            order = probabilities.argsort(-1, descending=True)
            ranked = probabilities.gather(-1, order)
            before = ranked.cumsum(-1) - ranked
            probabilities.scatter_(-1, order, torch.where(before < 0.8, ranked, 0))
            probabilities[probabilities < 0.02 * probabilities.amax(-1, keepdim=True)] = 0
            probabilities /= probabilities.sum(-1, keepdim=True)
        wanted = probabilities.gather(-1, ids[:, None])[:, 0].log()
        torch.testing.assert_close(drawn.logprobs[row, :length], wanted, atol=1e-4, rtol=0)
        assert drawn.finished[row] == (int(ids[-1]) in (3, 4, 17))
        assert (drawn.ids[row, length:] == 2).all()


def test_the_example_trains(tiny, tmp_path):
    watch = Watch()
    data = toy_data(tasks=("a", "b"))
    made = fit(
        tmp_path,
        method("sdpo", tiny),
        data,
        watch,
        rollout=rollout_callback(engine=example()(), rewards=lively()),
        limit_val_batches=1.0,
    )
    assert len(watch.of("train")) == 2
    assert len(watch.of("validation")) > 0
    assert made.callback_metrics["train/loss"] > 0


def answer(**columns):
    rows = {"ids": torch.zeros(6, 2, dtype=torch.long), "lengths": torch.full((6,), 2)}
    rows |= {"logprobs": torch.full((6, 2), -1.0), "finished": torch.ones(6, dtype=torch.bool)}
    return Completions(**(rows | columns))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"ids": torch.zeros(2, 3, dtype=torch.long)}, "for 6 rows"),
        ({"logprobs": torch.zeros(6, 3)}, r"log-probabilities of shape \(6, 3\)"),
        ({"lengths": torch.full((6,), 3)}, "lengths from 3 to 3"),
        ({"lengths": torch.zeros(6, dtype=torch.long)}, "lengths from 0 to 0"),
        ({"logprobs": torch.full((6, 2), 0.5)}, "above 0"),
        ({"logprobs": torch.full((6, 2), torch.nan)}, "nan"),
        ({"logprobs": torch.full((6, 2), -torch.inf)}, "infinite"),
        ({"log_kept_mass": torch.full((6, 2), torch.nan)}, "nan"),
        ({"log_kept_mass": torch.zeros(6, 1)}, r"log-probabilities of shape \(6, 1\)"),
    ],
)
def test_what_is_no_answer_is_named(columns, said):
    with pytest.raises(UserError, match=said):
        checked(Least(), answer(**columns), call())
    behind = answer(logprobs=torch.tensor([[-1.0, torch.nan]] * 6), lengths=torch.ones(6, dtype=torch.long))
    assert checked(Least(), behind, call()) is behind


def test_an_engine_that_claims_to_be_the_policy_has_to_tell_what_its_filters_kept():
    asked = call(sampling=Sampling(top_k=3))
    assert checked(Least(), answer(), asked)
    least = Least()
    least.mismatched = False
    with pytest.raises(UserError, match="log_kept_mass"):
        checked(least, answer(), asked)
    assert checked(least, answer(log_kept_mass=torch.zeros(6, 2)), asked)
