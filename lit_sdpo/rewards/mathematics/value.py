"""Values of formulas: exact where they are rational, else with as many bits as the numbers on the way need."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from math import comb, factorial
from typing import Any

from lit_sdpo.rewards.mathematics.formula import Node

#: Bits of a value beyond what its own size needs.
BITS = 400
#: Bits of a number, of exact results and of precision, that are still evaluated.
LARGEST = 30_000
_local = threading.local()


class NoValueError(ArithmeticError):
    """The formula has no value there, or none that can be computed."""


class TooLargeError(NoValueError):
    """A number on the way is too large or too small."""


def context() -> Any:
    """The arithmetic of this thread; the precision of mpmath's own is shared by all."""
    if not hasattr(_local, "mp"):
        from mpmath import MPContext

        _local.mp = MPContext()
    return _local.mp


@lru_cache(maxsize=16384)
def exact(node: Node) -> Fraction | None:
    """The value as a fraction, where it is one by whole powers, quotients, factorials and the like.

    Raises:
        NoValueError: For a division by zero.
    """
    if node.op == "num":
        return Fraction(node.value)
    if node.op not in _EXACT:
        return None
    values = [exact(part) for part in node.args]
    if any(value is None for value in values):
        return None
    known = [value for value in values if value is not None]
    if sum(value.numerator.bit_length() + value.denominator.bit_length() for value in known) > 4 * LARGEST:
        return None
    return _EXACT[node.op](*known)


def _divided(above: Fraction, below: Fraction) -> Fraction:
    if not below:
        raise NoValueError("division by zero")
    return above / below


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        return None
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if size > 1 and size * abs(exponent) > 4 * LARGEST:
        return None
    if not base and exponent <= 0:
        raise NoValueError("zero to a power that is not positive")
    return Fraction(base**exponent.numerator)


def _factorial(value: Fraction) -> Fraction | None:
    if value < 0 and value.denominator == 1:
        raise NoValueError("the factorial of a negative number")
    return Fraction(factorial(value.numerator)) if value.denominator == 1 and value < 5000 else None


def _binomial(above: Fraction, below: Fraction) -> Fraction | None:
    whole = above.denominator == below.denominator == 1 and 0 <= below <= above < 10000
    return Fraction(comb(above.numerator, below.numerator)) if whole else None


