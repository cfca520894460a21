"""Options that decide how fast, where or how visibly a run goes, and values that say what is so already."""

#: Options that by their nature leave results as they are, and why: a value that is legal has to change nothing.
NO_EFFECT = {
    "NativeEngine.compact_below": "when ended rows leave the batch",
    "NativeEngine.share_prompts": "whether a prompt's keys are held once",
    "NativeEngine.prefill_tokens": "how many tokens are read at once",
    "NativeEngine.max_rows": "how many rows are decoded at once",
    "ContinualDataModule.eval_batch_size": "how many prompts are evaluated at once",
    "SummaryWriter.max_queue": "when events are written",
    "SummaryWriter.flush_secs": "when events are written",
    "Trainer.benchmark": "cuDNN alone",
    "Trainer.limit_predict_batches": "nothing is predicted in fit",
    "Trainer.limit_test_batches": "nothing is tested in fit",
    "Trainer.num_sanity_val_steps": "what they find is thrown away",
    "Trainer.deterministic": "everything here is",
    "Trainer.default_root_dir": "the logger has a folder",
    "TensorBoardLogger.default_hp_metric": "no hyperparameters are logged",
    "Trainer.use_distributed_sampler": "the loaders divide themselves",
    "Trainer.sync_batchnorm": "one process",
    "Trainer.enable_autolog_hparams": "hyperparameters are in config.yaml",
    "StageCheckpoint.on_save_error": "decides only when a save fails",
    "StageCheckpoint.on_mismatch": "decides only when a run goes on",
    "StageCheckpoint.signals": "decides only when a signal comes",
    "RolloutCallback.max_prompt_tokens": "a limit: what exceeds it is refused",
    "RolloutCallback.max_verifier_failures": "a limit: what exceeds it ends the run",
    "Reprompt.thinking_pattern": "nobody thinks",
    "OnPolicyModule.float32_masters": "weights in float32 have no masters",
    "AdamW.capturable": "CUDA graphs alone",
    "JsonlTask.test": "only lit-sdpo test reads it",
    "NamedTask.test": "only lit-sdpo test reads it",
}

#: Options that may leave results as they are and may change the last digits, or what is printed, by the machine.
EITHER = {
    "Trainer.model_registry": "names checkpoints in a registry that no logger here has; a bad name is warned of",
    "Trainer.detect_anomaly": "looks for nan in backward passes, and says so",
    "AdamW.foreach": "how the same update is computed",
    "AdamW.fused": "how the same update is computed",
    "AdamW.differentiable": "how the same update is computed",
}

#: Values that mean what the run has without them, by option and value as Python writes it.
MEANS_THE_SAME = {
    ("Trainer.precision", "'32-true'"),
    ("Trainer.precision", "'32'"),
    ("Trainer.precision", "32"),
    ("Trainer.devices", "-1"),
    ("TensorBoardLogger.version", "0"),
    ("Trainer.plugins", "[]"),
    ("Trainer.model_registry", "''"),
    ("ExportPolicy.dtype", "'float32'"),
    ("Trainer.enable_progress_bar", "True"),
    ("Trainer.gradient_clip_val", "1.5"),  # gradients are below
    ("Trainer.gradient_clip_val", "1099511627776"),
    ("Trainer.log_every_n_steps", "None"),
    ("Trainer.min_steps", "0"),
    ("Trainer.fast_dev_run", "0"),
    ("ContinualDataModule.probes", "[]"),
    ("MicroDataModule.world", "None"),
    ("JsonlTask.on_bad_row", "'skip'"),  # no row is bad
    ("NamedTask.on_bad_row", "'skip'"),
    ("NamedTask.folder", "''"),  # its files are given
    ("Reprompt.feedback_only_without_solution", "False"),  # no feedback is shown
    ("Reprompt.allow_truncated", "True"),  # no success was cut off
    ("SummaryWriter.comment", "None"),
    ("Reprompt.max_context_tokens", "None"),  # contexts are below
    ("Reprompt.thinking", "'keep'"),  # nobody thinks
    ("MicroWorld.strict", "True"),  # no answer that it would judge otherwise
}
