# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The paper's claims
#
# Two parts. The theory behind "denser is not better" on a space small enough to compute everything exactly, and how
# claims are decided from runs: which statement, which measure, which interval, which verdict. The runs here are a few
# steps long, so that the page runs in less than a minute; `make claims` does the same at full length.

# %%
import json
import logging
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lit_sdpo.cli import main
from lit_sdpo.functional import excess_kl as razor
from lit_sdpo.report.charts.retention import matrices
from lit_sdpo.report.charts.streams import streams
from lit_sdpo.report.claims import check_claims
from lit_sdpo.report.study import Study
from lit_sdpo.report.table_files import claims_markdown

warnings.filterwarnings("ignore", ".*LeafSpec")  # raised inside Lightning
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
scratch = TemporaryDirectory()  # for what the runs write; it goes with the last cell

# %% [markdown]
# ## What success costs at least
#
# All sequences of three tokens over an alphabet of three, a base policy `P0` over them, and a set of successes. Among
# all policies with success rate `alpha`, one stays nearest to the base: it raises every success by the same factor
# and lowers every failure by the same factor. Its distance is the binary KL divergence of the two success rates.

# %%
generator = torch.Generator().manual_seed(0)
base = torch.randn(3, 3, 3, generator=generator, dtype=torch.float64).flatten().softmax(0).view(3, 3, 3)
success = torch.rand(3, 3, 3, generator=generator) < 0.4
z = base[success].sum()
print(f"the base succeeds with probability {z:.3f}")
for alpha in (0.6, 0.8, 0.95):
    nearest = razor.razor_policy(base, success, alpha)
    print(f"alpha {alpha}: {razor.kl(nearest, base):.6f} = {razor.binary_kl(torch.tensor(alpha), z):.6f}")

# %% [markdown]
# ## What a teacher's target costs on top
#
# SDPO moves to what a teacher says who has seen a solution. Such a target may succeed as often, and still lie further
# away: it prefers the solution that was shown to all the others. Here the teacher's law is the base, sharpened
# towards one success. What it moves beyond the nearest policy of the same success rate is its *excess KL*: never
# negative, and by Theorem 1 a sum over tokens.

# %%
shown = int((base * success).argmax())
for strength in (0.0, 2.0, 4.0):
    logits = base.log().flatten().clone()
    logits[shown] += strength
    teacher = logits.softmax(0).view_as(base)
    excess = razor.excess_reverse_kl(teacher, base, success)
    nearest = razor.razor_policy(base, success, teacher[success].sum())
    prefixes = razor.prefix_probabilities(teacher)  # one more than there are tokens
    kernels = zip(prefixes, razor.token_kernels(teacher), razor.token_kernels(nearest), strict=False)
    by_token = sum((prefix * (own * (own / best).log()).sum(-1)).sum() for prefix, own, best in kernels)
    forward = razor.excess_forward_kl(teacher, base, success)
    print(
        f"strength {strength}: success {teacher[success].sum():.3f}, excess {excess:.6f}, over tokens {by_token:.6f}, "
        f"forward {forward:.6f}"
    )

# %% [markdown]
# A policy-gradient method is not the nearest policy either: the identity holds for every policy, however it was
# trained. Which method has more excess, at the same success, is a question for measurements.
#
# ## The same, estimated from samples
#
# Of a real model one has samples: the mean log-ratio on the policy's own completions less the binary KL of the
# success rates. Here the exact value is known, so the estimate can be judged.

# %%
draws = torch.multinomial(teacher.flatten(), 20_000, replacement=True, generator=generator)
estimate = razor.excess_kl_estimate(
    teacher.flatten()[draws].log()[None], base.flatten()[draws].log()[None], teacher[success].sum()[None], z[None]
)
print(f"estimated {float(estimate):.4f}, exact {float(excess):.4f}")

# %% [markdown]
# That takes the success rates for known. `ResponseDrift` has only a few responses to each prompt, whose rates would
# bias it by nats; it logs two bounds, `excess_kl` and `excess_kl_at_most`.
#
# ## Runs
#
# Two methods, three seeds, two stages of two steps. On the command line a sweep does this: `lit-sdpo sweep
# configs/micro/claims.yaml`.

# %%
COMMON = {
    "data": {
        "class_path": "MicroDataModule",
        "init_args": {
            "order": ["math", "tool"],
            "steps": 2,
            "prompts_per_step": 2,
            "eval_prompts": 6,
            "eval_generations": 2,
        },
    },
    "rollout": {"num_generations": 4, "sampling": {"max_new_tokens": 48}},
    "trainer": {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [{"class_path": "ParameterDrift"}],
    },
}
METHODS = {"grpo": ("GRPO", 1e-4), "sdpo": ("SDPO", 1e-3)}
for name, (method, rate) in METHODS.items():
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": rate}}
    model = {"class_path": method, "init_args": {"model_name": "micro", "optimizer": optimizer}}
    config = Path(scratch.name, f"{name}.yaml")
    config.write_text(json.dumps(COMMON | {"model": model}), encoding="utf-8")  # JSON is YAML
    for seed in range(3):
        folder = ("TensorBoardLogger", f"init_args.name={name}", f"init_args.version=seed={seed}")
        logger = [f"--trainer.logger={folder[0]}", f"--trainer.logger.init_args.save_dir={scratch.name}/study"]
        logger += [f"--trainer.logger.{part}" for part in folder[1:]]
        assert main(["fit", f"--config={config}", f"--seed_everything={seed}", *logger]) == 0

# %% [markdown]
# ## Verdicts
#
# A claim replicates where its interval lies on the claimed side of 0, it does not where the interval excludes an
# effect of interest on that side, and is undecided otherwise. After four steps nearly everything should be undecided;
# what is not, was never about learning.

# %%
study = Study.read([f"{scratch.name}/study"])
print(study.methods, study.seeds, *study.left_out, sep="\n")

# %%
matrices(streams(study)[0])

# %%
results = check_claims(study)
print(claims_markdown([result for result in results if result.parts and result.verdict != "not tested at this scale"]))

# %% [markdown]
# `lit-sdpo report study -o report` makes a page of it, with the figures. What the full runs say stands in
# `docs/claims.md`.

# %%
scratch.cleanup()
