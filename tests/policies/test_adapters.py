"""The teacher of a LoRA policy is another adapter: exact copies, bounded averages, nothing of the student disturbed."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import IA3Config, LoraConfig, get_peft_model

from lit_sdpo.errors import UserError
from lit_sdpo.policies.adapters import AdapterCopy, BaseOfAdapter
from lit_sdpo.policies.copies import ModelCopy, base_of, copy_of
from lit_sdpo.policies.load import Lora, load_policy
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import completion_hidden, logits, scorer, weighted_loss
from lit_sdpo.policies.teachers import EMATeacher, FrozenTeacher
from tests.training import adamw, assert_equal, fit, method, toy_data

# PEFT 0.19 reads an alias that Transformers 5 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

RANK = 4
PROMPTS = [[1, 20, 30], [1, 25]]
IDS = torch.tensor([[40, 41, 42], [50, 51, 0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])
ROWS = Sequences(PROMPTS, IDS, MASK)


@pytest.fixture
def policy(tiny):
    made = load_policy(tiny, lora=Lora(rank=RANK, alpha=12))
    train(made, 0)
    return made


@torch.no_grad()
def train(policy, seed, scale=0.1):
    """As if the optimizer had moved the adapter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def layers(policy):
    return [module for module in policy.modules() if hasattr(module, "lora_A")]


@torch.no_grad()
def updates(policy, name="default"):
    """The change of each adapted weight, in float64."""
    return [
        layer.scaling[name] * layer.lora_B[name].weight.double() @ layer.lora_A[name].weight.double()
        for layer in layers(policy)
    ]


def reads(policy, weights=None):
    score = scorer(policy, ROWS) if weights is None else weights.scorer(policy, ROWS)
    return score(slice(0, 5)).clone()


def trained(policy):
    return {name for name, parameter in policy.named_parameters() if parameter.requires_grad}


def test_a_copy_is_an_adapter_and_no_second_model(policy):
    before, names = sum(p.numel() for p in policy.parameters()), trained(policy)
    adapter = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    copy = copy_of(policy, "teacher")
    assert isinstance(copy, AdapterCopy)
    assert sum(p.numel() for p in policy.parameters()) == before + 2 * adapter
    assert not list(copy.parameters())
    assert trained(policy) == names
    assert names
    assert all(".default." in name for name in names)


def test_a_hard_copy_is_exact(policy):
    copy = AdapterCopy(policy, "teacher")
    torch.testing.assert_close(reads(policy, copy), reads(policy), rtol=1e-5, atol=1e-5)
    assert float(copy.distance(policy)) == pytest.approx(0, abs=1e-3)
    then = reads(policy)
    train(policy, 1)
    torch.testing.assert_close(reads(policy, copy), then, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(reads(policy), then, atol=1e-3)
    copy.mix(policy, 0.0)
    torch.testing.assert_close(reads(policy, copy), then, rtol=1e-5, atol=1e-5)
    copy.mix(policy, 1.0)
    for mine, own in zip(updates(policy, "teacher"), updates(policy), strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-6, atol=1e-7)
    assert float(copy.truncation) == 0


def test_one_copy_takes_over_another(policy):
    start = AdapterCopy(policy, "start")
    train(policy, 1)
    copy = AdapterCopy(policy, "teacher")
    copy.take(policy, start)
    for mine, other in zip(updates(policy, "teacher"), updates(policy, "start"), strict=True):
        assert torch.equal(mine, other)


def test_distance_is_that_of_the_merged_updates(policy):
    copy = AdapterCopy(policy, "teacher")
    train(policy, 1)
    pairs = list(zip(updates(policy), updates(policy, "teacher"), strict=True))
    expected = (sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs)).sqrt()
    assert float(copy.distance(policy)) == pytest.approx(float(expected), rel=1e-4)


def norm(matrices):
    return sum(m.square().sum() for m in matrices).sqrt().item()


