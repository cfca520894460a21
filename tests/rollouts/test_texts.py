from __future__ import annotations

from itertools import cycle

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lit_sdpo.callbacks import SampleLogger
from lit_sdpo.data.task import Row, Task
from lit_sdpo.policies.load import load_policy, load_tokenizer, render_all
from lit_sdpo.rewards.combine import WeightedRewards
from lit_sdpo.rewards.registry import verifier
from lit_sdpo.rollouts.engines.base import Completions, RolloutEngine, Sampling
from lit_sdpo.rollouts.generate import GenerationSettings, generate
from lit_sdpo.rollouts.reference import reference_rollouts
from lit_sdpo.rollouts.reprompt import Reprompt
from lit_sdpo.rollouts.texts import completion_texts, turn_tokens
from tests.training import Watch, fit, method, rollout_callback, toy_data

TURNS = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
CHATML += "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
STRICT = CHATML.replace("{% for", "{% if messages|length > 1 %}{{ raise_exception('no') }}{% endif %}{% for", 1)


def tokenizer_with(*special, template=TURNS + "<|assistant|>", plain=(), **roles):
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    whole = Tokenizer(models.BPE(vocab={s: n for n, s in enumerate(sorted(alphabet))}, merges=[]))
    whole.pre_tokenizer, whole.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    roles = {"eos_token": "<|end|>", "pad_token": "<|pad|>"} | roles
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=whole, **roles)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.add_tokens(list(plain))
    tokenizer.chat_template = template
    return tokenizer


def seen(tokenizer, *written, question="What is 3 + 4?", end_ids=(), finished=None, **options):
    chat = [{"role": "user", "content": question}]
    return completion_texts(
        tokenizer,
        render_all(tokenizer, [chat], options),
        [chat],
        [tokenizer.encode(text, add_special_tokens=False) for text in written],
        finished or [True] * len(written),
        end_ids=end_ids,
        template_options=options,
    )


@pytest.mark.parametrize(
    "kept", ["<answer>B</answer>", "[TOOL_CALLS]f[/TOOL_CALLS]", "<|START_THINKING|>a<|END_THINKING|>b"]
)
def test_special_tokens_that_say_something_are_kept(kept):
    names = ["<answer>", "</answer>", "[TOOL_CALLS]", "[/TOOL_CALLS]", "<|START_THINKING|>", "<|END_THINKING|>"]
    tokenizer = tokenizer_with(*names, "<|user|>", "<|assistant|>", bos_token="<s>", unk_token="<unk>")
    assert seen(tokenizer, f"<s>{kept}<|end|><|pad|><|pad|>") == [kept]


@pytest.mark.parametrize("template", [CHATML, STRICT])
def test_tokens_that_frame_a_turn_are_no_text(template):
    names = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    tokenizer = tokenizer_with(*names, template=template, eos_token="<|im_end|>")
    (text,) = seen(tokenizer, "a</think>It is 7.<|im_start|>user<|im_end|>")
    assert text == "a</think>It is 7.user"
    assert text.answer == "It is 7.user"


def test_end_tokens_of_the_model():
    tokenizer = tokenizer_with("<stop>", "</answer>", plain=["<halt>"])
    ends = tokenizer.convert_tokens_to_ids(["<stop>", "<halt>", "</answer>", "!"])
    assert seen(tokenizer, "7<stop>", "7<halt>", "<answer>7</answer>", "7!", end_ids=ends) == [
        "7",
        "7",
        "<answer>7</answer>",  # a tag that ends the turn is still a tag
        "7!",  # so is a word
    ]


def test_a_built_in_system_message_may_name_the_tags():
    template = "Answer in <answer></answer>." + TURNS + "<|assistant|>"
    tokenizer = tokenizer_with("<answer>", "</answer>", "<sep>", template=template.replace("Answer", "<sep>Answer"))
    assert seen(tokenizer, "<answer>7</answer><sep>") == ["<answer>7</answer><sep>"]


