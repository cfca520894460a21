"""F13, F14, F17, F18: a run goes on as if it had not been interrupted."""

import logging
import shutil

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_sdpo.callbacks import CollapseMonitor, StageCheckpoint, TensorBoardLayout
from lit_sdpo.checkpoints.manifest import in_order
from lit_sdpo.report.events import scalars
from tests.faults.runs import Draws, Logged, assert_same, final, model, stream, train


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The undisturbed run: folder, what it ended with, what it drew and logged."""
    folder = tmp_path_factory.mktemp("whole")
    module, draws, logged = model(tiny), Draws(), Logged()
    trainer = train(folder, module, stream(), draws, logged)
    return folder, final(trainer, module), draws.drawn, logged.values


@pytest.fixture
def folder(whole, tmp_path):
    """The run folder, put back afterwards."""
    shutil.copytree(whole[0], tmp_path / "kept")
    yield whole[0]
    shutil.rmtree(whole[0])
    shutil.copytree(tmp_path / "kept", whole[0])


def resume(tiny, folder, ckpt_path, **options):
    """Go on in a folder that also holds what came after that checkpoint."""
    module, draws, logged = model(tiny), Draws(), Logged()
    trainer = train(folder, module, stream(), draws, logged, ckpt_path=ckpt_path, **options)
    return final(trainer, module), draws.drawn, logged.values


NAMES = ["step=1", "step=2", "step=3", "stage=0-step=4", "step=5", "step=6", "step=7"]


def test_what_is_saved(whole):
    names = {path.stem for path in (whole[0] / "checkpoints").glob("*.ckpt")}
    assert names == {*NAMES, "stage=1-step=8"}


@pytest.mark.parametrize("name", NAMES)
def test_f13_resume_is_exact_from_every_checkpoint(tiny, whole, folder, name):
    """2 and 6 are evaluated steps, 4 the last of a task, 5 the first of the next."""
    _, expected, drawn, logged = whole
    found, drawn_again, logged_again = resume(tiny, folder, folder / "checkpoints" / f"{name}.ckpt")
    assert_same(found, expected)
    assert drawn_again
    assert_same({key: drawn[key] for key in drawn_again}, drawn_again)
    later = {key: value for key, value in logged_again.items() if key != min(logged_again)}
    assert later
    for key in later:
        common = later[key].keys() & logged[key].keys()
        assert len(common) > 10
        assert {k: later[key][k] for k in common} == {k: logged[key][k] for k in common}


@pytest.mark.parametrize("updates", [2])
def test_f17_no_checkpoint_falls_between_rollouts_and_their_last_use(tiny, tmp_path, updates):
    """Due at every step, saved where the next prompts are drawn: none is skipped or seen twice."""
    module, draws = model(tiny), Draws()
    trainer = train(tmp_path, module, stream(updates_per_rollout=updates), draws)
    expected = final(trainer, module)
    names = {path.stem for path in (tmp_path / "checkpoints").glob("*.ckpt")}
    assert names == {"step=2", "stage=0-step=4", "step=6", "stage=1-step=8"}
    again = model(tiny)
    trainer = train(
        tmp_path, again, stream(updates_per_rollout=updates), ckpt_path=tmp_path / "checkpoints" / "step=6.ckpt"
    )
    assert [line for line in expected["samples"].splitlines() if '"split": "train"' in line]
    found = final(trainer, again)
    del found["random"], expected["random"]  # nobody drew in the second run
    assert_same(found, expected)


def test_f14_a_finished_run_says_so_and_changes_nothing(tiny, folder, caplog):
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with caplog.at_level(logging.INFO):
        resume(tiny, folder, folder / "checkpoints" / "stage=1-step=8.ckpt")
    assert "Nothing left to train: all 2 stages were complete at step 8." in caplog.text
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_f18_a_run_folder_may_be_moved(tiny, whole, tmp_path):
    folder = tmp_path / "elsewhere"
    shutil.copytree(whole[0], folder)
    found, _, _ = resume(tiny, folder, folder / "checkpoints" / "step=5.ckpt")
    assert_same(found, whole[1])


def curves(folder):
    """What TensorBoard's own reader makes of a run: tag to steps and values."""
    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if "time" not in tag and "per_second" not in tag
    }


def test_f13_curves_do_not_go_back_in_time(tiny, tmp_path):
    def run(**options):
        logger = TensorBoardLogger(tmp_path, "", "")
        train(tmp_path, model(tiny), stream(), TensorBoardLayout(), logger=logger, **options)
        return curves(tmp_path)

    whole = run()
    assert [step for step, _ in whole["train/loss"]] == list(range(8))
    resumed = run(ckpt_path=tmp_path / "checkpoints" / "step=6.ckpt")
    for tag, points in resumed.items():
        steps = [step for step, _ in points]
        assert steps == sorted(steps)
        assert list(dict(points)) == list(dict(whole[tag]))
        if tag != "epoch":
            assert dict(points) == pytest.approx(dict(whole[tag]), nan_ok=True)
    assert len(list(tmp_path.glob("events.*"))) == 2
    assert scalars(tmp_path)["train/loss"] == whole["train/loss"]


def test_what_is_kept(tiny, tmp_path):
    saving = StageCheckpoint(keep=1, every_n_steps=1, keep_steps=2)
    train(tmp_path, model(tiny), stream(eval_every=None), checkpoint=saving)
    assert [path.stem for path in in_order(tmp_path / "checkpoints")] == ["stage=1-step=8", "step=7", "step=6"]


def test_f13_a_monitor_judges_every_step_once(tiny, tmp_path):
    """Two slices a step: after a resume, the first slice alone is no step."""

    def run(**options):
        monitor = CollapseMonitor()
        train(tmp_path, model(tiny), stream(), monitor, **options)
        return monitor.state_dict()

    whole = run()
    assert len(whole["watch"]["signals"]["reward"]["values"]) == 4  # of the second stage
    assert_same(run(ckpt_path=tmp_path / "checkpoints" / "step=5.ckpt"), whole)
