"""Stand-ins for a program's objects and classes: what is done to them is done by the program."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

from . import forward
from .forward import COMPARING, COMPUTING, PREDICATES, SPECIAL
from .peer import UnsupportedError
from .values import dictionary_base

if TYPE_CHECKING:
    from .observer import Observer

#: Bases whose instances hold their content here too.
_CONTENTS = (int, float, complex, str, bytes, tuple, frozenset, list, set, dict)
_MANY = (tuple, frozenset, list, set)
_BUILTIN = {
    name: getattr(types, f"{label}Type")
    for name, label in (
        ("function", "Function"), ("generator", "Generator"), ("method", "Method"), ("module", "Module"),
        ("builtin_function_or_method", "BuiltinFunction"), ("mappingproxy", "MappingProxy"), ("code", "Code"),
    )
}  # fmt: skip


class Mirror(type):
    """The class of a stand-in for a class."""

    _peer_: Observer
    _number_: int
    _asked_: bool

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        """An object of the program's class."""
        return cls._peer_.call(cls._number_, *arguments, **named)

    def __getattr__(cls, name: str) -> Any:
        """What the program's class has."""
        if is_own(name):
            raise AttributeError(name)
        return cls._peer_.call("getattr", cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        """Set an attribute of the program's class."""
        cls._peer_.call("setattr", cls, name, value)

    def __delattr__(cls, name: str) -> None:
        """Delete an attribute of the program's class."""
        cls._peer_.call("delattr", cls, name)

    def __new__(mcs, name: str, bases: tuple[type, ...], space: dict[str, Any], **named: Any) -> Any:
        """A stand-in, or a class that a test makes of one."""
        if "_number_" in space:
            return super().__new__(mcs, name, bases, space)
        peer = next(base._peer_ for base in bases if isinstance(base, Mirror))
        if named:
            raise UnsupportedError("a test gives arguments to a class of the program that it extends")
        hidden = ("__module__", "__qualname__", "__classcell__", "__firstlineno__", "__static_attributes__")
        members = {key: value for key, value in space.items() if key not in hidden}
        made = peer.call("subclass", name, bases, members)
        kept = {key: value for key, value in space.items() if isinstance(value, types.FunctionType)}
        kept |= {key: space[key] for key in hidden if key in space}
        return peer.adopt(made, super().__new__(mcs, name, bases, {**kept, "_number_": made._number_, "_peer_": peer}))

    def __init__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any], **named: Any) -> None:
        """Nothing more."""

    def __instancecheck__(cls, instance: Any) -> bool:
        """Whether a stand-in is an instance; classes with a say of their own are asked in the program."""
        if super().__instancecheck__(instance):
            return True
        return is_mirror(instance) and cls._asked_ and bool(cls._peer_.call("isinstance", instance, cls))


