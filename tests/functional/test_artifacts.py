from __future__ import annotations

import zlib

import pytest

from lit_sdpo.functional.artifacts import RARE, BaseTexts, counted, words
from lit_sdpo.functional.text import log_odds

BASE = ["the cat sat on the mat", "the dog sat", "a cat ran"]


def test_words():
    assert words(r"It's \boxed{12} — x_1!") == ["It", "'", "s", r"\boxed", "{", "12", "}", "—", "x_1", "!"]
    assert words("") == []


def test_amplified_by_hand():
    new = ["the cat sat sat sat", "sat sat"]
    found = {one.ngram: one for one in BaseTexts.of(BASE, [1]).amplified(new, 20)}
    expected = log_odds([text.split() for text in BASE], [text.split() for text in new], 1, 0.1 * 19)
    assert set(found) == {"sat"}  # "the" and "cat" occur once
    one = found["sat"]
    assert one.z == pytest.approx(expected[("sat",)])
    assert (one.count, one.base_count, one.order) == (5, 2, 1)
    assert one.per_1000 == pytest.approx(1000 * 5 / 7)
    assert one.ratio == pytest.approx((6 / (7 + 8)) / (3 / (12 + 8)))  # eight different words


def test_orders_are_ranked_together():
    new = ["go on go on go on go on"]
    found = BaseTexts.of(BASE, [1, 2]).amplified(new, 3)
    assert [one.z for one in found] == sorted((one.z for one in found), reverse=True)
    assert {one.ngram for one in found} <= {"go", "on", "go on", "on go"}
    assert len(found) == 3


def test_the_same_texts_amplify_nothing():
    assert BaseTexts.of(BASE, [1, 2, 3]).amplified(BASE, 10) == []
    assert BaseTexts.of([], [1]).amplified([], 10) == []


def test_rare_ngrams_count_together():
    base = BaseTexts.of(BASE, [1], most=3)
    assert sum(base.counts[1].values()) == 12
    assert base.counts[1][RARE] == 12 - 3 - 2 - 2
    assert RARE not in {one.ngram for one in base.amplified(["x y z w x y z w a a a a"], 10)}


def test_counts_do_not_cross_texts():
    assert counted(["a b", "c"], 2) == {"a b": 1}


def test_compression_at_the_same_length():
    varied = ["".join(chr(97 + (i * i * k) % 26) for i in range(100)) for k in (3, 5, 7)]
    base = BaseTexts.of(varied, [1])
    assert set(base.compression) == {32, 64}

    def ratio(text, size):
        return size / len(zlib.compress(text[:size].encode(), 9))

    assert base.compression[64] == (pytest.approx(sum(ratio(t, 64) for t in varied) / 3), 3)
    assert sum(base.relative_compression(varied)) / 3 == pytest.approx(1)
    loop, short = base.relative_compression(["ab" * 500, "ab" * 20, "ab"])
    assert loop == pytest.approx(ratio("ab" * 32, 64) / base.compression[64][0])
    assert short == pytest.approx(ratio("ab" * 16, 32) / base.compression[32][0])
    assert min(loop, short) > 1
    assert base.relative_compression(["ab" * 500], least=4) == []


def test_state():
    base = BaseTexts.of(BASE, [1, 2])
    again = BaseTexts.from_state_dict(base.state_dict())
    assert again == base
