"""Values as data: what travels between a test and a program by its content.

Numbers below 2^63, texts, truth values and ``None`` stand for themselves; everything else is a list that begins with a
name. Lists, dictionaries and other values that can change have a number, by which both sides know them again: one that
comes a second time is the same object, with what it holds now. What is no data is left to subclasses.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Any

DEEPEST = 100
_SMALL = 1 << 63
_SCALARS = {str, float, bool, type(None)}
_NATIVE = {*_SCALARS, int}
_CONSTANTS: dict[str, Any] = {"NotImplemented": NotImplemented, "Ellipsis": Ellipsis}

#: Values that cannot change, by the name of their type: what their type makes them of.
_PARTS: dict[str, Callable[[Any], Iterable[Any]]] = {
    "builtins.complex": lambda v: (v.real, v.imag),
    "builtins.range": lambda v: (v.start, v.stop, v.step),
    "builtins.slice": lambda v: (v.start, v.stop, v.step),
    "decimal.Decimal": lambda v: (str(v),),
    "fractions.Fraction": lambda v: (v.numerator, v.denominator),
    "datetime.date": lambda v: (v.year, v.month, v.day),
    "datetime.time": lambda v: (v.hour, v.minute, v.second, v.microsecond, v.tzinfo, v.fold),
    "datetime.datetime": lambda v: (
        v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.tzinfo, v.fold,
    ),
    "datetime.timedelta": lambda v: (v.days, v.seconds, v.microseconds),
    "datetime.timezone": lambda v: v.__getinitargs__(),
    "zoneinfo.ZoneInfo": lambda v: (v.key,),
    "uuid.UUID": lambda v: (v.hex,),
    "pathlib.PosixPath": lambda v: (str(v),),
    "pathlib.PurePosixPath": lambda v: (str(v),),
    "ipaddress.IPv4Address": lambda v: (str(v),),
    "ipaddress.IPv6Address": lambda v: (str(v),),
    "ipaddress.IPv4Network": lambda v: (str(v),),
    "ipaddress.IPv6Network": lambda v: (str(v),),
}  # fmt: skip

#: Types that travel by name.
_TYPES = {
    *_PARTS, "collections.deque", "collections.Counter", "collections.defaultdict", "collections.OrderedDict",
    "array.array",
}  # fmt: skip


def name_of(kind: type) -> str:
    """Module and name of a type."""
    return f"{kind.__module__}.{kind.__qualname__}"


def is_known(kind: type) -> bool:
    """Whether a type is known by name on both sides: one of Python's own, or one whose values are data."""
    name = name_of(kind)
    return (name in _TYPES or name.startswith("builtins.")) and _find(name) is kind


def known_type(name: str) -> type:
    """The type of that name.

    Raises:
        ValueError: If it is none that may travel.
    """
    kind = _find(name) if name in _TYPES or name.startswith("builtins.") else None
    if not isinstance(kind, type):
        raise ValueError(f"{name} is no type")
    return kind