class Remote:
    """Stands in for an object of the program."""

    _peer_: Observer
    _number_: int

    def __getattribute__(self, name: str) -> Any:
        """What the program's object has."""
        if name in _LOCAL:
            return object.__getattribute__(self, name)
        if name in PREDICATES:
            self._peer_.judged(self, name, (name,))
        if type(self).__name__ == "function":
            self._peer_.doubt(f"a test asks for {name} of a function")
        found = self._peer_.call("getattr", self, name)
        if isinstance(found, Remote):
            self._peer_.called.setdefault(found._number_, name)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the program's object."""
        self._peer_.call("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        """Delete an attribute of the program's object."""
        self._peer_.call("delattr", self, name)

    def __copy__(self) -> Any:
        """A copy that the program makes."""
        return self._peer_.call("copy", self, deep=False)

    def __deepcopy__(self, memo: Any) -> Any:
        """A deep copy that the program makes."""
        return self._peer_.call("copy", self, deep=True)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Stand-ins are never pickled."""
        raise UnsupportedError("a test pickles an object of the program")

    def __repr__(self) -> str:
        """The representation that the program makes."""
        return str(self._peer_.call("special", self, "__repr__"))

    def __str__(self) -> str:
        """The text that the program makes."""
        return str(self._peer_.call("special", self, "__str__"))

    def __format__(self, form: str) -> str:
        """The text that the program makes."""
        return str(self._peer_.call("special", self, "__format__", form))

    def __dir__(self) -> Any:
        """The names that the program's object has."""
        return self._peer_.call("special", self, "__dir__")


_LOCAL = {"_peer_", "_number_", "__class__", "__copy__", "__deepcopy__", "__reduce_ex__"}


def is_own(name: str) -> bool:
    """Whether a name is one by which stand-ins themselves work."""
    return name in ("_peer_", "_number_", "_asked_")


def is_mirror(value: Any) -> bool:
    """Whether a value stands in for an object or a class of the program."""
    return isinstance(type(value), Mirror) or isinstance(value, Mirror)


def make_class(peer: Observer, number: int, facts: dict[str, Any]) -> type:
    """A stand-in for a class that the program described.

    Raises:
        ValueError: If it is no description; other errors of that kind are possible.
    """
    name, full = str(facts["name"]), str(facts["full"])
    bases: list[type] = [peer.decode(base) for base in facts["bases"]]
    if not all(isinstance(base, type) for base in bases):
        raise ValueError("no class")
    bases = [Remote if base is object else base for base in bases]
    content = next((base for base in _CONTENTS if any(issubclass(each, base) for each in bases)), None)
    fault = any(issubclass(base, BaseException) for base in bases)
    if not fault and content is None:
        bases = [base if isinstance(base, Mirror) or base is Remote else Remote for base in bases]
    bases = list(dict.fromkeys(bases))
    if len(bases) > 1 and Remote in bases:
        bases.remove(Remote)
    space: dict[str, Any] = {
        "_peer_": peer, "_number_": number, "_asked_": bool(facts["asked"]), "__doc__": facts["doc"],
        "__module__": full.removesuffix(f".{name}"), "__qualname__": name,
    }  # fmt: skip
    # Where the content is here, Python's own operators work on it: the program has no say in what it equals.
    shown = SPECIAL - COMPARING - COMPUTING if content or fault else SPECIAL
    for each in facts["special"]:
        if each in shown:
            space[each] = forward.forward_special(peer, each, number)
    for each in facts["functions"]:
        hidden = is_own(each) or each.startswith("__") or hasattr(content or Mirror, each)
        if not hidden:
            space[each] = forward.forward_method(peer, number, each)
    if content or fault:
        space |= {
            "__getattr__": forward.get_attribute,
            "__copy__": Remote.__copy__,
            "__deepcopy__": Remote.__deepcopy__,
        }
        space |= {"__reduce_ex__": Remote.__reduce_ex__, "__setattr__": Remote.__setattr__}
    if facts["equal"]:
        space["__eq__"] = forward.equal_by_content(peer, content) if content else forward.equal(peer)
        space["__ne__"] = forward.unequal
        space["__hash__"] = content.__hash__ if content else forward.default_hash
    if facts["hash"] == "none":
        space["__hash__"] = None
    elif facts["hash"] == "own" and not content:
        space["__hash__"] = forward.own_hash
    if full.startswith("builtins.") and name in _BUILTIN:
        space["__class__"] = property(lambda self: _BUILTIN[name])
    metaclass: type[Mirror] = Mirror
    if meta := [each for each in facts["meta"] if each in SPECIAL]:
        metaclass = type("Mirror", (Mirror,), {each: forward.forward_special(peer, each) for each in meta})
    parents = {type(base) for base in bases if isinstance(base, Mirror)}
    if not all(issubclass(metaclass, parent) for parent in parents):
        parents.add(metaclass)
        lowest = [one for one in parents if not any(issubclass(other, one) for other in parents - {one})]
        metaclass = type("Mirror", tuple(lowest), {})
    if fault and (real := _standard_exception(full)):
        return real
    try:
        return metaclass(name, tuple(bases), space)
    except TypeError:  # Python cannot put these bases together here.
        peer.doubt(f"the class {name} cannot be shown to a test")
        return Mirror(name, (Remote,), space)


def _standard_exception(full: str) -> type | None:
    """The exception of the standard library of that name, if the test has it."""
    module, _, name = full.rpartition(".")
    if module.partition(".")[0] not in sys.stdlib_module_names:
        return None
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def make_object(kind: Any, number: int, content: Any = None) -> Any:
    """A stand-in for an object of a class."""
    base: Any = next((base for base in _CONTENTS if issubclass(kind, base)), None)
    if base is None:
        made = object.__new__(kind)
    elif issubclass(base, list | set | dict):
        made = base.__new__(kind)
    else:
        made = base.__new__(kind, content)
    object.__setattr__(made, "_number_", number)
    return made


def plain_content(value: Any) -> Any:
    """What a stand-in holds of its own: that of the plain type that its class extends; ``None`` where it holds none."""
    for base in _CONTENTS:
        if isinstance(value, base):
            if base is dict:
                return dict(dictionary_base(value).items(value))
            made: Any = base
            return made(made.__iter__(value)) if base in _MANY else made.__getnewargs__(value)[0]
    return None
