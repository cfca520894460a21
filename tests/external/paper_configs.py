"""Every file of the paper's configuration, with LoRA and without: train, resume, export, on two layers each.

    OMP_NUM_THREADS=1 python -m pytest tests/external/paper_configs.py -p no:cacheprovider

About ten minutes; the tests proper do the same with two files.
"""

from __future__ import annotations

import pytest

from tests.test_paper_configs import BEHIND, FILES, SDPO, models, name, train_resume_export

__all__ = ["models"]

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

#: These decide which tasks there are, how many devices, or nothing by themselves: the tests build them.
APART = ("common.yaml", "overlays/fsdp2.yaml", "overlays/lora.yaml")
CASES = [path for path in FILES if path.parent.name != "streams" and name(path) not in APART]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("path", CASES, ids=name)
def test_training_resume_and_export(path, lora, models, tmp_path):
    files = [SDPO, path] if path.parent.name in BEHIND else [path]
    architecture = "olmo3_7b" if "olmo" in path.name else "qwen3_4b"
    train_resume_export(files, architecture, lora, models, tmp_path)
