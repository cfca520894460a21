"""Logic grids as JSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rewards.contract import Contract
from lit_sdpo.rewards.strict_json import loads
from lit_sdpo.rewards.thinking import final_text

_OPENING = re.compile(r'\{\s*"')
_CHUNK = 8192


class ZebraGrid(Contract):
    """The last JSON object with a ``solution`` key has every asked cell right (``zebra_json``).

    Example:
        >>> ZebraGrid().judge('{"solution": {"House 1": {"Name": "eric"}}}', '{"House 1": {"Name": "Eric"}}').score
        1.0
    """

    markers = (r'"solution"\s*:',)
    form = 'End with one JSON object that has the key "solution".'

    def judge(self, text: str, ground_truth: str) -> Verdict:
        """Score 1 when every cell is right."""
        expected = json.loads(ground_truth)
        grid = _last_solution(text)
        if grid is None:
            return self.missing()
        if not isinstance(grid, dict):
            return self.malformed("The solution is not a JSON object of houses.")
        if _repeats(grid):
            return self.malformed("The solution says something twice.")
        cells = sum(len(house) for house in expected.values())
        right = right_cells(grid, expected)
        if right == cells:
            return Verdict(1.0)
        return Verdict(0.0, f"{right} of {cells} cells are right.", (f"cells:{right}/{cells}",))

    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """The grid under the key ``solution``."""
        grid = loads(ground_truth)
        if (
            not isinstance(grid, dict)
            or not grid
            or not all(isinstance(house, dict) and house for house in grid.values())
        ):
            raise ValueError('it has to be JSON like {"House 1": {"Name": "..."}, ...}')
        for name, house in grid.items():
            for attribute, value in house.items():
                known = isinstance(value, int) and not isinstance(value, bool)
                if not known and not (isinstance(value, str) and value.strip().strip("_")):
                    raise ValueError(f"cell {attribute!r} of {name!r} needs a text or a whole number, not {value!r}")
        text = json.dumps({"solution": grid}, ensure_ascii=False)
        if self.judge(final_text(text) or "", ground_truth).score != 1.0:
            raise ValueError("two names in it are the same, case and outer spaces aside, or it holds a tag of thinking")
        return text


def right_cells(grid: Mapping[str, Any], expected: Mapping[str, Mapping[str, Any]]) -> int:
    """Number of cells of ``expected`` that ``grid`` has right; case and outer spaces do not count.

    Example:
        >>> right_cells({"House 1": {"Name": "Eric", "Pet": "dog"}}, {"House 1": {"Name": "Eric", "Pet": "cat"}})
        1
    """
    houses = {_plain(name): house for name, house in grid.items()}
    right = 0
    for name, attributes in expected.items():
        house = houses.get(_plain(name))
        if isinstance(house, dict):
            answers = {_plain(attribute): value for attribute, value in house.items()}
            right += sum(_plain(answers.get(_plain(a))) == _plain(value) for a, value in attributes.items())
    return right


def _plain(value: Any) -> Any:
    """Text without case and outer spaces; whole numbers as text. Anything else stays as it is and equals no text."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value.strip().casefold() if isinstance(value, str) else value


class _Object(dict[str, Any]):
    """A JSON object that knows which of its keys, case and outer spaces aside, stood in it more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(_plain(key) for key, _ in pairs)
        self.repeated = {key for key, count in counts.items() if count > 1}


def _repeats(value: Any) -> bool:
    """Whether some object in a value has a key more than once."""
    if isinstance(value, list):
        return any(map(_repeats, value))
    return isinstance(value, _Object) and (bool(value.repeated) or any(map(_repeats, value.values())))


def _last_solution(text: str) -> Any:
    """The ``solution`` of the last outermost JSON object that has one; two in one object are none."""
    found = None
    for document in _objects(text):
        if "solution" in document:
            found = [] if "solution" in document.repeated else document["solution"]
    return found


def _objects(text: str) -> Iterator[_Object]:
    """Outermost JSON objects in a text, in order; the work is bounded by a multiple of the length."""
    decoder = json.JSONDecoder(object_pairs_hook=_Object)
    budget = 20 * len(text) + 100_000
    end = 0
    while budget > 0 and (opening := _OPENING.search(text, end)):
        at = opening.start()
        if at > _CHUNK:  # A JSON error counts the lines before it, so what is behind has to go.
            text, at = text[at:], 0
        try:
            document, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            budget -= max(error.pos - at, 1)
            end = at + 1
        except (RecursionError, ValueError):
            budget -= 10_000
            end = at + 1
        else:
            budget -= end - at
            yield document
