"""Tasks that are scored by likelihood: what their rows may be, what is asked, how scores come from the answers."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lit_sdpo.errors import UserError
from lit_sdpo.functional import text_likelihood
from lit_sdpo.likelihood.encoding import Encoder
from lit_sdpo.likelihood.tasks import MultipleChoiceLikelihood, TextLikelihood
from tests.likelihood.tokenizers import byte_level

CHOICE = {"question": "The colour of snow?", "choices": ["white", "blue"], "answer": 0}


def written(tmp_path, *rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [(1, (1,)), ("B", (1,)), (" b".upper(), (1,)), ("white", (0,)), ([1, "A"], (0, 1)), ([0, 0], (0,))],
)
def test_answers_may_be_told_in_several_ways(tmp_path, answer, gold):
    (row,) = MultipleChoiceLikelihood("snow", written(tmp_path, CHOICE | {"answer": answer})).rows("validation")
    assert (row.id, row.gold, row.choices) == ("rows/1", gold, ("white", "blue"))


def test_an_option_that_is_a_letter_is_meant_before_the_letter(tmp_path):
    row = {"question": "Which?", "choices": ["B", "A"], "answer": "A"}
    assert MultipleChoiceLikelihood("letters", written(tmp_path, row)).rows("test")[0].gold == (1,)


@pytest.mark.parametrize(
    ("change", "field", "what"),
    [
        ({"question": None}, "question", "has neither of question and messages"),
        ({"messages": [{"role": "user", "content": "?"}]}, "question", "has both"),
        ({"question": " "}, "question", "the text is empty"),
        ({"choices": "white"}, "choices", "not text"),
        ({"choices": ["white"]}, "choices", "not 1 option"),
        ({"choices": ["white", 3]}, "choices[1]", "not a number"),
        ({"choices": ["white", ""]}, "choices[1]", "the option is empty"),
        ({"answer": None}, "answer", "missing"),
        ({"answer": 2}, "answer", "2 is none of 2 options"),
        ({"answer": -1}, "answer", "-1 is none"),
        ({"answer": True}, "answer", "True is none"),
        ({"answer": "green"}, "answer", "'green' is none"),
        ({"answer": [0, 5]}, "answer", "5 is none"),
        ({"answer": []}, "answer", "[] is none"),
        ({"id": {}}, "id", "not an object"),
    ],
)
def test_a_bad_row_is_told_with_file_row_and_field(tmp_path, change, field, what):
    path = written(tmp_path, CHOICE, CHOICE | change)
    with pytest.raises(UserError) as error:
        MultipleChoiceLikelihood("snow", path).rows("validation")
    assert error.value.where == f"{path}, line 2, field {field!r}"
    assert what in error.value.what


def test_what_a_task_refuses(tmp_path):
    texts = written(tmp_path, {"text": "a"}, {"text": "b", "id": 7})
    assert [row.id for row in TextLikelihood("t", texts).rows("validation")] == ["rows/1", "7"]
    assert TextLikelihood("t", texts, limit=1).rows("test") == TextLikelihood("t", texts).rows("validation")[:1]
    assert TextLikelihood("t", texts).rows("train") == ()
    twice = written(tmp_path, {"text": "a", "id": "x"}, {"text": "b", "id": "x"}, name="twice.jsonl")
    for bad in (
        lambda: TextLikelihood("t", written(tmp_path, {"text": ""}, name="empty.jsonl")).rows("validation"),
        lambda: TextLikelihood("t", written(tmp_path, name="none.jsonl")).rows("validation"),
        lambda: TextLikelihood("t", twice).rows("validation"),
        lambda: TextLikelihood("t", [texts, texts]).rows("validation"),
        lambda: TextLikelihood("t", str(tmp_path / "missing.jsonl")).rows("validation"),
        lambda: TextLikelihood("t", texts, measure="acc"),
        lambda: TextLikelihood("t\n", texts),
        lambda: MultipleChoiceLikelihood("c", texts, prompt="Question:"),
    ):
        with pytest.raises(UserError):
            bad()


def test_columns_lead_to_the_fields(tmp_path):
    path = written(tmp_path, {"query": {"text": "snow?"}, "options": ["a", "b"], "gold": 1})
    columns = {"question": "query.text", "choices": "options", "answer": "gold"}
    (row,) = MultipleChoiceLikelihood("snow", path, columns=columns).rows("validation")
    assert (row.asked, row.gold) == ("snow?", (1,))


def test_what_is_asked_of_the_model(tmp_path):
    tokenizer = byte_level()
    encoder = Encoder(tokenizer)
    chat = {key: value for key, value in CHOICE.items() if key != "question"}
    chat |= {"messages": [{"role": "user", "content": "The colour of snow?"}]}

    def asked(row, **options):
        task = MultipleChoiceLikelihood("snow", written(tmp_path, row), **options)
        found = task.requests(task.rows("validation")[0], encoder, 100)
        assert len({request.context for request in found}) == 1
        return [tokenizer.decode(found[0].context), *(tokenizer.decode(request.target) for request in found)]

    assert asked(CHOICE) == ["The colour of snow?", " white", " blue"]
    assert asked(CHOICE, prompt="{question}\nAnswer:", separator="") == [
        "The colour of snow?\nAnswer:",
        "white",
        "blue",
    ]
    by_template = ["<|user|>The colour of snow?\n<|assistant|>", "\nwhite", "\nblue"]
    assert asked(CHOICE, chat=True) == asked(chat) == by_template


def test_a_row_that_does_not_fit_the_model(tmp_path):
    encoder = Encoder(byte_level())
    task = MultipleChoiceLikelihood("snow", written(tmp_path, CHOICE))
    with pytest.raises(UserError, match="row 'rows/1': question and option 'white' have"):
        task.requests(task.rows("validation")[0], encoder, 3)
    texts = TextLikelihood("t", written(tmp_path, {"text": "<s>"}), window=50)
    with pytest.raises(UserError, match="the model reads 40 tokens at once"):
        texts.requests(texts.rows("validation")[0], encoder, 40)
    with pytest.raises(UserError, match="the text has no token"):
        texts.requests(texts.rows("validation")[0], encoder, 60)


@pytest.mark.parametrize("measure", ["loss_per_token", "loss_per_byte", "bits_per_byte"])
def test_the_mean_of_the_items_is_the_loss_over_all_texts(tmp_path, measure):
    texts = ["snow", "naïve café " * 5, "1 + 1 = 2"]
    task = TextLikelihood("t", written(tmp_path, *({"text": text} for text in texts)), measure=measure)
    logprobs = [[torch.tensor([-1.0, -0.5])], [torch.tensor([-2.0] * 7), torch.tensor([-1.5])], [torch.tensor([-3.0])]]
    rows, values = task.rows("validation"), [task.values(each) for each in logprobs]
    expected = text_likelihood([torch.cat(each) for each in logprobs], [len(text.encode()) for text in texts])
    numbers = task.numbers(rows, values)
    assert {name: numbers[name] for name in numbers if name != "loss"} == pytest.approx(
        {name: float(expected[name]) for name in numbers if name != "loss"}
    )
    assert numbers["loss"] == numbers[measure]
    scores = task.item_scores(rows, values)
    assert math.isclose(sum(scores) / 3, numbers["loss"], rel_tol=1e-9)
    # Their spread is that of a ratio of sums, by the delta method.
    unit = math.log(2) if measure == "bits_per_byte" else 1.0
    costs = torch.tensor([-float(torch.cat(each).sum()) / unit for each in logprobs], dtype=torch.float64)
    sizes = [len(torch.cat(each)) for each in logprobs] if measure == "loss_per_token" else [4, 65, 9]
    sizes = torch.tensor(sizes, dtype=torch.float64)
    residuals = (costs - costs.sum() / sizes.sum() * sizes) / sizes.mean()
    assert torch.tensor(scores).std().item() == pytest.approx(residuals.std().item(), rel=1e-6)


@pytest.mark.parametrize(("measure", "score"), [("acc", 0.0), ("acc_norm", 1.0), ("acc_bytes", 1.0)])
def test_the_score_of_a_choice_is_the_measure(tmp_path, measure, score):
    row = {"question": "?", "choices": ["no", "certainly"], "answer": 1}
    task = MultipleChoiceLikelihood("c", written(tmp_path, row), measure=measure)
    values = [task.values([torch.tensor([-2.0]), torch.tensor([-1.0, -2.0])])]
    numbers = task.numbers(task.rows("validation"), values)
    assert numbers == {"accuracy": score, "acc": 0.0, "acc_norm": 1.0, "acc_bytes": 1.0}
    assert task.item_scores(task.rows("validation"), values) == [score]
