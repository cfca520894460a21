"""Ranges of numbers that a constructor takes, checked in one place.

What lies outside would reverse an objective, switch it off or end in numbers that are none. Rates and coefficients may
be 0, which leaves their part out on purpose.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from lit_sdpo.errors import UserError

if TYPE_CHECKING:
    from torch.optim import Optimizer

#: Largest number that float32 can hold; losses are computed in it.
LARGEST = 3.4e38
#: Smallest number that can divide others in float32.
SMALLEST = 1e-30
#: Largest count: what a 32-bit signed integer can hold.
MOST = 2**31 - 1
#: Largest number of bytes: what a 64-bit signed integer can hold.
MOST_BYTES = 2**63 - 1
#: Largest seed that NumPy and Lightning take.
LARGEST_SEED = 2**32 - 1


class OutOfRangeError(UserError, ValueError):
    """A number that a constructor does not take."""


def check_number(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    optional: bool = False,
) -> Any:
    """A finite number within a range, as it was given.

    Args:
        name: Name of the argument.
        value: What was given.
        at_least: Smallest value.
        above: All values are larger; above 0 they can also divide others in float32.
        at_most: Largest value.
        below: All values are smaller.
        optional: ``None`` is a value too.

    Raises:
        OutOfRangeError: With the range.

    Example:
        >>> check_number("coefficient", 0.5, at_least=0)
        0.5
        >>> check_number("coefficient", float("nan"), at_least=0)
        Traceback (most recent call last):
        lit_sdpo.ranges.OutOfRangeError: coefficient has to be a number of at least 0, got nan
    """
    if value is None and optional:
        return value
    if _is_finite(value):
        low = at_least is None or value >= at_least
        high = at_most is None or value <= at_most
        inside = (above is None or value > above) and (below is None or value < below)
        if low and high and inside and not (above == 0 and value < SMALLEST):
            return value
    raise OutOfRangeError(_text(name, value, f"a number{_range(at_least, above, at_most, below)}", optional))


def check_integer(
    name: str, value: Any, *, at_least: int = 0, at_most: int = MOST, or_minus_one: bool = False, optional: bool = False
) -> Any:
    """A whole number within a range, as it was given.

    Args:
        name: Name of the argument.
        value: What was given.
        at_least: Smallest value.
        at_most: Largest value.
        or_minus_one: -1 is a value too.
        optional: ``None`` is a value too.

    Raises:
        OutOfRangeError: With the range.

    Example:
        >>> check_integer("every", 0, at_least=1)
        Traceback (most recent call last):
        lit_sdpo.ranges.OutOfRangeError: every has to be a whole number of at least 1, got 0
    """
    if value is None and optional:
        return value
    counts = isinstance(value, Integral) and not isinstance(value, bool)
    if counts and (at_least <= value <= at_most or (or_minus_one and value == -1)):
        return value
    kind = f"a whole number of at least {at_least}"
    if at_most != MOST or (counts and value > at_most):
        kind = f"a whole number from {at_least} to {at_most}"
    raise OutOfRangeError(_text(name, value, kind + (", or -1" if or_minus_one else ""), optional))


def check_share(name: str, value: Any) -> Any:
    """A number from 0 to 1, as it was given.

    Raises:
        OutOfRangeError: With the range.
    """
    return check_number(name, value, at_least=0, at_most=1)


def check_seed(name: str, value: Any, *, optional: bool = False) -> Any:
    """A seed that every generator takes.

    Raises:
        OutOfRangeError: With the range.
    """
    return check_integer(name, value, at_most=LARGEST_SEED, optional=optional)


def check_optimizer(optimizer: Optimizer) -> None:
    """Whether an optimizer, of whatever library, lowers the loss with the numbers that it was built with.

    torch's own checks let nan pass, and what other libraries check differs.

    Raises:
        UserError: Its rates, decays, momenta or betas are out of range, or it would raise the loss.
    """
    kind = type(optimizer).__name__
    for group in optimizer.param_groups:
        if group.get("maximize"):
            raise UserError(f"{kind} would raise the loss", where="model.optimizer.maximize", fix="leave it out")
        for name, value in _numbers(group):
            below = 1.0 if name.startswith(("beta", "momentum")) else None
            try:
                check_number(name, value, at_least=0, below=below)
            except OutOfRangeError as error:
                key = name.partition("[")[0]
                raise UserError(f"{error.what} ({kind})", where=f"model.optimizer.{key}") from error


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and bool(abs(value) <= LARGEST)  # type: ignore[operator]


def _numbers(group: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Numbers of a parameter group, those in tuples one by one."""
    for name, value in group.items():
        if name in ("params", "param_names") or isinstance(value, bool):
            continue
        if isinstance(value, tuple | list):
            yield from ((f"{name}[{i}]", part) for i, part in enumerate(value) if isinstance(part, Real))
        elif isinstance(value, Real):
            yield name, value


def _range(at_least: float | None, above: float | None, at_most: float | None, below: float | None) -> str:
    low = f"from {at_least:g}" if at_least is not None else f"above {above:g}" if above is not None else ""
    high = f"to {at_most:g}" if at_most is not None else f"to below {below:g}" if below is not None else ""
    if low and not high:
        return f" of at least {at_least:g}" if at_least is not None else f" {low}"
    if above is not None and high:
        return f" {low} and " + (f"at most {at_most:g}" if at_most is not None else f"below {below:g}")
    return "".join(f" {part}" for part in (low, high) if part)


def _text(name: str, value: Any, kind: str, optional: bool) -> str:
    return f"{name} has to be {kind}{', or null' if optional else ''}, got {reprlib.repr(value)}"
