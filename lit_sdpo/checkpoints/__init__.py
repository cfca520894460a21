"""Checkpoints that survive what happens to runs: safe files, exact resume, one process per run folder."""

from lit_sdpo.checkpoints.plugin import SafeCheckpointIO

__all__ = ["SafeCheckpointIO"]
