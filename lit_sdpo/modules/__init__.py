"""The methods, each a LightningModule over one base; a variant is a small file beside the others."""

from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.modules.cispo import CISPO
from lit_sdpo.modules.contract import RolloutModule
from lit_sdpo.modules.demo_psd import DemoPSD
from lit_sdpo.modules.geo_sd import GeoSD
from lit_sdpo.modules.grpo import GRPO
from lit_sdpo.modules.gspo import GSPO
from lit_sdpo.modules.on_policy_distillation import OnPolicyDistillation
from lit_sdpo.modules.online_ewc import OnlineEWC
from lit_sdpo.modules.sc_sdpo import SCSDPO
from lit_sdpo.modules.sdpg import SDPG
from lit_sdpo.modules.sdpo import SDPO
from lit_sdpo.modules.sft import SFT
from lit_sdpo.modules.srpo import SRPO
from lit_sdpo.modules.tilt import Tilt
from lit_sdpo.modules.weight_anchor import WeightAnchor

__all__ = [
    "CISPO",
    "GRPO",
    "GSPO",
    "SCSDPO",
    "SDPG",
    "SDPO",
    "SFT",
    "SRPO",
    "DemoPSD",
    "GeoSD",
    "OnPolicyDistillation",
    "OnPolicyModule",
    "OnlineEWC",
    "RolloutModule",
    "Tilt",
    "WeightAnchor",
]
