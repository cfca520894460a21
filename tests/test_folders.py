from __future__ import annotations

import os

import lightning.pytorch as pl
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lit_sdpo.checkpoints.last import last_checkpoint
from lit_sdpo.files import set_aside, write_atomically
from lit_sdpo.folders import run_folder
from tests.loggers import Online


def trainer(tmp_path, **options):
    return pl.Trainer(default_root_dir=tmp_path, accelerator="cpu", enable_checkpointing=False, **options)


@pytest.mark.parametrize(
    ("logger", "root"),
    [
        (False, "root/lightning_logs"),
        (Online(), "root/project"),
        (Online(name=None), "root/lightning_logs"),
        (Online(name="a team/a: run"), "root/a_team_a_run"),
        (Online(name=".."), "root/lightning_logs"),
        (Online("elsewhere", version="3x7f"), "elsewhere/project"),
    ],
)
def test_every_run_has_a_folder_of_its_own(tmp_path, monkeypatch, logger, root):
    monkeypatch.chdir(tmp_path)
    first, second = trainer("root", logger=logger), trainer("root", logger=logger)
    assert [str(run_folder(each)) for each in (first, second, first)] == [f"{root}/version_{n}" for n in (0, 1, 0)]
    assert last_checkpoint(trainer("root", logger=logger), go_on=True) is None
    saved = run_folder(first) / "checkpoints" / "step=1.ckpt"
    saved.parent.mkdir()
    saved.touch()
    third = trainer("root", logger=logger)
    assert last_checkpoint(third, go_on=False) == saved
    assert last_checkpoint(third, go_on=True) == saved
    assert run_folder(third) == run_folder(first)


def test_the_first_logger_decides(tmp_path):
    board, table = TensorBoardLogger(tmp_path, "board", "v"), CSVLogger(tmp_path, "table", "v")
    assert run_folder(trainer(tmp_path, logger=[board, table])) == tmp_path / "board" / "v"
    assert run_folder(trainer(tmp_path, logger=[table, board])) == tmp_path / "table" / "v"


def test_a_run_that_is_faster_keeps_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_sdpo.folders.versions", lambda root: {})  # what both saw before either began
    assert [run_folder(trainer(tmp_path, logger=False)).name for _ in range(2)] == ["version_0", "version_1"]


def test_what_is_set_aside_keeps_its_order(tmp_path):
    for text in "abc":
        (tmp_path / "config.yaml").write_text(text)
        set_aside(tmp_path / "config.yaml")
    assert [(tmp_path / f"config_{n}.yaml").read_text() for n in (1, 2, 3)] == ["a", "b", "c"]


def test_fast_dev_run_has_no_folder(tmp_path):
    assert run_folder(trainer(tmp_path, fast_dev_run=True)) is None


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_newlines_and_permissions_are_ordinary(tmp_path):
    path = tmp_path / "deep" / "a.csv"
    old = os.umask(0o022)
    try:
        write_atomically(path, "é\r\n")
    finally:
        os.umask(old)
    assert path.read_bytes() == "é\r\n".encode()
    assert path.stat().st_mode & 0o777 == 0o644
