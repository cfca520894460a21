"""Every method's configuration is short and trains through two stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_sdpo.cli import main

MICRO = Path(__file__).parents[1] / "configs" / "micro"
FILES = [
    *(MICRO / f"{name}.yaml" for name in ("grpo", "grpo_std", "sdpo", "sdpo_ema", "sft")),
    *sorted((MICRO / "methods").glob("*.yaml")),
]
SHORT = [
    "--data.order=[math,tool]",
    "--data.steps=2",
    "--data.eval_prompts=2",
    "--data.eval_generations=1",
    "--data.ood=false",
    "--data.prior=false",
    "--trainer.logger=false",
    "--trainer.enable_model_summary=false",
]


def name(path):
    return path.stem


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_method_is_a_short_file(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 30


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_method_trains_through_two_stages(path, tmp_path, capsys):
    assert main(["fit", f"--config={path}", *SHORT, f"--trainer.default_root_dir={tmp_path}"]) == 0, (
        capsys.readouterr().err
    )
    assert len(list(tmp_path.rglob("*.ckpt"))) == 2
