"""F27: of everything that decides training, a difference is refused or, where a user wants it, is what trains."""

import logging
import shutil

import pytest
import torch

from lit_sdpo.callbacks import StageCheckpoint
from lit_sdpo.cli import main
from lit_sdpo.errors import UserError
from lit_sdpo.optimizers import WarmupConstant, WarmupLinearDecay
from lit_sdpo.policies.teachers import EMATeacher, FrozenTeacher
from lit_sdpo.rollouts.types import Sampling
from tests.faults.programs import CONFIG
from tests.faults.runs import model, stream, train
from tests.training import lively, rollout_callback

SMALL = [
    f"--config={CONFIG.with_name('sdpo_ema.yaml')}",
    "--data.order=[math,tool]",
    "--data.steps=4",
    "--data.prompts_per_step=2",
    "--data.eval_prompts=1",
    "--data.eval_generations=1",
    "--data.ood=false",
    "--data.prior=false",
    "--rollout.num_generations=2",
    "--rollout.sampling.max_new_tokens=4",
    "--checkpoint.every_n_steps=1",
    "--checkpoint.keep_steps=9",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.logger=CSVLogger",
    "--trainer.logger.name=r",
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of the command line that was cut after a step of each stage."""
    folder = tmp_path_factory.mktemp("saved")
    assert main(["fit", *SMALL, f"--trainer.logger.save_dir={folder}"]) == 0
    return folder / "r" / "version_0" / "checkpoints"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--model.optimizer.lr=0.1"], "model.optimizer.lr: checkpoint has 0.0003, this run has 0.1"),
        (["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"], "this run has SGD(lr=0.1"),
        (["--model.scheduler.warmup_steps=3"], "model.scheduler.warmup_steps: checkpoint has 5, this run has 3"),
        (["--model.alpha=0.9"], "model.alpha: checkpoint has 0.5, this run has 0.9"),
        (["--model.teacher=FrozenTeacher"], "this run has FrozenTeacher("),
        (["--model.teacher.update_rate=0.9"], "model.teacher.update_rate: checkpoint has 0.05, this run has 0.9"),
        (["--model.aggregation=seq_mean_token_mean"], "model.aggregation: checkpoint has token_mean"),
        (["--model.importance_clip=1.5"], "model.importance_clip"),
        (["--model.reset_optimizer=false"], "model.reset_optimizer"),
        (["--rollout.num_generations=3"], "rollout.num_generations: checkpoint has 2, this run has 3"),
        (["--rollout.sampling.temperature=0.5"], "rollout.sampling.temperature: checkpoint has 1.0, this run has 0.5"),
        (["--rollout.rewards={weights: {verifier: 5}}"], "rollout.rewards: checkpoint has null, this run has "),
        (["--rollout.resample_rounds=1"], "rollout.resample_rounds"),
        (["--rollout.seed=3"], "rollout.seed: checkpoint has null, this run has 3"),
        (["--data.seed=3"], "data.seed"),
        (["--seed_everything=3"], "seed_everything: checkpoint has 0, this run has 3"),
        (["--trainer.gradient_clip_val=0.3"], "trainer.gradient_clip_val"),
        (["--trainer.precision=bf16-true"], "trainer.precision"),
        (["--data.updates_per_rollout=2"], "data.updates_per_rollout"),
    ],
    ids=lambda value: value[0][2:] if isinstance(value, list) else "",
)
def test_f27_a_change_is_refused(saved, tmp_path, capsys, change, said):
    given = [f"--trainer.logger.save_dir={tmp_path}", f"--ckpt_path={saved / 'step=2.ckpt'}"]
    assert main(["fit", *SMALL, *given, *change]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not list(tmp_path.rglob("config.yaml"))  # of a run that there is not


def test_f27_what_does_not_decide_is_said_or_passed_over(saved, tmp_path, caplog):
    given = [f"--trainer.logger.save_dir={tmp_path}", f"--ckpt_path={saved / 'step=7.ckpt'}"]
    changes = [
        "--samples.every_n_steps=7",
        "--trainer.accumulate_grad_batches=1",
        "--trainer.callbacks=LearningRateMonitor",
    ]
    assert main(["fit", *SMALL, *given, *changes, "--data.eval_batch_size=3"]) == 0
    assert "data.eval_batch_size: checkpoint has 32, this run has 3" in caplog.text
    assert "trainer.callbacks: checkpoint has null, this run has LearningRateMonitor(" in caplog.text
    assert "every_n_steps" not in caplog.text


def test_f27_a_change_on_purpose_is_what_trains(saved, tmp_path):
    given = [f"--trainer.logger.save_dir={tmp_path}", f"--ckpt_path={saved / 'step=2.ckpt'}"]
    keys = "--checkpoint.may_change=[model.optimizer.init_args.lr, model.scheduler]"
    changes = ["--model.optimizer.lr=0.1", "--model.scheduler.warmup_steps=4"]
    with pytest.warns(UserWarning, match=r"changed on purpose:\n  model.optimizer.lr: checkpoint has 0.0003"):
        assert main(["fit", *SMALL, *given, keys, *changes]) == 0
    folder = tmp_path / "r" / "version_0"
    written = (folder / "config.yaml").read_text()
    assert "lr: 0.1\n" in written
    rates = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    column = rates[0].index("train/lr")
    found = [float(row[column]) for row in rates[1:] if row[column]]
    assert found == pytest.approx([0.075, 0.1, *(0.1 * n / 4 for n in (1, 2, 3, 4))])
    end = torch.load(folder / "checkpoints" / "stage=1-step=8.ckpt", weights_only=True)
    assert end["lit_sdpo"]["configuration"]["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.1


def test_f27_a_key_that_there_is_not(saved, tmp_path, capsys):
    given = [f"--trainer.logger.save_dir={tmp_path}", f"--ckpt_path={saved / 'step=2.ckpt'}"]
    assert main(["fit", *SMALL, *given, "--checkpoint.may_change=[model.optimiser.lr]"]) == 2
    assert "checkpoint.may_change: there is no key 'model.optimiser.lr'" in capsys.readouterr().err


def test_f27_a_refused_run_is_not_the_last_one(saved, tmp_path, caplog):
    shutil.copytree(saved.parents[1], tmp_path / "r")
    board = ["--trainer.logger=TensorBoardLogger", f"--trainer.logger.save_dir={tmp_path}", "--trainer.logger.name=r"]
    path = tmp_path / "r" / "version_0" / "checkpoints" / "step=6.ckpt"
    assert main(["fit", *SMALL, *board, f"--ckpt_path={path}", "--model.alpha=0.9"]) == 2
    refused = tmp_path / "r" / "version_1"
    assert "model.alpha: checkpoint has 0.5, this run has 0.9" in (refused / "refused.txt").read_text()
    assert not (refused / "config.yaml").exists()
    with caplog.at_level(logging.INFO):
        assert main(["fit", *SMALL, *board, "--ckpt_path=last"]) == 0
    assert "Nothing left to train: all 2 stages were complete at step 8." in caplog.text


# ------------------------------------------------------------------------------------------- objects, no configuration
@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    train(folder, model(tiny), stream(steps=2))
    return folder / "checkpoints" / "step=1.ckpt"


def rate(value, kind=torch.optim.AdamW, **options):
    return lambda parameters: kind(parameters, lr=value, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"teacher": EMATeacher(0.4)}, "model.teacher.update_rate: checkpoint has 0.3, this run has 0.4"),
        ({"teacher": FrozenTeacher()}, r"model.teacher: checkpoint has EMATeacher\(.*this run has FrozenTeacher\("),
        ({"alpha": 0.9}, r"model.terms.\w+.alpha: checkpoint has 0.5, this run has 0.9"),
        ({"aggregation": "seq_mean_token_mean"}, "model.aggregation: checkpoint has token_mean"),
        ({"optimizer": rate(0.1)}, "optimizer.lr: checkpoint has 0.01, this run has 0.1"),
        ({"optimizer": rate(0.01, betas=(0.5, 0.9))}, r"optimizer.betas.0: checkpoint has 0.9, this run has 0.5"),
        ({"optimizer": rate(0.01, torch.optim.SGD)}, r"optimizer: checkpoint has AdamW\(.*this run has SGD\("),
        ({"scheduler": None}, "schedule: checkpoint has "),
        ({"scheduler": lambda o: WarmupConstant(o, warmup_steps=9)}, "schedule.factors.1: checkpoint has 0.6"),
        ({"scheduler": lambda o: WarmupLinearDecay(o, 900, 3)}, "schedule: checkpoint has WarmupConstant"),
    ],
)
def test_f27_objects_tell_runs_apart(tiny, tmp_path, made, options, said):
    with pytest.raises(UserError, match=said):
        train(tmp_path, model(tiny, **options), stream(steps=2), ckpt_path=made)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sampling": Sampling(max_new_tokens=6, temperature=0.5)}, "rollout.sampling.temperature: checkpoint has 1.0"),
        ({"num_generations": 2}, "rollout.num_generations: checkpoint has 4, this run has 2"),
        ({}, r"rollout.rewards.weights.verifier: checkpoint has 0.0, this run has 1.0"),
    ],
)
def test_f27_rollouts_tell_runs_apart(tiny, tmp_path, made, options, said, monkeypatch):
    given = {"rewards": lively() if options else None}
    monkeypatch.setattr("tests.faults.runs.rollout_callback", lambda **_: rollout_callback(**(given | options)))
    with pytest.raises(UserError, match=said):
        train(tmp_path, model(tiny), stream(steps=2), ckpt_path=made)


class Rates:
    """What the optimizer has at each step, and how many steps its averages have seen."""

    def __init__(self):
        self.seen = []

    def __call__(self, optimizer, args, kwargs):
        group = optimizer.param_groups[0]
        steps = [int(state.get("step", 0)) for state in optimizer.state.values()]
        self.seen.append((round(group["lr"], 6), group.get("momentum"), max(steps, default=0)))


@pytest.mark.parametrize(
    ("options", "keys", "first"),
    [
        ({"optimizer": rate(0.06)}, ["optimizer.lr"], (0.04, None, 1)),
        ({"optimizer": rate(0.06), "scheduler": None}, ["optimizer", "schedule"], (0.06, None, 1)),
        ({"scheduler": lambda o: WarmupConstant(o, warmup_steps=1)}, ["schedule"], (0.01, None, 1)),
        ({"optimizer": rate(0.06, torch.optim.SGD, momentum=0.7)}, ["optimizer"], (0.04, 0.7, 0)),
    ],
)
def test_f27_new_rates_train_from_the_restored_step(tiny, tmp_path, made, options, keys, first):
    shutil.copytree(made.parent, tmp_path / "checkpoints")
    module, rates = model(tiny, **options), Rates()
    build = module.optimizer

    def watched(parameters):
        optimizer = build(parameters)
        optimizer.register_step_pre_hook(rates)
        return optimizer

    module.optimizer = watched
    with pytest.warns(UserWarning, match="changed on purpose"):
        trainer = train(tmp_path, module, stream(steps=2), ckpt_path=made, checkpoint=StageCheckpoint(may_change=keys))
    assert trainer.global_step == 4
    assert rates.seen[0] == pytest.approx(first)
