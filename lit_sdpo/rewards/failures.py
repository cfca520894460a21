"""Stops a run whose verifiers fail too often."""

from __future__ import annotations

from collections.abc import Iterable

from lit_sdpo.errors import UserError
from lit_sdpo.ranges import check_integer, check_share
from lit_sdpo.rewards.base import Verdict


def count_failures(verdicts: Iterable[Verdict]) -> int:
    """Verdicts that are none, because the verifier raised, hung or crashed.

    Example:
        >>> count_failures([Verdict(None, "", ("verifier_failed",)), Verdict(None), Verdict(0.0)])
        1
    """
    return sum("verifier_failed" in verdict.flags for verdict in verdicts)


class FailureLimit:
    """Raises when more than a share of the verdicts are failures.

    The share is taken over all verdicts since the last time that there were enough of them, so one bad completion at
    the start stops nothing.

    Args:
        share: The highest share allowed; 1 never stops.
        enough: Verdicts needed to judge.

    Example:
        >>> limit = FailureLimit(0.05, enough=4)
        >>> limit.add(1, 2); limit.add(0, 1)
        >>> limit.add(0, 1)
        Traceback (most recent call last):
        ...
        lit_sdpo.errors.UserError: verifier: failed on 1 of 4 completions, more than the share of 0.05 allowed. ...
    """

    def __init__(self, share: float = 0.05, enough: int = 50) -> None:
        self.share, self.enough = check_share("share", share), check_integer("enough", enough)
        self._failed = self._seen = 0

    def add(self, failed: int, seen: int) -> None:
        """Count some verdicts.

        Raises:
            UserError: If too many failed.
        """
        self._failed += failed
        self._seen += seen
        if self._seen < self.enough:
            return
        if self._failed > self.share * self._seen:
            raise UserError(
                f"failed on {self._failed} of {self._seen} completions, more than the share of {self.share} allowed",
                where="verifier",
                fix="see its traceback in the log, or raise max_verifier_failures of the RolloutCallback",
            )
        self._failed = self._seen = 0
