"""ResponseDrift in a project that knows nothing of this package: plain supervised training of a Hugging Face model."""

from __future__ import annotations

import csv
import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lit_sdpo.callbacks.responses.drift import ResponseDrift
from tests.loggers import InFolder

WORDS = ["red", "green", "blue", "one", "two", "three", "<end>"]
PROMPTS = {"colours": ["red green", "blue red", "green"], "numbers": ["one two", "three one", "two two"]}


class Finetuning(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<end>"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = LlamaConfig(vocab_size=len(WORDS), bos_token_id=6, eos_token_id=6, initializer_range=0.5, **sizes)
        self.model = LlamaForCausalLM(config)

    def training_step(self, batch, batch_idx):
        return self.model(input_ids=batch, labels=batch).loss

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def train_dataloader(self):
        text = ["red green blue red green", "one one two three two"][self.trainer.current_epoch % 2]
        return torch.utils.data.DataLoader(torch.tensor([self.tokenizer(text)["input_ids"]] * 4), batch_size=2)

    val_dataloader = train_dataloader


def fit(folder, *callbacks, ckpt_path=None, **options):
    settings = {"max_epochs": 2, "logger": InFolder(folder), "enable_checkpointing": False, "accelerator": "cpu"}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    settings |= {"reload_dataloaders_every_n_epochs": 1, "default_root_dir": folder}
    module = Finetuning()
    trainer = pl.Trainer(callbacks=list(callbacks), **(settings | options))
    trainer.fit(module, ckpt_path=ckpt_path)
    return module


def drift(**options):
    return ResponseDrift(**({"prompts": PROMPTS, "max_new_tokens": 4} | options))


def numbers(folder):
    lines = csv.DictReader((folder / "response_drift.csv").read_text().splitlines())
    return {
        (x["stage"], x["task"], x["number"]): tuple(float(x[k] or "nan") for k in ("value", "low", "high"))
        for x in lines
    }


def test_before_training_and_after_each_stage(tmp_path):
    fit(tmp_path, drift())
    found = numbers(tmp_path)
    assert {(stage, task) for stage, task, _ in found} == {
        ("0", "colours"), ("0", "numbers"), ("1", "colours"), ("1", "numbers"), ("1", "current"),
        ("2", "colours"), ("2", "numbers"), ("2", "current"), ("2", "earlier"),
    }  # fmt: skip
    for task in PROMPTS:
        assert found["0", task, "forward_kl"][0] == found["0", task, "reverse_kl"][0] == found["0", task, "js"][0] == 0
        assert found["1", task, "reverse_kl"][0] > 0.01
        assert found["1", task, "similarity_floor"] == found["0", task, "similarity"]
        assert found["2", task, "similarity"][0] < found["0", task, "similarity"][0] < 1
    assert found["2", "current", "reverse_kl"] == found["2", "numbers", "reverse_kl"]
    assert found["2", "earlier", "forward_kl"] == found["2", "colours", "forward_kl"]
    for (_, _, name), (value, low, high) in found.items():
        assert low <= value <= high or (math.isnan(low) and math.isnan(high)), name  # nan where no prompt differs


def test_it_changes_nothing(tmp_path):
    plain = fit(tmp_path / "without")
    state = torch.random.get_rng_state()
    watched = fit(tmp_path / "with", drift())
    assert torch.equal(state, torch.random.get_rng_state())
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b)


def test_fast_dev_run_leaves_no_files(tmp_path):
    callback = drift()
    fit(tmp_path, callback, fast_dev_run=True)
    assert callback.rows[-1].numbers["forward_kl"].value > 0
    assert not list(tmp_path.iterdir())


def test_it_needs_no_validation(tmp_path):
    fit(tmp_path, drift(), limit_val_batches=0)
    assert ("2", "earlier", "forward_kl") in numbers(tmp_path)


def test_two_loggers(tmp_path):
    loggers = [TensorBoardLogger(tmp_path, "board", ""), CSVLogger(tmp_path, "table", "")]
    callback = drift()
    fit(tmp_path, callback, logger=loggers)
    events = EventAccumulator(str(tmp_path / "board"), {"tensors": 0, "scalars": 0, "images": 0}).Reload()
    scalars = events.Scalars("drift/responses/colours/forward_kl")
    assert [event.step for event in scalars] == [0, 2, 4]
    rows = [row for row in callback.rows if row.task == "colours"]
    assert [event.value for event in scalars] == pytest.approx([row.numbers["forward_kl"].value for row in rows])
    assert events.Scalars("time/response_drift")[-1].value > 0
    assert len(events.Images("drift/prompt_distance")) == 1
    text = events.Tensors("drift/responses/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert text.count("\n| earlier |") == 1
    assert "drift/responses/earlier/reverse_kl" in (tmp_path / "table" / "metrics.csv").read_text()


class Save(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.folder / "checkpoints" / f"{trainer.current_epoch}.ckpt")


def test_a_resumed_run_measures_from_the_same_base(tmp_path):
    fit(tmp_path, drift(), Save(tmp_path))
    path = tmp_path / "checkpoints" / "0.ckpt"
    assert torch.load(path, weights_only=True)["callbacks"]["ResponseDrift"]["rows"]
    fit(tmp_path / "resumed", drift(), ckpt_path=path)
    first, second = numbers(tmp_path), numbers(tmp_path / "resumed")
    assert first.keys() == second.keys()
    for key, values in first.items():
        assert second[key] == pytest.approx(values, nan_ok=True), key
    prompts = [(folder / "response_similarity.csv").read_text() for folder in (tmp_path, tmp_path / "resumed")]
    assert prompts[0] == prompts[1]
    assert prompts[0].count("\n") == 1 + 3 * 2 * 3  # measurements, tasks, prompts


def test_a_callback_that_is_new_to_a_resumed_run_says_so(tmp_path):
    fit(tmp_path, Save(tmp_path))
    with pytest.warns(UserWarning, match="its base is the policy at step 2"):
        fit(tmp_path / "resumed", drift(), ckpt_path=tmp_path / "checkpoints" / "0.ckpt")
    assert not math.isnan(numbers(tmp_path / "resumed")["2", "colours", "forward_kl"][0])


def test_any_encoder(tmp_path):
    class Lengths(torch.nn.Module):
        def encode(self, texts):
            return [[float(len(text)), 1.0] for text in texts]

    callback = drift(encoder=Lengths())
    fit(tmp_path, callback)
    assert callback.distances is not None
    assert callback.distances[0] == ["colours", "numbers"]
    assert 0.3 < callback.rows[-1].numbers["similarity"].value <= 1
