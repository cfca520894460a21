from __future__ import annotations

import gc
import logging
import weakref
from dataclasses import fields

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from lit_sdpo.policies.attention import say_once
from lit_sdpo.rollouts.cache import SharedPromptCache
from lit_sdpo.rollouts.engines.native import NativeEngine
from lit_sdpo.rollouts.sampling import sample_seeds
from lit_sdpo.rollouts.types import Completions, RolloutEngine, Sampling
from tests.policies.conftest import COMMON, SHAPE

VOCABULARY = SHAPE["vocab_size"]
PROMPTS = [[5, 9, 11, 2, 30], [7], list(range(20, 43)), [50, 51, 52, 53, 54, 55, 56, 57, 58]]
GENERATIONS = 3
END_IDS = [3, 4, 17, 22, 40]
PAD = 60
MODELS = {
    "qwen3": ("Qwen3", SHAPE),
    "qwen3-tied": ("Qwen3", SHAPE | {"tie_word_embeddings": True}),
    "qwen3-eager": ("Qwen3", SHAPE | {"attn_implementation": "eager"}),
    "llama": ("Llama", SHAPE),
    "mistral": ("Mistral", SHAPE | {"sliding_window": None}),
    "mistral-wide": ("Mistral", SHAPE | {"sliding_window": 4096}),
    "mistral-sliding": ("Mistral", SHAPE | {"sliding_window": 6}),
    "gemma2": ("Gemma2", SHAPE | {"sliding_window": 6, "query_pre_attn_scalar": 8}),
    "gemma2-wide": ("Gemma2", SHAPE | {"sliding_window": 4096, "query_pre_attn_scalar": 8}),
    "gemma3-wide": ("Gemma3", SHAPE | {"sliding_window": 4096, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3", SHAPE | {"sliding_window": 6, "query_pre_attn_scalar": 8}),
    "olmo2": ("Olmo2", SHAPE),
    "granite": ("Granite", SHAPE | {"logits_scaling": 0.5, "attention_multiplier": 0.2}),
    "gpt2": ("GPT2", COMMON | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "bloom": ("Bloom", COMMON | {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
}
HEAD = {"GPT2": "LMHeadModel"}
REPEATED = {"mistral-sliding", "gemma2", "gemma2-wide", "gemma3", "bloom"}


def build(name: str) -> transformers.PreTrainedModel:
    family, options = MODELS[name]
    torch.manual_seed(3)
    text = "Text" if family == "Gemma3" else ""
    config = getattr(transformers, f"{family}{text}Config")(**options)
    model = getattr(transformers, f"{family}{HEAD.get(family, 'ForCausalLM')}")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Random norms and biases, so that a forgotten one shows.
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return build(request.param)


@pytest.fixture(scope="module")
def qwen():
    return build("qwen3")


def generate(model, prompts=PROMPTS, engine=None, seeds=None, end_ids=END_IDS, generations=GENERATIONS, **options):
    options = {"max_new_tokens": 14} | options
    if seeds is None:
        seeds = sample_seeds(0, item_ids=[str(prompt) for prompt in prompts], num_generations=generations)
    return (engine or NativeEngine()).generate(
        model,
        prompts,
        num_generations=generations,
        sampling=Sampling(**options),
        seeds=seeds,
        end_ids=end_ids,
        pad_id=PAD,
    )


def assert_same(a: Completions, b: Completions, atol: float = 1e-5) -> None:
    for field in fields(Completions):
        mine, other = getattr(a, field.name), getattr(b, field.name)
        if field.name in ("logprobs", "log_kept_mass"):
            torch.testing.assert_close(mine, other, rtol=0, atol=atol)
        else:
            assert torch.equal(mine, other), field.name


def teacher_forced(model, prompts, drawn: Completions, temperature: float = 1.0, generations=GENERATIONS):
    """Log-probabilities by one unpadded forward per row, without any cache."""
    expected = torch.zeros_like(drawn.logprobs)
    for row, length in enumerate(drawn.lengths.tolist()):
        prompt, ids = prompts[row // generations], drawn.ids[row, :length]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids.tolist()]), use_cache=False).logits[0]
        logprobs = (logits[len(prompt) - 1 : -1].float() / temperature).log_softmax(-1)
        expected[row, :length] = logprobs.gather(-1, ids[:, None]).squeeze(-1)
    return expected


def test_engine_satisfies_the_protocol():
    assert isinstance(NativeEngine(), RolloutEngine)


@pytest.mark.parametrize("share", [True, False])
def test_g07_logprobs_match_a_teacher_forced_forward(model, share):
    drawn = generate(model, engine=NativeEngine(share_prompts=share), temperature=1.3)
    assert len(drawn.lengths.unique()) > 3
    expected = teacher_forced(model, PROMPTS, drawn, 1.3)
    torch.testing.assert_close(drawn.logprobs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "engine",
    [
        NativeEngine(share_prompts=False),
        NativeEngine(compact_below=0),
        NativeEngine(compact_below=1),
        NativeEngine(compact_below=1, share_prompts=False),
        NativeEngine(prefill_tokens=1),
        NativeEngine(max_rows=7),
    ],
    ids=lambda engine: str({k: v for k, v in vars(engine).items() if not k.startswith("_")}),
)
def test_layout_does_not_change_the_tokens(model, engine):
    assert_same(generate(model), generate(model, engine=engine))


@pytest.mark.parametrize("share", [True, False])
def test_a_row_alone_draws_the_same_tokens(model, share):
    engine = NativeEngine(share_prompts=share)
    together = generate(model, engine=engine)
    seeds = sample_seeds(0, item_ids=[str(prompt) for prompt in PROMPTS], num_generations=GENERATIONS)
    for row in (0, 5, 10):
        prompt = PROMPTS[row // GENERATIONS]
        alone = generate(model, [prompt], engine, seeds[row : row + 1], generations=1)
        length = int(together.lengths[row])
        assert alone.ids[0].tolist() == together.ids[row, :length].tolist()
        torch.testing.assert_close(alone.logprobs[0], together.logprobs[row, :length], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_models_are_decoded_with_shared_prompts_where_possible_and_the_log_says_otherwise(name, caplog):
    say_once.cache_clear()
    engine, policy = NativeEngine(), build(name)
    with caplog.at_level(logging.WARNING, "lit_sdpo"):
        generate(policy, engine=engine)
        generate(policy, engine=engine)
    messages = [record.getMessage() for record in caplog.records if "without shared prompts" in record.getMessage()]
    assert len(messages) == (name in REPEATED), messages


def test_the_first_end_token_of_any_kind_ends_a_row(qwen):
    drawn = generate(qwen, max_new_tokens=40)
    assert drawn.finished.any()
    seen = set()
    for row, length in enumerate(drawn.lengths.tolist()):
        ids = drawn.ids[row].tolist()
        assert bool(drawn.finished[row]) == (ids[length - 1] in END_IDS)
        assert not set(ids[: length - 1]) & set(END_IDS)
        assert set(ids[length:]) <= {PAD}
        assert (drawn.logprobs[row, length:] == 0).all()
        seen.add(ids[length - 1])
    assert len(seen & set(END_IDS)) > 1
    assert drawn.ids.shape[1] == drawn.lengths.max()


@pytest.mark.parametrize("share", [True, False])
def test_g02_without_end_tokens_every_row_has_full_length(qwen, share):
    drawn = generate(qwen, engine=NativeEngine(share_prompts=share), end_ids=[], max_new_tokens=70)
    assert drawn.lengths.tolist() == [70] * 12
    assert not drawn.finished.any()
    torch.testing.assert_close(drawn.logprobs, teacher_forced(qwen, PROMPTS, drawn), rtol=0, atol=1e-5)


@pytest.mark.parametrize("share", [True, False])
def test_one_new_token(qwen, share):
    drawn = generate(qwen, engine=NativeEngine(share_prompts=share), max_new_tokens=1)
    assert drawn.ids.shape == (12, 1)
    assert torch.equal(drawn.ids, generate(qwen).ids[:, :1])
    torch.testing.assert_close(drawn.logprobs, teacher_forced(qwen, PROMPTS, drawn), rtol=0, atol=1e-5)


@pytest.mark.parametrize("share", [True, False])
def test_g01_every_row_may_end_at_its_first_token(qwen, share):
    drawn = generate(qwen, engine=NativeEngine(share_prompts=share), end_ids=list(range(VOCABULARY)))
    assert drawn.lengths.tolist() == [1] * 12
    assert drawn.finished.all()
    assert drawn.ids.shape == (12, 1)


def test_g05_an_end_token_may_equal_the_padding(qwen):
    drawn = generate(qwen, end_ids=[PAD], max_new_tokens=60)
    other = NativeEngine().generate(
        qwen,
        PROMPTS,
        num_generations=GENERATIONS,
        sampling=Sampling(max_new_tokens=60),
        seeds=sample_seeds(0, item_ids=[str(prompt) for prompt in PROMPTS], num_generations=GENERATIONS),
        end_ids=[PAD],
        pad_id=0,
    )
    assert torch.equal(drawn.lengths, other.lengths)
    assert drawn.finished.any()


def test_lengths_of_prompts_may_differ_widely(qwen):
    prompts = [[8], [1 + i % 50 for i in range(300)], [2, 9]]
    drawn = generate(qwen, prompts)
    torch.testing.assert_close(drawn.logprobs, teacher_forced(qwen, prompts, drawn), rtol=0, atol=1e-5)


def test_greedy_equals_transformers_generate(qwen):
    drawn = generate(qwen, temperature=0, end_ids=[], generations=1)
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        expected = qwen.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=14)
        assert drawn.ids[row].tolist() == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_attention_setting_is_put_back(implementation):
    policy = build("qwen3")
    policy.set_attn_implementation(implementation)
    generate(policy)
    assert policy.config._attn_implementation == implementation
    assert policy.model.config._attn_implementation == implementation
    with torch.no_grad():
        policy.lm_head.weight[7] = torch.nan
    with pytest.raises(FloatingPointError, match="diverged"):
        generate(policy)
    assert policy.config._attn_implementation == implementation


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("name", ["qwen3-tied", "gemma2"])
def test_lora_adapters_take_part(name):
    base = build(name)
    before = generate(base)
    policy = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)).eval()
    drawn = generate(policy)
    assert not torch.equal(drawn.ids, before.ids)
    torch.testing.assert_close(drawn.logprobs, teacher_forced(policy, PROMPTS, drawn), rtol=0, atol=1e-5)
    with policy.disable_adapter():
        assert_same(generate(policy), before)


@pytest.mark.parametrize("share", [True, False])
def test_autocast_is_followed(qwen, share):
    with torch.autocast("cpu", torch.bfloat16):
        drawn = generate(qwen, engine=NativeEngine(share_prompts=share))
        expected = teacher_forced(qwen, PROMPTS, drawn)
    assert drawn.logprobs.dtype == torch.float32
    difference = (drawn.logprobs - expected).abs()
    assert difference.max() > 1e-5  # it did run in bfloat16
    assert difference.mean() < 0.05


def test_half_precision_weights():
    policy = build("llama").to(torch.bfloat16)
    drawn = generate(policy)
    assert (drawn.logprobs - teacher_forced(policy, PROMPTS, drawn)).abs().mean() < 0.05


@pytest.mark.parametrize("share", [True, False])
def test_gradient_checkpointing_does_not_matter_in_eval_mode(share):
    policy = build("qwen3")
    before = generate(policy)
    # Renamed in the course of Transformers 5.
    getattr(policy, "activation_checkpointing_enable", policy.gradient_checkpointing_enable)()
    assert_same(generate(policy.train().eval(), engine=NativeEngine(share_prompts=share)), before)


def test_results_can_be_used_in_training(qwen):
    drawn = generate(qwen)
    assert not any(getattr(drawn, field.name).is_inference() for field in fields(Completions))
    logits = qwen(torch.tensor([PROMPTS[0]])).logits
    (logits.sum() * drawn.logprobs.sum()).backward()
    qwen.zero_grad()


def test_the_global_random_state_is_left_alone(qwen):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    generate(qwen)
    assert torch.equal(torch.rand(3), expected)


def test_keys_and_values_are_freed(qwen):
    seen = []
    hook = qwen.register_forward_pre_hook(lambda _, args, given: seen.append(given), with_kwargs=True)
    generate(qwen)
    hook.remove()
    caches = [weakref.ref(value) for value in seen[0].values() if isinstance(value, SharedPromptCache)]
    assert len(caches) == 1
    seen.clear()
    gc.collect()
    assert caches[0]() is None


def test_no_prompts_give_no_rows(qwen):
    drawn = generate(qwen, [], seeds=torch.zeros(0, dtype=torch.int64))
    assert drawn.ids.shape == drawn.logprobs.shape == (0, 0)
    assert drawn.lengths.shape == drawn.finished.shape == (0,)


def test_mistakes_are_refused(qwen):
    with pytest.raises(ValueError, match=r"seeds must have shape \(12,\)"):
        generate(qwen, seeds=torch.arange(4))
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        generate(qwen, [[1], []])
    policy = build("qwen3").train()
    with pytest.raises(ValueError, match="training mode"):
        generate(policy)
    with pytest.raises(ValueError, match="compact_below"):
        NativeEngine(compact_below=2)
    with pytest.raises(ValueError, match="max_rows"):
        NativeEngine(max_rows=0)


def count_forwards(model, run):
    """Rows and tokens of every forward during ``run``."""
    seen = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    try:
        run()
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(
    ("max_rows", "generations", "rows"),
    [
        (1, 2, [1] * 8),
        (3, 4, [2, 2] * 4),  # part of a group
        (9, 3, [6, 6]),  # whole groups, two and two rather than three and one
        (50, 3, [12]),
    ],
)
def test_no_more_rows_are_decoded_at_once_than_asked_for(qwen, share, max_rows, generations, rows):
    engine = NativeEngine(compact_below=0, share_prompts=share, max_rows=max_rows)
    drawn = []
    options = {"generations": generations, "end_ids": [], "max_new_tokens": 3}
    seen = count_forwards(qwen, lambda: drawn.append(generate(qwen, engine=engine, **options)))
    assert [batch for batch, tokens in seen[1::3] if tokens == 1] == rows
    assert_same(drawn[0], generate(qwen, **options))


@pytest.mark.parametrize("share", [True, False])
def test_work_is_saved(qwen, share):
    engine = NativeEngine(share_prompts=share)
    seen = count_forwards(qwen, lambda: generate(qwen, engine=engine, max_new_tokens=30))
    assert seen[0] == ((1, 38) if share else (4, 23))  # each prompt once, without padding where they are shared
    assert all(tokens == 1 for _, tokens in seen[1:])
    rows = [rows for rows, _ in seen[1:]]
    assert rows == sorted(rows, reverse=True)  # finished rows leave
    assert rows[-1] < rows[0] == 12
    assert len(seen) == generate(qwen, engine=engine, max_new_tokens=30).ids.shape[1]  # the last token is not fed
