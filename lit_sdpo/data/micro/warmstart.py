"""What the base model learns from: good and bad responses, with and without a demonstration, under every knob."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import overload

from lit_sdpo.data.micro.domain import STYLES, Domain, Form, Problem, Style, Variant
from lit_sdpo.data.micro.world import DOMAINS, DomainName, MicroWorld, problems
from lit_sdpo.data.task import Row, Split, Task
from lit_sdpo.ranges import check_integer, check_share
from lit_sdpo.rewards.base import Verdict
from lit_sdpo.rollouts.reprompt import Reprompt

_TRAINED: tuple[DomainName, ...] = ("math", "sci", "tool", "code")
_BAD: tuple[Style, ...] = ("noform", "hasty", "slip", "cross")


class WarmStartTask(Task):
    """The supervised examples that make a base model; each row's ``reference`` is the response to learn.

    Only problems of the train splits appear. The base serves every setting of the knobs, because wording, wrappers
    and the named format are drawn anew for each example.

    Args:
        world: ``skill``, ``demonstration_quality`` and ``seed`` are used; the shares below replace the other knobs.
        size: Number of examples; they are made when asked for.
        named: Share of prompts that name their answer format.
        own_wording: Share of prompts in the domain's own words.
        own_wrappers: Share of examples with the domain's own wrapper.
        prior: Share of prior abilities.
        ood: Share of out-of-distribution problems in each domain.
        demonstrated: Share of the other examples whose prompt holds a demonstration.
        reprompt: Puts a demonstration into a prompt, as for the teacher.
        name: The task's name.
    """

    def __init__(
        self,
        world: MicroWorld | None = None,
        size: int = 2**20,
        named: float = 0.6,
        own_wording: float = 0.75,
        own_wrappers: float = 0.8,
        prior: float = 0.16,
        ood: float = 0.2,
        demonstrated: float = 0.35,
        reprompt: Reprompt | None = None,
        name: str = "warm_start",
    ) -> None:
        super().__init__(name)
        check_integer("size", size, at_least=1)
        shares = {"named": named, "own_wording": own_wording, "own_wrappers": own_wrappers}
        for share, value in {**shares, "prior": prior, "ood": ood, "demonstrated": demonstrated}.items():
            check_share(share, value)
        self.world, self.size = world or MicroWorld(), size
        self.named, self.own_wording, self.own_wrappers = named, own_wording, own_wrappers
        self.prior, self.ood, self.demonstrated = prior, ood, demonstrated
        self.reprompt = reprompt or Reprompt()

    def rows(self, split: Split) -> Sequence[Row]:
        """The examples of ``train``; the base is evaluated on the micro tasks, so other splits are empty."""
        return _Examples(self) if split == "train" else ()

    def verify(self, completion: str, row: Row) -> Verdict:
        """Judge leniently, by the wrapper that the row asks for."""
        return DOMAINS[row.extra["domain"]].judge(completion, row.ground_truth, wrappers=row.extra["wrappers"])

    def example(self, index: int) -> Row:
        """The example at ``index``, which depends on it and the seed alone."""
        rng = random.Random(f"{self.world.seed}/warm_start/{index}")
        name: DomainName = "prior" if rng.random() < self.prior else rng.choice(_TRAINED)
        domain = DOMAINS[name]
        variant: Variant = "ood" if "ood" in domain.variants and rng.random() < self.ood else "train"
        problem = rng.choice(problems(name, variant, "train"))
        form = Form(
            named=rng.random() < self.named,
            wording="own" if rng.random() < self.own_wording else "shared",
            wrappers="own" if rng.random() < self.own_wrappers else "shared",
        )
        messages = [{"role": "user", "content": domain.prompt(problem, form, rng)}]
        mode = "demonstration" if name != "prior" and rng.random() < self.demonstrated else "plain"
        if mode == "demonstration":
            demonstration, style, response = self._demonstrated(domain, problem, form, rng)
            messages = self.reprompt.messages(messages, demonstration)
        else:
            style = self._style(domain, rng)
            response = self._respond(domain, problem, style, form, rng)
        return Row(
            id=f"{self.name}/{index}",
            messages=messages,
            ground_truth=problem.answer,
            verifier=f"micro/{name}",
            reference=response,
            extra={
                "problem": problem.text,
                "domain": name,
                "variant": variant,
                "mode": mode,
                "style": style,
                "named": form.named,
                "wording": form.wording,
                "wrappers": form.wrappers,
            },
        )

    def _style(self, domain: Domain, rng: random.Random, among: tuple[Style, ...] = STYLES) -> Style:
        shares = self.world.shares(domain)
        return rng.choices(among, [shares.get(style, 0.0) for style in among])[0]

    def _respond(self, domain: Domain, problem: Problem, style: Style, form: Form, rng: random.Random) -> str:
        return domain.respond(problem, style, domain.wrapper_of(form.wrappers), rng)

    def _demonstrated(self, domain: Domain, problem: Problem, form: Form, rng: random.Random) -> tuple[str, Style, str]:
        """A demonstration, and the style and text of the response to it.

        A right demonstration is mostly repeated (.70) or answered afresh (.25); a wrong one is mostly mended (.60).
        The rest is the plain mixture.
        """
        right = rng.random() < self.world.demonstration_quality
        shown: Style = ("dual" if rng.random() < 0.08 else "good") if right else self._style(domain, rng, _BAD)
        demonstration = self._respond(domain, problem, shown, form, rng)
        draw = rng.random()
        if right and draw < 0.70:
            return demonstration, shown, demonstration
        style: Style = "good" if draw < (0.95 if right else 0.60) else self._style(domain, rng)
        return demonstration, style, self._respond(domain, problem, style, form, rng)


class _Examples(Sequence[Row]):
    """The examples of a warm start, each made when asked for."""

    def __init__(self, task: WarmStartTask) -> None:
        self.task = task

    def __len__(self) -> int:
        return self.task.size

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        positions = range(len(self))[index]
        if isinstance(positions, range):
            return [self.task.example(i) for i in positions]
        return self.task.example(positions)