_EXACT: dict[str, Callable[..., Fraction | None]] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "neg": lambda a: -a,
    "div": _divided,
    "pow": _power,
    "abs": abs,
    "norm": abs,
    "floor": lambda a: Fraction(a.numerator // a.denominator),
    "ceil": lambda a: Fraction(-(-a.numerator // a.denominator)),
    "factorial": _factorial,
    "binomial": _binomial,
}


class _Evaluation:
    """One evaluation at one point: real where there are variables and no ``i``, else complex."""

    def __init__(self, point: Mapping[str, Fraction], real: bool, bits: int) -> None:
        self.mp = context()
        self.mp.prec = bits
        self.point, self.real = point, real
        self.size = 1
        self.smallest = 0
        self.largest = 0

    def value(self, node: Node) -> Any:
        found = self._value(node)
        if self.real and not isinstance(found, self.mp.mpf):
            raise NoValueError("not real")
        if not self.mp.isfinite(found):
            raise NoValueError("not finite")
        if found:
            magnitude = int(self.mp.mag(found))
            if abs(magnitude) > LARGEST:
                raise TooLargeError(node.op)
            self.smallest, self.largest = min(self.smallest, magnitude), max(self.largest, magnitude)
        return found

    def _value(self, node: Node) -> Any:
        mp = self.mp
        if node.op == "num":
            fraction = Fraction(node.value)
            return mp.mpf(fraction.numerator) / fraction.denominator
        if node.op == "var":
            fraction = self.point[str(node.value)]
            return mp.mpf(fraction.numerator) / fraction.denominator
        if node.op == "const":
            return self._constant(str(node.value))
        if node.op == "pow":
            return self._pow(self.value(node.args[0]), node.args[1])
        if node.op == "root":
            return self._root(*node.args)
        values = [self.value(part) for part in node.args]
        try:
            return self._functions()[node.op](*values)
        except (ZeroDivisionError, ValueError) as error:
            raise NoValueError(str(error)) from error

    def _constant(self, name: str) -> Any:
        if name == "i":
            return self.mp.mpc(0, 1)
        if name == "e":
            return self.mp.e + 0
        if name == "pi":
            return self.mp.pi + 0
        if name == "log base":  # A logarithm without a base may have any; ratios of them are the same for all.
            return self.mp.mpf(7.3)
        raise NoValueError(name)

    def _functions(self) -> dict[str, Callable[..., Any]]:
        mp = self.mp
        return {
            "add": lambda a, b: a + b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b, "neg": lambda a: -a,
            "abs": abs, "norm": abs, "floor": self._floor, "ceil": lambda a: -self._floor(-a),
            "degrees": lambda a: a * mp.pi / 180, "factorial": self._gamma, "sqrt": lambda a: self._root_of(a, 2),
            "binomial": lambda n, k: self._gamma(n) / (self._gamma(k) * self._gamma(n - k)),
            "sin": mp.sin, "cos": mp.cos, "tan": mp.tan, "cot": lambda a: mp.cos(a) / mp.sin(a),
            "sec": lambda a: 1 / mp.cos(a), "csc": lambda a: 1 / mp.sin(a),
            "sinh": self._small(mp.sinh), "cosh": self._small(mp.cosh), "tanh": self._small(mp.tanh),
            "exp": self._small(mp.exp), "ln": mp.log, "asin": mp.asin, "acos": mp.acos, "atan": mp.atan,
        }  # fmt: skip

    def _small(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def bounded(value: Any) -> Any:
            if abs(value) > LARGEST:
                raise TooLargeError("exponent")
            return function(value)

        return bounded

    def _floor(self, value: Any) -> Any:
        if not isinstance(value, self.mp.mpf):
            raise NoValueError("the floor of a complex number")
        near = self.mp.nint(value)
        return near if abs(value - near) < self.mp.mpf(2) ** (-BITS // 2) else self.mp.floor(value)

    def _gamma(self, value: Any) -> Any:
        if abs(value) > 2000:
            raise TooLargeError("factorial")
        return self.mp.gamma(value + 1)

    def _pow(self, base: Any, exponent: Node) -> Any:
        known = exact(exponent) if not exponent.names() else None
        if known is not None and known.denominator % 2 and known.denominator > 1 and self._negative(base):
            root = self._root_of(base, known.denominator)
            return self._bounded_pow(root, self.mp.mpf(known.numerator))
        power = self.value(exponent)
        if not base and (not isinstance(power, self.mp.mpf) or power <= 0):
            raise NoValueError("zero to a power that is not positive")
        return self._bounded_pow(base, power)

    def _bounded_pow(self, base: Any, power: Any) -> Any:
        if base and abs(self.mp.log(abs(base)) * abs(power)) > LARGEST:
            raise TooLargeError("power")
        return base**power

    def _root(self, radicand: Node, index: Node) -> Any:
        order = exact(index)
        if order is None or order.denominator != 1 or order < 1:
            return self._bounded_pow(self.value(radicand), 1 / self.value(index))
        return self._root_of(self.value(radicand), order.numerator)

    def _root_of(self, value: Any, order: int) -> Any:
        """The real root of a negative number where its order is odd, else the principal one."""
        if self._negative(value) and order % 2:
            return -((-value) ** (self.mp.mpf(1) / order))
        return self.mp.sqrt(value) if order == 2 else value ** (self.mp.mpf(1) / order)

    def _negative(self, value: Any) -> bool:
        return isinstance(value, self.mp.mpf) and value < 0


def value_at(node: Node, point: Mapping[str, Fraction], real: bool, bits: int = BITS) -> tuple[Any, int, int]:
    """Value, and the orders of the smallest and largest number on the way, with the bits that these need."""
    run = _Evaluation(point, real, bits)
    value = run.value(node)
    needed = BITS + 2 * (run.largest - run.smallest)
    if needed > bits + BITS // 2 and bits == BITS:  # Once: what is still tiny then is zero up to rounding.
        if needed > 4 * LARGEST:
            raise TooLargeError("precision")
        return value_at(node, point, real, needed + BITS // 2)
    return value, run.largest, bits


@lru_cache(maxsize=16384)
def values(node: Node, points: tuple[tuple[tuple[str, Fraction], ...], ...], real: bool) -> tuple[Any, ...]:
    """Value, order of the largest number and bits at each point; ``None`` where there is no value."""
    found: list[Any] = []
    for point in points:
        try:
            found.append(value_at(node, dict(point), real))
        except TooLargeError:
            raise
        except (ArithmeticError, ValueError):
            found.append(None)
    return tuple(found)


def real_value(node: Node) -> Any | None:
    """The value of a real constant with some hundred digits, infinity included; ``None`` for anything else."""
    mp = context()
    if node == Node("const", value="infty"):
        return mp.inf
    if node == Node("neg", (Node("const", value="infty"),)):
        return -mp.inf
    if node.names() or node.has("infty"):
        return None
    try:
        value = values(node, ((),), False)[0]
    except NoValueError:
        return None
    if value is None:
        return None
    if isinstance(value[0], mp.mpf):
        return value[0]
    return value[0].real if abs(value[0].imag) < mp.mpf(2) ** (-BITS // 2) else None
