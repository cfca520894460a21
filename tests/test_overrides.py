"""Lists and other classes replace what was there before, in files and arguments alike."""

import pytest
import yaml

from lit_sdpo.cli import run
from lit_sdpo.configs import combine, expand
from lit_sdpo.dry_run import ParseOnly
from lit_sdpo.errors import UserError
from lit_sdpo.overrides import flag_content, give_way, merged
from lit_sdpo.yaml_files import Loader, read_yaml

SDPO = "configs/micro/sdpo.yaml"


def resolved(contents, *flags):
    """What earlier contents come to under later ones."""
    earlier = []
    for content in [*contents, *map(flag_content, flags)]:
        give_way(earlier, content)
        earlier.append(content)
    return merged(earlier)


def parsed(*arguments):
    made = run(["fit", *arguments], ParseOnly)
    return made.config["fit"]


STAGES = [{"steps": 1, "task": {"class_path": "JsonlTask", "init_args": {"name": "a", "validation": "theirs.jsonl"}}}]


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_later_list_replaces_the_earlier_one_of_whatever_length(length):
    own = [
        {"task": {"class_path": "JsonlTask", "init_args": {"name": f"b{n}", "train": "mine.jsonl"}}}
        for n in range(length)
    ]
    base = {"data": {"class_path": "ContinualDataModule", "init_args": {"stages": STAGES, "eval_every": 3}}}
    for later in ({"data": {"init_args": {"stages": own}}}, {"data": {"stages": own}}):
        made = resolved([yaml.safe_load(yaml.safe_dump(base)), later])["data"]
        assert made["init_args"].get("stages", made.get("stages")) == own
        assert made["init_args"]["eval_every"] == 3


def test_lists_of_arguments_too():
    base = {"data": {"init_args": {"order": ["math", "sci"]}}, "trainer": {"callbacks": [{"class_path": "A"}]}}
    earlier = [base]
    give_way(earlier, flag_content("--data.order=[tool]"))
    assert earlier[0]["data"]["init_args"] == {}
    give_way(earlier, flag_content("--trainer.callbacks+=B"))
    assert earlier[0]["trainer"]["callbacks"] == [{"class_path": "A"}]


def test_a_file_of_stages_leaves_nothing_of_the_example(tmp_path):
    path = tmp_path / "mine.yaml"
    row = '{"id": "1", "messages": [{"role": "user", "content": "?"}], "ground_truth": "1", "verifier": "math_boxed"}\n'
    (tmp_path / "rows.jsonl").write_text(row)
    stage = {
        "steps": 2,
        "task": {"class_path": "JsonlTask", "init_args": {"name": "own", "train": str(tmp_path / "rows.jsonl")}},
    }
    path.write_text(yaml.safe_dump({"data": {"init_args": {"stages": [stage], "probes": []}}}))
    data = parsed("--config", "configs/examples/own_data.yaml", "--config", str(path)).data.init_args
    task = data.stages[0].task.init_args
    assert (task.name, task.train, task.validation, task.columns) == ("own", str(tmp_path / "rows.jsonl"), None, None)
    assert data.stages[0].prompts_per_step == 32
    assert data.probes == []


@pytest.mark.parametrize(
    "later",
    [
        {"model": {"init_args": {"teacher": "EMATeacher"}}},
        {"model": {"init_args": {"teacher": {"class_path": "EMATeacher"}}}},
        {"model": {"teacher": {"class_path": "lit_sdpo.EMATeacher", "init_args": {}}}},
    ],
)
def test_another_class_begins_with_its_own_defaults(tmp_path, later):
    path = tmp_path / "later.yaml"
    path.write_text(yaml.safe_dump(later))
    assert parsed("--config", SDPO, "--config", str(path)).model.init_args.teacher.init_args.at_stage == "keep"


@pytest.mark.parametrize(
    "flags",
    [
        ["--model.teacher=EMATeacher"],
        ["--model.init_args.teacher", "EMATeacher"],
        ["--model.teacher.class_path=lit_sdpo.EMATeacher"],
    ],
)
def test_by_argument_too(flags):
    assert parsed("--config", SDPO, *flags).model.init_args.teacher.init_args.at_stage == "keep"


