from __future__ import annotations

import random
import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from lit_sdpo.report.events import scalars


def write(folder, values, new_style=False, **options):
    with SummaryWriter(folder, **options) as writer:
        for step, value in values:
            writer.add_scalar("loss", value, step, new_style=new_style)
            writer.add_text("note", "text is no scalar", step)


@pytest.mark.parametrize("new_style", [False, True])
def test_the_values_are_those_of_tensorboards_own_reader(tmp_path, new_style):
    numbers = random.Random(0)
    write(tmp_path, [(step, numbers.gauss(0, 1)) for step in range(50)], new_style)
    own = EventAccumulator(str(tmp_path), {"scalars": 0, "tensors": 0}).Reload()
    if new_style:
        expected = [(e.step, e.tensor_proto.float_val[0]) for e in own.Tensors("loss")]
    else:
        expected = [(e.step, e.value) for e in own.Scalars("loss")]
    assert scalars(tmp_path) == {"loss": expected}
    (file,) = tmp_path.iterdir()
    assert scalars(file) == {"loss": expected}


def test_c13_a_file_that_ends_anywhere_gives_what_was_whole(tmp_path):
    write(tmp_path / "whole", [(step, float(step)) for step in range(3)])
    (file,) = (tmp_path / "whole").iterdir()
    data = file.read_bytes()
    counts = set()
    for size in range(len(data) + 1):
        (cut := tmp_path / "cut").write_bytes(data[:size])
        found = scalars(cut).get("loss", [])
        assert found == [(step, float(step)) for step in range(len(found))]
        counts.add(len(found))
    assert counts == {0, 1, 2, 3}


def test_a_resumed_run_has_its_last_values(tmp_path):
    write(tmp_path, [(0, 0.0), (1, 1.0), (2, 2.0)], filename_suffix=".a")
    write(tmp_path, [(1, 10.0)], filename_suffix=".b")
    assert scalars(tmp_path) == {"loss": [(0, 0.0), (1, 10.0), (2, 2.0)]}
    write(tmp_path, [(1, 20.0)], filename_suffix=".c", purge_step=1)
    assert scalars(tmp_path) == {"loss": [(0, 0.0), (1, 20.0)]}


def test_an_empty_folder_has_nothing(tmp_path):
    assert scalars(tmp_path) == {}
    shutil.rmtree(tmp_path)
