"""What happens around a step: rollouts, evaluation, measurement, records."""

from lit_sdpo.callbacks.checkpoint import StageCheckpoint
from lit_sdpo.callbacks.export import ExportPolicy
from lit_sdpo.callbacks.forgetting import ForgettingMatrix
from lit_sdpo.callbacks.initial_evaluation import InitialEvaluation
from lit_sdpo.callbacks.memory import MemoryBudget
from lit_sdpo.callbacks.progress import StreamProgressBar
from lit_sdpo.callbacks.responses.artifacts import ArtifactMonitor
from lit_sdpo.callbacks.responses.collapse import CollapseMonitor
from lit_sdpo.callbacks.responses.drift import ResponseDrift
from lit_sdpo.callbacks.rollout.callback import RolloutCallback
from lit_sdpo.callbacks.samples import SampleLogger
from lit_sdpo.callbacks.tensorboard import TensorBoardLayout
from lit_sdpo.callbacks.weights.drift import ParameterDrift

__all__ = [
    "ArtifactMonitor",
    "CollapseMonitor",
    "ExportPolicy",
    "ForgettingMatrix",
    "InitialEvaluation",
    "MemoryBudget",
    "ParameterDrift",
    "ResponseDrift",
    "RolloutCallback",
    "SampleLogger",
    "StageCheckpoint",
    "StreamProgressBar",
    "TensorBoardLayout",
]
