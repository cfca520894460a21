"""Inputs of the golden cases: closed formulas of row b, position t and vocabulary entry v, in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

F64 = torch.float64


def _axis(n: int) -> Tensor:
    return torch.arange(n, dtype=F64)


def _btv(inputs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    b, t, v = (_axis(inputs[key]) for key in ("B", "T", "V"))
    return b[:, None, None], t[None, :, None], v


def peak(inputs: dict[str, Any], a: int, c: int, d: int) -> Tensor:
    B, T, V = (inputs[key] for key in ("B", "T", "V"))
    out = torch.zeros(B, T, V, dtype=F64)
    for b in range(B):
        for t in range(T):
            for j in range(12):
                out[b, t, (a * j + c * t + d * b + 2) % V] += 5 - 0.4 * j
    return out


def student(inputs: dict[str, Any]) -> Tensor:
    b, t, v = _btv(inputs)
    form = 2 * (0.7 * b + 1.3 * t + 0.37 * v + 0.1).sin() + 0.5 * (0.011 * v * (t + 1) + b).cos()
    return _scaled(form + peak(inputs, 17, 5, 3), inputs.get("student"))


def teacher(inputs: dict[str, Any]) -> Tensor:
    if inputs.get("teacher") == "student":
        return student(inputs)
    b, t, v = _btv(inputs)
    form = 2 * (0.5 * b + 0.9 * t + 0.41 * v + 0.2).cos() + 0.5 * (0.013 * v * (t + 1) - b).sin()
    return _scaled(form + peak(inputs, 17, 5, 4), inputs.get("teacher"))


def third(inputs: dict[str, Any]) -> Tensor:
    b, t, v = _btv(inputs)
    return 1.5 * (0.3 * b - 0.8 * t + 0.29 * v + 0.5).sin()


def _scaled(form: Tensor, change: dict[str, float] | None) -> Tensor:
    change = change or {}
    return change.get("scale", 1.0) * form + change.get("shift", 0.0)


def ids(inputs: dict[str, Any]) -> Tensor:
    b, t = torch.arange(inputs["B"])[:, None], torch.arange(inputs["T"])
    return (3 * b + 5 * t + 1) % inputs["V"]


def response_mask(inputs: dict[str, Any]) -> Tensor:
    return torch.arange(inputs["T"]) < torch.tensor(inputs["response_lengths"])[:, None]


def active_mask(inputs: dict[str, Any]) -> Tensor:
    rows = torch.tensor(inputs.get("teacher_mask", [1] * inputs["B"])).bool()
    return response_mask(inputs) & rows[:, None]


def _bt(inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return _axis(inputs["B"])[:, None], _axis(inputs["T"])


def offset(inputs: dict[str, Any], amplitude: float) -> Tensor:
    b, t = _bt(inputs)
    return amplitude * (1.9 * b + 0.8 * t + 0.3).sin()


def logp(inputs: dict[str, Any]) -> Tensor:
    b, t = _bt(inputs)
    return -1 - 0.8 * (0.7 * b + 0.31 * t + 0.2).sin()


def old(inputs: dict[str, Any], amplitude: float = 0.6) -> Tensor:
    return logp(inputs) + offset(inputs, amplitude)


def ref(inputs: dict[str, Any]) -> Tensor:
    b, t = _bt(inputs)
    return logp(inputs) + 0.5 * (1.1 * b - 0.5 * t + 0.7).cos()


def rollout(inputs: dict[str, Any]) -> Tensor:
    b, t = _bt(inputs)
    return logp(inputs) + offset(inputs, 0.6) + 0.9 * (0.6 * b + 1.7 * t - 0.4).sin()


def advantages(inputs: dict[str, Any]) -> Tensor:
    given = inputs.get("advantages")
    if isinstance(given, list):
        return torch.tensor(given, dtype=F64)
    return 1.5 * (1.7 * _axis(inputs["B"]) + 0.4).cos()


def weights(shape: list[int], tag: float = 0.0) -> Tensor:
    i, j = _axis(shape[0])[:, None], _axis(shape[1])
    return (0.9 * i + 0.53 * j + tag).sin() + 0.3 * (0.17 * i * j + tag).cos()


def moved_weights(shape: list[int], tag: float, eps: float) -> Tensor:
    i, j = torch.arange(shape[0])[:, None], torch.arange(shape[1])
    step = eps * (1.3 * i.to(F64) - 0.7 * j.to(F64) + tag).cos()
    return torch.where((i + 2 * j) % 3 == 0, weights(shape, tag) + step, weights(shape, tag))


def ema_student(shape: list[int], step: int) -> Tensor:
    i, j = _axis(shape[0])[:, None], _axis(shape[1])
    return weights(shape) + 0.01 * (step + 1) * (1.3 * i - 0.7 * j).cos()


def features(n: int, d: int, tag: float) -> Tensor:
    i, j = _axis(n)[:, None], _axis(d)
    return (0.8 * i + 0.45 * j + tag).sin() + 0.2 * i * (j + tag).cos() / n + 0.4 * tag


def documents(inputs: dict[str, Any], a: int) -> list[list[int]]:
    return [[(a * i + i * t + t * t) % inputs["vocab"] for t in range(inputs["length"])] for i in range(inputs["docs"])]
