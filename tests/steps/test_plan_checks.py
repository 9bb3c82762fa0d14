"""The list of checks: each is listed once, and each works where a look has failed and left nothing to ask."""

import inspect
import pkgutil
from importlib import import_module

import pytest

from steps import adapters, plan
from steps.errors import Problem
from steps.params.pipeline import SupervisedParameters
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import read_parameters
from steps.plan.checks import CHECKS, NOTES
from steps.plan.recipes import recipe_for
from steps.plan.seen import Seen

TRAINING = [name for name, model in PARAMETER_MODELS.items() if issubclass(model, SupervisedParameters)]
GIVEN = {"pytorch_model_path": "model", "train_file_path": "train.jsonl"}


def functions_of(room, ending: str) -> set[str]:
    """Functions of a room that are given what was seen and nothing else."""
    found = set()
    for module in pkgutil.iter_modules(room.__path__):
        for name, function in inspect.getmembers(import_module(f"{room.__name__}.{module.name}"), inspect.isfunction):
            if name.endswith(ending) and list(inspect.signature(function).parameters) == ["seen"]:
                found.add(f"{function.__module__}.{name}")
    return found


@pytest.mark.parametrize(("ending", "listed"), [("_problems", CHECKS), ("_notes", NOTES)])
def test_every_check_and_every_note_is_listed_once(ending, listed):
    names = [f"{function.__module__}.{function.__name__}" for function in listed]
    assert sorted(names) == sorted(functions_of(plan, ending) | functions_of(adapters, ending))


# What suits the method or this machine.
OWN = {
    "preference": {"per_device_train_batch_size": 2},
    "verl_finetune": {"ENGINE": "trl", "rollout_tensor_model_parallel_size": 1},
}


@pytest.mark.parametrize("pipeline", TRAINING)
def test_a_check_says_nothing_of_what_could_not_be_looked_at(pipeline, monkeypatch, tmp_path):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path))
    reading = read_parameters(pipeline, GIVEN | OWN.get(pipeline, {}))
    seen = Seen(reading, recipe_for(reading.parameters, {}))
    problems = [problem for check in CHECKS for problem in check(seen)]
    assert all(isinstance(problem, Problem) for problem in problems)
    assert problems == []
    assert all(isinstance(sentence, str) for note in NOTES for sentence in note(seen))
