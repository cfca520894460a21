"""Teachers that are copies of the student, and differ in when they move."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_sdpo.functional import mix_logits
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import Scorer, scorer
from lit_sdpo.policies.teachers.base import Clock, StagePolicy, Teacher
from lit_sdpo.ranges import check_integer, check_number, check_share


class FrozenTeacher(Teacher):
    """SDPO_0 of the paper (arXiv:2607.01763): the teacher does not follow the student within a stage.

    Args:
        at_stage: ``reset_to_student`` freezes anew at each stage, as the paper's runs did, one per stage; ``keep``
            stays with the base model throughout.
        checkpoint: A model folder that is mixed into the weights at the start.
        checkpoint_share: Share of ``checkpoint`` in that mixture.
    """

    averages = False

    def __init__(
        self,
        at_stage: StagePolicy = "reset_to_student",
        checkpoint: str | None = None,
        checkpoint_share: float = 1.0,
    ) -> None:
        super().__init__(at_stage, "optimizer_step", checkpoint, checkpoint_share)


class EMATeacher(Teacher):
    """Exponential moving average: ``teacher ← (1 - update_rate) · teacher + update_rate · student``.

    Averaged in float32 whatever the student's dtype: at small rates the change of a step is lost in bfloat16.

    Args:
        update_rate: Share of the student mixed in per tick (the paper: 0.005 to 0.05; 0.05 is the one that collapses).
        at_stage: Whether the average is carried over to the next stage (``keep``) or starts again.
        clock: ``optimizer_step`` or ``rollout``.
        checkpoint: A model folder that is mixed into the weights at the start.
        checkpoint_share: Share of ``checkpoint`` in that mixture.
    """

    def __init__(
        self,
        update_rate: float = 0.05,
        at_stage: StagePolicy = "keep",
        clock: Clock = "optimizer_step",
        checkpoint: str | None = None,
        checkpoint_share: float = 1.0,
    ) -> None:
        super().__init__(at_stage, clock, checkpoint, checkpoint_share)
        self.update_rate = check_share("update_rate", update_rate)

    @property
    def hyperparameters(self) -> dict[str, float]:
        """The share mixed in per tick."""
        return {"update_rate": self.update_rate}

    def update(self, policy: PreTrainedModel) -> None:
        """Move towards the student."""
        self.weights.mix(policy, self.update_rate)


class RestartTeacher(Teacher):
    """StableSDPO (arXiv:2607.01763, section 3.1): restart and freeze.

    Every ``every`` ticks ``teacher ← (1 - mix) · teacher + mix · student``, frozen in between.

    Args:
        every: Ticks between restarts, k (the paper: 10).
        mix: Share of the student, γ (the paper: 1, a hard copy, or 0.4, which matches an EMA of 0.05 over 10 steps).
        at_stage: What happens when a stage begins; the count of ticks starts again with ``reset_to_student``.
        clock: ``optimizer_step`` or ``rollout``.
    """

    def __init__(
        self,
        every: int = 10,
        mix: float = 1.0,
        at_stage: StagePolicy = "reset_to_student",
        clock: Clock = "optimizer_step",
    ) -> None:
        super().__init__(at_stage, clock)
        self.every, self.mix = check_integer("every", every, at_least=1), check_share("mix", mix)
        self.averages = mix != 1

    @property
    def hyperparameters(self) -> dict[str, float]:
        """Ticks between restarts."""
        return {"restart_every": self.every}

    def start_stage(self, policy: PreTrainedModel) -> None:
        """Begin a stage; a teacher that starts anew also counts anew."""
        super().start_stage(policy)
        if self.at_stage != "keep":
            self.ticks.zero_()

    def update(self, policy: PreTrainedModel) -> None:
        """Restart when it is time."""
        if int(self.ticks) % self.every == 0:
            self.refresh(policy, self.mix)


class GatedTeacher(Teacher):
    """CGTR (arXiv:2606.03532): a hard copy of the student only when the student has earned it.

    Every ``check_every`` ticks the teacher is replaced if it is at least ``min_age`` ticks old, the mean score of the
    last ``window`` rollouts exceeds that at the last replacement by ``reward_gain``, and the longest of the latest
    completions is at most ``max_length_tail`` times their mean. Scores are the verifier's own, as the source's rewards
    are; further rewards do not count.

    Args:
        check_every: Ticks between checks (the source: 5).
        min_age: Ticks a teacher stays at least (the source: 30).
        reward_gain: How much the mean score has to rise (the source: 0.05).
        window: Rollouts in the mean (the source: 5).
        max_length_tail: Longest over mean completion length (the source: 3.2).
        at_stage: What happens when a stage begins; the reference score starts again unless it is ``keep``.
        clock: ``optimizer_step`` or ``rollout``.
    """

    averages = False
    rewards: Tensor
    reference: Tensor
    age: Tensor
    length_tail: Tensor

    def __init__(
        self,
        check_every: int = 5,
        min_age: int = 30,
        reward_gain: float = 0.05,
        window: int = 5,
        max_length_tail: float = 3.2,
        at_stage: StagePolicy = "reset_to_student",
        clock: Clock = "optimizer_step",
    ) -> None:
        super().__init__(at_stage, clock)
        self.check_every = check_integer("check_every", check_every, at_least=1)
        self.min_age = check_integer("min_age", min_age)
        self.reward_gain = check_number("reward_gain", reward_gain, at_least=0)
        self.max_length_tail = check_number("max_length_tail", max_length_tail, at_least=1)
        check_integer("window", window, at_least=1)
        self.register_buffer("rewards", torch.full((window,), torch.nan))
        self.register_buffer("reference", torch.tensor(torch.nan))
        self.register_buffer("age", torch.zeros((), dtype=torch.long))
        self.register_buffer("length_tail", torch.tensor(torch.nan))

    def start_stage(self, policy: PreTrainedModel) -> None:
        """Begin a stage."""
        super().start_stage(policy)
        if self.at_stage != "keep":
            self.rewards.fill_(torch.nan)
            self.reference.fill_(torch.nan)
            self.age.zero_()

    def observe(self, score: float, longest_over_mean: float) -> None:
        """Keep the latest scores; the first full window is the reference."""
        self.length_tail.fill_(longest_over_mean)
        if math.isnan(score):
            return
        self.rewards.copy_(self.rewards.roll(-1))
        self.rewards[-1] = score
        if bool(self.reference.isnan()):
            self.reference.copy_(self.rewards.mean())

    def update(self, policy: PreTrainedModel) -> None:
        """Replace the teacher if all three conditions hold."""
        self.age += 1
        if int(self.ticks) % self.check_every or int(self.age) < self.min_age:
            return
        mean = self.rewards.mean()
        if bool((mean > self.reference + self.reward_gain) & (self.length_tail <= self.max_length_tail)):
            self.refresh(policy, 1.0)
            self.reference.copy_(mean)
            self.age.zero_()


class TrustRegionTeacher(Teacher):
    """The current student, held back by a frozen reference (arXiv:2601.20802).

    ``logits = (1 - mix) · reference logits + mix · student logits``, both with the teacher's context.

    Args:
        mix: Share of the student.
        at_stage: When the reference is taken anew.
    """

    averages = False

    def __init__(self, mix: float = 0.5, at_stage: StagePolicy = "keep") -> None:
        super().__init__(at_stage)
        self.mix = check_share("mix", mix)

    def scorer(self, policy: PreTrainedModel, sequences: Sequences) -> Scorer:
        """Mix the reference's logits with the student's."""
        reference = super().scorer(policy, sequences)
        student = scorer(policy, sequences)
        return lambda span: mix_logits(reference(span), student(span), self.mix)