def _find(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(sys.modules.get(module) or __import__(module), attribute, None)


def dictionary_base(value: Any) -> Any:
    """``OrderedDict`` or ``dict``: whose methods know the items of a dictionary and their order."""
    ordered = getattr(sys.modules.get("collections"), "OrderedDict", None)
    return ordered if ordered is not None and isinstance(value, ordered) else dict


class Codec:
    """Writes and reads values; one object for each end of a connection.

    Args:
        first: 0 at one end and 1 at the other, so that the numbers that they give differ.
    """

    def __init__(self, first: int) -> None:
        self.shared: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}
        self._next = first
        self._seen: set[int] = set()

    def forget(self) -> None:
        """No value that came or went is known any more."""
        self.shared.clear()
        self._numbers.clear()

    def begin(self) -> None:
        """A new message begins: in it, each value is written once."""
        self._seen = set()

    def encode(self, value: Any, depth: int = 0) -> Any:
        """The value as data."""
        kind = type(value)
        if kind in _SCALARS:
            return value
        if kind is int:
            return value if -_SMALL <= value < _SMALL else ["int", hex(value)]
        if depth < DEEPEST:
            if kind is tuple:
                return ["tuple", self._encode_all(value, depth + 1)]
            if kind is list:
                return self._written("list", value) or ["list", self._number(value), self._encode_all(value, depth + 1)]
            if kind is dict:
                return self._written("dict", value) or [
                    "dict", self._number(value), *self._encode_items(value, depth + 1)
                ]  # fmt: skip
            if kind is set:
                return self._written("set", value) or ["set", self._number(value), self._encode_all(value, depth + 1)]
            if kind is frozenset:
                return ["frozenset", self._encode_all(value, depth + 1)]
        if kind is bytes:
            return ["bytes", value.hex()]
        name = name_of(kind)
        if name in _TYPES and _find(name) is kind:
            if name in _PARTS:
                return ["make", name, [self.encode(part, depth + 1) for part in _PARTS[name](value)]]
            if depth < DEEPEST:
                return self._encode_rare(name, value, depth + 1)
        if kind is bytearray:
            return self._written("bytearray", value) or ["bytearray", self._number(value), value.hex()]
        if name in ("builtins.dict_keys", "builtins.dict_values", "builtins.dict_items"):
            members = self._encode_all(list(value), depth + 1)
            return [name.removeprefix("builtins.dict_"), members]
        for name, constant in _CONSTANTS.items():
            if value is constant:
                return ["constant", name]
        return self.encode_object(value, depth)

    def _encode_rare(self, name: str, value: Any, depth: int) -> Any:
        written = self._written(name, value)
        if written is not None:
            return written
        number = self._number(value)
        if name == "collections.deque":
            return [name, number, self._encode_all(value, depth), value.maxlen]
        if name == "array.array":
            return [name, number, self._encode_all(value, depth), value.typecode]
        extra = [self.encode(value.default_factory, depth)] if name == "collections.defaultdict" else []
        return [name, number, *self._encode_items(value, depth), *extra]

    def _encode_all(self, values: Collection[Any], depth: int) -> list[Any]:
        kinds = set(map(type, values))
        if kinds <= _SCALARS or (kinds == {int} and min(values) >= -_SMALL and max(values) < _SMALL):
            return list(values)
        return [self.encode(value, depth) for value in values]

    def _encode_items(self, value: dict[Any, Any], depth: int) -> list[list[Any]]:
        return [self._encode_all(list(value), depth), self._encode_all(list(value.values()), depth)]

    def _written(self, kind: str, value: Any) -> list[Any] | None:
        number = self._numbers.get(id(value))
        if number in self._seen:
            return ["again", number]
        self._seen.add(self._number(value))
        return None

    def _number_of(self, value: Any) -> int | None:
        return self._numbers.get(id(value))

    def _number(self, value: Any) -> int:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._next
            self._next += 2
            self._numbers[id(value)] = number
            self.shared[number] = value
        return number

    def decode(self, content: Any) -> Any:
        """The value of some data.

        Raises:
            ValueError: If it is no such data; other errors of that kind are possible.
        """
        if type(content) in _NATIVE:
            return content
        if type(content) is not list:
            raise ValueError("no value")
        kind = content[0]
        if kind == "tuple":
            return tuple(self._decode_all(content[1]))
        if kind == "list":
            known = self._known(content[1], list)
            known[:] = self._decode_all(content[2])
            return known
        if kind == "int":
            return int(content[1], 16)
        if kind == "dict":
            return self._fill(self._known(content[1], dict), content)
        if kind == "set":
            known = self._known(content[1], set)
            members = self._decode_all(content[2])
            known.clear()
            known.update(members)
            return known
        if kind == "again":
            return self.shared[content[1]]
        if kind == "frozenset":
            return frozenset(self._decode_all(content[1]))
        if kind == "bytes":
            return bytes.fromhex(content[1])
        if kind == "make":
            return self._make(content[1], self._decode_all(content[2]))
        if kind == "bytearray":
            known = self._known(content[1], bytearray)
            known[:] = bytes.fromhex(content[2])
            return known
        if kind == "constant":
            return _CONSTANTS[content[1]]
        if kind == "keys":
            return dict.fromkeys(self._decode_all(content[1])).keys()
        if kind == "values":
            return dict(enumerate(self._decode_all(content[1]))).values()
        if kind == "items":
            return dict(self._decode_all(content[1])).items()
        if kind in _TYPES:
            return self._decode_rare(kind, content)
        return self.decode_object(content)

    def _decode_rare(self, name: str, content: list[Any]) -> Any:
        kind: Any = known_type(name)
        if name == "collections.deque":
            longest = self.decode(content[3])
            known = self._known(content[1], kind, [], longest)
            if known.maxlen == longest:
                members = self._decode_all(content[2])
                known.clear()
                known.extend(members)
            return known
        if name == "array.array":
            known = self._known(content[1], kind, content[3])
            known[:] = kind(content[3], self._decode_all(content[2]))
            return known
        known = self._known(content[1], kind)
        self._fill(known, content)
        if name == "collections.defaultdict":
            known.default_factory = self.decode(content[4])
        return known

    def _decode_all(self, contents: Any) -> list[Any]:
        if type(contents) is not list:
            raise ValueError("no values")
        if set(map(type, contents)) <= _NATIVE:
            return contents
        return [self.decode(content) for content in contents]

    def _fill(self, known: dict[Any, Any], content: list[Any]) -> dict[Any, Any]:
        keys, values = self._decode_all(content[2]), self._decode_all(content[3])
        dict.clear(known)
        for key, value in zip(keys, values, strict=True):
            known[key] = value
        return known

    def _known(self, number: Any, kind: type, *arguments: Any) -> Any:
        value = self.shared.get(number)
        if value is None:
            if type(number) is not int:
                raise ValueError("no number")
            value = kind(*arguments)
            self.shared[number] = value
            self._numbers[id(value)] = number
        elif type(value) is not kind:
            raise ValueError("another type")
        return value

    def _make(self, name: str, parts: list[Any]) -> Any:
        if name not in _PARTS:
            raise ValueError(f"no value of type {name}")
        if name in ("datetime.time", "datetime.datetime"):
            return known_type(name)(*parts[:-1], fold=parts[-1])  # type: ignore[call-arg]
        return known_type(name)(*parts)

    def encode_object(self, value: Any, depth: int) -> Any:
        """What is no data; for subclasses."""
        raise NotImplementedError

    def decode_object(self, content: list[Any]) -> Any:
        """What is no data; for subclasses."""
        raise NotImplementedError
