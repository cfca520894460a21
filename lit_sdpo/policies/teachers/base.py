"""What a teacher is: the contract, and the copy of the student that a teacher is unless it says otherwise."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_sdpo.errors import UserError
from lit_sdpo.policies.copies import WeightCopy, copy_of
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import Scorer
from lit_sdpo.ranges import check_share

StagePolicy = Literal["keep", "reset_to_student", "reset_to_base"]
Clock = Literal["optimizer_step", "rollout"]
Reads = Literal["question", "privileged", "privileged_or_question"]


class Teacher(nn.Module):
    """Gives the target of distillation: what the student should have predicted for each token of its own completion.

    Base of all teachers. Unless a class says otherwise a teacher is a copy of the student in :attr:`weights`, which it
    takes in memory, never from a path, so that in a later stage it starts from what the student has become. The method
    calls, in this order:

    1. :meth:`check_tokenizer` and :meth:`attach`, once, when the policy is loaded, whole and on no device yet.
    2. :meth:`check_routes`, once, before the first step.
    3. In every window of rollouts :meth:`before_rollout`; then :meth:`reads` for each row, which decides whether the
       row is taught and what the teacher's prompt is; then :meth:`observe`.
    4. For each slice of the window :meth:`scorer`, once, after the student's own forward pass.
    5. After every optimizer step :meth:`after_optimizer_step`, then :meth:`measures`.
    6. When a later stage begins, before its first rollouts, :meth:`start_stage`.

    A subclass replaces what differs. One that *moves otherwise* replaces :meth:`update`, which comes once per tick of
    the clock, and moves :attr:`weights` by ``self.weights.mix(policy, share)`` or :meth:`refresh`. One that *says
    something else* replaces :meth:`scorer`. One that *is no copy of the student* replaces :meth:`attach`,
    :meth:`scorer` and :meth:`start_stage`, and sets :attr:`copies_student` to ``False``.

    What it holds is part of the method: parameters and buffers are in every checkpoint and restored from it, moved to
    the device with the policy, counted by ``plan`` and ``doctor``, and never in the optimizer. What decides its next
    move has to be a buffer. It is always in eval mode. Where weights are divided among processes (FSDP2), all of them
    call everything equally often, so no call may depend on the data of one.

    Args:
        at_stage: What happens when a stage begins: ``keep`` goes on with the same weights, ``reset_to_student`` copies
            the student, ``reset_to_base`` goes back to the model before the first stage.
        clock: What a tick is: an ``optimizer_step``, or a ``rollout`` (all updates on the same completions). They are
            the same while rollouts are used once.
        checkpoint: A model folder that is mixed into the weights at the start.
        checkpoint_share: Share of ``checkpoint`` in that mixture, the student being the rest.

    Attributes:
        weights: The copy, from :meth:`attach` on.
        ticks: Ticks of the clock so far, int64 scalar.
        refreshes: How often :meth:`refresh` has moved the copy, int64 scalar.
    """

    #: Whether shares between 0 and 1 are mixed in again and again, so that the copy needs a float32 shadow.
    averages = True
    #: Whether it is a copy of the student, so that :meth:`refresh` can make it the student again.
    copies_student = True
    ticks: Tensor
    refreshes: Tensor
    pending: Tensor

    def __init__(
        self,
        at_stage: StagePolicy = "keep",
        clock: Clock = "optimizer_step",
        checkpoint: str | None = None,
        checkpoint_share: float = 1.0,
    ) -> None:
        super().__init__()
        check_share("checkpoint_share", checkpoint_share)
        self.at_stage, self.clock = at_stage, clock
        self.checkpoint, self.checkpoint_share = checkpoint, checkpoint_share
        self.weights: WeightCopy
        self.start: WeightCopy
        self.register_buffer("ticks", torch.zeros((), dtype=torch.long))
        self.register_buffer("refreshes", torch.zeros((), dtype=torch.long))
        self.register_buffer("pending", torch.zeros((), dtype=torch.bool))
        self._frozen = False

    # --------------------------------------------------------------------------------------------------- how it begins
    @property
    def hyperparameters(self) -> dict[str, float]:
        """Numbers that set runs apart in charts, by name: ``update_rate``, ``restart_every``."""
        return {}

    @property
    def models(self) -> list[tuple[str, str]]:
        """Whole models that it reads from files, each with the key that names it; ``doctor`` looks at them first."""
        return [] if self.checkpoint is None else [(self.checkpoint, "teacher.checkpoint")]

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Whether it reads the policy's tokens as the policy does; a copy of the student does.

        Args:
            tokenizer: The policy's.

        Raises:
            UserError: It does not; with the first token that differs.
        """

    def attach(self, policy: PreTrainedModel) -> None:
        """Get ready beside a policy: here, copy it.

        Args:
            policy: The loaded model. Without storage (on the device ``meta``) where a run is planned only; nothing may
                be read from disk then, but sizes have to be right.
        """
        self.weights = copy_of(policy, "teacher", self.averages)
        if self.checkpoint is not None and policy.device.type != "meta":
            self.weights.mix_checkpoint(self.checkpoint, self.checkpoint_share)
        if self.at_stage == "reset_to_base":
            self.start = copy_of(policy, "start", averages=False)

    def check_routes(self, tasks: Collection[str], named: Collection[str], where: str = "model.teacher") -> None:
        """Whether it can teach everything that it will be asked for; one that teaches all alike can.

        Args:
            tasks: Names of the tasks of the stream, less those of stages that name a teacher.
            named: Teachers that stages name.
            where: Key of the teacher, for messages.

        Raises:
            UserError: It has nothing to say about one of them.
        """
        for name in named:
            text = f"{type(self).__name__} has no teachers with names, and a stage names {name!r}"
            raise UserError(text, where=where, fix="use RoutedTeacher, or leave method.teacher out")

    def train(self, mode: bool = True) -> Teacher:
        """A teacher is always in eval mode."""
        return super().train(False)

    # --------------------------------------------------------------------------------------------------- when it moves
    def start_stage(self, policy: PreTrainedModel) -> None:
        """A later stage begins."""
        self.pending.zero_()
        if self.at_stage == "reset_to_student":
            self.weights.mix(policy, 1.0)
        elif self.at_stage == "reset_to_base":
            self.weights.take(policy, self.start)

    def after_optimizer_step(self, policy: PreTrainedModel) -> None:
        """The student has changed."""
        if self.clock == "optimizer_step":
            self._tick(policy)
        else:
            self.pending.fill_(True)

    def before_rollout(self, policy: PreTrainedModel) -> None:
        """New completions are about to be prepared."""
        if bool(self.pending):
            self.pending.zero_()
            self._tick(policy)

    def observe(self, score: float, longest_over_mean: float) -> None:
        """What the latest rollouts were like, over all processes; for teachers that wait for a good moment.

        Args:
            score: Mean of the verifier's own scores; nan where it scored nothing.
            longest_over_mean: Longest over mean length of the completions.
        """

    def _tick(self, policy: PreTrainedModel) -> None:
        self.ticks += 1
        if not self._frozen:
            self.update(policy)

    def update(self, policy: PreTrainedModel) -> None:
        """Follow the student at a tick of the clock, or do not: here not."""

    def refresh(self, policy: PreTrainedModel, share: float) -> None:
        """Move by ``share`` towards the student; only where it is a copy of it."""
        self.weights.mix(policy, share)
        self.refreshes += 1

    @property
    def follows(self) -> bool:
        """Whether it follows the student within a stage."""
        return type(self).update is not Teacher.update

    def freeze(self) -> None:
        """Follow the student no more within a stage. Not part of the state: who freezes it does so again on resume."""
        self._frozen = True

    # ---------------------------------------------------------------------------------------------------- what it says
    def reads(self, route: str) -> Reads:
        """What stands before a completion that it is asked about.

        ``privileged``: the context that the method's ``reprompt`` builds, with a demonstration or feedback; rows
        without either are not taught. ``question``: the student's own prompt; all rows are taught.
        ``privileged_or_question``: the context where there is one, else the prompt.

        Args:
            route: The row's task, or the teacher that its stage names.
        """
        return "privileged"

    def scorer(self, policy: PreTrainedModel, sequences: Sequences) -> Scorer:
        """What it predicts for completion tokens, without gradient.

        Args:
            policy: The student as it is now.
            sequences: N prompts as the teacher reads them, their completions, and the route of each row.

        Returns:
            From a place among the M completion tokens, in row-major order of the mask, to float32 logits [m, V] of the
            policy's vocabulary. It is called for one place after the other, so that [M, V] never exists.
        """
        return self.weights.scorer(policy, sequences)

    def distance(self, policy: PreTrainedModel) -> Tensor:
        """Relative distance ``‖student - teacher‖ / ‖teacher‖`` over the trained parameters, a scalar."""
        return self.weights.distance(policy)

    def measures(self, policy: PreTrainedModel, costly: bool) -> dict[str, Tensor]:
        """Scalars that are logged after a step as ``teacher/<name>``.

        Args:
            policy: The student as it is now.
            costly: Whether loggers get this step's values; what reads all weights need not be computed otherwise.
        """
        return ({"distance": self.distance(policy)} if costly else {}) | {"refreshes": self.refreshes.float()}
