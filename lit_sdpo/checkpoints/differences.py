"""Two runs' configurations side by side: what differs, and which differences decide what is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from lit_sdpo.credentials import without_secrets
from lit_sdpo.errors import UserError
from lit_sdpo.text import printable

#: Keys that decide nothing that is trained: where files go, what is shown and kept.
APART = (
    "config",
    "ckpt_path",
    "weights_only",
    "samples",
    "forgetting",
    "checkpoint",
    "memory",
    "trainer.logger",
    "trainer.default_root_dir",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.enable_checkpointing",
    "trainer.enable_autolog_hparams",
    "trainer.log_every_n_steps",
    "trainer.num_sanity_val_steps",
    "trainer.limit_test_batches",
    "trainer.limit_predict_batches",
    "trainer.profiler",
    "trainer.detect_anomaly",
    "trainer.inference_mode",
    "trainer.plugins",
    "trainer.model_registry",
)
#: Keys whose new value simply goes on: they end a run, place it on other machines, or change results by rounding
#: alone; callbacks look on and do what they are told. A difference is said.
SAID = (
    "model.model_name",  # what is in the folder has fingerprints
    "model.attn_implementation",
    "model.gradient_checkpointing",
    "model.compile",
    "data.eval_batch_size",
    "rollout.engine",
    "rollout.max_prompt_tokens",
    "rollout.max_verifier_failures",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.sync_batchnorm",
    "trainer.use_distributed_sampler",
    "trainer.deterministic",
    "trainer.benchmark",
    "trainer.accumulate_grad_batches",
    "trainer.max_epochs",
    "trainer.min_epochs",
    "trainer.min_steps",
    "trainer.max_time",
    "trainer.callbacks",
)
#: Keys whose options are only said, while another class decides.
CLASSES = ("rollout.engine",)
ABSENT = "nothing"
#: Characters of a value that are shown.
LONGEST = 300
_CLASS = ("class_path", "class")


@dataclass(frozen=True)
class Difference:
    """One key with the values of both sides.

    Attributes:
        key: Dotted, without ``init_args``.
        saved: What the checkpoint has.
        now: What this run has.
    """

    key: str
    saved: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: checkpoint has {show(self.saved)}, this run has {show(self.now)}"

    def within(self, keys: Sequence[str]) -> bool:
        """Whether it is at or below one of some keys."""
        return any(self.key == key or self.key.startswith(f"{key}.") for key in keys)


@dataclass
class Differences:
    """What differs, by what is to be done about it.

    Attributes:
        refused: Decides training, and nobody has allowed it.
        allowed: Decides training, and may change.
        said: Goes on with the new value.
    """

    refused: list[Difference] = field(default_factory=list)
    allowed: list[Difference] = field(default_factory=list)
    said: list[Difference] = field(default_factory=list)

    def add(self, difference: Difference, may_change: Sequence[str]) -> None:
        """Put it where it belongs, once."""
        if difference.within(APART) or difference in [*self.refused, *self.allowed, *self.said]:
            return
        if difference.within(may_change):
            self.allowed.append(difference)
        elif difference.within(SAID) and difference.key not in CLASSES:
            self.said.append(difference)
        else:
            self.refused.append(difference)


def between(saved: Any, now: Any, *, same_release: bool = True, key: str = "") -> Iterator[Difference]:
    """All keys at which two configurations differ; another class counts once, with its options.

    Args:
        saved: What the checkpoint has.
        now: What this run has.
        same_release: Both were written by the same release; of two releases, one may have an option more.
        key: Where both stand.

    Example:
        >>> sides = [{"model": {"init_args": {"alpha": alpha}}} for alpha in (0.5, 1.0)]
        >>> print(*between(*sides))
        model.alpha: checkpoint has 0.5, this run has 1.0
    """
    if isinstance(saved, Mapping) and isinstance(now, Mapping) and _class_of(saved) == _class_of(now):
        for name in [*saved, *(name for name in now if name not in saved)]:
            if same_release or (name in saved and name in now):
                inner = key if name == "init_args" else f"{key}.{name}" if key else str(name)
                sides = saved.get(name, ABSENT), now.get(name, ABSENT)
                yield from between(*sides, same_release=same_release, key=inner)
    elif isinstance(saved, list | tuple) and isinstance(now, list | tuple) and len(saved) == len(now):
        for number, sides in enumerate(zip(saved, now, strict=True)):
            yield from between(*sides, same_release=same_release, key=f"{key}.{number}")
    elif saved != now and not (saved != saved and now != now):  # nan is no difference from nan
        yield Difference(key, saved, now)


def names(configuration: Any, key: str = "") -> Iterator[str]:
    """Every key of a configuration, branches included, as differences name them."""
    parts: Any = {}
    if isinstance(configuration, Mapping):
        parts = configuration
    elif isinstance(configuration, list | tuple):
        parts = dict(enumerate(configuration))
    for name, value in parts.items():
        inner = key if name == "init_args" else f"{key}.{name}" if key else str(name)
        yield inner
        yield from names(value, inner)


def plain_keys(keys: Sequence[str]) -> list[str]:
    """Keys as differences name them, however a user has written them.

    Example:
        >>> plain_keys(["model.optimizer.init_args.lr", "data.stages[0].steps", "model.teacher.class_path"])
        ['model.optimizer.lr', 'data.stages.0.steps', 'model.teacher']
    """
    written = (key.replace("[", ".").replace("]", "").strip() for key in keys)
    parts = ([part for part in key.split(".") if part and part != "init_args"] for key in written)
    return [".".join(some[:-1] if some[-1:] == ["class_path"] else some) for some in parts]


def check_keys(keys: Sequence[str], known: set[str]) -> None:
    """Refuse a key that no run has.

    Raises:
        UserError: Naming the closest ones.
    """
    for key in keys:
        if key not in known:
            close = get_close_matches(key, sorted(known), n=3)
            fix = f"perhaps you mean {' or '.join(close)}" if close else "use a key of the configuration"
            raise UserError(f"there is no key {key!r}", where="checkpoint.may_change", fix=fix)


def show(value: Any) -> str:
    """A value on one line, shortened where it is long; a class by its name and options.

    Example:
        >>> show({"class_path": "lit_sdpo.EMATeacher", "init_args": {"update_rate": 0.05}})
        'EMATeacher(update_rate=0.05)'
    """
    text = printable(without_secrets(_text(value)))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _text(value: Any) -> str:
    if isinstance(value, Mapping) and (name := _class_of(value)) != ABSENT:
        given = value.get("init_args") or {key: part for key, part in value.items() if key not in _CLASS}
        options = ", ".join(f"{key}={_text(part)}" for key, part in given.items())
        return f"{name.rpartition('.')[2]}({options})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_text(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return "null" if value is None else str(value)


def _class_of(value: Any) -> str:
    if not isinstance(value, Mapping):
        return ABSENT
    return str(next((value[key] for key in _CLASS if key in value), ABSENT))
