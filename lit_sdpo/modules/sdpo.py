"""Self-distillation policy optimisation."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lit_sdpo.functional import sdpo_loss
from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.optimizers import SDPOAdamW
from lit_sdpo.policies.load import render
from lit_sdpo.policies.teachers import FrozenTeacher, Teacher
from lit_sdpo.rollouts.reprompt import Reprompt
from lit_sdpo.rollouts.types import LossBatch, Rollouts


class SDPO(OnPolicyModule):
    r"""SDPO (arXiv:2601.20802): learn, on one's own completions, from a teacher that has seen a verified sibling.

    The teacher reads the question with a correct completion of the same group (and feedback, if asked for) in its
    context, then the student's completion token for token; the student moves towards what the teacher would have said:

    .. math::
        \ell_t = D_\alpha\big(\pi(\cdot \mid x, y_{<t}),\; \pi_T(\cdot \mid x, c, y_{<t})\big)
        \cdot \min(\pi(y_t) / \pi_\text{old}(y_t),\; c_\text{max})

    A completion whose group holds no other verified one gets no context and carries no loss.

    Args:
        teacher: Which weights give the target, and when they change; ``None`` is :class:`FrozenTeacher`.
        reprompt: How the teacher's context is built; ``None`` takes the paper's templates.
        alpha: 0 is KL(teacher‖student), 1 KL(student‖teacher), between them the Jensen-Shannon form (the paper: 0.5).
        top_k: Compare on the student's k most likely tokens; ``None`` on the whole vocabulary (the paper: 100).
        tail: Add the mass outside the top-k as one bucket, as the paper does; otherwise both sides are renormalised.
        importance_clip: Largest importance weight (the paper: 2); matters when rollouts are trained on more than once.
        optimizer: From parameters to optimizer (the paper: AdamW, learning rate 1e-5, weight decay 0.01).
        **kwargs: Of :class:`OnPolicyModule`.
    """

    def __init__(
        self,
        model_name: str,
        teacher: Teacher | None = None,
        reprompt: Reprompt | None = None,
        alpha: float = 0.5,
        top_k: int | None = 100,
        tail: bool = True,
        importance_clip: float = 2.0,
        optimizer: OptimizerCallable = SDPOAdamW,
        **kwargs: Any,
    ) -> None:
        super().__init__(model_name, optimizer=optimizer, **kwargs)
        self.teacher = teacher or FrozenTeacher()
        self.reprompt = reprompt or Reprompt()
        self.alpha, self.top_k, self.tail, self.importance_clip = alpha, top_k, tail, importance_clip

    def configure_model(self) -> None:
        """Load the policy and copy it into the teacher, once."""
        if self.policy is None:
            super().configure_model()
            self.teacher.attach(self.policy)

    def on_fit_start(self) -> None:
        """The teacher is in eval mode on purpose, which Lightning would warn of."""
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")

    def on_train_epoch_start(self) -> None:
        """Begin a stage."""
        super().on_train_epoch_start()
        if self.trainer.current_epoch > 0:
            self.teacher.start_stage(self.policy)

    def after_optimizer_step(self) -> None:
        """Let the teacher follow."""
        self.teacher.after_optimizer_step(self.policy)
        self.log("teacher/distance", self.teacher.distance(self.policy), batch_size=1)
        self.log("teacher/refreshes", self.teacher.refreshes.float(), batch_size=1)

    def prepare_rollouts(self, rollouts: Rollouts) -> LossBatch:
        """Choose demonstrations and build the teacher's prompts."""
        self._tell_teacher(rollouts)
        contexts = self.reprompt.contexts(rollouts, self.tokenizer, self.chat_template_options)
        prompts = [None if messages is None else self._render(messages) for messages in contexts.messages]
        known = torch.tensor([prompt is not None for prompt in prompts], device=rollouts.rewards.device)
        self.log("sdpo/context_fraction", known.float().mean(), batch_size=1)
        self.log("sdpo/demonstration_truncated", float(contexts.truncated), batch_size=1)
        return LossBatch.of(
            rollouts,
            teacher_prompt_ids=prompts,
            active=rollouts.completion_mask & known[:, None],
            contributes=known,
        )

    def _tell_teacher(self, rollouts: Rollouts) -> None:
        self.teacher.before_rollout(self.policy)
        rewards, lengths = rollouts.rewards, rollouts.completions.lengths.float()
        sums = torch.stack([rewards.nansum(), (~rewards.isnan()).sum(), lengths.sum(), lengths.new_tensor(len(lengths))])
        reduce = self.trainer.strategy.reduce
        reward, judged, tokens, rows = reduce(sums, reduce_op="sum").tolist()
        longest = reduce(lengths.max(), reduce_op="max").item()
        self.teacher.observe(reward / max(judged, 1), longest * rows / tokens)

    def token_losses(self, batch: LossBatch) -> Tensor:
        """Divergence from the teacher per token, [M]."""
        mask = batch.completion_mask
        student = self.token_logits(batch)
        teacher = self._teacher_logits(batch)
        ids = batch.completion_ids[mask]
        logprobs = torch.log_softmax(student.detach(), -1).gather(-1, ids[:, None])[:, 0]
        old = logprobs if batch.fresh else batch.old_logprobs[mask]
        losses = sdpo_loss(
            student,
            teacher,
            ids,
            alpha=self.alpha,
            top_k=self.top_k if self.top_k and self.top_k < student.shape[-1] else None,
            tail=self.tail,
            old_logprobs=old,
            importance_clip=self.importance_clip,
        )
        self.tally_mean("sdpo/divergence", losses, batch)
        self.tally_mean("sdpo/importance_weight", (logprobs - old).exp().clamp(max=self.importance_clip), batch)
        return losses

    def _teacher_logits(self, batch: LossBatch) -> Tensor:
        prompts = [
            own if given is None else given
            for own, given in zip(batch.prompt_ids, batch.teacher_prompt_ids or (), strict=True)
        ]
        out = self.teacher.logits(self.policy, prompts, batch.completion_ids, batch.completion_mask)
        return out / (batch.temperature or 1.0)

    def _render(self, messages: Any) -> list[int]:
        return render(self.tokenizer, messages, self.chat_template_options)
