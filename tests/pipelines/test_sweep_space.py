"""What a sweep searches is checked by the pipeline's own parameters, and every problem is told at once."""

import re

import numpy as np
import pytest

from pipelines.catalog import PIPELINES
from pipelines.sweeping.described import Described, describe
from pipelines.sweeping.dimension import Range
from pipelines.sweeping.search import Search
from steps.errors import SecurityRefusal, UserError
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import choices_of, default_of, read_parameters, read_value
from steps.params.sweep import not_varied

TRAINING = [name for name, published in PIPELINES.items() if published.trains]
CHAT = "chat_completion"


def told(pipeline=CHAT, parameters=None, **sweep) -> list[str]:
    with pytest.raises(UserError) as caught:
        describe(pipeline, parameters, **sweep)
    return [str(problem) for problem in caught.value.problems]


def grid(space, pipeline=CHAT):
    search, asked = Search(describe(pipeline, {}, space)), []
    while (one := search.ask([{"number": number} for number in range(len(asked))])) is not None:
        asked.append(one)
    return asked


ONE_PARAMETER = [
    # name, entry, code, where behind space., what is told
    ("learning_rat", [1], "SWEEP-E0104", "learning_rat", "did you mean learning_rate?"),
    ("beta", [0.1], "SWEEP-E0104", "beta", "a parameter of chat_completion"),
    ("overrides", [{"lora_r": 1}], "SWEEP-E0101", "overrides", "list the combinations as trials"),
    ("output_dir", ["a"], "SWEEP-E0103", "output_dir", "the paths of checkpoints and results are fixed"),
    ("tracking_uri", ["a"], "SWEEP-E0102", "tracking_uri", "tracked together"),
    ("lora_r", 8, "SWEEP-E0108", "lora_r", "found one value, 8"),
    ("lora_r", None, "SWEEP-E0108", "lora_r", "no value"),
    ("lora_r", "4, 8", "SWEEP-E0108", "lora_r", "a list such as"),
    ("lora_r", [], "SWEEP-E0112", "lora_r", "an empty list"),
    ("lora_r", {"choices": []}, "SWEEP-E0112", "lora_r.choices", "an empty list"),
    ("lora_r", {"choices": 8}, "SWEEP-E0111", "lora_r.choices", "a list"),
    ("lora_r", {"choices": [8], "low": 4}, "SWEEP-E0110", "lora_r", "choices and low"),
    ("lora_r", {"values": [8]}, "SWEEP-E0109", "lora_r.values", "did you mean choices?"),
    ("lora_r", {"min": 4, "high": 8}, "SWEEP-E0109", "lora_r.min", "did you mean low?"),
    ("lora_r", {"low": 4, "hihg": 8}, "SWEEP-E0109", "lora_r.hihg", "did you mean high?"),
    ("lora_r", {}, "SWEEP-E0116", "lora_r.low", "write low"),
    ("lora_r", {"low": 4}, "SWEEP-E0116", "lora_r.high", "write high"),
    ("lora_r", {"low": 8, "high": 4}, "SWEEP-E0122", "lora_r", "exchange the two"),
    ("lora_r", {"low": 8, "high": 8}, "SWEEP-E0122", "lora_r", "write the value into the parameters"),
    ("lora_r", {"low": True, "high": 8}, "SWEEP-E0117", "lora_r.low", "a number"),
    ("lora_r", {"low": "few", "high": 8}, "PARAM-E0103", "lora_r.low", "a whole number"),
    ("lora_r", {"low": 0.5, "high": 8}, "PARAM-E0103", "lora_r.low", "a whole number"),
    ("lora_r", {"low": 0, "high": 8}, "PARAM-E0103", "lora_r.low", "at least 1"),
    ("lora_r", {"low": 1, "high": 2**31}, "PARAM-E0129", "lora_r.high", "below 2,147,483,648"),
    ("lora_r", {"low": 1, "high": [8]}, "PARAM-E0103", "lora_r.high", "whole number|valid integer"),
    ("lora_r", {"low": 1, "high": 8, "step": 0}, "SWEEP-E0120", "lora_r.step", "above 0"),
    ("lora_r", {"low": 1, "high": 8, "step": -1}, "SWEEP-E0120", "lora_r.step", "above 0"),
    ("lora_r", {"low": 1, "high": 8, "step": "x"}, "SWEEP-E0120", "lora_r.step", "above 0"),
    ("lora_r", {"low": 1, "high": 8, "step": True}, "SWEEP-E0120", "lora_r.step", "above 0"),
    ("lora_r", {"low": 1, "high": 8, "step": float("nan")}, "SWEEP-E0120", "lora_r.step", "above 0"),
    ("lora_r", {"low": 1, "high": 8, "step": float("inf")}, "SWEEP-E0120", "lora_r.step", "above 0"),
    ("lora_r", {"low": 1, "high": 8, "step": 0.5}, "SWEEP-E0121", "lora_r.step", "write step: 1"),
    ("lora_r", {"low": 1, "high": 8, "step": 1.5, "log": True}, "SWEEP-E0121", "lora_r.step", "write step: 2"),
    ("lora_r", {"low": 1, "high": 8, "step": 1, "log": True}, "SWEEP-E0120", "lora_r.step", "a factor above 1"),
    ("lora_r", {"low": 1, "high": 8, "step": 9}, "SWEEP-E0123", "lora_r.step", "make the step smaller"),
    ("lora_r", {"low": 1, "high": 8, "log": "maybe"}, "SWEEP-E0118", "lora_r.log", "true or false"),
    ("lora_r", {"low": 1, "high": 8}, "SWEEP-E0125", "lora_r", "without a step"),
    ("learning_rate", {"low": 1e-5, "high": 1e-3, "log": True}, "SWEEP-E0125", "learning_rate", "step: 10"),
    ("learning_rate", {"low": 1e-5, "high": float("inf")}, "SWEEP-E0105", "learning_rate.high", "NaN or infinity"),
    ("learning_rate", {"low": 1e-9, "high": 1, "step": 1e-9}, "SWEEP-E0124", "learning_rate.step", "1,000,000,000"),
    ("learning_rate", [1e-5, float("nan")], "SWEEP-E0105", "learning_rate[1]", "NaN"),
    ("learning_rate", [1e-5, None], "PARAM-E0103", "learning_rate[1]", "no value"),
    ("learning_rate", [1e-5, {"low": 1}], "PARAM-E0103", "learning_rate[1]", "a number|valid number"),
    ("weight_decay", {"low": 0, "high": 1, "log": True}, "SWEEP-E0119", "weight_decay.low", "no logarithm"),
    ("max_steps", {"low": -1, "high": 1, "log": True}, "SWEEP-E0119", "max_steps.low", "no logarithm"),
    ("warmup_ratio", {"low": 0, "high": 1, "step": 0.5}, "PARAM-E0103", "warmup_ratio.high", "below 1"),
    ("apply_lora", {"low": 0, "high": 1}, "SWEEP-E0115", "apply_lora", "one of true, false"),
    ("apply_lora", [True, "perhaps"], "PARAM-E0103", "apply_lora[1]", "true or false"),
    ("precision", {"low": 16, "high": 32}, "SWEEP-E0115", "precision", "one of 32, 16"),
    ("chat_template", {"low": 1, "high": 2}, "SWEEP-E0115", "chat_template", "no number"),
    ("optim", ["adamw_torch", "adamw_trch"], "PARAM-E0102", "optim[1]", "did you mean adamw_torch"),
    ("model_args", {"attention_dropout": 0.1}, "SWEEP-E0109", "model_args.attention_dropout", "list of the values"),
    ("model_args", [{"attention_dropout": float("nan")}], "SWEEP-E0105", "model_args[0]", "NaN"),
    ("model_args", [0.1], "PARAM-E0103", "model_args[0]", "an object as JSON"),
    ("seed", list(range(10_001)), "SWEEP-E0113", "seed", "10,001 values"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "entry", "code", "where", "words"), ONE_PARAMETER)
