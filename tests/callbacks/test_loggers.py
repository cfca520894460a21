"""What a logger is taken for, on the process that logs and on others."""

from __future__ import annotations

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_sdpo.callbacks.loggers import display, event_writer, row_writer

KINDS = {"tensorboard": (TensorBoardLogger, (True, False, True)), "csv": (CSVLogger, (False, True, False))}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_logger_is_known_by_what_it_writes_with(tmp_path, monkeypatch, name, rank):
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    kind, expected = KINDS[name]
    logger = kind(tmp_path)
    found = tuple(each is not None for each in (event_writer(logger), row_writer(logger), display(logger)))
    assert found == (expected if rank == 0 else (False, False, False))
