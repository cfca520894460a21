"""Small steps of weights in bfloat16 and float16 add up, whatever the optimizer, and go on bit for bit."""

from __future__ import annotations

import copy
import logging

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lit_sdpo.callbacks import StageCheckpoint
from lit_sdpo.errors import UserError
from lit_sdpo.modules import WeightAnchor
from lit_sdpo.optimizers import MuonAdamW, PaperAdamW
from lit_sdpo.policies.load import Lora, load_policy
from lit_sdpo.policies.masters import MASTER, MasterWeights, trained
from lit_sdpo.policies.memory import StepCount, Window, nbytes, optimizer_bytes
from lit_sdpo.policies.moved import MovedShare
from lit_sdpo.policies.teachers import EMATeacher, FrozenTeacher
from tests.training import fit, method, toy_data, weights

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Net(nn.Module):
    """Two weights that are rounded, one in float32, one without gradients."""

    def __init__(self, dtype):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = nn.Parameter(torch.randn(7, 5, generator=generator).to(dtype))
        self.matrix = nn.Parameter(torch.randn(5, 5, generator=generator).to(dtype))
        self.norm = nn.Parameter(torch.randn(5, generator=generator))
        self.unused = nn.Parameter(torch.ones(3, dtype=dtype))


def gradients(net, step):
    """The same for all dtypes: exact in each."""
    generator = torch.Generator().manual_seed(step)
    for p in (net.embed, net.matrix, net.norm):
        p.grad = (torch.randint(-8, 9, p.shape, generator=generator) / 8).to(p.dtype)


class PassesOn(PaperAdamW):
    """Its step calls that of its base with the closure."""

    def step(self, closure=None):
        return super().step(closure)


