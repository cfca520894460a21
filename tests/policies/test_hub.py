"""Models that are named as on the Hub, without a Hub."""

from __future__ import annotations

import time

import pytest
from huggingface_hub import constants

from lit_sdpo.errors import UserError
from lit_sdpo.policies import hub
from lit_sdpo.policies.load import architecture_from, load_policy, load_tokenizer

NAME = "nobody/no-such-model"


@pytest.fixture(params=[False, True], ids=["unreachable", "offline"])
def no_hub(request, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", request.param)
    hub.reachable.cache_clear()
    yield "HF_HUB_OFFLINE is set" if request.param else "the Hub cannot be reached"
    hub.reachable.cache_clear()


@pytest.mark.parametrize("load", [load_tokenizer, load_policy, lambda name: architecture_from(name, {})])
def test_what_is_missing_is_said_at_once(no_hub, load):
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        load(NAME)
    assert time.monotonic() - started < 10
    assert no_hub in str(caught.value)
    assert caught.value.where == "model.model_name"
    assert f"hf download {NAME}" in caught.value.fix
    assert "contradict" not in str(caught.value)


def test_what_has_been_downloaded_needs_no_hub(no_hub, tiny, tmp_path, monkeypatch):
    def cached(name, file):
        return str(tmp_path / file)

    monkeypatch.setattr(hub, "try_to_load_from_cache", cached)
    hub.check_at_hand(NAME, "model.model_name")
    monkeypatch.undo()
    hub.check_at_hand(tiny, "model.model_name")


def test_a_name_that_is_none_is_left_to_who_knows_names(no_hub):
    with pytest.raises(UserError, match="no tokenizer that can be loaded"):
        load_tokenizer("no/such/name")
