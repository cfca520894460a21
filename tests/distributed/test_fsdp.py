"""Weights divided among two processes (FSDP2) learn, sample, save and go on as those of one. SGD: see test_ddp."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from lit_sdpo.callbacks import InitialEvaluation, StageCheckpoint
from lit_sdpo.checkpoints import SafeCheckpointIO
from lit_sdpo.checkpoints.consolidate import consolidate
from lit_sdpo.checkpoints.manifest import Contents, Manifest, in_order
from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.data.mixture import Mixture, Share
from lit_sdpo.data.task import Stage
from lit_sdpo.errors import UserError
from lit_sdpo.modules.tilt import Tilt
from lit_sdpo.modules.weight_anchor import WeightAnchor
from lit_sdpo.optimizers import MuonAdamW
from lit_sdpo.policies.load import Lora, load_policy, load_tokenizer
from lit_sdpo.policies.masters import trained
from lit_sdpo.policies.memory import Placement, StepCount, Window
from lit_sdpo.policies.sharding import gathered, is_sharded, whole
from lit_sdpo.policies.teachers import EMATeacher, ModelTeacher, RestartTeacher, RoutedTeacher, TrustRegionTeacher
from lit_sdpo.policies.train_only import TrainOnly
from tests.distributed.processes import in_two_processes
from tests.training import (
    Toy,
    Watch,
    adamw,
    assert_close_gradients,
    assert_equal,
    fit,
    method,
    rollout_callback,
    toy_data,
    trainer,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # Raised inside torch where it saves and loads whole states.
    pytest.mark.filterwarnings("ignore:`_get_pg_default_device`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Multiple backends are registered:UserWarning"),
]


class Uneven(Toy):
    """One evaluation prompt for two processes."""

    def rows(self, split):
        return super().rows(split)[: 1 if split == "validation" else None]


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """Without tied weights, so that the head is a matrix of its own."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    tokenizer = load_tokenizer("micro")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2, tie_word_embeddings=False, pad_token_id=3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    ends = [tokenizer.eos_token_id, *range(10, len(tokenizer), 5)]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def divided(save=False):
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=save)
    return {"strategy": strategy, "devices": 2}


def state(module):
    return {name: whole(tensor).detach().clone() for name, tensor in module.state_dict().items()}


def muon(parameters):
    return MuonAdamW(parameters, lr=0.5)


#: Method and its options, made anew for each run; options of the trainer.
CASES = {
    "grpo": ("grpo", lambda: {"kl_beta": 0.1, "weight_anchor": WeightAnchor()}, {"gradient_clip_val": 0.01}),
    "gspo": ("gspo", lambda: {"clip_eps_low": 0.9, "clip_eps_high": 9.0}, {}),
    "frozen": ("sdpo", lambda: {"gradient_checkpointing": True}, {}),
    "restart": ("sdpo", lambda: {"teacher": RestartTeacher(every=2, mix=0.5, at_stage="reset_to_base")}, {}),
    "trust": ("sdpo", lambda: {"teacher": TrustRegionTeacher(0.5), "optimizer": muon}, {}),
    "adapter": ("grpo", lambda: {"kl_beta": 0.1, "lora": Lora(rank=4)}, {}),
    "prompt_anchor": ("grpo", lambda: {"prompt_anchor_coefficient": 1.0}, {}),
    "continual_mopd": ("sdpo", lambda: {"continual_mopd_coefficient": 1.0, "alpha": 1.0, "top_k": None}, {}),
    "tilt": ("sdpo", lambda: {"tilt": Tilt(beta=3.0, steps=3), "top_k": None}, {}),
    "tilt_budget": ("sdpo", lambda: {"tilt": Tilt(epsilon=0.01), "top_k": None}, {}),
    "train_only": ("sdpo", lambda: {"train_only": TrainOnly(["self_attn"])}, {}),
    "adapters": (
        "sdpo",
        lambda: {"teacher": EMATeacher(0.3), "lora": Lora(rank=4), "gradient_checkpointing": True},
        {},
    ),
}

#: What holds on to earlier tasks, with its ``replay_share``: at 0.2 one of both processes has no earlier prompt.
REMEDIES = {"prompt_anchor": 0.4, "continual_mopd": 0.2, "tilt": 0.0, "tilt_budget": 0.0, "train_only": 0.0}


