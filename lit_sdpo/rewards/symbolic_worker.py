"""Compares mathematical expressions in a process of its own.

Started by its path, so nothing of the package is imported here. It reads one JSON line ``[expected, answer]`` at a time
and writes ``true``, ``false`` or ``null`` (gave up in time). Whoever started it kills it when no line comes back.
"""

from __future__ import annotations

import json
import logging
import resource
import sys

SECONDS = 3
MEMORY = 4 << 30


def equal(expected: str, answer: str) -> bool | None:
    """Whether two LaTeX expressions are equal; ``None`` when there was not enough time."""
    from math_verify import LatexExtractionConfig, parse, verify
    from math_verify.errors import TimeoutException

    only_boxes = (LatexExtractionConfig(boxed_match_priority=0),)
    try:
        left, right = (
            parse(rf"\boxed{{{text}}}", only_boxes, parsing_timeout=SECONDS, raise_on_error=True)
            for text in (expected, answer)
        )
        # The twelve digits keep a rounded decimal from being taken for a surd.
        return bool(
            verify(left, right, float_rounding=12, timeout_seconds=SECONDS, raise_on_error=True)
            if left and right
            else 0
        )
    except TimeoutException:
        return None
    except (Exception, RecursionError) as error:
        return None if isinstance(error.__cause__, TimeoutException) or "imed out" in str(error) else False


def main() -> None:
    """Answer until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        expected, answer = json.loads(line)
        try:
            verdict = equal(expected, answer)
        except MemoryError:
            verdict = None
        sys.stdout.write(json.dumps(verdict) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
