"""Train causal language models with SDPO and GRPO through a stream of tasks, and measure what they forget."""

from lit_sdpo.callbacks import (
    ArtifactMonitor,
    CollapseMonitor,
    ExportPolicy,
    ForgettingMatrix,
    InitialEvaluation,
    LikelihoodEvaluation,
    MemoryBudget,
    ParameterDrift,
    ResponseDrift,
    RolloutCallback,
    SampleLogger,
    StageCheckpoint,
    StreamProgressBar,
    TensorBoardLayout,
)
from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.data.jsonl import JsonlTask
from lit_sdpo.data.micro.datamodule import MicroDataModule
from lit_sdpo.data.micro.tasks import MicroTask
from lit_sdpo.data.micro.warmstart import WarmStartTask
from lit_sdpo.data.micro.world import MicroWorld
from lit_sdpo.data.named import NamedTask
from lit_sdpo.data.source import Source
from lit_sdpo.data.task import Row, Stage, Task
from lit_sdpo.errors import UserError
from lit_sdpo.likelihood.tasks import LikelihoodTask, MultipleChoiceLikelihood, TextLikelihood
from lit_sdpo.modules import GRPO, SCSDPO, SDPG, SDPO, SFT, SRPO, DemoPSD, GeoSD, OnPolicyModule, WeightAnchor
from lit_sdpo.optimizers import MuonAdamW, WarmupConstant, WarmupLinearDecay
from lit_sdpo.policies.teachers import (
    EMATeacher,
    FrozenTeacher,
    GatedTeacher,
    RestartTeacher,
    Teacher,
    TrustRegionTeacher,
)
from lit_sdpo.rewards.base import Reward, Verdict
from lit_sdpo.rewards.combine import WeightedRewards
from lit_sdpo.rollouts.engine import Completions, RolloutEngine, Sampling
from lit_sdpo.rollouts.native import NativeEngine
from lit_sdpo.rollouts.reprompt import Reprompt
from lit_sdpo.rollouts.types import Rollouts

__version__ = "0.1.0"

__all__ = [
    "GRPO",
    "SCSDPO",
    "SDPG",
    "SDPO",
    "SFT",
    "SRPO",
    "ArtifactMonitor",
    "CollapseMonitor",
    "Completions",
    "ContinualDataModule",
    "DemoPSD",
    "EMATeacher",
    "ExportPolicy",
    "ForgettingMatrix",
    "FrozenTeacher",
    "GatedTeacher",
    "GeoSD",
    "InitialEvaluation",
    "JsonlTask",
    "LikelihoodEvaluation",
    "LikelihoodTask",
    "MemoryBudget",
    "MicroDataModule",
    "MicroTask",
    "MicroWorld",
    "MultipleChoiceLikelihood",
    "MuonAdamW",
    "NamedTask",
    "NativeEngine",
    "OnPolicyModule",
    "ParameterDrift",
    "Reprompt",
    "ResponseDrift",
    "RestartTeacher",
    "Reward",
    "RolloutCallback",
    "RolloutEngine",
    "Rollouts",
    "Row",
    "SampleLogger",
    "Sampling",
    "Source",
    "Stage",
    "StageCheckpoint",
    "StreamProgressBar",
    "Task",
    "Teacher",
    "TensorBoardLayout",
    "TextLikelihood",
    "TrustRegionTeacher",
    "UserError",
    "Verdict",
    "WarmStartTask",
    "WarmupConstant",
    "WarmupLinearDecay",
    "WeightAnchor",
    "WeightedRewards",
]
