"""What objects were made with: plain values that any checkpoint can hold, whatever a user's objects are like."""

import io
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from lit_sdpo.checkpoints.settings import CLASS, LONGEST, settings_of
from lit_sdpo.policies.teachers import EMATeacher
from lit_sdpo.rewards.combine import WeightedRewards


class Level(IntEnum):
    HIGH = 2


@dataclass
class Options:
    rate: float
    inner: object = None


class Slotted:
    __slots__ = ("rate",)

    def __init__(self, rate):
        self.rate = rate


class Forgetful:
    def __init__(self, rate, *rest, **more):
        self.other = rate


class Module(pl.LightningModule):
    def __init__(self, width, rate=0.1, layer=None):
        super().__init__()
        self.save_hyperparameters(ignore=["layer"])
        self.layer = torch.nn.Linear(width, width)
        self.width = width


def name(kind):
    return f"{kind.__module__}.{kind.__qualname__}"


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (np.float64(0.5), 0.5),
        (Level.HIGH, 2),
        (torch.bfloat16, "torch.bfloat16"),
        (torch.optim.SGD, name(torch.optim.SGD)),
        (partial(torch.optim.SGD, lr=0.1), {CLASS: name(torch.optim.SGD), "lr": 0.1}),
        (Options(0.5, [Options(1.0)]), {CLASS: name(Options), "rate": 0.5, "inner": [
            {CLASS: name(Options), "rate": 1.0, "inner": None}
        ]}),
        (Slotted(0.5), {CLASS: name(Slotted), "rate": 0.5}),
        (Forgetful(0.5), {CLASS: name(Forgetful)}),
        (list(range(LONGEST + 1)), f"builtins.list of {LONGEST + 1}"),
        (WeightedRewards(weights={"verifier": 2.0})  , {
            CLASS: name(WeightedRewards), "components": {}, "weights": {"verifier": 2.0}
        }),
    ],
)  # fmt: skip
def test_settings(thing, expected):
    assert settings_of(thing) == expected


def test_of_a_teacher_its_options_and_of_a_module_its_hyper_parameters():
    teacher = settings_of(EMATeacher(0.3))
    assert teacher["update_rate"] == 0.3
    assert teacher["at_stage"] == "keep"
    assert settings_of(Module(3)) == {CLASS: name(Module), "width": 3, "rate": 0.1}


def test_objects_that_know_each_other_come_to_an_end():
    one = Options(0.5)
    one.inner = Options(1.0, one)
    assert settings_of(one)["inner"]["inner"]["rate"] == 0.5


def test_a_checkpoint_with_them_can_be_read_as_plain_values():
    file = io.BytesIO()
    torch.save(settings_of([np.float32(1), np.int64(2), Level.HIGH, Options(np.float64(3)), object()]), file)
    file.seek(0)
    assert torch.load(file, weights_only=True)[:2] == [1.0, 2]
