r"""Which kind of answer a text is.

Only a plain formula is ever given to algebra; lists, sets, intervals, named values, clocks, ratios and words are read
here, and a text that is none of them equals nothing but itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache

from lit_sdpo.rewards.mathematics.expression import UnreadableError, read_formula
from lit_sdpo.rewards.mathematics.formula import Node, number
from lit_sdpo.rewards.mathematics.kinds import (
    Answer,
    Based,
    Bracket,
    Items,
    Matrix,
    Named,
    Opaque,
    Parts,
    Quantity,
    Words,
    real_set,
)  # fmt: skip
from lit_sdpo.rewards.mathematics.number import exact_value, read_number, spelled_power, undress
from lit_sdpo.rewards.mathematics.relation import read_relation, relations_of
from lit_sdpo.rewards.mathematics.sets import RealSet
from lit_sdpo.rewards.mathematics.text import bracketed, packed, split_top, split_with
from lit_sdpo.rewards.mathematics.unit import read_unit

_OR = re.compile(r",? ?\\text\{(?:or|OR|Or)\},?")
_AND = re.compile(r",? ?\\text\{(?:and|AND|And)\},?|[,;]")
_WORD_AND = re.compile(r"\\text\{(?:and|AND|And)\}")
_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![a-zA-Z])")
_SET_SIGN = re.compile(r"\\(?:cup|cap|setminus)(?![a-zA-Z])")
_MATRIX = re.compile(
    r"(.*?)\\begin ?\{((?:[pbBvV]|small)?matrix|array)\}(?: ?\{[clr|]*\})?(.*)\\end ?\{\2\}(.*)\Z", re.DOTALL
)
_CASES = re.compile(r"\\begin ?\{(cases|aligned)\}((?:[^&]|& ?=)*)\\end ?\{\1\}\Z")
_BASE = re.compile(
    r"(-?)(?:([0-9A-Za-z]+)|\( ?([0-9A-Za-z]+) ?\)) ?_ ?(?:\{ ?(?:\\text ?\{ ?)?(\w+) ?(?:\} ?)?\}|(\d+))\Z"
)
_TO = re.compile(r":|\\text\{to\}")
_HALF = re.compile(r" ?\\text\{([aApP])\.? ?[mM]\.?\}\Z")
_ONLY_WORDS = re.compile(r"(?:[(]?\\text\{[^{}]*\}[).]? *)+\Z")
_LETTERS = re.compile(r"[A-Za-z](?: ?[A-Za-z])+\Z")
_SHORT_WORDS = frozenset({
    "no", "on", "is", "it", "at", "am", "so", "us", "up", "as", "an", "in", "me", "my", "he", "be", "we", "go",
    "do", "to", "of", "or", "if", "ok", "ox", "hi", "by", "ad", "id", "oh",
})  # fmt: skip
_CONSTANTS = frozenset({"pi", "ln", "oo"})
_MINUTES = re.compile(r"(-?) ?(\d+(?:\.\d+)?) ?\^\\circ ?(\d+(?:\.\d+)?) ?'(?: ?(\d+(?:\.\d+)?) ?'')?\Z")
#: Deepest nesting of brackets.
DEEPEST = 25


@lru_cache(maxsize=16384)
def read_answer(text: str, depth: int = 0) -> Answer:
    r"""The answer that a tidied text holds.

    Example:
        >>> [type(read_answer(text)).__name__ for text in ("(1,2]", "x=1, y=2", "5 hello")]
        ['Bracket', 'Named', 'Opaque']
    """
    if depth > DEEPEST or not text:
        return Opaque(packed(text))
    if (plain := read_number(text)) is not None:
        return Quantity(number(plain.value), plain.percent, plain.units)
    if cases := _CASES.match(text):
        rows = [row.replace("&", "").strip() for row in re.split(r"\\\\", cases[2]) if row.strip()]
        return read_answer(", ".join(rows), depth + 1)
    for reader in (_alternatives, _listed, _signed_pair, _bracket, _matrix):
        if (found := reader(text, depth)) is not None:
            return found
    return _single(text, depth)


def _single(text: str, depth: int) -> Answer:
    """What no comma or bracket around the whole takes apart."""
    if (answer := _set(text, depth)) is not None:
        return answer
    if len(relations_of(text)) > 1:
        return read_relation(text, lambda part: read_answer(part, depth + 1))
    return _parts(text) or _based(text) or _words(text) or _quantity(text) or Opaque(packed(text))


def _alternatives(text: str, depth: int) -> Answer | None:
    """Answers with *or* between them."""
    parts = split_top(text, _OR)
    if len(parts) == 1:
        return None
    if not all(parts):
        return Opaque(packed(text))
    answers = [read_answer(part, depth + 1) for part in parts]
    if (name := _common_name(answers)) is not None:
        values = [answer.values[0][1] for answer in answers if isinstance(answer, Named)]
        return Named(((name, _united(values)),))
    return Items(tuple(_flat(answers)))


def _united(values: Sequence[Answer]) -> Answer:
    """Any of several values: a set of numbers where one of them is, else a list."""
    if any(isinstance(value, RealSet) for value in values):
        sets = [real_set(Items((value,), "set") if isinstance(value, Quantity) else value) for value in values]
        known = [one for one in sets if one is not None]
        if len(known) == len(sets):
            union = RealSet(())
            for one in known:
                union = union.union(one)
            return union
    return Items(tuple(_flat(values)))


def _flat(answers: Sequence[Answer]) -> Iterator[Answer]:
    for answer in answers:
        if isinstance(answer, Items) and answer.kind == "list":
            yield from answer.members
        else:
            yield answer


def _common_name(answers: Sequence[Answer]) -> str | None:
    """The one name that all answers are values of."""
    names = {answer.values[0][0] if isinstance(answer, Named) and len(answer.values) == 1 else "" for answer in answers}
    return names.pop() if len(names) == 1 and "" not in names else None


def _listed(text: str, depth: int) -> Answer | None:
    """Answers with commas, semicolons or *and* between them."""
    split = split_with(text, _AND)
    if len(split) == 1:
        return None
    if not all(part for part, _ in split):
        return Opaque(packed(text))
    answers = [read_answer(part, depth + 1) for part, _ in split]
    by_and = all(_WORD_AND.search(sign) for _, sign in split[:-1])
    answers = list(_with_names(answers))
    if (name := _common_name(answers)) is not None:
        values = [answer.values[0][1] for answer in answers if isinstance(answer, Named)]
        sets = [value for value in values if isinstance(value, RealSet)]
        if len(sets) == len(values) and (by_and or all(one.both_ways() for one in sets)):
            common = sets[0]
            for one in sets[1:]:
                common = common.intersection(one)
            return Named(((name, common),))
        return Named(((name, Items(tuple(_flat(values)))),))
    return _system(answers) or Items(tuple(_flat(answers)))


def _system(answers: Sequence[Answer]) -> Named | None:
    """Values of different names together."""
    pairs = [pair for answer in answers if isinstance(answer, Named) for pair in answer.values]
    if not pairs or not all(isinstance(answer, Named) for answer in answers):
        return None
    names = {name for name, _ in pairs}
    return Named(tuple(sorted(pairs, key=lambda pair: pair[0]))) if len(names) == len(pairs) > 1 else None


def _with_names(answers: Sequence[Answer]) -> Iterator[Answer]:
    """``n = 2, 5, 13`` names all three."""
    first = answers[0]
    bare = all(isinstance(answer, Quantity) for answer in answers[1:])
    for answer in answers:
        if isinstance(first, Named) and len(first.values) == 1 and bare and isinstance(answer, Quantity):
            yield Named(((first.values[0][0], answer),))
        else:
            yield answer


def _signed_pair(text: str, depth: int) -> Answer | None:
    r"""Both values of a formula with one ``\pm``; two of them go together."""
    if not _PLUS_MINUS.search(text) or bracketed(text) or len(relations_of(text)) > 1:
        return None

    def with_signs(plus: str) -> str:
        def sign(found: re.Match[str]) -> str:
            return plus if found[1] == "pm" else ("-" if plus == "+" else "+")

        return _PLUS_MINUS.sub(sign, text).strip()

    return Items(tuple(read_answer(with_signs(sign), depth + 1) for sign in "+-"))


def _bracket(text: str, depth: int) -> Answer | None:
    """Sets, tuples and intervals; brackets around one formula mean nothing."""
    found = bracketed(text)
    if found is None:
        return None
    left, inside, right = found
    if left == "{":
        if (built := _built_set(inside, depth)) is not None:
            return built
        members = [part for part in split_top(inside, _AND) if part]
        answers = tuple(_flat([read_answer(part, depth + 1) for part in members]))
        if len(answers) == 1 and isinstance(answers[0], Named):
            return answers[0]
        return _system(answers) or Items(answers, "set")
    members = split_top(inside, re.compile("[,;]"))
    if len(members) > 1:
        return Bracket(left, tuple(read_answer(part, depth + 1) for part in members), right)
    return read_answer(inside, depth + 1) if (left, right) in (("(", ")"), ("[", "]")) else None


def _built_set(inside: str, depth: int) -> Answer | None:
    r"""``\{x \mid x > 2\}``."""
    sides = split_top(inside, re.compile(r"\||:"))
    if len(sides) != 2 or not all(sides):
        return None
    within = read_answer(sides[0], depth + 1)
    name = (
        packed(sides[0]) if isinstance(within, Quantity) else within.values[0][0] if isinstance(within, Named) else ""
    )
    condition = read_answer(sides[1], depth + 1)
    if isinstance(condition, Named) and [pair[0] for pair in condition.values] == [name]:
        found = real_set(condition.values[0][1])
        around = real_set(within.values[0][1]) if isinstance(within, Named) else RealSet.everything()
        return found.intersection(around) if found is not None and around is not None else None
    return None


def _matrix(text: str, depth: int) -> Answer | None:
    found = _MATRIX.match(text)
    if not found or r"\begin" in found[3] or found[4].strip():
        return None
    before = found[1].strip()
    try:
        scale = read_formula("-1" if before == "-" else before) if before else number(1)
    except UnreadableError:
        return None
    rows = [row for row in re.split(r"\\\\", found[3]) if row.strip()]
    cells = tuple(tuple(read_answer(cell.strip(), depth + 1) for cell in row.split("&")) for row in rows)
    fence = "" if found[2] in ("pmatrix", "bmatrix", "matrix", "smallmatrix", "array") else found[2]
    return Matrix(cells, fence, scale)


def _set(text: str, depth: int) -> Answer | None:
    r"""Named sets of numbers, and unions, intersections and differences of sets."""
    plain = packed(text)
    if plain in (r"\emptyset",):
        return Items((), "set")
    if plain == r"\mathbb{R}":
        return RealSet.everything()
    parts = split_with(text, _SET_SIGN)
    if len(parts) == 1 and plain.startswith((r"\mathbb{R}-\{", r"\mathbb{R}/\{", r"\mathbb{R}\{")):
        start = text.index("}") + 1
        parts = [(text[:start], r"\setminus"), (text[start:].lstrip(" -/"), "")]
    if len(parts) == 1:
        return None
    answers = [read_answer(part, depth + 1) for part, _ in parts]
    sets = [real_set(answer) for answer in answers]
    result = sets[0]
    for one, (_, sign) in zip(sets[1:], parts, strict=False):
        if result is None or one is None:
            result = None
            break
        combine = {r"\cup": result.union, r"\cap": result.intersection}.get(sign, result.without)
        result = combine(one)
    if result is not None:
        return result
    return Items(tuple(answers), "union") if all(sign == r"\cup" for _, sign in parts[:-1]) else None


def _parts(text: str) -> Parts | None:
    """Clocks and ratios."""
    half = _HALF.search(text)
    body = text[: half.start()] if half else text
    values = [exact_value(part) for part in split_top(body, _TO)]
    known = tuple(value for value in values if value is not None)
    if len(known) != len(values) or (len(known) == 1 and not half):
        return None
    return Parts(known, half[1].lower() if half else "")


def _based(text: str) -> Based | None:
    found = _BASE.match(text)
    digits = (found[2] or found[3]) if found else ""
    if not found or not digits[0].isdigit():
        return None
    return Based(found[1] + digits.lstrip("0").upper(), found[4] or found[5])


def _words(text: str) -> Words | None:
    r"""Words in ``\text{}``, and letters side by side, which are a word or a product."""
    if _ONLY_WORDS.match(text):
        plain = " ".join(re.findall(r"[^\s(){}]+", re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text))).strip(" .")
        if len(plain) != 1:
            return Words(plain)
        return Words(plain, Node("var", value=plain))
    if not _LETTERS.match(text) or packed(text) in _CONSTANTS:
        return None
    letters = packed(text)
    try:
        node = read_formula(text)
    except UnreadableError:
        node = None
    if set(letters) <= set("xyz") or (len(letters) == 2 and letters.islower() and not _may_be_word(letters)):
        return None
    return Words(letters, node)


def _may_be_word(letters: str) -> bool:
    return letters in _SHORT_WORDS or letters[::-1] in _SHORT_WORDS


def _quantity(text: str) -> Quantity | None:
    """A formula with what was written around it."""
    if found := _MINUTES.match(text):
        sign, degrees, minutes, seconds = found.groups()
        angle = Fraction(degrees) + Fraction(minutes) / 60 + Fraction(seconds or 0) / 3600
        return Quantity(number(-angle if sign else angle), units=read_unit("degree"))
    formula = _formula(text)
    if formula is not None:
        if formula.op == "degrees":
            return Quantity(formula.args[0], units=read_unit("degree"))
        if formula.op == "neg" and formula.args[0].op == "degrees":
            return Quantity(Node("neg", formula.args[0].args), units=read_unit("degree"))
        return Quantity(formula)
    dressed = undress(text)
    if dressed.core == text:
        return None
    value = exact_value(dressed.core)
    node = number(value) if value is not None else _formula(dressed.core)
    if node is None:
        return None
    if dressed.factor != 1:
        known = node.value if node.op == "num" else None
        node = (
            number(Fraction(known) * dressed.factor)
            if known is not None
            else Node("mul", (number(dressed.factor), node))
        )
    return Quantity(node, dressed.percent, dressed.units)


def _formula(text: str) -> Node | None:
    try:
        return read_formula(spelled_power(text))
    except UnreadableError:
        return None