def moved(folder, model, case, **options):
    """How far each weight came in two stages, what was logged, what was sampled, and the sizes of the parts."""
    kind, make, more = CASES[case]
    torch.manual_seed(1)
    # A second update on the same rollouts, where ratios are not 1, for the method that reads whole rows.
    data = toy_data(
        [Toy("a"), Uneven("b")],
        steps=2,
        updates_per_rollout=2 if kind == "gspo" else 1,
        replay_share=REMEDIES.get(case, 0.0),
    )
    module = method(kind, model, **make())
    module.expect(data.stages)
    module.configure_model()
    before, watch = state(module), Watch()
    window = Window(prompts=3, rows=12, prompt=9, completion=6, read=True)
    divided = Placement(shards=2)
    needed = StepCount(module, module.policy, window, divided).of(2)  # of whole weights, as if they were divided
    made = fit(
        folder, module, data, InitialEvaluation(), watch, limit_val_batches=1.0, accumulate_grad_batches=2,
        **more, **options,
    )  # fmt: skip
    assert is_sharded(module.policy) == ("strategy" in options)
    size = sum(getattr(p, "_local_tensor", p).numel() for p in module.parameters())
    assert StepCount(module, module.policy, window, divided).of(2) == needed
    after = state(module)
    drawn = [entry["rollouts"] for entry in watch.seen if entry["split"] == "train"]
    ids = {row: r.completions.ids[n, : r.completions.lengths[n]].tolist() for r in drawn for n, row in names(r)}
    logged = {name: float(value) for name, value in made.callback_metrics.items()}
    return {n: before[n].float() - after[n].float() for n in before}, logged, ids, size


def names(rollouts):
    """A name of each row that is the same wherever it was drawn: its seed."""
    return enumerate(rollouts.seeds.tolist())


@pytest.mark.parametrize(
    ("family", "cases"),
    [
        ("tiny", [case for case in CASES if case not in REMEDIES]),
        ("llama", ["grpo"]),
        *(("tiny", [case]) for case in REMEDIES),
    ],
    ids=["methods", "untied", *REMEDIES],
)
def test_two_processes_take_the_steps_of_one(tmp_path, family, cases, request):
    model = request.getfixturevalue(family)
    alone = {case: moved(tmp_path, model, case) for case in cases}
    shared = in_two_processes(
        tmp_path / "pair", lambda: {case: moved(tmp_path, model, case, **divided()) for case in cases}
    )
    for case in cases:
        expected, logged, ids, size = alone[case]
        found, logged_there, ids_there, size_there = shared[case]
        # Muon turns the rounding of small gradients into steps of full size.
        assert_close_gradients(found, expected, rtol=2e-2 if case == "trust" else 1e-4)
        own = [name for name in logged if name.startswith(("val/", "rollout/", "train/", "teacher/", "sdpo/"))]
        own = [name for name in own if "tokens_per_second" not in name]
        assert len(own) > 8
        expected_values = {name: logged[name] for name in own}
        assert {name: logged_there[name] for name in own} == pytest.approx(expected_values, rel=1e-3, abs=1e-5), case
        assert ids_there
        assert ids_there == {row: ids[row] for row in ids_there}
        assert size_there < 0.6 * size


def test_a_process_without_anything_to_learn_takes_part(tmp_path, tiny):
    """Only the first process's prompts have verified completions, so the other has no context for its teacher."""

    def run():
        first = torch.distributed.get_rank() == 0 if torch.distributed.is_initialized() else True
        module = method("sdpo", tiny, optimizer=adamw)
        module.configure_model()
        before = state(module)
        task = Toy(score=lambda text: float(first and len(text) % 2 == 0))
        fit(tmp_path, module, toy_data([task], steps=2), **divided())
        after = state(module)
        return max(float((before[name] - after[name]).abs().max()) for name in before if "policy" in name)

    assert in_two_processes(tmp_path / "pair", run) > 1e-3


def test_weights_are_gathered_once_for_any_number_of_calls(tmp_path, tiny):
    """Inside, the processes make different numbers of forward passes; outside, each has its part again."""

    def run():
        module = method("grpo", tiny)
        fit(tmp_path, module, toy_data(), **divided())
        policy = module.policy.eval()
        parts = [p._local_tensor.numel() for p in policy.parameters()]
        with gathered(policy), torch.no_grad():
            for _ in range(1 + 3 * torch.distributed.get_rank()):
                with gathered(policy):
                    logits = policy(torch.tensor([[5, 6, 7]])).logits
        assert [p._local_tensor.numel() for p in policy.parameters()] == parts
        whole_model = load_policy(tiny).eval()
        whole_model.load_state_dict(state(policy))
        return logits, whole_model(torch.tensor([[5, 6, 7]])).logits.detach()

    torch.testing.assert_close(*in_two_processes(tmp_path / "pair", run))


#: What of a method is saved and goes on.
KEPT = {"all": {}, "adapter": {"lora": Lora(rank=4)}, "half": {"dtype": "bfloat16"}}


