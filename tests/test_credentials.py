"""Nothing that is nobody's business stands in records and messages, and nothing in them acts on a terminal."""

import json
import logging
import sys
import warnings

import pytest

from lit_sdpo.cli import main
from lit_sdpo.credentials import arguments_without_secrets, without_secrets
from lit_sdpo.dry_run import BuildOnly
from lit_sdpo.errors import UserError
from lit_sdpo.text import printable, printable_lines, said, unprintable

SECRET = "s3cr3t-v4lue"


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{SECRET}@host/x",
        f"https://{SECRET}@host/x",
        f"https:/user:{SECRET}@host/x",  # as a path object writes it
        f"http://host/x?token={SECRET}&n=1",
        f"postgresql://me:{SECRET}@db:5432/runs",
        f"--trainer.logger.init_args.api_key={SECRET}",
        f"--hub_token={SECRET}",
        f"password: {SECRET}",
        f'{{"secret": "{SECRET}"}}',
        f"{{access_key: {SECRET}, n: 1}}",
        f"Authorization: Bearer {SECRET}",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
    ],
)
def test_credentials_are_stars(text):
    shown = without_secrets(text)
    assert SECRET not in shown
    assert "***" in shown


@pytest.mark.parametrize("shape", ["hf_" + "a" * 30, "sk-" + "b" * 30, "ghp_" + "c" * 36, "AKIA" + "D" * 16])
def test_known_shapes_are_stars_wherever_they_stand(shape):
    assert shape not in without_secrets(f"cannot load x ({shape} is refused)")


@pytest.mark.parametrize(
    "text",
    [
        "--rollout.sampling.max_new_tokens=64",
        "--model.token_mask=0.25",
        "--model.aggregation=token_mean",
        "--tokenizer=path/to/model",
        "the prompt has 30 tokens: more than 20",
        "end token: <|end|>",
        "author: somebody",
        "/etc/passwd: the file cannot be read",
        "runs/secret.yaml: model.alpha",
        "https://host:8000/x?n=1",
        "the end token 9 is outside of the vocabulary",
    ],
)
def test_what_is_no_credential_stays(text):
    assert without_secrets(text) == text


def test_a_value_behind_its_flag_is_hidden_too():
    given = ["fit", "--trainer.logger.api_key", SECRET, "--max_tokens", "3", f"--url=https://a:{SECRET}@b"]
    assert arguments_without_secrets(given) == [
        *["fit", "--trainer.logger.api_key", "***", "--max_tokens", "3", "--url=https://***@b"],
    ]


def test_control_characters_become_their_codes():
    assert unprintable("a\x07")
    assert unprintable("a\u202eb")
    assert not unprintable("a é 数")
    assert printable("\x1b[31m\u200b") == "[U+001B][31m[U+200B]"
    assert printable_lines("a\tb\n\x9bc") == "a\tb\n[U+009B]c"
    assert (
        said(UserError("\x1b]0;owned\x07", where=f"https://u:{SECRET}@h")) == "https://***@h: [U+001B]]0;owned[U+0007]"
    )


@pytest.fixture
def own_logging():
    factory, formatted = logging.getLogRecordFactory(), warnings.formatwarning
    yield
    logging.setLogRecordFactory(factory)
    warnings.formatwarning = formatted


def test_messages_of_the_command_line_are_clean(tmp_path, capsys, own_logging):
    record = {"id": "a", "task": "m\x1b[31mRED", "split": "train", "stage": 0, "step": 1, "reward": 1, "length": 1}
    record |= {"prompt": [], "completion": "x", "flags": []}
    (tmp_path / "samples.jsonl").write_text(json.dumps(record) + "\n")
    assert main(["samples", str(tmp_path), "--task=zzz"]) == 2
    assert main(["fit", "--config", f"https://me:{SECRET}@host/\x1b[31m.yaml"]) == 2
    logging.getLogger("lit_sdpo").warning("row %s of %s", "\x1b[2J", f"https://me:{SECRET}@host")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown = warnings.formatwarning(UserWarning("\x1b[2J"), UserWarning, "a.py", 1)
    said_all = "".join(capsys.readouterr()) + shown
    assert "\x1b" not in said_all
    assert SECRET not in said_all
    assert "[U+001B]" in said_all


def test_the_record_of_a_run_hides_them(tmp_path, monkeypatch, own_logging):
    from lit_sdpo import cli

    monkeypatch.setattr(sys, "argv", ["lit-sdpo", "fit", f"--url=https://me:{SECRET}@host", "--api_key", SECRET])
    settings = ["--config", "configs/micro/quickstart.yaml", f"--trainer.logger.save_dir={tmp_path}"]
    made = cli.run(["fit", *settings, "--data.order=[math]", "--data.ood=false", "--data.prior=false"], BuildOnly)
    (record,) = [each for each in made.trainer.callbacks if isinstance(each, cli.RunRecord)]
    record.setup(made.trainer, made.model, "validate")
    (written,) = tmp_path.rglob("environment.json")
    assert SECRET not in written.read_text()
    assert json.loads(written.read_text())["command"][-1] == "***"
