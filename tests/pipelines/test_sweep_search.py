"""Trials are asked for one by one; the same trials so far give the same answer."""

import json
import logging
import math
import random
from statistics import median

import pytest

from pipelines.sweeping.described import SAMPLERS, Described, describe
from pipelines.sweeping.search import Search

CHAT = "chat_completion"
MIXED = {
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "weight_decay": {"low": 0, "high": 0.5},
    "warmup_ratio": {"low": 0, "high": 0.3, "step": 0.1},
    "lora_r": {"low": 4, "high": 64, "log": True, "step": 2},
    "lora_alpha": {"low": 8, "high": 64, "log": True},
    "warmup_steps": {"low": 0, "high": 20},
    "total_train_batch_size": [32, 8, 16],
    "lr_scheduler_type": ["linear", "cosine"],
    "apply_lora": [True, False],
    "model_args": [{}, {"attention_dropout": 0.1}],
    "optim": ["sgd"],
}
FEW = {"lora_r": [4, 8, 16], "apply_lora": [True, False]}


def search_of(space=None, **sweep) -> Search:
    described = describe(CHAT, {}, space, **sweep)
    return Search(Described.from_json(json.loads(json.dumps(described.as_json()))))


def cost(parameters) -> float:
    """A valley with its floor at learning_rate=1e-3 and weight_decay=0.2."""
    return (math.log10(parameters["learning_rate"]) + 3) ** 2 + 4 * (parameters["weight_decay"] - 0.2) ** 2


def finished(number, parameters, score=1.0):
    return {"number": number, "parameters": parameters, "state": "finished", "score": score}


def asked(search: Search, score=lambda parameters: 1.0, most=100) -> list[dict]:
    done: list[dict] = []
    while len(done) < most and (one := search.ask(done)) is not None:
        done.append(finished(len(done), one, score(one)))
    return [one["parameters"] for one in done]


def test_a_grid_is_in_the_order_given_and_its_last_parameter_changes_first():
    search = search_of({"lora_r": {"low": 4, "high": 16, "log": True, "step": 2}, "learning_rate": [1e-3, 1e-5]})
    assert search.total == 6
    assert asked(search) == [
        {"lora_r": 4, "learning_rate": 1e-3}, {"lora_r": 4, "learning_rate": 1e-5},
        {"lora_r": 8, "learning_rate": 1e-3}, {"lora_r": 8, "learning_rate": 1e-5},
        {"lora_r": 16, "learning_rate": 1e-3}, {"lora_r": 16, "learning_rate": 1e-5},
    ]  # fmt: skip


def test_a_budget_ends_a_grid_and_a_list_early():
    assert asked(search_of(FEW, budget=4)) == asked(search_of(FEW))[:4]
    listed = search_of(trials=[{"lora_r": 4}, {"lora_r": 2}, {"lora_r": 16}], budget=2)
    assert (listed.total, asked(listed)) == (2, [{"lora_r": 4}, {"lora_r": 2}])


def test_the_next_trial_follows_the_highest_number_in_whatever_order_they_are():
    search = search_of(FEW)
    done = [{"number": 2, "state": "running"}, {"number": 0, "state": "failed"}, {"number": 1, "state": "waiting"}]
    assert search.ask(done) == asked(search)[3]


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_takes_every_kind_of_parameter(name):
    search = search_of(MIXED, search=name, budget=12, seed=1)
    trials = asked(search, cost)
    assert len(trials) == search.total == 12
    for one in trials:
        assert list(one) == list(MIXED)
        for ranged in ("learning_rate", "weight_decay", "lora_alpha", "warmup_steps"):
            assert MIXED[ranged]["low"] <= one[ranged] <= MIXED[ranged]["high"]
        assert one["warmup_ratio"] in (0.0, 0.1, 0.2, 0.3)
        assert one["lora_r"] in (4, 8, 16, 32, 64)
        assert type(one["lora_alpha"]) is type(one["warmup_steps"]) is int
        assert type(one["apply_lora"]) is bool
        for listed in ("total_train_batch_size", "lr_scheduler_type", "model_args", "optim"):
            assert one[listed] in MIXED[listed]
    assert len({json.dumps(one) for one in trials}) == 12


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_search_that_is_opened_again_asks_for_the_same(name):
    chance, done = random.Random(3), []
    for number in range(14):
        one = search_of(MIXED, search=name, budget=20, seed=7).ask(done)
        again = search_of(MIXED, search=name, budget=20, seed=7)
        again.ask(done[:3])  # another question in between changes nothing
        assert again.ask(json.loads(json.dumps(done[::-1]))) == one
        state = chance.choice(["finished", "finished", "failed", "pruned", "running", "waiting"])
        done.append({"number": number, "parameters": one, "state": state, "curve_metric": "validation loss",
                     "score": cost(one) if state == "finished" else None,
                     "curve": [[1, 2.0], [2, math.nan], [3, None], [4, cost(one)]]})  # fmt: skip


