"""The package beside torch, lightning and torchmetrics alone."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.reuse.light import light_environment

ABSENT = ["transformers", "peft", "jsonargparse", "tensorboard", "matplotlib", "rich", "huggingface_hub"]

PROGRAM = """
import importlib.util, sys
import torch
assert not [name for name in {absent} if importlib.util.find_spec(name)]
import lightning.pytorch as pl
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

import lit_sdpo.functional as functional
from lit_sdpo import CollapseMonitor, ForgettingMatrix, InitialEvaluation, ParameterDrift, StreamProgressBar
from lit_sdpo.metrics import RetentionMatrix

class Model(BoringModel):
    def validation_step(self, batch, batch_idx):
        self.log("val/cats/accuracy", self.step(batch).sigmoid())

callbacks = [InitialEvaluation(), ForgettingMatrix(tasks=["cats"], stages=["cats", "cats"]), ParameterDrift(),
             CollapseMonitor(), StreamProgressBar(seconds_between_lines=0)]
trainer = pl.Trainer(max_epochs=2, limit_train_batches=2, limit_val_batches=1, accelerator="cpu", callbacks=callbacks,
                     enable_checkpointing=False, logger=CSVLogger({folder!r}, "", ""), enable_model_summary=False)
trainer.fit(Model())
assert len(callbacks[1].matrix.rows) == 3
assert callbacks[2].rows
try:
    from lit_sdpo import SDPO
except ModuleNotFoundError as error:
    print("needs", error.name)
"""


@pytest.mark.slow
def test_measurements_work_and_methods_name_what_they_need(tmp_path):
    python = light_environment(tmp_path / "light")
    program = PROGRAM.format(absent=ABSENT, folder=str(tmp_path / "run"))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "needs transformers" in done.stdout
    assert json.loads((tmp_path / "run" / "matrix.json").read_text())["rows"][2]["label"] == "cats"
    assert (tmp_path / "run" / "drift.md").exists()
