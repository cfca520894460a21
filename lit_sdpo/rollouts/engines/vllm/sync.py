"""Keeps a vLLM server at the policy's weights, and makes sure that it predicts with them."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors import SafetensorError
from torch import Tensor

from lit_sdpo.errors import UserError
from lit_sdpo.functional import token_logprobs_from_logits
from lit_sdpo.policies.packing import Sequences
from lit_sdpo.policies.scoring import scorer
from lit_sdpo.policies.sharding import base_model, release
from lit_sdpo.rollouts.engines.vllm import server
from lit_sdpo.rollouts.engines.vllm.client import WHERE, Client, RefusedError
from lit_sdpo.rollouts.engines.vllm.sleep import Sleep
from lit_sdpo.rollouts.engines.vllm.weights import acting_state, fingerprint, moved_by_one

log = logging.getLogger(__name__)

EXTENSION = "lit_sdpo_worker.WeightReload"
#: Mean absolute difference of log-probabilities that rounding explains, by the server's dtype.
TOLERANCES = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 2e-1}
FOLDER = "rollout.engine.weights_folder"
PROBE_TOKENS = 48


class Synchroniser:
    """Brings the policy's weights to one server whenever they differ from the server's.

    Weights are compared by a name made of their content, so it does not matter what changed them: an optimizer step,
    a checkpoint that was loaded, a server that was started again. An update is: pause, write the weights to a folder
    that the server can read, let it load them, forget cached prefixes, go on. Then the server's log-probabilities of
    a fixed sequence are compared with the policy's own. The first time, weights with the vocabulary moved by one token
    come before the true ones: a server that keeps a part of the old ones is found out even where a step of training
    changes so little that no comparison would tell.

    In a distributed run all processes call :meth:`follow`; the first one talks to the server.

    Args:
        client: The server.
        folder: For the weights, as the server sees it too; ``None`` is a temporary one of this machine.
        tolerance: Largest mean absolute difference of log-probabilities; ``None`` goes by the server's dtype.
        sleep_level: How the server sleeps after :meth:`rest`; see :class:`~lit_sdpo.rollouts.engines.vllm.sleep.Sleep`.
    """

    def __init__(
        self,
        client: Client,
        folder: str | None = None,
        tolerance: float | None = None,
        sleep_level: int | None = None,
    ) -> None:
        self.client, self.tolerance = client, tolerance
        self.sleep = Sleep(client, sleep_level)
        self.folder = Path(folder or tempfile.mkdtemp(prefix="lit-sdpo-weights-")).expanduser().resolve()
        if folder is None:
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        #: Name of the weights that the server was last seen to predict with.
        self.version: str | None = None
        #: Mean absolute difference of log-probabilities when that was seen.
        self.difference = 0.0
        #: Seconds that the last update took.
        self.seconds = 0.0
        self._rehearsed: str | None = None

    def describe(self) -> dict[str, Any]:
        """What the server is; see ``lit_sdpo_worker.py``.

        Raises:
            UserError: It was started without what an update of its weights needs.
        """
        try:
            return self._call("lit_sdpo_describe")
        except RefusedError as error:
            if error.status in (404, 405):
                text, fix = "has no /collective_rpc", "start vLLM with VLLM_SERVER_DEV_MODE=1 in its environment"
            else:
                text = f"does not know this package's worker extension ({error})"
                fix = f"start vLLM with --worker-extension-cls {EXTENSION} and PYTHONPATH={server.__path__[0]}"
            raise UserError(f"the server at {self.client.url} {text}", where=WHERE, fix=fix) from error

    def follow(self, policy: Any) -> dict[str, Any]:
        """Make sure that the server is awake and predicts with the policy's weights; returns its description.

        Args:
            policy: In eval mode or not; it is scored in eval mode.

        Raises:
            UserError: The server is gone, was started without a flag that is needed, or does not take the weights.
        """
        release(policy)
        version = fingerprint(policy)
        described = _first_process(lambda: self._look(policy))
        if described["weights"] == version and self.version == version:
            self.sleep.make_room()
            _first_process(self.sleep.wake)
            return described
        state = acting_state(policy, keep=_is_first())
        ids, expected = self._probe(policy)
        release(policy)  # the forward pass has gathered what the process does not own
        self.sleep.make_room()
        self.difference = _first_process(lambda: self._update(policy, state, version, described, ids, expected))
        self.version = version
        return {**described, "weights": version}

    def rest(self) -> None:
        """Leave the server's memory to the trainer, where that is wanted; all processes call it, none has requests."""
        if self.sleep.level is not None:
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
            _first_process(self._rest)

    def leave(self) -> None:
        """Leave a server that sleeps awake, with the weights that it had last; says so in the log where it fails.

        No process waits for another, so it may be called after any failure.
        """
        if not (self.sleep.asleep and _is_first()):
            return
        torch.cuda.empty_cache()
        try:
            with self.client.hurried():
                self.sleep.wake("weights")
                if self.version is not None and self.describe()["weights"] is None:
                    self._load(self.folder / f"weights-{self.version}", self.version)
                self.sleep.wake("kv_cache")
        except UserError as error:
            log.warning("the server is left asleep, the next run wakes it: %s", error)

    def check(self) -> None:
        """Make sure that what was just drawn came from the weights that were sent.

        Raises:
            UserError: The server has started again or somebody else has changed its weights meanwhile.
        """
        found = self.describe()["weights"]
        if found != self.version:
            reason = "was started again" if found is None else "got other weights from another run"
            text = f"the server at {self.client.url} {reason} while completions were drawn"
            raise UserError(text, where=WHERE, fix="use it for one run at a time, and go on with --ckpt_path last")

    def _look(self, policy: Any) -> dict[str, Any]:
        described = self.describe()
        own = base_model(policy).config.get_text_config().vocab_size
        if described["vocabulary"] != own:
            text = f"the server's model has {described['vocabulary']} tokens, the policy {own}"
            raise UserError(text, where=WHERE, fix="start vLLM with the folder or name that model.model_name has")
        self.sleep.look(described)
        return described

    def _rest(self) -> None:
        if self.sleep.level == 2:  # beforehand: whoever comes next must not believe that it has any
            self._call("lit_sdpo_forget")
        self.sleep.begin()

    def _update(
        self,
        policy: Any,
        state: dict[str, Tensor],
        version: str,
        described: dict[str, Any],
        ids: list[int],
        own: Tensor,
    ) -> float:
        began = time.monotonic()
        self.sleep.wake("weights")
        tolerance = self.tolerance or TOLERANCES.get(described["dtype"], TOLERANCES["bfloat16"])
        if self._rehearsed != described["process"]:
            vocabulary = described["vocabulary"]
            self._push(policy, moved_by_one(policy, state), f"rehearsal-{version}")
            self._verify([(token + 1) % vocabulary for token in ids], own, tolerance, described)
            self._rehearsed = described["process"]
        self._push(policy, state, version)
        difference = self._verify(ids, own, tolerance, described)
        self.seconds = time.monotonic() - began
        log.info("vLLM has the weights %s after %.2f s; mean difference %.2g", version, self.seconds, difference)
        return difference

    def _push(self, policy: Any, state: dict[str, Tensor], version: str) -> None:
        target = self.folder / f"weights-{version}"
        self._write(policy, state, target)
        self._require("/pause?mode=keep")
        try:
            self._load(target, version)
            for _ in range(20):  # blocks of requests that have just ended may still be held
                answer = self._require("/reset_prefix_cache")
                if not isinstance(answer, dict) or answer.get("success", True):
                    break
                time.sleep(0.1)
            else:
                raise UserError("the server keeps prefixes of older weights in its cache", where=WHERE)
            self.sleep.wake("kv_cache")  # and not before: loading may need its room
        finally:
            self._require("/resume")
        for path in self.folder.glob("weights-*"):
            if path != target:
                shutil.rmtree(path, ignore_errors=True)

    def _write(self, policy: Any, state: dict[str, Tensor], target: Path) -> None:
        unfinished = self.folder / ".unfinished"
        for path in (unfinished, target):
            shutil.rmtree(path, ignore_errors=True)
        try:
            unfinished.mkdir(parents=True)
            base_model(policy).save_pretrained(unfinished, state_dict=state)
            unfinished.rename(target)
        except (OSError, SafetensorError) as error:
            text = f"the weights cannot be written ({error})"
            fix = f"give a folder with {sum(t.nbytes for t in state.values()) / 2**30:.1f} GiB to spare, twice over"
            raise UserError(text, where=FOLDER, fix=fix) from error

    def _load(self, folder: Path, version: str) -> None:
        try:
            failure = self._call("lit_sdpo_load", folder=str(folder), version=version).get("error")
        except RefusedError as error:
            failure = f"the server could not load the weights ({error}); its log says more"
        if failure:
            fix = "both must see the folder under the same name: set the engine's weights_folder to one that they share"
            raise UserError(failure, where=FOLDER, fix=fix)

    def _require(self, path: str) -> Any:
        try:
            return self.client.post(path)
        except RefusedError as error:
            text = f"the server at {self.client.url} refuses {path} ({error})"
            fix = "use vLLM 0.29 or later, with VLLM_SERVER_DEV_MODE=1 in its environment"
            raise UserError(text, where=WHERE, fix=fix) from error

    def _call(self, method: str, **arguments: str) -> dict[str, Any]:
        answers = self.client.post("/collective_rpc", {"method": method, "kwargs": arguments})["results"]
        failed = [answer for answer in answers if "error" in answer]
        return (failed or answers)[0]  # type: ignore[no-any-return]

    @staticmethod
    def _probe(policy: Any) -> tuple[list[int], Tensor]:
        """A fixed sequence of tokens, and the policy's log-probabilities of all but the first."""
        vocabulary = base_model(policy).config.get_text_config().vocab_size
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(vocabulary, (PROBE_TOKENS,), generator=generator)
        rest = ids[1:].to(policy.device)
        score = scorer(policy, Sequences([[int(ids[0])]], rest[None], torch.ones_like(rest[None], dtype=torch.bool)))
        return ids.tolist(), token_logprobs_from_logits(score(slice(0, len(rest))), rest).cpu()

    def _verify(self, ids: list[int], own: Tensor, tolerance: float, described: dict[str, Any]) -> float:
        found = prompt_logprobs(self.client, ids)
        difference = float((found - own).abs().mean())
        if difference <= tolerance:  # and not where it is nan
            return difference
        raise UserError(
            f"after an update of its weights the server predicts something else than the policy: log-probabilities of a"
            f" fixed sequence differ by {difference:.3g} on average, {described['dtype']} explains {tolerance:.2g}",
            where=WHERE,
            fix="the server keeps a part of the old weights (a head that shares the embedding's is the usual one), or"
            " runs another model, dtype or quantisation: start it with the policy's model folder, --dtype as the"
            " policy's and no quantisation; another vLLM version may load in another way",
        )


def prompt_logprobs(client: Client, ids: list[int]) -> Tensor:
    """A server's log-probabilities of a sequence's tokens after the first, float32 [T - 1]."""
    body = {
        "prompt": ids,
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 0,
        "return_tokens_as_token_ids": True,
    }
    try:
        positions = client.post("/v1/completions", body)["choices"][0]["prompt_logprobs"]
    except RefusedError as error:
        raise UserError(f"the server does not score a prompt ({error})", where=WHERE) from error
    pairs = zip(ids[1:], positions[1:], strict=True)
    return torch.tensor([position[str(token)]["logprob"] for token, position in pairs])


def _is_first() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _first_process(action: Any) -> Any:
    """What ``action`` gives on the first process, or its failure, on all of them."""
    outcome: list[Any] = [None, None]
    own: Exception | None = None
    if _is_first():
        try:
            outcome[0] = action()
        except Exception as error:
            own = error
            outcome[1] = error if isinstance(error, UserError) else RuntimeError(f"the first process failed: {error!r}")
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(outcome)
    if own is not None or outcome[1] is not None:
        raise own or outcome[1]
    return outcome[0]
