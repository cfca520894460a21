import json
import random
import re
import time
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_sdpo.data.micro.domain import HINTS, SIGNS
from lit_sdpo.data.micro.tasks import MicroTask
from lit_sdpo.data.micro.world import DOMAINS, MicroWorld, problems
from lit_sdpo.errors import UserError

TRAINED = ["math", "sci", "tool", "code"]
KINDS = [(domain, variant) for domain in DOMAINS for variant in DOMAINS[domain].variants]
POSITIONS = [
    MicroWorld(format_named=named, wording=wording, wrappers=wrappers)
    for named in ("always", "sometimes", "never")
    for wording in ("own", "shared")
    for wrappers in ("own", "shared")
]


IDS = ["math/003a3ac46488", "sci/001aa108a7b1", "tool/002a0a1fdf31", "code/00158e841231", "prior/0058aaad1273"]


def style_cases(count=25):
    for domain, variant in KINDS:
        for problem in problems(domain, variant, "train")[:count]:
            yield domain, problem, random.Random(problem.text)


@pytest.mark.parametrize(("domain", "variant"), KINDS)
@pytest.mark.parametrize("world", POSITIONS, ids=str)
def test_every_reference_is_accepted_at_every_knob_position(domain, variant, world):
    rows = MicroTask(domain, variant, world).rows("test")
    for strict in (False, True):
        task = MicroTask(domain, variant, replace(world, strict=strict))
        for row in rows:
            verdict = task.verify(row.reference, row)
            assert (verdict.score, verdict.feedback, verdict.flags) == (1.0, "", ())


@pytest.mark.parametrize("wrappers", ["own", "shared"])
@pytest.mark.parametrize("strict", [False, True])
def test_styles_are_judged_as_documented(wrappers, strict):
    for domain, problem, rng in style_cases():
        kind = DOMAINS[domain]
        for style in kind.shares:
            text = kind.respond(problem, style, kind.wrapper_of(wrappers), rng)
            verdict = kind.judge(text, problem.answer, wrappers=wrappers, strict=strict)
            expected = style == "good" or (style == "dual" and not strict)
            assert verdict.score == expected, (domain, style, text)
            assert ("no_answer" in verdict.flags) == (style in ("noform", "cross")), (style, text)
            assert ("foreign_marker" in verdict.flags) == (style in ("cross", "dual")), (style, text)
            assert ("wrong_format" in verdict.flags) == (style == "dual" and strict), (style, text)


def test_only_strict_verifiers_refuse_text_after_the_answer():
    for domain in TRAINED:
        for strict in (False, True):
            task = MicroTask(domain, world=MicroWorld(strict=strict))
            row = task.rows("train")[0]
            assert task.verify(row.reference + " \n", row).score == 1
            assert task.verify(row.reference + "\nDone", row).score == (not strict)
            assert task.verify("Well. " + row.reference, row).score == 1


def test_the_last_answer_counts():
    for domain in TRAINED:
        kind, problem = DOMAINS[domain], problems(domain, "train", "train")[0]
        good, slip = (kind.respond(problem, style, kind.wrapper, random.Random(0)) for style in ("good", "slip"))
        assert kind.judge(f"{slip}\n{good}", problem.answer).score == 1
        assert kind.judge(f"{good}\n{slip}", problem.answer).score == 0


def test_wrong_answers_are_told_from_missing_and_malformed_ones():
    cases = {
        "math": (r"\boxed{two}", "1+2=3. 3"),
        "sci": (None, "fur"),
        "tool": ("Action: find\nAction Input: {item}", "find lamp"),
        "code": ("```python\nimport os\n```", "def f(s):\n    return s"),
    }
    for domain, (malformed, missing) in cases.items():
        task = MicroTask(domain)
        row = task.rows("train")[0]
        assert task.verify(missing, row).flags == ("no_answer",)
        assert task.verify("", row).flags == ("no_answer",)
        if malformed:
            assert task.verify(malformed, row).flags == ("wrong_format",)


def test_math_answers_and_steps():
    for variant in ("train", "ood"):
        for problem in problems("math", variant, "train")[:300]:
            assert int(problem.answer) == eval(problem.text)
            assert len(re.findall(r"\d+", problem.text)) == (3 if variant == "train" else 4)
    judge = DOMAINS["math"].judge
    assert judge(r"2+3=5, 5-1=3. \boxed{3}", "4").feedback == "The second step is wrong."
    assert judge(r"\boxed{ +04 }", "4").score == 1


