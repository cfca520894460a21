from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_sdpo.functional import (
    compression_ratio,
    distinct_n,
    log_odds,
    longest_repeated_suffix,
    ngram_counts,
    ngram_ratio,
    ngrams,
    repetition_share,
)
from lit_sdpo.functional.text import ending_loop, log_odds_of_counts

documents = st.lists(st.text("abc", max_size=8), max_size=4)


@settings(deadline=None, max_examples=50)
@given(documents, st.integers(1, 3))
def test_no_ngram_crosses_documents(docs, order):
    expected = [tuple(d[i : i + order]) for d in docs for i in range(len(d)) if i + order <= len(d)]
    assert sorted(ngram_counts(docs, order).elements()) == sorted(expected)


@settings(deadline=None, max_examples=50)
@given(documents, documents, st.integers(1, 2), st.sampled_from([0.5, 1.0, 2.0]))
def test_ratio_is_the_definition(before, after, order, s):
    old = [g for d in before for g in ngrams(d, order)]
    new = [g for d in after for g in ngrams(d, order)]
    union = set(old) | set(new)

    def f(grams, g):
        return (grams.count(g) + s) / (len(grams) + s * len(union))

    expected = {g: f(new, g) / f(old, g) for g in union}
    assert ngram_ratio(before, after, order, s) == pytest.approx(expected)


@settings(deadline=None, max_examples=100)
@given(st.text("ab", max_size=12))
def test_longest_repeated_suffix_by_search(text):
    found = [k for k in range(1, len(text)) if any(text[i : i + k] == text[-k:] for i in range(len(text) - k))]
    assert longest_repeated_suffix(text) == max(found, default=0)


def test_a_loop_and_linear_time():
    loop = [7, 8, 9] + [1, 2] * 50_000
    assert longest_repeated_suffix(loop) == 2 * 50_000 - 2
    assert longest_repeated_suffix([5] * 100_000) == 99_999


def test_log_odds_by_hand():
    """Monroe et al., eq. 16 and 22, for 'a' with counts 1 of 4 before, 3 of 4 after and prior 4, 4."""
    got = log_odds(["abbb"], ["aaab"], order=1)
    delta = math.log((3 + 4) / (4 + 8 - 3 - 4)) - math.log((1 + 4) / (4 + 8 - 1 - 4))
    assert got[("a",)] == pytest.approx(delta / math.sqrt(1 / 7 + 1 / 5))
    assert got[("b",)] == pytest.approx(-got[("a",)])
    weak = log_odds(["abbb"], ["aaab"], order=1, prior_strength=1.0)
    delta = math.log(3.5 / (5 - 3.5)) - math.log(1.5 / (5 - 1.5))
    assert weak[("a",)] == pytest.approx(delta / math.sqrt(1 / 3.5 + 1 / 1.5))
    assert log_odds(["aa"], ["a"], order=1) == {}


@settings(deadline=None, max_examples=50)
@given(documents, documents)
def test_log_odds_change_sign_with_the_direction(before, after):
    forward, backward = log_odds(before, after, 1), log_odds(after, before, 1)
    assert {g: -z for g, z in backward.items()} == pytest.approx(forward)


def test_repetition():
    assert distinct_n(["abc", "abc"], 2) == 0.5
    assert math.isnan(distinct_n(["a"], 2))
    assert repetition_share("aaaa", 1) == 0.75
    assert repetition_share("abcd", 1) == repetition_share("", 1) == 0


def test_compression():
    prose = "The quick brown fox jumps over the lazy dog while five boxing wizards watch."
    assert compression_ratio("boxed " * 500) > 50 > compression_ratio(prose)
    assert compression_ratio("") == 1
    assert compression_ratio("\ud800") > 0


def test_arguments():
    with pytest.raises(ValueError, match="order"):
        ngrams("abc", 0)
    with pytest.raises(ValueError, match="smoothing"):
        ngram_ratio(["a"], ["a"], 1, smoothing=0)


@settings(deadline=None, max_examples=100)
@given(st.text("ab", max_size=14), st.integers(2, 4))
def test_ending_loop_by_search(text, repeats):
    found = [
        k
        for k in range(1, len(text) + 1)
        for period in range(1, k // repeats + 1)
        if all(text[-i] == text[-i - period] for i in range(1, k - period + 1))
    ]
    assert ending_loop(text, repeats) == max(found, default=0)


def test_log_odds_of_counts_are_those_of_documents():
    got = log_odds_of_counts({"a": 1, "b": 3}, {"a": 3, "b": 1})
    assert {(key,): z for key, z in got.items()} == pytest.approx(log_odds(["abbb"], ["aaab"], order=1))
    assert log_odds_of_counts({}, {}) == {}
    with pytest.raises(ValueError, match="repeats"):
        ending_loop("abc", 1)
