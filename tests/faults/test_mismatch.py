"""F11 and F12: a checkpoint of another run is refused, with both sides named."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_sdpo.callbacks import StageCheckpoint
from lit_sdpo.checkpoints.schema import compare, fingerprint
from lit_sdpo.errors import UserError
from lit_sdpo.failures import explain_loading
from tests.faults.runs import model, stream, train
from tests.training import Toy


class Edited(Toy):
    """One answer differs."""

    def rows(self, split):
        rows = super().rows(split)
        object.__setattr__(rows[-1], "ground_truth", "other")
        return rows


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    train(folder, model(tiny), stream(steps=2))
    return folder / "checkpoints" / "step=1.ckpt"


def test_f11_another_model_size():
    """What torch says of weights that do not fit becomes a list."""
    small, large = (torch.nn.Sequential(torch.nn.Linear(2, n)) for n in (3, 4))
    state = {**small.state_dict(), "extra": torch.zeros(1)}
    with pytest.raises(RuntimeError) as raised:
        large.load_state_dict(state)
    text = str(explain_loading(raised.value))
    assert "0.weight: checkpoint has [3, 2], this model has [4, 2]" in text
    assert "the checkpoint alone has extra" in text
    assert "3 entries differ" in text
    assert explain_loading(ValueError("x")) is None


def test_f11_another_method(tiny, tmp_path, saved):
    """The teacher is part of the weights, so torch would refuse them; what differs is said before."""
    said = r"model: checkpoint has SDPO\(.*, this run has GRPO\(.*\n  method: checkpoint has"
    with pytest.raises(UserError, match=said):
        train(tmp_path, model(tiny, "grpo"), stream(steps=2), ckpt_path=saved)
    allowed = StageCheckpoint(on_mismatch="warn")
    with pytest.warns(UserWarning, match="method"), pytest.raises(RuntimeError) as raised:
        train(tmp_path, model(tiny, "grpo"), stream(steps=2), ckpt_path=saved, checkpoint=allowed)
    assert "the checkpoint alone has" in str(explain_loading(raised.value))


def test_f11_another_revision_of_the_base(tiny, tmp_path, saved):
    """One number of one weight differs; the checkpoint's weights would hide that."""
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"][0] += 0.5
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError, match=r"base weights: checkpoint has (\d+) weights (\w+), this run has \1 weights (?!\2)"
    ):
        train(tmp_path, model(str(other)), stream(steps=2), ckpt_path=saved)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tasks": ["a", "c"]}, "stage 1: checkpoint has b, .* this run has c"),
        ({"tasks": ["b", "a"]}, "stage 0: checkpoint has a, .* this run has b"),
        ({"tasks": ["a"]}, "stage 1: checkpoint has b, .*, this run has nothing"),
        ({"steps": 4}, "stage 0: checkpoint has a, 2 steps .* this run has a, 4 steps"),
        ({"tasks": [Edited("a"), "b"]}, "stage 0: checkpoint has a, .*data 12 rows .*this run has a, .*data 12 rows"),
        ({"seed": 4}, "data.seed: checkpoint has 3, this run has 4"),
    ],
)
def test_f12_other_tasks_order_or_data(tiny, tmp_path, saved, options, said):
    with pytest.raises(UserError, match=said):
        train(tmp_path, model(tiny), stream(**{"steps": 2} | options), ckpt_path=saved)


def test_f12_other_slices_inside_a_stage(tiny, tmp_path, saved):
    with pytest.raises(UserError, match="accumulate_grad_batches: checkpoint has 2, this run has 1"):
        train(tmp_path, model(tiny), stream(steps=2), ckpt_path=saved, slots=1)
    end = saved.with_name("stage=0-step=2.ckpt")
    assert train(tmp_path, model(tiny), stream(steps=2), ckpt_path=end, slots=1).global_step == 4


def test_f12_can_be_overridden(tiny, tmp_path, saved):
    saving = StageCheckpoint(on_mismatch="warn")
    with pytest.warns(UserWarning, match="this run has c"):
        trainer = train(tmp_path, model(tiny), stream(tasks=["a", "c"], steps=2), ckpt_path=saved, checkpoint=saving)
    assert trainer.global_step == 4


def test_base_weights_are_compared_where_both_sides_know_them():
    one, other, divided = {"seed": 1, "base weights": "a"}, {"seed": 1, "base weights": "b"}, {"seed": 1}
    assert list(map(str, compare(one, other))) == ["base weights: checkpoint has a, this run has b"]
    assert compare(one, divided) == compare(divided, one) == []


def test_a_fingerprint_covers_every_row_and_its_order():
    rows = Toy().rows("train")
    assert fingerprint(rows) == fingerprint(Toy("toy").rows("train"))
    assert (
        len({fingerprint(rows), fingerprint(rows[::-1]), fingerprint(rows[:-1]), fingerprint(Edited().rows("train"))})
        == 4
    )
