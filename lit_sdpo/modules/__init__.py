"""The methods, each a LightningModule over one base."""

from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.modules.grpo import GRPO
from lit_sdpo.modules.sdpo import SDPO
from lit_sdpo.modules.sft import SFT

__all__ = ["GRPO", "SDPO", "SFT", "OnPolicyModule"]
