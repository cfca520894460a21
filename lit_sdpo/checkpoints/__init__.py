"""Checkpoints that survive what happens to runs: safe files, exact resume, one process per run folder."""

from typing import TYPE_CHECKING

from lit_sdpo.lazy import lazy_names

if TYPE_CHECKING:
    from lit_sdpo.checkpoints.plugin import SafeCheckpointIO

__all__ = ["SafeCheckpointIO"]

#: Where it is: a sweep reads manifests and locks without Lightning.
_MODULES = {"lit_sdpo.checkpoints.plugin": "SafeCheckpointIO"}

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
