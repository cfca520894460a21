"""Equality of mathematical expressions by computer algebra."""

from __future__ import annotations

import logging
import threading
from functools import lru_cache

SECONDS = 3


@lru_cache(maxsize=8192)
def symbolically_equal(expected: str, answer: str) -> bool | None:
    r"""Whether two LaTeX expressions are equal; ``None`` when there was not enough time to say.

    Time is watched in the main thread alone, and not while a single operation on a huge number runs.

    Example:
        >>> symbolically_equal(r"3\sqrt{13}", r"\sqrt{117}")
        True
    """
    from math_verify import LatexExtractionConfig, parse, verify
    from math_verify.errors import TimeoutException

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    seconds = SECONDS if threading.current_thread() is threading.main_thread() else None
    only_boxes = (LatexExtractionConfig(boxed_match_priority=0),)
    try:
        left, right = (
            parse(rf"\boxed{{{text}}}", only_boxes, parsing_timeout=seconds, raise_on_error=True)
            for text in (expected, answer)
        )
        # The twelve digits keep a rounded decimal from being taken for a surd.
        return bool(
            left and right and verify(left, right, float_rounding=12, timeout_seconds=seconds, raise_on_error=True)
        )
    except TimeoutException:
        return None
    except (Exception, RecursionError) as error:
        return None if isinstance(error.__cause__, TimeoutException) or "imed out" in str(error) else False
