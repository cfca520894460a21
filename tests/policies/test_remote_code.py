"""A model whose architecture is Python code beside its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from lit_sdpo.errors import UserError
from lit_sdpo.policies import remote_code
from lit_sdpo.policies.load import architecture_from, check_files, load_policy, load_tokenizer
from tests.training import Watch, fit, method, toy_data

CODE = """
from pathlib import Path
from transformers import Qwen3Config, Qwen3ForCausalLM

Path({mark!r}).touch()


class OwnConfig(Qwen3Config):
    model_type = "own_tiny"


class OwnForCausalLM(Qwen3ForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own(tiny, tmp_path, monkeypatch):
    """Folder of such a model, and the file that its code makes."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder, mark = tmp_path / "own", tmp_path / "has_run"
    shutil.copytree(tiny, folder)
    (folder / "own_code.py").write_text(CODE.format(mark=str(mark)))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own_tiny", "architectures": ["OwnForCausalLM"]}
    config["auto_map"] = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    remote_code._warn.cache_clear()
    return str(folder), mark


@pytest.mark.parametrize("load", [load_policy, check_files, lambda name: architecture_from(name, {})])
def test_unasked_it_is_not_run(own, load):
    folder, mark = own
    with pytest.raises(UserError, match=r"needs Python code.*model.trust_remote_code to true"):
        load(folder)
    assert not mark.exists()


def test_on_request_it_is_run_and_named(own, tiny, caplog):
    folder, mark = own
    policy = load_policy(folder, trust_remote_code=True)
    assert mark.exists()
    assert type(policy).__name__ == "OwnForCausalLM"
    assert [r.getMessage() for r in caplog.records if "trust_remote_code" in r.getMessage()] == [
        f"trust_remote_code: Python code in {folder} runs in this process, with all that it may do"
    ]
    same = load_policy(tiny)
    for name, weight in policy.named_parameters():
        assert torch.equal(weight, dict(same.named_parameters())[name])
    assert load_tokenizer(folder, trust_remote_code=True).vocab_size == load_tokenizer(tiny).vocab_size


def test_it_trains(own, tmp_path):
    folder, _ = own
    watch = Watch()
    fit(tmp_path, method("grpo", folder, trust_remote_code=True), toy_data(), watch)
    assert len(watch.of("train")) == 1
    assert Path(folder, "own_code.py").exists()
