from __future__ import annotations

import pytest

from lit_sdpo.cli import main
from tests.report.made_runs import flat, on_disk


@pytest.fixture
def runs(tmp_path):
    rows = [{"a": flat(x, 4), "b": flat(x, 4)} for x in (0.25, 0.5, 0.75)]
    on_disk(tmp_path / "runs" / "mine" / "seed=0", rows)
    return tmp_path / "runs"


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main(["report", *map(str, arguments)]))
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_report_is_written_and_written_again(runs, tmp_path, capsys):
    target = tmp_path / "report"
    for _ in range(2):
        assert main(["report", str(runs), "-o", str(target), "--role", "sdpo=mine"]) == 0
        out = capsys.readouterr().out
        assert "1 runs of 1 methods" in out
        assert out.splitlines()[-1] == str(target / "index.html")
    assert "<h1>" in (target / "index.html").read_text()


def test_mistakes_are_explained(runs, tmp_path, capsys):
    target = tmp_path / "report"
    config = runs / "mine" / "seed=0" / "config.yaml"
    assert "a folder is needed" in refused(capsys, config, "-o", target)
    assert "no such folder" in refused(capsys, tmp_path / "nothing", "-o", target)
    (tmp_path / "empty").mkdir()
    assert "no finished run" in refused(capsys, tmp_path / "empty", "-o", target)
    assert "names no method" in refused(capsys, runs, "-o", target, "--role", "sdpo=other")
    assert "holds no report" in refused(capsys, runs, "-o", runs)
    assert "a file of this name" in refused(capsys, runs, "-o", config)
    assert "RUNS" in refused(capsys)
    assert not any(target.glob("*"))


def test_a_report_is_made_again_from_what_was_kept(runs, tmp_path, capsys):
    kept, first, second = (tmp_path / name for name in ("kept.tar.xz", "first", "second"))
    assert main(["report", str(runs), "-o", str(first), "--keep", str(kept)]) == 0
    assert main(["report", str(kept), "-o", str(second)]) == 0
    tables, again = (
        {path.name: path.read_text() for path in (folder / "tables").iterdir()} for folder in (first, second)
    )
    tables["runs.csv"] = tables["runs.csv"].replace(str(runs), str(kept))
    assert again == tables
    assert "an archive of runs has another name" in refused(capsys, runs, "-o", first, "--keep", tmp_path / "kept.zip")