def test_code_answers_are_what_python_computes():
    for variant in ("train", "ood"):
        task = MicroTask("code", variant)
        for row in task.rows("train")[:100]:
            scope = {}
            exec(re.search(r"```python\n(.*?)```", row.reference, re.DOTALL)[1], scope)
            inputs, outputs = json.loads(row.ground_truth)
            assert [scope["f"](s) for s in inputs] == outputs


def test_every_code_operation_changes_the_texts_it_is_tried_on():
    for problem in problems("code", "train", "validation"):
        inputs, _ = json.loads(problem.answer)
        for _, expression in problem.parts:
            assert [eval(expression, {}, {"s": s}) for s in inputs] != inputs, problem.text


def test_tool_answers_are_among_the_listed_tools():
    for variant, count in (("train", 3), ("ood", 4)):
        for row in MicroTask("tool", variant).rows("train")[:200]:
            listed = dict(re.findall(r"(\w+)\(([\w, ]+)\)", row.messages[0]["content"]))
            call = json.loads(row.ground_truth)
            assert len(listed) == count
            assert listed[call["name"]] == ", ".join(call["arguments"])
            assert all(value in row.messages[0]["content"] for value in call["arguments"].values())


def test_sci_probes_new_animals_and_options():
    animals = {v: {p.parts[1] for p in DOMAINS["sci"].problems(v)} for v in ("train", "ood")}
    assert (len(animals["train"]), len(animals["ood"])) == (30, 10)
    assert not animals["train"] & animals["ood"]
    for variant, count in (("train", 4), ("ood", 5)):
        assert all(len(p.parts[2]) == count and p.answer in p.parts[2] for p in problems("sci", variant, "train"))


def test_prior_answers():
    oracles = {
        "Say:": lambda words: words,
        "Backwards:": lambda words: words[::-1],
        "Sort:": sorted,
        "Opposites of:": lambda words: [{"hot": "cold", "dry": "wet"}.get(word) for word in words],
    }
    seen = set()
    for problem in problems("prior", "train", "train"):
        ability, words = problem.parts
        expected = list(oracles[ability](list(words)))
        if None not in expected:
            seen.add(ability)
            assert problem.answer == " ".join(expected)
    assert seen == set(oracles)


@pytest.mark.parametrize(("domain", "variant"), KINDS)
def test_splits_are_by_problem_whatever_the_wording(domain, variant):
    found = {}
    for world in (MicroWorld(), MicroWorld(format_named="never", wording="shared", wrappers="shared", seed=7)):
        task = MicroTask(domain, variant, world)
        for split in ("train", "validation", "test"):
            for row in task.rows(split):
                assert found.setdefault(row.extra["problem"], (split, row.id)) == (split, row.id)
    ids = [row_id for _, row_id in found.values()]
    assert len(set(ids)) == len(ids) == len(DOMAINS[domain].problems(variant))
    assert all(row_id.startswith(f"{domain}/") for row_id in ids)
    sizes = {s: sum(split == s for split, _ in found.values()) for s in ("train", "validation", "test")}
    assert sizes["train"] >= 950
    assert sizes["validation"] >= 256
    assert sizes["test"] >= (128 if (domain, variant) == ("sci", "ood") else 240)


def test_ids_are_stable():
    assert [MicroTask(d).rows("validation")[0].id for d in DOMAINS] == IDS


def test_equal_worlds_make_equal_rows_and_seeds_change_the_wording():
    for domain in ("math", "sci", "tool"):
        rows = MicroTask(domain).rows("validation")
        assert rows == MicroTask(domain, world=MicroWorld()).rows("validation")
        assert rows != MicroTask(domain, world=MicroWorld(seed=1)).rows("validation")


def test_hints_name_the_format_always_sometimes_or_never():
    for domain in TRAINED:
        for wrappers in ("own", "shared"):
            hint = HINTS[DOMAINS[domain].wrapper_of(wrappers)]
            share = {}
            for named in ("always", "sometimes", "never"):
                rows = MicroTask(domain, world=MicroWorld(format_named=named, wrappers=wrappers)).rows("train")
                prompts = [row.messages[0]["content"] for row in rows]
                share[named] = sum(prompt.endswith(hint) for prompt in prompts) / len(prompts)
                assert named != "never" or not any(sign in prompt for prompt in prompts for sign in SIGNS.values())
            assert (share["always"], share["never"]) == (1, 0)
            assert share["sometimes"] == pytest.approx(0.5, abs=0.05)


