"""What outside code raises over a user's input becomes one explanation; defects of the package do not."""

import errno

import lightning.pytorch as pl
import pytest
import torch

from lit_sdpo.errors import UserError, explained
from lit_sdpo.failures import explain_running
from lit_sdpo.messages import explain_building


def raised(call):
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


class Foreign:
    def __init__(self, rate):
        raise RuntimeError(f"the rate {rate} is not what this library takes")


def test_what_other_libraries_raise_while_they_are_built_is_explained():
    mistake = explain_building(raised(lambda: Foreign(3)), ["model.rate"])
    assert (mistake.where, mistake.what) == ("model.rate", "the rate 3 is not what this library takes")
    assert explain_building(raised(lambda: pl.loggers.WandbLogger())).where == "WandbLogger"


def test_a_lack_of_memory_and_a_defect_are_no_mistakes():
    class Hungry:
        def __init__(self):
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert explain_building(raised(Hungry)) is None
    own: dict = {"__name__": "lit_sdpo.mine"}
    exec("class Mine:\n    def __init__(self):\n        {}['key']\n", own)
    assert explain_building(raised(own["Mine"])) is None


@pytest.mark.parametrize(
    ("number", "text"), [(errno.ENOSPC, "full"), (errno.EACCES, "permission"), (errno.EROFS, "read-only")]
)
def test_the_disk_is_explained(number, text):
    mistake = explain_running(OSError(number, "no", "runs/events"))
    assert mistake.where == "runs/events"
    assert text in mistake.what
    assert explain_running(OSError(number, "no")).where == "the run's folder"


def test_optimizers_schedules_and_callbacks_that_refuse_in_a_step_are_named():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SparseAdam([weight])
    weight.grad = torch.ones(2)
    assert explain_running(raised(optimizer.step)).where == "model.optimizer"
    schedule = torch.optim.lr_scheduler.OneCycleLR(torch.optim.SGD([weight], 0.1), max_lr=0.1, total_steps=1)
    with pytest.warns(UserWarning, match="lr_scheduler"):
        error = raised(lambda: [schedule.step() for _ in range(3)])
    assert explain_running(error).where == "model.scheduler"
    stopping = pl.callbacks.EarlyStopping("nope", strict=True)
    assert explain_running(raised(lambda: stopping._validate_condition_metric({}))).where == "trainer.callbacks"
    assert explain_running(raised(lambda: torch.ones(2) @ torch.ones(3))) is None


def test_what_is_no_checkpoint_is_told(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"root:x:0:0:root:/root:/bin/bash\n" * 9)
    mistake = explain_running(raised(lambda: torch.load(path, weights_only=True)))
    assert mistake.where == "ckpt_path"
    assert "no checkpoint" in mistake.what


def test_explained_keeps_what_is_explained_already():
    with pytest.raises(UserError) as caught, explained("cannot build", where="model.scheduler", fix="mend it"):
        raise UserError("3 is too much")
    assert str(caught.value) == "model.scheduler: 3 is too much"
    with pytest.raises(UserError) as caught, explained("cannot build", where="model"):
        raise UserError("gone", where="file")
    assert caught.value.where == "file"
    with pytest.raises(MemoryError), explained("cannot build"):
        raise MemoryError


def test_a_number_that_no_memory_is_large_enough_for():
    class Wanting:
        def __init__(self, size):
            raise MemoryError

    with pytest.raises(MemoryError) as raised:
        Wanting(10)
    found = explain_building(raised.value, ["trainer.size"])
    assert str(found) == "Wanting: what it asks for does not fit into memory. Give a smaller number."