def test_a_wrong_entry_is_told_with_its_place(name, entry, code, where, words):
    problems = told(space={name: entry})
    first = next(one for one in problems if one.startswith(f"{code} space.{where}: "))
    assert re.search(words, first), first


@pytest.mark.parametrize(
    ("name", "values", "place"),
    [
        ("lora_r", [4, 8, 4], 2),
        ("weight_decay", [1, 1.0], 1),
        ("weight_decay", [1, "1"], 1),
        ("learning_rate", [1e-5, "0.00001"], 1),
        ("apply_lora", [True, "yes"], 1),
        ("optim", ["adamw_hf", "adamw_torch"], 1),
        ("precision", ["16", "bf16"], 1),
        ("precision", [16, "16"], 1),
        ("lora_target_modules", ["q_proj,v_proj", ["q_proj", "v_proj"]], 1),
        ("model_args", [{"a": 1, "b": 2}, {"b": 2.0, "a": 1}], 1),
    ],
)
def test_a_value_that_comes_twice_in_any_spelling_is_told(name, values, place):
    (problem,) = told(space={name: values})
    assert problem.startswith(f"SWEEP-E0114 space.{name}[{place}]: ")


def test_all_problems_of_a_sweep_are_told_at_once():
    problems = told(
        parameters={"lora_r": 8, "lora_alph": 2},
        space={"lora_r": [4], "learning_rat": [1], "optim": ["x"], "evaluation_strategy": ["no"],
               "eval_strategy": ["no"]},
        search="tpee", metric="exact_mach", pruner="medain", budget="many", max_parallel=0, seed=-1, name="../x",
    )  # fmt: skip
    assert sorted(one.split(" ")[0] for one in problems) == [
        "PARAM-E0101", "PARAM-E0102", "PARAM-E0107", "SWEEP-E0104", "SWEEP-E0141", "SWEEP-E0142",
        "SWEEP-E0146", "SWEEP-E0150", "SWEEP-E0151", "SWEEP-E0152", "SWEEP-E0154",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "parameters",
    [{"evaluation_strategy": "no"}, {"eval_strategy": "epoch"}, {"overrides": {"eval_strategy": "no"}}],
)
def test_the_space_wins_over_the_parameters_under_any_name(parameters):
    for name in ("evaluation_strategy", "eval_strategy"):
        described = describe("chat_completion", parameters, {name: ["steps"]}, pruner="median")
        assert described.of_trial({"evaluation_strategy": "steps"}) == {"evaluation_strategy": "steps"}


