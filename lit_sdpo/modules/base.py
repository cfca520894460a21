"""What all methods share: the policy, one weighted loss per slice, the optimizer step, the logs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer
from transformers import PreTrainedModel

from lit_sdpo.data.base import stream_of
from lit_sdpo.data.batch import PromptBatch
from lit_sdpo.data.task import Stage, StageMethod
from lit_sdpo.errors import UserError, explained
from lit_sdpo.modules.continual_mopd import ContinualMOPD
from lit_sdpo.modules.contract import RolloutModule
from lit_sdpo.modules.logit_memory import logit_bytes
from lit_sdpo.modules.objective import Replay, Slice, Term, Tokens
from lit_sdpo.modules.prompt_anchor import PromptAnchor
from lit_sdpo.modules.weight_penalty import WeightPenalty
from lit_sdpo.optimizers import PaperAdamW, WarmupConstant
from lit_sdpo.policies.chat import check_template
from lit_sdpo.policies.copies import SecondModel
from lit_sdpo.policies.fitting import check_finite
from lit_sdpo.policies.load import Lora, check_vocabulary, load_policy, load_tokenizer
from lit_sdpo.policies.masters import (
    MasterWeights,
    exact_values,
    is_rounded,
    say_what_is_rounded,
    set_values,
    trained,
    what_moves,
)
from lit_sdpo.policies.moved import MovedShare
from lit_sdpo.policies.scoring import weighted_loss
from lit_sdpo.policies.sharding import is_sharded, release, shard, whole
from lit_sdpo.policies.train_only import TrainOnly
from lit_sdpo.ranges import check_number, check_optimizer
from lit_sdpo.rollouts.types import LossBatch, Rollouts, TermTokens

Aggregation = Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum"]


class OnPolicyModule(RolloutModule):
    """A policy that learns from batches which :class:`~lit_sdpo.callbacks.RolloutCallback` has filled.

    A method is one or more terms (:class:`~lit_sdpo.modules.objective.Term`). The loss of a step is
    ``Σ_terms coefficient · Σ_tokens weights · losses`` over all active tokens of the window, all slices and all ranks,
    so it does not depend on how the step is cut up. Optimisation is Lightning's automatic one:
    ``accumulate_grad_batches``, ``gradient_clip_val``, ``precision`` and ``strategy`` of the Trainer work as usual.

    Args:
        model_name: Model folder, Hub name, or ``micro`` for the small model of the package.
        optimizer: From parameters to optimizer (the paper: AdamW, weight decay 0.01, learning rate 1e-6 for GRPO and
            1e-5 for SDPO).
        scheduler: From optimizer to learning-rate scheduler, stepped once per optimizer step (the paper: 10 steps of
            linear warm-up).
        reset_optimizer: Begin every stage with a new optimizer state and the first learning rate of the schedule; the
            paper trains each stage as a run of its own.
        aggregation: How token losses become one number: ``token_mean`` over all active tokens of the step,
            ``seq_mean_token_mean`` or ``seq_mean_token_sum`` over the rows.
        lora: Adapters instead of full-parameter training (the paper trains all parameters).
        dtype: Of the weights; ``auto`` keeps what the files hold.
        float32_masters: Of trained weights in bfloat16 or float16 the optimizer keeps and moves float32 copies, and the
            weights are these rounded. Without them a step below a weight's rounding is lost, as nearly all are at a
            learning rate of 1e-6, and 12 bytes a weight are saved. Nothing changes for weights in float32.
        attn_implementation: As in Transformers; ``None`` lets it choose.
        gradient_checkpointing: Recompute activations in the backward pass.
        compile: Run the decoder layers of policy and teacher through ``torch.compile`` in updates, attention apart; it
            needs a C++ compiler and takes a minute at the first step. Sampling and checkpoints do not change.
        train_only: Which parameters train, by pattern; ``None`` trains all, or all of the adapters.
        weight_anchor: Hold the parameters that mattered for past stages (:class:`WeightAnchor`, :class:`OnlineEWC`);
            ``None`` holds nothing.
        replay_coefficient: Factor of the term that learns from verified completions to earlier tasks' prompts; needs
            the data module's ``replay_share``.
        prompt_anchor_coefficient: Factor of the term that holds the policy to that of the stage's start on the same
            prompts' completions (:class:`PromptAnchor`); needs ``replay_share`` too.
        continual_mopd_coefficient: Factor of the term in which the specialists of finished stages teach their own tasks
            (:class:`ContinualMOPD`); needs ``replay_share`` too.
        chat_template_options: Further arguments of the chat template, such as ``enable_thinking``.
        random_weights: Take the architecture only and begin with random weights.
        config_overrides: Values of the model's configuration that are replaced, with ``random_weights``.
        trust_remote_code: Run Python code that lies beside the model, where its architecture or tokenizer is no part of
            Transformers. It may do whatever you may: read it first. A warning names the folder.

    Raises:
        UserError: The model or its tokenizer cannot be used.
    """

    #: Whether it learns from a teacher.
    has_teacher = False

    def __init__(
        self,
        model_name: str,
        optimizer: OptimizerCallable = PaperAdamW,
        scheduler: LRSchedulerCallable | None = WarmupConstant,
        reset_optimizer: bool = True,
        aggregation: Aggregation = "token_mean",
        lora: Lora | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32",
        float32_masters: bool = True,
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
        compile: bool = False,
        train_only: TrainOnly | None = None,
        weight_anchor: WeightPenalty | None = None,
        replay_coefficient: float = 0.0,
        prompt_anchor_coefficient: float = 0.0,
        continual_mopd_coefficient: float = 0.0,
        chat_template_options: dict[str, Any] | None = None,
        random_weights: bool = False,
        config_overrides: dict[str, Any] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        check_number("replay_coefficient", replay_coefficient, at_least=0)
        check_number("prompt_anchor_coefficient", prompt_anchor_coefficient, at_least=0)
        check_number("continual_mopd_coefficient", continual_mopd_coefficient, at_least=0)
        if lora is not None and lora.dropout and self.learns_from == "policy":
            raise UserError(
                "with dropout in its adapters the policy that learns is not the one that sampled",
                where="model.lora.dropout",
                fix="set it to 0; SFT, which samples nothing, takes it",
            )
        self.optimizer, self.scheduler, self.reset_optimizer = optimizer, scheduler, reset_optimizer
        self.aggregation, self.float32_masters = aggregation, float32_masters
        self.chat_template_options = chat_template_options
        self._load: Callable[[], PreTrainedModel] = lambda: load_policy(
            model_name,
            dtype=dtype,
            attn_implementation=attn_implementation,
            gradient_checkpointing=gradient_checkpointing,
            compile=compile,
            lora=lora,
            random_weights=random_weights,
            config_overrides=config_overrides,
            trust_remote_code=trust_remote_code,
        )
        self.tokenizer = load_tokenizer(model_name, trust_remote_code)
        check_template(self.tokenizer, chat_template_options)
        self.policy = None
        self.terms: Any = nn.ModuleDict()
        self.train_only, self.weight_anchor = train_only, weight_anchor
        if replay_coefficient:
            self.add_term(Replay(replay_coefficient))
        if prompt_anchor_coefficient:
            self.add_term(PromptAnchor(prompt_anchor_coefficient))
        if continual_mopd_coefficient:
            self.add_term(ContinualMOPD(continual_mopd_coefficient))
        self._skip = False
        self._as_stage: int | None = None
        self._expected: Sequence[Stage] = ()
        self._tally: dict[str, Tensor] = {}
        self._masters: MasterWeights | None = None
        self._moved: MovedShare | None = None

    # ---------------------------------------------------------------------------------------------------- the method
    @property
    def learns_from_replay(self) -> bool:
        """Whether there is a term of replay."""
        return any(term.replays for term in self.terms.values())

    def add_term(self, term: Term) -> None:
        """Add a term to the objective; its name is that of its part of the batch.

        Raises:
            UserError: There is a term of this name.
        """
        if term.name in self.terms:
            raise UserError(
                f"{type(self).__name__} already has a term {term.name!r}", where="model", fix="leave the option out"
            )
        self.terms[term.name] = term

    def prepare_rollouts(self, rollouts: Rollouts) -> LossBatch:
        """Turn the scored rollouts of a window into what the terms need."""
        return self.prepare_terms(rollouts, self.loss_batch(rollouts))

    def loss_batch(self, rollouts: Rollouts) -> LossBatch:
        """The rows as losses read them, without a term yet; nothing of the method changes by it."""
        return LossBatch.of(rollouts)

    def prepare_terms(self, rollouts: Rollouts, batch: LossBatch) -> LossBatch:
        """Let each term that the stage trains on add its part."""
        if self.weight_anchor is not None:
            self.weight_anchor.observe(rollouts, batch)
        for name, term in self.terms.items():
            batch.parts[name] = term.prepare(rollouts, batch, self) if self.takes_part(name) else TermTokens.none(batch)
        return batch

    # -------------------------------------------------------------------------------------------------------- the stage
    @property
    def stages(self) -> Sequence[Stage]:
        """The stream that is trained on; empty where the data module has none, or nobody has said."""
        return stream_of(self._trainer).stages if self._trainer is not None else self._expected

    def expect(self, stages: Sequence[Stage]) -> None:
        """Say what will be trained on where ``configure_model`` is called without a Trainer: copies go by it."""
        self._expected = stages

    @property
    def stage_changes(self) -> StageMethod:
        """What the current stage changes about the method."""
        if not (stages := self.stages):
            return StageMethod()
        stage = self.trainer.current_epoch if self._as_stage is None else self._as_stage
        return stages[min(stage, len(stages) - 1)].changes  # after the last it stands behind it

    @contextmanager
    def as_in_stage(self, index: int) -> Iterator[None]:
        """The objective is that of a stage inside, for a look at other rows than a step's; nothing is tallied of it."""
        before = self._as_stage, self._tally
        self._as_stage, self._tally = index, {}
        try:
            yield
        finally:
            self._as_stage, self._tally = before

    def takes_part(self, term: str) -> bool:
        """Whether the current stage trains on a term."""
        return self.stage_changes.takes_part(term)

    def _check_changes(self) -> None:
        known = ", ".join(self.terms)
        for number, stage in enumerate(self.stages):
            where, changes = f"data.stages[{number}].method", stage.changes
            if unknown := [name for name in changes.terms if name not in self.terms]:
                text = f"{type(self).__name__} has no term {unknown[0]!r} with these options"
                raise UserError(text, where=f"{where}.terms", fix=f"use some of: {known}")
            if not any(changes.takes_part(name) for name in self.terms):
                raise UserError("a stage without a term learns nothing", where=f"{where}.terms", fix="leave one in")
            if changes.teacher is not None and not self.has_teacher:
                text = f"{type(self).__name__} has no teacher"
                raise UserError(text, where=f"{where}.teacher", fix="leave it out")
            if changes.lr is not None and not self.reset_optimizer:
                fix = "set it to true, so that each stage begins a schedule of its own"
                raise UserError("a stage has a learning rate of its own", where="model.reset_optimizer", fix=fix)

    def penalty(self) -> Tensor | None:
        """What the loss says about the weights rather than about tokens; counted once per step."""
        if self.weight_anchor is None:
            return None
        return self.weight_anchor.penalty(self.policy, self.exact_weights)

    @property
    def exact_weights(self) -> list[Tensor]:
        """The trained weights, where they have float32 masters these."""
        return exact_values(self.policy, self._masters)

    def set_exact_weights(self, values: Sequence[Tensor]) -> None:
        """Give the trained weights, and their masters, other values; in the order of :attr:`exact_weights`."""
        set_values(self.policy, self._masters, values)

    # ------------------------------------------------------------------------------------------------------- Lightning
    def configure_model(self) -> None:
        """Load the policy and copy it into whatever needs a copy, once; then divide both among the processes.

        Raises:
            UserError: The model cannot be used, or the strategy asks for tensor parallelism.
        """
        if self.policy is None:
            self.policy = self._load()
            check_vocabulary(self.policy, self.tokenizer)
            self.policy.train()
            self.attach_copies()
            if self.train_only is not None:  # a copy of an adapter makes PEFT choose anew what trains
                self.train_only.apply(self.policy)
            self._attach_anchor()
        if self.device_mesh is not None and not is_sharded(self.policy):
            self._shard(self.device_mesh)

    def attach_copies(self) -> None:
        """The policy is loaded and whole: the time to copy it."""
        for term in self.terms.values():
            term.attach(self)

    def _attach_anchor(self) -> None:
        if self.weight_anchor is not None:
            self.weight_anchor.attach(self.policy)

    def _shard(self, mesh: DeviceMesh) -> None:
        if mesh["tensor_parallel"].size() > 1:
            raise UserError(
                "weights are divided among all processes alike, without tensor parallelism",
                where="trainer.strategy.init_args.tensor_parallel_size",
                fix=f"set it to 1, and data_parallel_size to {mesh.size()}",
            )
        shard(self.policy, mesh["data_parallel"])
        for part in self._copies():
            part.shard(mesh["data_parallel"])
        self._attach_anchor()

    def _copies(self) -> list[SecondModel]:
        return [part for part in self.modules() if isinstance(part, SecondModel)]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that are not finite; what is missing or of another shape is refused as they are loaded.

        Raises:
            UserError: With the first names.
        """
        saved = checkpoint.get("state_dict", {})
        weights = [(name, saved[name]) for name, _ in self.named_parameters() if name in saved]
        check_finite(weights, "ckpt_path", "go on from an earlier checkpoint")

    def on_fit_start(self) -> None:
        """Teachers and bases are in eval mode on purpose, which Lightning would warn of."""
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")
        say_what_is_rounded(self.policy, self.float32_masters)
        self._check_changes()

    def configure_optimizers(self) -> Any:
        """Build the optimizer and the scheduler from their callables.

        Raises:
            UserError: One of them cannot be built, or its numbers are out of range.
        """
        release(self.policy)
        with explained("the optimizer cannot be built", where="model.optimizer", fix="mend its options"):
            optimizer = self.optimizer((n, p) for n, p in self.policy.named_parameters() if p.requires_grad)
        check_optimizer(optimizer)
        if (rate := self.stage_changes.lr) is not None:
            first = optimizer.param_groups[0]["lr"]
            for group in optimizer.param_groups:
                group["lr"] = rate * (group["lr"] / first) if first else rate
        kept = self.float32_masters and any(map(is_rounded, trained(self.policy)))
        self._masters = MasterWeights(optimizer, self._masters) if kept else None
        if self.scheduler is None:
            return optimizer
        with explained("the schedule cannot be built", where="model.scheduler", fix="mend its options"):
            scheduler = self.scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Begin a stage."""
        self._tally = {}  # of a step that was cut, whose slices are no part of the next one
        if self.trainer.current_epoch == 0:
            return
        if self.reset_optimizer:
            self.trainer.strategy.setup_optimizers(self.trainer)
        for term in self.terms.values():
            term.start_stage(self)
        if self.weight_anchor is not None:
            self.weight_anchor.start_stage(self.policy, self.exact_weights)

    def on_train_epoch_end(self) -> None:
        """End a stage, after the callbacks have decided which weights it hands on and before it is saved."""
        if self.weight_anchor is not None and self.trainer.is_last_batch:  # else it was stopped inside the stage
            self.weight_anchor.end_stage(self)

    def training_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:
        """The loss of one slice, scaled so that the step's gradient is that of the whole window."""
        rows: LossBatch = batch.loss  # type: ignore[assignment]
        self._skip = batch.contributing_rows == 0
        release(self.policy)  # the penalty is about the parameters that the optimizer has
        penalty = self.penalty() if batch.slot == 0 else None
        loss = self.slice_loss(rows)
        if penalty is not None:
            penalty = penalty / self.trainer.world_size  # every rank has it, and ranks are summed
            self.tally("train/penalty", penalty)
            loss = loss + penalty
        self.tally("train/loss", loss)
        if batch.slot == batch.slots - 1:
            self._log_tally()
        # Lightning divides by the slots, and distributed strategies average over the ranks.
        return loss * batch.slots * self.trainer.world_size

    def slice_loss(self, rows: LossBatch) -> Tensor:
        """What all terms of the stage say of some rows whose tokens have their weights, a scalar with gradient."""
        slice_ = Slice(self, rows)
        changes = self.stage_changes
        factors = {
            name: term.factor(self.global_step) * changes.terms.get(name, 1.0)
            for name, term in self.terms.items()
            if changes.takes_part(name)
        }

        def token_losses(logits: Tensor, span: slice) -> Tensor:
            tokens = Tokens(slice_, span, logits)
            tokens.meet_first()
            return self.token_losses(tokens, rows.parts, factors)

        if any(self.terms[name].whole_rows for name in factors):
            slice_.read_rows()
        loss = weighted_loss(self.policy, slice_.hidden, token_losses)
        for part in self._copies():
            part.release()
        return loss

    def token_losses(self, tokens: Tokens, parts: dict[str, TermTokens], factors: dict[str, float]) -> Tensor:
        """The weighted losses of some tokens, summed over the terms that have a factor, [m]."""
        total = torch.zeros(len(tokens.ids), device=tokens.logits.device)
        for name, factor in factors.items():
            weight = tokens.of(parts[name].weights)
            losses = torch.where(weight != 0, weight * self.terms[name].losses(tokens, parts[name]), 0.0)
            self.tally(f"train/loss/{name}", losses.sum())
            total = total + factor * losses
        return total

    def logit_bytes(self, temperature: float) -> int:
        """Bytes of one token's logits in a loss, with all that it makes of them."""
        return logit_bytes(self, temperature)

    def validation_step(self, batch: PromptBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Nothing to do: the rollout callback has generated and scored."""

    test_step = validation_step

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip, unless there is no gradient: torch does not clip the values of none."""
        if not self._skip:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Take the step, unless no row of the window contributes: momentum and weight decay must not move then."""

        def closure() -> Any:
            loss = optimizer_closure()
            if self._skip:  # optimizers leave a parameter without a gradient alone, weight decay included
                optimizer.zero_grad(set_to_none=True)
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        if self._moved is not None:
            add_up = partial(self.trainer.strategy.reduce, reduce_op="sum") if is_sharded(self.policy) else None
            self.log_dict(self._moved.shares(add_up), batch_size=1)
        optimizer.zero_grad(set_to_none=True)  # Lightning would keep them until the next backward pass
        if not self._skip:
            self.after_optimizer_step()
            for term in self.terms.values():
                term.after_optimizer_step(self)

    def after_optimizer_step(self) -> None:
        """The weights have changed; a teacher that follows them is updated here, so that checkpoints hold it."""

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the gradient norm before clipping, and the learning rate."""
        gradients = [p.grad for p in self.policy.parameters() if p.grad is not None]
        self.log("train/grad_norm", whole(torch.nn.utils.get_total_norm(gradients)), batch_size=1)
        self.log("train/lr", optimizer.param_groups[0]["lr"], batch_size=1)
        self._moved = MovedShare(partial(what_moves, self.policy, self._masters))

    # --------------------------------------------------------------------------------------------------------- logging
    def tally(self, name: str, value: Tensor) -> None:
        """Add to a value that is logged once per step, summed over slices and ranks."""
        value = value.detach()
        self._tally[name] = self._tally[name] + value if name in self._tally else value

    def tally_mean(self, name: str, values: Tensor, tokens: Tokens, part: TermTokens) -> None:
        """Tally the mean of a per-token value [m], weighted as in the loss."""
        self.tally(name, (tokens.of(part.weights) * values.detach()).sum())

    def _log_tally(self) -> None:
        for name, value in self._tally.items():
            self.log(name, value, batch_size=1, sync_dist=self.trainer.world_size > 1, reduce_fx="sum")
        self._tally = {}
