"""The vLLM rollout engine: completions from a server that follows the policy's weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from transformers import PreTrainedModel

from lit_sdpo.errors import UserError
from lit_sdpo.ranges import check_integer, check_number
from lit_sdpo.rollouts.engines.base import Call, Completions, RolloutEngine, Sampling
from lit_sdpo.rollouts.engines.vllm.answers import Ahead, Row, completions_of, repeated
from lit_sdpo.rollouts.engines.vllm.client import RESUME, WHERE, Client, RefusedError
from lit_sdpo.rollouts.engines.vllm.pending import Pending
from lit_sdpo.rollouts.engines.vllm.sync import Synchroniser


class VLLMEngine(RolloutEngine):
    """Samples from a ``vllm serve`` that somebody has started; ``docs/vllm.md`` has the command.

    Before the rollouts of a step, and before an evaluation, the server gets the policy's weights if it has others, and
    is checked to predict with them. All processes of a run ask the same server, each for its own prompts. Token ids go
    in and come out, so nothing is encoded twice.

    The native engine's law that a row's tokens depend on its seed and distribution alone cannot be kept: a server
    batches as requests arrive, which moves probabilities in their last digits. Each prompt's request carries the seed
    of its first row, and the server derives those of the others, so a run is repeatable as far as the server's
    arithmetic is. Log-probabilities are the server's own; losses weigh tokens by the ratio of the policy to them.

    Args:
        url: Of the server.
        weights_folder: For the weights, on a disk that server and trainer see under the same name; ``None`` takes a
            temporary folder, which is enough on one machine. One run at a time uses it.
        timeout: Seconds that one prompt's completions may take.
        patience: Seconds that the server may be unreachable before the run ends.
        concurrency: Prompts that each process asks for at once.
        seeded: Send seeds. ``False`` is faster on GPUs and not repeatable.
        tolerance: Largest mean absolute difference between the server's and the policy's log-probabilities after an
            update; ``None`` goes by the server's dtype.
        sleep_level: For a server on the trainer's own GPU, which then has its memory only from before the rollouts of a
            step, or an evaluation, to their end. 1 keeps its weights in CPU memory meanwhile, 2 gives them up; ``None``
            leaves it awake.

    Raises:
        UserError: The server is gone or silent, was started without a flag that is needed, or predicts with other
            weights than it was given.
    """

    #: It keeps a copy of the weights.
    can_ask_ahead = True
    #: As vLLM's sampler applies them.
    filter_order = ("min_p", "top_k", "top_p")

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        weights_folder: str | None = None,
        timeout: float = 1800.0,
        patience: float = 60.0,
        concurrency: int = 64,
        seeded: bool = True,
        tolerance: float | None = None,
        sleep_level: int | None = None,
    ) -> None:
        check_number("timeout", timeout, above=0)
        check_number("patience", patience, at_least=0)
        check_integer("concurrency", concurrency, at_least=1)
        check_number("tolerance", tolerance, at_least=0, optional=True)
        check_integer("sleep_level", sleep_level, at_least=1, at_most=2, optional=True)
        self.client = Client(url, timeout=timeout, patience=patience)
        self.synchroniser = Synchroniser(self.client, weights_folder, tolerance, sleep_level)
        self.concurrency, self.seeded, self.sleep_level = concurrency, seeded, sleep_level
        self._server: dict[str, Any] | None = None
        self._pending: Pending[list[list[Row]]] | None = None

    @contextmanager
    def holding(self, policy: PreTrainedModel) -> Iterator[None]:
        """Inside, the server has the policy's weights; all processes enter at the same time.

        What was asked ahead is answered first, by all processes, so that weights never change within a completion. With
        a ``sleep_level`` the server sleeps before and after, but for a failure inside.
        """
        if self._server is not None:
            yield
            return
        self._settle()
        self._server = self.synchroniser.follow(policy)
        try:
            yield
        finally:
            self._server = None
        self.synchroniser.rest()

    def leave(self) -> None:
        """The run is over or has failed: a server that sleeps is woken, for whoever comes next."""
        self._server = None
        self.synchroniser.leave()

    def generate(
        self,
        policy: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        *,
        num_generations: int,
        sampling: Sampling,
        seeds: Tensor,
        end_ids: Sequence[int],
        pad_id: int,
    ) -> Completions:
        """Sample ``num_generations`` completions for each of P prompts.

        Args:
            policy: The policy whose weights the server is to have.
            prompts: Token ids of the P prompts.
            num_generations: Completions per prompt, G.
            sampling: How tokens are drawn. Where both are set, the server applies ``min_p`` before ``top_p``.
            seeds: One int64 seed per row, [P·G]; the first of each prompt counts.
            end_ids: Tokens that end a completion.
            pad_id: Fills ``ids`` beyond a row's length.

        Raises:
            UserError: See the class.
        """
        with self.holding(policy):
            rows = self._answer(self._bodies(prompts, num_generations, sampling, seeds, end_ids))
        return completions_of(repeated(rows, num_generations, sampling), end_ids, pad_id, seeds.device)

    def ahead(self, policy: PreTrainedModel, calls: Sequence[Call]) -> Ahead:
        """Ask for the completions of some calls of :meth:`generate` with the weights of now, and do not wait.

        A thread asks the server. The next :meth:`holding` waits for it before weights change.

        Args:
            policy: The policy whose weights the server is to have.
            calls: The further arguments of each call.

        Raises:
            UserError: See the class; what the thread raises comes from the one who waits.
        """
        with self.holding(policy):
            bodies = [
                self._bodies(call["prompts"], call["num_generations"], call["sampling"], call["seeds"], call["end_ids"])
                for call in calls
            ]
            pending = Pending(self.client, lambda: self._answer([body for some in bodies for body in some]))
        self._pending = pending
        return Ahead(pending, calls, [len(some) for some in bodies])

    def _settle(self) -> None:
        """Wait for what was asked ahead, on all processes."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.wait()
            if torch.distributed.is_initialized():
                torch.distributed.barrier()

    @property
    def version(self) -> str | None:
        """Name of the weights that the server has; it is made of their content."""
        return None if self._server is None else self._server["weights"]

    def _bodies(
        self,
        prompts: Sequence[Sequence[int]],
        num_generations: int,
        sampling: Sampling,
        seeds: Tensor,
        end_ids: Sequence[int],
    ) -> list[dict[str, Any]]:
        """The request of each prompt."""
        if tuple(seeds.shape) != (len(prompts) * num_generations,):
            raise ValueError(f"seeds must have shape ({len(prompts) * num_generations},), got {tuple(seeds.shape)}")
        self._check(prompts, sampling)
        first = seeds.view(len(prompts), num_generations)[:, 0].tolist() if len(prompts) else []
        return [
            self._body(prompt, num_generations, sampling, seed, end_ids)
            for prompt, seed in zip(prompts, first, strict=True)
        ]

    def _check(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
        """Whether the server was started for what is asked of it."""
        server: dict[str, Any] = self._server  # type: ignore[assignment]
        longest = max(map(len, prompts), default=0) + sampling.max_new_tokens
        if longest > server["max_model_len"]:
            raise UserError(
                f"prompt and completion can have {longest} tokens, the server reads {server['max_model_len']}",
                where=WHERE,
                fix=f"start vLLM with --max-model-len {longest} or more, or lower rollout.sampling.max_new_tokens",
            )
        if server["logprobs_mode"] != "processed_logprobs":
            raise UserError(
                f"the server's log-probabilities are of another distribution ({server['logprobs_mode']})",
                where=WHERE,
                fix="start vLLM with --logprobs-mode processed_logprobs",
            )
        if self.seeded and server["device"] == "cpu" and server["chunked_prefill"]:
            raise UserError(
                "a server on a CPU that reads prompts in chunks ends with the first request that has a seed",
                where=WHERE,
                fix="start vLLM with --no-enable-chunked-prefill, or set the engine's seeded to false",
            )

    def _body(
        self, prompt: Sequence[int], count: int, sampling: Sampling, seed: int, end_ids: Sequence[int]
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "prompt": list(prompt),
            "n": count if sampling.temperature else 1,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            # All that a model's own generation configuration could add.
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "ignore_eos": True,
            "stop_token_ids": list(end_ids),
            "logprobs": 0,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }
        # The server adds the number of the completion, so the sum has to stay within 63 bits.
        return body | {"seed": seed & (2**62 - 1)} if self.seeded else body

    def _answer(self, bodies: Sequence[dict[str, Any]]) -> list[list[Row]]:
        """The rows of each request, all from the weights that the server is known to have."""
        answers = self._ask_all(bodies)
        if answers:
            self.synchroniser.check()
        return answers

    def _ask_all(self, bodies: Sequence[dict[str, Any]]) -> list[list[Row]]:
        """One request for each prompt, some at a time; a failure ends them all."""
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="vllm")
        try:
            return [answer.result() for answer in [pool.submit(self._ask, body) for body in bodies]]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            self.client.interrupt()
            raise
        finally:
            pool.shutdown()
            self.client.ready()

    def _ask(self, body: dict[str, Any]) -> list[Row]:
        try:
            choices = self.client.post("/v1/completions", body)["choices"]
        except RefusedError as error:
            text = f"the server has not answered a prompt ({error})"
            raise UserError(text, where=WHERE, fix=RESUME) from error
        rows = []
        for choice in sorted(choices, key=lambda choice: choice["index"]):
            if choice.get("token_ids") is None or choice["finish_reason"] not in ("stop", "length"):
                text = f"a completion came back without its tokens (finish reason {choice['finish_reason']!r})"
                raise UserError(text, where=WHERE, fix=RESUME)
            rows.append((choice["token_ids"], choice["logprobs"]["token_logprobs"]))
        if len(rows) != body["n"]:
            raise UserError(f"the server gave {len(rows)} completions instead of {body['n']}", where=WHERE, fix=RESUME)
        return rows
