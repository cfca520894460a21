from __future__ import annotations

import os

import lightning.pytorch as pl
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lit_sdpo.callbacks.folder import run_folder, write_atomically


def trainer(tmp_path, **options):
    return pl.Trainer(default_root_dir=tmp_path, accelerator="cpu", enable_checkpointing=False, **options)


def test_without_a_logger_it_is_the_root(tmp_path):
    assert run_folder(trainer(tmp_path, logger=False)) == tmp_path


def test_the_first_logger_decides(tmp_path):
    board, table = TensorBoardLogger(tmp_path, "board", "v"), CSVLogger(tmp_path, "table", "v")
    assert run_folder(trainer(tmp_path, logger=[board, table])) == tmp_path / "board" / "v"
    assert run_folder(trainer(tmp_path, logger=[table, board])) == tmp_path / "table" / "v"


def test_a_logger_without_a_folder_leaves_the_root(tmp_path):
    class Nowhere(CSVLogger.__mro__[1]):
        name, version, save_dir = "nowhere", "0", None

        def log_metrics(self, metrics, step=None): ...
        def log_hyperparams(self, *args, **kwargs): ...

    assert run_folder(trainer(tmp_path, logger=Nowhere())) == tmp_path


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
