"""The reward by_source gives the values of verl's own functions, which run in a process of their own."""

import json
import random

import pytest
from sandboxed import skip_without_sandbox
from source_cases import LONG, TABLES, random_case
from verl_scores import verl_scores

from steps.errors import UserError
from steps.rewards.graded_math import readable
from steps.rewards.loading import load_rewards
from steps.tasks.rules.verl_sources import FAMILIES, STARTS, family_of

FUZZED = 200
# Answers whose reward differs from verl's on purpose (docs/rewards.md): (family, answer) → the reward here.
DIFFERENT: dict[tuple[str, str], float] = {}


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
        if ours != DIFFERENT.get((family_of(source), answer), theirs)
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
