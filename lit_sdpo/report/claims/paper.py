"""The fourteen claims of "Denser ≠ Better" (arXiv:2607.01763), as statements about methods.

Roles: ``grpo``; ``sdpo`` with a frozen teacher, ``sdpo_ema`` with a moving average of 5 %, ``stable_sdpo`` with
restart-and-freeze, ``sdpo_ema_mask`` with a moving average and random token masks; ``sft``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lit_sdpo.errors import UserError
from lit_sdpo.report.claims.table import Cast, Claim, ClaimResult, Contrast, Crossing, cast_of, check
from lit_sdpo.report.comparisons import Draws
from lit_sdpo.report.measures import MEASURES, own_score
from lit_sdpo.report.study import Study

#: Setting to what stands behind the name of a role in the name of its method. SFT has one rate, which the paper leaves
#: open.
SETTINGS: dict[str, str] = {"paper's ratio": "", "matched rate": "_matched"}
ONE_SETTING = ("sft",)


def _more(says: str, measure: str, more: str, less: str | None, smallest: float) -> Contrast:
    return Contrast(says, MEASURES[measure], more, less, smallest)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "C1",
        "No rate of the teacher's update is best on every task.",
        "MATH: 1 % best (69.06), 5 % worst (63.67); TOOLUSE: 0 best (68.20), 5 % second (67.20), 1 % worst (64.81)",
        (Crossing("a frozen and a fast teacher each lead on a task", own_score, "sdpo", "sdpo_ema", 0.02),),
    ),
    Claim(
        "C2",
        "A fast teacher makes entropy and its own distance rise late, and completions shorter.",
        "MATH, 5 % against at most 1 %: entropy .32 / .22, JS .0103 / .0076, length 4.6k / 6.2k tokens",
        (
            _more("entropy rises more", "entropy_rise", "sdpo_ema", "sdpo", 0.1),
            _more("the teacher's distance rises more", "divergence_rise", "sdpo_ema", "sdpo", 0.1),
            _more("completions get shorter", "length_change", "sdpo", "sdpo_ema", 0.05),
        ),
    ),
    Claim(
        "C3",
        "Restart-and-freeze repairs what a fast teacher breaks.",
        "MATH: average 65.34 → 71.84, AIME 34.38 → 55.00",
        (
            _more("each task is learned better", "learning_accuracy", "stable_sdpo", "sdpo_ema", 0.02),
            _more("entropy rises less", "entropy_rise", "sdpo_ema", "stable_sdpo", 0.1),
        ),
    ),
    Claim(
        "C3",
        "Restart-and-freeze is better than a frozen teacher, too.",
        "MATH: average 71.88 → 72.94",
        (_more("each task is learned better", "learning_accuracy", "stable_sdpo", "sdpo", 0.01),),
    ),
    Claim(
        "C4",
        "Reasoning left in demonstrations helps where it is short, and hurts where it is long.",
        "MATH: AIME 56.42 → 38.13; TOOLUSE: BFCL 76.04 → 80.62",
        untested="The tasks' demonstrations have no reasoning of their own that could be kept or left out.",
    ),
    Claim(
        "C5",
        "SDPO specialises more strongly than GRPO in one stage.",
        "MATH: AIME 32.71 → 56.42, GRPO 44.67; CODING: LCBv6 +13.39 points, GRPO +.08",
        (_more("the first task gains more", "first_gain", "sdpo", "grpo", 2.0),),
    ),
    Claim(
        "C6",
        "Tasks at an intermediate distance from the trained one are forgotten most.",
        "an inverted U, 2 to 3 % at MMD .17 to .2 and none at .38",
        (
            _more("intermediate tasks lose more than near ones", "interference_near", "sdpo", None, 1.0),
            _more("intermediate tasks lose more than far ones", "interference_far", "sdpo", None, 1.0),
        ),
    ),
    Claim(
        "C7",
        "SDPO wins early, GRPO wins late.",
        "AIME after MATH 56.42 / 44.67; average of the four tasks at the end 44.20 / 60.39; probes -16.8 % / +7.5 %",
        (
            _more("SDPO gains more on the first task", "first_gain", "sdpo", "grpo", 2.0),
            _more("GRPO ends with a higher average", "average_accuracy", "grpo", "sdpo", 0.02),
            _more("GRPO ends with better probes", "ood_change", "grpo", "sdpo", 2.0),
        ),
    ),
    Claim(
        "C7",
        "What no stage trains is lost under SDPO and kept under GRPO.",
        "LOGIC 72.15 / 89.52 (base 81.62), KNOWLEDGE 84.20 / 88.70 (base 86.02)",
        (_more("GRPO keeps more of the prior ability", "prior_change", "grpo", "sdpo", 2.0),),
    ),
    Claim(
        "C8",
        "Denser supervision drifts further in the weights.",
        "attention V after four stages: NSS 8.0e-5 / 3.0e-5, overlap of principal masks 99.1 / 99.83 %",
        (
            _more("the weights move further", "relative_norm", "sdpo", "grpo", 0.1),
            _more("singular values shift more", "nss", "sdpo", "grpo", 0.1),
            _more("principal masks overlap less", "mask_overlap", "grpo", "sdpo", 0.002),
        ),
    ),
    Claim(
        "C8",
        "A fast teacher drifts further than a frozen one.",
        "attention V: NSS 5.6e-5 / 4.9e-5 after MATH, 8.3e-5 / 8.0e-5 after four stages",
        (_more("singular values shift more", "nss", "sdpo_ema", "sdpo", 0.02),),
    ),
    Claim(
        "C9",
        "Responses move further from the base's under SDPO.",
        "median similarity on AIME after four stages .917 / .963",
        (_more("GRPO's responses stay closer", "similarity", "grpo", "sdpo", 0.01),),
    ),
    Claim(
        "C10",
        "Under a fast teacher the policy collapses into artifacts of other tasks.",
        "endless \\boxed from stage 3, average 52.55 → 0.02",
        (
            _more("the average at the end falls", "average_accuracy", "sdpo", "sdpo_ema", 0.05),
            _more("another task's format spreads", "leakage", "sdpo_ema", "sdpo", 0.02),
        ),
    ),
    Claim(
        "C10",
        "Under a fast teacher the policy collapses into repetition.",
        "the same endless repetition, of whatever format",
        (
            _more("the average at the end falls", "average_accuracy", "sdpo", "sdpo_ema", 0.05),
            _more("responses repeat themselves", "repetition", "sdpo_ema", "sdpo", 0.02),
        ),
    ),
    Claim(
        "C11",
        "Random token masks do not prevent the collapse of a fast teacher, but leave more of the other skills.",
        "TOOLUSE 0.00 with and without; average after stage 3 .05, and 1.85, 15.18, 23.51 with 25, 50, 75 % masked",
        (
            _more("it still collapses", "average_accuracy", "sdpo", "sdpo_ema_mask", 0.05),
            _more("more is left", "average_accuracy", "sdpo_ema_mask", "sdpo_ema", 0.02),
        ),
    ),
    Claim(
        "C12",
        "The pattern holds for other base models.",
        "Olmo-3-7B, MATH alone: GRPO generalises better, SDPO degrades the instruct model everywhere",
        untested="All runs start from one base model.",
    ),
    Claim(
        "C12",
        "SFT forgets more than GRPO.",
        "Qwen3-4B-Instruct: average 0.00 / 71.84 after stage 3",
        (_more("GRPO ends with a higher average", "average_accuracy", "grpo", "sft", 0.02),),
    ),
    Claim(
        "C13",
        "SDPO ends further from the base than its success needs, and further than GRPO.",
        "a theorem: the excess is never negative; no measurement",
        (
            _more("SDPO has excess divergence", "excess_kl", "sdpo", None, 0.05),
            _more("SDPO has more than GRPO", "excess_kl", "sdpo", "grpo", 0.05),
        ),
    ),
    Claim(
        "C14",
        "SDPO should not be taken for a stabiliser by default.",
        "advice",
        untested="Advice, which stands and falls with C7, C8 and C10.",
    ),
)


def check_claims(
    study: Study,
    names: Mapping[str, str] | None = None,
    draws: Draws | None = None,
    claims: Sequence[Claim] = CLAIMS,
) -> list[ClaimResult]:
    """The claims table: every claim at the paper's ratio of learning rates and at one rate for all.

    Where the runs' learning rates are not what a setting is named for, the rates stand in its place.

    Args:
        study: The runs.
        names: Role to the method that plays it, such as ``{"sdpo": "my_sdpo"}``; ``grpo_matched`` names the one at the
            matched rate. Default: methods of the roles' names.
        draws: Where values are kept.
        claims: Which.

    Returns:
        In the order of the claims; one that cannot be tested comes once.

    Raises:
        UserError: A name is given to a role that no claim has, or of a method that is not in the study.
    """
    known = {role + suffix for claim in claims for role in claim.roles for suffix in SETTINGS.values()}
    if unknown := sorted(set(names or {}) - known):
        raise UserError(f"no role {unknown[0]!r}", where="roles", fix=f"use one of: {', '.join(sorted(known))}")
    draws, results = draws or Draws(), []
    for claim in claims:
        if claim.untested:
            results.append(check(claim, {}, "", draws))
            continue
        for setting, suffix in SETTINGS.items():
            methods = {role: role if role in ONE_SETTING else role + suffix for role in claim.roles}
            reference = f"grpo{suffix}"  # its rate tells the setting even where the claim is not about it
            found = cast_of(study, [*methods.values(), reference], names)
            cast = {role: found[name] for role, name in methods.items()}
            results.append(check(claim, cast, _at(setting, {"grpo": found[reference], **cast}, study), draws))
    return results


def _at(setting: str, cast: Cast, study: Study) -> str:
    """The setting's name, or the learning rates themselves where they are not what the name promises."""
    rates = {role: study.settings(runs[0])["lr"] for role, runs in cast.items() if runs}
    if not rates or None in rates.values():
        return setting
    factor = 10 if setting == "paper's ratio" else 1
    own = [rate / (1 if role == "grpo" else factor) for role, rate in rates.items() if role not in ONE_SETTING]
    if not own or max(own) <= min(own) * 1.001:
        return setting
    return ", ".join(f"{role} at {rate:g}" for role, rate in sorted(rates.items()))
