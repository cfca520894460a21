"""The plugin alone: round trip, order, replacement, what a damaged or hostile file does."""

import hashlib
import json
import logging
import os

import pytest
import torch

from lit_sdpo.checkpoints import SafeCheckpointIO
from lit_sdpo.checkpoints.manifest import Contents, Manifest, in_order
from lit_sdpo.checkpoints.writing import _Recorder
from lit_sdpo.errors import UserError


def content(value):
    return {"state_dict": {"w": torch.full((100,), float(value))}, "step": value}


def save(folder, *values):
    io = SafeCheckpointIO()
    paths = []
    for value in values:
        paths.append(folder / f"step={value}.ckpt")
        io.save_checkpoint(content(value), paths[-1])
    return paths


def load(path):
    checkpoint = SafeCheckpointIO().load_checkpoint(path)
    assert bool((checkpoint["state_dict"]["w"] == checkpoint["step"]).all())
    return checkpoint["step"]


def test_a_file_and_its_manifest(tmp_path):
    (path,) = save(tmp_path / "new" / "folder", 3)
    assert load(path) == 3
    manifest = json.loads((path.parent / "step=3.ckpt.json").read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest == {"number": 1, "accepted": [{"size": path.stat().st_size, "sha256": digest}]}
    assert {p.name for p in path.parent.iterdir()} == {"step=3.ckpt", "step=3.ckpt.json"}


def test_the_number_of_the_save_decides_what_is_newest(tmp_path):
    nine, ten = save(tmp_path, 9, 10)
    os.utime(nine, (2e9, 2e9))
    foreign = tmp_path / "epoch=0.ckpt"
    torch.save(content(0), foreign)
    assert in_order(tmp_path) == [ten, nine, foreign]
    SafeCheckpointIO().save_checkpoint(content(9), nine)
    assert in_order(tmp_path) == [nine, ten, foreign]


@pytest.mark.parametrize("interrupted", [SystemExit(143), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
@pytest.mark.parametrize("write", [1, 2, 3, 5, 8])
def test_an_interruption_inside_a_save_is_passed_on(tmp_path, monkeypatch, interrupted, write):
    (path,) = save(tmp_path, 1)
    before = path.read_bytes()
    original, calls = _Recorder.write, []

    def interrupt(recorder, data):
        calls.append(data)
        if len(calls) == write:
            raise interrupted
        return original(recorder, data)

    monkeypatch.setattr(_Recorder, "write", interrupt)
    with pytest.raises(type(interrupted)) as caught:  # torch fails in its own way when it closes the archive
        SafeCheckpointIO().save_checkpoint(content(2), path)
    assert caught.value is interrupted
    assert len(calls) >= write
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.tmp-*"))


def test_removal_takes_the_manifest_along(tmp_path):
    (path,) = save(tmp_path, 1)
    SafeCheckpointIO().remove_checkpoint(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("done", ["replace", "sync", "manifest"])
def test_a_replacement_that_is_cut_off_anywhere_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch, done):
    (path,) = save(tmp_path, 1)

    class Killed(BaseException):
        pass

    def kill(*args, **kwargs):
        raise Killed

    written = []
    write = Manifest.write

    def only_the_first(manifest, checkpoint):
        written.append(manifest)
        if len(written) > 1:
            raise Killed
        write(manifest, checkpoint)

    if done == "manifest":
        monkeypatch.setattr(Manifest, "write", only_the_first)
    else:
        target = "os.replace" if done == "replace" else "lit_sdpo.checkpoints.writing.sync"
        if done == "replace":  # the manifest moves into its place too
            monkeypatch.setattr(Manifest, "write", lambda manifest, checkpoint: None)
        monkeypatch.setattr(target, kill)
    with pytest.raises(Killed):
        SafeCheckpointIO().save_checkpoint({**content(2)}, path)
    monkeypatch.undo()
    assert load(path) == (1 if done == "replace" else 2)


def test_what_comes_back_from_the_disk_is_compared_before_the_old_file_goes(tmp_path, monkeypatch):
    (path,) = save(tmp_path, 1)
    monkeypatch.setattr(Contents, "of", classmethod(lambda cls, path: cls(1, "other")))
    with pytest.raises(OSError, match="came back"):
        SafeCheckpointIO().save_checkpoint(content(2), path)
    monkeypatch.undo()
    assert load(path) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_without_a_good_one_the_damaged_file_is_an_error(tmp_path):
    (path,) = save(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match="no good one"), pytest.warns(UserWarning, match="is damaged"):
        load(path)


def test_only_earlier_files_take_the_place_of_a_damaged_one(tmp_path, caplog):
    one, two, three, _four = save(tmp_path, 1, 2, 3, 4)
    for path in (two, three):
        path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.warns(UserWarning, match="SHA-256"), caplog.at_level(logging.INFO):
        assert load(three) == 1
    assert f"Going on from {one}" in caplog.text
    assert sorted(p.name for p in tmp_path.glob("*.corrupt")) == ["step=2.ckpt.corrupt", "step=3.ckpt.corrupt"]
    assert load(three) == 1  # as another rank would find it


def test_a_file_without_manifest_is_read_with_a_word_of_warning(tmp_path):
    path = tmp_path / "plain.ckpt"
    torch.save(content(1), path)
    with pytest.warns(UserWarning, match="no manifest"):
        assert load(path) == 1
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match="no good one"), pytest.warns(UserWarning, match="is damaged"):
        load(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        load(tmp_path / "none.ckpt")
