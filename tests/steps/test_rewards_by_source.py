"""The reward by_source gives the values of verl's own functions, which run in a process of their own."""

import json
import random
import time

import numpy as np
import pytest
from sandboxed import skip_without_sandbox
from source_cases import TABLES, random_case
from verl_scores import verl_scores

from steps.errors import UserError
from steps.rewards.graded_math import readable
from steps.rewards.loading import load_rewards
from steps.tasks.rules.verl_sources import FAMILIES, STARTS, family_of

FUZZED = 200  # random answers of each family
SOON = 12.0  # seconds for one text, on a busy machine


def scored(cases):
    """Rewards of (source, answer, truth); a truth that is an object arrives as JSON text, as rows have it."""
    rewards = load_rewards(["by_source"])
    sources, answers, truths = zip(*cases, strict=True)
    columns = {"data_source": sources, "ground_truth": [_as_text(truth) for truth in truths]}
    return rewards.score(["?"] * len(cases), answers, columns).rewards["by_source"]


def _as_text(truth):
    return truth if isinstance(truth, str) else json.dumps(truth)


def compare(cases):
    """Every case whose rewards differ."""
    return [
        (source, answer[-200:], truth, ours, theirs)
        for (source, answer, truth), ours, theirs in zip(cases, scored(cases), verl_scores(cases), strict=True)
        if ours != theirs
    ]


@pytest.mark.slow
@pytest.mark.parametrize("family", TABLES)
def test_answers_earn_what_verl_gives(family):
    if family == "code":
        skip_without_sandbox()
    sources, table = TABLES[family]
    cases = [(sources[row % len(sources)], *case) for row, case in enumerate(table)]
    assert compare(cases) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", TABLES)
def test_random_answers_earn_what_verl_gives(family):
    if family == "code":
        skip_without_sandbox()
    rng, sources = random.Random(11), TABLES[family][0]
    cases = [(sources[row % len(sources)], *random_case(family, rng)) for row in range(FUZZED)]
    assert compare(cases) == []
    made = scored(cases)
    assert 20 < sum(one > 0.5 for one in made) < 180  # neither all right nor all wrong


@pytest.mark.slow
def test_the_sources_are_verls():
    """verl has a function for each name, and none for others."""
    others = ["", "gsm8k", "MATH", "openai/gsm8k2", "numina", "searchR1_", "Aime"]
    names = [*FAMILIES, *STARTS, *(start + "2025" for start in STARTS), *others]
    made = verl_scores((name, "", TABLES[family_of(name) or "gsm8k"][1][0][1]) for name in names)
    unknown = [name for name, one in zip(names, made, strict=True) if str(one).startswith("NotImplementedError")]
    assert unknown == others == [name for name in names if not family_of(name)]
    assert not [one for one in made[: -len(others)] if isinstance(one, str)]
    assert {*TABLES} == {*FAMILIES.values()}
    assert all(len(cases) >= 12 for _, cases in TABLES.values())


@pytest.mark.parametrize("source", ["gsm8k", "", None, 3, "my_own"])
def test_an_unknown_source_is_refused(source):
    with pytest.raises(UserError, match=r"REWARD-E0231 .*data_source"):
        load_rewards(["by_source"]).score(["?"], ["4"], {"data_source": [source], "ground_truth": ["4"]})


@pytest.mark.parametrize(
    ("source", "truth"),
    [
        ("searchR1_nq", "Paris"),
        ("searchR1_nq", '{"answer": "Paris"}'),
        ("searchR1_nq", {"target": [3]}),
        ("apps", "[]"),
        ("apps", "{broken"),
        ("apps", {"inputs": [], "outputs": []}),
        ("apps", {"inputs": ["1"], "outputs": []}),
        ("apps", {"inputs": [1], "outputs": ["1"]}),
        ("apps", {"fn_name": "a b", "inputs": ["1"], "outputs": ["1"]}),
        ("apps", {"fn_name": "f", "inputs": ["x"], "outputs": ["1"]}),
        ("openai/gsm8k", 4),
        ("numina_cn_k12", ["4"]),
    ],
)
def test_a_right_answer_of_another_form_is_refused(source, truth):
    with pytest.raises(UserError, match=rf"REWARD-E0232 reward by_source, ground_truth of {source}"):
        load_rewards(["by_source"]).score(["?"], ["4"], {"data_source": [source], "ground_truth": [truth]})


def test_right_answers_may_be_an_array():
    columns = {"data_source": ["searchR1_nq"], "ground_truth": [{"target": np.array(["Rome", "Paris"])}]}
    assert load_rewards(["by_source"]).score(["?"], ["<answer>Paris</answer>"], columns).totals == [1.0]


def test_mathematics_without_its_package_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    columns = {"data_source": ["numina_cn_k12"], "ground_truth": ["4"]}
    with pytest.raises(UserError, match="REWARD-E0233"):
        load_rewards(["by_source"]).score(["?"], ["4"], columns)


def test_the_answer_that_was_found_is_logged():
    columns = {"data_source": ["openai/gsm8k", "math", "searchR1_nq"], "ground_truth": ["4", "5", '{"target": "x"}']}
    scores = load_rewards(["by_source"]).score(["?"] * 3, ["#### 4", "Answer: 5 cm", "no"], columns)
    assert scores.extra == {"by_source/answer": ["4", "5", None]}
    assert scores.rewards["by_source"] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("text", ["x+1", "2*pi*r", "sqrt(2)/3", "(1,2)", "3.5", "α+β", "abc", "S(x)"])
def test_formulas_are_read(text):
    assert readable(text)


@pytest.mark.parametrize(
    "text",
    ["eval(x)", "exec", "open(3)", "x.y", "().a", "a_b", "'x'", '"x"', "x:y", "lambda", "sympify(x)", "lambdify(x,x)",
     "ｅｖａｌ(x)", "𝐨𝐩𝐞𝐧(x)", "preview(x)", "chr(3)", "if", "a;b", "@", "`x`", "\\x"],
)  # fmt: skip
def test_programs_are_no_formulas(text):
    assert not readable(text)


LONG_TEXTS = {
    "opened blocks": "<answer>" * 40_000,
    "closed blocks": "</answer>" * 40_000,
    "thoughts": "<think>" + "</think>\\boxed{" * 20_000,
    "boxes": "\\boxed{" * 40_000 + "}" * 40_000,
    "words": "answer is " * 30_000,
    "marks": "= " * 100_000,
    "blanks": "Answer:" + " " * 300_000,
    "powers": "\\boxed{" + "9^" * 900 + "9}",
    "roots": "\\boxed{" + "\\sqrt{" * 150 + "2" + "}" * 150 + "}",
    "parentheses": "\\boxed{" + "(" * 900 + "x" + ")" * 900 + "}",
    "factorials": "\\boxed{((99!)!)!}",
    "a product": "\\boxed{" + "*".join(["9" * 400] * 4) + "**9**9**9}",
    "a polynomial": "\\boxed{(a+b)**999}",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG_TEXTS)
@pytest.mark.parametrize("family", [family for family in TABLES if family != "code"])
def test_a_long_text_is_scored_soon(family, name):
    source, (_, truth) = TABLES[family][0][0], TABLES[family][1][0]
    rewards = load_rewards(["by_source"], options={"by_source": {"timeout_seconds": 1}})
    columns = {"data_source": [source], "ground_truth": [_as_text(truth)]}
    started = time.monotonic()
    (made,) = rewards.score(["?"], [LONG_TEXTS[name]], columns).rewards["by_source"]
    assert time.monotonic() - started < SOON
    assert made in (-1.0, 0.0, 0.1)