def test_another_seed_asks_for_others_and_is_not_the_same_search_shifted():
    first, second = (
        {one["learning_rate"] for one in asked(search_of(MIXED, search="random", budget=10, seed=seed))}
        for seed in (0, 1)
    )
    assert not first & second


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("space", [FEW, {"lora_r": {"low": 1, "high": 6}}], ids=["lists", "whole numbers"])
def test_no_combination_is_tried_twice_and_the_search_ends_when_all_were(name, space):
    search = search_of(space, search=name, budget=20)
    trials = asked(search, lambda one: one["lora_r"])
    assert search.total == len(trials) == 6
    assert len({json.dumps(one) for one in trials}) == 6
    assert search.note == "6 combinations are in the space, fewer than the budget of 20: each is tried once"


def test_a_space_with_very_many_combinations_is_never_written_out():
    search = search_of({"seed": {"low": 0, "high": 2**32 - 1}, "lora_r": [4, 8]}, search="tpe", budget=6)
    assert search.combinations == 2**33
    assert len({json.dumps(one) for one in asked(search)}) == 6
    done = [finished(number, one) for number, one in enumerate(asked(search, most=3))]
    assert 0 <= search._any_other(3, {json.dumps(one) for one in done})["seed"] < 2**32


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_a_sampler_learns_from_the_trials_so_far(name):
    space = {name: MIXED[name] for name in ("learning_rate", "weight_decay")}
    costs = [cost(one) for one in asked(search_of(space, search=name, budget=24, seed=5), cost)]
    assert median(costs[-6:]) < median(costs[:6]) / 2


@pytest.mark.parametrize("name", ["random", "tpe", "gp"])
def test_a_search_that_begins_anew_with_the_trials_so_far_goes_on_as_one_that_was_never_ended(name):
    space = {name: MIXED[name] for name in ("learning_rate", "weight_decay")}
    whole = asked(search_of(space, search=name, budget=7, seed=5), cost)
    for number, expected in enumerate(whole):
        done = [finished(earlier, one, cost(one)) for earlier, one in enumerate(whole[:number])]
        assert search_of(space, search=name, budget=7, seed=5).ask(done) == expected, number


def test_a_sampler_looks_upwards_where_higher_is_better():
    space = {name: MIXED[name] for name in ("learning_rate", "weight_decay")}
    search = search_of(space, search="gp", budget=24, seed=5, metric="exact_match")
    costs = [cost(one) for one in asked(search, lambda one: -cost(one))]
    assert median(costs[-6:]) < median(costs[:6]) / 2


def test_trials_that_run_are_known_to_the_sampler():
    space = {"learning_rate": MIXED["learning_rate"]}
    search = search_of(space, search="gp", budget=30, seed=2)
    done = [finished(number, one, (math.log10(one["learning_rate"]) + 3) ** 2)
            for number, one in enumerate(asked(search, cost_of_rate, most=10))]  # fmt: skip
    alone = search.ask(done)
    running = [*done, {"number": 10, "parameters": alone, "state": "running"}]
    without = [*done, {"number": 10, "parameters": alone, "state": "failed"}]
    assert search.ask(running) != search.ask(without)


def cost_of_rate(parameters) -> float:
    return (math.log10(parameters["learning_rate"]) + 3) ** 2


