"""What a configuration is about to meet of the behaviour that one would guess wrong, each in one line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging

from lit_sdpo.diagnosis.findings import Finding
from lit_sdpo.optimizers import MuonAdamW
from lit_sdpo.policies.chat import render_text
from lit_sdpo.policies.gguf import is_gguf
from lit_sdpo.policies.load import resolve
from lit_sdpo.policies.masters import is_rounded

if TYPE_CHECKING:
    from lit_sdpo.diagnosis.configuration import Run

#: Where each of these is told.
PAGE = "docs/behaviour.md"
PART = "behaviour"
#: Package and version in which a behaviour was seen, by the anchor of its place on the page.
SEEN = {
    "gguf-quantised": ("transformers", "5.24.0"),
    "weight-decay": ("torch", "2.13.0"),
    "second-moment": ("torch", "2.13.0"),
    "bf16-true": ("lightning", "2.6.6"),
    "averaged-weights": ("lightning", "2.6.6"),
    "gym-seeds": ("reasoning-gym", "0.1.25"),
    "bfcl-text": ("bfcl-eval", "2026.3.23"),
    "turn-token": ("transformers", "5.24.0"),
    "start-of-texts": ("transformers", "5.24.0"),
}
#: Packages that this one does not need and people use beside it: what the page says of each.
BESIDE = {
    "trl": "trl",
    "lm-eval": "lm-eval",
    "math-verify": "math-verify",
    "bfcl-eval": "bfcl-text",
    "reasoning-gym": "gym-seeds",
    "datasets": "datasets",
}


def beside(packages: Iterable[str] = tuple(BESIDE)) -> Iterator[Finding]:
    """The packages of the page that are installed beside this one, in one line; nothing where there are none."""
    found = [f"{name} {has} ({PAGE}#{BESIDE[name]})" for name in packages if (has := _installed(name))]
    if found:
        yield Finding(PART, "ok", f"what these do and one would not guess is told: {', '.join(found)}")


def met(run: Run) -> Iterator[Finding]:
    """What the versions, the model and the settings of a run will meet."""
    yield from _model(run)
    yield from _optimizer(run)
    yield from _trainer(run)
    yield from of_verifiers({row.verifier for _, _, rows in run.sets for row in rows[:100]})


def note(anchor: str, text: str, fix: str = "") -> Finding:
    """One line with the place where more is told, and the version if it is another than the one it was seen in.

    Example:
        >>> print(note("gym-seeds", "puzzles repeat", "take seeds far apart"))
        note     behaviour: puzzles repeat (docs/behaviour.md#gym-seeds). Take seeds far apart.
    """
    package, seen = SEEN[anchor]
    has = _installed(package)
    other = f"; seen in {package} {seen}, here is {has}" if has not in (None, seen) else ""
    return Finding(PART, "note", f"{text} ({PAGE}#{anchor}{other})", fix)


def lost_decay(groups: Iterable[dict[str, Any]]) -> tuple[float, float] | None:
    """Rate and decay of a group of an optimizer whose decay changes no float32 weight; ``None`` where there is none.

    A decoupled decay multiplies a weight by ``1 - rate * decay``, which below ``2**-25`` is 1 in float32.

    Example:
        >>> lost_decay([{"lr": 1e-6, "weight_decay": 0.01}]), lost_decay([{"lr": 1e-5, "weight_decay": 0.01}])
        ((1e-06, 0.01), None)
    """
    for group in groups:
        rate, decay = float(group["lr"]), float(group.get("weight_decay", 0))
        if rate * decay > 0 and torch.tensor(1 - rate * decay, dtype=torch.float32) == 1:
            return rate, decay
    return None


def _model(run: Run) -> Iterator[Finding]:
    if is_gguf(resolve(run.given["model_name"])):
        text = "read by Transformers alone, this file's model can be neither saved nor cast; here it is unpacked"
        yield note("gguf-quantised", text)
    start = run.tokenizer.bos_token
    asked = render_text(run.tokenizer, [{"role": "user", "content": "a"}], run.module.chat_template_options)
    if start is not None and asked.count(start) > 1:
        text = f"the token that begins a text, {start}, opens every turn of the chat template too"
        yield note("turn-token", text, "neither cut texts at it nor put it before a rendered prompt")
        if run.data.likelihood:
            text = f"texts and options without a context are scored behind {start}, as lm-eval does it"
            yield note("start-of-texts", text, "compare them with scores behind the same token only")


def _optimizer(run: Run) -> Iterator[Finding]:
    trained = [(name, weight) for name, weight in run.policy.named_parameters() if weight.requires_grad]
    optimizer = run.module.optimizer(iter(trained))
    decoupled = isinstance(optimizer, torch.optim.AdamW | MuonAdamW)
    if decoupled and (lost := lost_decay(optimizer.param_groups)) is not None:
        rate, decay = lost
        text = f"weight decay {decay:g} at learning rate {rate:g} is less than float32 can hold and moves no weight"
        yield note("weight-decay", text, "do not count on it, or set it to 0 to say so")
    if not run.module.float32_masters and any(is_rounded(weight) for _, weight in trained):
        text = "averages of squared gradients in half precision never fall: after a spike, steps stay small"
        yield note("second-moment", text, "leave model.float32_masters on")


def _trainer(run: Run) -> Iterator[Finding]:
    if str(run.trainer.precision) in ("bf16-true", "16-true"):
        text = f"{run.trainer.precision} makes half precision the default dtype within a step"
        yield note("bf16-true", text, "in terms and callbacks of your own name the dtype of tensors that you make")
    callbacks: list[Any] = run.trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(callback, WeightAveraging) for callback in callbacks) and any(
        isinstance(callback, ModelCheckpoint) and callback.save_weights_only for callback in callbacks
    ):
        text = "with weight averaging, files of save_weights_only hold the raw weights, not the averaged ones"
        yield note("averaged-weights", text, "save full checkpoints")


def of_verifiers(names: Collection[str]) -> Iterator[Finding]:
    """Lines about the verifiers that some rows name."""
    if "reasoning_gym" in names:
        yield note("gym-seeds", "sets made with neighbouring seeds have nearly all puzzles in common",
                   "make training and evaluation sets with seeds further apart than the sets are long")  # fmt: skip
    if "bfcl_ast" in names:
        yield note("bfcl-text", "as on the leaderboard, signs and points in texts of calls do not count: -5 is 5")


def _installed(package: str) -> str | None:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None
