"""A server that shares its GPU with the trainer: awake while it answers, asleep while an update runs."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
import torch.distributed

from lit_sdpo.errors import UserError
from lit_sdpo.rollouts.engines.vllm.client import WHERE, Client, RefusedError

log = logging.getLogger(__name__)

#: Parts of a server's memory, in the order in which they are needed.
PARTS = ("weights", "kv_cache")
FLAGS = "start vLLM on a GPU with --enable-sleep-mode, and VLLM_SERVER_DEV_MODE=1 in its environment"


class Sleep:
    """Who has the memory of a GPU that server and trainer share.

    Args:
        client: The server.
        level: What the server does with its weights while it sleeps: 1 keeps them in CPU memory, 2 gives them up. The
            KV cache is given up at both. ``None`` never puts it to sleep, and still wakes one that was left asleep.

    Attributes:
        asleep: Parts of its memory that the server lacks, as the first process knows.
    """

    def __init__(self, client: Client, level: int | None = None) -> None:
        if level not in (None, 1, 2):
            raise ValueError(f"sleep_level must be 1, 2 or None, got {level}")
        self.client, self.level = client, level
        self.asleep: tuple[str, ...] = ()

    def look(self, described: dict[str, Any]) -> None:
        """Find out whether the server sleeps.

        Args:
            described: What ``lit_sdpo_describe`` gives.

        Raises:
            UserError: It cannot sleep and is to.
        """
        if described.get("sleep_mode"):
            self.asleep = PARTS if self._ask("/is_sleeping", self.client.get)["is_sleeping"] else ()
        elif self.level is not None:
            # It would say yes to /sleep and free nothing.
            text = f"the server at {self.client.url} was started without sleep mode"
            raise UserError(text, where=f"{WHERE}, sleep_level", fix=f"{FLAGS}, or set sleep_level to null")

    def make_room(self) -> None:
        """Give the driver what this process has cached and does not use; all processes call it."""
        if self.level is not None:
            torch.cuda.empty_cache()
            if torch.distributed.is_initialized():
                torch.distributed.barrier()

    def wake(self, *parts: str) -> None:
        """Give the server its memory for some parts again, all without a name; weights of level 2 come back empty."""
        for part in parts or PARTS:
            if part in self.asleep:
                began = time.monotonic()
                self._ask(f"/wake_up?tags={part}", self.client.post)
                self.asleep = tuple(other for other in self.asleep if other != part)
                log.info("vLLM has its memory for %s again after %.2f s", part, time.monotonic() - began)

    def begin(self) -> None:
        """Put the server to sleep. Nobody may take memory meanwhile: vLLM ends if it sees less free than before."""
        began = time.monotonic()
        self.asleep = PARTS  # also where the answer is lost; to wake one that is awake does nothing
        self._ask(f"/sleep?level={self.level}", self.client.post)
        log.info("vLLM sleeps at level %d after %.2f s", self.level, time.monotonic() - began)

    def _ask(self, path: str, how: Any) -> Any:
        try:
            return how(path)
        except RefusedError as error:
            if error.status in (404, 405):
                text, fix = f"has no {path.partition('?')[0]}", FLAGS
            else:
                text = f"refuses {path} ({error})"
                fix = (
                    "its log says more; where memory is short, start it with a lower --gpu-memory-utilization, which"
                    " leaves room for the trainer's weights, gradients and optimizer state"
                )
            raise UserError(f"the server at {self.client.url} {text}", where=WHERE, fix=fix) from error