def test_shared_wording_puts_one_frame_around_every_request():
    for domain, variant in KINDS:
        for row in MicroTask(domain, variant, MicroWorld(wording="shared")).rows("validation")[:50]:
            prompt = row.messages[0]["content"]
            assert prompt.startswith("Task: ")
            assert not re.search(r"Compute|What|Work out|Pick|Tools|Request|Code|Say|Sort|Backwards|Opposites", prompt)


def test_shared_wrappers_put_sci_into_the_box():
    own, shared = (MicroTask("sci", world=MicroWorld(wrappers=w)) for w in ("own", "shared"))
    assert shared.markers == MicroTask("math").markers != own.markers
    assert all(r"\boxed{" in row.reference and "<answer>" not in row.reference for row in shared.rows("validation"))
    assert [MicroTask(d).markers for d in ("tool", "code")] == [
        MicroTask(d, world=MicroWorld(wrappers="shared")).markers for d in ("tool", "code")
    ]


def test_markers_find_the_own_format_alone():
    tasks = [MicroTask(domain) for domain in TRAINED]
    for task in tasks:
        for other in tasks:
            found = any(re.search(marker, task.rows("train")[0].reference) for marker in other.markers)
            assert found == (task is other)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("wrappers", ["own", "shared"])
def test_feedback_never_contains_the_answer(strict, wrappers):
    for domain, problem, rng in style_cases(60):
        kind = DOMAINS[domain]
        for style in kind.shares:
            text = kind.respond(problem, style, kind.wrapper_of(wrappers), rng)
            feedback = kind.judge(text, problem.answer, wrappers=wrappers, strict=strict).feedback
            if domain == "tool":
                secrets = [problem.parts[0], *problem.parts[1]]
            elif domain == "code":
                secrets = [step[1] for step in problem.parts] + json.loads(problem.answer)[1]
            else:
                secrets = [problem.answer]
            words = re.findall(r"[\w.]+", feedback)
            assert not any(secret in words for secret in secrets), feedback
            assert not any(len(secret) > 4 and secret in feedback for secret in secrets), feedback


MARKS = ["\\boxed{", "}", "<answer>", "</answer>", "Action: find\nAction Input: ", "{", '"item": "', "```", "[" * 3000]
MARKS += ["python\n", "def f(s):\n", "    s = s + s\n", "    return s\n", "s * 999", "[::0]", "7", "fur", "\n", " "]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(MARKS), st.text(max_size=8)), max_size=12).map("".join), st.booleans())
def test_verifiers_never_raise(completion, strict):
    for (domain, variant), wrappers in product(KINDS, ("own", "shared")):
        truth = problems(domain, variant, "test")[0].answer
        verdict = DOMAINS[domain].judge(completion, truth, wrappers=wrappers, strict=strict)
        assert verdict.score in (0.0, 1.0)
        assert bool(verdict.feedback) == (verdict.score == 0)


def test_long_completions_are_judged_quickly():
    start = time.process_time()
    for piece in MARKS:
        for domain in DOMAINS:
            DOMAINS[domain].judge(piece * (100_000 // len(piece)), problems(domain, "train", "test")[0].answer)
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: MicroWorld(wording="both"), "MicroWorld.wording"),
        (lambda: MicroWorld(format_named=True), "MicroWorld.format_named"),
        (lambda: MicroWorld(skill=-1), "skill has to be"),
        (lambda: MicroWorld(demonstration_quality=1.2), "demonstration_quality has to be"),
        (lambda: MicroTask("mth"), "MicroTask.domain"),
        (lambda: MicroTask("prior", "ood"), "MicroTask.variant"),
    ],
)
def test_mistakes_are_named(make, where):
    with pytest.raises(UserError, match=where):
        make()


def test_names():
    assert [MicroTask("math").name, MicroTask("math", "ood").name, MicroTask("sci", name="facts").name] == [
        "math",
        "math_ood",
        "facts",
    ]
