"""When an answer to a puzzle of reasoning_gym is right.

The scorers of the package (0.1.25) give full marks to constants, padded answers and answers near the right one, and
some evaluate the answer as a program. Where a puzzle has one answer, that decides: both are read into the same form and
compared. Where it has several, an answer has to have the form that was asked for before the package's scorer sees it.
``python -m benchmarks.reasoning_gym`` tries both on answers that are wrong; docs/reasoning_gym.md has what it found.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

from lit_sdpo.rewards.gym.forms import fraction, number, of_kind, text
from lit_sdpo.rewards.strict_json import loads

#: Generators whose puzzles cannot be judged, and why.
UNSOUND = {
    "composite": "its puzzles are those of other generators, which have to be named",
    "propositional_logic": "a premise that is only repeated is accepted as a conclusion",
}


def arithmetic(answer: str, numbers: list[int]) -> Fraction | None:
    """Exact value of an expression that uses each of the numbers once; ``None`` where it does not.

    Only the four operations and brackets count. Nothing is evaluated as a program.

    Example:
        >>> arithmetic("(1 + 3) * 2", [3, 2, 1]), arithmetic("4 * 2", [3, 2, 1])
        (Fraction(8, 1), None)
    """
    if len(answer) > 500 or not re.fullmatch(r"[\d\s()+*/-]+", answer):
        raise ValueError("it is no expression of the four operations")
    if sorted(int(digits) for digits in re.findall(r"\d+", answer)) != sorted(numbers):
        return None
    return _evaluated(ast.parse(answer.strip(), mode="eval").body)


def _evaluated(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluated(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _evaluated(node.left), _evaluated(node.right)
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div():
                return left / right
    raise ValueError("it is no expression of the four operations")


def _countdown(answer: str, entry: Mapping[str, Any]) -> bool:
    return arithmetic(answer, list(entry["metadata"]["numbers"])) == entry["metadata"]["target"]


def _puzzle24(answer: str, entry: Mapping[str, Any]) -> bool:
    return arithmetic(answer, list(entry["metadata"]["numbers"])) == 24


def _n_queens(answer: str, entry: Mapping[str, Any]) -> bool:
    return text(answer) in map(text, entry["metadata"]["valid_answers"])


def _coin_flip(answer: str, entry: Mapping[str, Any]) -> bool:
    """The probability as a fraction, or as a decimal with all of its digits or at least four."""
    truth = Decimal(str(entry["answer"]))
    if "/" in answer or "frac" in answer:
        return abs(Fraction(*fraction(answer)) - Fraction(truth)) <= Fraction(truth) / 10**9
    given = number(answer)
    digits = len(given.as_tuple().digits)
    rounded = [truth.quantize(given, rounding) for rounding in (ROUND_HALF_EVEN, ROUND_HALF_UP)]
    return given == truth or (digits >= 4 and given in rounded)


def _power_function(answer: str, entry: Mapping[str, Any]) -> bool:
    """The same to three digits, which is what is asked for."""
    return f"{number(answer):.2e}" == f"{number(entry['answer']):.2e}"


#: Generators of which several answers are right, and what decides.
DECIDED: dict[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "coin_flip": _coin_flip,
    "countdown": _countdown,
    "n_queens": _n_queens,
    "power_function": _power_function,
    "puzzle24": _puzzle24,
}


def _pattern(pattern: str) -> Callable[[str, Mapping[str, Any]], bool]:
    compiled = re.compile(pattern)
    return lambda answer, entry: len(answer) <= 20_000 and compiled.fullmatch(answer) is not None


def _moves_or_no(answer: str, entry: Mapping[str, Any]) -> bool:
    return answer.casefold() == "no" or _texts(answer, entry)


def _texts(answer: str, entry: Mapping[str, Any]) -> bool:
    return all(isinstance(item, str) for item in of_kind(list, loads(answer)))


def _object(answer: str, entry: Mapping[str, Any]) -> bool:
    return isinstance(loads(answer), dict | list)


def _colours(answer: str, entry: Mapping[str, Any]) -> bool:
    """A colour for every vertex and no other."""
    vertices = {str(vertex) for vertex in entry["metadata"]["puzzle"]["vertices"]}
    return set(of_kind(dict, loads(answer))) == vertices


def _letters(answer: str, entry: Mapping[str, Any]) -> bool:
    """A digit for every letter, once."""
    pairs = re.fullmatch(r"[A-Z]\s*=\s*\d(?:\s*,\s*[A-Z]\s*=\s*\d)*", answer)
    return pairs is not None and sorted(re.findall("[A-Z]", answer)) == sorted(set(entry["metadata"]["letters"]))


def _ladder(answer: str, entry: Mapping[str, Any]) -> bool:
    """Words between commas, none of them twice."""
    steps = [word.strip().upper() for word in answer.split(",")]
    return len(answer) <= 2000 and all(re.fullmatch("[A-Z]+", word) for word in steps) and len(set(steps)) == len(steps)


#: Numbers run together with names, points that belong to no number, long numbers, large exponents and towers of them.
_SLOW_OR_ODD = re.compile(r"\d[A-Za-z_]|\.(?!\d)|(?<!\d)\.|\d{16}|\*\*\s*\(?\s*-?\d{4}|\*\*\s*\(?[\w\s]*\)?\s*\*\*")
_FUNCTIONS = {"sin", "cos", "tan", "exp", "log", "sqrt", "asin", "acos", "atan", "sinh", "cosh", "tanh", "pi", "E", "C"}


def _formula(answer: str, entry: Mapping[str, Any]) -> bool:
    """A formula in the puzzle's variables with small exponents: what is parsed is evaluated as a program."""
    variables = entry["metadata"].get("variables") or [entry["metadata"].get("variable")]
    known = {str(name) for name in variables} | (set() if "variables" in entry["metadata"] else _FUNCTIONS)
    return (
        len(answer) <= 1000
        and re.fullmatch(r"[\w\s()+*/.-]+", answer) is not None
        and answer.isascii()
        and all(name in known for name in re.findall(r"[A-Za-z_]\w*", answer))
        and _SLOW_OR_ODD.search(answer) is None
    )


_MOVE = r"(?:up|down|left|right)"
_HANOI = r"Move disk \d+ from Peg \d+ to Peg \d+"

#: Generators of which several answers are right and the package's scorer decides, and the form that it is asked about.
GUARDS: dict[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "boxnet": _object,
    "cryptarithm": _letters,
    "graph_color": _colours,
    "intermediate_integration": _formula,
    "jugs": _texts,
    "kakurasu": _pattern(r"[01](?:[ \t]+[01])*(?:\s*\n\s*[01](?:[ \t]+[01])*)*"),
    "knight_swap": _moves_or_no,
    "palindrome_generation": _pattern(r"[A-Za-z]+"),
    "polynomial_multiplication": _formula,
    "quantum_lock": _pattern(r"[ABC](?:\s*(?:→|->|,)?\s*[ABC])*"),
    "rubiks_cube": _pattern(r"[UDLRFBMESXYZudlrfbxyz]'?(?:\s*[UDLRFBMESXYZudlrfbxyz]'?)*"),
    "rush_hour": _pattern(r"[A-Za-z][+-]\d{1,2}(?:\s+[A-Za-z][+-]\d{1,2})*"),
    "shortest_path": _pattern(rf"infeasible|{_MOVE}(?:\s+{_MOVE})*"),
    "simple_integration": _formula,
    "sokoban": _pattern(r"[UDLR]+"),
    "tower_of_hanoi": _pattern(rf"{_HANOI}(?:\s*\n\s*{_HANOI})*"),
    "word_ladder": _ladder,
}
