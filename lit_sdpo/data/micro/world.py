"""The knobs of the micro world and the register of its domains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from lit_sdpo.data.micro.code import Code
from lit_sdpo.data.micro.domain import Domain, Form, Position, Problem, Style, Variant
from lit_sdpo.data.micro.math import Math
from lit_sdpo.data.micro.prior import Prior
from lit_sdpo.data.micro.sci import Sci
from lit_sdpo.data.micro.tool import Tool
from lit_sdpo.data.task import Split
from lit_sdpo.errors import UserError
from lit_sdpo.ranges import check_number, check_seed, check_share

DomainName = Literal["math", "sci", "tool", "code", "prior"]

DOMAINS: dict[DomainName, Domain] = {"math": Math(), "sci": Sci(), "tool": Tool(), "code": Code(), "prior": Prior()}


_CHOICES = {
    "format_named": ("always", "sometimes", "never"),
    "wording": ("own", "shared"),
    "wrappers": ("own", "shared"),
}


@dataclass(frozen=True, kw_only=True)
class MicroWorld:
    r"""What can be turned in the micro world.

    Attributes:
        format_named: Whether a prompt ends with the sentence that names its answer format, such as
            ``Use \boxed{}.``; ``sometimes`` names it for half of the problems, always the same half.
        wording: ``own``: each domain asks in its own words. ``shared``: every domain asks ``Task: <request>``, so the
            request alone tells the domains apart.
        wrappers: ``own``: ``\boxed{}`` for math, ``<answer>`` for sci, ``Action:`` for tool, a fence for code.
            ``shared``: sci answers in ``\boxed{}`` like math. A call or a program does not fit in a box: tool and code
            keep theirs.
        strict: Verifiers refuse foreign wrappers and any text after the answer; otherwise anything may surround it.
        skill: Multiplies the share of good responses in the warm start, whose shares at 1 are .40 (math), .34 (sci)
            and .36 (tool, code); the other styles share the rest in fixed proportions.
        demonstration_quality: Share of right demonstrations among the warm start's demonstrations.
        seed: Decides wordings, option orders and the warm start's draws; never the problems or their splits.
    """

    format_named: Literal["always", "sometimes", "never"] = "always"
    wording: Position = "own"
    wrappers: Position = "own"
    strict: bool = False
    skill: float = 1.0
    demonstration_quality: float = 0.85
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        for name, values in _CHOICES.items():
            if getattr(self, name) not in values:
                raise UserError(
                    f"{getattr(self, name)!r} is not a value",
                    where=f"MicroWorld.{name}",
                    fix=f"use one of: {', '.join(values)}",
                )
        check_number("skill", self.skill, at_least=0, at_most=2.5)
        check_share("demonstration_quality", self.demonstration_quality)
        check_seed("seed", self.seed)

    def form(self, problem: Problem) -> Form:
        """How this world puts a problem."""
        half = int(problem.digest[:8], 16) % 2 == 0
        named = self.format_named == "always" or (self.format_named == "sometimes" and half)
        return Form(named=named, wording=self.wording, wrappers=self.wrappers)

    def shares(self, domain: Domain) -> dict[Style, float]:
        """The style mixture of a domain's plain responses; adds up to one."""
        good = domain.shares["good"]
        scaled = min(1.0, good * self.skill) if good < 1 else 1.0
        rest = (1 - scaled) / (1 - good) if good < 1 else 0.0
        return {style: scaled if style == "good" else share * rest for style, share in domain.shares.items()}


@cache
def _all_problems(domain: DomainName, variant: Variant) -> dict[Split, tuple[Problem, ...]]:
    found = sorted(DOMAINS[domain].problems(variant), key=lambda problem: problem.digest)
    splits: tuple[Split, ...] = ("train", "validation", "test")
    return {split: tuple(problem for problem in found if problem.split == split) for split in splits}


def problems(domain: DomainName, variant: Variant, split: Split) -> tuple[Problem, ...]:
    """The problems of one split in the order of their digests: any beginning of it is a fair sample."""
    return _all_problems(domain, variant)[split]
