"""Every public constructor refuses numbers that it cannot work with: walked over by its signatures."""

import inspect
import typing
from types import UnionType

import pytest
import torch

import lit_sdpo
from lit_sdpo.data.check.overlap import OverlapFinder
from lit_sdpo.errors import UserError
from lit_sdpo.messages import explain_building
from lit_sdpo.metrics import PassAtK, RepetitionShare, RetentionMatrix, TransitionShares
from lit_sdpo.optimizers import PaperAdamW, SDPOAdamW
from lit_sdpo.policies.load import Lora
from lit_sdpo.ranges import OutOfRangeError, check_integer, check_number, check_optimizer
from lit_sdpo.report.health import Watch
from lit_sdpo.rewards.failures import FailureLimit
from lit_sdpo.rewards.numeric import NumberNear
from lit_sdpo.rewards.sandbox.sandbox import Sandbox
from lit_sdpo.rollouts.engines.vllm import VLLMEngine
from tests.tiny_model import FILES
from tests.training import Toy, toy_data

#: Public classes that configurations name beside those of the package's own list.
FURTHER = [FailureLimit, Lora, NumberNear, OverlapFinder, PaperAdamW, PassAtK, RepetitionShare, RetentionMatrix]
FURTHER += [SDPOAdamW, Sandbox, TransitionShares, VLLMEngine, Watch]
#: They hold what a run has produced, and are made by the package alone.
RECORDS = {"Rollouts", "Row", "Verdict", "UserError", "Source"}
PUBLIC = [getattr(lit_sdpo, name) for name in lit_sdpo.__all__ if name not in RECORDS]
CLASSES = [each for each in PUBLIC if isinstance(each, type) and not inspect.isabstract(each)]

#: Options of a base that a class decides itself.
OWN = {
    "GeoSD": {"alpha", "top_k", "tail"},
    "OnPolicyDistillation": {"alpha", "top_k", "tail"},
    "MicroDataModule": {"stages", "probes"},
}

#: What no number may be, whatever its range.
NEVER = [float("nan"), float("inf"), float("-inf"), "one", "1", True, [1], -1e9, -(10**9)]
#: What no whole number may be.
NEVER_WHOLE = [1.5, 10**30]


@pytest.fixture(autouse=True, scope="module")
def one_tokenizer():
    """Methods load one each time they are built."""
    tokenizer = lit_sdpo.modules.base.load_tokenizer("micro")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lit_sdpo.modules.base.load_tokenizer", lambda name, *trusted: tokenizer)
        yield


def needed(kind):
    """Arguments that a class cannot do without."""
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    return {
        "model_name": lambda: "micro",
        "optimizer": lambda: torch.optim.SGD([weight], lr=1.0),
        "params": lambda: [weight],
        "parameters": lambda: [("weight", weight)],
        "stages": lambda: toy_data().stages,
        "task": lambda: "gsm8k" if kind.__name__ == "NamedTask" else Toy(),
        "total_steps": lambda: 10,
        "tasks": lambda: 2,
        "k": lambda: 1,
        "teachers": lambda: {"a": lit_sdpo.FrozenTeacher()},
        "name": lambda: "a",
        "domain": lambda: "math",
        "validation": lambda: "rows.jsonl",
    }


def parameters(kind):
    """Parameters with their types, those that are passed on to bases included."""
    found = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base) or not base.__module__.startswith("lit_sdpo"):
            continue
        hints = typing.get_type_hints(base.__init__)
        signature = list(inspect.signature(base.__init__).parameters.values())[1:]
        found = {
            p.name: (p, hints.get(p.name)) for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        } | found
        if not any(p.kind == p.VAR_KEYWORD for p in signature):
            break
    return {name: entry for name, entry in found.items() if name not in OWN.get(kind.__name__, ())}


def numeric(hint):
    """``int`` or ``float`` where a hint is one of them, perhaps with ``None``."""
    some = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)
    return next((each for each in some if each in (int, float)), None)


def cases():
    for kind in [*CLASSES, *FURTHER]:
        for name, (_, hint) in parameters(kind).items():
            if numeric(hint) is not None:
                yield pytest.param(kind, name, numeric(hint), id=f"{kind.__name__}.{name}")
            elif name == "betas":
                yield pytest.param(kind, name, "pair", id=f"{kind.__name__}.{name}")


def build(kind, **options):
    made = {name: make() for name, make in needed(kind).items() if name in parameters(kind)}
    if kind is lit_sdpo.JsonlTask:
        options |= {"train": str(FILES / "gsm8k_train.jsonl")}
    required = {n for n, (p, _) in parameters(kind).items() if p.default is p.empty}
    return kind(**({name: value for name, value in made.items() if name in required} | options))


def test_the_walk_sees_the_package():
    assert len(list(cases())) > 90


@pytest.mark.parametrize(("kind", "name", "what"), [*cases()])
def test_numbers_out_of_range_are_refused(kind, name, what):
    values = NEVER + (NEVER_WHOLE if what is int else [1e39])
    values = [(value, 0.9) for value in values] if what == "pair" else values
    for value in values:
        with pytest.raises(OutOfRangeError) as caught:
            build(kind, **{name: value})
        assert name in str(caught.value), value
        assert "has to be" in str(caught.value)