def saved(folder, model, kept, ckpt_path=None, **options):
    torch.manual_seed(1)
    more = KEPT[kept]
    module = method("sdpo", model, teacher=EMATeacher(0.3), optimizer=adamw, **more)
    # Of sharded weights the checkpoint does not say with which base the run began.
    saving = StageCheckpoint(
        keep=-1, every_n_steps=1, keep_steps=9, on_mismatch="warn" if "devices" in options else "error"
    )
    options = {"plugins": [SafeCheckpointIO()], "enable_checkpointing": True} | options
    fit(folder, module, toy_data([Toy("a"), Toy("b")], steps=2), saving, ckpt_path=ckpt_path, **options)
    weights = trained(module.policy)
    masters = [] if module._masters is None else module._masters.of(weights)
    assert [master.shape for master in masters] == [weight.shape for weight in weights] * (kept == "half")
    return state(module) | {f"master {n}": whole(master).clone() for n, master in enumerate(masters)}


@pytest.mark.filterwarnings("ignore:.*this run is not the one:UserWarning")
@pytest.mark.filterwarnings("ignore:The checkpoint .* is damaged:UserWarning")
@pytest.mark.parametrize(("kept", "save"), [("all", True), ("adapter", False), ("half", True), ("half", False)])
def test_a_resumed_run_ends_bit_for_bit_where_it_would_have(tmp_path, tiny, kept, save):
    name = "stage=0-step=2.ckpt" if save else "step=1.ckpt"
    written = tmp_path / "first" / "checkpoints" / name

    def run():
        first = saved(tmp_path / "first", tiny, kept, **divided(save))
        if save and torch.distributed.get_rank() == 0:  # the one before it is taken
            part = written / "__1_0.distcp"
            part.write_bytes(part.read_bytes()[:-1] + b"x")
        return first, saved(tmp_path / "again", tiny, kept, written, **divided(save))

    first, again = in_two_processes(tmp_path / "pair", run)
    assert_equal(again, first)
    found = in_order(tmp_path / "first" / "checkpoints")
    assert {path.is_dir() for path in found} == {save}
    assert all(Manifest.of(path).accepted == (Contents.of(path),) for path in found)
    if save:
        assert [path.stem for path in found] == ["stage=1-step=4", "step=3", "step=1"]
        assert not list(written.parent.glob("*.tmp-*"))
        assert written.with_name(f"{name}.corrupt").is_dir()
        written = found[-1]
        consolidate(written, tmp_path / "whole.ckpt")
        with pytest.raises(UserError, match="already"):
            consolidate(written, tmp_path / "whole.ckpt")
        written = tmp_path / "whole.ckpt"
    alone = saved(tmp_path / "alone", tiny, kept, written, devices=1)
    if kept == "half":  # one process rounds other sums, and soon samples other tokens
        checkpoint = torch.load(written, weights_only=True)
        masters = [values["master"] for values in checkpoint["optimizer_states"][0]["state"].values()]
        weights = [tensor for name, tensor in checkpoint["state_dict"].items() if name.startswith("policy.")]
        assert {master.dtype for master in masters} == {torch.float32}
        assert len(masters) == sum(name.startswith("master") for name in first)
        assert all(any(torch.equal(master.bfloat16(), weight) for weight in weights) for master in masters)
        return
    for entry, tensor in first.items():  # Adam: see test_ddp
        torch.testing.assert_close(alone[entry], tensor, rtol=0.02, atol=2e-3)


def test_tensor_parallelism_is_refused(tmp_path, tiny):
    def run():
        module = method("grpo", tiny)
        flags = {"strategy": ModelParallelStrategy(), "devices": 2, "limit_val_batches": 1.0}
        made = trainer(tmp_path, toy_data(), rollout_callback(), **flags)
        with pytest.raises(UserError, match="tensor_parallel_size"):
            made.fit(module, toy_data())

    in_two_processes(tmp_path / "pair", run)


def routed(folder, llama, divided_options):
    """Two teachers, of which a process may have no row; the weights that one step leaves."""
    teachers = RoutedTeacher({"a": ModelTeacher(llama), "b": EMATeacher(0.5)})
    shares = [Share(task=Toy("a"), share=0.5), Share(task=Toy("b"), share=0.5)]
    stages = [Stage(task=Mixture(shares), steps=2, prompts_per_step=2) for _ in range(2)]
    module = method("sdpo", llama, teacher=teachers, alpha=1.0, top_k=None)
    data = ContinualDataModule(stages, eval_prompts=4, eval_generations=2, seed=3)
    saving = StageCheckpoint()
    fit(folder, module, data, saving, enable_checkpointing=True, accumulate_grad_batches=2, **divided_options)
    return state(module)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_routed_teachers_in_two_processes(tmp_path, llama, kind):
    options = divided() if kind == "fsdp" else {"strategy": "ddp", "devices": 2}
    alone = routed(tmp_path / "alone", llama, {})
    both = in_two_processes(tmp_path / "both", routed, tmp_path / "two", llama, options)
    assert alone.keys() == both.keys()
    assert not any("teacher.teachers.0.model" in name for name in both)
    for name, value in alone.items():
        torch.testing.assert_close(both[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
