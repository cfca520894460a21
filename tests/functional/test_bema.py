from __future__ import annotations

import pytest
import torch

from lit_sdpo.functional import bema_update_, ema_update_

F64 = torch.float64


def unrolled(start, students, ema_power, bias_power, lag, multiplier, least=0.0):
    """The average as a weighted sum of all weights so far, in plain numbers."""
    betas = [max((lag + multiplier * t) ** -ema_power, least) for t in range(1, len(students) + 1)]
    average, left = 0.0, 1.0
    for student, beta in zip(reversed(students), reversed(betas), strict=True):
        average += left * beta * student
        left *= 1 - beta
    average += left * start
    age = lag + multiplier * len(students)
    return average, average + age**-bias_power * (students[-1] - start)


@pytest.mark.parametrize("least", [0.0, 0.4])
def test_the_average_is_a_weighted_sum(least):
    start, students = 0.3, [0.5, -1.0, 2.0, 0.7, 0.1]
    average = [torch.tensor(start, dtype=F64)]
    for step, student in enumerate(students, 1):
        result = bema_update_(
            average,
            [torch.tensor(student)],
            [torch.tensor(start, dtype=F64)],
            step,
            ema_power=0.7,
            bias_power=0.3,
            lag=2.5,
            multiplier=0.5,
            min_ema_multiplier=least,
        )
    expected = unrolled(start, [torch.tensor(s).double().item() for s in students], 0.7, 0.3, 2.5, 0.5, least)
    assert average[0].item() == pytest.approx(expected[0], rel=1e-12)
    assert result[0].item() == pytest.approx(expected[1], rel=1e-12)


def test_only_multiples_of_the_frequency_change_anything():
    average, start = [torch.zeros(2)], [torch.zeros(2)]
    changed = [bema_update_(average, [torch.ones(2)], start, step, frequency=3) is not None for step in range(1, 8)]
    assert changed == [False, False, True, False, False, True, False]


def test_without_a_correction_it_is_a_plain_average():
    average, plain, start = torch.zeros(3), torch.zeros(3), torch.zeros(3)
    for step in range(1, 5):
        student = torch.randn(3)
        (result,) = bema_update_([average], [student], [start], step, bias_power=None, lag=0.0, ema_power=1.0)
        ema_update_([plain], [student], rate=1 / step)
    torch.testing.assert_close(result, plain)
    assert torch.equal(result, average)
    assert result.data_ptr() != average.data_ptr()


def test_the_policy_is_left_alone_and_may_be_rounded():
    student, start = torch.nn.Parameter(torch.full((1,), 1.0078125).bfloat16()), torch.ones(1).bfloat16()
    average = [torch.ones(1)]
    (result,) = bema_update_(average, [student], [start], 1, lag=3.0)
    assert result.item() == pytest.approx(1 + 0.0078125 * (0.5 + 4**-0.2), rel=1e-6)
    assert result.grad_fn is None
    assert student.item() == 1.0078125


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0}, "at least 1"),
        ({"frequency": 0}, "at least 1"),
        ({"ema_power": -0.1}, "powers"),
        ({"bias_power": -0.1}, "powers"),
        ({"min_ema_multiplier": 1.5}, "powers"),
        ({"lag": -1.0}, "above 0"),
        ({"average": [torch.zeros(1).bfloat16()]}, "float32"),
        ({"start": []}, "zip"),
    ],
)
def test_mistakes(options, message):
    given = {"average": [torch.zeros(1)], "current": [torch.zeros(1)], "start": [torch.zeros(1)], "step": 1}
    with pytest.raises(ValueError, match=message):
        bema_update_(**(given | options))