OPENINGS = {
    "<think>": "<think>",
    "<think>\n": "<think>",
    "<think>\nOkay, so": "<think>",
    "[THINK]": "[THINK]",
    "<thought>\n": "<thought>",
    "<REASONING>\n": "<REASONING>",
    "<|START_THINKING|>": "<|START_THINKING|>",
    "<seed:think>": "<seed:think>",
}
CLOSING = {"<": "</", "[": "[/"}


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize("special", [False, True])
def test_a_template_that_opens_thinking(opening, special):
    tag = OPENINGS[opening]
    end = "<|END_THINKING|>" if "START" in tag else tag[0] + "/" + tag[1:]
    names = ["<|user|>", "<|assistant|>", *([tag, end] if special else [])]
    tokenizer = tokenizer_with(*names, template=TURNS + "<|assistant|>" + opening.replace("\n", "{{ '\\n' }}"))
    cut, done, whole = seen(tokenizer, "so 7", "so 7<|end|>", f"so 8{end}It is 7.<|end|>", finished=[False, True, True])
    assert (cut.answer, done.answer, whole.answer) == (None, None, "It is 7.")
    assert (cut.finished, done.finished) == (False, True)
    assert whole.spoken == "It is 7."


@pytest.mark.parametrize("question", ["Write <think>", "<think>", "Is it <think>?", "think", ""])
def test_a_question_opens_nothing(question):
    (text,) = seen(tokenizer_with("<|user|>", "<|assistant|>"), "It is 7.", question=question)
    assert text.answer == "It is 7."


def test_a_switch_of_the_template():
    end = "<|assistant|><think>\n{% if thinking is defined and not thinking %}\n</think>\n\n{% endif %}"
    tokenizer = tokenizer_with("<|user|>", "<|assistant|>", "<think>", "</think>", template=TURNS + end)
    assert seen(tokenizer, "It is 7.")[0].answer is None
    assert seen(tokenizer, "It is 7.", thinking=False)[0].answer == "It is 7."


def test_words_of_data_are_tags_only_where_the_tokenizer_says_so():
    text = "<reasoning>It is 7, or"
    assert seen(tokenizer_with("<|user|>"), text)[0].answer == text
    assert seen(tokenizer_with("<|user|>", "<reasoning>", "</reasoning>"), text)[0].answer is None


def test_tokens_of_the_shipped_tokenizer():
    tokenizer = load_tokenizer("micro")
    names = {tokenizer.convert_ids_to_tokens(n) for n in turn_tokens(tokenizer)}
    assert names == {"<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"}


WRITTEN = [  # what is written behind the template's <think>, and its score
    (r"Try \boxed{7} first, but then", 0.0),
    (r"Try \boxed{7} first.<|end|>", 0.0),
    (r"It is 7.</think>So \boxed{7}.<|end|>", 1.0),
    (r"Try \boxed{7}.</think>So \boxed{8}.<|end|>", 0.0),
]


class Sums(Task):
    markers = (r"\\boxed",)

    def rows(self, split):
        question = [{"role": "user", "content": "What is 3 + 4?"}]
        return [Row(id=f"{split}-{n}", messages=question, ground_truth="7", verifier="math_boxed") for n in range(4)]

    def verify(self, completion, row):
        return verifier("math_boxed")(completion, row)


class Scripted(RolloutEngine):
    """Writes the same texts one after another, whatever it is asked."""

    mismatched = False

    def __init__(self, tokenizer, texts):
        self.ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]

    def generate(self, policy, prompts, *, num_generations, sampling, seeds, end_ids, pad_id):
        rows = [ids for ids, _ in zip(cycle(self.ids), seeds.tolist(), strict=False)]
        lengths = torch.tensor([len(ids) for ids in rows])
        width = int(lengths.max())
        padded = torch.tensor([ids + [pad_id] * (width - len(ids)) for ids in rows])
        done = torch.tensor([ids[-1] in end_ids for ids in rows])
        return Completions(padded, lengths, torch.zeros(padded.shape), done)


