from __future__ import annotations

import pytest

from lit_sdpo.errors import UserError
from lit_sdpo.rewards.failures import FailureLimit


def test_a_few_failures_are_no_reason_to_stop():
    limit = FailureLimit(0.1, enough=50)
    limit.add(40, 40)
    limit = FailureLimit(0.1, enough=50)
    for _ in range(20):
        limit.add(1, 10)


def test_r05_too_many_stop_the_run():
    limit = FailureLimit(0.1, enough=50)
    limit.add(0, 200)
    limit.add(5, 40)
    with pytest.raises(UserError, match=r"failed on 6 of 50 completions.*max_verifier_failures"):
        limit.add(1, 10)


def test_a_share_of_one_never_stops():
    FailureLimit(1.0).add(1000, 1000)
    with pytest.raises(ValueError, match="share"):
        FailureLimit(2.0)
