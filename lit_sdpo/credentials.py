"""Keeps credentials out of records and messages: in URLs, in arguments that are named like them, and as such."""

from __future__ import annotations

import re
from collections.abc import Sequence

HIDDEN = "***"
#: Parts of names whose values are nobody's business.
_NAMES = (
    r"(?:api[_-]?key|access[_-]?key|auth(?:orization)?|bearer|credential|passphrase|passwd|password|private[_-]?key"
    r"|secret|token)s?(?![a-z])"
)
#: Names that hold one of those words and mean something else.
_HARMLESS = re.compile(
    r"tokens|token_(?:ids?|mask|mean)|mean_token|(?:bos|eos|pad|unk|sep|cls|end)[ _]token", re.IGNORECASE
)
_FLAG = re.compile(rf"--?[\w.-]*?{_NAMES}[\w-]*$", re.IGNORECASE)
_NAMED = re.compile(
    rf"((?<![\w/\\.-])(?:end )?[\w.-]*?{_NAMES}[\w-]*[\"']?\s*[=:]\s*[\"']?)([^\s\"'&,}}\]]+)", re.IGNORECASE
)
#: A path object has made one slash of two.
_USER = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://?)[^/\s@\"']+@")
_BEARER = re.compile(r"\b((?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+)"
)


def without_secrets(text: str) -> str:
    """A text in which credentials are stars.

    Example:
        >>> without_secrets("https://me:pw@host/x?token=abc&n=1 --logger.api_key=k, max_new_tokens=5")
        'https://***@host/x?token=***&n=1 --logger.api_key=***, max_new_tokens=5'
    """
    text = _USER.sub(rf"\1{HIDDEN}@", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    text = _NAMED.sub(lambda found: found[0] if _HARMLESS.search(found[1]) else f"{found[1]}{HIDDEN}", text)
    return _SHAPES.sub(HIDDEN, text)


def arguments_without_secrets(arguments: Sequence[str]) -> list[str]:
    """Arguments of a command line in the same way; a value may be the argument behind its name.

    Example:
        >>> arguments_without_secrets(["fit", "--logger.api_key", "k", "--data.steps", "3"])
        ['fit', '--logger.api_key', '***', '--data.steps', '3']
    """
    found: list[str] = []
    hide = False
    for argument in arguments:
        found.append(HIDDEN if hide else without_secrets(argument))
        hide = bool(_FLAG.fullmatch(argument)) and not _HARMLESS.search(argument)
    return found
