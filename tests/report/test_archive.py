"""An archive of runs gives the same numbers as the runs, and nothing else is in it."""

from __future__ import annotations

import io
import tarfile

import pytest

from lit_sdpo.errors import UserError
from lit_sdpo.report.archive import FILES, SCALARS, pack, unpack
from lit_sdpo.report.study import Study
from tests.report.made_runs import flat, on_disk


@pytest.fixture
def study(tmp_path):
    rows = [{"a": flat(x, 4), "b": flat(x, 4)} for x in (0.25, 0.5, 0.75)]
    for seed in (0, 1):
        values = [(step, 0.1 * step + seed) for step in range(3)]
        folder = on_disk(tmp_path / "runs" / "mine" / f"seed={seed}", rows, seed=seed, tags={"train/loss": values})
        (folder / "samples.jsonl").write_text("left out\n")
    return Study.read([tmp_path / "runs"])


def test_runs_from_an_archive_are_the_same(study, tmp_path):
    path = tmp_path / "kept.tar.xz"
    pack(study.all_runs, path)
    unpack(path, tmp_path / "again")
    again = Study.read([tmp_path / "again"])
    assert [(run.method, run.seed) for run in again.all_runs] == [(run.method, run.seed) for run in study.all_runs]
    for one, other in zip(study.all_runs, again.all_runs, strict=True):
        assert one.matrix == other.matrix
        assert one.items == other.items
        assert one.tags == other.tags
        assert len(one.tags["train/loss"]) == 3
    with tarfile.open(path) as archive:
        assert {name.rpartition("/")[2] for name in archive.getnames()} <= {*FILES, SCALARS}


def test_an_archive_of_an_archive_has_the_same_bytes(study, tmp_path):
    first, second = tmp_path / "1.tar.xz", tmp_path / "2.tar.xz"
    pack(study.all_runs, first)
    unpack(first, tmp_path / "again")
    pack(Study.read([tmp_path / "again"]).all_runs, second)
    assert first.read_bytes() == second.read_bytes()


def test_other_files_are_refused(study, tmp_path):
    with pytest.raises(UserError, match=r"Let it end with \.tar\.xz"):
        pack(study.all_runs, tmp_path / "kept.zip")
    (tmp_path / "bad.tar.xz").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(tmp_path / "bad.tar.xz", tmp_path / "again")


def test_nothing_is_written_outside_of_the_folder(tmp_path):
    path = tmp_path / "odd.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        entry = tarfile.TarInfo("../elsewhere.txt")
        archive.addfile(entry, io.BytesIO(b""))
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(path, tmp_path / "again")
    assert not (tmp_path / "elsewhere.txt").exists()