def test_a_trial_without_a_finite_score_counts_as_failed():
    search = search_of(MIXED, search="tpe", budget=20)
    done = [finished(number, one, cost(one)) for number, one in enumerate(asked(search, cost, most=8))]
    last = search.ask(done)
    changes = ({"score": None}, {"score": math.nan}, {"score": math.inf}, {"state": "failed"})
    answers = [search.ask([*done, {**finished(8, last), **change}]) for change in changes]
    assert all(one == answers[-1] for one in answers)
    assert answers[-1] != search.ask([*done, finished(8, last, -100.0)])


def test_a_falling_loss_of_a_pruned_trial_is_good_also_where_the_metric_rises():
    search = search_of(MIXED, search="tpe", budget=20, metric="exact_match")
    done = []
    for number in range(8):
        one = search.ask(done)
        done.append({"number": number, "parameters": one, "state": "pruned", "score": None, "curve": [[4, cost(one)]],
                     "curve_metric": "validation loss"})  # fmt: skip
    rising = [{**one, "curve": [[4, -one["curve"][0][1]]], "curve_metric": "exact_match"} for one in done]
    assert search.ask(done) == search.ask(rising)
    assert search.ask(done) != search.ask([{**one, "curve_metric": "exact_match"} for one in done])


def test_corners_have_every_listed_value_and_both_ends_once():
    space = {"learning_rate": MIXED["learning_rate"], "lora_r": [4, 8, 16], "warmup_ratio": MIXED["warmup_ratio"]}
    base = {"learning_rate": 1e-5, "lora_r": 4, "warmup_ratio": 0.0}
    assert search_of(space, search="tpe", budget=3).corners() == [
        base, {**base, "learning_rate": 1e-2}, {**base, "lora_r": 8}, {**base, "lora_r": 16},
        {**base, "warmup_ratio": 0.3},
    ]  # fmt: skip
    listed = [{"lora_r": 4}, {"lora_r": 2}]
    assert search_of(trials=listed).corners() == listed


def test_optuna_prints_nothing_and_its_logging_is_left_as_it_was(capfd):
    logger = logging.getLogger("optuna")
    before = logger.level
    asked(search_of(FEW, search="gp", budget=6))
    assert capfd.readouterr() == ("", "")
    assert logger.level in (before, logging.INFO)  # INFO: set by optuna when it is imported


RATE = {"low": 1e-5, "high": 1e-2, "log": True}


@pytest.mark.parametrize("search", ["tpe", "gp"])
@pytest.mark.parametrize(
    ("space", "parameters", "first"),
    [
        ({"learning_rate": RATE, "lora_r": [4, 8]}, {"learning_rate": "1e-4", "lora_r": 8},
         {"learning_rate": 1e-4, "lora_r": 8}),
        ({"learning_rate": RATE, "optim": ["adamw_torch", "adafactor"]}, {"learning_rate": 1e-4, "optim": "adamw_hf"},
         {"learning_rate": 1e-4, "optim": "adamw_torch"}),
        ({"lora_dropout": {"low": 0.0, "high": 0.5}}, {}, {"lora_dropout": 0.0}),
        ({"eval_steps": {"low": 100, "high": 900, "step": 200}}, {}, {"eval_steps": 500}),
        ({"learning_rate": RATE, "lora_r": [4, 8]}, {"learning_rate": 1.0, "lora_r": 8}, None),
        ({"eval_steps": {"low": 100, "high": 900, "step": 300}}, {}, None),
        ({"lora_r": [4, 8]}, {"lora_r": 64}, None),
    ],
)  # fmt: skip
def test_a_sampler_begins_with_the_values_of_a_single_run_if_the_space_has_them(search, space, parameters, first):
    described = describe("chat_completion", parameters, space, search=search, budget=2)
    asked = Search(described).ask([])
    assert all(described.space[name].has(value) for name, value in asked.items())
    assert asked == first if first else asked != {name: described.configured(name) for name in asked}
    alone = Search(describe("chat_completion", {}, space, search="random", budget=2)).ask([])
    given = Search(describe("chat_completion", parameters, space, search="random", budget=2)).ask([])
    assert alone == given, "random search does not look at them"
