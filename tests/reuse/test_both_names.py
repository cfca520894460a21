"""``lightning.pytorch`` and ``pytorch_lightning``: the same numbers, files, pictures and texts, in every logger."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_sdpo import ForgettingMatrix, StageCheckpoint
from lit_sdpo.checkpoints.plugin import SafeCheckpointIO
from lit_sdpo.lightning_names import both, check_trainer
from tests.reuse.both_names import NAMES, TASKS, classifier, fit, trainer_of

pytest.importorskip("pytorch_lightning")
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*The `version` argument:UserWarning", "ignore::DeprecationWarning:(wandb|mlflow).*"
)

#: What the callbacks of ``fit`` show beside numbers.
PICTURES = {"continual/matrix", "continual/by_stage"}
TABLES = {"continual/matrix", "artifacts/cats", "artifacts/dogs", "drift/parameters"}


def logger_of(name, kind, folder, *arguments, **options):
    return getattr(import_module(f"{name}.loggers"), kind)(*arguments, **options)


def test_tensorboard_and_files_are_the_same_under_both_names(tmp_path, capsys):
    found = []
    for name in NAMES:
        folder = tmp_path / name
        board = logger_of(name, "TensorBoardLogger", folder, folder, "board", "")
        table = logger_of(name, "CSVLogger", folder, folder, "table", "")
        trainer, _ = fit(name, folder, [board, table])
        assert [type(c).__name__ for c in trainer.callbacks if "Checkpoint" in type(c).__name__] == ["StageCheckpoint"]
        assert [type(c).__name__ for c in trainer.callbacks if "Bar" in type(c).__name__] == ["StreamProgressBar"]
        assert isinstance(trainer.strategy.checkpoint_io, SafeCheckpointIO)
        events = EventAccumulator(str(folder / "board"), {"tensors": 0, "images": 0, "scalars": 0}).Reload()
        tags = events.Tags()
        assert set(tags["images"]) == PICTURES
        assert set(tags["tensors"]) == {f"{tag}/text_summary" for tag in TABLES} | {"custom_scalars__config__"}
        text = events.Tensors("artifacts/cats/text_summary")[-1].tensor_proto.string_val[0].decode()
        assert "<b>" not in text
        numbers = {
            tag: [(e.step, e.value) for e in events.Scalars(tag)]
            for tag in tags["scalars"]
            if not tag.startswith("time/")
        }
        files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if "tfevents" not in p.name}
        found.append((numbers, files, (folder / "board" / "matrix.json").read_text()))
    assert found[0] == found[1]
    assert len(json.loads(found[0][2])["rows"]) == 3


def test_a_stage_checkpoint_goes_on_under_the_other_name(tmp_path):
    """What one package has saved, the other one resumes: the keys of the callbacks' states are the same."""
    matrices = {}
    for first, then in (NAMES, NAMES[::-1]):
        folder, matrix = tmp_path / first, ForgettingMatrix(tasks=TASKS)
        trainer = trainer_of(first, folder, [matrix, StageCheckpoint()], logger=False, enable_progress_bar=False)
        trainer.fit(classifier(first))
        again = ForgettingMatrix(tasks=TASKS)
        resumed = trainer_of(then, folder, [again, StageCheckpoint()], logger=False, enable_progress_bar=False)
        (path,) = folder.rglob("stage=0-*.ckpt")
        resumed.fit(classifier(then), ckpt_path=str(path))
        matrices[first] = [json.dumps(m.state_dict()) for m in (matrix, again)]
    assert len({*matrices["lightning.pytorch"], *matrices["pytorch_lightning"]}) == 1


@pytest.mark.slow
def test_a_callback_that_was_made_too_early_is_told_in_setup():
    """In a process of its own, where the other name is not imported yet."""
    program = """
import lit_sdpo
early = lit_sdpo.StageCheckpoint()
import pytorch_lightning as pl
from pytorch_lightning.demos.boring_classes import BoringModel
trainer = pl.Trainer(callbacks=[early], logger=False, enable_progress_bar=False, max_epochs=1)
try:
    trainer.fit(BoringModel())
except lit_sdpo.UserError as error:
    print(error)
late = lit_sdpo.StageCheckpoint()
assert isinstance(late, pl.callbacks.Checkpoint)
assert type(late) is type(early)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "was made before pytorch_lightning was imported" in done.stdout
    assert "Import pytorch_lightning above" in done.stdout


def test_a_class_without_a_twin_stays_alone():
    assert both(dict) == (dict,)
    check_trainer(object(), StageCheckpoint(), object)


@pytest.mark.parametrize("name", NAMES)
def test_wandb_offline_has_pictures_tables_and_texts(tmp_path, name, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = logger_of(name, "WandbLogger", tmp_path, save_dir=tmp_path, offline=True)
    fit(name, tmp_path, logger)
    run = logger.experiment
    media = sorted(p.relative_to(run.dir).as_posix() for p in (tmp_path / "wandb").rglob("media/*/**/*"))
    for tag in PICTURES:
        assert len([path for path in media if path.startswith(f"media/images/{tag}_")]) == 3
    for tag in TABLES:
        assert any(path.startswith(f"media/table/{tag}/table_") for path in media)
    assert run.summary["continual/average_accuracy"] > 0
    tables = sorted((tmp_path / "wandb").rglob("media/table/continual/matrix/table_*.json"))
    last = max((json.loads(p.read_text()) for p in tables), key=lambda table: len(table["data"]))
    assert last["columns"] == ["stage", "step", *TASKS]
    assert [row[0] for row in last["data"]] == ["base", "1 cats", "2 dogs"]
    wandb.finish()


@pytest.mark.parametrize("name", NAMES)
def test_mlflow_on_sqlite_has_pictures_tables_and_texts(tmp_path, name):
    pytest.importorskip("mlflow")
    place = {"tracking_uri": f"sqlite:///{tmp_path / 'runs.db'}", "artifact_location": str(tmp_path / "artifacts")}
    logger = logger_of(name, "MLFlowLogger", tmp_path, **place)
    fit(name, tmp_path, logger)
    folder = next((tmp_path / "artifacts").rglob("artifacts"))
    for tag in PICTURES:
        shown = sorted(p.name for p in (folder / "images").glob(f"{tag.replace('/', '~')}+step+*.png"))
        assert [x.split("+")[2] for x in shown] == ["0", "3", "6"]
    for tag in TABLES:
        assert (folder / f"{tag}.json").is_file()
    matrix = json.loads((folder / "continual" / "matrix.json").read_text())
    assert matrix["columns"] == ["global_step", "stage", "step", *TASKS]
    assert [row[0] for row in matrix["data"]] == [0, 3, 3, 6, 6, 6]
    assert logger.experiment.get_run(logger.run_id).data.metrics["continual/average_accuracy"] > 0
