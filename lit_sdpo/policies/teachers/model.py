"""A teacher that is another model."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_sdpo.errors import UserError
from lit_sdpo.policies.attention import say_once
from lit_sdpo.policies.copies import FixedWeights, SecondModel
from lit_sdpo.policies.held import adapted
from lit_sdpo.policies.load import architecture_from, load_policy, resolve
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import Scorer, head
from lit_sdpo.policies.teachers.base import Reads, Teacher
from lit_sdpo.policies.vocabulary import first_difference, tokenizer_beside

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
WHERE = "model.teacher.model_name"


class ModelTeacher(Teacher):
    """Another causal language model that reads the policy's tokens: a larger one, or a specialist of an earlier run.

    It is never trained. Checkpoints have a fingerprint in the place of its weights, which are read again on resume.
    Without a privileged context this is on-policy distillation (arXiv:2306.13649; K. Lu, "On-Policy Distillation",
    Thinking Machines, 2025): every completion is taught, with or without a verifier.

    Where the policy trains an adapter, an adapter of the same base becomes a second one beside it and takes no further
    model; beside a policy that trains all weights, all adapters of a :class:`~lit_sdpo.RoutedTeacher` share one frozen
    copy of what the policy was at the start.

    Args:
        model_name: Folder, Hub name, GGUF file, ``smollm2``, ``micro``, or a folder with a LoRA adapter over the
            policy's base.
        context: What it reads before a completion: ``question``, the student's own prompt; ``privileged``, the context
            of the method's ``reprompt``, and rows without one are not taught; ``privileged_or_question``.
        dtype: Of its weights; ``auto`` keeps what the files hold, ``bfloat16`` halves float32. An adapter has that of
            its base.

    Raises:
        UserError: It cannot be loaded, or a token of the policy is another one for it (when the policy is loaded).
    """

    averages = False
    copies_student = False
    fingerprint: Tensor

    def __init__(self, model_name: str, context: Reads = "question", dtype: Dtype = "auto") -> None:
        super().__init__()
        self.model_name, self.context, self.dtype = model_name, context, dtype
        self.model: FixedWeights
        #: Frozen copy of the policy under an adapter, where there is one.
        self.base: UnsavedModel | None = None
        self.register_buffer("fingerprint", torch.zeros((), dtype=torch.long))

    @property
    def models(self) -> list[tuple[str, str]]:
        """The model, where it is a whole one."""
        from lit_sdpo.policies.adapters import is_adapter

        return [] if is_adapter(self.model_name) else [(self.model_name, WHERE)]

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse a model to which a token of the policy means something else.

        Raises:
            UserError: With that token.
        """
        from lit_sdpo.policies.adapters import is_adapter  # PEFT takes a second to import

        name = self.model_name
        if is_adapter(name):
            return
        other = tokenizer_beside(resolve(name, WHERE))
        if other is None:
            say_once(f"the teacher {name!r} has no tokenizer: its tokens are taken to be the policy's")
        elif found := first_difference(tokenizer, other):
            theirs = "none" if found.other is None else repr(found.other)
            raise UserError(
                f"{name!r} has another vocabulary: token {found.id} is {found.own!r} for the policy, {theirs} for it",
                where=WHERE,
                fix="give a model with the policy's tokenizer",
            )

    def attach(self, policy: PreTrainedModel) -> None:
        """Load it."""
        self.attach_over(policy, None)

    def attach_over(self, policy: PreTrainedModel, base: UnsavedModel | None) -> None:
        """Load it; an adapter beside a policy that trains all weights goes over a base that may be there already.

        Args:
            policy: The loaded model.
            base: The :attr:`base` of another teacher.
        """
        from lit_sdpo.policies.adapters import NamedAdapter, is_adapter, read_adapter

        planned = policy.device.type == "meta"
        own: list[Tensor]
        if not is_adapter(self.model_name):
            loaded = UnsavedModel(_load(self.model_name, self.dtype, planned))
            self._check_size(policy, loaded)
            self.model, own = loaded, list(loaded.model.parameters())
        elif adapted(policy):
            _, name = read_adapter(policy, self.model_name, WHERE)
            self.model, own = NamedAdapter(name), []  # a checkpoint has it, as it has the policy's own
        else:
            self.base = base or UnsavedModel(_copied(policy, self.dtype))
            self.base.model, name = read_adapter(self.base.model, self.model_name, WHERE)
            self.model = NamedAdapter(name, self.base)
            weights = self.base.model.named_parameters()
            own = [p for key, p in weights if ".lora_" not in key or f".{name}." in key]
        if not planned:
            self.fingerprint.fill_(fingerprint(own))

    def _check_size(self, policy: PreTrainedModel, loaded: SecondModel) -> None:
        rows, known = len(head(loaded.model).weight), len(head(policy).weight)  # type: ignore[arg-type]
        if rows != known:
            say_once(f"{self.model_name!r} predicts {rows:,} tokens, the policy {known:,}: others are left out")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A run goes on with the teacher that it had.

        Raises:
            UserError: The model is another one by now.
        """
        saved = state_dict.get(f"{prefix}fingerprint")
        if saved is not None and int(saved) != int(self.fingerprint):
            raise UserError(
                f"{self.model_name!r} has other weights than when the checkpoint was written",
                where=WHERE,
                fix="give the model that the run began with",
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def start_stage(self, policy: PreTrainedModel) -> None:
        """It stays."""

    def refresh(self, policy: PreTrainedModel, share: float) -> None:
        """It never becomes the student.

        Raises:
            UserError: Always.
        """
        raise UserError(f"the teacher {self.model_name!r} is no copy of the student", where="model.teacher")

    def reads(self, route: str) -> Reads:
        """What ``context`` says."""
        return self.context

    def scorer(self, policy: PreTrainedModel, sequences: Sequences) -> Scorer:
        """Its predictions, over the policy's vocabulary."""
        score, width = self.model.scorer(policy, sequences), len(head(policy).weight)  # type: ignore[arg-type]
        return lambda span: resized(score(span), width)

    def measures(self, policy: PreTrainedModel, costly: bool) -> dict[str, Tensor]:
        """Nothing: it does not move, and its weights are not the student's."""
        return {}