def test_the_same_class_by_another_name_keeps_its_options():
    kept = resolved(
        [{"model": {"init_args": {"teacher": {"class_path": "EMATeacher", "init_args": {"update_rate": 0.5}}}}}],
        "--model.teacher.class_path=lit_sdpo.policies.teachers.EMATeacher",
    )
    assert kept["model"]["init_args"]["teacher"]["init_args"] == {"update_rate": 0.5}


def test_what_a_class_cannot_do_without_is_taken_over():
    logger = parsed("--config", SDPO, "--trainer.logger=CSVLogger").trainer.logger.init_args
    assert (logger.save_dir, logger.name) == ("runs", "lightning_logs")
    rate = parsed("--config", SDPO, "--model.optimizer=torch.optim.SGD").model.init_args.optimizer.init_args.lr
    assert rate == 1e-3  # SGD's own


def test_another_method_says_what_it_takes_over(capsys):
    made = parsed("--config", SDPO, "--model=GRPO").model
    assert made.init_args.optimizer.init_args.lr == 3e-4
    assert "teacher" not in made.init_args
    assert capsys.readouterr().err == "note: model: GRPO takes over model_name, optimizer, scheduler of SDPO\n"
    parsed("--config", SDPO)
    assert capsys.readouterr().err == ""


def test_arguments_between_files_stay_in_their_place(tmp_path):
    for name, text in (("a", "x: 1\ny: [1, 2]\n"), ("b", "y: [3]\n")):
        (tmp_path / f"{name}.yaml").write_text(text)
    made = combine(["--config", str(tmp_path / "a.yaml"), "--x=2", "--config", str(tmp_path / "b.yaml")]).arguments
    assert [yaml.safe_load(part) if n in (1, 4) else part for n, part in enumerate(made)] == [
        "--config",
        {"x": 1},
        "--x=2",
        "--config",
        {"y": [3]},
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("-07", -7),
        ("0", 0),
        ("0x10", 16),
        ("0o17", 15),
        ("1_000", 1000),
        ("1e-5", 1e-5),
        ("1E3", 1e3),
        (".5", 0.5),
        ("1.", 1.0),
        ("1:30", "1:30"),
        ("1:00:00:00", "1:00:00:00"),
        ("1.2.3", "1.2.3"),
        ("true", True),
    ],
)
def test_numbers_mean_what_they_look_like(text, value):
    read = yaml.load(f"x: {text}", Loader)["x"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("number", ["010", "8", "0x10"])
def test_a_number_is_the_same_in_a_file_and_as_an_argument(tmp_path, number):
    path = tmp_path / "n.yaml"
    path.write_text(f"data: {{init_args: {{steps: {number}}}}}\nseed_everything: {number}\n")
    file = parsed("--config", SDPO, "--config", str(path))
    flag = parsed("--config", SDPO, f"--data.steps={number}", f"--seed_everything={number}")
    assert file.data.init_args.steps == flag.data.init_args.steps
    assert file.seed_everything == flag.seed_everything


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("model:\n  lr: 1\n  lr: 2\n")
    with pytest.raises(UserError, match=r"'lr' stands there twice") as caught:
        expand(["--config", str(path)])
    assert caught.value.where == f"{path}, line 3"
    with pytest.raises(UserError, match="twice"):
        read_yaml(path)


@pytest.mark.parametrize(
    "key",
    [
        "model.tail",
        "model.alpha",
        "model.teacher.at_stage",
        "model.optimizer",
        "model.reset_optimizer",
        "data.steps",
        "data.ood",
        "rollout.num_generations",
        "rollout.overlap",
        "rollout.sampling.temperature",
        "samples.token_ids",
        "checkpoint.keep",
        "model.gradient_checkpointing",
        "model.optimizer.lr",
    ],
)
def test_null_is_refused_where_a_value_is_needed(key):
    with pytest.raises(UserError) as caught:
        run(["fit", "--config", SDPO, f"--{key}=null"], ParseOnly)
    assert caught.value.where.endswith(key)


@pytest.mark.parametrize(
    "key",
    ["model.teacher", "model.top_k", "model.scheduler", "rollout.sampling", "data.eval_every", "trainer.callbacks"],
)
def test_null_is_fine_where_it_says_something(key):
    run(["fit", "--config", SDPO, f"--{key}=null"], ParseOnly)
