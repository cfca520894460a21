"""How the cost grows along each axis: the exponent of a power law fitted to CPU seconds.

1 is linear. ``tokens`` (of a completion), ``rows`` and ``generations`` (completions of a prompt, at the same number of
prompts) are a rollout and an update; ``vocabulary`` is head and loss alone; ``tasks`` is an evaluation through the
Trainer of so many tasks. What does not grow with the axis, such as the dispatch of each decoding step or the prompts of
a larger group, pulls the exponent below 1; attention over longer rows pulls it above. Beside the exponent over the
whole range stands that of the last doubling, where constant costs weigh least.

    python -m benchmarks.scaling
"""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import lightning.pytorch as pl
import torch
from torch import Tensor

from benchmarks.common import (
    best,
    parser,
    random_model,
    random_prompts,
    random_rows,
    report,
    use_threads,
    write_additions,
)
from benchmarks.rollout import native
from benchmarks.step import Lines, module_of
from benchmarks.update import packed_loss
from lit_sdpo.callbacks.rollout.callback import RolloutCallback
from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.data.task import Row, Split, Stage
from lit_sdpo.functional import chunked_loss, ppo_loss, token_logprobs_from_logits
from lit_sdpo.policies.fused_layers import fuse
from lit_sdpo.rollouts.types import Sampling

AXES = ("tokens", "rows", "generations", "vocabulary", "tasks")


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log seconds over log sizes, by least squares.

    Example:
        >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
        2.0
    """
    x, y = [math.log(n) for n in sizes], [math.log(s) for s in seconds]
    middle, height = sum(x) / len(x), sum(y) / len(y)
    products = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True))
    return products / sum((a - middle) ** 2 for a in x)


def step(size: str, prompts: int, generations: int, tokens: int, prompt: int) -> Callable[[], None]:
    """A rollout and an update."""
    model = random_model(size)
    fuse(model)
    vocabulary = model.config.vocab_size
    ids = random_prompts([prompt] * prompts, vocabulary)
    rows = random_rows(ids, generations, vocabulary, mean=10**6, most=tokens)
    advantages = torch.ones(len(rows))

    def run() -> None:
        native(model, ids, generations, tokens)
        model.zero_grad(set_to_none=True)
        packed_loss(model, rows, advantages, rows.completion_mask.numel()).backward()

    return run


def head(vocabulary: int, tokens: int, hidden: int) -> Callable[[], None]:
    """Head and loss with their gradients."""
    weight = (torch.randn(vocabulary, hidden) / math.sqrt(hidden)).requires_grad_()
    states, ids = torch.randn(tokens, hidden, requires_grad=True), torch.randint(vocabulary, (tokens,))
    ones = torch.ones(tokens)

    def token_losses(logits: Tensor, span: slice) -> Tensor:
        logprobs = token_logprobs_from_logits(logits, ids[span])
        return ppo_loss(logprobs, logprobs.detach(), ones[span]).per_token

    def run() -> None:
        weight.grad = None
        chunked_loss(states, weight, ones, token_losses)[0].backward()

    return run


class Evaluated(Lines):
    """Lines that are validated on, under any name."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(path, "exact")
        self.name = name

    def rows(self, split: Split) -> Sequence[Row]:
        """The same rows in every split."""
        return self._rows


def evaluation(tasks: int, prompts: int, folder: str) -> Callable[[], None]:
    """An evaluation of ``tasks`` tasks with the micro model."""
    path = write_additions(folder, prompts)
    stages = [Stage(task=Evaluated(f"t{n}", str(path)), steps=1, prompts_per_step=1) for n in range(tasks)]
    data = ContinualDataModule(stages, eval_generations=4, seed=0)
    module = module_of("grpo", "micro", 1e-4)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=[RolloutCallback(num_generations=4, sampling=Sampling(max_new_tokens=32), seed=0)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )

    def run() -> None:
        trainer.validate(module, data, verbose=False)

    return run


def axis(name: str, tiny: bool, folder: str) -> dict[int, Callable[[], None]]:
    """What to run at each size of an axis."""
    size, tokens, prompt = ("tiny", 4, 8) if tiny else ("m", 64, 64)
    doubled = (1, 2) if tiny else (2, 4, 8, 16)
    if name == "tokens":
        return {n: step(size, 2, 4, n, prompt) for n in ((2, 4) if tiny else (32, 64, 128, 256))}
    if name == "rows":
        return {4 * n: step(size, n, 4, tokens, prompt) for n in doubled}
    if name == "generations":
        return {n: step(size, 4, n, tokens, prompt) for n in doubled}
    if name == "vocabulary":
        sizes = (256, 512) if tiny else (4096, 16_384, 65_536, 131_072)
        return {n: head(n, 16 if tiny else 512, 32 if tiny else 384) for n in sizes}
    return {n: evaluation(n, 2 if tiny else 32, folder) for n in ((1, 2) if tiny else (1, 2, 4, 8))}


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning says nothing inside."""
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def main() -> None:
    options = parser(__doc__, repeats=2)
    options.add_argument("--only", nargs="+", choices=AXES, default=list(AXES))
    given = options.parse_args()
    use_threads(given.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet():
        warnings.filterwarnings("ignore")
        for name in given.only:
            runs = axis(name, given.tiny, folder)
            next(iter(runs.values()))()  # whatever a first call takes
            seconds = best({str(n): run for n, run in runs.items()}, given.repeats)
            sizes, values = list(runs), list(seconds.values())
            rows.append(
                {
                    "axis": name,
                    "sizes": ", ".join(map(str, sizes)),
                    "seconds": ", ".join(f"{s:.3g}" for s in values),
                    "exponent": round(exponent(sizes, values), 2),
                    "last doubling": round(exponent(sizes[-2:], values[-2:]), 2),
                }
            )
    report("scaling", rows, threads=given.threads)


if __name__ == "__main__":
    main()
