"""Scores from log-probabilities: properties, and what is refused. Numbers: the golden cases."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_sdpo.functional import forgetting, gain_and_loss, multiple_choice_scores, text_likelihood

# Far enough apart that a division by a length keeps their order.
LOGPROBS = st.lists(st.integers(-5000, 0).map(lambda n: n / 100), min_size=1, max_size=8)


@given(st.lists(LOGPROBS, min_size=1, max_size=5))
def test_equal_lengths_make_the_three_measures_one(rows):
    choices = [[chr(97 + k) * 3 for k in range(len(row))] for row in rows]
    found = multiple_choice_scores(rows, choices, [0] * len(rows))
    best = [max(range(len(row)), key=torch.tensor(row).tolist().__getitem__) for row in rows]
    assert found["predictions"].tolist() == found["predictions_norm"].tolist() == best
    assert found["predictions_norm"].tolist() == found["predictions_bytes"].tolist()


def test_an_option_out_of_reach_is_never_right():
    assert multiple_choice_scores([[-1.0, -2.0]], [["a", "b"]], [7])["acc"] == 0
    assert multiple_choice_scores([], [], [])["acc"].isnan()


@pytest.mark.parametrize(
    "arguments",
    [([[-1.0]], [["a"]], []), ([[-1.0, -2.0]], [["a"]], [0]), ([[]], [[]], [0]), ([[-1.0, -2.0]], [["a", ""]], [0])],
)
def test_what_cannot_be_scored_is_refused(arguments):
    with pytest.raises(ValueError, match=r"length|option"):
        multiple_choice_scores(*arguments)


@given(st.lists(st.tuples(LOGPROBS, st.integers(1, 30)), min_size=1, max_size=5))
def test_a_text_cut_in_two_costs_the_same(texts):
    logprobs, counts = zip(*texts, strict=True)
    whole = text_likelihood(logprobs, counts)
    one = text_likelihood([[x for row in logprobs for x in row]], [sum(counts)])
    for name in ("loss_per_token", "loss_per_byte", "bits_per_byte", "byte_perplexity"):
        assert math.isclose(whole[name], one[name], rel_tol=1e-9)
    weighted = (whole["bits_per_byte_by_text"] * torch.tensor(counts)).sum() / sum(counts)
    assert math.isclose(weighted, whole["bits_per_byte"], rel_tol=1e-9, abs_tol=1e-12)


def test_every_text_needs_its_bytes():
    with pytest.raises(ValueError, match="1 of 2"):
        text_likelihood([[-1.0], [-1.0]], [1])


def test_modes_of_losses():
    with pytest.raises(ValueError, match="unknown mode 'least'"):
        forgetting(torch.zeros(3, 2), mode="least")
    gain, loss = gain_and_loss(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 3.0]), mode="min")
    assert gain.tolist() == [50, 0]
    assert loss.tolist() == [0, 50]
