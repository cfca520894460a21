"""What happens around a step: rollouts, evaluation, measurement, records."""

from lit_sdpo.callbacks.artifacts import ArtifactMonitor
from lit_sdpo.callbacks.checkpoint import StageCheckpoint
from lit_sdpo.callbacks.collapse import CollapseMonitor
from lit_sdpo.callbacks.evaluation import InitialEvaluation
from lit_sdpo.callbacks.export import ExportPolicy
from lit_sdpo.callbacks.forgetting import ForgettingMatrix
from lit_sdpo.callbacks.likelihood import LikelihoodEvaluation
from lit_sdpo.callbacks.memory import MemoryBudget
from lit_sdpo.callbacks.parameter_drift import ParameterDrift
from lit_sdpo.callbacks.progress import StreamProgressBar
from lit_sdpo.callbacks.response_drift import ResponseDrift
from lit_sdpo.callbacks.rollout import RolloutCallback
from lit_sdpo.callbacks.samples import SampleLogger
from lit_sdpo.callbacks.tensorboard import TensorBoardLayout

__all__ = [
    "ArtifactMonitor",
    "CollapseMonitor",
    "ExportPolicy",
    "ForgettingMatrix",
    "InitialEvaluation",
    "LikelihoodEvaluation",
    "MemoryBudget",
    "ParameterDrift",
    "ResponseDrift",
    "RolloutCallback",
    "SampleLogger",
    "StageCheckpoint",
    "StreamProgressBar",
    "TensorBoardLayout",
]
