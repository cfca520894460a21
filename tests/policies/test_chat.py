"""A template reads every message and every option that it is given."""

import pytest

from lit_sdpo.callbacks.rollout.prompt_budget import PromptBudget
from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.policies.chat import check_template, left_out, render
from lit_sdpo.policies.load import load_tokenizer
from tests.training import Toy

TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"


@pytest.fixture
def tokenizer():
    return load_tokenizer("micro")


@pytest.mark.parametrize(
    ("template", "options", "text"),
    [
        ("", {}, "leaves the messages out"),
        ("always the same", {}, "leaves the messages out"),
        ("{% if messages", {}, "not valid"),
        (TURNS, {"enable_thinkin": False}, "no option 'enable_thinkin'. Leave it out"),
        (TURNS + "{{ enable_thinking }}", {"enable_thinkin": False}, "Use some of: enable_thinking."),
        (TURNS, {"tokenize": False}, "chat_template_options.tokenize"),
        (TURNS, {"return_dict": True}, "chat_template_options.return_dict"),
        (TURNS, {"add_generation_prompt": False}, "chat_template_options.add_generation_prompt"),
        (TURNS, {"tools": [{"type": "function"}]}, "no option 'tools'"),
    ],
)
def test_g18_templates_and_options_that_do_nothing(tokenizer, template, options, text):
    tokenizer.chat_template = template
    with pytest.raises(UserError) as caught:
        check_template(tokenizer, options)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "reading",
    [
        "{{ mode }}",
        "{% if mode is defined and mode %}!{% endif %}",
        "{% set mode = mode | default(1) %}{{ mode }}",
        "{% if not mode is defined %}{% set mode = 0 %}{% endif %}",
        "{% generation %}{{ mode }}{% endgeneration %}",
        "{% for m in messages %}{% if mode %}{% break %}{% endif %}{% endfor %}",
    ],
)
def test_options_that_are_read_anywhere_pass(tokenizer, reading):
    tokenizer.chat_template = TURNS + reading
    check_template(tokenizer, {"mode": 1})


CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
USER, SYSTEM, TOOL = ({"role": role, "content": "words"} for role in ("user", "system", "tool"))


@pytest.mark.parametrize(
    ("template", "chat", "lost"),
    [
        (TURNS, [SYSTEM, USER, TOOL, USER], None),
        (TURNS, [USER, CALL, USER], "the tool calls of message 2 (role assistant)"),
        (TURNS + "{{ messages[1].tool_calls }}", [USER, CALL, USER], None),
        ("{{ messages[-1].content }}", [SYSTEM, USER], "message 1 (role system)"),
        (None, [USER, TOOL, USER], "message 2 (role tool)"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", [USER], "message 1 (role user)"),
    ],
)
def test_g18_messages_that_are_left_out_are_found(tokenizer, template, chat, lost):
    tokenizer.chat_template = template or tokenizer.chat_template
    assert left_out(tokenizer, chat) == lost
    task = Toy("task")
    rows = lambda: [Row("r1", chat, "1")]  # noqa: E731
    budget = PromptBudget(1000)
    if lost is None:
        budget.add(tokenizer, None, task, "train", rows, lambda row: 1)
        return
    with pytest.raises(UserError, match="r1") as caught:
        budget.add(tokenizer, None, task, "train", rows, lambda row: 1)
    assert lost in caught.value.what


def test_g18_what_a_template_raises_is_explained(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('only one turn') }}"
    with pytest.raises(UserError, match="only one turn"):
        render(tokenizer, [USER])
