"""Folders with a part of each process, made up: what a guarded strategy writes, takes for good, and removes."""

import hashlib
import logging
import os
import shutil
import types

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from lit_sdpo.callbacks import StageCheckpoint
from lit_sdpo.checkpoints import SafeCheckpointIO, divided
from lit_sdpo.checkpoints.consolidate import consolidate
from lit_sdpo.checkpoints.divided import guard
from lit_sdpo.checkpoints.last import last_checkpoint
from lit_sdpo.checkpoints.manifest import Contents, Manifest, in_order
from lit_sdpo.checkpoints.trained import open_run
from lit_sdpo.checkpoints.writing import remove_leftovers
from lit_sdpo.errors import UserError

FILES = [".metadata", "__0_0.distcp", "__1_0.distcp", "meta.pt"]


class Made(ModelParallelStrategy):
    """Writes two parts without weights, as one process."""

    is_global_zero = True

    def save_checkpoint(self, checkpoint, filepath, storage_options=None):
        filepath.mkdir(parents=True)
        for name in FILES[:3]:
            (filepath / name).write_bytes(f"{name} {checkpoint['step']}".encode() * 10)
        torch.save(checkpoint, filepath / "meta.pt")

    def load_checkpoint(self, checkpoint_path, weights_only=None):
        return torch.load(checkpoint_path / "meta.pt")


@pytest.fixture
def strategy():
    made = Made()
    guard(made)
    guard(made)  # a second time does nothing
    return made


def save(strategy, folder, *values):
    paths = [folder / f"step={value}.ckpt" for value in values]
    for value, path in zip(values, paths, strict=True):
        strategy.save_checkpoint({"step": value}, path)
    return paths


def test_a_folder_and_its_manifest(tmp_path, strategy):
    (path,) = save(strategy, tmp_path / "new", 3)
    assert strategy.load_checkpoint(path) == {"step": 3}
    assert {p.name for p in path.parent.iterdir()} == {"step=3.ckpt", "step=3.ckpt.json"}
    (contents,) = Manifest.of(path).accepted
    assert [name for name, _ in contents.files] == FILES
    digests = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in FILES}
    assert {name: file.sha256 for name, file in contents.files} == digests
    assert contents.size == sum(p.stat().st_size for p in path.iterdir())
    listing = "".join(f"{digests[name]}  {name}\n" for name in FILES)
    assert contents.sha256 == hashlib.sha256(listing.encode()).hexdigest()


def test_the_newest_is_found_and_a_new_one_takes_an_old_ones_place(tmp_path, strategy):
    nine, ten = save(strategy, tmp_path / "lightning_logs" / "version_3" / "checkpoints", 9, 10)
    trainer = types.SimpleNamespace(logger=None, default_root_dir=tmp_path)
    assert last_checkpoint(trainer, go_on=False) == ten
    strategy.save_checkpoint({"step": 11}, nine)
    assert in_order(nine.parent) == [nine, ten]
    assert strategy.load_checkpoint(nine) == {"step": 11}
    assert len(list(nine.parent.iterdir())) == 4


def test_old_ones_are_removed(tmp_path, strategy):
    save(strategy, tmp_path, 1, 2, 3, 4)
    trainer = types.SimpleNamespace(strategy=SafeCheckpointIO())
    StageCheckpoint(every_n_steps=1, keep_steps=2)._remove_old(trainer, tmp_path)
    assert [path.stem for path in in_order(tmp_path)] == ["step=4", "step=3"]
    assert len(list(tmp_path.iterdir())) == 4


DAMAGES = {
    "SHA-256 of __1_0": lambda path: (path / "__1_0.distcp").write_bytes(
        b"x" + (path / "__1_0.distcp").read_bytes()[1:]
    ),
    "has 3 bytes": lambda path: os.truncate(path / "__0_0.distcp", 3),
    "__0_0.distcp is missing": lambda path: (path / "__0_0.distcp").unlink(),
    ".metadata is missing": lambda path: (path / ".metadata").unlink(),
    "holds __2_0.distcp": lambda path: (path / "__2_0.distcp").touch(),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_the_one_before_takes_the_place_of_a_damaged_one(tmp_path, strategy, words, caplog):
    one, two, _ = save(strategy, tmp_path, 1, 2, 3)
    DAMAGES[words](two)
    with pytest.raises(UserError, match="is damaged"):
        consolidate(two, tmp_path / "whole.ckpt")
    with pytest.warns(UserWarning, match=words), caplog.at_level(logging.INFO):
        assert strategy.load_checkpoint(two) == {"step": 1}
    assert f"Going on from {one}" in caplog.text
    assert (tmp_path / "step=2.ckpt.corrupt").is_dir()
    assert strategy.load_checkpoint(two) == {"step": 1}
    save(strategy, tmp_path, 2)
    DAMAGES[words](two)
    with pytest.warns(UserWarning, match=words):
        assert strategy.load_checkpoint(two) == {"step": 3}


def test_without_a_good_one_it_is_an_error(tmp_path, strategy):
    (path,) = save(strategy, tmp_path, 1)
    shutil.rmtree(path)
    with pytest.raises(UserError, match="no such checkpoint"):
        strategy.load_checkpoint(path)
    save(strategy, tmp_path, 1)
    DAMAGES[".metadata is missing"](path)
    with pytest.raises(UserError, match="no good one"), pytest.warns(UserWarning, match="is damaged"):
        strategy.load_checkpoint(path)


def test_a_folder_without_a_manifest_has_to_be_complete(tmp_path, strategy):
    one, two = save(strategy, tmp_path, 1, 2)
    for path in (one, two):
        Manifest.path(path).unlink()
    (two / "meta.pt").unlink()
    with pytest.warns(UserWarning, match="not written to its end"), pytest.warns(UserWarning, match="no manifest"):
        assert strategy.load_checkpoint(two) == {"step": 1}
    assert two.is_dir()


@pytest.mark.parametrize("move", [1, 2], ids=["new name", "replaced"])
def test_a_save_that_is_cut_off_leaves_good_ones_and_what_is_left_over_goes(tmp_path, strategy, monkeypatch, move):
    _, path = save(strategy, tmp_path, 1, 2)
    moves = []

    def kill(source, target):
        moves.append(source)
        if len(moves) == move:
            raise SystemExit
        os.replace(source, target)

    monkeypatch.setattr(divided, "remove", lambda path: None)  # as a killed process cannot
    monkeypatch.setattr(divided.os, "rename", kill)
    with pytest.raises(SystemExit):
        strategy.save_checkpoint({"step": 3}, tmp_path / "step=3.ckpt" if move == 1 else path)
    monkeypatch.undo()
    newest = in_order(tmp_path)[0]
    assert strategy.load_checkpoint(newest) == {"step": 2 if move == 1 else 1}
    for left in tmp_path.glob("*.tmp-*"):
        left.rename(left.with_name(left.name.replace(f"tmp-{os.getpid()}", f"tmp-{2**22 + 1}")))
    assert len(remove_leftovers(tmp_path)) == move
    assert not list(tmp_path.glob("*.tmp-*"))


def test_a_full_disk_is_explained_and_leaves_nothing(tmp_path, strategy, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(divided, "sync", full)
    with pytest.raises(UserError, match="disk is full"):
        save(strategy, tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_one_process_says_what_to_do_with_a_folder(tmp_path, strategy):
    (path,) = save(strategy, tmp_path, 1)
    for read in (SafeCheckpointIO().load_checkpoint, open_run, lambda _: open_run(tmp_path)):
        with pytest.raises(UserError, match="consolidate"):
            read(path)
    assert Contents.of(path) == Manifest.of(path).accepted[0]
