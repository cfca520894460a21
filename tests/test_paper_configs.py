"""Every file of the paper's configuration parses and builds; a small model of the same architecture trains with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from lit_sdpo.cli import LitSDPOCLI, main, run
from lit_sdpo.configs import expand
from lit_sdpo.planning.settings import devices_of, parse
from tests.tiny_model import make_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "configs" / "paper"
FILES = sorted(PAPER.rglob("*.yaml"))
BEHIND = ("models", "streams", "overlays")
GRPO, SDPO = PAPER / "grpo.yaml", PAPER / "sdpo.yaml"
DATA = ROOT / "tests" / "data" / "files"


def name(path):
    return path.relative_to(PAPER).as_posix()


def configs(*paths):
    return [word for path in paths for word in ("--config", str(path))]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders with the architectures and a small tokenizer, and what makes two narrow layers of each."""
    tokenizer = make_tokenizer()
    narrow = {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    more = {
        "qwen3_4b": {"head_dim": 8, "layer_types": ["full_attention"] * 2},
        "olmo3_7b": {"layer_types": ["sliding_attention", "full_attention"]},
    }
    found = {}
    for architecture, options in more.items():
        folder = tmp_path_factory.mktemp(architecture)
        shutil.copy(PAPER / "architectures" / architecture / "config.json", folder)
        tokenizer.save_pretrained(folder)
        overrides = yaml.safe_dump(narrow | options, default_flow_style=True, width=10_000).strip()
        found[architecture] = [
            f"--model.init_args.model_name={folder}",
            "--model.init_args.random_weights=true",
            f"--model.init_args.config_overrides={overrides}",
        ]
    return found


class BuiltInsteadOfFitted(Exception):
    """Carries what was built."""


@pytest.fixture
def build(monkeypatch, bubblewrap):
    """Run the command line up to the point where fitting would begin, then load the model."""

    def stop(command_line):
        raise BuiltInsteadOfFitted(command_line)

    monkeypatch.setattr(LitSDPOCLI, "before_fit", stop, raising=False)
    one = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto"]

    def built(*arguments):
        with pytest.raises(BuiltInsteadOfFitted) as caught:
            run(["fit", *arguments, *one])
        made = caught.value.args[0]
        made.model.configure_model()
        return made

    return built


#: Each key of each file is in one of these, which are built; ``test_values_are_the_papers`` reads the others.
QUICK = ("grpo.yaml", "sdpo.yaml", "sft.yaml", "models/olmo3_7b_think_dpo.yaml", "overlays/lora.yaml")
SLOW = ("sdpo_ema_050.yaml", "stable_sdpo_mix.yaml", "streams/math_science_coding.yaml", "overlays/cot.yaml")
SLOW += ("overlays/mask_50.yaml", "overlays/fsdp2.yaml", "overlays/measure.yaml")


@pytest.mark.parametrize("file", [*QUICK, *(pytest.param(file, marks=pytest.mark.slow) for file in SLOW)])
def test_a_run_is_built_on_two_layers_of_its_architecture(file, build, models):
    path = PAPER / file
    below = configs(SDPO) if path.parent.name in BEHIND else []
    architecture = "olmo3_7b" if "olmo" in path.name else "qwen3_4b"
    made = build(*below, *configs(path), *models[architecture])
    assert made.model.policy.config.model_type == architecture.partition("_")[0]
    assert made.model.policy.config.num_hidden_layers == 2
    stages = {stage.task.name: stage.steps for stage in made.datamodule.stages}
    assert stages == {task: 20 if task == "coding" else 50 for task in stages}
    wanted = values(path)["data.override_prompts_per_step"]
    assert {stage.prompts_per_step for stage in made.datamodule.stages} == {wanted}


def test_no_file_has_a_key_of_its_own_that_is_not_built():
    built = {key for file in (*QUICK, *SLOW) for key in values(PAPER / file)}
    assert {name(path): set(values(path)) - built for path in FILES} == {name(path): set() for path in FILES}


def flat(content, prefix=""):
    """Values by dotted key, without ``init_args``; lists are values."""
    if not isinstance(content, dict):
        return {prefix: content}
    return {
        key: value
        for name, inner in content.items()
        for key, value in flat(inner, prefix if name == "init_args" else f"{prefix}.{name}".strip(".")).items()
    }


def values(path):
    """What a file and those that it extends say, the later ones over the earlier."""
    below = [SDPO] if path.parent.name in BEHIND else []
    found = {}
    for text in expand(configs(*below, path)):
        found |= {} if text == "--config" else flat(yaml.safe_load(text))
    return found


SHARED = {
    "rollout.max_prompt_tokens": 2048,
    "rollout.sampling.max_new_tokens": 14336,
    "rollout.sampling.temperature": 1.0,
    "rollout.sampling.top_p": 1.0,
    "rollout.sampling.top_k": 0,
    "rollout.num_generations": 8,
    "model.optimizer.class_path": "torch.optim.AdamW",
    "model.optimizer.weight_decay": 0.01,
    "model.scheduler.class_path": "WarmupConstant",
    "model.scheduler.warmup_steps": 10,
    "trainer.gradient_clip_val": 1.0,
    "data.eval_generations": 8,
}
OF_SDPO = {
    "model.class_path": "SDPO",
    "model.optimizer.lr": 1e-5,
    "data.override_prompts_per_step": 32,
    "model.top_k": 100,
}
OF_SDPO |= {"model.alpha": 0.5, "model.tail": True, "model.importance_clip": 2.0, "model.reprompt.thinking": "strip"}
OF_GRPO = {
    "model.class_path": "GRPO",
    "model.optimizer.lr": 1e-6,
    "data.override_prompts_per_step": 8,
    "model.kl_beta": 0.0,
}
OF_GRPO |= {"model.clip_eps_low": 0.2, "model.clip_eps_high": 0.28}


def teacher(kind, **options):
    return OF_SDPO | {"model.teacher.class_path": kind} | {f"model.teacher.{key}": x for key, x in options.items()}


#: The paper's values by file, in Table C.2 and section 3; what is behind another file is put behind sdpo.yaml.
EXPECTED = {
    "grpo.yaml": OF_GRPO,
    "sdpo.yaml": teacher("FrozenTeacher"),
    "sdpo_ema_005.yaml": teacher("EMATeacher", update_rate=0.005),
    "sdpo_ema_010.yaml": teacher("EMATeacher", update_rate=0.01),
    "sdpo_ema_020.yaml": teacher("EMATeacher", update_rate=0.02),
    "sdpo_ema_050.yaml": teacher("EMATeacher", update_rate=0.05),
    "stable_sdpo.yaml": teacher("RestartTeacher", every=10, mix=1.0),
    "stable_sdpo_mix.yaml": teacher("RestartTeacher", every=10, mix=0.4),
    "sdpo_matched.yaml": OF_SDPO | {"model.optimizer.lr": 1e-6, "data.override_prompts_per_step": 8},
    "grpo_matched.yaml": OF_GRPO | {"model.optimizer.lr": 1e-5, "data.override_prompts_per_step": 32},
    "overlays/cot.yaml": OF_SDPO | {"model.reprompt.thinking": "keep"},
    "overlays/mask_25.yaml": OF_SDPO | {"model.token_mask": 0.25},
    "overlays/mask_50.yaml": OF_SDPO | {"model.token_mask": 0.5},
    "overlays/mask_75.yaml": OF_SDPO | {"model.token_mask": 0.75},
    "overlays/lora.yaml": OF_SDPO | {"model.lora.rank": 32, "model.dtype": "bfloat16"},
    "models/qwen3_4b_thinking.yaml": OF_SDPO | {"model.model_name": "Qwen/Qwen3-4B-Thinking-2507"},
    "models/qwen3_4b_instruct.yaml": OF_SDPO | {"model.model_name": "Qwen/Qwen3-4B-Instruct-2507"},
    "models/olmo3_7b_instruct_dpo.yaml": OF_SDPO | {"model.model_name": "allenai/Olmo-3-7B-Instruct-DPO"},
    "models/olmo3_7b_think_dpo.yaml": OF_SDPO | {"model.model_name": "allenai/Olmo-3-7B-Think-DPO"},
}


@pytest.mark.parametrize("file", EXPECTED)
def test_values_are_the_papers(file):
    found = values(PAPER / file)
    wanted = SHARED | EXPECTED[file]
    assert {key: found.get(key) for key in wanted} == wanted


STREAMS = {
    "sdpo.yaml": ["math", "science", "tooluse", "coding"],
    "models/qwen3_4b_instruct.yaml": ["math", "science", "tooluse"],
    "models/olmo3_7b_think_dpo.yaml": ["math"],
    "streams/math_science_tooluse.yaml": ["math", "science", "tooluse"],
    "streams/math_science_coding.yaml": ["math", "science", "coding"],
    "streams/math_tooluse_science.yaml": ["math", "tooluse", "science"],
    "streams/math.yaml": ["math"],
    "streams/science.yaml": ["science"],
    "streams/tooluse.yaml": ["tooluse"],
    "streams/coding.yaml": ["coding"],
}
PROBES = {"math500", "gpqa", "bfcl_multiple", "livecodebench", "zebra_grid", "mmlu_redux"}


@pytest.mark.parametrize("file", STREAMS)
def test_streams_have_their_order_and_all_evaluations(file):
    found = values(PAPER / file)
    trained = [stage["task"]["init_args"]["task"] for stage in found["data.stages"]]
    assert trained == STREAMS[file]
    evaluated = set(trained) | {probe["init_args"]["task"] for probe in found["data.probes"]}
    without_coding = {"coding", "livecodebench"} - evaluated == {"coding", "livecodebench"}
    assert evaluated == (PROBES | set(STREAMS["sdpo.yaml"])) - (
        {"coding", "livecodebench"} if without_coding else set()
    )
    assert len(evaluated) == (8 if without_coding else 10)


def test_the_trainer_overlay_shards_over_eight_devices():
    devices = devices_of(parse(configs(SDPO, PAPER / "overlays" / "fsdp2.yaml")))
    assert (devices.strategy, devices.count, devices.shards) == ("FSDP2", 8, 8)


def small(folder):
    """Two stages of two steps on a few rows, and short completions."""

    def task(called, data):
        files = {"train": str(DATA / f"{data}_train.jsonl"), "validation": str(DATA / f"{data}_test.jsonl")}
        return {"class_path": "NamedTask", "init_args": {"task": called, **files}}

    tasks = (task("math", "gsm8k"), task("science", "sciknoweval_chemistry"))
    probe = {"task": "math500", "validation": str(DATA / "math500_test.jsonl")}
    content = {
        "data": {
            "init_args": {
                "stages": [{"steps": 2, "task": spec} for spec in tasks],
                "probes": [{"class_path": "NamedTask", "init_args": probe}],
                "override_prompts_per_step": 2,
                "eval_prompts": 1,
                "eval_generations": 2,
            }
        },
        "rollout": {
            "num_generations": 2,
            "sampling": {"max_new_tokens": 6},
            "evaluation_sampling": {"max_new_tokens": 4},
        },
        "trainer": {
            "accelerator": "cpu",
            "accumulate_grad_batches": 2,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": {"init_args": {"save_dir": str(folder), "version": "run"}},
        },
    }
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def finished(folder):
    """Weights of the last checkpoint of the run in a folder."""
    (path,) = folder.rglob("stage=1-step=4.ckpt")
    return path, torch.load(path, weights_only=True)["state_dict"]


def train_resume_export(files, architecture, lora, models, folder):
    """Two stages of two steps; the same again from the first stage's end; the policy written and read again."""
    overlay = [PAPER / "overlays" / "lora.yaml"] if lora else []
    arguments = ["fit", *configs(*files, *overlay, small(folder)), *models[architecture]]
    assert main(arguments) == 0
    (matrix,) = folder.rglob("matrix.json")
    assert [row["step"] for row in yaml.safe_load(matrix.read_text())["rows"]] == [0, 2, 4]
    path, weights = finished(folder)
    (first,) = folder.rglob("stage=0-step=2.ckpt")
    again = folder / "again"
    assert main([*arguments, f"--trainer.logger.init_args.save_dir={again}", f"--ckpt_path={first}"]) == 0
    resumed = finished(again)[1]
    assert resumed.keys() == weights.keys()
    assert [key for key, value in weights.items() if not torch.equal(value, resumed[key])] == []
    assert main(["export", str(path), str(folder / "model")]) == 0
    policy = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert (policy.config.model_type, policy.config.num_hidden_layers) == (architecture.partition("_")[0], 2)


CASES = {"full-qwen3": ([SDPO], "qwen3_4b", False), "lora-olmo3": ([GRPO], "olmo3_7b", True)}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_training_resume_and_export(case, models, tmp_path):
    train_resume_export(*CASES[case], models, tmp_path)
