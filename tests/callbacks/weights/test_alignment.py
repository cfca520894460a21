"""Cosines with the gradients of earlier tasks: against autograd in float64 row by row, and what must not change."""

from __future__ import annotations

import json
import random

import pytest
import torch

from lit_sdpo.callbacks import GradientAlignment, LikelihoodEvaluation, RolloutCallback, TensorBoardLayout
from lit_sdpo.callbacks.weights.alignment import objective_gradient
from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.data.task import Stage, StageMethod
from lit_sdpo.errors import UserError
from lit_sdpo.likelihood.tasks import MultipleChoiceLikelihood, TextLikelihood
from lit_sdpo.modules import CISPO, GRPO, GSPO, SDPO, SFT, OnlineEWC
from lit_sdpo.policies.load import Lora, load_tokenizer
from lit_sdpo.policies.teachers import EMATeacher, GatedTeacher, RoutedTeacher
from tests.callbacks.scripted import Scripted, Stream
from tests.callbacks.scripted import trainer as scripted_trainer
from tests.faults.runs import assert_same, final, model, stream, train
from tests.loggers import InFolder
from tests.modules.test_variants import Run, Sample, distilled, double, make, mean
from tests.training import Toy, assert_equal, fit, lively, method, rollout_callback, toy_data

#: Grows in the file that a forked process cannot hand back otherwise.
FILE = "alignment.jsonl"


class Numbers(InFolder):
    """A logger that keeps what callbacks have measured."""

    def log_metrics(self, metrics, step=None):
        found = {name: value for name, value in metrics.items() if name.startswith("alignment/")}
        if found:
            with open(f"{self.folder}/{FILE}", "a") as file:
                file.write(json.dumps([step, found]) + "\n")


def read(folder):
    path = folder / FILE
    return {step: found for step, found in map(json.loads, path.read_text().splitlines())} if path.exists() else {}


class Kept(RolloutCallback):
    """Keeps what was drawn apart from the windows."""

    def __init__(self, **options):
        super().__init__(**options)
        self.drawn = []

    def apart(self, *arguments):
        self.drawn.append(super().apart(*arguments))
        return self.drawn[-1]


class Apart:
    """Rollouts that belong to no window, as :class:`Sample` wants them."""

    def __init__(self, module, rollouts, stage):
        with module.as_in_stage(stage):
            self.windows = [module.loss_batch(rollouts)]
        self._rollouts = rollouts

    def rollouts(self, step):
        return self._rollouts


def measured(tmp_path, module, data, *callbacks, slots=1, rollout=None, prompts=2, **options):
    """A run with its numbers and what was drawn apart, in the order of measurements and tasks."""
    rollout = rollout or Kept(num_generations=4, sampling=rollout_callback().sampling, seed=5)
    tmp_path.mkdir(exist_ok=True)
    callbacks = (*callbacks, GradientAlignment(every_n_steps=1, prompts=prompts))
    run = RunWith(tmp_path, module, data, slots, rollout, callbacks, options)
    return run, read(tmp_path), rollout.drawn


class RunWith(Run):
    """A run with more callbacks and options of the trainer."""

    def __init__(self, tmp_path, module, data, slots, rollout, callbacks, options):
        self.more = callbacks, options
        super().__init__(tmp_path, module, data, slots, rollout)

    def fit(self, *arguments, **options):
        callbacks, more = self.more
        fit(*arguments, *callbacks, logger=Numbers(arguments[0]), **options, **more)


def flat(policy):
    return torch.cat([p.grad.flatten() for p in policy.parameters()])


def gradient(tiny, run, at, step, teacher, loss):
    """Of a loss of some samples, at given weights, in float64."""
    policy, reads = double(tiny, at), double(tiny, teacher)
    samples = [Sample(run, step, n, policy, reads) for n in range(len(run.rollouts(step)))]
    loss(samples).backward()
    return flat(policy)


def grpo(samples):
    return mean([(s.policy_gradient, None) for s in samples])


def sdpo(samples):
    return mean(distilled(samples))


