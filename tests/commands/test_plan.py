"""Numbers of a plan against the arithmetic written out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from lit_sdpo.cli import main
from lit_sdpo.planning.plan import Speed, plan

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "configs" / "paper"
ROWS = ROOT / "tests" / "data" / "files"

LAYERS, WIDTH, INNER, VOCABULARY, QUERIES, KEYS, HEAD = 2, 2560, 9728, 151_936, 32, 8, 128
LAYER = 2 * WIDTH * QUERIES * HEAD + 2 * WIDTH * KEYS * HEAD + 3 * WIDTH * INNER + 2 * WIDTH + 2 * HEAD
OUTSIDE = VOCABULARY * WIDTH + WIDTH  # tied embeddings, last norm
PARAMETERS = OUTSIDE + LAYERS * LAYER
LONGEST = 2048 + 14_336


def planned(*files, overrides=(), **options):
    """The plan of some of the paper's files, Qwen3-4B cut to two layers."""
    words = [word for file in files for word in ("--config", str(PAPER / file))]
    values = {"num_hidden_layers": LAYERS, "layer_types": ["full_attention"] * LAYERS}
    cut = [f"--model.init_args.config_overrides={json.dumps(values)}"]
    return plan([*words, *cut, *overrides], **options)


@pytest.fixture(scope="module")
def sharded():
    rows = {"math": 60, "gpqa": 198}
    speed = Speed(decode=3000.0, update=5000.0)
    return planned("sdpo.yaml", "overlays/fsdp2.yaml", rows=rows, tokens_per_completion=5000.0, speed=speed)


@pytest.fixture(scope="module")
def replicated():
    ddp = ["--trainer.devices=8", "--trainer.accelerator=gpu", "--trainer.strategy=ddp", "--trainer.precision=32-true"]
    return planned("grpo.yaml", overrides=["--model.init_args.dtype=bfloat16", *ddp])


@pytest.fixture(scope="module")
def adapted():
    engine = ["--rollout.engine=lit_sdpo.NativeEngine", "--rollout.engine.max_rows=20"]
    return planned("sdpo.yaml", "overlays/lora.yaml", overrides=["--trainer.accelerator=cpu", *engine])