def average(policy, rate, count):
    """The copy's error after ``count`` updates, the bound on it, and that of averaging the factors apart."""
    copy = AdapterCopy(policy, "teacher")
    exact = updates(policy, "teacher")
    apart = [
        [layer.lora_B["default"].weight.clone(), layer.lora_A["default"].weight.clone()] for layer in layers(policy)
    ]
    largest = max(norm([m]) for m in exact)
    for seed in range(count):
        train(policy, seed, 0.02)
        copy.mix(policy, rate)
        exact = [(1 - rate) * m + rate * own for m, own in zip(exact, updates(policy), strict=True)]
        largest = max(largest, *(norm([m]) for m in [*exact, *updates(policy, "teacher"), *updates(policy)]))
        for pair, layer in zip(apart, layers(policy), strict=True):
            for slow, fast in zip(pair, (layer.lora_B["default"], layer.lora_A["default"]), strict=True):
                slow.lerp_(fast.weight.detach(), rate)
    scale = layers(policy)[0].scaling["default"]
    error = norm([a - b for a, b in zip(updates(policy, "teacher"), exact, strict=True)])
    wrong = norm([scale * b.double() @ a.double() - m for (b, a), m in zip(apart, exact, strict=True)])
    return copy, error, largest, wrong, norm(exact)


def test_one_average_is_exact_and_that_of_the_factors_is_not(policy):
    copy, error, _, wrong, size = average(policy, 0.3, 1)
    assert error < 1e-5 * size
    assert float(copy.truncation) < 1e-4
    assert wrong > 20 * error


def test_many_averages_stay_within_what_was_cut(policy):
    copy, error, largest, _, size = average(policy, 0.1, 20)
    assert 0 < error <= float(copy.truncation) * largest + 1e-5 * size
    assert error < 0.2 * size


def test_the_base_is_the_model_without_the_adapter(tiny, policy):
    base = base_of(policy)
    assert isinstance(base, BaseOfAdapter)
    names = trained(policy)
    torch.testing.assert_close(reads(policy, base), reads(load_policy(tiny)), rtol=1e-5, atol=1e-5)
    assert trained(policy) == names
    assert policy.active_adapter == "default"


def test_a_full_policy_gets_a_second_model(tiny):
    policy = load_policy(tiny)
    assert isinstance(copy_of(policy, "teacher"), ModelCopy)
    assert isinstance(base_of(policy), ModelCopy)


def test_other_adapters_are_refused(tiny):
    config = IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    with pytest.raises(UserError, match="IA3"):
        copy_of(get_peft_model(load_policy(tiny), config), "teacher")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("which", ["none", "copy", "base"])
def test_scoring_in_between_leaves_the_students_gradient_alone(tiny, which, checkpointing):
    policy = load_policy(tiny, lora=Lora(rank=RANK), gradient_checkpointing=checkpointing)
    train(policy, 0)
    copy = AdapterCopy(policy, "teacher")
    train(policy, 1)
    names = trained(policy)
    alone = torch.zeros(())
    for other in (None, {"none": None, "copy": copy, "base": BaseOfAdapter()}[which]):
        policy.zero_grad()
        hidden = completion_hidden(policy, ROWS)

        def losses(x, span, other=other):
            if other is not None:
                other.scorer(policy, ROWS)(span)
            return -x.log_softmax(-1).gather(-1, IDS[MASK][span, None])[:, 0]

        loss = weighted_loss(policy, hidden, losses)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
        assert {name for name, p in policy.named_parameters() if p.grad is not None} == names == trained(policy)
        if other is None:
            alone = gradient
    torch.testing.assert_close(gradient, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits(policy, hidden).detach(), reads(policy), rtol=1e-5, atol=1e-5)


