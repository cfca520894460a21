from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from lit_sdpo.errors import UserError
from lit_sdpo.functional import MatrixDrift
from lit_sdpo.report.charts.chart import Chart, Missing
from lit_sdpo.report.charts.responses import similarity
from lit_sdpo.report.charts.streams import streams
from lit_sdpo.report.findings import investigate
from lit_sdpo.report.page import MANIFEST, check_target, page, write
from lit_sdpo.report.study import Study
from lit_sdpo.report.table_files import tables
from tests.report.made_runs import on_disk

NAME = 'sdpo <b>&"x"'
TAGS = ("rollout/entropy", "sdpo/divergence", "rollout/length", "rollout/truncated")


def scores(seed, shift):
    """Two tasks and a probe: the first is learned, and lost by ``shift`` while the second is learned."""
    base, learned = [0.25 + 0.05 * seed] * 8, [0.75 - 0.05 * seed] * 8
    later = [x - shift for x in learned]
    rows = ((base, base, base), (learned, base, base), (later, learned, later))
    names = ("a", "b", "p")
    return [{n: {f"{n}{i}": [x] for i, x in enumerate(row)} for n, row in zip(names, r, strict=True)} for r in rows]


def measured(seed, shift):
    """Everything that the measuring callbacks write."""
    drift = [
        {"step": step, "stage": step // 10, "name": f"l{k}.q", "type": "q_proj", "layer": k}
        | {field: 0.1 * step * (1 + shift) for field in MatrixDrift._fields}
        for step in (10, 20)
        for k in (0, 1)
    ]
    responses = [
        {"step": 10 * stage, "stage": stage, "task": task, "role": "other", "number": "similarity"}
        | {"value": 0.9 - 0.1 * shift * stage - 0.01 * k, "low": 0.8, "high": 1.0}
        for stage in range(3)
        for k, task in enumerate("abp")
    ]
    distances = [
        {"task": one, **{other: abs(i - j) / 4 for j, other in enumerate("abp")}} for i, one in enumerate("abp")
    ]
    artifacts = [
        {"step": 10 * stage, "stage": stage, "task": task, "numbers": {"boxed": 0.1 * stage, "leakage": 0.2}}
        for stage in range(3)
        for task in "abp"
    ]
    tables = {"drift": drift, "response_drift": responses, "prompt_distance": distances}
    tags = {tag: [(step, 1 + 0.01 * step + 0.1 * seed) for step in range(20)] for tag in TAGS}
    tags["rollout/reward"] = [(step, 0.16 * (step % 10)) for step in range(20)]
    return {"tables": tables, "artifacts": artifacts, "tags": tags}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("study")
    for method, shift in (("grpo", 0.0), (NAME, 0.25)):
        for seed in range(3):
            on_disk(
                made / method / f"seed={seed}", scores(seed, shift), probes=["p"], seed=seed, **measured(seed, shift)
            )
    (made / "half").mkdir()
    (made / "half" / "config.yaml").write_text("seed_everything: 1\n")
    return made


@pytest.fixture(scope="module")
def findings(folder):
    return investigate(Study.read([folder]))


@pytest.fixture(scope="module")
def text(findings):
    return page(findings)


class Outline(HTMLParser):
    """Headings, links and identifiers of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.open, self.headings, self.wide = [], [], [], [], True
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        if tag == "table":
            self.wide &= any(dict(a).get("class") == "scroll" for _, a in self.open)
        if tag not in ("meta", "br", "img", "input", "link"):
            self.open.append((tag, attrs))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "h2":
            self.headings.append(data)


def test_the_page_has_its_parts_in_order(text):
    outline = Outline(text)
    parts = ["In short", "What was run", "Claims", "Comparisons", "Inside stages", "Figures", "Left-out runs"]
    assert outline.headings == parts
    assert len(outline.ids) == len(set(outline.ids))
    assert {link[1:] for link in outline.links if link.startswith("#") and "-" not in link} <= set(outline.ids)
    assert outline.wide


def test_the_page_needs_nothing_from_elsewhere(text):
    assert not re.search(r"https?://|src=|@import|url\((?!#)", text)
    assert "default-src 'none'" in text.replace("&#x27;", "'")


def test_texts_of_runs_do_nothing(text):
    assert "<b>" not in text
    assert "sdpo &lt;b&gt;&amp;&quot;x&quot;" in text


def test_runs_that_measured_everything_have_every_figure(findings):
    drawn = [chart.name for chart in findings.charts]
    expected = ["by-task-learned", "out-of-domain", "ranks", "speed-and-retention", "dynamics", "transfer"]
    assert drawn == [*expected, "weight-drift", "similarity", "boxed", "leakage", "scores"]
    for chart in findings.charts:
        assert chart.title
        assert chart.finding.endswith(".")
        assert "of the paper" in chart.caption
        assert "seed" in chart.caption


def table_of(findings, name):
    chart = next(chart for chart in findings.charts if chart.name == name)
    return list(csv.DictReader(chart.table.csv().splitlines()))


def test_figures_have_the_numbers_of_the_runs(findings):
    row = next(r for r in table_of(findings, "by-task-learned") if (r["method"], r["stage"]) == ("grpo", "1"))
    # Seeds learn a from .25, .3, .35 to .75, .7, .65 and leave b alone.
    changes = [100 * (new - old) / old / 2 for old, new in ((0.25, 0.75), (0.3, 0.7), (0.35, 0.65))]
    assert float(row["mean"]) == pytest.approx(sum(changes) / 3)
    assert row["unit"] == "percent of base"
    lost = next(
        r for r in table_of(findings, "transfer") if (r["method"], r["stage"], r["evaluated"]) == (NAME, "2", "a")
    )
    assert float(lost["forgetting"]) == pytest.approx(100 * 0.25 / 0.7)
    assert float(lost["squared_mmd"]) == 0.25
    ranks = {(r["method"], r["task"]): float(r["rank"]) for r in table_of(findings, "ranks")}
    assert ranks["grpo", "a"] == 1
    assert ranks["grpo", "b"] == ranks[NAME, "b"] == 1.5
    assert ranks["base", "b"] == 3
    traded = {(r["method"], r["kept"]): r for r in table_of(findings, "speed-and-retention")}
    assert set(traded) == {(m, kept) for m in ("grpo", NAME) for kept in ("average_accuracy", "ood_change")}
    # The reward's mean over five steps is .16 (step - 2), which passes .75 at step 7 of a stage.
    assert float(traded["grpo", "average_accuracy"]["steps"]) == 7
    assert float(traded["grpo", "average_accuracy"]["value"]) == pytest.approx(0.7)
    assert float(traded[NAME, "average_accuracy"]["value"]) == pytest.approx(0.7 - 0.125)
    drift = [r for r in table_of(findings, "weight-drift") if r["number"] == "left_angle" and r["type"] == "q_proj"]
    assert [float(r["mean"]) for r in drift if r["method"] == "grpo"] == [pytest.approx(1.0), pytest.approx(2.0)]


def test_violins_hold_prompts_and_where_there_are_none_tasks(folder, findings, tmp_path):
    whole = table_of(findings, "similarity")
    assert {r["prompt"] for r in whole} == {""}
    assert len(whole) == 2 * 3 * 3 * 3  # methods, stages, seeds, tasks
    names = ("grpo", "sdpo")
    for method in names:
        for seed in range(2):
            files = measured(seed, 0.0)
            if (method, seed) != ("sdpo", 1):  # an older run
                files["tables"]["response_similarity"] = [
                    {k: row[k] for k in ("step", "stage", "task", "role")} | {"prompt": n, "similarity": 0.25 * n}
                    for row in files["tables"]["response_drift"]
                    for n in range(4)
                ]
            on_disk(tmp_path / method / f"seed={seed}", scores(seed, 0.0), probes=["p"], seed=seed, **files)
    charts = {
        name: similarity(streams(Study.read([tmp_path / x for x in some]))[0])
        for name, some in {"new": ["grpo"], "both": names}.items()
    }
    rows = list(csv.DictReader(charts["both"].table.csv().splitlines()))
    last = [r for r in rows if (r["method"], r["stage"], r["task"]) == ("sdpo", "2", "b")]
    assert [(r["seed"], r["prompt"], float(r["similarity"])) for r in last] == [
        *(("0", str(n), 0.25 * n) for n in range(4)),
        ("1", "", pytest.approx(0.89)),
    ]
    assert "lowest" in charts["both"].finding
    assert "grpo 0.375" in charts["both"].finding.replace("(", "")
    captions = [
        next(c for c in findings.charts if c.name == "similarity").caption,
        charts["new"].caption,
        charts["both"].caption,
    ]
    told = ["per task (the mean", "per prompt, task and seed;", "for runs without response_similarity.csv;"]
    assert [[text in caption for text in told] for caption in captions] == [
        [i == j for j in range(3)] for i in range(3)
    ]


def test_a_figure_without_data_names_what_would_give_it(tmp_path):
    on_disk(tmp_path / "seed=0", [{"a": row["a"]} for row in scores(0, 0.1)], labels=("a", "a"), seed=0)
    findings = investigate(Study.read([tmp_path]))
    reasons = {chart.name: chart.reason for chart in findings.figures if isinstance(chart, Missing)}
    named = {
        "out-of-domain": "probes",
        "ranks": "two methods",
        "speed-and-retention": "two methods",
        "dynamics": "rollout/",
        "transfer": "ResponseDrift",
        "weight-drift": "ParameterDrift",
        "similarity": "ResponseDrift",
        "boxed": "ArtifactMonitor",
        "leakage": "ArtifactMonitor",
        "phase-diagram": "learning rate",
    }
    assert reasons.keys() == named.keys()
    assert all(word in reasons[name] for name, word in named.items())
    text = page(findings)
    assert f"Not drawn: {len(named)} figures" in text
    assert all(f'<li id="{name}">' in text for name in named)
    assert "Pairs need runs of two methods" in text


def test_runs_of_another_stream_have_figures_of_their_own(tmp_path):
    on_disk(tmp_path / "x" / "seed=0", scores(0, 0.1), probes=["p"], seed=0)
    on_disk(
        tmp_path / "y" / "seed=0",
        scores(0, 0.1),
        labels=("b", "a"),
        probes=["p"],
        seed=0,
        data__init_args__order=["b", "a"],
    )
    found = investigate(Study.read([tmp_path]))
    titles = {chart.name: chart.title for chart in found.charts}
    assert titles["scores-1"].endswith("(stream 1)")
    assert titles["scores-2"].endswith("(stream 2)")
    text = page(found)
    for heading in ("Stream 1: a → b", "Stream 2: b → a"):
        assert text.count(heading) == 2  # in short, and where its methods are compared
        assert not any(heading in title for title in titles.values())


def test_runs_of_two_streams_or_two_bases_are_never_compared(tmp_path):
    for method, base in (("x", "one"), ("y", "one"), ("z", "two")):
        for seed in range(3):
            place = tmp_path / method / f"seed={seed}"
            on_disk(
                place, scores(seed, 0.1), probes=["p"], seed=seed, model__init_args__model_name=f"{base}/seed={seed}"
            )
    found = investigate(Study.read([tmp_path]))
    first, second = found.streams
    assert [list(each.stream.runs) for each in found.streams] == [["x", "y"], ["z"]]
    assert {(c.more, c.less) for c in first.comparisons} == {("x", "y")}
    assert second.comparisons == second.equal_success == []
    assert first.stream.heading == "Stream 1: base one/seed=*"
    text = page(found)
    assert "x against y" in text
    assert "against z" not in text
    assert {"1", "2"} == {row["stream"] for row in csv.DictReader(tables(found)["methods.csv"].splitlines())}


def test_claims_that_were_not_tested_are_closed(tmp_path):
    on_disk(tmp_path / "mine" / "seed=0", scores(0, 0.1), probes=["p"], seed=0)
    alone = page(investigate(Study.read([tmp_path])))
    claims = alone[alone.index('id="claims"') : alone.index('id="comparisons"')]
    assert "These runs test none of the paper&#x27;s claims." in claims
    assert claims.index("<details>") < claims.index("C1<")
    folders = [tmp_path / name for name in ("grpo", "sdpo")]
    for folder in folders:
        for seed in range(3):
            on_disk(folder / f"seed={seed}", scores(seed, 0.1), probes=["p"], seed=seed)
    both = page(investigate(Study.read(folders)))
    opened = both[both.index('id="claims"') : both.index("<summary>Not tested by these runs")]
    assert "C5<" in opened
    assert "not tested at this scale</span>" not in opened


def test_a_drawing_is_never_wider_than_it_is(findings):
    for chart in findings.charts:
        opening = chart.svg[: chart.svg.index(" viewBox")] + chart.svg[chart.svg.index(" viewBox") :].partition(">")[0]
        wide = float(re.search(r'\bwidth="([\d.]+)pt"', opening)[1])
        assert float(re.search(r"--natural:(\d+)pt", opening)[1]) == pytest.approx(wide, abs=1)


def test_left_out_runs_have_their_reason(text):
    assert "nothing was evaluated yet" in text


@pytest.mark.slow
def test_the_same_runs_give_the_same_page(text, folder):
    assert page(investigate(Study.read([folder]))) == text


@pytest.mark.slow
def test_all_files_are_written_and_linked(findings, text, tmp_path):
    path = write(findings, tmp_path)
    assert path.read_text() == text
    written = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert {"index.html", "figures/scores.svg", "figures/scores.png", "tables/claims.md"} <= written
    links = {link for link in Outline(text).links if not link.startswith("#")}
    assert links
    assert links <= written
    assert set(json.loads((tmp_path / MANIFEST).read_text())["files"]) == written - {MANIFEST}


def test_a_new_report_takes_away_the_files_of_the_old_one_alone(findings, tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("figures/old.svg", "figures/mine.txt"):
        (tmp_path / name).write_text("x")
    outside = tmp_path.parent / "outside.txt"
    outside.write_text("x")
    (tmp_path / MANIFEST).write_text(json.dumps({"files": ["figures/old.svg", "../outside.txt", "index.html"]}))
    check_target(tmp_path)
    few = [chart for chart in findings.figures if isinstance(chart, Chart)][:1]
    write(replace(findings, figures=few), tmp_path)
    assert not (tmp_path / "figures" / "old.svg").exists()
    assert (tmp_path / "figures" / "mine.txt").exists()
    assert outside.exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    check_target(tmp_path / "new")
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds no report"):
        check_target(tmp_path)
    check_target(tmp_path, overwrite=True)
    with pytest.raises(UserError, match="a file of this name"):
        check_target(tmp_path / "thesis.tex")
    with pytest.raises(UserError, match="cannot be written"):
        check_target(tmp_path / "thesis.tex" / "below")
