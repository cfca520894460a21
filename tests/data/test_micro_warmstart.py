import pickle
from collections import Counter

import pytest

from lit_sdpo.data.micro.domain import HINTS, STYLES
from lit_sdpo.data.micro.warmstart import WarmStartTask
from lit_sdpo.data.micro.world import DOMAINS, MicroWorld, problems
from lit_sdpo.rollouts.reprompt import Reprompt

TRAINED = ["math", "sci", "tool", "code"]
DEMONSTRATION = "\n\nCorrect solution:\n\n"


@pytest.fixture(scope="module")
def rows():
    return WarmStartTask().rows("train")[:8000]


def share(rows, condition):
    return sum(map(condition, rows)) / len(rows)


def plain(rows, domain):
    return [row for row in rows if row.extra["domain"] == domain and row.extra["mode"] == "plain"]


def test_the_knob_positions_have_their_shares(rows):
    assert share(rows, lambda row: row.extra["named"]) == pytest.approx(0.60, abs=0.02)
    assert share(rows, lambda row: row.extra["wording"] == "own") == pytest.approx(0.75, abs=0.02)
    assert share(rows, lambda row: row.extra["wrappers"] == "own") == pytest.approx(0.80, abs=0.02)
    assert share(rows, lambda row: row.extra["domain"] == "prior") == pytest.approx(0.16, abs=0.015)
    for domain in TRAINED:
        own = [row for row in rows if row.extra["domain"] == domain]
        assert len(own) / len(rows) == pytest.approx(0.21, abs=0.02)
        assert share(own, lambda row: row.extra["variant"] == "ood") == pytest.approx(0.20, abs=0.04)
        assert share(own, lambda row: row.extra["mode"] == "demonstration") == pytest.approx(0.35, abs=0.04)


def test_the_shares_are_arguments():
    rows = WarmStartTask(named=0, own_wording=1, own_wrappers=1, prior=0, ood=0, demonstrated=0).rows("train")[:300]
    for row in rows:
        assert (row.extra["named"], row.extra["wording"], row.extra["wrappers"]) == (False, "own", "own")
        assert (row.extra["variant"], row.extra["mode"]) == ("train", "plain")
        assert not any(row.messages[0]["content"].endswith(hint) for hint in HINTS.values())
    assert {row.extra["domain"] for row in rows} == set(TRAINED)


def test_plain_responses_are_drawn_from_the_style_mixture(rows):
    for domain in TRAINED:
        own = plain(rows, domain)
        for style in STYLES:
            found = share(own, lambda row, style=style: row.extra["style"] == style)
            assert found == pytest.approx(DOMAINS[domain].shares[style], abs=0.05)


@pytest.mark.parametrize("skill", [0.5, 2.0])
def test_skill_scales_the_share_of_good_responses(skill):
    world = MicroWorld(skill=skill)
    rows = WarmStartTask(world).rows("train")[:4000]
    for domain in TRAINED:
        shares = world.shares(DOMAINS[domain])
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["good"] == pytest.approx(skill * DOMAINS[domain].shares["good"])
        found = share(plain(rows, domain), lambda row: row.extra["style"] == "good")
        assert found == pytest.approx(shares["good"], abs=0.06)
    assert world.shares(DOMAINS["prior"]) == {"good": 1.0}


@pytest.mark.parametrize("quality", [0.85, 0.2])
def test_demonstrations_have_their_quality(quality):
    task = WarmStartTask(MicroWorld(demonstration_quality=quality))
    rows = [row for row in task.rows("train")[:6000] if row.extra["mode"] == "demonstration"]

    def shown(row):
        _, _, rest = row.messages[0]["content"].partition(DEMONSTRATION)
        return rest.removesuffix("\n\nCorrectly solve the original question.")

    right = [row for row in rows if task.verify(shown(row), row).score == 1]
    assert len(right) / len(rows) == pytest.approx(quality, abs=0.03)
    assert share(right, lambda row: "foreign_marker" in task.verify(shown(row), row).flags) == pytest.approx(
        0.08, abs=0.03
    )
    wrong = [row for row in rows if task.verify(shown(row), row).score == 0]
    assert share(right, lambda row: task.verify(row.reference, row).score == 1) > 0.93
    assert share(wrong, lambda row: task.verify(row.reference, row).score == 1) == pytest.approx(0.76, abs=0.1)
    assert share(right, lambda row: row.reference == shown(row)) > 0.7


def test_demonstrations_are_put_as_the_teacher_sees_them():
    reprompt = Reprompt(template="{solution}{prompt}", solution_template="<<{solution}>> ")
    ours, default = (WarmStartTask(reprompt=r).rows("train")[:200] for r in (reprompt, None))
    for row, other in zip(ours, default, strict=True):
        text = row.messages[0]["content"]
        if row.extra["mode"] == "demonstration":
            demonstration, prompt = text[2:].split(">> ", 1)
            assert Reprompt().messages([{"role": "user", "content": prompt}], demonstration) == other.messages
        else:
            assert row == other


def test_responses_have_the_score_of_their_style(rows):
    task = WarmStartTask()
    for row in rows:
        good = row.extra["style"] in ("good", "dual")
        assert task.verify(row.reference, row).score == good, row


def test_only_problems_of_the_train_split_appear(rows):
    train = {p.text for d in DOMAINS for v in DOMAINS[d].variants for p in problems(d, v, "train")}
    held_out = {
        p.text for d in DOMAINS for v in DOMAINS[d].variants for s in ("validation", "test") for p in problems(d, v, s)
    }
    found = {row.extra["problem"] for row in rows}
    assert found <= train
    assert not found & held_out
    assert len(found) > 5000
    assert not WarmStartTask().rows("validation")
    assert not WarmStartTask().rows("test")


def test_an_example_depends_on_its_index_and_the_seed_alone(rows):
    again = WarmStartTask().rows("train")
    assert len(again) == 2**20
    assert [again[i] for i in (5000, 17, 5000)] == [rows[5000], rows[17], rows[5000]]
    assert again[-1] == again[2**20 - 1]
    assert again[10:13] == rows[10:13]
    assert pickle.loads(pickle.dumps(again))[17] == rows[17]
    assert WarmStartTask(MicroWorld(seed=1)).rows("train")[:50] != rows[:50]
    with pytest.raises(IndexError):
        again[2**20]
    assert len(list(WarmStartTask(size=9).rows("train"))) == 9


def test_examples_are_distinct(rows):
    assert len({row.id for row in rows}) == len(rows)
    repeated = Counter((row.messages[0]["content"], row.reference) for row in rows)
    assert max(repeated.values()) <= 5
