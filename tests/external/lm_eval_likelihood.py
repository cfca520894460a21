"""Scores by likelihood against lm-evaluation-harness 0.4.13, row by row, through its own ``hf`` model.

    python -m tests.external.lm_eval_likelihood --environment /tmp/lm-eval --model FOLDER

The environment needs the network, once. Compared are multiple choice behind plain text and behind the chat template,
and texts in windows of 64 tokens. Each line that is printed is a check and what was measured; the first one that fails
ends the script with status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from lit_sdpo.likelihood.encoding import Encoder
from lit_sdpo.likelihood.scoring import token_logprobs
from lit_sdpo.likelihood.tasks import LikelihoodTask, MultipleChoiceLikelihood, TextLikelihood
from lit_sdpo.policies.load import load_policy, load_tokenizer

ROOT = Path(__file__).parents[2]
PRIOR = ROOT / "configs" / "small" / "prior"
VERSION, TORCH = "0.4.13", "2.13.0"
PROMPT = "Question: {question}\nAnswer:"
WINDOW = 64
#: Of a row's log-probability, absolute and relative: both are sums of float32 numbers in different orders.
TOLERANCE = 1e-3, 1e-5

HARNESS = """
import json, sys
from lm_eval import simple_evaluate

asked = json.loads(sys.stdin.read())
rows = {"dataset_path": "json", "test_split": "train", "num_fewshot": 0}
metrics = [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm", "acc_bytes")]
choices = {**rows, "task": "choices", "dataset_kwargs": {"data_files": asked["choices"]}, "doc_to_choice": "choices",
           "output_type": "multiple_choice", "doc_to_text": asked["prompt"].replace("{question}", "{{question}}"),
           "doc_to_target": "answer", "metric_list": metrics}
texts = {**rows, "task": "texts", "dataset_kwargs": {"data_files": asked["texts"]}, "doc_to_text": "",
         "output_type": "loglikelihood_rolling", "doc_to_target": "{{text}}",
         "metric_list": [{"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}]}
found = {}
for name, task, chat, length in (("plain", choices, False, None), ("chat", choices, True, None),
                                 ("texts", texts, False, asked["window"])):
    arguments = {"pretrained": asked["model"], "dtype": "float32"} | ({"max_length": length} if length else {})
    done = simple_evaluate(model="hf", model_args=arguments, tasks=[task], batch_size=8, device="cpu",
                           apply_chat_template=chat, log_samples=True, bootstrap_iters=0, limit=asked["rows"])
    samples = sorted(done["samples"][task["task"]], key=lambda sample: sample["doc_id"])
    found[name] = {
        "numbers": {key.partition(",")[0]: x for key, x in done["results"][task["task"]].items()
                    if isinstance(x, float)},
        "rows": [[float(answer[0]) if isinstance(answer, (list, tuple)) else float(answer)
                  for (answer,) in sample["resps"]] for sample in samples],
    }
json.dump(found, open(asked["out"], "w"))
"""


def install(folder: Path) -> Path:
    """Make the environment; gives its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    if subprocess.run([python, "-c", "import lm_eval"], capture_output=True).returncode:
        packages = [f"lm-eval=={VERSION}", f"torch=={TORCH}", "transformers", "accelerate"]
        constraints = ["-c", str(ROOT / "constraints.txt")]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *constraints, *packages], check=True)
    return python


def harness(python: Path, model: str, choices: Path, texts: list[str], rows: int | None) -> dict:
    """What lm-evaluation-harness says of all rows."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        asked = {
            "model": model,
            "choices": str(choices),
            "texts": texts,
            "prompt": PROMPT,
            "window": WINDOW,
            "rows": rows,
        }
        environment = {**os.environ, "HF_DATASETS_CACHE": folder, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        done = subprocess.run(
            [python, "-c", HARNESS],
            input=json.dumps(asked | {"out": str(out)}),
            text=True,
            capture_output=True,
            env=environment,
        )
        if done.returncode:
            sys.exit(f"lm-evaluation-harness failed:\n{done.stderr[-4000:]}")
        return json.loads(out.read_text())


def check(name: str, ours: float, theirs: float, most: float) -> None:
    """One line; ends the script where the two are further apart."""
    print(f"{name:<44} ours {ours:.6f}  lm-eval {theirs:.6f}  apart {abs(ours - theirs):.1e}", flush=True)
    if not abs(ours - theirs) <= most:
        sys.exit(f"{name}: further apart than {most}")


def compare(name: str, task: LikelihoodTask, model: str, theirs: dict) -> None:
    """Score a task and compare it, all rows and all numbers."""
    policy, encoder = load_policy(model, dtype="float32"), Encoder(load_tokenizer(model))
    rows, started = task.rows("validation"), time.perf_counter()
    requests = [task.requests(row, encoder, policy.config.max_position_embeddings) for row in rows]
    answers = iter(token_logprobs(policy, [request for row in requests for request in row]))
    values = [task.values([next(answers) for _ in row]) for row in requests]
    seconds = time.perf_counter() - started
    ours = [row if isinstance(task, MultipleChoiceLikelihood) else row[:1] for row in values]
    pairs = [(x, y) for one, other in zip(ours, theirs["rows"], strict=True) for x, y in zip(one, other, strict=True)]
    x, y = max(pairs, key=lambda pair: abs(pair[0] - pair[1]))
    check(f"{name}: furthest of {len(pairs)} log-probabilities", x, y, TOLERANCE[0] + TOLERANCE[1] * abs(y))
    for number, value in task.numbers(rows, values).items():
        if number in theirs["numbers"]:
            check(f"{name}: {number}", value, theirs["numbers"][number], 1e-3)
    print(f"{name}: {len(rows)} rows in {seconds:.1f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, required=True, help="folder of the environment, made if missing")
    parser.add_argument("--model", required=True, help="folder of a model")
    parser.add_argument("--rows", type=int, help="questions and texts that are compared; all unless given")
    options = parser.parse_args()
    texts = [str(PRIOR / f"{name}.jsonl") for name in ("prose", "instructions", "code")]
    choices = PRIOR / "choices.jsonl"
    found = harness(install(options.environment), options.model, choices, texts, options.rows)
    for name, chat in (("plain", False), ("chat", True)):
        task = MultipleChoiceLikelihood(name, str(choices), prompt=PROMPT, chat=chat, limit=options.rows)
        compare(name, task, options.model, found[name])
    compare(
        "texts", TextLikelihood("texts", list(texts), window=WINDOW, limit=options.rows), options.model, found["texts"]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
