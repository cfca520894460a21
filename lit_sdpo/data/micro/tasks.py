"""The tasks of the micro world: four to train on, their out-of-distribution probes, and prior abilities."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from lit_sdpo.data.micro.domain import SIGNS, Problem, Variant
from lit_sdpo.data.micro.world import DOMAINS, DomainName, MicroWorld, problems
from lit_sdpo.data.task import Row, Split, Task
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.base import Verdict


class MicroTask(Task):
    """One domain of the micro world.

    Args:
        domain: ``math``, ``sci``, ``tool``, ``code``, or the ``prior`` abilities that are only evaluated.
        variant: ``ood`` asks harder problems: more operands, new animals and options, two arguments, three operations.
        world: The knobs.
        name: Default: the domain, followed by ``_ood`` for that variant.

    Example:
        >>> task = MicroTask("math")
        >>> row = task.rows("validation")[0]
        >>> task.verify(row.reference, row).score
        1.0
    """

    def __init__(
        self, domain: DomainName, variant: Variant = "train", world: MicroWorld | None = None, name: str | None = None
    ) -> None:
        if domain not in DOMAINS:
            known = ", ".join(DOMAINS)
            raise UserError(f"no such domain {domain!r}", where="MicroTask.domain", fix=f"use one of: {known}")
        if variant not in DOMAINS[domain].variants:
            known = ", ".join(DOMAINS[domain].variants)
            where = "MicroTask.variant"
            raise UserError(f"{domain} has no variant {variant!r}", where=where, fix=f"use one of: {known}")
        usual = domain if variant == "train" else f"{domain}_{variant}"
        super().__init__(usual if name is None else name)
        self.domain, self.variant, self.world = domain, variant, world or MicroWorld()
        wrapper = DOMAINS[domain].wrapper_of(self.world.wrappers)
        self.markers = (re.escape(SIGNS[wrapper]),) if wrapper else ()
        self._rows: dict[Split, list[Row]] = {}

    def rows(self, split: Split) -> Sequence[Row]:
        """The rows of one split, built on first use; any beginning of them is a fair sample."""
        if split not in self._rows:
            self._rows[split] = [self._row(problem) for problem in problems(self.domain, self.variant, split)]
        return self._rows[split]

    def verify(self, completion: str, row: Row) -> Verdict:
        """Judge one completion by the world's wrappers and strictness. Never raises on any text."""
        domain = DOMAINS[self.domain]
        return domain.judge(completion, row.ground_truth, wrappers=self.world.wrappers, strict=self.world.strict)

    def _row(self, problem: Problem) -> Row:
        domain, form = DOMAINS[self.domain], self.world.form(problem)
        rng = random.Random(f"{self.world.seed}/{problem.digest}")
        prompt = domain.prompt(problem, form, rng)
        return Row(
            id=f"{self.domain}/{problem.digest[:12]}",
            messages=({"role": "user", "content": prompt},),
            ground_truth=problem.answer,
            verifier=f"micro/{self.domain}",
            reference=domain.respond(problem, "good", domain.wrapper_of(form.wrappers), rng),
            extra={"problem": problem.text},
        )
