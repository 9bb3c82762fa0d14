"""The importance of a sweep's parameters: found where it is known, silent, repeatable, empty if uncertain."""

import logging
import math
import random

import optuna
import pytest
from sweep_results import SPACE, drawn, random_sweep, sweep, trial

from steps.sweep.importance import TRIALS_PER_PARAMETER, importance


def scored(rows: list[tuple[dict, float | None]], space: dict | None = None, **changes: object) -> dict:
    names = list(dict.fromkeys(name for parameters, _ in rows for name in parameters))
    trials = [trial(place, parameters, score=score) for place, (parameters, score) in enumerate(rows)]
    return sweep(trials, names, space=space if space is not None else {}, **changes)


def test_the_parameter_that_decides_has_nearly_all():
    rows = [drawn(["learning_rate", "weight_decay"], number) for number in range(24)]
    facts = scored([(row, math.log10(row["learning_rate"])) for row in rows], SPACE)
    shares = importance(facts)
    assert list(shares) == ["learning_rate", "weight_decay"]  # the largest first
    assert shares["learning_rate"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)


def test_two_equal_parameters_share_the_importance():
    places = range(6)
    rows = [({"a": a, "b": b}, float(a + b)) for a in places for b in places]
    shares = importance(scored(rows))
    assert shares["a"] == pytest.approx(0.5, abs=0.1)


def test_listed_numbers_count_by_their_place_not_by_their_distance():
    """With distances, 1e-5 and 1e-4 would share a tenth of the range up to 1e-3, and their difference would vanish."""
    rows = [
        ({"rate": rate, "x": x}, float(place >= 1)) for place, rate in enumerate((1e-5, 1e-4, 1e-3)) for x in (1, 2, 3)
    ]
    assert importance(scored(rows))["rate"] > 0.9


def test_optunas_own_study_gives_the_same():
    names = ["learning_rate", "weight_decay"]
    rows = [(drawn(names, number), random.Random(number).random()) for number in range(12)]
    study = optuna.create_study(direction="maximize")
    distributions = {
        "learning_rate": optuna.distributions.FloatDistribution(1e-5, 1e-3, log=True),
        "weight_decay": optuna.distributions.FloatDistribution(0.0, 0.2),
    }
    for row, score in rows:
        study.add_trial(optuna.trial.create_trial(params=row, distributions=distributions, value=score))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    theirs = optuna.importance.get_param_importances(study, evaluator=evaluator)
    assert importance(scored(rows, SPACE)) == pytest.approx(theirs)


def test_it_is_repeatable_and_silent(capfd, caplog):
    facts = random_sweep(20, ["learning_rate", "lora_r", "optim", "use_rslora"])
    level = optuna.logging.get_verbosity()
    with caplog.at_level(logging.DEBUG):
        assert importance(facts) == importance(facts) != {}
    told = capfd.readouterr()
    assert told.out + told.err + caplog.text == ""
    assert optuna.logging.get_verbosity() == level


def test_the_direction_does_not_matter():
    facts = random_sweep(16, ["learning_rate", "lora_r"])
    assert importance(facts) == importance({**facts, "higher_is_better": False})


@pytest.mark.parametrize("missing", [0, 1])
def test_too_few_finished_trials_give_nothing(missing):
    number = 2 * TRIALS_PER_PARAMETER - missing
    states = {number: "failed", number + 1: "pruned", number + 2: "running"}  # these do not count
    facts = random_sweep(number + 3, ["learning_rate", "lora_r"], states)
    assert bool(importance(facts)) == (not missing)


@pytest.mark.parametrize("change", ["constant", "no score", "not a number", "nothing varies", "no trials", "all equal"])
def test_nothing_to_explain_gives_nothing(change):
    facts = random_sweep(12, ["learning_rate"])
    for entry in facts["trials"]:
        match change:
            case "constant":
                entry["score"] = 0.5
            case "no score":
                entry["score"] = None
            case "not a number":
                entry["score"] = math.nan
            case "all equal":
                entry["parameters"] = {"learning_rate": 1e-4}
    match change:
        case "nothing varies":
            facts["varied"] = []
        case "no trials":
            facts = {"trials": [], "varied": ["learning_rate"]}
    assert importance(facts) == {}


def test_a_parameter_that_some_trials_lack_is_left_out():
    rows = [
        ({"apply_lora": True, "lora_r": number} if number % 2 else {"apply_lora": False}, float(number % 2))
        for number in range(12)
    ]
    assert importance(scored(rows)) == {"apply_lora": 1.0}


@pytest.mark.parametrize(
    "values",
    [
        ["a", "b", "c"],
        [True, False],
        [None, 512],
        [["q_proj"], ["q_proj", "v_proj"]],
        [{"a": 1}, {"a": 2}],
        [1, "1"],
        [True, 1],
        [0, 0.5, "auto"],
        [-1, 0, 2**40],
        [0.1, 0.2],
    ],
    ids=str,
)
@pytest.mark.parametrize("written", ["list", "choices", "none"])
def test_every_kind_of_value(values, written):
    rows = [({"x": values[n % len(values)], "y": n}, float(n % len(values))) for n in range(12)]
    entry = {"choices": values} if written == "choices" else values
    shares = importance(scored(rows, {} if written == "none" else {"x": entry, "y": {"low": 0, "high": 11}}))
    assert shares["x"] > shares["y"]


def test_values_outside_the_space_widen_it():
    rows = [({"x": number, "y": number % 3}, float(number)) for number in range(-4, 8)]
    space = {"x": {"low": 1, "high": 4, "log": True}, "y": [0, 1]}
    assert importance(scored(rows, space))["x"] > 0.5
