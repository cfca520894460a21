from __future__ import annotations

from pathlib import Path

import pytest

from lit_sdpo.errors import UserError
from lit_sdpo.sweep.plan import read_seeds, read_sweep


@pytest.fixture
def sweep(tmp_path):
    """Reads a sweep with this text, beside the files a.yaml, b.yaml, c.yaml and more/d.yaml."""
    (tmp_path / "more").mkdir()
    for name in ("a.yaml", "b.yaml", "c.yaml", "more/d.yaml"):
        (tmp_path / name).write_text("seed_everything: 0\n")

    def read(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return read_sweep(path)

    return read


def arguments(run, folder):
    return [argument.replace(f"{folder}/", "") for argument in run.arguments()]


def test_three_ways_to_write_a_run(sweep, tmp_path):
    runs = sweep("""
runs:
  one: a.yaml
  two: [a.yaml, more/d.yaml]
  three: {config: a.yaml, set: {x.y: 1e-4, x.z: [1, two], x.w: null}}
""").runs
    assert [run.name for run in runs] == ["one", "two", "three"]
    assert arguments(runs[0], tmp_path) == ["--config=a.yaml"]
    assert arguments(runs[1], tmp_path) == ["--config=a.yaml", "--config=more/d.yaml"]
    assert arguments(runs[2], tmp_path) == ["--config=a.yaml", "--x.y=1e-4", '--x.z=[1, "two"]', "--x.w=null"]


def test_what_all_runs_share(sweep, tmp_path):
    """Files behind a run's own; a run's own values win."""
    (run,) = sweep("{config: b.yaml, set: {x: 1, y: 2}, runs: {one: {config: a.yaml, set: {y: 3}}}}").runs
    assert arguments(run, tmp_path) == ["--config=a.yaml", "--config=b.yaml", "--x=1", "--y=3"]


def test_grid(sweep, tmp_path):
    runs = sweep("""
config: c.yaml
runs: {alone: a.yaml}
grid:
  method: {m: a.yaml, n: b.yaml}
  lr: {set: lr, values: [1e-4, 3]}
  world: {plain: , far: {config: more/d.yaml, set: {w: far}}}
""").runs
    expected = [f"{m}/lr={lr}/{world}" for m in "mn" for lr in ("1e-4", "3") for world in ("plain", "far")]
    assert [run.name for run in runs] == ["alone", *expected]
    assert arguments(runs[-1], tmp_path) == [
        "--config=b.yaml",
        "--config=more/d.yaml",
        "--config=c.yaml",
        "--lr=3",
        "--w=far",
    ]
    assert arguments(runs[1], tmp_path) == ["--config=a.yaml", "--config=c.yaml", "--lr=1e-4"]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [([], ["one", "two", "m/x=1", "m/x=2"]), (["m/*"], ["m/x=1", "m/x=2"]), (["*=2", "one"], ["one", "m/x=2"])],
)
def test_some_of_the_runs(sweep, patterns, names):
    text = "{runs: {one: a.yaml, two: b.yaml}, grid: {method: {m: a.yaml}, x: {set: x, values: [1, 2]}}}"
    assert [run.name for run in sweep(text).only(patterns).runs] == names


def test_a_pattern_without_runs_is_explained(sweep):
    with pytest.raises(UserError, match=r"no run matches 'three'.*one, two"):
        sweep("{runs: {one: a.yaml, two: b.yaml}}").only(["one", "three"])


def test_name_and_output(sweep):
    assert sweep("runs: {one: a.yaml}").name == "mine"
    assert sweep("{name: other, runs: {one: a.yaml}}").output == Path("runs/other")
    assert sweep("{output: there, runs: {one: a.yaml}}").output == Path("there")


MISTAKES = {
    # text: words of the message
    "[1]": ["mine.yaml", "mapping"],
    "runs: [": ["mine.yaml", "line", "YAML"],
    "name: x": ["no runs", "grid"],
    "{rnus: {}, runs: {one: a.yaml}}": ["rnus", "runs"],
    "runs: {one: absent.yaml}": ["runs.one", "absent.yaml"],
    "runs: {one: {configs: a.yaml}}": ["runs.one", "configs", "config"],
    "runs: {one: {set: {--x: 1}}}": ["runs.one: set", "--x"],
    "runs: {one: {config: [3]}}": ["runs.one", "files"],
    "runs: {one: a.yaml, one: b.yaml}": ["one", "twice", "line 1"],
    "runs: {one: a.yaml, One: b.yaml}": ["two runs", "One"],
    "{runs: {x/p: a.yaml}, grid: {m: {x: a.yaml}, n: {p: b.yaml}}}": ["two runs", "x/p"],
    "runs: {../one: a.yaml}": ["../one", "folder"],
    "runs: {/one: a.yaml}": ["/one", "folder"],
    "runs: {a b: a.yaml}": ["'a b'", "folder"],
    "runs: {one/seed=3: a.yaml}": ["one/seed=3", "folder"],
    "{name: ../up, runs: {one: a.yaml}}": ["../up", "folder"],
    "grid: {m: {}}": ["grid.m", "no values"],
    "grid: {m: [a.yaml]}": ["grid.m", "mapping"],
    "grid: {m: {set: x, values: 3}}": ["grid.m", "list"],
    "grid: {m: {set: x, values: [[1, 2]]}}": ["m=[1, 2]", "folder"],
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistake_is_explained(text, sweep):
    with pytest.raises(UserError) as error:
        sweep(text)
    assert [word for word in MISTAKES[text] if word not in str(error.value)] == []


def test_missing_file_is_explained(tmp_path):
    with pytest.raises(UserError, match=r"absent\.yaml"):
        read_sweep(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "expected"), [("3", [3]), ("0-2", [0, 1, 2]), ("5, 1-2,1", [5, 1, 2]), ("10-10", [10])]
)
def test_seeds(text, expected):
    assert read_seeds(text) == expected


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,,2", "1.5"])
def test_no_seeds(text):
    with pytest.raises(UserError, match="--seeds"):
        read_seeds(text)
