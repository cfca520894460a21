from __future__ import annotations

import sys

import pytest
import yaml

from lit_sdpo.configs import expand, origin
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.registry import import_object


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def written(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return written


def contents(arguments):
    """What follows each ``--config``, read back."""
    expanded = expand(arguments)
    return [yaml.safe_load(expanded[i + 1]) for i, argument in enumerate(expanded) if argument == "--config"]


def test_other_arguments_pass_in_place(write):
    path = write("a.yaml", "x: 1\n")
    expanded = expand(["fit", "--model", "m", "--config", path, "--data.steps=3"])
    assert expanded[:3] == ["fit", "--model", "m"]
    assert expanded[3] == "--config"
    assert expanded[5:] == ["--data.steps=3"]


@pytest.mark.parametrize("form", [["--config", "a.yaml"], ["--config=a.yaml"], ["-c", "a.yaml"], ["-c=a.yaml"]])
def test_every_form_of_the_flag(write, form):
    write("a.yaml", "x: 1\n")
    assert contents(form) == [{"x": 1}]


def test_a_base_comes_before_what_extends_it(write):
    write("base.yaml", "x: base\n")
    write("middle.yaml", "extends: base.yaml\nx: middle\n")
    write("top.yaml", "extends: middle.yaml\nx: top\n")
    assert contents(["--config", "top.yaml"]) == [{"x": "top"}]


def test_paths_are_relative_to_the_file(write):
    write("common/base.yaml", "x: 1\n")
    path = write("runs/mine.yaml", "extends: ../common/base.yaml\ny: 2\n")
    assert contents(["--config", path]) == [{"x": 1, "y": 2}]


def test_several_bases_in_order_and_one_twice(write):
    write("root.yaml", "x: root\ny: root\n")
    write("a.yaml", "extends: root.yaml\nx: a\n")
    write("b.yaml", "extends: root.yaml\nx: b\n")
    write("top.yaml", "extends: [a.yaml, b.yaml]\n")
    assert contents(["--config", "top.yaml"]) == [{"x": "b", "y": "root"}]


def test_the_order_of_keys_and_their_kinds_are_kept(write):
    text = "z: 1.0e-3\na: [1, two]\nm: {b: null, a: true}\n"
    write("a.yaml", text)
    (content,) = contents(["--config", "a.yaml"])
    assert content == yaml.safe_load(text)
    assert list(content) == ["z", "a", "m"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: a.yaml\n", "extends itself"),
        ("extends: b.yaml\n", r"extends itself \(a\.yaml -> b\.yaml -> a\.yaml\)"),
        ("extends: gone.yaml\n", "gone"),
        ("- 1\n", "holds no keys"),
        ("", "holds no keys"),
        ("x: [1\n", r"line \d+: not valid YAML"),
    ],
)
def test_mistakes(write, text, message):
    write("a.yaml", text)
    write("b.yaml", "extends: a.yaml\n")
    with pytest.raises(UserError, match=message):
        expand(["--config", "a.yaml"])


@pytest.mark.parametrize("arguments", [["--config"], ["--config", "gone.yaml"], ["--config", "."]])
def test_a_missing_file(write, arguments):
    with pytest.raises(UserError, match="no configuration file"):
        expand(arguments)


def test_where_a_value_comes_from(write):
    write("base.yaml", "model: {init_args: {lr: 1, width: 2}}\n")
    write("top.yaml", "extends: base.yaml\nmodel: {init_args: {lr: 3}}\n")
    arguments = ["--config", "top.yaml"]
    assert origin(arguments, "model.lr").name == "top.yaml"
    assert origin(arguments, "model.width").name == "base.yaml"
    assert origin(arguments, "model.depth") is None
    assert origin([*arguments, "--model.init_args.lr", "4"], "model.lr") is None
    assert origin(["--model.lr=4", *arguments], "model.lr").name == "top.yaml"


@pytest.fixture
def own_path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_modules_beside_a_configuration_and_in_the_working_folder_can_be_named(tmp_path, monkeypatch, own_path):
    for folder, name in (("project", "beside_rewards"), ("work", "working_rewards")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text("def one(completions, **columns):\n    return [1.0]\n")
    (tmp_path / "project" / "base.yaml").write_text("seed_everything: 1\n")
    (tmp_path / "project" / "json.py").write_text("raise RuntimeError\n")  # what is installed goes first
    monkeypatch.chdir(tmp_path / "work")
    before = list(sys.path)
    expand(["fit", "--config", "../project/base.yaml", "--config", "micro/sdpo"])
    assert sys.path[: len(before)] == before
    for name in ("beside_rewards", "working_rewards"):
        assert import_object(f"{name}.one").__module__ == name
    assert not any("micro" in path for path in sys.path[len(before) :])
