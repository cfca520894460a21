from __future__ import annotations

import re

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from lit_sdpo.callbacks.tensorboard import TensorBoardLayout, layout
from tests.callbacks.scripted import Scripted, Stream, trainer


def pages(folder):
    events = EventAccumulator(str(folder), {"tensors": 0}).Reload()
    tensors = events.Tensors(metadata.CONFIG_SUMMARY_TAG)
    return [layout_pb2.Layout.FromString(event.tensor_proto.string_val[0]) for event in tensors]


def test_the_page_is_written_once_with_four_groups(tmp_path):
    loggers = [TensorBoardLogger(tmp_path, "board", ""), CSVLogger(tmp_path, "table", "")]
    trainer(tmp_path, TensorBoardLayout(), logger=loggers).fit(Scripted(), Stream())
    (page,) = pages(tmp_path / "board")
    assert [group.title for group in page.category] == ["learning", "forgetting", "health", "time"]
    charts = {chart.title: list(chart.multiline.tag) for group in page.category for chart in group.chart}
    assert charts["accuracy of tasks"] == ["^val/math/accuracy$", "^val/law/accuracy$"]
    assert charts["accuracy of probes"] == ["^val/poems/accuracy$"]


def test_without_a_logger_nothing_happens(tmp_path):
    trainer(tmp_path, TensorBoardLayout()).fit(Scripted(), Stream())
    assert not list(tmp_path.iterdir())


def shown(tag, **names):
    tags = [tag for charts in layout(**names).values() for _, tags in charts.values() for tag in tags]
    return any(re.match(pattern, tag) for pattern in tags)


def test_every_pattern_is_one_and_finds_its_tags():
    for tag in ("rollout/reward", "continual/bwt", "continual/ood_change", "rollout/entropy", "rollout/flat_groups"):
        assert shown(tag, tasks=["a"], probes=["b"])
    assert shown("val/a/length", tasks=["a"])
    assert shown("val/b/accuracy", tasks=["a"], probes=["b"])
    assert not shown("val/b/accuracy", tasks=["a"])
    assert not shown("val/axb/accuracy", tasks=["a.b"])
    assert shown("val/anything/accuracy")
    assert not shown("rollout/reward/format")