@pytest.mark.parametrize("pipeline", TRAINING)
def test_what_all_trials_share_is_refused_with_the_reason(pipeline):
    model = PARAMETER_MODELS[pipeline]
    names = [name for name in model.model_fields if not_varied(name) and name != "overrides"]
    problems = told(pipeline, space={name: [default_of(model.model_fields[name])] for name in names})
    assert [one.split(":")[0] for one in problems] == [f"SWEEP-E0102 space.{name}" for name in names]
    assert all(f"because {not_varied(name)}" in one for name, one in zip(names, problems, strict=True))


@pytest.mark.parametrize("pipeline", TRAINING)
def test_every_other_parameter_can_vary_and_its_values_are_read_the_same_again(pipeline):
    for name, field in PARAMETER_MODELS[pipeline].model_fields.items():
        if not_varied(name):
            continue
        values = list(choices_of(field)) or [default_of(field)]
        if field.annotation is bool:
            values = [True, False]
        if name == "optim":
            values = [value for value in values if value != "adamw_hf"]
        described = describe(pipeline, {}, {name: values})
        for read in described.space[name].points:
            assert read_value(pipeline, name, read) == read, name
        assert Described.from_json(described.as_json()) == described


@pytest.mark.parametrize(
    ("low", "high", "log", "step", "points"),
    [
        (4, 64, True, 2, [4, 8, 16, 32, 64]),
        (4, 60, True, 2, [4, 8, 16, 32]),
        (1, 10, False, 3, [1, 4, 7, 10]),
        (0.0, 1.0, False, 0.1, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        (0.0, 1.0, False, 0.3, [0.0, 0.3, 0.6, 0.9]),
        (0.0, 1.0, False, 1 / 3, [0.0, 1 / 3, pytest.approx(2 / 3), 1.0]),
        (1e-5, 1e-3, True, 10, [1e-5, 1e-4, 1e-3]),
        (1e-5, 1e-4, True, 10**0.5, [1e-5, pytest.approx(3.1622776e-5), 1e-4]),
        (-1.0, 1.0, False, 1, [-1.0, 0.0, 1.0]),
    ],
)
def test_a_step_gives_the_numbers_that_a_person_would_write(low, high, log, step, points):
    found = Range(low, high, log, step)
    assert list(found.points) == points
    assert found.count == len(points)
    assert {type(one) for one in found.points} == {type(low)}


def test_numbers_are_read_as_in_parameter_files_and_from_numpy():
    space = {
        "learning_rate": {"low": "1e-5", "high": "1e-3", "log": "true", "step": "10"},
        "lora_r": np.array([4, 8]),
        "weight_decay": (np.float64(0.1), "0"),
        "seed": range(2),
        "max_steps": {8, 4},
    }
    read = describe(CHAT, {}, space).as_json()["space"]
    assert read == {
        "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True, "step": 10},
        "lora_r": [4, 8],
        "weight_decay": [0.1, 0.0],
        "seed": [0, 1],
        "max_steps": [4, 8],
    }


def test_values_of_a_list_may_be_objects_lists_and_old_words():
    space = {
        "model_args": [{}, {"attention_dropout": 0.1}],
        "lora_target_modules": ["all-linear", ["q_proj", "v_proj"]],
        "precision": [32, "bf16"],
    }
    assert grid(space)[-1] == {
        "model_args": {"attention_dropout": 0.1}, "lora_target_modules": "q_proj,v_proj", "precision": "16",
    }  # fmt: skip


def test_a_grid_of_too_many_trials_is_told_with_the_product():
    (problem,) = told(space={"seed": list(range(200)), "lora_r": list(range(1, 102))})
    assert problem.startswith("SWEEP-E0126 space: found 20,200 combinations (200 × 101); expected at most 10,000")


def test_a_secret_is_refused_as_one_and_not_shown():
    secret = "hf_" + "a1" * 20
    for sweep in (
        {"space": {"huggingface_id": [secret], "lora": [1]}},
        {"trials": [{"huggingface_id": secret}]},
        {"parameters": {"huggingface_id": secret}, "space": {"lora_r": [1]}},
    ):
        with pytest.raises(SecurityRefusal) as caught:
            describe(CHAT, sweep.pop("parameters", {}), **sweep)
        assert secret not in str(caught.value)


@pytest.mark.parametrize(
    ("trials", "start", "words"),
    [
        ([], "SWEEP-E0127 trials: found no trial", "write at least one"),
        ({"lora_r": [4]}, "SWEEP-E0127 trials: ", "name it space"),
        ("lora_r=4", "SWEEP-E0127 trials: ", "a list of trials"),
        ([4], "SWEEP-E0129 trials[0]: found 4", "an object"),
        ([{"lora_r": 4}, None], "SWEEP-E0129 trials[1]: found None", "an object"),
        ([{"lora_r": 4}, ["lora_r"]], "SWEEP-E0129 trials[1]: ", "an object"),
        ([{"lorar": 4}], "SWEEP-E0104 trials[0].lorar: ", "did you mean lora_r"),
        ([{"lora_r": 0}], "PARAM-E0103 trials[0].lora_r: found 0", "at least 1"),
        ([{"lora_r": [4, 8]}], "PARAM-E0103 trials[0].lora_r: ", "integer|whole number"),
        ([{"learning_rate": float("inf")}], "SWEEP-E0105 trials[0].learning_rate: ", "infinity"),
        ([{"checkpoint_dir": "a"}], "SWEEP-E0102 trials[0].checkpoint_dir: ", "what a trial learns"),
        ([{"eval_strategy": "no", "evaluation_strategy": "no"}], "PARAM-E0107 trials[0]: ", "keep one"),
        ([{"overrides": {"lora_r": 4}, "lora_r": 8}], "PARAM-E0107 trials[0]: ", "overrides.lora_r"),
        ([{"overrides": {"lorar": 4}}], "SWEEP-E0104 trials[0].overrides.lorar: ", "did you mean lora_r"),
        ([{"overrides": [4]}], "SWEEP-E0130 trials[0].overrides: ", "an object"),
        ([{"overrides": {"gate_metric": "bleu"}}], "SWEEP-E0102 trials[0].overrides.gate_metric: ", "the gate judges"),
        ([{"lora_r": 4}, {"lora_r": "4"}], "SWEEP-E0131 trials[1]: found trials 0 and 1 ", "equal"),
        ([{"lora_r": 8}, {"lora_alpha": 4}, {}], "SWEEP-E0131 trials[2]: found trials 0 and 2 ", "the default"),
        ([{"lora_r": 8}, {"overrides": {"lora_r": 8.0}}], "SWEEP-E0131 trials[1]: found trials 0 and 1 ", "equal"),
        ([{"seed": n} for n in range(10_001)], "SWEEP-E0128 trials: found 10,001 trials", "at most 10,000"),
    ],
)  # fmt: skip
def test_a_wrong_trial_is_told_with_its_number(trials, start, words):
    (problem,) = told(trials=trials)
    assert problem.startswith(start), problem
    assert re.search(words, problem), problem


def test_a_problem_that_several_trials_share_is_told_once():
    trials = [{"lora_r": number + 1, "lorar": 1} for number in range(8)] + [{"lora_r": 0}]
    first, second = told(trials=trials)
    assert first.endswith("(8 like this; first: 0, 1, 2, 3, 4)")
    assert second.startswith("PARAM-E0103 trials[8].lora_r: ")


def test_a_trial_has_every_parameter_that_differs_and_its_own_value_wins():
    described = describe(
        CHAT, {"eval_strategy": "steps", "overrides": {"lora_alpha": 16}},
        trials=[{"lora_r": 4}, {"evaluation_strategy": "epoch", "lora_alpha": "32"}],
    )  # fmt: skip
    assert described.search == "trials"
    assert described.trials == (
        {"lora_r": 4, "evaluation_strategy": "steps", "lora_alpha": 16},
        {"lora_r": 8, "evaluation_strategy": "epoch", "lora_alpha": 32},
    )
    sources = {"huggingface_id": "a/b", "train_file_path": "t.jsonl"}
    read = read_parameters(CHAT, described.of_trial(described.trials[1]) | sources).parameters
    assert (read.evaluation_strategy, read.lora_alpha, read.lora_r) == ("epoch", 32, 8)


@pytest.mark.parametrize(
    ("sweep", "code", "words"),
    [
        ({}, "SWEEP-E0140", "neither space nor trials"),
        ({"space": {"lora_r": [1]}, "trials": [{}]}, "SWEEP-E0140", "remove one of the two"),
        ({"space": {}}, "SWEEP-E0106", "no parameter"),
        ({"space": "lora_r"}, "SWEEP-E0106", "at least one parameter"),
        ({"space": [{"lora_r": 1}]}, "SWEEP-E0106", "name the list trials"),
        ({"space": {"lora_r": [1]}, "search": "trials"}, "SWEEP-E0148", "write trials"),
        ({"trials": [{}], "search": "tpe", "budget": 3}, "SWEEP-E0147", "give a space"),
        ({"space": {"lora_r": [1]}, "search": "random"}, "SWEEP-E0149", "budget: 20"),
        ({"space": {"lora_r": [1]}, "search": "tpe"}, "SWEEP-E0149", "budget: 20"),
        ({"space": {"lora_r": [1]}, "search": "cmaes", "budget": 3}, "SWEEP-E0146", "needs the package cmaes"),
        ({"space": {"lora_r": [1]}, "search": "CMA-ES", "budget": 3}, "SWEEP-E0146", "needs the package cmaes"),
        ({"space": {"lora_r": [1]}, "search": "bayesian", "budget": 3}, "SWEEP-E0146", "did you mean gp"),
        ({"space": {"lora_r": [1]}, "search": "ramdom", "budget": 3}, "SWEEP-E0146", "did you mean random"),
        ({"space": {"lora_r": [1]}, "budget": 2.5}, "SWEEP-E0150", "a whole number"),
        ({"space": {"lora_r": [1]}, "budget": True}, "SWEEP-E0150", "a whole number"),
        ({"space": {"lora_r": [1]}, "budget": 20_000}, "SWEEP-E0150", "to 10,000"),
        ({"space": {"lora_r": [1]}, "metric": "accuracy"}, "SWEEP-E0151", "one of loss, perplexity"),
        ({"space": {"lora_r": [1]}, "metric": ["loss"]}, "SWEEP-E0151", "one of loss, perplexity"),
        ({"space": {"lora_r": [1]}, "pruner": "asha"}, "SWEEP-E0152", "did you mean successive_halving"),
        ({"space": {"lora_r": [1]}, "pruner": "median", "parameters": {"eval_strategy": "no"}}, "SWEEP-E0153", "epoch"),
        ({"space": {"eval_strategy": ["no", "epoch"]}, "pruner": "median"}, "SWEEP-E0153", "epoch or steps"),
        ({"trials": [{"eval_strategy": "no"}], "pruner": "median"}, "SWEEP-E0153", "epoch or steps"),
        ({"space": {"lora_r": [1]}, "max_parallel": 0}, "SWEEP-E0141", "from 1"),
        ({"space": {"lora_r": [1]}, "seed": 2**32}, "SWEEP-E0142", "from 0"),
        ({"space": {"lora_r": [1]}, "name": ".."}, "SWEEP-E0154", "letters"),
        ({"space": {"lora_r": [1]}, "name": "a/b"}, "SWEEP-E0154", "letters"),
        ({"space": {"lora_r": [1]}, "name": 7}, "SWEEP-E0154", "letters"),
        ({"space": {"lora_r": [1]}, "parameters": ["lora_alpha"]}, "SWEEP-E0144", "by name"),
        ({"space": {"lora_r": [1]}, "parameters": {"overrides": [1]}}, "PARAM-E0106", "by name"),
        ({"space": {"lora_r": [1]}, "parameters": {"lora_alpha": None}}, "PARAM-E0103", "no value"),
        ({"space": {"lora_r": [1]}, "parameters": {"model_args": {"a": float("nan")}}}, "SWEEP-E0145", "NaN"),
        ({"space": {"lora_r": [1]}, "parameters": {"output_dri": 1}}, "PARAM-E0101", "a parameter of"),
        ({"pipeline": "adapter_tools", "space": {"lora_r": [1]}}, "SWEEP-E0143", "trains nothing"),
        ({"pipeline": "chat_completions", "space": {"lora_r": [1]}}, "PARAM-E0100", "did you mean chat_completion"),
        ({"pipeline": None, "space": {"lora_r": [1]}}, "PARAM-E0100", "one of chat_completion"),
    ],
)  # fmt: skip
def test_wrong_options_of_a_sweep_are_told(sweep, code, words):
    (problem,) = told(sweep.pop("pipeline", CHAT), sweep.pop("parameters", None), **sweep)
    assert problem.startswith(code), problem
    assert words in problem


def test_options_are_read_in_any_spelling():
    described = describe(
        "chat-completion", {"gate_metric": "bleu", "output_dir": "x"}, {"lora_r": [1, 2]}, search=" TPE ", budget="20",
        pruner="Successive-Halving", seed=np.int64(3), max_parallel=2.0, name="a.b-1",
    )  # fmt: skip
    assert (described.pipeline, described.search, described.budget) == (CHAT, "tpe", 20)
    assert (described.pruner, described.seed, described.max_parallel) == ("successive_halving", 3, 2)
    assert (described.metric, described.higher_is_better) == ("bleu", True)
    assert not describe(CHAT, {"gate_metric": "bleu"}, {"lora_r": [1]}, metric="loss").higher_is_better
