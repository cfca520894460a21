"""One short message for what ends a run: the disk, memory, another process, or a checkpoint that does not fit.

Nothing heavy is imported here: a command that needs neither torch nor Lightning explains its failure without them.
"""

from __future__ import annotations

import errno
import os
import re
import traceback

from lit_sdpo.errors import UserError, lacks_memory, reason

#: What other libraries raise when they refuse what they are given.
_REFUSALS = (ValueError, TypeError, ImportError, OSError, KeyError, ArithmeticError)
#: What gloo and NCCL say of a process that is gone or silent.
_LOST = re.compile(
    r"gloo/transport|Connection (reset|closed) by peer|Timed out waiting \d+ms|NCCL.*(remote process|timeout|aborted)"
)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
#: Where Lightning builds and sets up what ``trainer`` asks for.
_PARTS = {
    "loggers": "trainer.logger",
    "strategies": "trainer.strategy",
    "accelerators": "trainer.accelerator",
    "plugins": "trainer.plugins",
    "profilers": "trainer.profiler",
}
#: Whose own code raises when it refuses what it was given, in any step.
_RAISERS = {
    "torch.optim.lr_scheduler": "model.scheduler",
    "torch.optim": "model.optimizer",
    "lightning.pytorch.callbacks": "trainer.callbacks",
}
#: Compared by name: what has raised it has imported Lightning, and nothing else need.
_MISCONFIGURED = "lightning.fabric.utilities.exceptions.MisconfigurationException"
_DISK = {
    errno.ENOSPC: ("the disk is full", "free some space; the latest checkpoint is whole"),
    errno.EDQUOT: ("the quota of the disk is used up", "free some space; the latest checkpoint is whole"),
    errno.EFBIG: ("the file may not become larger", "raise the limit on file sizes"),
    errno.EMFILE: ("too many files are open", "raise the limit on open files (ulimit -n)"),
    errno.EACCES: ("no permission", "give another folder, or the permission"),
    errno.EPERM: ("no permission", "give another folder, or the permission"),
    errno.EROFS: ("the disk is read-only", "give another folder"),
    errno.ENAMETOOLONG: ("the name is too long", "give shorter names"),
    errno.ENOTDIR: ("a part of the path is a file", "give another folder"),
    errno.EISDIR: ("it is a folder", "give the path of a file"),
    errno.ENOENT: ("it does not exist and cannot be made", "give another path"),
}


def explain_running(error: BaseException) -> UserError | None:
    """The mistake behind an error of a run: the disk, or what Lightning or an optimizer refuses; ``None`` of others.

    Example:
        >>> print(explain_running(OSError(errno.ENOSPC, "No space left on device", "samples.jsonl")))
        samples.jsonl: the disk is full. Free some space; the latest checkpoint is whole.
    """
    if isinstance(error, OSError) and error.errno in _DISK:
        what, fix = _DISK[error.errno]
        # TensorBoard's writer names its file in bytes.
        return UserError(what, where=os.fsdecode(error.filename or "the run's folder"), fix=fix)
    if _MISCONFIGURED in (f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__):
        return UserError(reason(error, most=400), where="trainer")
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not modules or isinstance(error, MemoryError) or lacks_memory(error):
        return None
    if modules[-1].startswith(("torch._weights_only_unpickler", "torch.serialization")):
        what = f"the file is no checkpoint ({reason(error)})"
        return UserError(what, where="ckpt_path", fix="give one that a run has saved")
    for raiser, where in _RAISERS.items():
        if modules[-1].startswith(raiser):
            return UserError(reason(error, most=400), where=where)
    if modules[-1].startswith("lit_sdpo") or not isinstance(error, _REFUSALS):
        return None
    for module in modules:
        found = re.match(r"lightning\.(?:pytorch|fabric)\.(\w+)", module)
        if (
            found
            and found[1] in _PARTS
            and not any(name.startswith("lit_sdpo.") for name in modules[modules.index(module) :])
        ):
            return UserError(reason(error, most=400), where=_PARTS[found[1]])
    return None


def explain_failure(error: BaseException) -> str | None:
    """What a user can make of a machine's failure inside a run: memory, or another process; ``None`` for other errors.

    Example:
        >>> print(explain_failure(RuntimeError("Read error [127.0.0.1]:29067: Connection reset by peer")))
        another process of this run has ended or hangs: see what it has said; the latest checkpoint is whole
    """
    if not isinstance(error, RuntimeError):
        return None
    if lacks_memory(error):
        return (
            f"out of memory ({reason(error)}): lower rollout.sampling.max_new_tokens or data.prompts_per_step, raise"
            " trainer.accumulate_grad_batches, or set model.gradient_checkpointing; the latest checkpoint is whole"
        )
    if _LOST.search(str(error)):
        return "another process of this run has ended or hangs: see what it has said; the latest checkpoint is whole"
    return None


def explain_loading(error: BaseException) -> UserError | None:
    """What a user can make of an error: the file is no checkpoint, or does not fit the model; ``None`` of others."""
    text = str(error)
    if isinstance(error, KeyError) and "pytorch-lightning_version" in text:
        return UserError(
            "the file is not the checkpoint of a run", where="ckpt_path", fix="give one that a run has saved"
        )
    if isinstance(error, ValueError) and 'ckpt_path="hpc"' in text:
        return UserError("there is no checkpoint of a preempted job", where="ckpt_path", fix="give a path, or last")
    if not isinstance(error, RuntimeError) or "Error(s) in loading state_dict" not in text:
        return None
    sizes = re.findall(r"size mismatch for (\S+): .*?torch.Size\((\[.*?\])\).*?torch.Size\((\[.*?\])\)", text)
    found = [f"{name}: checkpoint has {old}, this model has {new}" for name, old, new in sizes]
    for label, side in (("Missing", "this model alone has"), ("Unexpected", "the checkpoint alone has")):
        for names in re.findall(rf"{label} key\(s\) in state_dict: (.*?)\. *$", text, re.MULTILINE):
            found += [f"{side} {name}" for name in re.findall(r'"(.*?)"', names)]
    shown = "\n".join(f"  {line}" for line in found[:5])
    more = f"\n  and {len(found) - 5} more" if len(found) > 5 else ""
    return UserError(
        f"the checkpoint is of another model; {len(found)} entries differ:\n{shown}{more}",
        where="ckpt_path",
        fix="use the model that the run began with",
    )


def is_full(error: object) -> bool:
    """Whether a file could not be written because the disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in NO_SPACE


def interruption(error: BaseException) -> BaseException | None:
    """The request to leave that an error hides: one that arrived inside a library which then failed in its own way.

    Example:
        >>> try:
        ...     try:
        ...         raise SystemExit(143)
        ...     finally:
        ...         raise RuntimeError("unexpected pos")
        ... except RuntimeError as error:
        ...     interruption(error)
        SystemExit(143)
    """
    current: BaseException | None = error
    while current is not None and not isinstance(current, (KeyboardInterrupt, SystemExit)):
        current = current.__cause__ or current.__context__
    return current
