r"""Reads a formula in LaTeX strictly: what is not understood as a whole is not read at all.

A reader that skips what it does not know takes ``a c`` for ``a``; this one raises.
"""

from __future__ import annotations

import re
from fractions import Fraction

from lit_sdpo.rewards.mathematics.formula import Node, number


class UnreadableError(ValueError):
    """The text is no formula that this module knows."""


FUNCTIONS = {
    **{name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp", "ln")},
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "asin": "asin", "acos": "acos", "atan": "atan",
    "sqrt": "sqrt", "abs": "abs",
}  # fmt: skip
_INVERSE = {"sin": "asin", "cos": "acos", "tan": "atan"}
_GREEK = frozenset({
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "iota",
    "kappa", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "varphi", "chi", "psi", "omega",
    "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega", "ell", "hbar",
})  # fmt: skip
_ACCENTS = frozenset({
    "bar", "vec", "hat", "tilde", "overline", "dot", "ddot", "widehat", "overrightarrow", "mathcal", "mathfrak",
    "mathscr",
})  # fmt: skip
_TOKEN = re.compile(
    r" +|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+(?![\d^]))?)"
    r"|(?P<command>\\[a-zA-Z]+|\\[{}|])|(?P<letters>[a-zA-Z]+)"
    r"|(?P<sign>[-+*/^_(){}\[\]|!'=,])|(?P<other>.)"
)
_FACTOR_SIGNS = {"*", r"\cdot", r"\times"}
_AFTER_ARGUMENT = ("log", "div", "}", "rfloor", "rceil", "|")
_DEEPEST = 60


def read_formula(text: str) -> Node:
    r"""Read a tidied formula.

    Raises:
        UnreadableError: If any part of it is not understood.

    Example:
        >>> read_formula("2x").op, read_formula(r"\frac{1}{2}").op
        ('mul', 'div')
    """
    reader = _Reader(_tokens(text))
    node = reader.sum()
    if reader.peek():
        raise UnreadableError(reader.peek())
    if node.size() > 3000:
        raise UnreadableError("too large")
    return node


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    if len(text) > 4000:
        raise UnreadableError("too long")
    for found in _TOKEN.finditer(text):
        token = found.group().strip()
        if found["other"]:
            raise UnreadableError(token)
        if found["letters"] and not (token in FUNCTIONS or token in ("pi", "log", "infinity", "oo")):
            if len(token) > 3:
                raise UnreadableError(token)
            tokens += list(token)
        elif found["letters"]:
            tokens.append("\\" + token)
        elif token:
            tokens.append(token)
    return tokens


class _Reader:
    """Recursive descent over tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0

    def peek(self, ahead: int = 0) -> str:
        index = self.at + ahead
        return self.tokens[index] if index < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise UnreadableError(token)
        self.at += 1
        return token

    def sum(self) -> Node:
        """Terms with plus and minus between them."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise UnreadableError("too deep")
        node = self.signed_term()
        while self.peek() in ("+", "-"):
            sign = self.take()
            term = self.term()
            node = Node("add", (node, term if sign == "+" else Node("neg", (term,))))
        self.depth -= 1
        return node

    def signed_term(self) -> Node:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.take() == "-"
        term = self.term()
        return Node("neg", (term,)) if negative else term

    def term(self) -> Node:
        """Factors with signs between them or none."""
        node, slashed, last = self.factor(), False, self.at
        while token := self.peek():
            if token in _FACTOR_SIGNS:
                self.take()
                node, slashed = Node("mul", (node, self.signed_factor())), False
            elif token in ("/", r"\div"):
                self.take()
                last = self.at
                node, slashed = Node("div", (node, self.signed_factor())), True
            elif self.starts_factor(token):
                if slashed and not _is_number(self.tokens[last : self.at]):
                    raise UnreadableError("1/ab may mean two things")
                self.check_side_by_side(token)
                node = Node("mul", (node, self.factor()))
            else:
                break
        return node

    def starts_factor(self, token: str) -> bool:
        return token[0].isalnum() or token[0] == "." or token in ("(", "{", "[", "\\{") or (
            token[0] == "\\" and len(token) > 2 and token not in (r"\div", r"\rfloor", r"\rceil")
        )  # fmt: skip

    def check_side_by_side(self, token: str) -> None:
        """Refuse a number behind a number, which may be one number, two or a product."""
        before = self.tokens[self.at - 1]
        if token[0].isdigit() or token[0] == ".":
            if before[0].isalnum() or before[0] in ".\\!'":
                raise UnreadableError("numbers side by side")
            if before == "}" and _opens_with(self.tokens, self.at - 1) != "^":
                raise UnreadableError("a number behind a bracket")
        numerator = self.peek(2) if self.peek(1) == "{" else self.peek(1)
        if token == r"\frac" and before[0].isdigit() and numerator.isdigit() and self.peek(3) in ("}", "{"):
            raise UnreadableError("a mixed number inside of a formula")

    def signed_factor(self) -> Node:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.take() == "-"
        node = self.factor()
        return Node("neg", (node,)) if negative else node

    def factor(self) -> Node:
        """An atom with its powers, factorials and degree signs."""
        if self.mixed_number():
            whole = number(int(self.take()))
            node = Node("add", (whole, self.atom()))
        else:
            node = self.atom()
        return self.powers(node)

    def mixed_number(self) -> bool:
        """Whether a whole number stands right in front of a fraction of whole numbers."""
        shape = [self.peek(index) for index in range(8)]
        return (
            shape[0].isdigit() and shape[1] == r"\frac"
            and [shape[2], shape[4], shape[5], shape[7]] == ["{", "}", "{", "}"]
            and shape[3].isdigit() and shape[6].isdigit() and int(shape[3]) < int(shape[6])
        )  # fmt: skip

    def powers(self, node: Node) -> Node:
        while self.peek() in ("^", "!"):
            if self.take() == "!":
                if self.peek() == "!":
                    raise UnreadableError("double factorial")
                node = Node("factorial", (node,))
            elif self.peek() == r"\circ":
                self.take()
                node = Node("degrees", (node,))
            else:
                exponent = self.argument()
                node = Node("pow", (node, self.powers_of_exponent(exponent)))
        return node

    def powers_of_exponent(self, exponent: Node) -> Node:
        """``2^3^2`` is no LaTeX and means two things."""
        if self.peek() == "^" and self.peek(1) != r"\circ":
            raise UnreadableError("a power of a power without brackets")
        return exponent

    def argument(self) -> Node:
        """What a macro, an index or a power takes: a group or one sign."""
        if self.peek() == "{":
            return self.group("{", "}")
        if self.peek() == "-":
            self.take()
            return Node("neg", (self.argument(),))
        if self.peek() == "(":
            return self.group("(", ")")
        return self.atom()

    def group(self, opening: str, closing: str) -> Node:
        self.take(opening)
        node = self.sum()
        self.take(closing)
        return node

    def atom(self) -> Node:
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            return number(Fraction(token))
        if token.isalpha():
            return self.variable(token)
        if token in ("(", "[", "{"):
            self.at -= 1
            return self.group(token, {"(": ")", "[": "]", "{": "}"}[token])
        if token == "\\{":
            self.at -= 1
            return self.group("\\{", "\\}")
        if token == "|":
            node = self.sum()
            self.take("|")
            return Node("abs", (node,))
        if token == r"\|":
            return Node("norm", (self.closed_by(r"\|"),))
        if token[0] == "\\":
            return self.command(token[1:])
        raise UnreadableError(token)

    def closed_by(self, closing: str) -> Node:
        node = self.sum()
        self.take(closing)
        return node

    def command(self, name: str) -> Node:
        if name == "frac":
            above = self.digit_or_argument()
            return Node("div", (above, self.digit_or_argument()))
        if name == "binom":
            above = self.digit_or_argument()
            return Node("binomial", (above, self.digit_or_argument()))
        if name == "sqrt":
            index = self.group("[", "]") if self.peek() == "[" else number(2)
            if self.peek()[:1].isdigit() and len(self.peek()) > 1:
                raise UnreadableError("where the root ends")
            return Node("root", (self.argument(), index))
        if name in ("lfloor", "lceil"):
            return Node(name[1:], (self.closed_by(rf"\r{name[1:]}"),))
        if name in ("pi", "infty", "infinity", "oo"):
            return Node("const", value="pi" if name == "pi" else "infty")
        if name in _GREEK:
            return self.variable("\\" + name)
        if name in _ACCENTS:
            return self.variable(f"\\{name}{{{self.raw_group()}}}")
        if name == "log":
            return self.logarithm()
        if name in FUNCTIONS:
            return self.function(FUNCTIONS[name])
        raise UnreadableError(name)

    def digit_or_argument(self) -> Node:
        r"""``\frac12`` is one half: of a number behind a macro only one digit belongs to it."""
        token = self.peek()
        if token[:1].isdigit() and len(token) > 1:
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        return self.argument()

    def raw_group(self) -> str:
        """The text of a group, as a part of a name."""
        if self.peek() != "{":
            return self.take()
        parts, depth = [self.take()], 1
        while depth:
            parts.append(self.take())
            depth += (parts[-1] == "{") - (parts[-1] == "}")
        return "".join(parts[1:-1])

    def variable(self, name: str) -> Node:
        """A letter with its index and primes; ``e`` and ``i`` are numbers, ``f(x)`` of f, g and h is a value."""
        if self.peek() == "_":
            self.take()
            name += f"_{self.raw_group()}"
        primes = 0
        while self.peek() == "'":
            self.take()
            primes += 1
        name += "'" * primes
        if name in ("e", "i"):
            return Node("const", value=name)
        if (name[0] in "fgh" and self.peek() == "(") or (primes and self.peek() == "("):
            start, depth = self.at, 0
            while True:
                token = self.take()
                depth += (token == "(") - (token == ")")
                if depth == 0:
                    break
            name += "".join(self.tokens[start : self.at])
        return Node("var", value=name)

    def logarithm(self) -> Node:
        base: Node = Node("const", value="log base")
        if self.peek() == "_":
            self.take()
            base = self.digit_or_argument()
        power = self.function_power()
        node = Node("div", (Node("ln", (self.function_argument(),)), Node("ln", (base,))))
        return Node("pow", (node, power)) if power else node

    def function(self, name: str) -> Node:
        power = self.function_power()
        if power == Node("neg", (number(1),)):
            if name not in _INVERSE:
                raise UnreadableError("an inverse or a reciprocal")
            name, power = _INVERSE[name], None
        node = Node(name, (self.function_argument(),))
        return Node("pow", (node, power)) if power else node

    def function_power(self) -> Node | None:
        if self.peek() != "^":
            return None
        self.take()
        return self.argument()

    def function_argument(self) -> Node:
        r"""A bracket, or factors written without a sign: ``\sin 2x``; what may mean two things is refused."""
        if self.peek() in ("(", "{", "["):
            node = self.group(self.peek(), {"(": ")", "{": "}", "[": "]"}[self.peek()])
            if self.peek() in ("^", "!"):
                raise UnreadableError("a power of the function or of its argument")
            return node
        if self.peek() == "-":
            raise UnreadableError("a sign behind a function")
        node = self.factor()
        while (token := self.peek()) and (token.isalpha() or token == r"\pi" or token[1:] in _GREEK):
            node = Node("mul", (node, self.factor()))
        if token == "/" and self.tokens[self.at - 1] != "}":
            return self.quotient(node)
        if token[:1] == "\\" and token not in _FACTOR_SIGNS and token[1:] not in (*FUNCTIONS, *_AFTER_ARGUMENT):
            raise UnreadableError("where the argument of a function ends")
        return node

    def quotient(self, node: Node) -> Node:
        r"""``\sin x/2`` may mean two things; ``\sin \pi/6`` means one."""
        if node.names():
            raise UnreadableError("where the argument of a function ends")
        self.take("/")
        return Node("div", (node, self.factor()))


def _is_number(tokens: list[str]) -> bool:
    return len(tokens) == 1 and tokens[0][0].isdigit()


def _opens_with(tokens: list[str], closing: int) -> str:
    """The token in front of the bracket that closes at an index."""
    depth = 0
    for index in range(closing, -1, -1):
        depth += (tokens[index] == "}") - (tokens[index] == "{")
        if depth == 0:
            return tokens[index - 1] if index else ""
    return ""
