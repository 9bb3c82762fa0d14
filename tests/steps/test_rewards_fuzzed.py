"""Any text earns a finite reward or None, the same one each time, and soon. Texts are random, with a fixed seed."""

import math
import random
import time
from functools import cache

import pytest
from sandboxed import skip_without_sandbox

from steps.rewards.library import REWARDS
from steps.rewards.loading import load_rewards

PIECES = (
    "<think>", "</think>", "<answer>", "</answer>", "<answer", "Final Answer:", "final answer", "Answer:", "answer is ",
    "\\boxed{", "\\frac{1}{", "\\sqrt{", "}", "{", "$", "\\(", "\\)", "####", "```python\n", "```", "\n", "\n\n", " ",
    "\t", "\r", "A", "(C)", "or", "x^{2}", "1,234", "1/0", "-", "−", "½", "٣", "1e99", "50%", "9^9", "inf", "nan", "!",
    '{"a": ', "[", "]", "null", '"', "\\u0000", "\x00", "\x1b[31m", "\u202e", "\ufeff", "\ud800", "\udfff", "é", "日本",
    "👩‍👩‍👧", "\U0010ffff", "ß", "İ", "a" * 50, "print(1)", "def f(): pass", "\\int", "\\sum_{", "=", "<", "∞", "^",
    "_", "\\", "²",
)  # fmt: skip
LONG = {
    "letters": "a" * 300_000,
    "spaces": " " * 300_000,
    "lines": "\n" * 300_000,
    "digits": "9" * 300_000,
    "digits in groups": "1," + "234," * 80_000,
    "groups with spaces": "1 234 " * 50_000,
    "signs": "-" * 300_000,
    "slashes": "1/" * 100_000,
    "open tags": "<think>" * 50_000,
    "nested tags": "<think><answer>" * 20_000 + "</answer></think>" * 20_000,
    "closed tags": "</think>" * 50_000,
    "answers": "answer " * 50_000,
    "final": "final " * 50_000 + "answer" + " " * 50_000,
    "labels": "Final Answer: " * 30_000,
    "headings": "# final answer\n" * 20_000,
    "stars": "**" * 150_000 + "Final Answer" + "*" * 150_000,
    "boxes": "\\boxed{" * 40_000,
    "fractions": "\\frac{1}{" * 30_000,
    "braces": "{" * 300_000,
    "brackets": "[" * 100_000,
    "quotes": '"' * 300_000,
    "blocks": "```python\n" * 30_000,
    "dollars": "$" * 100_000,
    "powers": "9^" * 20_000 + "9",
    "words": "the same word " * 20_000,
    "roots": "<answer>" + "\\sqrt{" * 150 + "2" + "}" * 150 + "</answer>",
    "parentheses": "<answer>" + "(" * 900 + "x" + ")" * 900 + "</answer>",
    "tower": "<answer>$2^{2^{2^{2^{2^{2}}}}}$</answer>",
    "factorials": "<answer>((99!)!)!</answer>",
    "a sum": "<answer>$\\sum_{n=1}^{10^{9}} \\frac{1}{n!}$</answer>",
    "an integral": "<answer>$\\int_0^{99} e^{\\sin(x^x)} dx$</answer>",
    "a polynomial": "<answer>$(a+b+c+d+e+f+g)^{99}$</answer>",
}  # fmt: skip
OPTIONS = {
    "regex": {"pattern": r"(a|aa|\s)+$|(\d+[, ]?)+x", "timeout_seconds": 0.05},
    "json_schema": {
        "json_schema": {"pattern": "^(a|aa)+$", "type": ["string", "array", "object"]},
        "timeout_seconds": 1,
    },
    "math": {"timeout_seconds": 1},
    "code": {"timeout_seconds": 1},
    "format": {"partial": True},
}
VALUES = {"ground_truth": ["C", "42", "\\frac{1}{2}", "Paris", None], "tests": [["assert f() is None"]]}
SOURCES = ("openai/gsm8k", "lighteval/MATH", "math_dapo", "numina_cn_k12", "hiyouga/geometry3k")
FUZZED = sorted({*REWARDS} - {"reward_model", "accuracy"})
BOUND = 12.0  # seconds for one text, on a busy machine; most need less than a millisecond


@cache
def loaded(name):
    if name == "code":
        skip_without_sandbox()
    return load_rewards([name], options={name: OPTIONS.get(name, {})})


def earned(name, text, value):
    columns = {column: [value] for column in loaded(name).columns}
    if "data_source" in columns:  # of the data, and refused if it is none that is known (test_rewards_by_source.py)
        columns |= {"data_source": [SOURCES[len(text) % len(SOURCES)]]}
        if not isinstance(value, str):
            columns |= {"ground_truth": [None]}
    return loaded(name).score(["?"], [text], columns, completion_ids=[[0] * len(text[:300])]).rewards[name][0]


def random_text(rng):
    made = [rng.choice(PIECES) for _ in range(rng.randint(0, 40))]
    made += [chr(rng.randrange(0x110000)) for _ in range(rng.randint(0, 5))]
    rng.shuffle(made)
    return "".join(made)


def check(name, text, rng):
    column = (*loaded(name).columns, "")[0]
    value = rng.choice(VALUES.get(column, [None]))
    started = time.monotonic()
    first = earned(name, text, value)
    assert time.monotonic() - started < BOUND
    assert first is None or math.isfinite(first)
    assert earned(name, text, value) == first
    return first


@pytest.mark.parametrize("name", FUZZED)
def test_random_texts(name):
    rng = random.Random(19)
    for _ in range({"code": 12, "math": 150, "regex": 150}.get(name, 600)):
        check(name, random_text(rng), rng)


@pytest.mark.parametrize("text", LONG)
@pytest.mark.parametrize("name", FUZZED)
def test_long_and_deep_texts(name, text):
    check(name, LONG[text], random.Random(7))


@pytest.mark.parametrize("name", sorted({*FUZZED} - {"code"}))
def test_random_truths(name):
    """What stands in the data is no attack, but it may be anything as well."""
    rng = random.Random(20)
    for _ in range(60 if name in ("math", "regex") else 300):
        value = rng.choice([random_text(rng), rng.random(), rng.randrange(10**30), True, [], {}, [random_text(rng)]])
        made = earned(name, random_text(rng), value)
        assert made is None or math.isfinite(made)