class AsksFirst(PaperAdamW):
    """Its step evaluates the closure itself, decays, and goes on with that of its base."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - 1e-6)
        super().step()
        return loss


OPTIMIZERS = {
    "passes_on": lambda p: PassesOn(p, lr=1e-6),
    "asks_first": lambda p: AsksFirst(p, lr=1e-6),
    "adamw": lambda p: PaperAdamW(p, lr=1e-6),
    "adamw_one_by_one": lambda p: torch.optim.AdamW(p, lr=1e-6, foreach=False),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=1e-6, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-5),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-5, momentum=0.9, nesterov=True),
    "muon": lambda p: MuonAdamW(p, lr=1e-5),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-5),
    "lion_like": lambda p: torch.optim.RMSprop(p, lr=1e-6, momentum=0.5),
}


def build(net, optimizer, before=None):
    made = OPTIMIZERS[optimizer](net.named_parameters())
    return made, MasterWeights(made, before)


def walk(net, optimizer, steps, closure=True):
    for step in steps:
        if closure:
            optimizer.step(closure=lambda step=step: gradients(net, step))
        else:
            gradients(net, step)
            optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("closure", [True, False])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masters_move_as_float32_weights_do(optimizer, dtype, closure):
    net = Net(HALF[dtype])
    exact = copy.deepcopy(net).float()
    walk(exact, OPTIMIZERS[optimizer](exact.named_parameters()), range(20), closure)
    made, masters = build(net, optimizer)
    walk(net, made, range(20), closure)
    for (name, weight), expected in zip(net.named_parameters(), exact.parameters(), strict=True):
        assert torch.equal(masters.of([weight])[0], expected), name
        assert torch.equal(weight, expected.to(weight.dtype)), name
    states = [value for state in made.state.values() for value in state.values() if torch.is_tensor(value)]
    assert all(value.dtype == torch.float32 for value in states)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_saved_optimizer_goes_on_bit_for_bit(tmp_path, optimizer):
    def go_on(net, made, masters):
        walk(net, made, range(4, 8))
        return [*net.parameters(), *masters.of(list(net.parameters()))]

    net = Net(torch.bfloat16)
    made, masters = build(net, optimizer)
    walk(net, made, range(4))
    torch.save({"weights": net.state_dict(), "optimizer": made.state_dict()}, tmp_path / "saved")
    whole = go_on(net, made, masters)
    saved = torch.load(tmp_path / "saved", weights_only=True)
    other = Net(torch.bfloat16)
    other.load_state_dict(saved["weights"])
    again, masters = build(other, optimizer)
    again.load_state_dict(saved["optimizer"])
    assert all(torch.equal(a, b) for a, b in zip(go_on(other, again, masters), whole, strict=True))
    assert other.embed in masters.known
    assert other.norm not in masters.known


def test_outside_of_a_step_the_optimizer_has_the_weights(tmp_path):
    net = Net(torch.bfloat16)
    made, _ = build(net, "adamw")
    places = made.param_groups[0]["params"]
    seen = []
    made.register_step_post_hook(lambda *_: seen.append([p.dtype for p in places]))
    walk(net, made, range(2))
    assert [id(p) for p in places] == [id(p) for p in net.parameters()]
    assert list(made.state) == [net.embed, net.matrix, net.norm]
    assert seen == [[torch.bfloat16, torch.bfloat16, torch.float32, torch.bfloat16]] * 2
    assert made.state[net.embed][MASTER].dtype == torch.float32


def test_a_new_optimizer_goes_on_with_the_masters():
    net = Net(torch.bfloat16)
    made, masters = build(net, "adamw")
    walk(net, made, range(5))
    kept = {weight: master.clone() for weight, master in masters.known.items()}
    again, masters = build(net, "sgd", masters)
    assert masters.known.keys() == kept.keys()
    gradients(net, 0)
    gradient = net.embed.grad.float()
    again.step()
    torch.testing.assert_close(masters.known[net.embed], kept[net.embed] - 1e-5 * gradient, rtol=0, atol=0)


def test_masters_are_saved_before_a_new_optimizers_first_step():
    net = Net(torch.bfloat16)
    made, masters = build(net, "adamw")
    walk(net, made, range(5))
    fresh, masters = build(net, "adamw", masters)
    other, others = build(net, "adamw")
    other.load_state_dict(copy.deepcopy(fresh.state_dict()))
    assert all(torch.equal(others.known[w], m) for w, m in masters.known.items())
    walk(net, other, range(1))


def test_a_weight_that_was_changed_elsewhere_changes_its_master():
    net = Net(torch.bfloat16)
    made, masters = build(net, "sgd")
    walk(net, made, range(3))
    before = masters.known[net.embed].clone()
    with torch.no_grad():
        net.embed[0] = 3.0
    net.embed.grad = torch.zeros_like(net.embed)
    made.step()
    assert (masters.known[net.embed][0] == 3).all()
    assert torch.equal(masters.known[net.embed][1:], before[1:])


def test_a_weight_without_a_gradient_stays():
    net = Net(torch.bfloat16)
    made, masters = build(net, "adamw")
    walk(net, made, range(3))
    before = [p.detach().clone() for p in net.parameters()]
    made.step(closure=lambda: None)
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    assert net.unused not in masters.known


def test_an_optimizer_that_asks_for_the_loss_many_times():
    weight = nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.bfloat16))
    made = torch.optim.LBFGS([weight], lr=0.5, max_iter=5)
    MasterWeights(made)
    losses = []

    def closure():
        made.zero_grad()
        assert made.param_groups[0]["params"][0] is weight
        loss = (weight.float() - torch.tensor([1.0, 1.0])).square().sum()
        loss.backward()
        losses.append(loss.item())
        return loss

    made.step(closure)
    assert len(losses) > 1
    assert losses[-1] < 0.1 * losses[0]


def test_moved_share_counts_entries_of_a_sample():
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.zeros(512, 768), torch.zeros(9), torch.zeros(1000, 100, dtype=torch.bfloat16)]
    moved = MovedShare(lambda: {"x": tensors})
    for tensor, share in zip(tensors, (0.5, 1.0, 0.1), strict=True):
        tensor += (torch.rand(tensor.shape, generator=generator) < share).to(tensor.dtype)
    exact = sum(float((t != 0).sum()) for t in tensors) / sum(t.numel() for t in tensors)
    assert float(moved.shares()["x"]) == pytest.approx(exact, abs=0.01)
    assert MovedShare(lambda: {"x": tensors}).shares()["x"] == 0


def test_moved_share_does_not_look_at_a_few_columns_only():
    for columns in (64, 128, 1024, 96):
        tensor = torch.zeros(65_536 * 8 // columns, columns)
        moved = MovedShare(lambda tensor=tensor: {"x": [tensor]})
        tensor[:, 0] = 1
        assert float(moved.shares()["x"]) == pytest.approx(1 / columns, rel=0.1)


# ---------------------------------------------------------------------------------------------------------------- runs
class Logged(pl.Callback):
    def __init__(self):
        self.moved, self.masters = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        metrics = trainer.callback_metrics
        self.moved.append(float(metrics["train/moved_share"]))
        self.masters.append(float(metrics.get("train/moved_share_masters", -1)))


def paper(parameters):
    return PaperAdamW(parameters, lr=1e-6)


def trained_run(tmp_path, tiny, dtype, steps=20, **options):
    module, logged = method("sft", tiny, optimizer=paper, dtype=dtype, **options), Logged()
    module.configure_model()
    before = weights(module)
    fit(tmp_path, module, toy_data(steps=steps), logged)
    return module, before, logged


@pytest.mark.parametrize("dtype", HALF)
def test_at_the_papers_rate_masters_move_and_weights_follow(tmp_path, tiny, dtype):
    """Twenty steps against a run in float32: as near as gradients in less allow."""
    float32, start, moved = trained_run(tmp_path, tiny, "float32")
    half, half_start, half_moved = trained_run(tmp_path, tiny, dtype)
    changes = {name: (p.detach() - start[name]).flatten() for name, p in float32.policy.named_parameters()}
    masters = dict(zip(start, half._masters.of(trained(half.policy)), strict=True))
    mine = torch.cat([(masters[name] - half_start[name].float()).flatten() for name in start])
    theirs = torch.cat([changes[name] for name in start])
    assert float((mine != 0).float().mean()) > 0.99
    assert torch.nn.functional.cosine_similarity(mine, theirs, dim=0) > 0.99
    assert float(mine.norm() / theirs.norm()) == pytest.approx(1, abs=0.02)
    for name, weight in half.policy.named_parameters():
        assert weight.dtype == HALF[dtype]
        assert torch.equal(weight, masters[name].to(weight.dtype))
    assert min(moved.moved) > 0.9
    assert set(moved.masters) == {-1}
    assert max(half_moved.moved) < 0.2
    assert min(half_moved.masters) > 0.9


def test_without_masters_steps_are_lost_and_the_run_says_so(tmp_path, tiny):
    with pytest.warns(UserWarning, match="below bfloat16's rounding .* are lost"):
        module, _, logged = trained_run(tmp_path, tiny, "bfloat16", steps=3, float32_masters=False)
    assert module._masters is None
    assert max(logged.moved) < 0.02
    assert set(logged.masters) == {-1}


def test_a_run_says_that_steps_add_up_in_masters(tmp_path, tiny, caplog):
    with caplog.at_level(logging.INFO):
        trained_run(tmp_path, tiny, "bfloat16", steps=1)
    assert "float32 masters, in which steps below bfloat16's rounding" in caplog.text


@pytest.mark.parametrize(
    ("dtype", "precision"), [("bfloat16", "32-true"), ("float32", "bf16-true"), ("bfloat16", "bf16-mixed")]
)
@pytest.mark.parametrize(("step", "reset"), [(2, True), (3, True), (4, False)])
def test_a_resumed_run_in_bfloat16_ends_with_the_same_weights(tmp_path, tiny, dtype, precision, step, reset):
    def run(folder, ckpt_path=None):
        module = method(
            "sdpo",
            tiny,
            optimizer=lambda p: PaperAdamW(p, lr=3e-5),
            teacher=EMATeacher(0.3),
            dtype=dtype,
            reset_optimizer=reset,
        )
        saving = StageCheckpoint(every_n_steps=2, keep_steps=9)
        options = {"precision": precision, "gradient_clip_val": 0.5, "accumulate_grad_batches": 2}
        options |= {"logger": pl.loggers.CSVLogger(folder), "enable_checkpointing": True, "log_every_n_steps": 1}
        fit(folder, module, toy_data(["a", "b"], steps=3), saving, ckpt_path=ckpt_path, **options)
        masters = module._masters.of(trained(module.policy))
        shadows = list(module.teacher.weights.shadow)
        assert shadows
        return [*masters, *shadows, *trained(module.policy)]

    whole = run(tmp_path / "whole")
    [path] = (tmp_path / "whole").rglob(f"*step={step}.ckpt")
    resumed = run(tmp_path / "resumed", path)
    assert all(torch.equal(a, b) for a, b in zip(resumed, whole, strict=True))
    assert any(not torch.equal(a, a.bfloat16().float()) for a in whole)


@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "32-true"), ("float32", "bf16-true")])
def test_a_weight_anchor_holds_what_moved_in_the_masters(tmp_path, tiny, dtype, precision):
    """At a rate at which bfloat16 weights hardly move, the entries that moved most are those of float32."""

    def run(dtype, precision):
        anchor = WeightAnchor(strength=1.0, share=0.1)
        module = method("sft", tiny, optimizer=lambda p: torch.optim.SGD(p, lr=1e-5), dtype=dtype, weight_anchor=anchor)
        fit(tmp_path, module, toy_data(["a", "b"], steps=3), precision=precision)
        masks = torch.cat([getattr(anchor, f"mask_{n}").flatten() for n in range(len(trained(module.policy)))])
        return module, masks

    half, found = run(dtype, precision)
    _, expected = run("float32", "32-true")
    assert int((found & expected).sum()) > 0.9 * int(expected.sum())
    values = half._masters.of(trained(half.policy))
    penalty = half.weight_anchor.penalty(half.policy, values)
    penalty.backward()
    anchors = [getattr(half.weight_anchor, f"anchor_{n}") for n in range(len(values))]
    masks = [getattr(half.weight_anchor, f"mask_{n}") for n in range(len(values))]
    held = sum(int(m.sum()) for m in masks)
    exact = sum(float(((v - a).abs() * m).sum()) for v, a, m in zip(values, anchors, masks, strict=True)) / held
    assert 0 < penalty.item() == pytest.approx(exact, rel=1e-4)
    for weight, value, anchor, mask in zip(trained(half.policy), values, anchors, masks, strict=True):
        assert torch.equal(weight.grad, ((value - anchor).sign() * mask / held).to(weight.dtype))


def test_the_estimate_counts_masters(tiny):
    policy = load_policy(tiny, dtype="bfloat16")
    count = sum(p.numel() for p in policy.parameters())
    window = Window(prompts=1, rows=1, prompt=1, completion=1, read=True)
    kept, plain = (StepCount(policy, policy, window, masters=masters).of(1) for masters in (True, False))
    assert kept.resident == {"weights": 2 * count, "optimizer": 8 * count, "float32 masters": 4 * count}
    assert plain.resident == {"weights": 2 * count, "optimizer": 4 * count}
    # Either all gradients in float32, or the head's being summed: in float32, beside a chunk's share and its cast.
    head = policy.get_output_embeddings().weight.numel()
    assert 4 * count <= sum(kept.update.values()) <= 4 * count + (4 + 2 + 4) * head
    full = load_policy(tiny)
    assert StepCount(full, full, window, masters=True).of(1) == StepCount(full, full, window, masters=False).of(1)


def test_an_optimizer_holds_what_was_counted(tiny):
    policy = load_policy(tiny, dtype="bfloat16")
    made = PaperAdamW(policy.named_parameters())
    MasterWeights(made)
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    made.step()
    held = [value for state in made.state.values() for value in state.values() if value.dim() or value.numel() > 1]
    assert nbytes(held) == sum(optimizer_bytes(policy, True))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_average_of_rounded_adapters_is_refused(tmp_path, tiny):
    def run(teacher, precision, dtype="float32"):
        module = method("sdpo", tiny, optimizer=paper, teacher=teacher, lora=Lora(rank=2), dtype=dtype)
        fit(tmp_path, module, toy_data(), precision=precision)
        return module

    with pytest.raises(UserError, match="averages adapters") as error:
        run(EMATeacher(0.1), "bf16-true")
    assert error.value.where == "trainer.precision"
    assert run(FrozenTeacher(), "bf16-true")._masters is not None
    assert run(EMATeacher(0.1), "32-true", "bfloat16")._masters is None  # PEFT keeps adapters in float32
