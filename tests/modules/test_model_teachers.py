"""Other models as teachers, one for each task, and what they teach."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from lit_sdpo.callbacks import StageCheckpoint
from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.data.mixture import Mixture, Share
from lit_sdpo.data.task import Stage
from lit_sdpo.errors import UserError
from lit_sdpo.modules import OnPolicyDistillation
from lit_sdpo.policies.copies import SecondModel
from lit_sdpo.policies.load import Lora, load_policy, load_tokenizer
from lit_sdpo.policies.memory import StepCount, Window
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import scorer
from lit_sdpo.policies.teachers import EMATeacher, FrozenTeacher, ModelTeacher, RoutedTeacher, Teacher
from lit_sdpo.policies.teachers.model import fingerprint
from tests.modules.test_base import Record
from tests.tiny_model import save_tiny_model
from tests.training import (
    Toy,
    Watch,
    adamw,
    assert_close_gradients,
    assert_equal,
    fit,
    method,
    row_logits,
    sgd,
    step_gradient,
    toy_data,
    weights,
)

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def save(model, folder, tokenizer="tiny"):
    model.save_pretrained(folder)
    load_tokenizer(tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def specialists(tiny, tmp_path_factory):
    """Two models of the policy's vocabulary that predict something else, and an adapter over its base."""
    root, found = tmp_path_factory.mktemp("specialists"), {}
    for n, name in enumerate(("one", "two", "adapter", "adapter_two")):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(n)
            model = load_policy(tiny)
            if name.startswith("adapter"):
                model = get_peft_model(
                    model, LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
                )
            with torch.no_grad():
                for key, parameter in model.named_parameters():
                    if parameter.requires_grad and "norm" not in key:
                        parameter.add_(torch.randn_like(parameter) * 0.1)
        found[name] = save(model, root / name, tiny)
    return found


def naive(model, prompt, ids):
    return row_logits(model.double(), prompt, ids).log_softmax(-1)


