"""What names of TRL's options, as people type them, are called here: one table, for messages and for the docs.

``docs/coming-from-trl.md`` shows the same table; a test holds them together and every option to the parser.
"""

from __future__ import annotations

from typing import NamedTuple


class Here(NamedTuple):
    """What stands for an option of TRL.

    Attributes:
        option: The key, or how the thing is done; empty where nothing does.
        note: What differs, or why there is none.
    """

    option: str
    note: str = ""


_STAGES = "data.stages"
_SAMPLING = "rollout.sampling."
#: By TRL's name (``GRPOConfig``, ``TrainingArguments``, ``ModelConfig``, ``ScriptArguments``, ``GRPOTrainer``).
NAMES: dict[str, Here] = {
    # What is trained
    "model_name_or_path": Here("model.model_name", "a folder or Hub name"),
    "model_init_kwargs": Here(
        "model.dtype", "and attn_implementation and what else lit-sdpo fit --model.help GRPO lists"
    ),
    "torch_dtype": Here("model.dtype"),
    "attn_implementation": Here("model.attn_implementation"),
    "trust_remote_code": Here("model.trust_remote_code"),
    "processing_class": Here("model.model_name", "the tokenizer lies in the model's folder"),
    "chat_template_kwargs": Here("model.chat_template_options"),
    "gradient_checkpointing": Here("model.gradient_checkpointing"),
    "disable_dropout": Here("", "the model's dropout is always off"),
    "peft_config": Here("model.lora", "rank, alpha, dropout and target_modules"),
    "use_peft": Here("model.lora", "{} takes the defaults"),
    "lora_r": Here("model.lora.rank"),
    "lora_alpha": Here("model.lora.alpha"),
    "lora_dropout": Here("model.lora.dropout", "for SFT only"),
    "lora_target_modules": Here("model.lora.target_modules"),
    # On what, and for how long
    "dataset_name": Here(_STAGES, "a JsonlTask, whose train is a file or {hub: NAME, split: train}"),
    "train_dataset": Here(_STAGES, "a JsonlTask, whose train is a file or {hub: NAME, split: train}"),
    "eval_dataset": Here(_STAGES, "the task's validation"),
    "max_steps": Here(_STAGES, "each stage has its steps: optimizer steps"),
    "num_train_epochs": Here(_STAGES, "each stage has its steps; one pass is rows over prompts_per_step"),
    "per_device_train_batch_size": Here(
        _STAGES,
        "each stage has prompts_per_step: prompts, not completions, over all devices and slices;"
        " it is per_device_train_batch_size x gradient_accumulation_steps x devices / num_generations",
    ),
    "gradient_accumulation_steps": Here(
        "trainer.accumulate_grad_batches", "cuts a step into slices: less memory, the same step"
    ),
    "generation_batch_size": Here(
        _STAGES, "prompts_per_step x rollout.num_generations completions are drawn for a step"
    ),
    "steps_per_generation": Here("data.updates_per_rollout", "in optimizer steps"),
    "num_iterations": Here("data.updates_per_rollout"),
    "per_device_eval_batch_size": Here("data.eval_batch_size", "prompts at once"),
    "num_generations_eval": Here("data.eval_generations"),
    "eval_steps": Here("data.eval_every", "besides before training and at each stage's end"),
    "eval_strategy": Here("data.eval_every", "besides before training and at each stage's end"),
    "eval_on_start": Here("", "every run begins with an evaluation"),
    "seed": Here("seed_everything"),
    "data_seed": Here("data.seed"),
    "shuffle_dataset": Here("data.seed", "prompts come in a seeded order"),
    "remove_unused_columns": Here("", "every column reaches the rewards"),
    "dataloader_num_workers": Here("", "rows are in memory"),
    # Sampling
    "num_generations": Here("rollout.num_generations"),
    "max_completion_length": Here(f"{_SAMPLING}max_new_tokens"),
    "max_prompt_length": Here("rollout.max_prompt_tokens", "a longer prompt is an error, and nothing is cut"),
    "temperature": Here(f"{_SAMPLING}temperature"),
    "top_p": Here(f"{_SAMPLING}top_p"),
    "top_k": Here(f"{_SAMPLING}top_k", "0 keeps all"),
    "min_p": Here(f"{_SAMPLING}min_p"),
    "repetition_penalty": Here("", "losses score the distribution that was sampled"),
    "generation_kwargs": Here("rollout.sampling", "temperature, top_k, top_p, min_p"),
    "use_vllm": Here("rollout.engine", "class_path: lit_sdpo.rollouts.engines.vllm.VLLMEngine; docs/vllm.md"),
    "vllm_mode": Here("rollout.engine", "always a server, on its own or the same GPU; docs/vllm.md"),
    "vllm_server_base_url": Here("rollout.engine", "its url; docs/vllm.md"),
    "vllm_server_host": Here("rollout.engine", "its url; docs/vllm.md"),
    "vllm_server_port": Here("rollout.engine", "its url; docs/vllm.md"),
    "vllm_enable_sleep_mode": Here("rollout.engine", "its sleep_level; docs/vllm.md"),
    "vllm_gpu_memory_utilization": Here("", "an option of the server, which is started apart: docs/vllm.md"),
    "vllm_importance_sampling_correction": Here("rollout.correction"),
    "tools": Here("", "a completion is one turn"),
    "environment_factory": Here("", "a completion is one turn"),
    # Rewards
    "reward_funcs": Here("rollout.rewards", "my_module.my_function, or a list of such paths"),
    "reward_weights": Here("rollout.reward_weights", "in the order of the rewards, or by name"),
    "reward_processing_classes": Here("", "a reward is a function; it may hold a model of its own"),
    # Loss
    "beta": Here("model.kl_beta"),
    "epsilon": Here("model.clip_eps_low", "and clip_eps_high"),
    "epsilon_high": Here("model.clip_eps_high"),
    "delta": Here("", "the ratio of a negative advantage has no second bound"),
    "loss_type": Here(
        "model.aggregation",
        "grpo: seq_mean_token_mean, dapo: token_mean, dr_grpo: seq_mean_token_sum (without its division by the longest"
        " completion); cispo is the class CISPO; the others are not here",
    ),
    "scale_rewards": Here("model.advantage", "group: std, batch: batch_std, none: none, which is the default"),
    "importance_sampling_level": Here("model", "sequence is the class GSPO"),
    "mask_truncated_completions": Here("", "a completion that was cut off counts with its reward"),
    "sync_ref_model": Here("", "the KL penalty is to the policy before the first stage"),
    "entropy_coef": Here("", "entropy is logged, rollout/entropy"),
    # Optimizer
    "learning_rate": Here("model.optimizer.lr"),
    "optim": Here("model.optimizer", "class_path: torch.optim.AdamW, or any"),
    "weight_decay": Here("model.optimizer.weight_decay"),
    "adam_beta1": Here("model.optimizer", "betas of torch.optim.AdamW"),
    "adam_beta2": Here("model.optimizer", "betas of torch.optim.AdamW"),
    "lr_scheduler_type": Here("model.scheduler"),
    "warmup_ratio": Here("model.scheduler", "warmup_steps, in steps of each stage"),
    "warmup_steps": Here("model.scheduler", "warmup_steps, of each stage"),
    "max_grad_norm": Here("trainer.gradient_clip_val"),
    "bf16": Here("trainer.precision", "bf16-mixed; or model.dtype: bfloat16"),
    "fp16": Here("trainer.precision", "16-mixed"),
    # The run
    "output_dir": Here("trainer.logger", "its save_dir and name; runs/ where nothing is said"),
    "run_name": Here("trainer.logger", "its name"),
    "report_to": Here("trainer.logger", "class_path: TensorBoardLogger, WandbLogger, MLFlowLogger, CSVLogger"),
    "logging_steps": Here("trainer.log_every_n_steps"),
    "log_completions": Here("samples.every_n_steps", "always on: samples.jsonl, lit-sdpo samples RUN"),
    "num_completions_to_print": Here("samples.num_shown"),
    "save_steps": Here("checkpoint.every_n_steps", "besides at each stage's end"),
    "save_strategy": Here("checkpoint.every_n_steps", "besides at each stage's end"),
    "save_total_limit": Here("checkpoint.keep_steps", "of those inside stages; keep is of those at their ends"),
    "resume_from_checkpoint": Here("ckpt_path", "last, or the path of a checkpoint"),
    "push_to_hub": Here("", "lit-sdpo export makes a model folder, which any tool uploads"),
    "deepspeed": Here("trainer.strategy", "docs/distributed.md"),
    "fsdp": Here("trainer.strategy", "docs/distributed.md"),
}


def answer(name: str) -> str:
    """What is right in place of a name of TRL; empty where it is none.

    Args:
        name: As it was typed, without what stands before it.

    Example:
        >>> answer("max-completion-length")
        "TRL's max_completion_length is rollout.sampling.max_new_tokens here"
    """
    name = name.replace("-", "_")
    if (here := NAMES.get(name)) is None:
        return ""
    if not here.option:
        return f"leave it out: of TRL's {name} nothing is here, as {here.note}"
    return f"TRL's {name} is {here.option} here" + (f" ({here.note})" if here.note else "")
