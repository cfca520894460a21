"""Rollouts from a vLLM server, over HTTP; vLLM itself is never imported."""

from lit_sdpo.rollouts.engines.vllm.engine import VLLMEngine

__all__ = ["VLLMEngine"]
