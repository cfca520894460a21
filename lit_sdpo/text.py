"""Text from data and models on its way to people: nothing in it acts on a terminal, hides or breaks a line."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

from lit_sdpo.credentials import without_secrets

#: Stands between the names of the tasks that one stage trains on.
MIXED = " + "

#: Control, format, surrogate, private and unassigned characters, and separators of lines and paragraphs.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: Left as they are in a table cell; every other printable ASCII character could mean something to Markdown or HTML.
HARMLESS = frozenset(" ,.;?'/%")


def tasks_of(label: str, known: Collection[str]) -> list[str]:
    """The tasks that a stage trains on, by its label: a task's name, or those of a mixture.

    Args:
        label: Of the stage.
        known: All tasks.

    Example:
        >>> tasks_of("math + code", ["math", "code"]), tasks_of("math", ["math", "code"]), tasks_of("base", ["math"])
        (['math', 'code'], ['math'], [])
    """
    names = [label] if label in known else label.split(MIXED)
    return [name for name in names if name in known]


def unprintable(text: str) -> bool:
    """Whether a text has characters that :func:`printable` replaces."""
    return any(unicodedata.category(c) in HIDDEN for c in text)


def printable(text: str) -> str:
    r"""``text`` without what could act on a terminal or hide.

    Example:
        >>> printable("a\x1b[31mb\u202e")
        'a[U+001B][31mb[U+202E]'
    """
    return "".join(f"[U+{ord(c):04X}]" if unicodedata.category(c) in HIDDEN else c for c in text)


def printable_lines(text: str) -> str:
    r"""The same, line by line: line ends and tabs stay.

    Example:
        >>> printable_lines("a\n\x07b")
        'a\n[U+0007]b'
    """
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def said(text: object) -> str:
    """What may be shown of a text: clean, line by line, and without credentials."""
    return without_secrets(printable_lines(str(text)))


def escape(text: str) -> str:
    r"""``text`` for one cell of a Markdown table, on one line and without any effect.

    Punctuation becomes HTML entities, so neither Markdown nor HTML sees it; a newline becomes ``⏎``, and characters
    that are invisible or turn the writing direction become their code.

    Example:
        >>> escape("a|b <script>\n`x`\u202e")
        'a&#124;b &#60;script&#62;⏎ &#96;x&#96;[U+202E]'
        >>> escape("")
        '(empty)'
    """
    return "".join(map(_escape_character, text.replace("\r\n", "\n"))) or "(empty)"


def _escape_character(character: str) -> str:
    if character == "\n":
        return "⏎ "
    if character in HARMLESS or character.isalnum():
        return character
    if character.isascii() and character.isprintable():
        return f"&#{ord(character)};"
    return printable(character)