@pytest.fixture
def thinker(tiny, tmp_path):
    """The tiny model with a template that opens thinking."""
    tokenizer, policy = load_tokenizer(tiny), load_policy(tiny)
    tokenizer.chat_template += "{%- if add_generation_prompt -%}{{- '<think>\\n' -}}{%- endif -%}"
    policy.generation_config.eos_token_id = tokenizer.eos_token_id
    folder = str(tmp_path / "thinker")
    tokenizer.save_pretrained(folder)
    policy.save_pretrained(folder)
    return folder


def test_training_and_evaluation(thinker, tmp_path):
    engine = Scripted(load_tokenizer(thinker), [text for text, _ in WRITTEN])
    watch, samples = Watch(), SampleLogger(every_n_steps=1)
    data = toy_data([Sums("sums")], prompts=2, eval_generations=4)
    module = method("sdpo", thinker, reprompt=Reprompt())
    rollout = rollout_callback(engine=engine, sampling=Sampling(max_new_tokens=64))
    made = fit(tmp_path, module, data, watch, samples, rollout=rollout, limit_val_batches=1.0)
    for split in ("train", "validation"):
        (rollouts,) = {id(e["rollouts"]): e["rollouts"] for e in watch.of(split)[:1]}.values()
        assert [v.score for v in rollouts.verdicts[:4]] == [score for _, score in WRITTEN]
    assert made.callback_metrics["val/sums/accuracy"] == pytest.approx(0.25)
    assert made.callback_metrics["val/sums/invalid"] == pytest.approx(0.5)
    # The one success is what the failing siblings are shown, without its thinking.
    contexts = Reprompt().contexts(watch.of("train")[0]["rollouts"], module.tokenizer)
    assert contexts.demonstrations[:4] == [2, 2, None, 2]
    assert "Correct solution:\n\nSo \\boxed{7}.\n\n" in contexts.messages[0][-1]["content"]
    # What a checkpoint keeps can be read back without running code.
    torch.save(samples.state_dict(), tmp_path / "state")
    torch.load(tmp_path / "state", weights_only=True)


def test_tags_as_special_tokens_reach_verifier_demonstration_and_samples(tiny):
    tokenizer, policy = load_tokenizer(tiny), load_policy(tiny)
    tags = ["<think>", "</think>", "<answer>", "</answer>"]
    tokenizer.add_special_tokens({"additional_special_tokens": tags})
    texts = ["<think>A?</think><answer>B</answer><|end|>", "<think><answer>B</answer><|end|>", "B<|end|>"]
    row = Row("r", [{"role": "user", "content": "?"}], "B", "mcq_xml")

    class Choice(Sums):
        def verify(self, completion, row):
            return verifier(row.verifier)(completion, row)

    draw = GenerationSettings(3, Sampling(max_new_tokens=64), 0)
    engine = Scripted(tokenizer, texts)
    got = generate(policy, tokenizer, Choice("c"), [row], draw, engine=engine, rewards=WeightedRewards()).rollouts
    assert got.rewards.tolist() == [1.0, 0.0, 0.0]
    assert got.texts == [text.removesuffix("<|end|>") for text in texts]
    shown = Reprompt().contexts(got, tokenizer).messages[1][-1]["content"]
    assert "Correct solution:\n\n<answer>B</answer>\n\n" in shown


def test_reference_answers_close_the_thinking_that_the_template_opened(thinker, tiny):
    row = Row("r", [{"role": "user", "content": "3 + 4?"}], "7", reference="It is 7.")
    thought = Row("r", [{"role": "user", "content": "3 + 4?"}], "7", reference="Hm.</think>It is 7.")
    for model, expected in ((thinker, "</think>\n\nIt is 7."), (tiny, "It is 7.")):
        tokenizer = load_tokenizer(model)
        drawn = reference_rollouts([row, thought], tokenizer)
        written = [
            tokenizer.decode(ids[:n]) for ids, n in zip(drawn.completions.ids, drawn.completions.lengths, strict=True)
        ]
        assert written == [f"{expected}<|end|>", "Hm.</think>It is 7.<|end|>"]