def rows_of(rollouts):
    for n, length in enumerate(rollouts.completions.lengths.tolist()):
        prompt = rollouts.prompt_ids[n // rollouts.num_generations]
        yield n, prompt, rollouts.completions.ids[n, :length].tolist()


def full_kl(student, teacher, ids):
    return (student.exp() * (student - teacher)).sum(-1)


def sampled(student, teacher, ids):
    places = torch.arange(len(ids)), torch.tensor(ids)
    log_ratio = (teacher[places] - student[places]).detach()
    return -log_ratio.clamp(-0.5, 0.5) * student[places]


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize(("kind", "cost"), [("full", full_kl), ("sampled", sampled)])
def test_a_model_teaches_every_completion(tmp_path, tiny, specialists, kind, cost, slots):
    """Against float64 row by row, also where a verifier says nothing."""
    teacher, watch = ModelTeacher(specialists["one"]), Watch()
    data = toy_data([Toy(score=lambda text: None)])
    if kind == "full":
        gradient, module = step_gradient(
            tmp_path, "sdpo", tiny, watch, slots=slots, teacher=teacher, alpha=1.0, top_k=None, data=data
        )
    else:
        module = OnPolicyDistillation(
            tiny, teacher=teacher, advantage_clip=0.5, scheduler=None, optimizer=lambda p: sgd(p, 0.5)
        )
        module.configure_model()
        before = weights(module)
        fit(tmp_path, module, data, watch, accumulate_grad_batches=slots)
        gradient = {name: (before[name] - p).double() / 0.5 for name, p in weights(module).items()}
    student, other = load_policy(tiny).double(), load_policy(specialists["one"]).double()
    losses = []
    for _, prompt, ids in rows_of(watch.seen[0]["rollouts"]):
        with torch.no_grad():
            target = naive(other, prompt, ids)
        losses.append(cost(naive(student, prompt, ids), target, ids))
    torch.cat(losses).mean().backward()
    assert_close_gradients(gradient, {name: p.grad for name, p in student.named_parameters()}, rtol=1e-3)
    frozen = dict(module.teacher.named_parameters())
    assert frozen
    assert not any(p.requires_grad for p in frozen.values())
    moved = {id(p) for group in module.trainer.optimizers[0].param_groups for p in group["params"]}
    assert not moved & {id(p) for p in frozen.values()}


def test_a_privileged_model_reads_what_the_reprompt_says(tmp_path, tiny, specialists):
    records = {}
    for context in ("question", "privileged", "privileged_or_question"):
        record = Record()
        module = method("sdpo", tiny, teacher=ModelTeacher(specialists["one"], context), alpha=1.0, top_k=None)
        fit(tmp_path / context, module, toy_data(), record)
        records[context] = record.logged[0]
    sources = {
        c: {s: r[f"sdpo/context_source/{s}"] for s in ("sibling", "question", "none")} for c, r in records.items()
    }
    assert sources["question"] == {"sibling": 0, "question": 1, "none": 0}
    assert 0 < sources["privileged"]["sibling"] < 1
    assert sources["privileged"]["question"] == 0
    assert sources["privileged_or_question"]["none"] == 0
    assert sources["privileged_or_question"]["sibling"] == sources["privileged"]["sibling"]
    assert len({r["train/loss"] for r in records.values()}) == 3
    assert records["privileged"]["sdpo/context_fraction"] == sources["privileged"]["sibling"]


class Other(Toy):
    """Another task, whose prompts are others too."""


def mixture():
    shares = [Share(task=Toy("a"), share=0.5), Share(task=Other("b"), share=0.5)]
    return ContinualDataModule([Stage(task=Mixture(shares), steps=1, prompts_per_step=4)], seed=3, eval_prompts=2)


@pytest.mark.parametrize("slots", [1, 2])
def test_rows_go_to_the_teacher_of_their_task(tmp_path, tiny, specialists, slots):
    teacher = RoutedTeacher({"a": ModelTeacher(specialists["one"])}, default=ModelTeacher(specialists["two"]))
    calls, watch = [], Watch()
    for each in teacher._all:
        each.scorer = lambda policy, rows, own=each: (calls.append((own, rows)), type(own).scorer(own, policy, rows))[1]
    options = {"teacher": teacher, "alpha": 1.0, "top_k": None, "data": mixture()}
    gradient, _ = step_gradient(tmp_path, "sdpo", tiny, watch, slots=slots, **options)
    rollouts = watch.seen[0]["rollouts"]
    assert set(rollouts.tasks) == {"a", "b"}
    student = load_policy(tiny).double()
    teachers = {"a": load_policy(specialists["one"]).double(), "b": load_policy(specialists["two"]).double()}
    losses = []
    for n, prompt, ids in rows_of(rollouts):
        with torch.no_grad():
            target = naive(teachers[rollouts.tasks[n // rollouts.num_generations]], prompt, ids)
        losses.append(full_kl(naive(student, prompt, ids), target, ids))
    torch.cat(losses).mean().backward()
    assert_close_gradients(gradient, {name: p.grad for name, p in student.named_parameters()}, rtol=1e-3)
    assert all(set(rows.routes) == {"a" if own is teacher._all[0] else "b"} for own, rows in calls)
    assert sum(len(rows) for _, rows in calls) == len(rollouts)


@pytest.mark.parametrize(
    ("teacher", "what"),
    [
        (lambda: RoutedTeacher({"a": FrozenTeacher()}), "no teacher for 'b'"),
        (lambda: RoutedTeacher({"a": FrozenTeacher(), "b": FrozenTeacher(), "c": FrozenTeacher()}), "teacher for 'c'"),
        (lambda: RoutedTeacher({"a": FrozenTeacher(), "b": FrozenTeacher()}, FrozenTeacher()), "nobody to teach"),
    ],
)
def test_teachers_that_do_not_fit_the_stream_are_refused(tmp_path, tiny, teacher, what):
    watch = Watch()
    with pytest.raises(UserError, match=what):
        fit(tmp_path, method("sdpo", tiny, teacher=teacher()), mixture(), watch)
    assert not watch.seen


def test_nobody_to_route_to():
    with pytest.raises(UserError, match="nobody to route to"):
        RoutedTeacher({})


def test_each_teacher_keeps_its_own_clock(tmp_path, tiny):
    teacher, record = RoutedTeacher({"a": FrozenTeacher("keep"), "b": EMATeacher(0.5)}), Record()
    module = method("sdpo", tiny, teacher=teacher, optimizer=adamw)
    fit(tmp_path, module, mixture(), record)
    logged = record.logged[-1]
    assert logged["teacher/distance/a"] > logged["teacher/distance/b"] > 0
    assert teacher.follows
    teacher.freeze()
    before = teacher._all[1].distance(module.policy)
    teacher.after_optimizer_step(module.policy)
    assert torch.equal(before, teacher._all[1].distance(module.policy))


@pytest.mark.parametrize("lora", [None, Lora(rank=3)], ids=["all weights", "lora"])
def test_adapters_share_one_base(tmp_path, tiny, specialists, lora):
    teacher = RoutedTeacher({"a": ModelTeacher(specialists["adapter"]), "b": ModelTeacher(specialists["adapter_two"])})
    module = method("sdpo", tiny, teacher=teacher, lora=lora, optimizer=adamw, alpha=1.0, top_k=None)
    module.configure_model()
    models = [part for part in teacher.modules() if isinstance(part, SecondModel)]
    assert len(models) == (1 if lora is None else 0)
    trained = [name for name, p in module.policy.named_parameters() if p.requires_grad]
    assert trained
    assert not any("teacher" in name for name in trained)
    ids = torch.tensor([[9, 10, 11]])
    for route, name in (("a", "adapter"), ("b", "adapter_two")):
        rows = Sequences([[5, 6, 7]], ids, torch.ones_like(ids, dtype=torch.bool), [route])
        found = teacher.scorer(module.policy, rows)(slice(0, 3))
        alone = PeftModel.from_pretrained(load_policy(tiny), specialists[name]).eval()
        torch.testing.assert_close(found, row_logits(alone, [5, 6, 7], [9, 10, 11]).float(), rtol=1e-4, atol=1e-5)
    before = weights(module)
    fit(tmp_path, module, mixture())
    moved = {name for name, p in weights(module).items() if not torch.equal(p, before[name])}
    assert moved
    assert moved <= set(trained)


def test_what_is_no_adapter_of_the_base_is_refused(tmp_path, tiny, specialists):
    other = load_policy(tiny, random_weights=True, config_overrides={"hidden_size": 16})
    with pytest.raises(UserError, match="does not fit the policy's base"):
        ModelTeacher(specialists["adapter"]).attach(other)
    model = get_peft_model(
        load_policy(tiny), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"], task_type="CAUSAL_LM")
    )
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="replaces parts of its base"):
        ModelTeacher(str(tmp_path)).attach(load_policy(tiny))


def test_another_vocabulary_is_refused_with_the_token(tmp_path, tiny, specialists):
    other = tmp_path / "other"
    save(load_policy(specialists["one"]), other, tiny)
    told = json.loads((other / "tokenizer.json").read_text())
    token, number = next((t, n) for t, n in told["model"]["vocab"].items() if n == 300)
    told["model"]["vocab"]["zzzz"] = told["model"]["vocab"].pop(token)
    told["model"]["merges"] = [m for m in told["model"]["merges"] if token not in ("".join(m), *m)]
    (other / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(UserError) as caught:
        method("sdpo", tiny, teacher=ModelTeacher(str(other))).configure_model()
    assert f"token {number} is {token!r} for the policy, 'zzzz' for it" in str(caught.value)
    assert caught.value.where == "model.teacher.model_name"
    with pytest.raises(UserError, match="another vocabulary"):
        method("sdpo", tiny, teacher=ModelTeacher(str(save_tiny_model(tmp_path / "tiny")))).configure_model()


@pytest.mark.parametrize("more", [24, -8])
def test_vocabularies_that_are_padded_otherwise(tiny, more):
    policy = load_policy(tiny)
    rows = len(policy.lm_head.weight)
    module = method("sdpo", tiny, teacher=FrozenTeacher())
    module.configure_model()
    teacher = ModelTeacher(tiny)
    teacher.attach(policy)
    teacher.model.model.resize_token_embeddings(rows + more)
    ids = torch.tensor([[9, 10]])
    found = teacher.scorer(policy, Sequences([[5]], ids, torch.ones_like(ids, dtype=torch.bool)))(slice(0, 2))
    assert found.shape == (2, rows)
    kept = min(rows, rows + more)
    torch.testing.assert_close(found[:, :kept], row_logits(policy.eval(), [5], [9, 10])[:, :kept].float())
    assert bool((found[:, kept:] <= found[:, :kept].amin(-1, keepdim=True)).all())


def test_bfloat16_takes_half_of_the_memory_and_is_counted(tiny, specialists):
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        module = method("sdpo", tiny, teacher=ModelTeacher(specialists["one"], dtype=dtype))
        module.configure_model()
        window = Window(prompts=2, rows=4, prompt=8, completion=8, read=False)
        sizes[dtype] = StepCount(module, module.policy, window).resident["teacher and other copies"]
    assert sizes["float32"] == 2 * sizes["bfloat16"] == sum(4 * p.numel() for p in load_policy(tiny).parameters())


def test_a_planned_teacher_has_the_size_of_the_real_one(tiny, specialists):
    def sizes(module):
        return [(name, p.shape, p.dtype) for name, p in module.teacher.named_parameters()]

    for name in ("one", "adapter"):
        real = method("sdpo", tiny, teacher=ModelTeacher(specialists[name]))
        real.configure_model()
        planned = method("sdpo", tiny, teacher=ModelTeacher(specialists[name]), random_weights=True)
        with torch.device("meta"):
            planned.configure_model()
        assert sizes(planned) == sizes(real)
        assert all(p.is_meta for p in planned.teacher.parameters())


@pytest.mark.parametrize("name", ["one", "adapter"])
def test_a_resumed_run_is_the_same_and_its_checkpoint_small(tmp_path, tiny, specialists, name):
    def make():
        return method("sdpo", tiny, teacher=ModelTeacher(specialists[name]), optimizer=adamw, alpha=1.0)

    whole = make()
    fit(tmp_path / "whole", whole, toy_data(["a", "b"], steps=2), StageCheckpoint(), enable_checkpointing=True)
    (first, *_) = sorted((tmp_path / "whole").rglob("*.ckpt"))
    saved = torch.load(first, weights_only=True)["state_dict"]
    assert not any(key.startswith("teacher.model") or key.startswith("teacher.base") for key in saved)
    again = make()
    fit(tmp_path / "again", again, toy_data(["a", "b"], steps=2), ckpt_path=first)
    assert_equal(weights(again), weights(whole))
    assert_equal(dict(again.teacher.named_parameters()), dict(whole.teacher.named_parameters()))
    if name == "one":
        other = method("sdpo", tiny, teacher=ModelTeacher(specialists["two"]), optimizer=adamw, alpha=1.0)
        with pytest.raises(UserError, match="other weights than when the checkpoint was written"):
            fit(tmp_path / "other", other, toy_data(["a", "b"], steps=2), ckpt_path=first)


def test_a_fingerprint_sees_every_bit():
    weight = torch.randn(5, 3)
    changed = weight.clone()
    changed.view(torch.int32)[2, 1] ^= 1
    assert fingerprint([weight]) == fingerprint([weight.clone()]) != fingerprint([changed])
    assert fingerprint([weight, changed]) != fingerprint([changed, weight])
    assert fingerprint([weight.bfloat16()]) != 0


class Reversed(Teacher):
    """A third teacher, from the contract alone: the mirror image of what the student predicts."""

    copies_student = False

    def attach(self, policy):
        self.asked = 0

    def start_stage(self, policy):
        pass

    def reads(self, route):
        return "question"

    def scorer(self, policy, sequences):
        self.asked += 1
        score = scorer(policy, sequences)
        return lambda span: -score(span)

    def measures(self, policy, costly):
        return {"asked": torch.tensor(float(self.asked))}


def test_a_teacher_of_ones_own(tmp_path, tiny):
    module, record = method("sdpo", tiny, teacher=Reversed(), optimizer=adamw), Record()
    fit(tmp_path, module, toy_data(["a", "b"], steps=1), record)
    assert [entry["teacher/asked"] for entry in record.logged] == [1, 2]
    assert record.logged[0]["train/loss"] > 0
