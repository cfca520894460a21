"""The sandbox for programs: ``inside`` runs in it, the rest outside."""

from lit_sdpo.rewards.sandbox.sandbox import Sandbox

__all__ = ["Sandbox"]
