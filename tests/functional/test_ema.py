from __future__ import annotations

import pytest
import torch

from lit_sdpo.functional import ema_update_


def test_closed_form_after_many_steps():
    teacher, student = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, -2.0, 5.0])
    for _ in range(50):
        ema_update_([teacher], [student], rate=0.05)
    torch.testing.assert_close(teacher, (1 - 0.95**50) * student.double(), rtol=1e-12, atol=0)


def test_rate_zero_keeps_and_one_copies_bit_for_bit():
    start, student = torch.randn(100), torch.randn(100)
    student[0] = torch.inf
    teacher = start.clone()
    ema_update_([teacher], [student], rate=0)
    assert torch.equal(teacher, start)
    ema_update_([teacher], [student], rate=1)
    assert torch.equal(teacher, student)


def test_a_bfloat16_student_moves_a_float32_average_by_tiny_steps():
    teacher, student = torch.ones(1), torch.full((1,), 1.0078125, dtype=torch.bfloat16)
    for _ in range(10):
        ema_update_([teacher], [student], rate=0.001)
    assert teacher.item() == pytest.approx(1 + 0.0078125 * (1 - 0.999**10), rel=1e-6)


def test_parameters_are_updated_in_place_without_a_graph():
    teacher, student = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    place = teacher.weight.data_ptr()
    ema_update_(teacher.parameters(), student.parameters(), rate=0.5)
    assert teacher.weight.data_ptr() == place
    assert teacher.weight.grad_fn is None


def test_mistakes():
    with pytest.raises(ValueError, match="rate"):
        ema_update_([], [], rate=1.5)
    with pytest.raises(ValueError, match="float32"):
        ema_update_([torch.zeros(1, dtype=torch.bfloat16)], [torch.zeros(1)], rate=0.5)
    with pytest.raises(ValueError, match="zip"):
        ema_update_([torch.zeros(1)], [], rate=0.5)