@pytest.mark.parametrize(("kind", "loss"), [(GRPO, grpo), (SDPO, sdpo)])
def test_it_is_the_cosine_of_two_gradients_in_float64(tmp_path, tiny, kind, loss):
    """Both steps of the second stage, and of the third with two earlier tasks; in three slices."""
    module = make(kind, tiny)
    data = toy_data(["a", "b", "c"], steps=2)
    run, found, drawn = measured(tmp_path, module, data, slots=3)
    assert list(found) == [2, 3, 4, 5]  # nothing in the first stage
    assert len(drawn) == 6
    teacher = {2: 2, 3: 2, 4: 4, 5: 4}  # copied from the student at each stage's start
    for step, names in ((2, "a"), (3, "a"), (4, "ab"), (5, "ab")):
        now, then, cosines, tokens = run.steps.weights[step], run.steps.weights[teacher[step]], [], 0
        own = gradient(tiny, run, now, step, then, loss)
        for name in names:
            rollouts = drawn.pop(0)
            assert {row.messages[0]["content"][0] for row in rollouts.rows} == {name}
            assert len(rollouts.rows) == 2
            other = gradient(tiny, Apart(module, rollouts, "abc".index(name)), now, 0, then, loss)
            cosines.append(float(own @ other / (own.norm() * other.norm())))
            tokens += int(rollouts.completions.lengths.sum())
            assert found[step][f"alignment/{name}"] == pytest.approx(cosines[-1], abs=1e-4)
        assert found[step]["alignment/mean"] == pytest.approx(sum(cosines) / len(cosines), abs=1e-4)
        assert found[step]["alignment/tokens"] == tokens
        assert max(map(abs, cosines)) > 1e-2
    assert not drawn