def test_a_copy_speaks_in_eval_mode(tiny):
    policy = load_policy(tiny)
    for module in policy.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    policy = get_peft_model(policy, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    train(policy, 0)
    teacher = AdapterCopy(policy, "teacher")
    modes = [module.training for module in policy.modules()]
    for weights in (teacher, BaseOfAdapter()):
        assert torch.equal(reads(policy, weights), reads(policy, weights))
    assert [module.training for module in policy.modules()] == modes
    alive = completion_hidden(policy, ROWS)
    assert not torch.equal(alive, completion_hidden(policy, ROWS))


def test_an_adapted_head_speaks_with_the_copys_weights(tmp_path, tiny):
    whole = load_policy(tiny)
    whole.config.tie_word_embeddings = False
    whole.lm_head.weight = torch.nn.Parameter(whole.lm_head.weight.detach().clone())
    whole.save_pretrained(tmp_path)
    untied = str(tmp_path)
    policy = load_policy(untied, lora=Lora(rank=RANK, target_modules=["q_proj", "lm_head"]))
    assert len([layer for layer in layers(policy) if layer is policy.get_output_embeddings()]) == 1
    train(policy, 0)
    then, copy = reads(policy), AdapterCopy(policy, "teacher")
    train(policy, 1)
    torch.testing.assert_close(reads(policy, copy), then, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reads(policy, BaseOfAdapter()), reads(load_policy(untied)), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(reads(policy), then, atol=1e-3)


# ------------------------------------------------------------------------------------------------------------ training
def sdpo(tiny, teacher=None, **options):
    return method("sdpo", tiny, optimizer=adamw, lora=Lora(rank=RANK), teacher=teacher or EMATeacher(0.3), **options)


def test_only_the_adapter_is_trained(tmp_path, tiny):
    module = sdpo(tiny)
    module.configure_model()
    before = {name: p.detach().clone() for name, p in module.policy.named_parameters()}
    made = fit(tmp_path, module, toy_data(steps=2), accumulate_grad_batches=2)
    seen = {id(p) for group in made.optimizers[0].param_groups for p in group["params"]}
    named = dict(module.policy.named_parameters())
    assert {name for name, p in named.items() if id(p) in seen} == trained(module.policy)
    moved = {name for name, p in named.items() if not torch.equal(p, before[name])}
    assert {name.split(".")[-2] for name in moved} == {"default", "teacher"}
    assert trained(module.policy) <= moved
    assert int(module.teacher.ticks) == 2


def test_a_frozen_teacher_is_the_base_in_the_first_stage(tmp_path, tiny):
    module = sdpo(tiny, FrozenTeacher())
    fit(tmp_path, module, toy_data(steps=2))
    teacher = reads(module.policy, module.teacher.weights)
    torch.testing.assert_close(teacher, reads(load_policy(tiny)), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(reads(module.policy), teacher, atol=1e-3)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("step", [1, 2])
def test_a_resumed_run_ends_with_the_same_adapters(tmp_path, tiny, step):
    def run(folder, ckpt_path=None):
        module = sdpo(tiny)
        saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
        fit(folder, module, toy_data(steps=3), saving, ckpt_path=ckpt_path, enable_checkpointing=True)
        return {name: value.clone() for name, value in module.state_dict().items()}

    whole = run(tmp_path / "whole")
    assert any(".teacher." in name for name in whole)
    assert "teacher.weights.truncation" in whole
    resumed = run(tmp_path / "resumed", tmp_path / "whole" / f"step={step}.ckpt")
    assert_equal(resumed, whole)


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        (["q_proj", "nope"], "the model has no layer 'nope'"),
        ("nope_.*", "cannot be adapted"),
        (["input_layernorm"], "cannot be adapted"),
        (["q_proj", "lm_head"], "'lm_head' shares its weights"),
        (["embed_tokens"], "'embed_tokens' shares its weights"),
    ],
)
def test_layers_that_cannot_be_adapted_are_refused(targets, text):
    with pytest.raises(UserError) as caught:
        load_policy("micro", lora=Lora(rank=2, target_modules=targets))
    assert caught.value.where == "model.lora.target_modules"
    assert text in caught.value.what
    assert "q_proj" in caught.value.fix
