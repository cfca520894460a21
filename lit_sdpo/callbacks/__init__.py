"""What happens around a step: rollouts, evaluation, measurement, records."""

from typing import TYPE_CHECKING

from lit_sdpo.lazy import lazy_names

if TYPE_CHECKING:
    from lit_sdpo.callbacks.checkpoint import StageCheckpoint
    from lit_sdpo.callbacks.export import ExportPolicy
    from lit_sdpo.callbacks.forgetting import ForgettingMatrix
    from lit_sdpo.callbacks.initial_evaluation import InitialEvaluation
    from lit_sdpo.callbacks.likelihood import LikelihoodEvaluation
    from lit_sdpo.callbacks.memory import MemoryBudget
    from lit_sdpo.callbacks.progress import StreamProgressBar
    from lit_sdpo.callbacks.responses.artifacts import ArtifactMonitor
    from lit_sdpo.callbacks.responses.collapse import CollapseMonitor
    from lit_sdpo.callbacks.responses.drift import ResponseDrift
    from lit_sdpo.callbacks.rollout.callback import RolloutCallback
    from lit_sdpo.callbacks.samples import SampleLogger
    from lit_sdpo.callbacks.tensorboard import TensorBoardLayout
    from lit_sdpo.callbacks.weights.alignment import GradientAlignment
    from lit_sdpo.callbacks.weights.average import AveragedPolicy
    from lit_sdpo.callbacks.weights.drift import ParameterDrift
    from lit_sdpo.callbacks.weights.merge import StageMerge

__all__ = [
    "ArtifactMonitor",
    "AveragedPolicy",
    "CollapseMonitor",
    "ExportPolicy",
    "ForgettingMatrix",
    "GradientAlignment",
    "InitialEvaluation",
    "LikelihoodEvaluation",
    "MemoryBudget",
    "ParameterDrift",
    "ResponseDrift",
    "RolloutCallback",
    "SampleLogger",
    "StageCheckpoint",
    "StageMerge",
    "StreamProgressBar",
    "TensorBoardLayout",
]

#: Where they are: a report reads what callbacks have written without Lightning.
_MODULES = {
    "lit_sdpo.callbacks.responses.artifacts": "ArtifactMonitor",
    "lit_sdpo.callbacks.checkpoint": "StageCheckpoint",
    "lit_sdpo.callbacks.responses.collapse": "CollapseMonitor",
    "lit_sdpo.callbacks.initial_evaluation": "InitialEvaluation",
    "lit_sdpo.callbacks.export": "ExportPolicy",
    "lit_sdpo.callbacks.forgetting": "ForgettingMatrix",
    "lit_sdpo.callbacks.likelihood": "LikelihoodEvaluation",
    "lit_sdpo.callbacks.memory": "MemoryBudget",
    "lit_sdpo.callbacks.weights.alignment": "GradientAlignment",
    "lit_sdpo.callbacks.weights.average": "AveragedPolicy",
    "lit_sdpo.callbacks.weights.drift": "ParameterDrift",
    "lit_sdpo.callbacks.weights.merge": "StageMerge",
    "lit_sdpo.callbacks.progress": "StreamProgressBar",
    "lit_sdpo.callbacks.responses.drift": "ResponseDrift",
    "lit_sdpo.callbacks.rollout.callback": "RolloutCallback",
    "lit_sdpo.callbacks.samples": "SampleLogger",
    "lit_sdpo.callbacks.tensorboard": "TensorBoardLayout",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
