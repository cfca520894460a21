"""Writes the policy of a checkpoint as a model folder, loads it again and compares the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from lit_sdpo.checkpoints.trained import ADAPTER, TrainedRun
from lit_sdpo.commands.samples import FILE, read
from lit_sdpo.errors import UserError
from lit_sdpo.policies.exporting import (
    BASE,
    ROUNDED,
    SAME,
    Comparison,
    compare,
    logits_of,
    merged,
    reload,
    whole_folder,
    write_policy,
)
from lit_sdpo.policies.held import adapted
from lit_sdpo.policies.load import load_tokenizer, render_all, resolve
from lit_sdpo.report.model_card import model_card

#: Prompts of the comparison, beside one of each task of the run's samples.
PROMPTS = ("What is 17 + 25?", "Name three animals that lay eggs.", "Write a short poem about the sea.")
MOST = 8


def export(
    run: TrainedRun, target: Path, *, adapter: bool = False, dtype: str | None = None, overwrite: bool = False
) -> Comparison:
    """Write a policy, load it again and compare; the folder is there once all of it is right.

    Args:
        run: The checkpoint and its run.
        target: The folder.
        adapter: Write the LoRA adapter only, rather than merge it.
        dtype: Of the written weights; ``None`` keeps that of the checkpoint.
        overwrite: Replace a model that is there.

    Returns:
        How the logits of both compare.

    Raises:
        UserError: It cannot be written, or what was written is not what the checkpoint holds.
    """
    disable_progress_bar()  # of loading weights
    name = str(run.model.get("model_name", ""))
    _check(run, target, name, adapter)
    tokenizer = load_tokenizer(name, bool(run.model.get("trust_remote_code")))
    policy = run.policy()
    kind = getattr(torch, dtype) if dtype else policy.dtype
    lora = adapted(policy)
    rounded = kind != policy.dtype or (lora and not adapter)
    count = sum(p.numel() for name, p in policy.named_parameters() if (ADAPTER in name) == adapter)
    told = str(kind).removeprefix("torch.")
    print(f"model       {run.method} on {name}, {count:,} parameters in {told}{', adapter only' if adapter else ''}")
    prompts = _prompts(run, tokenizer)
    with whole_folder(target, overwrite=overwrite) as folder:
        before = logits_of(policy, prompts)
        policy = (policy if adapter else merged(policy)).to(kind)
        write_policy(policy, tokenizer, folder, place=target, sampling=run.sampling)
        del policy
        base = str(folder / BASE) if (folder / BASE).is_dir() else resolve(name)
        model, again = reload(folder, base if adapter else None)
        found = compare(before, logits_of(model, prompts))
        if _prompts(run, again) != prompts:
            raise UserError("the reloaded tokenizer gives other tokens", where=str(target), fix="report this")
        if not found.difference <= (ROUNDED[kind] if rounded else SAME) * found.largest:
            fix = "export with --dtype float32" if rounded and kind != torch.float32 else "report this"
            raise UserError(f"the reloaded model is not the checkpoint's: {found}", where=str(target), fix=fix)
        card = model_card(run, target.resolve().name, adapter=adapter, dtype=told, check=str(found))
        (folder / "README.md").write_text(card, encoding="utf-8")
    return found


def _check(run: TrainedRun, target: Path, name: str, adapter: bool) -> None:
    if adapter and not run.model.get("lora"):
        raise UserError("the run trained all parameters", where="--adapter", fix="leave it out")
    if adapter and run.model.get("random_weights"):
        raise UserError("the adapter's base had random weights", where="--adapter", fix="leave it out")
    if name and target.resolve() == Path(resolve(name)).resolve():
        raise UserError("this is the folder of the base model", where=str(target), fix="give another folder")


def _prompts(run: TrainedRun, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    chats: list[Any] = [[{"role": "user", "content": text}] for text in PROMPTS]
    samples = None if run.folder is None else run.folder / FILE
    seen: dict[str, Any] = {}
    for record in read(samples) if samples is not None and samples.is_file() else ():
        seen.setdefault(record["task"], record["prompt"])
        if len(seen) == MOST - len(PROMPTS):
            break
    return render_all(tokenizer, [*chats, *seen.values()], run.model.get("chat_template_options"))