def test_nothing_is_loaded_or_asked_for(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", refuse)
    found = planned("grpo.yaml")
    assert (found.method, found.model) == ("GRPO", "Qwen/Qwen3-4B-Thinking-2507")
    assert found.parameters == found.trained == PARAMETERS


def test_stages_draw_the_papers_prompts_and_completions(sharded, replicated):
    assert [(s.task, s.steps, s.prompts, s.completions) for s in sharded.stages] == [
        ("math", 50, 1600, 12_800),
        ("science", 50, 1600, 12_800),
        ("tooluse", 50, 1600, 12_800),
        ("coding", 20, 640, 5120),
    ]
    assert [s.prompts for s in replicated.stages] == [400, 400, 400, 160]
    assert [s.tokens for s in replicated.stages] == [8 * n * 14_336 for n in (400, 400, 400, 160)]


def test_evaluations_are_counted_with_rows_that_are_known(sharded, replicated):
    assert replicated.evaluation.count == 5
    assert replicated.evaluation.prompts == dict.fromkeys(replicated.evaluation.prompts, 500)
    assert len(replicated.evaluation.prompts) == len(replicated.evaluation.unread) == 10
    assert replicated.evaluation.completions == 5 * 10 * 500 * 8
    assert replicated.evaluation.tokens == 5 * 10 * 500 * 8 * 14_336
    assert sharded.evaluation.completions == 5 * (60 + 198 + 8 * 500) * 8
    assert not {"math", "gpqa"} & set(sharded.evaluation.unread)
    evaluated, trained = 5 * 4258 * 8 * 5000, 170 * 256 * 5000
    assert sharded.evaluation_share == pytest.approx(evaluated * 1.0 / (evaluated + 43_520 * 5000))
    assert sharded.training_tokens == trained


def test_time_is_tokens_over_speed_of_all_devices(sharded, replicated):
    assert replicated.seconds == {}
    assert sharded.seconds == {
        "rollouts": pytest.approx(43_520 * 5000 / 3000 / 8),
        "evaluations": pytest.approx(5 * 4258 * 8 * 5000 / 3000 / 8),
        "updates": pytest.approx(43_520 * 5000 / 5000 / 8),
    }


def test_replicated_memory(replicated):
    bytes_ = 2 * PARAMETERS
    assert replicated.memory.resident == {
        "weights": bytes_,
        "optimizer": 4 * bytes_,  # in float32, as the masters are
        "float32 masters": 2 * bytes_,
        "gradients in buckets": bytes_,
    }
    # 4 evaluation prompts of 8 completions are more than the one prompt of a step.
    tokens, cache = 4 * 2048 + 32 * 14_336, 2 * LAYERS * KEYS * HEAD * 2
    assert replicated.memory.rollouts == {
        "keys and values": tokens * cache,
        "logits of a token": 3 * 4 * VOCABULARY * 32,
    }
    window = replicated.memory.window
    assert (window.prompts, window.rows, window.row, window.read) == (1, 8, LONGEST, False)
    assert (replicated.memory.slices, replicated.memory.slice_tokens) == (1, 2048 + 8 * 14_336)
    assert replicated.memory.update["activations"] > 2 * LAYERS * WIDTH * replicated.memory.slice_tokens
    assert replicated.memory.peak == 8 * bytes_ + max(
        sum(replicated.memory.rollouts.values()), sum(replicated.memory.update.values())
    )


def test_sharded_memory(sharded):
    bytes_ = 4 * PARAMETERS
    assert sharded.memory.resident == {
        "weights": bytes_ // 8,
        "teacher and other copies": bytes_ // 8,
        "optimizer": 2 * bytes_ // 8,
    }
    gradients = sharded.memory.update["gradients and half-precision weights"]
    assert bytes_ // 8 < gradients < bytes_ // 8 + 2 * bytes_  # and whole ones before they are divided
    assert sharded.memory.rollouts["whole weights, gathered"] == bytes_
    assert sharded.memory.update["layers gathered at a time"] == 4 * (OUTSIDE + 2 * LAYER)
    assert sharded.memory.rollouts["half-precision weights"] == bytes_ // 2
    tokens, cache = 4 * 2048 + 32 * 14_336, LAYERS * KEYS * HEAD * (4 + 2)  # float32 keys, bfloat16 values
    assert sharded.memory.rollouts["keys and values"] == tokens * cache
    assert sharded.memory.slice_tokens == LONGEST


def test_peak_at_the_expected_length(sharded):
    memory = sharded.memory
    less = 32 * (14_336 - 5000) * LAYERS * KEYS * HEAD * (4 + 2)
    both = sum(memory.rollouts.values()) - less, sum(memory.update.values())
    assert sharded.expected_peak == pytest.approx(sum(memory.resident.values()) + max(both), abs=2)


def test_adapters(adapted):
    shapes = [
        (WIDTH, 4096),
        (WIDTH, 1024),
        (WIDTH, 1024),
        (4096, WIDTH),
        (WIDTH, INNER),
        (WIDTH, INNER),
        (INNER, WIDTH),
    ]
    trained = LAYERS * sum(32 * (a + b) for a, b in shapes)
    assert adapted.trained == trained
    assert adapted.memory.resident == {
        "weights": 2 * PARAMETERS + 3 * 4 * trained,  # float32 adapters; the teacher's has twice the rank
        "optimizer": 8 * trained,
    }


def test_rows_decoded_at_once_decide_the_keys_and_values(adapted):
    assert adapted.memory.window.rows == 256
    tokens = 2 * 2048 + 16 * 14_336  # the largest number of whole groups
    assert adapted.memory.rollouts["keys and values"] == tokens * 2 * LAYERS * KEYS * HEAD * 2
    assert adapted.memory.rollouts["logits of a token"] == 3 * 4 * VOCABULARY * 16


def test_seventeen_checkpoints_as_in_the_paper(sharded, replicated):
    assert (sharded.checkpoints.stage_ends, sharded.checkpoints.inside) == (4, 13)
    assert replicated.checkpoints.bytes == pytest.approx(
        PARAMETERS * (2 + 12), rel=1e-4
    )  # weights, masters, two averages
    assert sharded.checkpoints.bytes == pytest.approx(4 * PARAMETERS * 4, rel=1e-4)  # and the teacher
    assert sharded.checkpoints.total == 17 * sharded.checkpoints.bytes


MICRO = ["--config", str(ROOT / "configs" / "micro" / "sdpo.yaml")]


def small(path, **data):
    content = {
        "data": {
            "class_path": "ContinualDataModule",
            "init_args": {
                "stages": [
                    {
                        "steps": 6,
                        "prompts_per_step": 4,
                        "task": {
                            "class_path": "NamedTask",
                            "init_args": {
                                "task": "gsm8k",
                                "train": str(ROWS / "gsm8k_train.jsonl"),
                                "validation": str(ROWS / "gsm8k_test.jsonl"),
                            },
                        },
                    }
                ],
                "eval_every": 2,
                **data,
            },
        },
    }
    path.write_text(json.dumps(content))
    return [*MICRO, "--config", str(path)]


def test_local_rows_are_counted_and_the_rest_of_the_stream_follows(tmp_path):
    lines = len((ROWS / "gsm8k_test.jsonl").read_text().splitlines())
    arguments = small(tmp_path / "more.yaml", eval_prompts=None, eval_generations=3, updates_per_rollout=2)
    found = plan([*arguments, "--rollout.resample_rounds=1", "--checkpoint.keep=1"])
    assert found.evaluation.prompts == {"gsm8k": lines}
    assert found.evaluation.unread == []
    assert found.evaluation.count == 1 + 3
    assert found.evaluation.completions == 4 * lines * 3
    (stage,) = found.stages
    assert (stage.prompts, stage.completions, stage.sampled) == (3 * 4, 3 * 4 * 8, 2 * 3 * 4 * 8)
    assert (found.checkpoints.stage_ends, found.checkpoints.inside) == (1, 0)


def test_reference_answers_are_not_generated():
    found = plan(["--config", str(ROOT / "configs" / "micro" / "sft.yaml"), "--trainer.limit_val_batches=0"])
    assert found.training_tokens == found.evaluation_tokens == found.evaluation_share == 0
    assert found.evaluation.count == 0
    assert found.stages[0].completions == 75 * 48


def test_table_and_json(capsys):
    file = str(ROOT / "configs" / "micro" / "grpo.yaml")
    assert main(["plan", file, "--data.init_args.steps", "10", "--decode-tokens-per-second", "1000"]) == 0
    shown = capsys.readouterr().out
    for words in ("GRPO on micro", "1 math", "evaluations: 5 of", "peak:", "without what needs --update-tokens", "min"):
        assert words in shown
    assert main(["plan", file, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["stages"][0]["steps"] == 75
    assert content["memory_peak"] > content["memory"]["resident"]["weights"]
    assert main(["plan", file]) == 0
    shown = capsys.readouterr().out
    assert "benchmarks.rollout" in shown
    assert "GRPO on micro: 520,224 parameters" in shown
    assert "(the longest of the data)" in shown


def test_every_model_of_the_paper_has_its_architecture_beside_the_files():
    """Without a network: a name that is looked up would be an error here."""
    names = json.loads((PAPER / "architectures" / "models.json").read_text())
    lines = [line for file in PAPER.rglob("*.yaml") for line in file.read_text().splitlines() if "model_name: " in line]
    used = {line.split("model_name: ")[1].strip("} ") for line in lines}
    assert used == set(names)
    assert all((PAPER / "architectures" / folder / "config.json").is_file() for folder in names.values())


def test_a_name_without_an_architecture_is_asked_of_the_hub(tmp_path, monkeypatch, capsys):
    asked = []

    def answer(name, overrides, trusted):
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr("lit_sdpo.planning.build.architecture_from", answer)
    assert main(["plan", str(PAPER / "grpo.yaml"), "--model.init_args.model_name=someone/else"]) == 2
    assert asked == ["someone/else"]
    assert "--architecture" in capsys.readouterr().err
    assert main(["plan", str(PAPER / "grpo.yaml")]) == 2
    assert asked[1] == str(PAPER / "architectures" / "qwen3_4b")


PROBLEMS = {
    # arguments after the file: words of the message
    "": (["plan"], ["no configuration", "plan CONFIG"]),
    "typo": (["--model.init_args.alhpa=1"], ["alhpa", "alpha"]),
    "strategy": (["--trainer.strategy=deepspeed"], ["deepspeed", "trainer.strategy", "ModelParallelStrategy"]),
    "folder": (["--architecture", "./nowhere"], ["./nowhere"]),
    "budget": (["--memory.gib=0.001"], ["memory.gib", "tokens"]),
    "stream": (["--data.init_args.steps=0"], ["steps", "at least 1", "got 0"]),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_mistake_is_explained(problem, capsys):
    arguments, words = PROBLEMS[problem]
    given = arguments if not problem else ["plan", MICRO[1], *arguments]
    assert main(given) == 2
    message = capsys.readouterr().err
    assert [word for word in words if word not in message] == []
    assert "Traceback" not in message


def test_shards_have_to_be_all_devices(capsys):
    overlay = str(PAPER / "overlays" / "fsdp2.yaml")
    assert main(["plan", MICRO[1], overlay, "--trainer.num_nodes=2", "--trainer.accelerator=cpu"]) == 2
    assert "16" in capsys.readouterr().err


def test_unknown_number_of_rows_is_asked_for(capsys):
    assert main(["plan", str(PAPER / "grpo.yaml"), "--data.init_args.eval_prompts=null"]) == 2
    assert "--rows math=N" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--rows", "math"], ["--tokens-per-completion", "-3"], ["--tokens-per-completion", "x"]]
)
def test_option_that_cannot_be_read(option, capsys):
    assert main(["plan", MICRO[1], *option]) == 2
    assert "needed" in capsys.readouterr().err
