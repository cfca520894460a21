from __future__ import annotations

import copy

import pytest

from lit_sdpo.sweep.resolved import differences, fingerprint

CONFIG = {
    "seed_everything": 0,
    "ckpt_path": None,
    "trainer": {
        "max_epochs": None,
        "callbacks": [{"class_path": "A", "init_args": {"n": 1}}],
        "logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "x", "name": "n", "version": "v"}},
    },
    "model": {"class_path": "SDPO", "init_args": {"alpha": 0.5, "anchor": None, "overrides": {"width": 8}}},
    "samples": {"every": 10},
}


def changed(**values):
    """CONFIG with values at other places, by keys such as model__init_args__alpha; a list's places by number."""
    config = copy.deepcopy(CONFIG)
    for key, value in values.items():
        *path, last = key.split("__")
        place = config
        for part in path:
            place = place[int(part)] if part.isdecimal() else place[part]
        place[last] = value
    return config


LOGGER = "trainer__logger__init_args__"
SAME = [
    {"seed_everything": 5, "ckpt_path": "last"},
    {LOGGER + "save_dir": "y", LOGGER + "name": "m", LOGGER + "version": "w"},
    {"trainer__enable_progress_bar": False, "trainer__enable_model_summary": False},
]
LATER = [
    {"model__init_args__new": 3},
    {"trainer__callbacks__0__init_args__new": {"a": 1}},
    {"samples__new": True},
    {"memory": {"gib": None}},
]
OTHER = [
    ({"model__init_args__alpha": 1.0}, "model.alpha: recorded 0.5, now 1.0"),
    ({"model__init_args__anchor": {"class_path": "W"}}, "model.anchor"),
    ({"model__init_args__overrides": {"width": 8, "depth": 2}}, "model.overrides.depth: recorded nothing, now 2"),
    ({"model__class_path": "GRPO"}, "model.class_path: recorded SDPO, now GRPO"),
    ({"trainer__callbacks": [*CONFIG["trainer"]["callbacks"], {"class_path": "B"}]}, "trainer.callbacks.1"),
    ({"trainer__callbacks": []}, "trainer.callbacks"),
    ({"trainer__max_epochs": 2}, "trainer.max_epochs: recorded None, now 2"),
]


@pytest.mark.parametrize("values", SAME)
def test_seed_and_folder_do_not_count(values):
    assert differences(CONFIG, changed(**values)) == []
    assert fingerprint(CONFIG) == fingerprint(changed(**values))


@pytest.mark.parametrize("values", LATER)
def test_an_option_of_a_later_release_does_not_count(values):
    assert differences(CONFIG, changed(**values)) == []
    assert differences(changed(**values), CONFIG) != []


@pytest.mark.parametrize(("values", "line"), OTHER)
def test_other_values_are_named(values, line):
    found = differences(CONFIG, changed(**values))
    assert any(line in each for each in found), found
    assert fingerprint(CONFIG) != fingerprint(changed(**values))


def test_the_stream_fills_in_the_number_of_epochs():
    assert differences(changed(trainer__max_epochs=4), CONFIG) == []
    assert differences(changed(trainer__max_epochs=4), changed(trainer__max_epochs=3)) != []
