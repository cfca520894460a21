from __future__ import annotations

import csv
import io
import math

import pytest

from lit_sdpo.report.comparisons import Effect
from lit_sdpo.report.findings import investigate
from lit_sdpo.report.measures import MEASURES
from lit_sdpo.report.table_files import markdown, shown_effect, tables
from tests.report.made_runs import study_of
from tests.report.test_claims import stream_runs


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    study = study_of(*stream_runs("grpo", 0.5, 0.8), *stream_runs("sdpo", 0.7, 0.4))
    return tables(investigate(study))


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_claims_are_in_both_forms(files):
    (line,) = [x for x in files["claims.md"].splitlines() if "SDPO wins early" in x and "paper's ratio" in x]
    assert "**replicates**" in line
    assert "AIME after MATH 56.42 / 44.67" in line
    assert "average accuracy at the end: 0.4" in line
    rows = [x for x in read(files["claims.csv"]) if x["claim"] == "C7" and x["setting"] == "paper's ratio"]
    assert [x["measure"] for x in rows] == ["first_gain", "average_accuracy", "ood_change", "prior_change"]
    assert {x["claim_verdict"] for x in rows} == {"replicates"}
    assert float(rows[1]["low"]) < float(rows[1]["value"]) < float(rows[1]["high"])
    assert rows[1]["roles"] == "grpo sdpo"
    untested = next(x for x in read(files["claims.csv"]) if x["claim"] == "C14")
    assert (untested["verdict"], untested["value"]) == ("not tested at this scale", "")


def test_methods_and_pairs_agree(files):
    level = {x["method"]: float(x["value"]) for x in read(files["methods.csv"]) if x["measure"] == "average_accuracy"}
    pair = next(x for x in read(files["comparisons.csv"]) if x["measure"] == "average_accuracy")
    assert float(pair["value"]) == pytest.approx(level["grpo"] - level["sdpo"])
    assert (pair["more"], pair["less"], pair["kind"], pair["seeds"]) == ("grpo", "sdpo", "difference", "3")
    assert "| average accuracy at the end | grpo - sdpo |" in files["comparisons.md"]
    assert files["methods.md"].startswith("| measure | unit | grpo (3) | sdpo (3) |")


def test_every_run_has_its_numbers(files):
    rows = read(files["runs.csv"])
    assert [(x["method"], x["seed"]) for x in rows] == [(m, str(s)) for m in ("grpo", "sdpo") for s in range(3)]
    assert all(0.7 < float(x["average_accuracy"]) < 0.9 for x in rows[:3])
    assert rows[0]["lr"] == "0.0001"
    assert rows[0]["relative_norm"] == ""


def test_markdown_tables_hold_their_shape(files):
    for name, text in files.items():
        if name.endswith(".md"):
            assert len({line.count("|") for line in text.splitlines()}) == 1
    assert markdown(["a"], [["x\ny | z"]]).splitlines()[2] == "| x y &#124; z |"


@pytest.mark.parametrize(
    ("effect", "name", "text"),
    [
        (Effect(0.125, 0.0625, 0.25), "bwt", "0.125 [0.0625, 0.25]"),
        (Effect(4.6, 4.0, 5.0, null=1.0), "nss", "4.6\u00d7 [4\u00d7, 5\u00d7]"),
        (Effect(0.125), "bwt", "0.125"),
        (Effect(missing="no runs"), "bwt", "-"),
    ],
)
def test_effects_for_a_reader(effect, name, text):
    assert shown_effect(effect, MEASURES[name]) == text


def test_undefined_numbers_are_empty(files):
    for row in read(files["comparisons.csv"]):
        assert "nan" not in row.values()
        assert not row["p_holm"] or math.isfinite(float(row["p_holm"]))
