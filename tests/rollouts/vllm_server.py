"""A server in a thread that answers as vLLM does, with a small Transformers model and the real worker extension."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from lit_sdpo.rollouts.engines.vllm.server.lit_sdpo_worker import WeightReload
from lit_sdpo.rollouts.sampling import sample
from lit_sdpo.rollouts.types import Sampling


class UnquantizedEmbeddingMethod:
    """Packs the head, as vLLM's class of this name does on a CPU."""

    def process_weights_after_loading(self, module):
        module.packed = module.weight.detach().clone()


class Worker(WeightReload):
    """A worker on a CPU: its head is packed once, when the model is loaded, and nobody packs it again."""

    def __init__(self, folder, **config):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.head = self.model.get_output_embeddings()
        self.head.quant_method = UnquantizedEmbeddingMethod()
        self.head.quant_method.process_weights_after_loading(self.head)
        self.model_runner = SimpleNamespace(get_model=lambda: self.model)
        settings = {"logprobs_mode": "processed_logprobs", "max_model_len": 1024, "chunked": False, "sleep_mode": False}
        settings |= config
        self.asleep = set()
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(
                get_vocab_size=lambda: self.model.config.vocab_size,
                max_model_len=settings["max_model_len"],
                dtype=torch.float32,
                logprobs_mode=settings["logprobs_mode"],
                enable_sleep_mode=settings["sleep_mode"],
            ),
            scheduler_config=SimpleNamespace(enable_chunked_prefill=settings["chunked"]),
            device_config=SimpleNamespace(device_type="cpu"),
        )

    def fall_asleep(self, level):
        """Without sleep mode nothing is given up, and nobody is told."""
        if self.vllm_config.model_config.enable_sleep_mode:
            self.asleep = {"weights", "kv_cache"}
            if level == 2:
                for parameter in self.model.parameters():
                    parameter.data.fill_(torch.nan)
                self.head.quant_method.process_weights_after_loading(self.head)

    def reload_weights(self, weights_path):
        assert "weights" not in self.asleep
        state = {}
        for file in Path(weights_path).glob("*.safetensors"):
            state |= load_file(file)
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        assert not unexpected
        assert set(missing) <= {"lm_head.weight"}
        self.model.tie_weights()

    @torch.no_grad()
    def logits(self, ids):
        assert not self.asleep
        hidden = self.model.model(torch.tensor(ids)).last_hidden_state
        return hidden @ self.head.packed.T


def filtered(logits, sampling):
    """What is left of the logits; vLLM applies min-p before top-k and top-p."""
    if sampling.temperature == 0:
        return logits
    scores = logits / sampling.temperature
    if sampling.min_p:
        scores = MinPLogitsWarper(sampling.min_p)(None, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    return logits.masked_fill(scores == -torch.inf, -torch.inf)


class FakeServer:
    """``vllm serve`` as far as rollouts know it."""

    def __init__(self, folder, *, extension=True, dev_mode=True, cure=True, sleep_paths=True, **config):
        self.folder, self.config, self.sleep_paths = folder, config, sleep_paths
        self.extension, self.dev_mode, self.cure = extension, dev_mode, cure
        self.requests, self.bodies = [], []
        self.paused = False
        self.failures = []  # statuses to answer completions with, before real answers
        self.delay = 0.0
        self.start_again()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = urlsplit(self.path)
                asked = self.path if path.path in ("/sleep", "/wake_up") else path.path
                status, answer = server.answer(asked, json.loads(body) if body else None)
                data = b"" if answer is None else json.dumps(answer).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # the client has gone

            do_GET = do_POST

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def start_again(self):
        """Forget all weights that were sent."""
        self.worker = Worker(self.folder, **self.config)
        if not self.cure:
            self.worker.head.quant_method = None

    def stop(self):
        self.http.shutdown()
        self.http.server_close()

    def answer(self, path, body):
        self.requests.append(path)
        if path == "/v1/completions":
            self.bodies.append(body)
            time.sleep(self.delay)
            if self.failures:
                return self.failures.pop(0), {"error": "not now"}
            assert not self.paused
            return 200, {"choices": self.complete(body)}
        if not self.dev_mode:
            return 404, {"detail": "Not Found"}
        if path == "/collective_rpc":
            if body["method"].startswith("lit_sdpo") and not self.extension:
                return 500, {"error": f"no method {body['method']}"}
            return 200, {"results": [getattr(self.worker, body["method"])(**body["kwargs"])]}
        if path.startswith(("/is_sleeping", "/sleep", "/wake_up")):
            return self.take_turns(path) if self.sleep_paths else (404, {"detail": "Not Found"})
        self.paused = path == "/pause" or (self.paused and path != "/resume")
        return 200, {"success": True}

    def take_turns(self, path):
        if path.startswith("/sleep"):
            self.worker.fall_asleep(int(path.removeprefix("/sleep?level=")))
        elif path.startswith("/wake_up"):
            self.worker.asleep.discard(path.removeprefix("/wake_up?tags="))
        self.paused = bool(self.worker.asleep)
        return 200, {"is_sleeping": self.paused}

    def complete(self, body):
        if "prompt_logprobs" in body:
            ids = body["prompt"]
            found = self.worker.logits([ids])[0].log_softmax(-1)
            scores = [{str(t): {"logprob": float(found[k, t])}} for k, t in enumerate(ids[1:])]
            return [{"index": 0, "prompt_logprobs": [None, *scores]}]
        sampling = Sampling(**{name: body[name] for name in ("temperature", "top_k", "top_p", "min_p")})
        assert body["n"] == 1 or body["temperature"]
        choices = [self.draw(body, sampling, body.get("seed", 0) + number) for number in range(body["n"])]
        return [{"index": number} | choice for number, choice in reversed(list(enumerate(choices)))]

    def draw(self, body, sampling, seed):
        generator = torch.Generator().manual_seed(seed)
        ids, logprobs = [], []
        while len(ids) < body["max_tokens"]:
            logits = self.worker.logits([body["prompt"] + ids])[:, -1]
            left = filtered(logits, sampling)
            token, logprob, _ = sample(
                left, Sampling(temperature=sampling.temperature), torch.rand(1, generator=generator)
            )
            ids.append(int(token))
            logprobs.append(float(logprob))
            if ids[-1] in body["stop_token_ids"]:
                break
        reason = "stop" if ids[-1] in body["stop_token_ids"] else "length"
        return {"token_ids": ids, "finish_reason": reason, "logprobs": {"token_logprobs": logprobs}}
