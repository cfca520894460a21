from __future__ import annotations

import re

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lit_sdpo.callbacks.tensorboard import RESULTS, TensorBoardLayout, layout, settings
from lit_sdpo.policies.teachers import EMATeacher
from tests.callbacks.scripted import Scripted, Stream, trainer
from tests.training import fit, method, rollout_callback, toy_data


def pages(folder):
    events = EventAccumulator(str(folder), {"tensors": 0}).Reload()
    tensors = events.Tensors(metadata.CONFIG_SUMMARY_TAG)
    return [layout_pb2.Layout.FromString(event.tensor_proto.string_val[0]) for event in tensors]


def test_the_page_is_written_once_with_its_groups(tmp_path):
    loggers = [TensorBoardLogger(tmp_path, "board", ""), CSVLogger(tmp_path, "table", "")]
    trainer(tmp_path, TensorBoardLayout(), logger=loggers).fit(Scripted(), Stream())
    (page,) = pages(tmp_path / "board")
    assert [group.title for group in page.category] == [
        "learning",
        "forgetting",
        "drift",
        "artifacts",
        "health",
        "time",
    ]
    charts = {chart.title: list(chart.multiline.tag) for group in page.category for chart in group.chart}
    assert charts["accuracy of tasks"] == ["^val/math/accuracy$", "^val/law/accuracy$"]
    assert charts["accuracy of probes"] == ["^val/poems/accuracy$"]


def test_losses_have_a_chart_of_their_own():
    charts = {name: tags for name, (_, tags) in layout(["a"], ["p", "x"], ["x"])["forgetting"].items()}
    assert charts["accuracy of probes"] == ["^val/p/accuracy$"]
    assert charts["loss on fixed texts"] == ["^val/x/loss$"]
    assert "accuracy of probes" not in layout(["a"], ["x"], ["x"])["forgetting"]


def test_without_a_logger_nothing_happens(tmp_path):
    trainer(tmp_path, TensorBoardLayout()).fit(Scripted(), Stream())
    assert not list(tmp_path.iterdir())


def shown(tag, **names):
    tags = [tag for charts in layout(**names).values() for _, tags in charts.values() for tag in tags]
    return any(re.match(pattern, tag) for pattern in tags)


def test_every_pattern_is_one_and_finds_its_tags():
    for tag in (
        "drift/parameters/q_proj/relative_norm",
        "drift/responses/current/reverse_kl",
        "artifacts/math/leakage",
        "alignment/math",
        "alignment/mean",
        "alignment/tokens_of_law",
    ):
        assert shown(tag)
    for tag in (
        "health/state",
        "health/length_tail",
        "teacher/distance",
        "rollout/reward",
        "continual/bwt",
        "continual/ood_change",
        "rollout/entropy",
        "rollout/flat_groups",
    ):
        assert shown(tag, tasks=["a"], probes=["b"])
    assert shown("val/a/length", tasks=["a"])
    assert shown("val/b/accuracy", tasks=["a"], probes=["b"])
    assert not shown("val/b/accuracy", tasks=["a"])
    assert not shown("val/axb/accuracy", tasks=["a.b"])
    assert shown("val/anything/accuracy")
    assert not shown("alignment/tokens")
    assert not shown("rollout/reward/format")


def test_the_hparams_page_has_the_settings_and_touches_no_curve(tmp_path):
    logger = TensorBoardLogger(tmp_path, "", "")
    module = Scripted()
    trainer(tmp_path, TensorBoardLayout(), logger=logger).fit(module, Stream())
    assert len(list(tmp_path.rglob("events.out.tfevents.*"))) == 1
    events = EventAccumulator(str(tmp_path)).Reload()
    assert not set(RESULTS) & set(events.Tags()["scalars"])
    plugin = events.PluginTagToContent("hparams")
    started = HParamsPluginData.FromString(plugin["_hparams_/session_start_info"]).session_start_info.hparams
    assert started["method"].string_value == "Scripted"
    assert started["learning_rate"].number_value == 0.1
    assert started["teacher"].string_value == ""
    experiment = HParamsPluginData.FromString(plugin["_hparams_/experiment"]).experiment
    assert [metric.name.tag for metric in experiment.metric_infos] == list(RESULTS)


def test_settings_of_a_run(tmp_path, tiny):
    module = method("sdpo", tiny, teacher=EMATeacher(0.25))
    made = fit(tmp_path, module, toy_data(("a", "b")), rollout=rollout_callback())
    found = settings(made, module)
    assert found["method"] == "SDPO"
    assert found["teacher"] == "EMATeacher"
    assert found["teacher_update_rate"] == 0.25
    assert found["stages"] == "a 1, b 1"
    assert found["num_generations"] == 4
    assert found["learning_rate"] == 0.5
    assert len(found) <= 20
    assert all(isinstance(value, (str, int, float)) for value in found.values())
