"""What a test is told of the program's classes and exceptions."""

from __future__ import annotations

from .values import dictionary_base, name_of
from .wire import SHORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: Types whose instances are known to a test by their content, if a class of the program extends them.
CONTENTS: dict[Any, Callable[[Any], Any]] = {
    bool: bool.__bool__,
    int: int.__index__,
    float: lambda v: float.__add__(v, 0.0) if v == 0 else float.__pos__(v),
    complex: complex.__pos__,
    str: str.__str__,
    bytes: lambda v: bytes.__getitem__(v, slice(None)),
    tuple: lambda v: tuple(tuple.__iter__(v)),
    frozenset: lambda v: frozenset(frozenset.__iter__(v)),
    list: lambda v: list(list.__iter__(v)),
    set: lambda v: set(set.__iter__(v)),
    dict: lambda v: dict(dictionary_base(v).items(v)),
}  # fmt: skip
#: What a class may define without that it is shown: Python asks for these by other ways, or never.
_HIDDEN = {
    "__new__", "__init_subclass__", "__class_getitem__", "__getattribute__", "__getattr__", "__setattr__",
    "__delattr__", "__eq__", "__ne__", "__hash__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__",
    "__subclasshook__", "__sizeof__", "__del__", "__set_name__", "__instancecheck__", "__subclasscheck__", "__class__",
    "__get__", "__set__", "__delete__", "__prepare__", "__mro_entries__", "__copy__", "__deepcopy__",
}  # fmt: skip
#: What built-in exceptions know beside their arguments.
FACTS = ("filename", "filename2", "name", "path", "lineno", "offset", "text")


def describe(kind: type, bases: list[Any]) -> dict[str, Any]:
    """A class by its name and by what it defines."""
    own = vars(kind)
    metaclasses: list[Any] = type.mro(type(kind))[:-2]  # Without ``type`` and ``object``.
    return {
        "name": kind.__name__[:SHORT], "full": name_of(kind)[:SHORT], "doc": text_or_none(own.get("__doc__")),
        "bases": bases,
        "special": [name for name, value in list(own.items()) if is_special(name) and callable(value)],
        "functions": [name for name, value in list(own.items()) if not is_special(name) and is_function(value)],
        "asked": hasattr(type(kind), "__instancecheck__") and type(kind) is not type,
        "equal": "__eq__" in own and own["__eq__"] is not object.__eq__,
        "hash": "own" if callable(own.get("__hash__")) else "none" if "__hash__" in own else "",
        "meta": sorted({
            name for meta in metaclasses for name in vars(meta)
            if is_special(name) and name not in ("__call__", "__init__", "__dir__", "__repr__", "__or__", "__ror__")
        }),
    }  # fmt: skip


def is_special(name: str) -> bool:
    """Whether a test is shown this method of a type."""
    return name.startswith("__") and name.endswith("__") and name not in _HIDDEN


def is_function(value: Any) -> bool:
    """Whether an entry of a class is a method in the usual sense."""
    return type(value).__name__ == "function"


def is_known_builtin(kind: type) -> bool:
    """Whether a type is one of the interpreter's own."""
    return kind.__module__ == "builtins"


def text_or_none(value: Any) -> str | None:
    """The value if it is text."""
    return value[:SHORT] if type(value) is str else None


def lines_of(error: BaseException) -> list[int]:
    """The line of the program that the error came through last."""
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<program>":
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename == "<program>" and error.lineno:
        lines.append(error.lineno)
    return lines[-1:]
