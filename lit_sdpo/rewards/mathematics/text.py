r"""Spelling of mathematical answers: brings texts that mean the same to one form before anything is read.

In a tidied text every word stands in ``\text{}`` and everything outside of it is mathematics.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lit_sdpo.rewards.mathematics.unit import is_plain_word

_CHARACTERS = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u2010": "-", "\u2011": "-", "\u03c0": r"\pi ", "\u221e": r"\infty ",
     "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u00f7": r"\div ", "\u2217": "*",
     "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u222a": r"\cup ", "\u2229": r"\cap ",
     "\u2208": r"\in ", "\u2205": r"\emptyset ", "\u211d": r"\mathbb{R}", "\u2124": r"\mathbb{Z}",
     "\u2216": r"\setminus ", "\u00b1": r"\pm ", "\u2213": r"\mp ",
     "\u00b0": r"^\circ ", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
     "\u2032": "'", "\u2033": "''", "\u2019": "'", "\u00b2": "^2", "\u00b3": "^3", "\u00bd": r"\frac{1}{2}",
     "\u00bc": r"\frac{1}{4}", "\u00be": r"\frac{3}{4}", "\u2044": "/", "\u2215": "/",
     "\u2103": r"^\circ C ", "\u2109": r"^\circ F ", "\uff0c": ",", "\uff05": "%",
     "\u3002": ".", "\uff1a": ":", "\uff08": "(", "\uff09": ")", "\uff1d": "=", "\uff0e": ".", "\u20ac": r"\euro ",
     "\u00a3": r"\pounds ", "\uffe5": "\u00a5", "\u03b8": r"\theta ", "\u03b1": r"\alpha ", "\u03b2": r"\beta "}
    | {chr(0xFF10 + digit): str(digit) for digit in range(10)}
)  # fmt: skip
_END = r"(?![a-zA-Z])"
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"\\(?:tiny|scriptsize|footnotesize|small|normalsize|[lL]arge|LARGE|[hH]uge){_END} ?", ""),
        (r"\\phantom\s*\{[^{}]*\}", ""),
        (r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"\\(?:mathfrak|mathcal|mathscr)\s*\{\s*(\d+)\s*\}", r" \1 "),
        (r"\\(?:mathbf|mathit|mathsf|mathnormal|bm|boldsymbol|pmb)\s*\{\s*([a-zA-Z0-9])\s*\}", r" \1 "),
        (rf"\\(?:left|right|[bB]igg?[lrm]?|middle){_END}\.?", ""),
        (rf"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|boldmath){_END}", ""),
        (rf"\\(?:bf|rm|it|sf|tt|em|bfseries|itshape){_END} ?", ""),
        (rf"\\[dtc]frac{_END}", r"\\frac"),
        (rf"\\[dt]binom{_END}", r"\\binom"),
        (r"\\(?:mbox|textbf|textrm|textit|textsf|texttt|textsc|textnormal|mathrm|mathtt|operatorname|hbox|emph|textup)"
         r"\*?\s*\{", r"\\text{"),
        (r"\\(?:mathbf|mathit|mathsf|mathnormal|bm|boldsymbol|pmb|symbf|mathop|mathord|underline)\s*\{", "{"),
        (r"\\(?:mathbf|mathit|mathsf|bm|boldsymbol|pmb|mathrm) ([a-zA-Z0-9])" + _END, r"\1"),
        (r"\\(?:color|textcolor|colorbox)\s*\{[^{}]*\}", ""),
        (r"\{,\}", ","),
        (r",\s*\\!\s*(?=\d{3}(?!\d))", ","),
        (r"\\!", ""),
        (rf"(?<!\\)\\(?:[,;:> ]|(?:quad|qquad|thinspace|enspace|hfill){_END}|hspace\*?\{{[^{{}}]*\}})|~", " "),
        (rf"\\(?:[lr]vert|vert|mid){_END}", "|"),
        (rf"\\(?:[lr]Vert|Vert){_END}", r"\\|"),
        (rf"\\lbrace{_END}", r"\\{"),
        (rf"\\rbrace{_END}", r"\\}"),
        (rf"\\l(?:brack){_END}", "["),
        (rf"\\r(?:brack){_END}", "]"),
        (rf"\\(?:leq(?:slant)?|leqq){_END}", r"\\le"),
        (rf"\\(?:geq(?:slant)?|geqq){_END}", r"\\ge"),
        (rf"\\(?:neq|not\s*=){_END}|\\not\s*=", r"\\ne"),
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"!=", r"\\ne "),
        (rf"\\lt{_END}", "<"),
        (rf"\\gt{_END}", ">"),
        (rf"\\varnothing{_END}|\\O{_END}", r"\\emptyset"),
        (rf"\\(?:smallsetminus|backslash){_END}", r"\\setminus"),
        (rf"\\(?:lor|vee){_END}", r"\\text{or}"),
        (rf"\\(?:land|wedge){_END}", r"\\text{and}"),
        (r"\\mathbb\s*\{?\s*([A-Z])\s*\}?", r"\\mathbb{\1}"),
        (r"\\(?:bar|dot|overline)\s*\{(\d+)\}|\\(?:bar|dot)\s*(\d)", r"\\overline{\1\2}"),
        (r"\\sqrt\s*(\d)(?!\d)", r"\\sqrt{\1}"),
        (r"√\s*(\d+(?:\.\d+)?|[a-zA-Z])", r"\\sqrt{\1}"),
        (r"√\s*[({]([^(){}]*)[)}]", r"\\sqrt{\1}"),
        (rf"\^\s*\{{\s*(?:\\circ|o)\s*\}}|\^\s*\\circ{_END}|\\degree{_END}|\\textdegree{_END}", r"^\\circ "),
        (r"\^\s*\{\s*(?:\\prime\s*){3}\}", "'''"),
        (r"\^\s*\{\s*(?:\\prime\s*){2}\}", "''"),
        (rf"\^\s*(?:\{{\s*\\prime\s*\}}|\\prime{_END})", "'"),
        (r"\*\*", "^"),
        (r"\s+", " "),
    )
)  # fmt: skip
_DISPLAY = re.compile(
    r"(?<!\\)\\[()\[\]]|(?<!\\)\\begin\{(?:align|equation|gather)\*?\}|\\end\{(?:align|equation|gather)\*?\}"
)
_DOLLAR = re.compile(r"(?<!\\)\$")
_WORD = re.compile(r"[^\W\d_]+(?:[.'-][^\W\d_]+)*(?:\.(?=[^\W\d_]|$))?", re.UNICODE)
_SYMBOL = re.compile(r"\\[a-zA-Z]+|\\.", re.DOTALL)
_BARE = re.compile(
    r"(?<![\\a-zA-Z])[a-zA-Z]\.[a-zA-Z]\.?(?![a-zA-Z])|(?<![\\a-zA-Z])[a-zA-Z\u00c0-\u024f]{2,}(?:['-][a-zA-Z]+)*"
    r"|[μµ][a-zA-Z]+|(?<=[\d ])Ω|[^\W\d_a-zA-Z\u0370-\u03ff]+\.?"
)
_SENTENCE = re.compile(r"\s*[A-Za-z]{2,}(?:[ ,.'-]+[A-Za-z]{2,})+[ .]*")
_NAME = re.compile(r"[a-zA-Z]+")
_PARSED_NAMES = re.compile(r"\\(?:begin|end|mathbb|mathcal|mathfrak|mathscr)\s*\{[^{}]*\}")


def tidy(text: str) -> str:
    r"""Bring spellings that mean the same to one form: white space, font and text macros, signs of other scripts.

    Example:
        >>> tidy(r"\left( 3,\, \dfrac12 \right).")
        '( 3, \\frac12 )'
        >>> tidy(r"\textbf{48 apples}"), tidy("5 million"), tidy(r"\mathbf{(1,2)}")
        ('48 \\text{apples}', '5 \\text{million}', '(1,2)')
    """
    text = text.translate(_CHARACTERS).strip()
    dollars = _DOLLAR.findall(text)
    if len(dollars) == 1 and re.match(r"[+-]?\$ ?\d", text):
        text = text.replace("$", r"\$")  # One alone in front of a number is money, a pair is LaTeX.
    text = _DISPLAY.sub(" ", _DOLLAR.sub(" ", text))
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = re.sub(r" +", " ", _words_apart(text)).strip()
    if text.endswith((".", ",", ";")) and not text.endswith(".."):
        text = text[:-1].rstrip()
    return _unwrapped(text)


def closed(text: str) -> str:
    r"""A ground truth with the closing braces that are missing at its end.

    Example:
        >>> closed(r"\frac{1}{2"), closed("x")
        ('\\frac{1}{2}', 'x')
    """
    depth = 0
    for found in re.finditer(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(found.group(), 0)
        if depth < 0:
            return text
    return text + "}" * depth


def _words_apart(text: str) -> str:
    """Leave words alone in text macros, and put those outside into one."""
    pieces: list[str] = []
    at = 0
    while (start := text.find(r"\text{", at)) >= 0:
        end = _closing(text, start + 5)
        if end is None:
            break
        pieces += [_bare_words(text[at:start]), _inlined(text[start + 6 : end])]
        at = end + 1
    pieces.append(_bare_words(text[at:]))
    joined = "".join(pieces)
    return re.sub(r"(\\text\{[^{}]*\})(?=\\text\{)", r"\1 ", joined)


def _inlined(content: str) -> str:
    """The content of a text macro with only its words in one."""
    content = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", content)
    pieces: list[str] = []
    at = 0
    for found in _words_of(content):
        between = content[at : found[0]]
        word = content[found[0] : found[1]]
        pieces.append(between)
        pieces.append(word if word in ("i", "e") else rf"\text{{{word}}}")
        at = found[1]
    pieces.append(content[at:])
    inside = "".join(pieces)
    return f" {inside} " if content[:1].isspace() or content[-1:].isspace() else inside


def _words_of(content: str) -> Iterator[tuple[int, int]]:
    """Where the words of a text are; macros in it are none."""
    taken = [found.span() for found in _SYMBOL.finditer(content)]
    for found in _WORD.finditer(content):
        if not any(start <= found.start() < end for start, end in taken):
            yield found.span()


def _bare_words(text: str) -> str:
    """Words outside of text macros put into one; letters that may be variables stay."""
    held = [found.span() for found in _PARSED_NAMES.finditer(text)]
    sentence = _SENTENCE.fullmatch(text) is not None and any(len(word) > 3 for word in text.split())

    def put(found: re.Match[str]) -> str:
        word = found.group()
        if any(start <= found.start() < end for start, end in held):
            return word
        before = text[: found.start()].rstrip()
        if sentence or is_plain_word(word, after_number=before[-1:] in tuple("0123456789})")):
            return rf"\text{{{word}}}"
        return word

    return _BARE.sub(put, text)


def _closing(text: str, opening: int) -> int | None:
    """Index of the brace that closes the one at ``opening``."""
    depth, at = 0, opening
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return at
        at += 1
    return None


def _unwrapped(text: str) -> str:
    """Without braces around the whole."""
    while text.startswith("{") and _closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def packed(text: str) -> str:
    r"""A tidied text without what never matters: spaces, except where they part numbers or words or end a macro.

    Example:
        >>> packed("3 1/4"), packed("x + 1"), packed(r"\text{Even}")
        ('3 1/4', 'x+1', 'Even')
    """
    text = re.sub(r"\\text\{([^{}]*)\} *(?=\\text\{)", "\\1\x00", text)
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(
        r"(?<=\d) +(?=[\d.])|(\\[a-zA-Z]+)(?![a-zA-Z]) *(?=[a-zA-Z0-9])", lambda found: f"{found[1] or ''}\x00", text
    )
    text = re.sub(r"([_^])\{([a-zA-Z]|\d(?!\}\d))\}", r"\1\2", text.replace(" ", ""))
    return text.replace("\x00", " ")


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    r"""Split where a separator stands outside of all brackets.

    Example:
        >>> split_top("(2,32), (8,18)", re.compile(","))
        ['(2,32)', '(8,18)']
    """
    return [part for part, _ in split_with(text, separator)]


def split_with(text: str, separator: re.Pattern[str]) -> list[tuple[str, str]]:
    """The parts between separators outside of all brackets, each with the separator behind it."""
    parts: list[tuple[str, str]] = []
    depth = begin = at = 0
    while at < len(text):
        if depth == 0 and (found := separator.match(text, at)):
            parts.append((text[begin:at].strip(), found.group().strip()))
            begin = at = found.end()
        elif text[at] == "\\":
            at += 1
            if text[at : at + 1] in ("{", "}"):
                depth += 1 if text[at] == "{" else -1
                at += 1
            else:
                at = name.end() if (name := _NAME.match(text, at)) else at + 1
        else:
            depth += (text[at] in "([{") - (text[at] in ")]}")
            at += 1
    parts.append((text[begin:].strip(), ""))
    return parts


def bracketed(text: str) -> tuple[str, str, str] | None:
    r"""Opening bracket, inside and closing bracket of a text that is one bracket as a whole.

    Example:
        >>> bracketed(r"\{1,2\}"), bracketed("(2,5]"), bracketed("(1)(2)")
        (('{', '1,2', '}'), ('(', '2,5', ']'), None)
    """
    if text.startswith(r"\{") and text.endswith(r"\}"):
        left, inside, right = "{", text[2:-2], "}"
    elif text[:1] in ("(", "[") and text[-1:] in (")", "]"):
        left, inside, right = text[0], text[1:-1], text[-1]
    else:
        return None
    depth = 0
    for character in inside:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return None
    return (left, inside.strip(), right) if depth == 0 else None