def test_of_the_same_prompts_and_completions_it_is_one(tmp_path, tiny):
    """The window's own rollouts in the place of what is drawn apart, scaled by the learning rate of another stage."""

    class Same(Kept):
        def apart(self, trainer, module, task, rows, *stream):
            return self.latest

        def on_rollouts(self, trainer, pl_module, rollouts, **names):
            self.latest = rollouts

    rollout = Same(num_generations=4, sampling=rollout_callback().sampling, seed=5)
    for slots in (1, 3):
        data, module = toy_data(["a", "b"], steps=2), make(GRPO, tiny)
        found = measured(tmp_path / str(slots), module, data, slots=slots, rollout=rollout)[1]
        assert [step["alignment/a"] for step in found.values()] == pytest.approx([1.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("factor", [3.0, 0.01])
def test_a_factor_of_the_objective_changes_no_cosine(tmp_path, tiny, factor):
    """A stage's factor scales the gradient of its task; the weights of its own steps stay those of rate 0."""
    found = []
    for number in (1.0, factor):
        folder = tmp_path / str(number)
        stages = [
            Stage(task=Toy("a"), steps=1, prompts_per_step=3, method=StageMethod(terms={"policy_gradient": number})),
            Stage(task=Toy("b"), steps=2, prompts_per_step=3),
        ]
        data = ContinualDataModule(stages, eval_prompts=4, eval_generations=2, seed=3)
        module = make(GRPO, tiny, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
        found.append(measured(folder, module, data)[1])
    assert len(found[0]) == 2
    for step, values in found[0].items():
        assert found[1][step] == pytest.approx(values, abs=1e-5)


def test_a_likelihood_task_is_measured_from_the_first_stage_on(tmp_path, tiny):
    texts, rows = ["add 1 to 2", "the third of five"], []
    for name, lines in (
        ("texts", [{"text": text} for text in [*texts, "never read"]]),
        ("choices", [{"question": "What is 1 + 1?", "choices": ["2", "three", "11"], "answer": 1}]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        rows.append(str(tmp_path / f"{name}.jsonl"))
    scored = [TextLikelihood("texts", rows[0]), MultipleChoiceLikelihood("choices", rows[1])]
    data, module = toy_data(steps=2, likelihood=scored), make(GRPO, tiny)
    run, found, _ = measured(tmp_path, module, data, LikelihoodEvaluation(), limit_val_batches=1.0)
    tokenizer = load_tokenizer(tiny)
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id

    def loss(policy, ids, first):
        logprobs = policy(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
        return -sum(logprobs[n - 1, ids[n]] for n in range(first, len(ids)))

    context = tokenizer.encode("What is 1 + 1?")
    whole = tokenizer.encode("What is 1 + 1? three")
    assert whole[: len(context)] == context
    asked = {
        "texts": [([start, *tokenizer.encode(text, add_special_tokens=False)], 1) for text in texts],
        "choices": [(whole, len(context))],
    }
    for step in (0, 1):
        now = run.steps.weights[step]
        own = gradient(tiny, run, now, step, now, grpo)
        assert set(found[step]) == {"alignment/texts", "alignment/choices", "alignment/tokens"}
        assert found[step]["alignment/tokens"] == 0
        for name, requests in asked.items():
            policy = double(tiny, now)
            sum(loss(policy, *request) for request in requests).backward()
            other = flat(policy)
            expected = float(own @ other / (own.norm() * other.norm()))
            assert found[step][f"alignment/{name}"] == pytest.approx(expected, abs=1e-4)


# -------------------------------------------------------------------------------------------------- nothing is changed
class Random(Toy):
    """A verifier that draws from the global generators."""

    def verify(self, completion, row):
        random.random(), torch.rand(1)
        return super().verify(completion, row)


def teachers():
    return RoutedTeacher({"a": EMATeacher(0.3, clock="rollout")}, GatedTeacher(check_every=1, min_age=1, window=1))


#: Method, options of the module and of the data.
METHODS = {
    "grpo": (GRPO, lambda: {"weight_anchor": OnlineEWC(0.5), "kl_beta": 0.1}, {}),
    "gspo": (GSPO, lambda: {"gradient_checkpointing": True}, {"updates_per_rollout": 2}),
    "cispo": (CISPO, lambda: {"lora": Lora(rank=2)}, {}),
    "sdpo": (SDPO, lambda: {"teacher": teachers(), "prompt_anchor_coefficient": 1.0}, {"replay_share": 0.4}),
    "adapters": (SDPO, lambda: {"teacher": EMATeacher(0.3), "lora": Lora(rank=2), "token_mask": 0.2}, {}),
    "sft": (SFT, lambda: {"lora": Lora(rank=2, dropout=0.3)}, {}),
    "half": (GRPO, lambda: {"dtype": "bfloat16"}, {}),
}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", METHODS)
def test_a_run_with_it_is_bit_for_bit_one_without(tmp_path, tiny, name):
    """Weights, teachers, importances, and the global generators."""
    kind, options, of_data = METHODS[name]
    ends, logged = [], []
    for callbacks in ((), (GradientAlignment(every_n_steps=1, prompts=2),)):
        torch.manual_seed(1)
        random.seed(1)
        folder = tmp_path / str(len(callbacks))
        folder.mkdir()
        module = make(kind, tiny, **options())
        data = toy_data([Random("a"), Random("b")], steps=4, **of_data)
        made = fit(folder, module, data, *callbacks, rollout=rollout_callback(rewards=lively()), logger=Numbers(folder))
        found = {n: float(v) for n, v in made.callback_metrics.items() if not n.startswith(("time/", "rollout/tokens"))}
        logged.append(found)
        ends.append(dict(module.state_dict()) | {"random": torch.get_rng_state()})
    assert_equal(*ends)
    assert_same(*logged)
    found = read(tmp_path / "1")
    assert [step for step, values in found.items() if "alignment/a" in values] == [4, 5, 6, 7]
    assert all(abs(value) <= 1 + 1e-6 for values in found.values() for n, value in values.items() if "tokens" not in n)


def test_the_objective_of_other_rollouts_leaves_no_trace(tmp_path, tiny):
    """What a method remembers of its windows, what is tallied, and the parameters' own gradients."""
    module = make(SDPO, tiny, teacher=GatedTeacher(check_every=1, min_age=0, reward_gain=0.0, window=1))
    run = Run(tmp_path, module, toy_data(["a", "b"], steps=2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    gradients = objective_gradient(module.trainer, module, run.rollouts(3), stage=0)
    assert [g.shape for g in gradients] == [p.shape for p in module.policy.parameters()]
    assert max(float(g.abs().max()) for g in gradients) > 1e-4
    assert_equal(dict(module.state_dict()), before)
    assert module._tally == {}
    assert all(p.grad is None for p in module.policy.parameters())


@pytest.mark.slow
def test_it_resumes_bit_for_bit(tmp_path, tiny):
    def run(ckpt_path=None):
        module = model(tiny)
        callbacks = GradientAlignment(every_n_steps=2, prompts=2), TensorBoardLayout()
        made = train(tmp_path, module, stream(), *callbacks, ckpt_path=ckpt_path, logger=Numbers(tmp_path))
        return final(made, module), read(tmp_path)

    whole, found = run()
    assert list(found) == [4, 6]
    (tmp_path / FILE).unlink()
    again, rest = run(tmp_path / "checkpoints" / "step=5.ckpt")
    assert_same(again, whole)
    assert rest == {6: found[6]}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["grpo", "sdpo"])
def test_two_processes_measure_what_one_does(tmp_path, tiny, kind):
    """3 prompts are no even number."""
    ends = []
    for name, options in (("one", {}), ("two", {"strategy": "ddp_fork", "devices": 2})):
        (tmp_path / name).mkdir()
        module = method(kind, tiny)
        callback = GradientAlignment(every_n_steps=1, prompts=3)
        fit(
            tmp_path / name, module, toy_data(["a", "b"], steps=2), callback, logger=Numbers(tmp_path / name), **options
        )
        ends.append(read(tmp_path / name))
    assert list(ends[0]) == list(ends[1]) == [2, 3]
    for step, values in ends[0].items():
        assert ends[1][step] == pytest.approx(values, abs=1e-4)


# ------------------------------------------------------------------------------------------------------------- bounds
def test_flat_groups_have_no_cosine(tmp_path, tiny):
    """No row of the earlier task has a gradient: left out, not zero, and no mean of nothing."""
    data = toy_data([Toy("a", score=lambda text: 1.0), "b"], steps=1)
    found = measured(tmp_path, make(GRPO, tiny), data)[1]
    assert set(found[1]) == {"alignment/tokens"}
    assert found[1]["alignment/tokens"] > 0


def test_a_step_that_is_not_taken_is_not_measured(tmp_path, tiny):
    data = toy_data(["a", Toy("b", score=lambda text: 1.0)], steps=1)
    assert measured(tmp_path, make(GRPO, tiny), data)[1:] == ({}, [])


def test_a_task_that_is_trained_again_is_no_earlier_one(tmp_path, tiny):
    tasks = [Toy("a"), Toy("b")]
    stages = [Stage(task=task, steps=1, prompts_per_step=3) for task in (*tasks, tasks[0])]
    data = ContinualDataModule(stages, eval_prompts=4, eval_generations=2, seed=3)
    found = measured(tmp_path, make(GRPO, tiny), data)[1]
    assert [set(values) - {"alignment/mean", "alignment/tokens"} for values in found.values()] == [
        {"alignment/a"},
        {"alignment/b"},
    ]


@pytest.mark.parametrize(
    ("options", "data", "words"),
    [
        ({"every_n_steps": 0}, {}, "every_n_steps"),
        ({"prompts": 0}, {}, "prompts"),
        ({}, {"tasks": ["mean", "b"]}, "called 'mean'"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, tiny, options, data, words):
    with pytest.raises((UserError, ValueError), match=words):
        fit(tmp_path, method("grpo", tiny), toy_data(**data), GradientAlignment(**options))


def test_a_module_of_another_project_is_refused(tmp_path):
    with pytest.raises(UserError, match="objective"):
        scripted_trainer(tmp_path, GradientAlignment()).fit(Scripted(), Stream())