class UnsavedModel(SecondModel):
    """A model that checkpoints leave out, as it can be read again."""

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Nothing."""
        destination: dict[str, Any] | None = args[0] if args else kwargs.get("destination")
        return {} if destination is None else destination

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """What a checkpoint lacks is what is there."""
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            state_dict.setdefault(f"{prefix}model.{name}", tensor)
        super()._load_from_state_dict(state_dict, prefix, *args)


def resized(logits: Tensor, width: int) -> Tensor:
    """Logits over a vocabulary of another size: many models pad theirs, each to a number of its own.

    Entries beyond ``width`` go; missing ones, which stand for no token, get the lowest logit of their place.

    Args:
        logits: [m, V'].
        width: V.

    Returns:
        [m, V].

    Example:
        >>> resized(torch.tensor([[1.0, 2.0]]), 3), resized(torch.tensor([[1.0, 2.0]]), 1)
        (tensor([[1., 2., 1.]]), tensor([[1.]]))
    """
    lacking = width - logits.shape[-1]
    if lacking <= 0:
        return logits[:, :width]
    return torch.cat([logits, logits.amin(-1, keepdim=True).expand(-1, lacking)], -1)


def fingerprint(tensors: Iterable[Tensor]) -> int:
    """A number that changes with any of the bits; the same on every machine.

    Args:
        tensors: In a fixed order.
    """
    total = 0
    for tensor in tensors:
        words = {2: torch.int16, 4: torch.int32}.get(tensor.element_size(), torch.uint8)
        total = (31 * total + int(tensor.detach().contiguous().view(words).sum(dtype=torch.long))) % 2**61
    return total


def _copied(policy: PreTrainedModel, dtype: Dtype) -> PreTrainedModel:
    made: Any = copy.deepcopy(policy)
    return made if dtype == "auto" else made.to(getattr(torch, dtype))  # type: ignore[no-any-return]


def _load(name: str, dtype: Dtype, planned: bool) -> PreTrainedModel:
    """The model; where a run is planned only, without reading its weights."""
    if planned and dtype == "auto":
        stored = architecture_from(resolve(name, WHERE), {}).dtype
        dtype = str(stored or torch.float32).removeprefix("torch.")  # type: ignore[assignment]
    return load_policy(name, dtype=dtype, random_weights=planned, where=WHERE)
