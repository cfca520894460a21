"""Jobs whose process is a few lines of Python instead of a run."""

from __future__ import annotations

import sys

import yaml

from lit_sdpo.checkpoints.manifest import Contents, Manifest
from lit_sdpo.sweep.state import Job

CONFIG = {"trainer": {"max_epochs": None}, "model": {"class_path": "SDPO", "init_args": {"alpha": 0.5}}}


def job(output, run="one", script="", seed=0, config=CONFIG):
    return Job(run, seed, output, (sys.executable, "-S", "-c", script), config)


def begun(job, *, config=CONFIG, epochs=2):
    """What a run has written once it has started."""
    job.folder.mkdir(parents=True, exist_ok=True)
    written = {**config, "trainer": {"max_epochs": epochs}}
    (job.folder / "config.yaml").write_text(yaml.safe_dump(written))


def checkpoint(job, name):
    path = job.folder / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    Manifest(1, (Contents.of(path),)).write(path)
