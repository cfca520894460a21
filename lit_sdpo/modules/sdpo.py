"""Self-distillation policy optimisation."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lit_sdpo.data.task import Task
from lit_sdpo.errors import UserError
from lit_sdpo.functional import sdpo_loss
from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.modules.grpo import PolicyGradient
from lit_sdpo.modules.objective import Term, Tokens, scored_rows
from lit_sdpo.modules.tilt import Tilt
from lit_sdpo.optimizers import SDPOAdamW
from lit_sdpo.policies.attention import say_once
from lit_sdpo.policies.copies import copy_of
from lit_sdpo.policies.held import adapted
from lit_sdpo.policies.masters import is_rounded, trained
from lit_sdpo.policies.teachers import FrozenTeacher, Teacher
from lit_sdpo.ranges import check_integer, check_number, check_share
from lit_sdpo.rollouts.reprompt import Reprompt
from lit_sdpo.rollouts.sampling import uniforms
from lit_sdpo.rollouts.teacher_prompts import SOURCES, TeacherPrompts, teacher_prompts
from lit_sdpo.rollouts.types import LossBatch, Rollouts, TermTokens


class Distillation(Term):
    r"""Move the student towards what the teacher predicts for the student's own completion.

    .. math::
        \ell_t = D_\alpha\big(\pi(\cdot \mid x, y_{<t}),\; \pi_T(\cdot \mid x, c, y_{<t})\big)
        \cdot \min(\pi(y_t) / \pi_\text{old}(y_t),\; c_\text{max})

    times the token's weight for the difference between engine and policy, 1 where the policy itself sampled. Subclasses
    change one thing each: the rows (:meth:`row_weights`), the target (:meth:`target`) or the divergence
    (:meth:`divergence`).

    Args:
        alpha: 0 is KL(teacher‖student), 1 KL(student‖teacher), between them the Jensen-Shannon form.
        top_k: Compare on the student's k most likely tokens; ``None`` on the whole vocabulary.
        tail: Add the mass outside the top-k as one bucket; otherwise both sides are renormalised.
        importance_clip: Largest ratio of the policy to what it was before the window's first update.
        token_mask: Share of tokens that are left out at random, in the loss and in its denominator.
        coefficient: Factor in the loss.
        tilt: Aim between the policy at the stage's start and the target; ``None`` aims at the target itself.
    """

    name = "distillation"
    begun: Tensor

    def __init__(
        self,
        alpha: float = 0.5,
        top_k: int | None = 100,
        tail: bool = True,
        importance_clip: float = 2.0,
        token_mask: float = 0.0,
        coefficient: float = 1.0,
        tilt: Tilt | None = None,
    ) -> None:
        super().__init__(coefficient)
        self.tilt = tilt
        self.alpha, self.tail = check_share("alpha", alpha), tail
        self.top_k = check_integer("top_k", top_k, at_least=1, optional=True)
        self.importance_clip = check_number("importance_clip", importance_clip, above=0)
        self.token_mask = check_number("token_mask", token_mask, at_least=0, below=1)

    def attach(self, module: OnPolicyModule) -> None:
        """Keep what a tilted target begins with."""
        if self.tilt is not None:
            self.reference = copy_of(module.policy, "reference", averages=False)
            self.register_buffer("begun", torch.zeros((), dtype=torch.long))

    def start_stage(self, module: OnPolicyModule) -> None:
        """What a tilted target begins with is the policy of now."""
        if self.tilt is not None:
            self.reference.mix(module.policy, 1.0)
            self.begun.fill_(module.global_step)

    def prepare(self, rollouts: Rollouts, batch: LossBatch, module: OnPolicyModule) -> TermTokens:
        """Rows whose teacher has something to tell, less the tokens that are masked at random.

        Where it is told more than the student, the verifier has to have scored the row.
        """
        device = rollouts.rewards.device
        known = torch.tensor([prompt is not None for prompt in batch.teacher_prompt_ids or []], device=device)
        alike = torch.tensor([source == "question" for source in batch.teacher_sources], device=device)
        known = known & (scored_rows(rollouts) | alike)
        weights = self.row_weights(rollouts, known, module)
        known = known if weights is None else known & (weights != 0)
        active = batch.completion_mask & known[:, None]
        if self.token_mask:
            places = torch.arange(active.shape[1], device=active.device)
            # ~seed: a stream of its own beside the sampler's, as independent of the layout.
            active = active & (uniforms(~rollouts.seeds[:, None], places) >= self.token_mask)
        return TermTokens(active=active, contributes=active.any(1), scale=weights)

    def losses(self, tokens: Tokens, part: TermTokens) -> Tensor:
        """The divergence, times the bounded importance weight."""
        tokens.target = self.target(tokens)
        if self.tilt is not None:
            tokens.target = self._tilted(self.tilt, tokens, part)
        losses = self.divergence(tokens)
        ratio = tokens.importance(self.importance_clip)
        module = tokens.slice.module
        module.tally_mean("sdpo/divergence", losses, tokens, part)
        module.tally_mean("sdpo/importance_weight", ratio, tokens, part)
        return losses * ratio

    def row_weights(self, rollouts: Rollouts, known: Tensor, module: OnPolicyModule) -> Tensor | None:
        """Weight of each row, [N]; 0 leaves it out. ``None`` weighs all alike."""
        return None

    def target(self, tokens: Tokens) -> Tensor:
        """Logits of the target, [m, V]."""
        return tokens.teacher_logits

    def _tilted(self, tilt: Tilt, tokens: Tokens, part: TermTokens) -> Tensor:
        module = tokens.slice.module
        reference, step = tokens.logits_of(self.reference), module.global_step - int(self.begun)
        found = tilt.target(reference, tokens.target, step, tokens.of(part.weights) != 0)
        module.tally_mean("sdpo/inverse_beta", found.inverse_beta, tokens, part)
        module.tally_mean("sdpo/target_divergence", found.divergence, tokens, part)
        return found.logprobs

    def divergence(self, tokens: Tokens) -> Tensor:
        """Divergence of each token from ``tokens.target``, [m]."""
        top_k = self.top_k if self.top_k and self.top_k < tokens.logits.shape[-1] else None
        return sdpo_loss(tokens.logits, tokens.target, alpha=self.alpha, top_k=top_k, tail=self.tail)


class SDPO(OnPolicyModule):
    r"""SDPO (arXiv:2601.20802): learn, on one's own completions, from a teacher that has seen a verified sibling.

    The teacher reads the question with a correct completion of the same group (and feedback, if asked for) in its
    context, then the student's completion token for token; the student moves towards what the teacher would have said:

    .. math::
        \ell_t = D_\alpha\big(\pi(\cdot \mid x, y_{<t}),\; \pi_T(\cdot \mid x, c, y_{<t})\big)
        \cdot \min(\pi(y_t) / \pi_\text{old}(y_t),\; c_\text{max})

    Verified is what the task's verifier scored at least ``reprompt.success_threshold``, whatever further rewards say. A
    completion whose group holds no other verified one gets no context and carries no loss.

    Args:
        teacher: Which weights give the target, and when they change; ``None`` is :class:`FrozenTeacher`.
        reprompt: How the teacher's context is built; ``None`` takes the paper's templates.
        alpha: 0 is KL(teacher‖student), 1 KL(student‖teacher), between them the Jensen-Shannon form (the paper: 0.5).
        top_k: Compare on the student's k most likely tokens; ``None`` on the whole vocabulary (the paper: 100).
        tail: Add the mass outside the top-k as one bucket, as the paper does; otherwise both sides are renormalised.
        importance_clip: Largest ratio of the policy to what it was before the window's first update (the paper: 2);
            matters when rollouts are trained on more than once.
        token_mask: Share of response tokens left out at random (the paper's ablation: 0.25, 0.5, 0.75).
        tilt: Aim between the policy at the stage's start and the teacher; ``None`` aims at the teacher.
        outcome_coefficient: Factor of an added policy-gradient term on the rewards' advantages; 0 adds none.
        optimizer: From parameters to optimizer (the paper: AdamW, learning rate 1e-5, weight decay 0.01).
        **kwargs: Of :class:`OnPolicyModule`.
    """

    has_teacher = True
    #: The term; variants of SDPO name their own.
    distillation = Distillation

    def __init__(
        self,
        model_name: str,
        teacher: Teacher | None = None,
        reprompt: Reprompt | None = None,
        alpha: float = 0.5,
        top_k: int | None = 100,
        tail: bool = True,
        importance_clip: float = 2.0,
        token_mask: float = 0.0,
        tilt: Tilt | None = None,
        outcome_coefficient: float = 0.0,
        optimizer: OptimizerCallable = SDPOAdamW,
        **kwargs: Any,
    ) -> None:
        check_number("outcome_coefficient", outcome_coefficient, at_least=0)
        super().__init__(model_name, optimizer=optimizer, **kwargs)
        self.teacher = teacher or FrozenTeacher()
        self.reprompt = reprompt or Reprompt()
        self.add_term(self.distillation(alpha, top_k, tail, importance_clip, token_mask, tilt=tilt))
        if outcome_coefficient:
            self.add_term(PolicyGradient(coefficient=outcome_coefficient))

    def attach_copies(self) -> None:
        """Get the teacher ready too."""
        super().attach_copies()
        if self.policy.device.type != "meta":  # a run that is planned only reads no files of its teachers
            self.teacher.check_tokenizer(self.tokenizer)
        self.teacher.attach(self.policy)

    def on_fit_start(self) -> None:
        """Find out whether the teacher can teach this stream, and average what the precision has made of the weights.

        Raises:
            UserError: A task has no teacher or no column of demonstrations, or the weights are adapters in bfloat16 or
                float16, which have no float32 average beside them.
        """
        super().on_fit_start()
        self._check_stages()
        adapters = adapted(self.policy)
        if adapters and self.teacher.averages and any(map(is_rounded, trained(self.policy))):
            raise UserError(
                f"{type(self.teacher).__name__} averages adapters, and small shares are lost in their rounding",
                where="trainer.precision",
                fix="set it to 32-true or bf16-mixed; under model.dtype: bfloat16 adapters are float32",
            )

    def _check_stages(self) -> None:
        told: dict[str, list[Task]] = {}
        for stage in self.stages:
            if not stage.changes.takes_part(Distillation.name):
                continue
            named = stage.changes.teacher
            for task in stage.task.parts:
                told.setdefault(task.name if named is None else named, []).append(task)
        if told:
            asked = {stage.changes.teacher for stage in self.stages if stage.changes.teacher is not None}
            self.teacher.check_routes([route for route in told if route not in asked], sorted(asked))
        for route, tasks in told.items():
            for task in tasks if self.teacher.reads(route) != "question" else ():
                self.reprompt.check_rows(task)

    def on_train_epoch_start(self) -> None:
        """Begin a stage."""
        super().on_train_epoch_start()
        if self.trainer.current_epoch > 0:
            self.teacher.start_stage(self.policy)

    def after_optimizer_step(self) -> None:
        """Let the teacher follow."""
        self.teacher.after_optimizer_step(self.policy)
        for name, value in self.teacher.measures(self.policy, costly=self.log_due).items():
            self.log(f"teacher/{name}", value, batch_size=1)

    def prepare_rollouts(self, rollouts: Rollouts) -> LossBatch:
        """Choose demonstrations, build the teacher's prompts, then let the terms prepare."""
        self.teacher.before_rollout(self.policy)
        prompts = self._told(rollouts)
        self._observe(rollouts, prompts)
        return self.prepare_terms(rollouts, self._batch(rollouts, prompts))

    def loss_batch(self, rollouts: Rollouts) -> LossBatch:
        """The rows with what the teacher reads before each."""
        return self._batch(rollouts, self._told(rollouts))

    def _told(self, rollouts: Rollouts) -> TeacherPrompts | None:
        return self.teacher_prompts(rollouts) if self.takes_part(Distillation.name) else None

    def _batch(self, rollouts: Rollouts, prompts: TeacherPrompts | None) -> LossBatch:
        batch = LossBatch.of(rollouts)
        if prompts is not None:
            batch.teacher_prompt_ids, batch.teacher_sources = prompts.ids, prompts.sources
            batch.routes = self.routes(rollouts)
        return batch

    def routes(self, rollouts: Rollouts) -> list[str]:
        """Which teacher each row is for: the one that the stage names, or that of its task."""
        named, tasks = self.stage_changes.teacher, rollouts.tasks or [""] * len(rollouts.rows)
        return [task if named is None else named for task in tasks for _ in range(rollouts.num_generations)]

    def teacher_prompts(self, rollouts: Rollouts) -> TeacherPrompts:
        """What the teacher reads before each completion."""
        reads = [self.teacher.reads(route) for route in self.routes(rollouts)]
        return teacher_prompts(rollouts, self.reprompt, reads, self.tokenizer, self.chat_template_options)

    def _observe(self, rollouts: Rollouts, prompts: TeacherPrompts | None) -> None:
        """Log how many rows have a context and tell the teacher how the rollouts went, both over all ranks."""
        own = rollouts.own
        scores, lengths = rollouts.scores[own], rollouts.completions.lengths[own].float()
        sources = [] if prompts is None else [n for n, mine in zip(prompts.sources, own.tolist(), strict=True) if mine]
        shortened = 0 if prompts is None else prompts.truncated
        counts = lengths.new_tensor([len(lengths), shortened, *(sources.count(source) for source in SOURCES)])
        sums = torch.stack([scores.nansum(), (~scores.isnan()).sum(), lengths.sum(), *counts])
        reduce = self.trainer.strategy.reduce
        both = torch.cat([reduce(sums, reduce_op="sum"), reduce(lengths.max(), reduce_op="max")[None]])
        score, scored, tokens, rows, shortened, *found, longest = both.tolist()
        if prompts is not None:
            shares = {source: count / rows for source, count in zip(SOURCES, found, strict=True)}
            self.log("sdpo/context_fraction", (rows - found[SOURCES.index("none")]) / rows, batch_size=1)
            self.log("sdpo/demonstration_truncated", shortened, batch_size=1)
            for source, share in shares.items():
                self.log(f"sdpo/context_source/{source}", share, batch_size=1)
            if not scored and shares["question"] == 0 and self.trainer.is_global_zero:
                say_once(
                    "the verifier scored no completion of a step, so nothing is distilled in it: further rewards make"
                    " no success; let the task's verify return a score"
                )
        self.teacher.observe(score / scored if scored else math.nan, longest * rows / tokens)
