"""Train causal language models with SDPO and GRPO through a stream of tasks, and measure what they forget.

Names are imported when they are first used (PEP 562): importing the package costs next to nothing, and what one part
needs is not asked of who uses another.
"""

from typing import TYPE_CHECKING

from lit_sdpo.lazy import lazy_names
from lit_sdpo.moved import install as _install

if TYPE_CHECKING:
    from lit_sdpo.callbacks import (
        ArtifactMonitor,
        AveragedPolicy,
        CollapseMonitor,
        ExportPolicy,
        ForgettingMatrix,
        GradientAlignment,
        InitialEvaluation,
        LikelihoodEvaluation,
        MemoryBudget,
        ParameterDrift,
        ResponseDrift,
        RolloutCallback,
        SampleLogger,
        StageCheckpoint,
        StageMerge,
        StreamProgressBar,
        TensorBoardLayout,
    )
    from lit_sdpo.data.base import TaskStream
    from lit_sdpo.data.datamodule import ContinualDataModule
    from lit_sdpo.data.jsonl import JsonlTask
    from lit_sdpo.data.micro.datamodule import MicroDataModule
    from lit_sdpo.data.micro.tasks import MicroTask
    from lit_sdpo.data.micro.warmstart import WarmStartTask
    from lit_sdpo.data.micro.world import MicroWorld
    from lit_sdpo.data.mixture import Mixture, Share
    from lit_sdpo.data.named import NamedTask
    from lit_sdpo.data.source import Source
    from lit_sdpo.data.task import Row, Stage, StageMethod, Task
    from lit_sdpo.errors import UserError
    from lit_sdpo.likelihood.tasks import LikelihoodTask, MultipleChoiceLikelihood, TextLikelihood
    from lit_sdpo.modules import (
        CISPO,
        GRPO,
        GSPO,
        SCSDPO,
        SDPG,
        SDPO,
        SFT,
        SRPO,
        DemoPSD,
        GeoSD,
        OnlineEWC,
        OnPolicyDistillation,
        OnPolicyModule,
        RolloutModule,
        Tilt,
        WeightAnchor,
    )
    from lit_sdpo.optimizers import MuonAdamW, WarmupConstant, WarmupLinearDecay
    from lit_sdpo.policies.teachers import (
        EMATeacher,
        FrozenTeacher,
        GatedTeacher,
        ModelTeacher,
        RestartTeacher,
        RoutedTeacher,
        Teacher,
        TrustRegionTeacher,
    )
    from lit_sdpo.policies.train_only import TrainOnly
    from lit_sdpo.rewards.base import Reward, Verdict
    from lit_sdpo.rewards.combine import WeightedRewards
    from lit_sdpo.rollouts.engines.base import Completions, RolloutEngine, Sampling
    from lit_sdpo.rollouts.engines.native import NativeEngine
    from lit_sdpo.rollouts.reprompt import Reprompt
    from lit_sdpo.rollouts.types import Rollouts

__version__ = "0.1.0"


__all__ = [
    "CISPO",
    "GRPO",
    "GSPO",
    "SCSDPO",
    "SDPG",
    "SDPO",
    "SFT",
    "SRPO",
    "ArtifactMonitor",
    "AveragedPolicy",
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
    "GradientAlignment",
    "InitialEvaluation",
    "JsonlTask",
    "LikelihoodEvaluation",
    "LikelihoodTask",
    "MemoryBudget",
    "MicroDataModule",
    "MicroTask",
    "MicroWorld",
    "Mixture",
    "ModelTeacher",
    "MultipleChoiceLikelihood",
    "MuonAdamW",
    "NamedTask",
    "NativeEngine",
    "OnPolicyDistillation",
    "OnPolicyModule",
    "OnlineEWC",
    "ParameterDrift",
    "Reprompt",
    "ResponseDrift",
    "RestartTeacher",
    "Reward",
    "RolloutCallback",
    "RolloutEngine",
    "RolloutModule",
    "Rollouts",
    "RoutedTeacher",
    "Row",
    "SampleLogger",
    "Sampling",
    "Share",
    "Source",
    "Stage",
    "StageCheckpoint",
    "StageMerge",
    "StageMethod",
    "StreamProgressBar",
    "Task",
    "TaskStream",
    "Teacher",
    "TensorBoardLayout",
    "TextLikelihood",
    "Tilt",
    "TrainOnly",
    "TrustRegionTeacher",
    "UserError",
    "Verdict",
    "WarmStartTask",
    "WarmupConstant",
    "WarmupLinearDecay",
    "WeightAnchor",
    "WeightedRewards",
]

#: Where the public names are, as they are imported above for type checkers.
_MODULES = {
    "lit_sdpo.callbacks": (
        "ArtifactMonitor AveragedPolicy CollapseMonitor ExportPolicy ForgettingMatrix GradientAlignment "
        "InitialEvaluation LikelihoodEvaluation MemoryBudget ParameterDrift ResponseDrift RolloutCallback SampleLogger "
        "StageCheckpoint StageMerge StreamProgressBar TensorBoardLayout"
    ),
    "lit_sdpo.data.base": "TaskStream",
    "lit_sdpo.data.datamodule": "ContinualDataModule",
    "lit_sdpo.data.jsonl": "JsonlTask",
    "lit_sdpo.data.micro.datamodule": "MicroDataModule",
    "lit_sdpo.data.micro.tasks": "MicroTask",
    "lit_sdpo.data.micro.warmstart": "WarmStartTask",
    "lit_sdpo.data.micro.world": "MicroWorld",
    "lit_sdpo.data.mixture": "Mixture Share",
    "lit_sdpo.data.named": "NamedTask",
    "lit_sdpo.data.source": "Source",
    "lit_sdpo.data.task": "Row Stage StageMethod Task",
    "lit_sdpo.errors": "UserError",
    "lit_sdpo.likelihood.tasks": "LikelihoodTask MultipleChoiceLikelihood TextLikelihood",
    "lit_sdpo.modules": (
        "CISPO DemoPSD GRPO GSPO GeoSD OnPolicyDistillation OnPolicyModule OnlineEWC RolloutModule SCSDPO SDPG SDPO "
        "SFT SRPO Tilt WeightAnchor"
    ),
    "lit_sdpo.optimizers": "MuonAdamW WarmupConstant WarmupLinearDecay",
    "lit_sdpo.policies.teachers": (
        "EMATeacher FrozenTeacher GatedTeacher ModelTeacher RestartTeacher RoutedTeacher Teacher TrustRegionTeacher"
    ),
    "lit_sdpo.policies.train_only": "TrainOnly",
    "lit_sdpo.rewards.base": "Reward Verdict",
    "lit_sdpo.rewards.combine": "WeightedRewards",
    "lit_sdpo.rollouts.engines.base": "Completions RolloutEngine Sampling",
    "lit_sdpo.rollouts.engines.native": "NativeEngine",
    "lit_sdpo.rollouts.reprompt": "Reprompt",
    "lit_sdpo.rollouts.types": "Rollouts",
}
_ROOMS = ("callbacks", "data", "functional", "metrics", "modules", "policies", "report", "rewards", "rollouts")

__getattr__, __dir__ = lazy_names(__name__, _MODULES, _ROOMS)
_install()  # paths of earlier releases