@pytest.mark.parametrize(("kind", "name", "what"), [*cases()])
def test_what_is_given_by_default_is_in_range(kind, name, what):
    default = parameters(kind)[name][0].default
    if default is not inspect.Parameter.empty:
        build(kind, **{name: default})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        case.values[:2]
        for case in cases()
        if case.values[1]
        in (
            "lr",
            "weight_decay",
            "update_rate",
            "kl_beta",
            "strength",
            "replay_coefficient",
            "outcome_coefficient",
            "distillation_coefficient",
            "anchor_coefficient",
            "prompt_anchor_coefficient",
            "continual_mopd_coefficient",
            "warmup_steps",
        )
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_rates_and_coefficients_may_be_zero(kind, name):
    build(kind, **{name: 0})


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (lit_sdpo.GRPO, {"clip_eps_low": 0.0}),
        (lit_sdpo.GRPO, {"clip_eps_low": 1.5}),
        (lit_sdpo.GRPO, {"clip_eps_high": 0.0}),
        (lit_sdpo.CISPO, {"ratio_min": 1.5}),
        (lit_sdpo.CISPO, {"ratio_max": 0.5}),
        (lit_sdpo.SDPO, {"importance_clip": 0.0}),
        (lit_sdpo.SDPO, {"token_mask": 1.0}),
        (lit_sdpo.SDPO, {"alpha": 1.01}),
        (Lora, {"alpha": 0}),
        (Lora, {"rank": 0}),
        (Lora, {"dropout": 1.0}),
        (lit_sdpo.Sampling, {"temperature": 1e-45}),
        (lit_sdpo.Sampling, {"temperature": 1e9}),
        (lit_sdpo.Sampling, {"top_p": 0.0}),
        (lit_sdpo.EMATeacher, {"update_rate": 1.1}),
        (lit_sdpo.WeightAnchor, {"share": 0.0}),
        (lit_sdpo.Reprompt, {"success_threshold": 0.0}),
        (lit_sdpo.MuonAdamW, {"betas": (0.9, 1.0)}),
        (lit_sdpo.MuonAdamW, {"momentum": 1.0}),
        (lit_sdpo.WarmupLinearDecay, {"decay_share": 2.0}),
        (lit_sdpo.RolloutCallback, {"seed": 2**32}),
        (lit_sdpo.WeightedRewards, {"weights": {"verifier": float("nan")}}),
        (lit_sdpo.ForgettingMatrix, {"choices": {"math": 1}}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else next(iter(value)),
)
def test_edges(kind, options):
    with pytest.raises(OutOfRangeError):
        build(kind, **options)


def optimizer(kind, **options):
    return kind([torch.nn.Parameter(torch.zeros(2, 2))], **options)


@pytest.mark.parametrize(
    ("kind", "options", "where"),
    [
        (torch.optim.SGD, {"lr": float("nan")}, "lr"),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 1.5}, "momentum"),
        (torch.optim.AdamW, {"weight_decay": float("inf")}, "weight_decay"),
        (torch.optim.AdamW, {"betas": (0.9, float("nan"))}, "betas"),
        (torch.optim.AdamW, {"maximize": True}, "maximize"),
        (torch.optim.RMSprop, {"alpha": float("nan")}, "alpha"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_any_optimizer_is_looked_at(kind, options, where):
    try:
        made = optimizer(kind, **options)
    except ValueError:
        pytest.skip("torch refuses it itself")
    with pytest.raises(UserError) as caught:
        check_optimizer(made)
    assert caught.value.where == f"model.optimizer.{where}"


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adagrad, torch.optim.NAdam, torch.optim.Rprop])
def test_optimizers_as_they_come_are_fine(kind):
    check_optimizer(optimizer(kind))


def test_what_is_built_wrongly_is_explained_before_the_first_step():
    module = lit_sdpo.SFT("micro", optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=-1.0))
    module.configure_model()
    with pytest.raises(UserError, match=r"model\.optimizer: .*-1\.0"):
        module.configure_optimizers()
    module = lit_sdpo.SFT("micro", scheduler=lambda optimizer: lit_sdpo.WarmupConstant(optimizer, warmup_steps=-1))
    module.configure_model()
    with pytest.raises(UserError, match=r"model\.scheduler: .*warmup_steps"):
        module.configure_optimizers()


def test_the_key_of_a_number_is_found():
    try:
        lit_sdpo.Sampling(top_p=3)
    except OutOfRangeError as error:
        mistake = explain_building(error, ["model.top_p", "rollout.sampling.top_p"][1:])
    assert mistake.where == "rollout.sampling.top_p"
    assert mistake.what == "top_p has to be a number above 0 and at most 1, got 3"


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"at_least": 0, "at_most": 1}, "a number from 0 to 1"),
        ({"at_least": 0, "below": 1}, "a number from 0 to below 1"),
        ({"above": 0}, "a number above 0"),
        ({"above": 0, "below": 2}, "a number above 0 and below 2"),
        ({"at_least": 1}, "a number of at least 1"),
        ({"at_most": 1}, "a number to 1"),
        ({}, "a number"),
    ],
)
def test_ranges_are_told(limits, text):
    with pytest.raises(OutOfRangeError) as caught:
        check_number("x", float("nan"), **limits)
    assert caught.value.what == f"x has to be {text}, got nan"


def test_whole_numbers():
    assert check_integer("n", None, optional=True) is None
    assert check_integer("n", -1, at_least=1, or_minus_one=True) == -1
    with pytest.raises(OutOfRangeError, match="a whole number from 0 to 2147483647, got 10"):
        check_integer("n", 10**10)
