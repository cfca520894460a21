"""Compare the results of a case with what the file expects."""

from __future__ import annotations

import math
from typing import Any

import torch

from tests.golden import remedies as remedies  # its groups enter GROUPS
from tests.golden.evaluate import GROUPS, Case

TOLERANCES = {"float64": {"rtol": 1e-9, "atol": 1e-12}, "float32": {"rtol": 2e-4, "atol": 2e-6}}
ANGLE_ATOL = 1e-7  # the file's own angles near 0 come through arccos


def close(actual: Any, expected: Any, rtol: float, atol: float) -> bool:
    actual = float(actual)
    expected = math.nan if expected is None else float(expected)
    if math.isnan(expected) or math.isinf(expected):
        return actual == expected or (math.isnan(actual) and math.isnan(expected))
    return abs(actual - expected) <= atol + rtol * abs(expected)


def differences(name: str, actual: Any, expected: Any, rtol: float, atol: float) -> list[str]:
    """One sentence per leaf that differs."""
    if isinstance(actual, torch.Tensor):
        actual = actual.detach().tolist()
    if isinstance(expected, dict):
        if not isinstance(actual, dict) or set(actual) != set(expected):
            return [f"{name}: other keys than expected"]
        return [d for key in expected for d in differences(f"{name}.{key}", actual[key], expected[key], rtol, atol)]
    if isinstance(expected, list):
        if not isinstance(actual, list) or len(actual) != len(expected):
            return [f"{name}: {actual!r} is not {expected!r}"]
        pairs = enumerate(zip(actual, expected, strict=True))
        return [d for n, (a, e) in pairs for d in differences(f"{name}[{n}]", a, e, rtol, atol)]
    if isinstance(expected, str | bool) or isinstance(actual, str | list | dict):
        return [] if actual == expected else [f"{name}: {actual!r} is not {expected!r}"]
    return [] if close(actual, expected, rtol, atol) else [f"{name}: {actual!r} is not {expected!r}"]


def check_case(case: Case, dtype: str, tolerances: dict[str, dict[str, float]] | None = None) -> list[str]:
    """Evaluate one case; what differs, in words, or nothing."""
    if case["group"] not in GROUPS:
        return [f"unknown group {case['group']!r}"]
    tolerance = {**TOLERANCES, **(tolerances or {})}[dtype]
    rtol, atol = tolerance["rtol"], tolerance["atol"]
    actual = GROUPS[case["group"]](case, getattr(torch, dtype))
    found = []
    for key, expected in case["expected"].items():
        if key == "grad_entries":
            for entry in expected:
                value = actual["grad"][tuple(entry["index"])]
                found += differences(f"grad{entry['index']}", value, entry["value"], rtol, atol)
        elif key not in actual:
            found.append(f"{key}: not computed")
        else:
            angle = key.endswith(("_angles", "_max")) and case["group"] == "subspace"
            found += differences(key, actual[key], expected, rtol, max(atol, ANGLE_ATOL) if angle else atol)
    return found


def case_dtype(case: Case, file: dict[str, Any]) -> str:
    """The dtype a case asks for, else that of its file."""
    return str(case.get("dtype") or file.get("dtype") or "float64")
