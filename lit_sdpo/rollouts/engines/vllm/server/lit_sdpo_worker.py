"""What a vLLM server loads to follow a run's weights; the one file here that runs in the server's process.

It imports nothing of this package, so the server's environment needs this folder on ``PYTHONPATH`` and no more.
"""

from __future__ import annotations

import os
import uuid
from typing import Any


class WeightReload:
    """Methods that vLLM adds to its workers: ``--worker-extension-cls lit_sdpo_worker.WeightReload``.

    Each gives a dictionary, because ``/collective_rpc`` turns anything else into text.
    """

    #: What the loaded weights are called; a server that has just started has none.
    lit_sdpo_weights: str | None = None
    #: Sets this process apart from one that took its place.
    lit_sdpo_process: str | None = None

    def lit_sdpo_describe(self) -> dict[str, Any]:
        """What the server is, as far as rollouts depend on it."""
        worker: Any = self
        config = worker.vllm_config
        self.lit_sdpo_process = self.lit_sdpo_process or uuid.uuid4().hex
        return {
            "process": self.lit_sdpo_process,
            "weights": self.lit_sdpo_weights,
            "vocabulary": config.model_config.get_vocab_size(),
            "max_model_len": config.model_config.max_model_len,
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "logprobs_mode": str(getattr(config.model_config, "logprobs_mode", "")),
            "chunked_prefill": bool(getattr(config.scheduler_config, "enable_chunked_prefill", False)),
            "device": str(getattr(config.device_config, "device_type", "")),
            "sleep_mode": bool(getattr(config.model_config, "enable_sleep_mode", False)),
        }

    def lit_sdpo_forget(self) -> dict[str, Any]:
        """The weights are about to be given up: call them nothing."""
        self.lit_sdpo_weights = None
        return {}

    def lit_sdpo_load(self, folder: str, version: str) -> dict[str, Any]:
        """Replace all weights by those of a folder, and whatever the server has made of the old ones.

        Args:
            folder: A model folder as Transformers writes it, on a disk that this process can read.
            version: What these weights are called from now on.
        """
        worker: Any = self
        if not os.path.isdir(folder):
            return {"error": f"the server finds no folder {folder}"}
        self.lit_sdpo_weights = None
        worker.reload_weights(weights_path=folder)
        # On a CPU the head multiplies with a packed copy of its weights. vLLM packs the layers it has loaded again, but
        # not a head that shares the embedding's weights: it would go on with the old ones and nobody would be told.
        for module in worker.model_runner.get_model().modules():
            method: Any = getattr(module, "quant_method", None)
            if type(method).__name__ == "UnquantizedEmbeddingMethod":
                method.process_weights_after_loading(module)
        self.lit_sdpo_weights = version
        return {"weights": version}
