"""The tasks that are known by name: the paper's four families, their held-out probes, and stand-ins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lit_sdpo.data.source import Source


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a task.

    Attributes:
        family: ``math``, ``science``, ``tooluse``, ``coding`` or ``logic``.
        verifier: The contract of its answers.
        about: One line.
        train: Hub data sets of the training split.
        evaluation: Hub data sets of validation and test.
        parts: Names of the tasks whose files are its training and evaluation files in a folder of prepared files.
        mixed: The data set has rows of other contracts too, which are left out; elsewhere such a row is a mistake.
    """

    family: str
    verifier: str
    about: str
    train: tuple[Source, ...] = ()
    evaluation: tuple[Source, ...] = ()
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mixed: bool = False


def _aime24() -> Source:
    return Source(hub="HuggingFaceH4/aime_2024", layout="problems", name="aime24")


def _aime25() -> tuple[Source, ...]:
    mapping = {"problem": "question"}
    return tuple(
        Source(
            hub="opencompass/AIME2025", subset=f"AIME2025-{part}", split="test", layout="problems", columns=mapping
        ).completed(name=f"aime25_{part.lower()}")
        for part in ("I", "II")
    )


_DAPO = Source(hub="BytedTsinghua-SIA/DAPO-Math-17k", layout="verl", name="dapo_math_17k")
_DOLCI = Source(hub="allenai/Dolci-Think-RL-7B", layout="dolci", name="dolci")
_LIVE = Source(hub="lighteval/code_generation_lite", subset="v6", split="test", layout="livecodebench")

TASKS: dict[str, Known] = {
    "math": Known(
        family="math",
        verifier="math_boxed",
        about="the paper's first stage: DAPO-Math-17k, evaluated on AIME 2024 and 2025",
        train=(_DAPO,),
        evaluation=(_aime24(), *_aime25()),
        parts={"train": ("dapo_math_17k",), "test": ("aime24", "aime25")},
    ),
    "science": Known(
        family="science",
        verifier="mcq_xml",
        about="the paper's second stage: SciKnowEval, chemistry, level 3; files of the paper's repository",
        parts={"train": ("sciknoweval_chemistry",), "test": ("sciknoweval_chemistry",)},
    ),
    "tooluse": Known(
        family="tooluse",
        verifier="tooluse_react",
        about="the paper's third stage: ToolAlpaca; files of the paper's repository",
        parts={"train": ("toolalpaca",), "test": ("toolalpaca",)},
    ),
    "coding": Known(
        family="coding",
        verifier="code_tests",
        about="the paper's fourth stage: the programs of Dolci-Think-RL; the evaluation is yours to hold out",
        train=(_DOLCI,),
        parts={"train": ("dolci",), "test": ("dolci",)},
        mixed=True,
    ),
    "dapo_math_17k": Known(
        family="math", verifier="math_boxed", about="competition problems with whole numbers", train=(_DAPO,)
    ),
    "gsm8k": Known(
        family="math",
        verifier="math_boxed",
        about="grade-school word problems",
        train=(Source(hub="openai/gsm8k", subset="main", layout="gsm8k"),),
        evaluation=(Source(hub="openai/gsm8k", subset="main", split="test", layout="gsm8k"),),
    ),
    "math500": Known(
        family="math",
        verifier="math_boxed",
        about="500 problems of MATH; the paper's mathematics probe",
        evaluation=(Source(hub="HuggingFaceH4/MATH-500", split="test", layout="problems", name="math500"),),
    ),
    "aime24": Known(family="math", verifier="math_boxed", about="AIME 2024", evaluation=(_aime24(),)),
    "aime25": Known(family="math", verifier="math_boxed", about="AIME 2025", evaluation=_aime25()),
    "gpqa": Known(
        family="science",
        verifier="mcq_boxed",
        about="GPQA diamond; the paper's science probe (the Hub asks for an account's consent)",
        evaluation=(Source(hub="Idavidrein/gpqa", subset="gpqa_diamond", layout="gpqa"),),
    ),
    "mmlu_redux": Known(
        family="science",
        verifier="mcq_boxed",
        about="MMLU-Redux 2.0, questions marked as sound; the paper's knowledge probe",
        evaluation=(
            Source(hub="edinburgh-dawg/mmlu-redux-2.0", subset="*", split="test", layout="mmlu", name="mmlu_redux"),
        ),
    ),
    "bfcl_multiple": Known(
        family="tooluse",
        verifier="bfcl_ast",
        about="Berkeley function-calling leaderboard v4, `multiple`; the paper's tool-use probe; files only",
    ),
    "mbpp": Known(
        family="coding",
        verifier="code_tests",
        about="short Python tasks with asserts",
        train=(Source(hub="google-research-datasets/mbpp", subset="full", layout="mbpp"),),
        evaluation=(Source(hub="google-research-datasets/mbpp", subset="full", split="test", layout="mbpp"),),
    ),
    "humaneval": Known(
        family="coding",
        verifier="code_tests",
        about="164 functions to complete",
        evaluation=(Source(hub="openai/openai_humaneval", split="test", layout="humaneval"),),
    ),
    "livecodebench": Known(
        family="coding",
        verifier="code_tests",
        about="LiveCodeBench v6; the paper's coding probe",
        evaluation=(_LIVE,),
    ),
    "zebra_grid": Known(
        family="logic",
        verifier="zebra_json",
        about="logic grids in the layout of ZebraLogic, whose public files have no solutions; files only",
    ),
}
