"""Inputs of compiled pipelines have the types that people send: what `kfp run create NAME=VALUE` makes of a value."""

import json

import pytest

from pipelines.catalog import PIPELINES
from pipelines.kfp_values import kfp_choices, kfp_type, kfp_value, our_value
from pipelines.plan_function import plan_function
from steps.params.reading import choices_of, default_of


def fields_of(pipeline: str) -> dict:
    return PIPELINES[pipeline].parameters.model_fields


def sent(word: str):
    """Return what kfp's command line sends for a word (kfp/cli/run.py)."""
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word


def spelled(value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def fits(value, kind: type) -> bool:
    """Whether the backend takes a value for an input: whole numbers are numbers, true and false are not."""
    if kind in (int, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_default_and_every_choice_can_be_typed_as_they_are_shown(pipeline):
    for name, field in fields_of(pipeline).items():
        for shown in [kfp_value(field, default_of(field)), *kfp_choices(field)]:
            assert fits(sent(spelled(shown)), kfp_type(field)), (name, shown)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_plan_gets_the_values_of_the_parameter_model(pipeline):
    for name, field in fields_of(pipeline).items():
        for value in [default_of(field), *choices_of(field)]:
            assert our_value(field, kfp_value(field, value)) == value, name
            if kfp_type(field) is int and isinstance(value, str):
                assert our_value(field, float(value)) == value  # KFP's numbers are doubles


def test_numbers_and_switches_have_other_words_in_kfp_only():
    fields = fields_of("chat_completion")
    shown = {name: kfp_choices(fields[name]) for name in ("precision", "deepspeed_stage", "gradient_checkpointing")}
    assert shown == {
        "precision": [32, 16], "deepspeed_stage": [2, 3], "gradient_checkpointing": ["auto", "on", "off"],
    }  # fmt: skip
    assert kfp_choices(fields["packing"]) == [True, False]
    assert kfp_value(fields["resume_from_checkpoint"], "false") == "off"
    assert our_value(fields["resume_from_checkpoint"], "/checkpoints/checkpoint-7") == "/checkpoints/checkpoint-7"


def test_the_plans_task_hands_them_over(monkeypatch):
    seen = {}
    monkeypatch.setattr("steps.running.run_step", lambda name, **given: seen.update(given))
    monkeypatch.setattr("steps.running.listed", lambda *folders: {})
    model = PIPELINES["chat_completion"].parameters
    place = type("Place", (), {"path": "p", "metadata": {}})
    given = {"precision": 16, "resume_from_checkpoint": "on", "learning_rate": 1e-3, "dataset_name": "on"}
    plan_function("chat_completion", model, tuple(given), {"seed": 1})(plan=place, plan_report=place, **given)
    assert seen["arguments"] == {
        "precision": "16", "resume_from_checkpoint": "true", "learning_rate": 1e-3, "dataset_name": "on", "seed": 1,
    }  # fmt: skip
